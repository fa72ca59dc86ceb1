//! The log of a server: its form, and how much of it there is.

use nix::sys::signal::Signal;
use palisade_tests::{Cluster, Spec, eventually};
use serde_json::Value;

/// The lines of a log of JSON, without one that is being written.
fn lines(log: &str) -> Vec<Value> {
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    whole.lines().map(parse).collect()
}

/// Waits for a line of node 1, in its log of JSON after these bytes.
async fn has(cluster: &Cluster, began: usize, what: &str, is_it: impl Fn(&Value) -> bool) {
    let found = async || told(cluster, began).iter().any(&is_it).then_some(());
    eventually(what, found).await;
}

/// The lines of node 1 since its second start. Its log may go on, or begin anew.
fn told(cluster: &Cluster, began: usize) -> Vec<Value> {
    let log = cluster.node_log(1);
    lines(log.get(began..).filter(|rest| rest.starts_with('{')).unwrap_or(&log))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_json_if_asked_and_signals_change_how_much_it_has() {
    let mut cluster = Cluster::start(Spec::default()).await;
    cluster.kill_node(1);
    let began = cluster.node_log(1).len();
    cluster.start_node_with(1, &["--log-format", "json"]);
    cluster.ready().await;
    for message in ["node serves", "ready", "leader known"] {
        has(&cluster, began, message, |line| line["message"] == message).await;
    }
    let lines = told(&cluster, began);
    assert!(lines.iter().all(|line| line["level"] != "DEBUG"), "only what is asked for");

    cluster.signal_node(1, Signal::SIGUSR1);
    let filter = |text: &'static str| move |line: &Value| line["filter"] == text;
    has(&cluster, began, "the filter of the signal", filter("info,palisade=debug")).await;
    // Alone, node 1 finds after an election timeout that no leader is known, whoever led.
    cluster.kill_node(2);
    cluster.kill_node(3);
    has(&cluster, began, "a detail", |line| line["level"] == "DEBUG").await;
    cluster.signal_node(1, Signal::SIGUSR2);
    has(&cluster, began, "the filter of the start", filter("info")).await;
}
