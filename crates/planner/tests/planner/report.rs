//! The reports for people and programs: a golden text, stable keys, a well-formed picture.

use crate::support;
use crate::support::{parse, plan, plan_with, workload_text};
use palisade_planner::{Calibration, Plan, compare, json, svg, text};
use std::path::PathBuf;

/// Compares with the golden text and shows it if it differs, because a changed golden is accepted
/// only with an explanation. `PALISADE_BLESS=1` rewrites it.
fn golden(name: &str, shown: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("PALISADE_BLESS").is_some() {
        std::fs::write(&path, shown).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (at, (left, right)) in golden.lines().zip(shown.lines()).enumerate() {
        assert_eq!(left, right, "{name}, line {}", at + 1);
    }
    assert_eq!(golden, shown, "{name}");
}

#[test]
fn the_worked_solution_as_text() {
    let plan = plan("worked-solution");
    golden("worked-solution.txt", &text(&plan, &compare(&plan).expect("figures that fit")));
}

#[test]
fn the_worked_solution_as_json() {
    let plan = plan("worked-solution");
    let shown = json(&plan, &compare(&plan).expect("figures that fit"));
    golden(
        "worked-solution.json",
        &format!("{}\n", serde_json::to_string_pretty(&shown).expect("JSON")),
    );
}

#[test]
fn the_keys_that_programs_rely_on() {
    let shown = json(&plan("worked-solution"), &[]);
    for key in [
        "acquire_per_s",
        "renew_per_s",
        "release_per_s",
        "writes_per_s",
        "peak_writes_per_s",
        "active_locks",
        "active_bytes",
        "history_bytes_per_day",
        "history_bytes_total",
        "leader_write_bytes_per_s",
        "shards_avg",
        "shards_peak",
        "nodes_total",
        "quorum",
        "failures_tolerated",
        "renewal_share",
    ] {
        assert!(shown[key].is_number(), "{key}: {}", shown[key]);
        assert!(shown["palisade"][key].is_number(), "palisade.{key}: {}", shown["palisade"][key]);
    }
    for side in [&shown, &shown["palisade"]] {
        assert_eq!(side["fit"], "yes");
        assert!(
            side["latency_ms"]["high"].is_number() && side["latency_ms"]["components"].is_array()
        );
    }
    assert_eq!(shown["active_locks"], 100_000.0);
    assert_eq!(shown["writes_per_s"], 7_333.333333);
    // Integers stay integers, however large.
    assert_eq!(shown["history_bytes_total"].to_string(), "3801600000000");
}

#[test]
fn the_same_keys_stand_under_palisade() {
    let shown = json(&plan("hyperscale"), &[]);
    let own = shown["palisade"].as_object().expect("an object");
    let top = shown.as_object().expect("an object");
    let only_top = [
        "name",
        "workload",
        "assumptions",
        "size_class",
        "contention",
        "notes",
        "palisade",
        "calibration",
    ];
    for key in top.keys().filter(|key| !only_top.contains(&key.as_str())) {
        assert!(own.contains_key(key), "{key}");
    }
    assert_eq!(own.len() + only_top.len(), top.len());
}

#[test]
fn an_assumption_is_reported_with_its_value() {
    let plan = support::plan_of("instances: 10\n", &[]).expect("a plan");
    let head: String =
        text(&plan, &[]).lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let head = head.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!plan.workload.assumed.is_empty());
    let shown = json(&plan, &[]);
    for (key, value) in plan.workload.assumptions() {
        assert!(
            head.contains(&format!("{key} {value}")) && !value.is_empty(),
            "{key} is not told: {head}"
        );
        assert_eq!(shown["assumptions"][key], value);
    }
    for told in [
        "hold 5m",
        "growth.per_month 10%",
        "growth.months 12",
        "10,000 writes/s",
        "1,024 B per lock",
    ] {
        assert!(head.contains(told), "{told} is not told: {head}");
    }
}

#[test]
fn this_services_column_comes_first_and_the_published_model_beside_it() {
    let shown = text(&plan("worked-solution"), &[]);
    let first = |word: &str| shown.find(word).unwrap_or_else(|| panic!("{word}"));
    assert!(
        first("build: 1 shard × 5 replicas on 5 nodes, 3 gateways") < first("assumed"),
        "{shown}"
    );
    assert!(first("fit (palisade)") < first("fit (specification)"));
    for line in
        shown.lines().filter(|line| line.contains("palisade") && line.contains("specification  "))
    {
        assert!(line.find("palisade") < line.find("specification"), "{line}");
    }
    assert_eq!(json(&plan("worked-solution"), &[])["shards"], 3, "today's, as published");
}

