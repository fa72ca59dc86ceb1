//! A node that the cluster file does not name joins a cluster that serves, and takes the place of one
//! that is gone for good.

use client::{AcquireOptions, Grant, ShardStatus};
use local_cluster::free_addresses;
use palisade_tests::{Cluster, Process, Spec, eventually, palisade_binary};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const SPEC: Spec =
    Spec { nodes: 3, shards: 2, replicas: 3, gateways: 1, settings: None, secured: None };
const LONG: Duration = Duration::from_secs(3_600);

/// Starts node `id`, which the cluster file does not name.
pub(crate) fn start(cluster: &Cluster, id: u64, address: &str) -> Process {
    let mut command = Command::new(palisade_binary());
    command.args(["node", "--join", "--id", &id.to_string(), "--address", address]);
    command.arg("--data-dir").arg(cluster.dir().join(format!("joined-{id}")));
    command.arg("--config").arg(cluster.config());
    let log = cluster.dir().join(format!("joined-{id}.log"));
    Process::spawn(command, &log).expect("start a node")
}

fn nodes_of(group: &Value, which: &str) -> Vec<u64> {
    group[which].as_array().expect("nodes").iter().filter_map(Value::as_u64).collect()
}

/// The nodes that answer as replicas of each shard, if all of them have the same state.
async fn replicas(cluster: &Cluster) -> Option<Vec<Vec<u64>>> {
    let status = cluster.try_status().await?;
    let shards = (0..SPEC.shards).map(|shard| {
        let of: Vec<_> = status.shards.iter().filter(|replica| replica.shard == shard).collect();
        let first = of.first()?;
        let same = |replica: &&&ShardStatus| {
            (replica.applied_index, replica.state_hash) == (first.applied_index, first.state_hash)
        };
        let mut nodes: Vec<u64> = of.iter().filter(same).map(|replica| replica.node).collect();
        nodes.sort_unstable();
        (nodes.len() == of.len()).then_some(nodes)
    });
    shards.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_takes_the_place_of_one_that_is_gone_for_good() {
    let mut cluster = Cluster::start(SPEC).await;
    let client = cluster.client();
    let mut locks: Vec<Grant> = Vec::new();
    for number in 0..16 {
        let options = AcquireOptions::new(format!("kept/{number}")).ttl(LONG);
        locks.push(client.acquire(options).await.expect("a free lock"));
    }
    let address = free_addresses(1).expect("a free port").remove(0);
    let joined = start(&cluster, 4, &address);
    eventually("node 4 is one of the cluster", async || {
        let topology = cluster.run_json_of(&["cluster", "topology"]).await;
        let node = topology["nodes"].as_array()?.iter().find(|node| node["node"] == 4)?;
        (node["address"] == address.as_str() && node["binary"] != "").then_some(())
    })
    .await;
    // It has no replica, and nothing has moved.
    assert_eq!(replicas(&cluster).await, Some(vec![vec![1, 2, 3]; 2]));

    cluster.kill_node(3);
    let replaced = cluster.run(&["cluster", "replace-node", "3", "4", "--within", "50s"]).await;
    let told = String::from_utf8_lossy(&replaced.stderr);
    assert!(replaced.status.success(), "{told}");
    let topology = cluster.run_json(&["cluster", "topology"]).await;
    let meta = std::iter::once(&topology["meta"]);
    for group in topology["shards"].as_array().expect("shards").iter().chain(meta) {
        for which in ["wanted", "voters"] {
            assert_eq!(nodes_of(group, which), [1, 2, 4], "{group:#}");
        }
    }
    eventually("nodes 1, 2 and 4 agree", async || {
        (replicas(&cluster).await? == vec![vec![1, 2, 4]; 2]).then_some(())
    })
    .await;

    // The former node is refused, wherever it comes from.
    let (status, log) = cluster.node_that_ends(3, &[]).await;
    assert!(!status.success() && log.contains("node 3 was removed from this cluster"), "{log}");

    // The new one counts: without node 1, it and node 2 are the quorum. It comes back after a kill.
    cluster.kill_node(1);
    drop(joined);
    let _joined = start(&cluster, 4, &address);
    for lock in &locks {
        eventually("a lock from before is kept", async || {
            client.renew(&lock.resource_name, lock.fencing_token).await.ok()
        })
        .await;
    }
    eventually("a free lock is taken", async || {
        client.acquire(AcquireOptions::new("new").ttl(LONG)).await.ok()
    })
    .await;
}
