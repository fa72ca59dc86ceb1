//! Runs many seeds on a few threads, each seed in one thread.

use crate::checker::{Invariant, Violation};
use crate::planted::{self, Bug};
use crate::world::{FaultCounts, FaultKind, Report, run};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The seeds of a campaign, and the way to run them.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// The number of seeds.
    pub seeds: u64,
    /// The number of threads that run seeds at once.
    pub threads: usize,
    /// Whether to print a readable trace of each seed on standard output.
    pub prints: bool,
    /// A bug on purpose: see [`planted`].
    pub bug: Option<Bug>,
}

impl Campaign {
    /// Runs the seeds. `each` receives every report as its run ends, in no order. It returns
    /// `false` to stop the campaign.
    pub fn run(&self, each: impl FnMut(Report) -> bool + Send) {
        let next = AtomicU64::new(self.from);
        let stop = AtomicBool::new(false);
        let each = Mutex::new(each);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    planted::choose(self.bug);
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.from + self.seeds || stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let mut report = run_caught(seed, self.prints);
                        // A bug of locks that only META shows would not be caught without META.
                        if self.bug.is_none_or(Bug::is_of_meta) {
                            report.violations.append(&mut report.of_meta);
                        }
                        let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
                        if !each(report) {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    }
}

/// Runs one seed, and reports a panic in a replica as a violation like any other.
pub fn run_caught(seed: u64, prints: bool) -> Report {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            PANICKED.with(|what| *what.borrow_mut() = info.to_string());
        }));
    });
    catch_unwind(AssertUnwindSafe(|| run(seed, prints))).unwrap_or_else(|_| {
        let what = format!("a replica panicked: {}", PANICKED.with(|what| what.borrow().clone()));
        let violations =
            vec![Violation { invariant: Invariant::NoCrash, what, operations: Vec::new() }];
        Report { seed, violations, ..Report::default() }
    })
}

thread_local! {
    static PANICKED: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// The sums over many runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The number of runs.
    pub seeds: u64,
    /// The runs with a violation.
    pub failed_seeds: u64,
    /// The operations that were judged.
    pub operations: u64,
    /// The grants among them that a client was told of.
    pub grants: u64,
    /// The answered checks among them that claimed to be linearizable.
    pub linearizable_checks: u64,
    /// The simulated time in microseconds.
    pub simulated_us: u64,
    /// The number of handled events.
    pub events: u64,
    /// The number of faults by kind.
    pub faults: FaultCounts,
}

impl Totals {
    /// Adds the report of one run.
    pub fn add(&mut self, report: &Report) {
        use crate::checker::{Call, Outcome};
        self.seeds += 1;
        self.failed_seeds += u64::from(!report.violations.is_empty());
        self.operations += report.history.operations.len() as u64;
        for operation in &report.history.operations {
            self.grants += u64::from(matches!(operation.result, Outcome::Granted { .. }));
            let check = operation.call == Call::Check { linearizable: true };
            self.linearizable_checks += u64::from(check && operation.return_us.is_some());
        }
        self.simulated_us += report.simulated_us;
        self.events += report.events;
        self.faults.merge(&report.faults);
    }

    /// The kinds of faults that never happened.
    pub fn silent_faults(&self) -> Vec<FaultKind> {
        FaultKind::ALL.iter().copied().filter(|kind| self.faults.of(*kind) == 0).collect()
    }
}

/// The lowest seed that failed.
pub fn first_failure(failed: &[u64]) -> Option<u64> {
    failed.iter().copied().min()
}
