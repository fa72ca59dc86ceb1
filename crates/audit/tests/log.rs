//! The log as its readers see it.

use palisade_audit::{Audit, Event, Kind, Settings};
use serde_json::Value;
use std::time::Duration;

fn settings(dir: &tempfile::TempDir) -> Settings {
    let file = dir.path().join("audit.log").to_string_lossy().into_owned();
    Settings { file, bytes_max: 1 << 30, age_max: Duration::from_secs(3_600), keep: 3 }
}

fn lines(settings: &Settings) -> Vec<Value> {
    let text = std::fs::read_to_string(&settings.file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn lines_are_written_in_order_and_repeats_are_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir);
    let audit = Audit::start(settings.clone(), "gateway-a", false).unwrap();
    assert!(audit.is_on() && !audit.has_operations());
    let denied = || Event {
        principal: "mallory\n\u{1b}[31m".into(),
        remote: "127.0.0.1:5".into(),
        operation: "acquire",
        name: "x".repeat(10_000),
        why: "no binding".into(),
        ..Event::of(Kind::Denied)
    };
    (0..1_000).for_each(|_| audit.record(denied()));
    audit.record(Event::of(Kind::PolicyChanged));
    drop(audit);
    let lines = lines(&settings);
    let events: Vec<&Value> = lines.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["denied", "policy_changed", "denied"]);
    assert_eq!(lines[0]["process"], "gateway-a");
    assert_eq!(lines[0]["principal"], "mallory\n\u{1b}[31m", "escaped in its line");
    assert!(lines[0]["at"].as_str().unwrap().ends_with('Z'));
    assert!(lines[0]["name"].as_str().unwrap().len() < 600, "a long name is cut");
    assert!(lines[0].get("repeated").is_none() && lines[1].get("principal").is_none());
    assert_eq!(lines[2]["repeated"], 999);
}

#[test]
fn no_caller_waits_and_each_line_is_written_or_counted() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir);
    let audit = Audit::start(settings.clone(), "node-1", true).unwrap();
    let count = 50_000;
    (0..count).for_each(|_| audit.record(Event::of(Kind::Operation)));
    drop(audit);
    let lines = lines(&settings);
    let dropped: u64 = lines.iter().filter_map(|line| line["lines"].as_u64()).sum();
    let written = lines.iter().filter(|line| line["event"] == "operation").count() as u64;
    assert_eq!(written + dropped, count);
}

#[test]
fn a_log_that_is_off_records_nothing_and_one_that_cannot_be_opened_says_so() {
    Audit::off().record(Event::of(Kind::Denied));
    assert!(!Audit::off().is_on() && !Audit::default().has_operations());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().to_string_lossy().into_owned();
    let error = Audit::start(Settings { file: file.clone(), ..settings(&dir) }, "x", false);
    assert!(error.unwrap_err().to_string().contains(&file));
}

/// Regression: a task that did not end kept the log, so that a process exited without its last
/// lines.
#[test]
fn the_end_writes_the_last_lines_while_other_handles_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&dir);
    let audit = Audit::start(settings.clone(), "gateway-a", false).unwrap();
    let kept = audit.clone();
    (0..100).for_each(|_| audit.record(Event::of(Kind::Denied)));
    (0..1_000).for_each(|_| audit.record(Event::of(Kind::Break)));
    audit.end();
    let written = lines(&settings);
    let broken = written.iter().filter(|line| line["event"] == "break").count();
    assert_eq!((broken, written.len()), (1_000, 1_002), "two lines of denials");
    kept.record(Event::of(Kind::Break));
    kept.end();
    assert_eq!(lines(&settings).len(), 1_002, "it has ended");
}