#[test]
fn three_services_side_by_side() {
    let plan = plan("worked-solution");
    let compared = compare(&plan).expect("figures that fit");
    let shards: Vec<_> = compared
        .iter()
        .map(|c| (c.name, c.figures.shards_avg.shards, c.figures.shards_peak.shards))
        .collect();
    assert_eq!(shards, [("etcd", 1, 3), ("ZooKeeper", 2, 5), ("palisade", 1, 1)]);
    let shown = json(&plan, &compared);
    assert_eq!(shown["compare"].as_array().map(Vec::len), Some(3));
    assert!(json(&plan, &[]).get("compare").is_none());
}

#[test]
fn a_calibration_changes_its_own_column_only() {
    let workload = || parse(&workload_text("large"), &[]).expect("a workload");
    let assumed = Plan::new(workload(), Calibration::default()).expect("a plan");
    let measured = "measured: true\nsource: a laptop\nwrites_per_s_per_leader: 2000\nrenewals_per_s_per_leader: 4000\n\
                    tenure_overhead_bytes: 0\nhistory_stored_ratio: 0.25\nfsync_low_ms: 0.1\nfsync_high_ms: 0.2\n";
    let measured =
        Plan::new(workload(), Calibration::parse(measured).expect("valid")).expect("a plan");
    assert_eq!(measured.specification.figures, assumed.specification.figures);
    let own = &measured.palisade.figures;
    // 3,333 of 2,000/s, and on each leader 667 renewals of 4,000/s: 1.67 ÷ (1 − 0.167) = 2.
    assert_eq!(own.shards_avg.shards, 2);
    assert_eq!(own.history_record_bytes, 50);
    assert!(own.latency_ms.high < assumed.palisade.figures.latency_ms.high);
    let shown = text(&measured, &[]);
    assert!(shown.contains("costs: a laptop") && !shown.contains("not measured"));
    assert!(text(&assumed, &[]).contains("assumed defaults, not measured"));
}

#[test]
fn text_names_the_reasons_why_a_plan_does_not_fit() {
    let shown = text(&plan_with("worked-solution", &[("network_rtt", "50ms")]), &[]);
    assert!(shown.contains("fit (specification): no"), "{shown}");
    assert!(shown.contains("a p99 of 10 ms cannot be reached"), "{shown}");
    let shown = text(&plan("hyperscale"), &[]);
    assert!(shown.contains("left on 40 shards; 37 at 0%"), "{shown}");
    assert!(shown.contains("the peak needs 120 shards"), "{shown}");
}

#[test]
fn text_fits_a_wide_terminal_and_has_no_tails() {
    for name in [
        "worked-solution",
        "hyperscale",
        "payments",
        "exercise-scheduler-leader",
        "exercise-inventory",
    ] {
        let plan = plan(name);
        for line in text(&plan, &compare(&plan).expect("figures that fit")).lines() {
            assert!(line.chars().count() <= 140, "{name}: {line}");
            assert_eq!(line, line.trim_end(), "{name}");
        }
    }
}

#[test]
fn a_picture_is_well_formed_and_inside_its_frame() {
    for (name, flags) in [
        ("worked-solution", &[][..]),
        ("hyperscale", &[("growth.months", "36")]),
        ("e-commerce", &[("growth.per_month", "0"), ("name", "<shop> & sons")]),
    ] {
        let picture = svg(&plan_with(name, flags));
        assert!(picture.starts_with("<svg xmlns=") && picture.ends_with("</svg>\n"));
        assert_eq!(picture.matches("<polyline").count(), 2, "two loads");
        assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
        assert!(!picture.contains("& ") && !picture.contains("<shop>"), "escaped");
        for element in picture.lines().filter(|line| line.starts_with("<polyline")) {
            let points = element.split('"').nth(1).expect("points");
            for point in points.split(' ') {
                let (x, y) = point.split_once(',').expect("x,y");
                let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
                assert!(
                    (90.0..=870.0).contains(&x) && (70.0..=380.0).contains(&y),
                    "{name}: {point}"
                );
            }
        }
    }
    // Both columns outgrow one shard within ten years.
    let decade =
        svg(&plan_with("worked-solution", &[("growth.months", "120"), ("growth.per_month", "3%")]));
    assert_eq!(decade.matches("<circle").count(), 2);
}
