//! The dashboard and the alert rules below `config/observability/`.
//!
//! * Each metric that they name is on the page `docs/reference/metrics.md`.
//! * Each alert has a test, a fault in `scripts/check-monitoring`, and a row in
//!   `docs/operate/monitoring.md`.
//! * `promtool` accepts the rules and their tests. Without it that check is skipped.

use palisade_tests::tools::need;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words of a text that look like our metrics.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("palisade_") || word.starts_with("process_")).collect()
}

#[test]
fn every_metric_of_the_dashboard_and_the_rules_is_in_the_reference() {
    let page = read("docs/reference/metrics.md");
    let known = metrics_in(&page);
    let is_known = |name: &str| {
        let of_histogram =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        known.contains(name) || of_histogram.is_some_and(|name| known.contains(name))
    };
    for file in ["dashboard.json", "alerts.yaml", "alerts.test.yaml"] {
        let text = read(&format!("config/observability/{file}"));
        let named = metrics_in(&text);
        assert!(named.len() > 15, "{file} names metrics: {named:?}");
        let unknown: Vec<&&str> = named.iter().filter(|name| !is_known(name)).collect();
        assert!(unknown.is_empty(), "{file} names what is not in the reference: {unknown:?}");
    }
}

#[test]
fn every_alert_has_a_test_a_fault_and_a_row_for_its_reader() {
    let (rules, tests) =
        (read("config/observability/alerts.yaml"), read("config/observability/alerts.test.yaml"));
    let page = read("docs/operate/monitoring.md");
    let faults = read("scripts/check-monitoring.d/faults.py");
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "alerts were found: {alerts:?}");
    for alert in alerts {
        let tested = tests.matches(&format!("alertname: {alert}")).count();
        assert!(tested >= 1, "{alert} has no test");
        assert!(faults.contains(&format!("\"{alert}\"")), "{alert} has no fault in faults.py");
        assert!(page.contains(&format!("| `{alert}` |")), "{alert} has no row in monitoring.md");
    }
}

#[test]
fn the_dashboard_is_json_with_a_query_in_each_panel() {
    let text = read("config/observability/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "an id stands twice: {panel}");
        let queries = panel["targets"].as_array().map_or(0, Vec::len);
        assert!(panel["type"] == "row" || queries > 0, "{}", panel["title"]);
    }
}

/// The queries of the dashboard, with values for Grafana's variables.
fn queries(dashboard: &serde_json::Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets
        .filter_map(|target| target["expr"].as_str())
        .map(|query| query.replace("$__rate_interval", "5m").replace("$cluster", ".*"))
        .collect()
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_and_the_queries_of_the_dashboard() {
    if let Err(skipped) = need("promtool", "--version") {
        println!("skipped: {}", skipped.0);
        return;
    }
    let dir = root().join("config/observability");
    run(&dir, &["check", "rules", "alerts.yaml"]);
    run(&dir, &["test", "rules", "alerts.test.yaml"]);
    let dashboard = read("config/observability/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let queries = queries(&dashboard);
    assert!(queries.len() > 40, "queries were found: {}", queries.len());
    // A rule for each query, as promtool checks queries in rules alone. JSON is YAML.
    let rule = |(nth, query)| serde_json::json!({ "record": format!("q:{nth}"), "expr": query });
    let rules: Vec<serde_json::Value> = queries.iter().enumerate().map(rule).collect();
    let file = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let temporary = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(temporary.path().join("queries.yaml"), file.to_string()).expect("write");
    run(temporary.path(), &["check", "rules", "queries.yaml"]);
}

fn run(dir: &Path, args: &[&str]) {
    let output = Command::new("promtool").args(args).current_dir(dir).output().expect("promtool");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {said}");
}
