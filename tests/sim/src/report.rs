//! Reports of runs for people and programs: totals, and the details of a failure.

use crate::campaign::Totals;
use crate::world::{FaultKind, Report};
use std::fmt::Write;
use std::time::Duration;

/// The number of violations shown for one run, and of operations shown for each violation.
const VIOLATIONS_SHOWN: usize = 5;
const OPERATIONS_SHOWN: usize = 6;

/// Describes a failed run: the broken invariants, the operations that show them, and the command
/// that replays the run.
pub fn failure(report: &Report) -> String {
    let mut text = String::new();
    let (nodes, shards, clients) = report.shape;
    let _ = writeln!(
        text,
        "\nseed {} FAILED ({nodes} nodes, {shards} shards, {clients} clients):",
        report.seed
    );
    for violation in report.violations.iter().take(VIOLATIONS_SHOWN) {
        let _ = writeln!(text, "  {violation}");
        for &at in violation.operations.iter().take(OPERATIONS_SHOWN) {
            let operation = &report.history.operations[at];
            let returned = operation
                .return_us
                .map_or("never".to_owned(), |us| format!("{:.6}", us as f64 / 1e6));
            let _ = writeln!(
                text,
                "    #{at} client {} {:?} shard {} {:?} from {:.6} to {returned} s: {:?} (tries \
                 {})",
                operation.client,
                operation.name,
                operation.shard,
                operation.call,
                operation.invoke_us as f64 / 1e6,
                operation.result,
                operation.tries
            );
        }
    }
    let more = report.violations.len().saturating_sub(VIOLATIONS_SHOWN);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
    let _ = writeln!(text, "  replay: scripts/sim --seeds 1 --from {} --trace", report.seed);
    text
}

/// Formats the totals for people.
pub fn text(totals: &Totals, elapsed: Duration) -> String {
    let mut text = String::new();
    for kind in FaultKind::ALL {
        let _ = writeln!(text, "{:>12}  {kind}", totals.faults.of(*kind));
    }
    let seconds = elapsed.as_secs_f64();
    let _ = writeln!(
        text,
        "\n{} seeds in {seconds:.1} s ({:.2} seeds/s), {} failed\n{:.1} simulated cluster-hours, {} operations checked ({} grants, \
         {} linearizable checks), {} events; {} names undecided",
        totals.seeds,
        totals.seeds as f64 / seconds,
        totals.failed_seeds,
        totals.simulated_us as f64 / 3.6e9,
        totals.operations,
        totals.grants,
        totals.linearizable_checks,
        totals.events,
        totals.faults.undecided_names,
    );
    text
}

/// Formats the totals for programs, as JSON.
pub fn json(totals: &Totals, elapsed: Duration, silent: &[FaultKind]) -> String {
    let faults: serde_json::Map<String, serde_json::Value> = FaultKind::ALL
        .iter()
        .map(|kind| (kind.to_string(), totals.faults.of(*kind).into()))
        .collect();
    let silent: Vec<String> = silent.iter().map(FaultKind::to_string).collect();
    serde_json::json!({
        "seeds": totals.seeds,
        "failed_seeds": totals.failed_seeds,
        "seconds": elapsed.as_secs_f64(),
        "seeds_per_second": totals.seeds as f64 / elapsed.as_secs_f64(),
        "simulated_hours": totals.simulated_us as f64 / 3.6e9,
        "operations": totals.operations,
        "grants": totals.grants,
        "linearizable_checks": totals.linearizable_checks,
        "undecided_names": totals.faults.undecided_names,
        "events": totals.events,
        "faults": faults,
        "faults_never_fired": silent,
    })
    .to_string()
}
