//! The verbs of operators beside drains and replacements: dry runs, a version that has moved, an even
//! spread, a pause, and repairs without a verb.

use crate::cluster_changes::is_founded;
use crate::joining;
use client::AcquireOptions;
use local_cluster::free_addresses;
use palisade_tests::{Cluster, Spec, eventually};
use serde_json::Value;
use std::process::Output;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3_600);

fn spec(nodes: u64, shards: u32) -> Spec {
    Spec { nodes, shards, replicas: 3, ..Spec::default() }
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// The counts of replicas of all nodes that are not removed.
fn replicas(topology: &Value) -> Vec<u64> {
    let nodes = topology["nodes"].as_array().expect("nodes").iter();
    nodes.map(|node| node["replicas"].as_u64().expect("a count")).collect()
}

fn nodes_of(group: &Value, which: &str) -> Vec<u64> {
    group[which].as_array().expect("nodes").iter().filter_map(Value::as_u64).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_shown_paused_resumed_and_refused_at_another_version() {
    let cluster = Cluster::start(spec(3, 4)).await;
    let address = free_addresses(1).expect("a free port").remove(0);
    let _joined = joining::start(&cluster, 4, &address);
    let rebalance = ["cluster", "rebalance", "--members"];
    let shown = eventually("a plan with node 4", async || {
        let shown = cluster.run(&[&rebalance[..], &["--dry-run"]].concat()).await;
        text(&shown).contains("add 4, promote 4").then(|| text(&shown))
    })
    .await;
    assert!(shown.contains("3 of 3") && shown.contains("keeps a quorum"), "{shown}");
    let plan = cluster.run_json(&[&rebalance[..], &["--dry-run"]].concat()).await;
    assert_eq!(plan["is_done"], true, "{plan:#}");
    assert_eq!(plan["shards"][0]["steps"][0]["step"], "add", "{plan:#}");

    let paused = cluster.run(&["cluster", "pause"]).await;
    assert!(text(&paused).contains("jobs and repairs rest"), "{}", text(&paused));
    let version = plan["version"].to_string();
    let moved =
        cluster.run(&[&rebalance[..], &["--at-version", &version, "--detach"]].concat()).await;
    assert_eq!(moved.status.code(), Some(1), "{}", text(&moved));
    assert!(text(&moved).contains("plan again"), "{}", text(&moved));
    let plan = cluster.run_json(&[&rebalance[..], &["--dry-run"]].concat()).await;
    let version = plan["version"].to_string();
    let begun =
        cluster.run(&[&rebalance[..], &["--at-version", &version, "--detach"]].concat()).await;
    assert!(begun.status.success(), "{}", text(&begun));
    for verb in ["topology", "jobs"] {
        let shown = text(&cluster.run(&["cluster", verb]).await);
        assert!(shown.contains("palisade cluster resume"), "{verb}: {shown}");
    }
    let topology = cluster.run_json(&["cluster", "topology"]).await;
    assert_eq!(
        (replicas(&topology), &topology["settings"]["paused"]),
        (vec![4, 4, 4, 0], &true.into())
    );

    let resumed = cluster.run(&["cluster", "resume"]).await;
    assert!(resumed.status.success(), "{}", text(&resumed));
    eventually("the job is done", async || {
        let job = cluster.run_json_of(&["cluster", "jobs", "1"]).await;
        (job["state"] == "done").then_some(())
    })
    .await;
    let topology = cluster.run_json(&["cluster", "topology"]).await;
    assert_eq!(replicas(&topology), [3, 3, 3, 3], "{topology:#}");

    // A node that was drained leads nothing until the leaderships are evened out.
    for verb in [&["cluster", "drain", "2"][..], &["cluster", "undrain", "2"]] {
        let done = cluster.run(verb).await;
        assert!(done.status.success(), "{}", text(&done));
    }
    let even = cluster.run(&["cluster", "rebalance", "--leaders", "--within", "50s"]).await;
    assert!(even.status.success(), "{}", text(&even));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced_without_a_verb_and_a_brake_says_why_not() {
    let mut cluster = Cluster::start(spec(4, 2)).await;
    let client = cluster.client();
    let lock = client.acquire(AcquireOptions::new("kept").ttl(LONG)).await.expect("a free lock");
    is_founded(&cluster).await;
    let short = cluster.run(&["cluster", "repair", "--after", "5s"]).await;
    assert_eq!(short.status.code(), Some(2), "{}", text(&short));
    let set = cluster.run(&["cluster", "repair", "--after", "60s"]).await;
    assert!(text(&set).contains("are replaced"), "{}", text(&set));

    let topology = cluster.run_json(&["cluster", "topology"]).await;
    assert_eq!(topology["settings"]["repair_after_s"], 60, "{topology:#}");
    let dead = *nodes_of(&topology["shards"][0], "voters").last().expect("a voter");
    cluster.kill_node(dead);
    let groups_without = async |which: &str| {
        let topology = cluster.run_json_of(&["cluster", "topology"]).await;
        let shards = topology["shards"].as_array()?.iter().chain([&topology["meta"]]);
        let mut groups = shards.map(|group| nodes_of(group, which));
        groups.all(|nodes| nodes.len() == 3 && !nodes.contains(&dead)).then_some(())
    };
    // A minute of silence passes first, of which `eventually` waits for the end.
    tokio::time::sleep(Duration::from_secs(30)).await;
    eventually("its replicas are wanted elsewhere", async || groups_without("wanted").await).await;
    eventually("they are there", async || groups_without("voters").await).await;
    let jobs = cluster.run_json(&["cluster", "jobs"]).await;
    assert_eq!(jobs.as_array().map(Vec::len), Some(0), "no verb was given: {jobs:#}");
    client.renew("kept", lock.fencing_token).await.expect("the lock is kept");

    // With two of four nodes silent, it is rather the network.
    let second = (1..=4).find(|node| *node != dead).expect("another node");
    cluster.kill_node(second);
    tokio::time::sleep(Duration::from_secs(30)).await;
    eventually("the brake is told", async || {
        let shown = text(&cluster.run(&["cluster", "jobs"]).await);
        shown.contains("2 of 4 nodes are not heard of").then_some(())
    })
    .await;
    let topology = cluster.run_json_of(&["cluster", "topology"]).await;
    let wanted = nodes_of(&topology["shards"][0], "wanted");
    assert!(wanted.contains(&second), "node {second} keeps its place: {topology:#}");
}
