//! META, the group that keeps the topology of the cluster, beside the shards of locks.

use client::ShardStatus;
use palisade_tests::{Cluster, Spec, eventually};
use routing::META;

const SPEC: Spec =
    Spec { nodes: 3, shards: 2, replicas: 3, gateways: 1, settings: None, secured: None };

/// META's leader, once all its replicas have the same topology.
async fn settled(cluster: &Cluster) -> ShardStatus {
    eventually("META has a leader, and its replicas agree", async || {
        let replicas = cluster.try_status().await?.topology;
        let leader =
            replicas.iter().filter(|one| one.role == "leader").max_by_key(|one| one.term)?;
        let same = |one: &&ShardStatus| {
            (one.shard, one.topology_version, one.state_hash)
                == (META.0, leader.topology_version, leader.state_hash)
        };
        let agree = replicas.iter().filter(same).count();
        // The founding, and what each node has told of itself.
        (agree == 3 && leader.topology_version >= 4).then(|| leader.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topology_is_founded_once_and_outlives_its_leader_and_all_nodes() {
    let mut cluster = Cluster::start(SPEC).await;
    let founded = settled(&cluster).await;
    // A topology that was founded anew would begin with version 1.
    let goes_on = |of: &ShardStatus| assert!(of.topology_version >= founded.topology_version);
    cluster.kill_node(founded.node);
    eventually("another replica leads META", async || {
        let replicas = cluster.try_status().await?.topology;
        let leads = |one: &&ShardStatus| one.role == "leader" && one.node != founded.node;
        replicas.iter().find(leads).map(goes_on)
    })
    .await;
    cluster.start_node(founded.node);
    goes_on(&settled(&cluster).await);

    for id in 1..=3 {
        cluster.kill_node(id);
    }
    cluster.start_all();
    goes_on(&settled(&cluster).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_of_the_topology_stands_beside_the_shards() {
    let cluster = Cluster::start(SPEC).await;
    settled(&cluster).await;
    let status = cluster.run_json(&["cluster", "status"]).await;
    assert_eq!(status["shards"].as_array().map(Vec::len), Some(2), "{status:#}");
    let group = &status["topology"];
    assert!(group["version"].as_u64() >= Some(4) && group["leader"].is_u64(), "{status:#}");
    assert_eq!(group["replicas"].as_array().map(Vec::len), Some(3), "{status:#}");
    let leads: u64 = status["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| node["leads"].as_u64().expect("a count"))
        .sum();
    assert_eq!(leads, 2, "META is no shard of locks: {status:#}");

    let shown = cluster.run(&["cluster", "status"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("\ntopology version ") && shown.contains(", led by node "), "{shown}");
    let metrics = cluster.node_metrics(1);
    assert!(metrics.contains("palisade_raft_is_leader{shard=\"meta\"}"), "{metrics}");
}
