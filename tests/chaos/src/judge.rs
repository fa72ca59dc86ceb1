//! Turns the records of a round into a verdict.
//!
//! The same checker judges simulations.

use crate::record::{Record, merge};
use palisade_sim::checker::{
    self, Bounds, Call, History, Outcome, Reached, TenureRecord, WatchCounts, WatchRecord,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The number of violations shown for one round, and of operations shown for each violation.
const VIOLATIONS_SHOWN: usize = 5;
const OPERATIONS_SHOWN: usize = 6;

/// The evidence by which a round is judged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// The records of the client processes and the conductor.
    pub records: Vec<Record>,
    /// The records of the watches.
    pub watches: Vec<WatchRecord>,
    /// The entries that each watch must have come to. None if the replicas did not level.
    pub reached: Reached,
    /// The service's history of all names, read at the end.
    pub tenures: Vec<TenureRecord>,
    /// The stretches without faults and changes of leaders, from start to end, in microseconds of
    /// the record's clock.
    pub quiet: Vec<(u64, u64)>,
    /// Whether a node's clock ran at another rate, from half to double. Then fencing must hold, but
    /// wall-clock exclusion need not.
    pub drifted: bool,
}

/// The result of judging one round.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The attempts, answered or not.
    pub operations: usize,
    /// The granted acquires among these attempts.
    pub grants: usize,
    /// The answered linearizable checks among these attempts.
    pub checks: usize,
    /// The attempts that were refused because the token or session was over.
    pub fenced: usize,
    /// How much the watches were told.
    pub watches: WatchCounts,
    /// The number of violations.
    pub violations: usize,
    /// The violations to show, for people.
    pub shown: Vec<String>,
    /// The number of names for which the search was given up.
    pub undecided: usize,
}

/// The time within which a leader notices a due expiry, if no fault prevents it.
const NOTICED_WITHIN_US: u64 = 1_000_000;
/// The grace period of a waiter, as in the cluster file's defaults.
const WAITER_GRACE_US: u64 = 5_000_000;

/// The claim TTL that the SDK requests with each waiting acquire.
const CLAIM_TTL_MS: u32 = 10_000;
/// The fastest and slowest clock of a round with drift.
const DRIFT: (f64, f64) = (2.0, 0.5);

/// Judges a round by invariants 1 to 10, 13 to 15, and 17.
pub fn judge(evidence: &Evidence) -> Verdict {
    let (server_rate_max, server_rate_min) = if evidence.drifted { DRIFT } else { (1.0, 1.0) };
    let bounds = Bounds {
        server_rate_max,
        server_rate_min,
        failover_us: NOTICED_WITHIN_US,
        waiter_grace_us: WAITER_GRACE_US,
        claim_ttl_ms: CLAIM_TTL_MS,
        calm: evidence.quiet.clone(),
    };
    let history = merge(&evidence.records, evidence.tenures.clone(), &evidence.quiet, bounds);
    let mut judged = checker::check(&history);
    let (of_watches, watches) =
        checker::check_watches(&evidence.watches, &history, &evidence.reached);
    judged.violations.extend(of_watches);
    let count = |counts: &dyn Fn(&checker::Operation) -> bool| {
        history.operations.iter().filter(|o| counts(o)).count()
    };
    Verdict {
        operations: history.operations.len(),
        grants: count(&|operation| matches!(operation.result, Outcome::Granted { .. })),
        checks: count(&|operation| {
            matches!(
                (&operation.call, &operation.result),
                (Call::Check { linearizable: true }, Outcome::Holders { .. })
            )
        }),
        fenced: count(&|operation| operation.result == Outcome::Fenced),
        watches,
        undecided: judged.undecided_names.len(),
        violations: judged.violations.len(),
        shown: shown(&history, &judged.violations),
    }
}

/// Formats some violations with the operations that show them, and the rest as counts.
fn shown(history: &History, violations: &[checker::Violation]) -> Vec<String> {
    let mut shown: Vec<String> = Vec::new();
    for violation in violations.iter().take(VIOLATIONS_SHOWN) {
        let mut text = violation.to_string();
        for &at in violation.operations.iter().take(OPERATIONS_SHOWN) {
            let operation = &history.operations[at];
            let returned = operation
                .return_us
                .map_or("never".to_owned(), |us| format!("{:.6}", us as f64 / 1e6));
            let _ = write!(
                text,
                "\n    client {} {:?} shard {} {:?} from {:.6} to {returned} s: {:?}",
                operation.client,
                operation.name,
                operation.shard,
                operation.call,
                operation.invoke_us as f64 / 1e6,
                operation.result
            );
        }
        shown.push(text);
    }
    let mut more: BTreeMap<&str, usize> = BTreeMap::new();
    for violation in violations.iter().skip(VIOLATIONS_SHOWN) {
        *more.entry(violation.invariant.title()).or_default() += 1;
    }
    shown.extend(more.into_iter().map(|(title, count)| format!("{title}: {count} more")));
    shown
}
