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

/// The cluster file has only a node that is gone for good. The others find each other by seeds.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_gateways_find_a_cluster_whose_file_has_none_of_its_nodes_by_seeds() {
    let spec = Spec { nodes: 1, shards: 2, replicas: 1, ..SPEC };
    let mut cluster = Cluster::start(spec).await;
    let client = cluster.client();
    let lock = client.acquire(AcquireOptions::new("kept").ttl(LONG)).await.expect("a free lock");
    let addresses = free_addresses(4).expect("free ports");
    let nodes = async |cluster: &Cluster| {
        let topology = cluster.run_json_of(&["cluster", "topology"]).await;
        let nodes = topology["nodes"].as_array().cloned().unwrap_or_default();
        let known =
            |node: &Value| Some((node["node"].as_u64()?, node["address"].as_str()?.to_owned()));
        nodes.iter().filter_map(known).collect::<Vec<_>>()
    };
    let (dir, config) = (cluster.dir().to_owned(), cluster.config().to_owned());
    let joins = |seed: Option<&str>, nth: usize, more: &[&str]| {
        let mut command = Command::new(palisade_binary());
        command.args(["node", "--address", &addresses[nth], "--join"]).args(seed).args(more);
        command.arg("--data-dir").arg(dir.join(format!("seeded-{}", nth % 2)));
        command.arg("--config").arg(&config);
        Process::spawn(command, &dir.join(format!("seeded-{nth}.log"))).expect("a node")
    };
    // Without an id each gets the lowest one that no node ever had.
    let second = joins(None, 0, &[]);
    eventually("node 2 is one of the cluster", async || {
        nodes(&cluster).await.contains(&(2, addresses[0].clone())).then_some(())
    })
    .await;
    let replaced = cluster.run(&["cluster", "replace-node", "1", "2", "--within", "60s"]).await;
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    cluster.node_ended(1).await;
    let seed = addresses[0].clone();
    let third = joins(Some(&seed), 1, &[]);
    eventually("node 3 is one of the cluster", async || {
        nodes(&cluster).await.contains(&(3, addresses[1].clone())).then_some(())
    })
    .await;
    // A second start takes the id from the directory.
    drop(third);
    let third = joins(Some(&seed), 1, &[]);

    // A gateway that knows the file only.
    cluster.kill_gateway(1);
    cluster.start_gateway_with(1, &["--seed", &seed]);
    eventually("the lock is kept", async || {
        client.renew(&lock.resource_name, lock.fencing_token).await.ok()
    })
    .await;

    // Node 3 loses its directory, and takes a replica once it is re-seeded.
    drop(third);
    std::fs::remove_dir_all(dir.join("seeded-1")).expect("its directory");
    let third = joins(Some(&seed), 1, &["--id", "3", "--reseed", "--force"]);
    let moved = cluster.run(&["cluster", "replicas", "2", "--within", "60s"]).await;
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    assert_eq!(nodes(&cluster).await.len(), 3, "no id was given twice");

    // Both move at once. Regression: neither the file nor a peer told either where the other one was,
    // and only nodes that joined or were re-seeded asked seeds.
    drop((second, third));
    let second = joins(Some(&addresses[3]), 2, &[]);
    let third = joins(Some(&addresses[2]), 3, &["--id", "3"]);
    cluster.kill_gateway(1);
    cluster.start_gateway_with(1, &["--seed", &addresses[2]]);
    eventually("the lock is kept by nodes that moved", async || {
        client.renew(&lock.resource_name, lock.fencing_token).await.ok()
    })
    .await;
    drop((second, third));
}
