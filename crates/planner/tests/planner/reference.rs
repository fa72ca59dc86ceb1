//! Every result that the specification publishes, to the digits that it gives.

use crate::support;
use crate::support::{plan, plan_of, plan_with};
use palisade_planner::{SizeClass, Sizing, SmellTest, Verdict, json, quorum};

/// A figure to one decimal, as the published tables give it.
fn tenth(value: f64) -> String {
    format!("{value:.1}")
}

#[test]
fn worked_solution() {
    let plan = plan("worked-solution");
    let f = &plan.specification.figures;
    assert_eq!(tenth(f.acquire_per_s), "333.3");
    assert_eq!(tenth(f.renew_per_s), "6666.7");
    assert_eq!(tenth(f.release_per_s), "333.3");
    assert_eq!(tenth(f.writes_per_s), "7333.3");
    assert_eq!(tenth(f.writes_per_lock), "22.0");
    assert_eq!(tenth(f.peak_writes_per_s), "22000.0");
    assert_eq!(tenth(f.active_locks), "100000.0");
    assert_eq!(f.active_bytes, 20_000_000);
    assert_eq!(f.history_bytes_per_day, 126_720_000_000, "126.7 GB");
    assert_eq!(f.history_bytes_total, 3_801_600_000_000, "3.8 TB");
    assert_eq!(tenth(f.leader_write_bytes_per_s / 1e6), "7.3");
    assert_eq!(tenth(f.peak_leader_write_bytes_per_s / 1e6), "22.0");
    assert_eq!((f.shards_avg.shards, f.shards_peak.shards, f.shards, f.nodes_total), (1, 3, 3, 15));
    assert_eq!((f.quorum, f.failures_tolerated), (3, 2));
    assert_eq!(tenth(f.renewal_share * 100.0), "90.9");
    assert_eq!(plan.size_class, SizeClass::Medium);
}

#[test]
fn the_published_truncation_is_named() {
    let notes = plan("worked-solution").notes.join("\n");
    for published in ["333.3", "333,", "7,326 writes/s", "99,900 active"] {
        assert!(notes.contains(published), "{published} is not in: {notes}");
    }
}

#[test]
fn e_commerce_checkout() {
    let plan = plan("e-commerce");
    let f = &plan.specification.figures;
    assert_eq!(tenth(f.acquire_per_s), "11.6");
    assert_eq!(tenth(f.peak_acquire_per_s), "34.7");
    assert_eq!(tenth(f.peak_renew_per_s), "69.4");
    assert_eq!(tenth(f.peak_writes_per_s), "138.9");
    assert_eq!(format!("{:.0}", f.peak_active_locks), "4167");
    assert_eq!(f.shards_peak.shards, 1);
    assert_eq!((plan.workload.ttl_s, plan.workload.heartbeat_s), (120.0, 60.0));
}

#[test]
fn distributed_cron() {
    let f = plan("cron").specification.figures;
    assert_eq!(tenth(f.acquire_per_s), "16.7");
    assert_eq!(tenth(f.renew_per_s), "33.3");
    assert_eq!(tenth(f.writes_per_s), "66.7");
    assert_eq!(f.shards_peak.shards, 1);
}

#[test]
fn payments() {
    let f = plan("payments").specification.figures;
    assert_eq!(tenth(f.acquire_per_s), "115.7");
    assert_eq!(tenth(f.peak_acquire_per_s), "578.7");
    assert_eq!(format!("{:.0}", f.peak_renew_per_s), "1157");
    assert_eq!(format!("{:.0}", f.peak_writes_per_s), "2315");
    assert_eq!(f.shards_peak.shards, 1);
}

#[test]
fn small_startup() {
    // ~10 and ~200 have one significant digit each.
    let f = plan("small").specification.figures;
    assert_eq!((tenth(f.acquire_per_s), tenth(f.writes_per_s)), ("10.0".into(), "220.0".into()));
    assert_eq!((f.shards, f.nodes_total), (1, 3));
    // With the usual ten locks per minute it is more, in the same class.
    let usual = plan_of("instances: 100", &[]).expect("a plan");
    let f = &usual.specification.figures;
    assert_eq!((tenth(f.acquire_per_s), tenth(f.writes_per_s)), ("16.7".into(), "366.7".into()));
    assert_eq!((usual.size_class, f.nodes_total), (SizeClass::Small, 3));
}

#[test]
fn medium_saas() {
    let f = plan("medium").specification.figures;
    assert_eq!((f.acquire_per_s as u64, f.writes_per_s as u64), (333, 7_333));
    assert_eq!((f.shards, f.nodes_total), (1, 5));
}

