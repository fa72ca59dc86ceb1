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

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_json_if_asked_and_signals_change_how_much_it_has() {
    let mut cluster = Cluster::start(Spec::default()).await;
    cluster.kill_node(1);
    let began = cluster.node_log(1).len();
    cluster.start_node_with(1, &["--log-format", "json"]);
    cluster.ready().await;
    let log = |cluster: &Cluster| {
        let log = cluster.node_log(1);
        // A log may begin anew with its process.
        lines(log.get(began..).filter(|rest| rest.starts_with('{')).unwrap_or(&log))
    };
    let has = async |what: &str, is_it: &dyn Fn(&Value) -> bool| {
        eventually(what, async || log(&cluster).iter().any(is_it).then_some(())).await;
    };
    has("it says that it serves", &|line| line["message"] == "node serves").await;
    has("it says that it is ready", &|line| line["message"] == "ready").await;
    has("it says who leads", &|line| line["message"] == "leader known").await;
    assert!(log(&cluster).iter().all(|line| line["level"] != "DEBUG"), "only what is asked for");

    cluster.signal_node(1, Signal::SIGUSR1);
    has("the filter of the signal", &|line| line["filter"] == "info,palisade=debug").await;
    cluster.kill_node(2);
    has("a detail", &|line| line["level"] == "DEBUG").await;
    cluster.signal_node(1, Signal::SIGUSR2);
    has("the filter of the start", &|line| line["filter"] == "info").await;
}
