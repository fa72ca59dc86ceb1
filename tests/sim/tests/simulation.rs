//! A share of the seeds that `scripts/sim` runs: no violation, every kind of fault, and equal runs
//! for equal seeds.

use palisade_sim::campaign::{Campaign, Totals, run_caught};
use palisade_sim::report;

const SEEDS: u64 = 60;

#[test]
fn a_share_of_seeds_shows_no_violation_and_has_every_fault() {
    let campaign = Campaign { from: 1, seeds: SEEDS, threads: 2, prints: false, bug: None };
    let mut totals = Totals::default();
    let mut failures = String::new();
    campaign.run(|report| {
        totals.add(&report);
        if !report.violations.is_empty() {
            failures += &report::failure(&report);
        }
        true
    });
    assert!(failures.is_empty(), "{failures}");
    assert_eq!(totals.seeds, SEEDS);
    let silent: Vec<String> = totals.silent_faults().iter().map(ToString::to_string).collect();
    assert!(silent.is_empty(), "these faults never happened: {silent:?}");
    assert!(totals.grants > 0 && totals.linearizable_checks > 0, "{totals:?}");
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 1_000..1_010 {
        let (first, second) = (run_caught(seed, false), run_caught(seed, false));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.events, second.events, "seed {seed}");
    }
    assert_ne!(run_caught(1, false).trace_hash, run_caught(2, false).trace_hash);
}