#[test]
fn large_enterprise() {
    let plan = plan("large");
    let f = &plan.specification.figures;
    assert_eq!(format!("{:.0}", f.acquire_per_s), "1667");
    assert_eq!(tenth(f.writes_per_s / 1e3), "36.7");
    assert_eq!((f.shards_avg.shards, f.shards_peak.shards), (4, 11));
    assert_eq!((f.shards, f.nodes_total), (4, 20));
    assert_eq!(plan.size_class, SizeClass::Large);
}

#[test]
fn hyperscale() {
    let plan = plan("hyperscale");
    let f = &plan.specification.figures;
    assert_eq!(format!("{:.0}", f.acquire_per_s), "16667");
    assert_eq!(format!("{:.0}K", f.writes_per_s / 1e3), "367K");
    assert_eq!((f.shards_avg.without_headroom, f.shards_peak.without_headroom), (37, 110));
    assert_eq!((f.shards, f.nodes_total), (40, 200));
    assert_eq!(format!("{:.0}%", f.shards_avg.headroom() * 100.0), "8%");
    let bare = plan_with("hyperscale", &[("headroom", "0")]).specification.figures;
    assert_eq!((bare.shards_avg.shards, bare.shards_peak.shards), (37, 110));
}

#[test]
fn rows_sized_on_the_average_do_not_fit_their_own_peak() {
    for (name, peak_shards) in
        [("medium", "3 shards"), ("large", "11 shards"), ("hyperscale", "120 shards")]
    {
        let column = plan(name).specification;
        assert!(!column.fit.fits, "{name}");
        let capacity = smell(&column.smell_tests, "leader_capacity");
        assert!(capacity.advice.contains(peak_shards), "{name}: {}", capacity.advice);
        assert!(plan_with(name, &[("sizing", "peak")]).specification.fit.fits, "{name}");
    }
}

#[test]
fn quorum_and_tolerance() {
    for (replicas, votes, tolerated) in [(1, 1, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (7, 4, 3)] {
        assert_eq!(quorum(replicas), votes);
        let plan = plan_with(
            "worked-solution",
            &[("replicas", &replicas.to_string()), ("nodes_per_shard", "7")],
        );
        let f = plan.specification.figures;
        assert_eq!((f.quorum, f.failures_tolerated), (votes, tolerated), "{replicas} replicas");
    }
}

#[test]
fn size_classes() {
    for (writes_per_s, class, replicas) in [
        (999.9, SizeClass::Small, 3),
        (1_000.0, SizeClass::Medium, 5),
        (10_000.0, SizeClass::Medium, 5),
        (10_000.1, SizeClass::Large, 5),
    ] {
        assert_eq!(
            (SizeClass::of(writes_per_s), class.replicas()),
            (class, replicas),
            "{writes_per_s}"
        );
    }
}

#[test]
fn latency_in_one_data_centre() {
    let plan = plan("worked-solution");
    let budget = &plan.specification.figures.latency_ms;
    assert_eq!((budget.low, budget.high), (7.0, 12.0));
    assert_eq!(budget.components.iter().map(|part| part.low_ms).sum::<f64>(), budget.low);
    assert_eq!(budget.components.iter().map(|part| part.high_ms).sum::<f64>(), budget.high);
    assert!(plan.specification.fit.fits, "{:?}", plan.specification.fit);
    // The far end of its range is above 10 ms.
    assert_eq!(smell(&plan.specification.smell_tests, "latency").verdict, Verdict::Warn);
}

#[test]
fn across_regions_it_is_not_called_fit() {
    let plan = plan_with("worked-solution", &[("network_rtt", "50ms")]);
    assert_eq!(plan.specification.figures.latency_ms.low, 55.0);
    for column in [&plan.specification, &plan.palisade] {
        assert!(!column.fit.fits);
        assert!(
            column.fit.reasons.iter().any(|reason| reason.contains("cannot be reached")),
            "{:?}",
            column.fit
        );
        assert_eq!(smell(&column.smell_tests, "one_data_centre").verdict, Verdict::Warn);
    }
    assert_eq!(json(&plan, &[])["fit"], "no");
    assert!(
        json(&plan, &[])["fit_reasons"][0].as_str().is_some_and(|reason| reason.contains("10 ms"))
    );
}

#[test]
fn a_target_that_is_reached_only_at_best_is_not_called_fit() {
    let fit = |target: &str| {
        plan_with("worked-solution", &[("target_p99", target)]).specification.fit.fits
    };
    assert_eq!(["6.9ms", "9ms", "9.5ms", "12ms"].map(fit), [false, false, true, true]);
}

#[test]
fn renewals_that_dominate_are_named_and_leases_cure_them() {
    let plan = plan("worked-solution");
    let published = smell(&plan.specification.smell_tests, "heartbeat_dominance");
    assert_eq!(published.verdict, Verdict::Fail, "90.9 % is not below 90 %");
    assert!(published.advice.contains("one lease for many locks"));
    assert_eq!(smell(&plan.palisade.smell_tests, "heartbeat_dominance").verdict, Verdict::Pass);
}

fn smell<'a>(tests: &'a [SmellTest], name: &str) -> &'a SmellTest {
    tests.iter().find(|test| test.name == name).unwrap_or_else(|| panic!("no test {name}"))
}

