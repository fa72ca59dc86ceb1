//! Many seeds over a few threads, each seed in one.

use crate::checker::{Invariant, Violation};
use crate::planted::{self, Bug};
use crate::world::{FaultCounts, FaultKind, Report, run};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Which seeds, and how.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// At once.
    pub threads: usize,
    /// A readable trace of each, on standard output.
    pub prints: bool,
    /// A bug on purpose: see [`planted`](crate::planted).
    pub bug: Option<Bug>,
}

impl Campaign {
    /// Runs them. `each` is told of each as it ends, in no order, and says whether to go on.
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
                        let report = run_caught(seed, self.prints);
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

/// A panic in a replica is a finding like any other.
pub fn run_caught(seed: u64, prints: bool) -> Report {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            PANICKED.with(|what| *what.borrow_mut() = info.to_string());
        }));
    });
    catch_unwind(AssertUnwindSafe(|| run(seed, prints))).unwrap_or_else(|_| {
        let what = format!("a replica panicked: {}", PANICKED.with(|what| what.borrow().clone()));
        let violations = vec![Violation { invariant: Invariant::NoCrash, what, operations: Vec::new() }];
        Report { seed, violations, ..Report::default() }
    })
}

thread_local! {
    static PANICKED: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// Of those, with a violation.
    pub failed_seeds: u64,
    /// Judged.
    pub operations: u64,
    /// Of those, grants that a client was told of.
    pub grants: u64,
    /// Of those, checks that claimed to be linearizable and were answered.
    pub linearizable_checks: u64,
    /// Simulated microseconds.
    pub simulated_us: u64,
    /// Handled.
    pub events: u64,
    /// By kind.
    pub faults: FaultCounts,
}

impl Totals {
    /// Adds a run.
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

    /// Kinds of faults that never happened.
    pub fn silent_faults(&self) -> Vec<FaultKind> {
        FaultKind::ALL.iter().copied().filter(|kind| self.faults.of(*kind) == 0).collect()
    }
}

/// The lowest seed that failed.
pub fn first_failure(failed: &[u64]) -> Option<u64> {
    failed.iter().copied().min()
}
