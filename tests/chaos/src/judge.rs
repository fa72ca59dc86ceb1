//! From the records of a round to a verdict, by the same checker that judges simulations.

use crate::record::{Record, merge};
use palisade_sim::checker::{self, Bounds, Call, History, Outcome, TenureRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Violations shown for one round, and operations of each.
const VIOLATIONS_SHOWN: usize = 5;
const OPERATIONS_SHOWN: usize = 6;

/// Everything that a round is judged by.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// Of the client processes and the conductor.
    pub records: Vec<Record>,
    /// The service's history of all names, read at the end.
    pub tenures: Vec<TenureRecord>,
    /// Stretches without faults and changes of leaders, from and to, in microseconds of the record's clock.
    pub quiet: Vec<(u64, u64)>,
    /// A node's clock ran at another rate, half to double: then fencing is what holds, not wall-clock exclusion.
    pub drifted: bool,
}

/// What the judge came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Attempts, answered or not.
    pub operations: usize,
    /// Of these, acquires that were granted.
    pub grants: usize,
    /// Of these, linearizable checks that were answered.
    pub checks: usize,
    /// Of these, refused because the token or session was over.
    pub fenced: usize,
    /// How much does not hold.
    pub violations: usize,
    /// What, for people.
    pub shown: Vec<String>,
    /// Names whose search was given up.
    pub undecided: usize,
}

/// A due expiry is noticed within this time by a leader that nothing keeps from it.
const NOTICED_WITHIN_US: u64 = 1_000_000;
/// As in the cluster file's defaults.
const WAITER_GRACE_US: u64 = 5_000_000;

/// What the SDK asks for with each acquire that waits.
const CLAIM_TTL_MS: u32 = 10_000;
/// The fastest and slowest clock of a round with drift.
const DRIFT: (f64, f64) = (2.0, 0.5);

/// Judges a round by invariants 1 to 10.
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
    let judged = checker::check(&history);
    let count = |counts: &dyn Fn(&checker::Operation) -> bool| history.operations.iter().filter(|o| counts(o)).count();
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
        undecided: judged.undecided_names.len(),
        violations: judged.violations.len(),
        shown: shown(&history, &judged.violations),
    }
}

/// Some with the operations that show them, the rest as counts.
fn shown(history: &History, violations: &[checker::Violation]) -> Vec<String> {
    let mut shown: Vec<String> = Vec::new();
    for violation in violations.iter().take(VIOLATIONS_SHOWN) {
        let mut text = violation.to_string();
        for &at in violation.operations.iter().take(OPERATIONS_SHOWN) {
            let operation = &history.operations[at];
            let returned = operation.return_us.map_or("never".to_owned(), |us| format!("{:.6}", us as f64 / 1e6));
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