#[test]
fn little_own_arithmetic_of_the_palisade_column() {
    // 2,000 instances send a heartbeat every 15 s to each shard: 133.3/s. At the peak one shard
    // takes 2,000 other writes: 21.3 %.
    let plan = plan("worked-solution");
    let f = &plan.palisade.figures;
    assert_eq!((f.shards_avg.shards, f.shards_peak.shards), (1, 1));
    assert_eq!(tenth(f.renew_per_s), "133.3");
    assert_eq!(tenth(f.peak_renew_per_s), "133.3");
    assert_eq!(tenth(f.peak_writes_per_s), "2133.3");
    assert_eq!(tenth(f.peak_utilisation * 100.0), "21.3");
    // One record of 200 + 256 bytes per grant.
    assert_eq!(f.history_bytes_per_day, 13_132_800_000);
    // Acquires have 200 + 128 bytes, releases 100 + 128, renewals 128, to five replicas.
    let bytes = (328.0 + 228.0) * 1_000.0 / 3.0 + 128.0 * 400.0 / 3.0;
    assert!((f.leader_write_bytes_per_s - 5.0 * bytes).abs() < 1e-6);
    // The number of checks stays the same.
    assert_eq!(f.reads_per_s, plan.specification.figures.reads_per_s);
    assert_eq!(tenth(f.reads_per_s), "22000.0");
    // At hyperscale there are 100,000 ÷ 15 = 6,667 renewals/s on each of S leaders, and 100,000
    // other writes at the peak in total: 100,000 ÷ S + 6,667 ≤ 10,000 from S = 30 on.
    let hyperscale = plan_with("hyperscale", &[("headroom", "0"), ("sizing", "peak")]).palisade;
    assert_eq!(hyperscale.figures.shards_peak.shards, 30);
    assert!(hyperscale.fit.fits);
}

#[test]
fn growth_until_the_next_shard() {
    // 22,000 of 30,000: 1.36 times the load. At 10 % per month that takes 3.25 months.
    let growth = plan("worked-solution").specification.growth;
    assert_eq!(format!("{:.2}", growth.load_until_next_shard), "1.36");
    assert_eq!(format!("{:.2}", growth.months_until_next_shard.expect("it grows")), "3.25");
    let shards: Vec<u64> = growth.months.iter().map(|month| month.shards_peak).collect();
    assert_eq!(shards, [3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 6, 7, 7]);
    let still = plan_with("worked-solution", &[("growth.per_month", "0")]).specification.growth;
    assert_eq!(still.months_until_next_shard, None);
}

#[test]
fn contention_levels() {
    let outlook = |names: &str| plan_with("worked-solution", &[("resources", names)]).contention;
    // 300,000 locks are held at the peak.
    for (names, rate, level) in
        [("6_000_001", "5.0", "low"), ("3M", "10.0", "medium"), ("1M", "30.0", "high")]
    {
        let contention = outlook(names);
        assert_eq!(tenth(contention.rate.expect("known") * 100.0), rate);
        assert_eq!(contention.level.expect("known").name(), level);
        assert_eq!(
            (contention.resources_for_low, contention.resources_for_high),
            (6_000_000, 1_500_000)
        );
    }
    let too_few = plan_with("worked-solution", &[("resources", "1000")]);
    assert!(!too_few.specification.fit.fits, "more locks than names");
    // One name is granted once in 300 s.
    let hot = plan_with("worked-solution", &[("hottest_share", "1%")]);
    assert_eq!(tenth(hot.contention.hottest_busy.expect("known")), "3000.0");
    assert!(!hot.specification.fit.fits);
}

#[test]
fn every_example_and_exercise_can_be_planned() {
    let dir = support::config_path("workloads");
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("config/workloads/")
        .map(|file| file.expect("file").file_name().into_string().expect("UTF-8"))
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(names.iter().filter(|name| name.starts_with("exercise-")).count(), 5);
    assert_eq!(names.len(), 14, "{names:?}");
    for name in names {
        let plan = plan(&name);
        // Rows that are sized on the average, as published, may not carry their peak.
        let sized_on_average = plan.workload.sizing == Sizing::Average;
        assert!(plan.palisade.fit.fits || sized_on_average, "{name}: {:?}", plan.palisade.fit);
        let at_peak = plan_with(&name, &[("sizing", "peak")]);
        assert!(at_peak.specification.fit.fits && at_peak.palisade.fit.fits, "{name}");
        assert!(
            plan.palisade.figures.shards_peak.shards
                <= plan.specification.figures.shards_peak.shards,
            "{name}"
        );
    }
}
