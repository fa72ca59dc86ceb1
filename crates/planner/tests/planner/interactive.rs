//! The five steps of questions, asked on a pipe.

use crate::support::{parse, workload_text};
use palisade_planner::{InteractiveError, Workload, ask};

/// The questions as shown, and the resulting workload.
fn answered(lines: &[&str]) -> (String, Result<Workload, InteractiveError>) {
    answered_with(&[], lines)
}

fn answered_with(
    given: &[(&str, &str)],
    lines: &[&str],
) -> (String, Result<Workload, InteractiveError>) {
    let given: Vec<(String, String)> =
        given.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut shown = Vec::new();
    let input = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let outcome = ask(&mut input.as_bytes(), &mut shown, &given);
    (String::from_utf8(shown).expect("UTF-8"), outcome)
}

#[test]
fn enter_all_the_way_is_the_worked_solution() {
    // One line more than there are questions. Unread lines do no harm.
    let (shown, outcome) = answered(&[""; 22]);
    let workload = outcome.expect("a workload");
    let worked =
        parse(&workload_text("worked-solution"), &[("name", "workload")]).expect("a workload");
    assert_eq!(
        Workload { assumed: Vec::new(), ..workload },
        Workload { assumed: Vec::new(), ..worked }
    );
    let steps: Vec<_> =
        ["1. Latency", "2. Operations", "3. Cluster", "4. Key metrics", "5. Storage"]
            .iter()
            .map(|title| shown.find(title).unwrap_or_else(|| panic!("{title} is not in {shown}")))
            .collect();
    assert!(steps.is_sorted(), "in the order of LOCKS");
}

#[test]
fn answers_are_used_and_impossible_ones_asked_for_again() {
    let (shown, outcome) = answered(&[
        "0", "20ms", "", // p99, RTT
        "500", "-1", "6", // instances, locks per minute
        "2m", "10ms", "60s", "60s", "20s", "5", "1", // hold, TTL, heartbeat, peak, reads
        "3", "", "20%", "", // cluster
        "", "5%", // key metrics
        "64", "", "", "7", // storage
    ]);
    let workload = outcome.unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(
        (workload.target_p99_ms, workload.instances, workload.acquire_per_s()),
        (20.0, 500, 50.0)
    );
    assert_eq!((workload.hold_s, workload.ttl_s, workload.heartbeat_s), (120.0, 60.0, 20.0));
    assert_eq!((workload.replicas, workload.headroom, workload.growth.per_month), (3, 0.2, 0.05));
    assert_eq!((workload.entry.name_bytes, workload.history_days), (64, 7));
    for complaint in
        ["`target_p99` is 0", "cannot be negative", "100ms to 24h", "every lock would expire"]
    {
        assert!(shown.contains(complaint), "{complaint} is not in {shown}");
    }
}

#[test]
fn a_rate_can_be_given_in_three_ways() {
    for (answers, acquire_per_s) in [
        (&["6"][..], 200.0),
        (&["", "42"], 42.0),
        (&["", "", "864_000"], 10.0),
        (&["", "", ""], 2_000.0 / 6.0),
    ] {
        let mut lines = vec!["", "", ""];
        lines.extend(answers);
        lines.extend([""; 20]);
        let workload = answered(&lines).1.expect("a workload");
        assert_eq!(workload.acquire_per_s(), acquire_per_s, "{answers:?}");
    }
}

#[test]
fn input_that_ends_early_is_an_error_that_names_the_question() {
    let (_, outcome) = answered(&["", ""]);
    assert!(matches!(outcome, Err(InteractiveError::Ended("instances"))), "{outcome:?}");
    let (_, outcome) = answered(&["0"]);
    assert!(matches!(outcome, Err(InteractiveError::Ended("target_p99"))), "{outcome:?}");
}

#[test]
fn given_values_are_not_asked_for() {
    let given = [("events_per_day", "864_000"), ("hold", "2m"), ("history_days", "7")];
    let (shown, outcome) = answered_with(&given, &[""; 16]);
    let workload = outcome.unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(
        (workload.acquire_per_s(), workload.hold_s, workload.history_days),
        (10.0, 120.0, 7)
    );
    for question in ["How long a lock is held", "per minute", "per second", "Days that history"] {
        assert!(!shown.contains(question), "{question} in {shown}");
    }
    let (shown, outcome) = answered_with(&[("hold", "0s")], &[""; 30]);
    assert!(matches!(outcome, Err(InteractiveError::Plan(_))) && shown.is_empty(), "{outcome:?}");
}
