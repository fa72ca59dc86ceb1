//! The group of the topology is lost for ever, and the topology is built again from what nodes know.

use client::{AcquireOptions, Grant, ShardStatus};
use palisade_tests::{Cluster, Spec, eventually};
use routing::ShardId;
use serde_json::Value;
use std::process::Output;
use std::time::Duration;

/// META begins on the nodes of shard 0, and shard 1 is elsewhere.
const SPEC: Spec =
    Spec { nodes: 7, shards: 2, replicas: 3, gateways: 1, settings: None, secured: None };
const LONG: Duration = Duration::from_secs(3_600);
const REBUILD: [&str; 2] = ["cluster", "rebuild-topology"];

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn members(cluster: &Cluster, shard: u32) -> Vec<u64> {
    let map = cluster.map();
    let mut nodes: Vec<u64> =
        map.replicas(ShardId(shard)).expect("the shard").nodes.iter().map(|node| node.0).collect();
    nodes.sort_unstable();
    nodes
}

fn ids(of: &Value) -> Vec<u64> {
    of.as_array().expect("nodes").iter().filter_map(Value::as_u64).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_topology_is_built_again_and_what_is_left_of_its_group_never_serves_again() {
    let mut cluster = Cluster::start(SPEC).await;
    let (lost, kept) = (members(&cluster, 0), members(&cluster, 1));
    assert!(lost.iter().all(|node| !kept.contains(node)), "{lost:?} and {kept:?}");
    let client = cluster.client();
    let mut locks: Vec<Grant> = Vec::new();
    for shard in [0, 1] {
        let name = cluster.name_on(shard, "kept/");
        let options = AcquireOptions::new(name).ttl(LONG);
        locks.push(client.acquire(options).await.expect("a free lock"));
    }
    eventually("each node has told what it is", async || {
        let topology = cluster.run_json_of(&["cluster", "topology"]).await;
        let nodes = topology["nodes"].as_array()?;
        nodes.iter().all(|node| node["binary"] != "").then_some(())
    })
    .await;
    let early = cluster.run(&REBUILD).await;
    assert_eq!(early.status.code(), Some(2), "{}", text(&early));
    assert!(text(&early).contains("so it is not lost"), "{}", text(&early));

    lost.iter().for_each(|node| cluster.kill_node(*node));
    let silent = eventually("the group of the topology has no leader", async || {
        let refused = text(&cluster.run(&REBUILD).await);
        (!refused.contains("so it is not lost")).then_some(refused)
    })
    .await;
    for node in &lost {
        assert!(silent.contains(&format!("`--lost {node}`")), "{silent}");
    }
    let named = lost.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let with = |more: &[&'static str]| {
        let mut args: Vec<String> = REBUILD.iter().map(ToString::to_string).collect();
        args.extend(["--lost".to_owned(), named.clone()]);
        args.extend(more.iter().map(ToString::to_string));
        args
    };
    let run = async |cluster: &Cluster, args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        cluster.run(&args).await
    };
    let dry = run(&cluster, with(&["--dry-run"])).await;
    assert!(dry.status.success(), "{}", text(&dry));
    assert!(text(&dry).contains("generation 2 of the topology would be founded"), "{}", text(&dry));
    assert!(text(&dry).contains("shard 0: of its voters on"), "{}", text(&dry));
    let built = run(&cluster, with(&["--json"])).await;
    assert!(built.status.success(), "{}", text(&built));
    let built: Value = serde_json::from_slice(&built.stdout).expect("a document");
    assert_eq!((&built["generation"], &built["dry_run"]), (&2.into(), &false.into()), "{built:#}");
    let founders = ids(&built["topology"]["meta"]["wanted"]);
    let version = built["topology"]["version"].as_u64().expect("a version");
    assert!(founders.len() == 3 && founders.iter().all(|node| !lost.contains(node)), "{built:#}");

    // It works: a node is drained, and the lock on the shard that survived has kept its token.
    let node = kept[0].to_string();
    eventually("the new group takes a change", async || {
        let drained = cluster.run(&["cluster", "drain", &node, "--within", "60s"]).await;
        drained.status.success().then_some(())
    })
    .await;
    let renewed = client.renew(&locks[1].resource_name, locks[1].fencing_token).await;
    renewed.expect("the lock is kept");

    // The former group comes back with a majority and its data. It learns that it was given up.
    lost.iter().for_each(|node| cluster.start_node(*node));
    for node in &lost {
        eventually("a node of the former group has learnt of the new one", async || {
            cluster.node_log(*node).contains("the topology was built again").then_some(())
        })
        .await;
    }
    eventually("all replicas of the topology are of the new group", async || {
        let replicas = cluster.try_status().await?.topology;
        let is_new = |one: &ShardStatus| one.topology_version >= version;
        (replicas.len() >= founders.len() && replicas.iter().all(is_new)).then_some(())
    })
    .await;
    eventually("the lock on the shard that came back is kept, too", async || {
        client.renew(&locks[0].resource_name, locks[0].fencing_token).await.ok()
    })
    .await;
    let undrained = cluster.run(&["cluster", "undrain", &node, "--within", "60s"]).await;
    assert!(undrained.status.success(), "{}", text(&undrained));
    // And it stays given up.
    let former = lost[0];
    cluster.kill_node(former);
    cluster.start_node(former);
    eventually("a node of the former group serves again after a start", async || {
        let replicas = cluster.try_status().await?;
        let is_back = replicas.shards.iter().any(|replica| replica.node == former);
        let is_new = |one: &ShardStatus| one.topology_version >= version;
        (is_back && replicas.topology.iter().all(is_new)).then_some(())
    })
    .await;
}

/// Regression: where the lost group had been, the new one began nowhere, so of its three founders two ran.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_had_the_lost_topology_founds_the_next_one() {
    let mut cluster = Cluster::start(Spec { nodes: 5, shards: 1, ..SPEC }).await;
    let had_it = members(&cluster, 0);
    eventually("each node has told what it is", async || {
        let topology = cluster.run_json_of(&["cluster", "topology"]).await;
        let nodes = topology["nodes"].as_array()?;
        nodes.iter().all(|node| node["binary"] != "").then_some(())
    })
    .await;
    let (lost, left) = had_it.split_at(2);
    lost.iter().for_each(|node| cluster.kill_node(*node));
    let named = lost.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let built = eventually("the topology is built again", async || {
        let args = [REBUILD[0], REBUILD[1], "--lost", &named, "--json"];
        let built = cluster.run(&args).await;
        built.status.success().then_some(built.stdout)
    })
    .await;
    let built: Value = serde_json::from_slice(&built).expect("a document");
    let founders = ids(&built["topology"]["meta"]["wanted"]);
    assert!(founders.len() == 3 && founders.contains(&left[0]), "{built:#}");
    // With one of the others down, the one that had the lost group is part of the quorum.
    let other = *founders.iter().find(|node| **node != left[0]).expect("two others");
    eventually("all founders have a replica of the topology", async || {
        (cluster.try_status().await?.topology.len() == 3).then_some(())
    })
    .await;
    cluster.kill_node(other);
    let node = left[0].to_string();
    eventually("the new group takes a change with it", async || {
        let args = ["cluster", "undrain", &node, "--within", "20s"];
        cluster.run(&args).await.status.success().then_some(())
    })
    .await;
}
