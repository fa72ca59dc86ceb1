//! Changes of the topology by `palisade cluster`: a node is drained and serves again.

use palisade_tests::{Cluster, Spec, eventually};
use std::process::Output;

const SPEC: Spec =
    Spec { nodes: 3, shards: 3, replicas: 3, gateways: 1, settings: None, secured: None };

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

async fn leads(cluster: &Cluster, node: u64) -> u64 {
    let status = cluster.run_json_of(&["cluster", "status"]).await;
    let nodes = status["nodes"].as_array().expect("nodes").iter();
    let of = |row: &&serde_json::Value| row["node"] == node;
    nodes.clone().find(of).expect("the node")["leads"].as_u64().expect("a count")
}

/// Returns once the topology has its nodes. Shards serve earlier.
pub(crate) async fn is_founded(cluster: &Cluster) {
    eventually("the topology is founded", async || {
        let topology = cluster.run_json_of(&["cluster", "topology"]).await;
        (!topology["nodes"].as_array()?.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_leads_nothing_until_it_serves_again() {
    let cluster = Cluster::start(SPEC).await;
    let prefers = |topology: &serde_json::Value, node: u64| {
        let shards = topology["shards"].as_array().expect("shards").iter();
        shards.filter(|shard| shard["preferred_leader"] == node).count()
    };
    let topology = eventually("each node has told what it is", async || {
        let topology = cluster.run_json_of(&["cluster", "topology"]).await;
        let nodes = topology["nodes"].as_array()?;
        nodes.iter().all(|node| node["binary"] == env!("CARGO_PKG_VERSION")).then_some(topology)
    })
    .await;
    assert_eq!(topology["nodes"].as_array().map(Vec::len), Some(3), "{topology:#}");
    assert!(prefers(&topology, 2) > 0, "{topology:#}");

    let drained = cluster.run(&["cluster", "drain", "2", "--within", "60s"]).await;
    let told = text(&drained);
    assert!(drained.status.success() && told.contains("job 1: drain node 2"), "{told}");
    assert!(told.contains("it can be stopped"), "{told}");
    assert_eq!(leads(&cluster, 2).await, 0);
    let topology = cluster.run_json(&["cluster", "topology"]).await;
    assert_eq!(prefers(&topology, 2), 0, "{topology:#}");
    assert_eq!(topology["jobs"][0]["state"], "done", "{topology:#}");
    let nodes = text(&cluster.run(&["cluster", "nodes"]).await);
    assert!(
        nodes.lines().any(|line| line.starts_with("2 ") && line.contains("draining")),
        "{nodes}"
    );

    let again = cluster.run_json(&["cluster", "undrain", "2"]).await;
    assert_eq!((&again["state"], &again["kind"]), (&"done".into(), &"UNDRAIN".into()), "{again:#}");
    let jobs = text(&cluster.run(&["cluster", "jobs"]).await);
    assert!(jobs.contains("drain node 2") && jobs.contains("undrain node 2"), "{jobs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_says_for_what_and_ends_by_a_cancel() {
    let mut cluster = Cluster::start(SPEC).await;
    is_founded(&cluster).await;
    let unknown = cluster.run(&["cluster", "drain", "9"]).await;
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown));
    assert!(text(&unknown).contains("there is no node 9"), "{}", text(&unknown));

    // Without node 3, each shard needs nodes 1 and 2 for its quorum.
    cluster.kill_node(3);
    let job = eventually("a job waits, because node 2 is needed", async || {
        // Before the silence of node 3 is noticed, a drain is done at once. One runs at a time.
        cluster.run(&["cluster", "drain", "2", "--detach"]).await;
        let jobs = cluster.run_json_of(&["cluster", "jobs"]).await;
        let waits = |job: &&serde_json::Value| {
            let why = job["why"].as_str().unwrap_or_default();
            job["state"] == "running" && why.contains("without a quorum, because node 3")
        };
        jobs.as_array()?.iter().find(waits).map(|job| job["job"].to_string())
    })
    .await;
    let busy = cluster.run(&["cluster", "drain", "2", "--within", "1s"]).await;
    assert_eq!(busy.status.code(), Some(2), "{}", text(&busy));
    assert!(text(&busy).contains("is at work on the same"), "{}", text(&busy));
    let cancelled = cluster.run(&["cluster", "cancel", &job]).await;
    assert!(cancelled.status.success(), "{}", text(&cancelled));
    let ended = cluster.run_json(&["cluster", "jobs", &job]).await;
    assert_eq!(ended["state"], "cancelled", "{ended:#}");
    let again = cluster.run(&["cluster", "cancel", &job]).await;
    assert!(again.status.success(), "a second cancel changes nothing: {}", text(&again));

    // It leads nothing nevertheless. A verb that does not wait for ever says what it waits for.
    eventually("node 2 leads nothing", async || (leads(&cluster, 2).await == 0).then_some(()))
        .await;
    let waited = cluster.run(&["cluster", "drain", "2", "--within", "2s"]).await;
    assert_eq!(waited.status.code(), Some(1), "{}", text(&waited));
    let told = text(&waited);
    assert!(told.contains("would leave shard 0 without a quorum, because node 3"), "{told}");
    assert!(told.contains("wait for node 3, or drain another node"), "{told}");
}
