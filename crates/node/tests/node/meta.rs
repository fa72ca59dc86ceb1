//! META in a cluster of nodes: the topology is founded once, from the cluster file, and no client
//! reaches it.

use crate::cluster::*;
use palisade_node::{FirstStart, Node, NodeHandle, NodeOptions};
use routing::{META, NodeId, Settings, ShardId};
use shard::Role;
use std::sync::Arc;
use std::time::Duration;
use storage::{Engine, MemoryEngine, ShardWrite};
use topology::{Command, Preference, Proposal, Seed, Topology, Version, Wanted};
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::{CloseSession, ReadStatus, Route};
use wire::v1;

/// The topology that all nodes have, once they have the same one of this version or a later one.
pub async fn agreed(cluster: &Cluster, at_least: Version) -> Topology {
    let agreed = async {
        loop {
            let all: Vec<_> = cluster.nodes.values().map(NodeHandle::applied_topology).collect();
            if all[0].version() >= at_least && all.iter().all(|one| *one == all[0]) {
                return Topology::clone(&all[0]);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, agreed).await.expect("the nodes do not agree on a topology")
}

/// What a topology wants of its shards, without the facts that nodes tell.
pub fn wishes(topology: &Topology) -> Vec<(ShardId, Wanted, Option<Preference>)> {
    let shards = topology.shards().iter();
    shards.map(|(id, shard)| (*id, shard.wanted.clone(), shard.preference)).collect()
}

pub async fn leader_of_meta(cluster: &Cluster) -> NodeId {
    let leads =
        |node: &NodeHandle| node.meta_status().is_some_and(|status| status.role == Role::Leader);
    let found = async {
        loop {
            if let Some((id, _)) = cluster.nodes.iter().find(|(_, node)| leads(node)) {
                return *id;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, found).await.expect("META has no leader")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topology_is_founded_from_the_cluster_file_and_outlives_its_leader_and_all_nodes() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    let founded = agreed(&cluster, Version(1)).await;
    let founded_at_s = founded.shard(META).unwrap().preference.unwrap().at_s;
    let seed = Seed::of(&cluster.config);
    let mut of_file = Topology::default();
    of_file.apply(&Proposal::new(founded_at_s, Command::Bootstrap { seed })).unwrap();
    assert_eq!((wishes(&founded), founded.slots()), (wishes(&of_file), of_file.slots()));

    let leader = leader_of_meta(&cluster).await;
    cluster.crash(leader).await;
    assert_ne!(leader_of_meta(&cluster).await, leader);
    cluster.restart(leader).await;
    assert_eq!(wishes(&agreed(&cluster, founded.version()).await), wishes(&founded));

    for id in [1, 2, 3].map(NodeId) {
        cluster.crash(id).await;
    }
    for id in [1, 2, 3].map(NodeId) {
        cluster.restart(id).await;
    }
    leader_of_meta(&cluster).await;
    assert_eq!(wishes(&agreed(&cluster, founded.version()).await), wishes(&founded));
    granted(cluster.ask_leader(acquire("a", 1)).await);
    cluster.stop_all().await;
}

/// Waits until a metric of a node has this value.
async fn shows(node: &NodeHandle, line: &str) {
    let shown = async {
        while !node.metrics_text().lines().any(|shown| shown == line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, shown).await.unwrap_or_else(|_| panic!("no {line}"));
}

/// Regression: the whole node stopped, or did not start, because of META's replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_replica_of_meta_is_unusable_serves_without_it() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    agreed(&cluster, Version(1)).await;
    let lost = ShardWrite { shard: META, reset: true, ..ShardWrite::default() };
    let hard_state = Some(vec![8, 3]);
    let damaged = ShardWrite { applied: Some(vec![1, 2, 3]), hard_state, ..lost.clone() };
    for write in [lost, damaged] {
        cluster.stop(NodeId(3)).await;
        cluster.engines[&NodeId(3)].write(&[write]).unwrap();
        cluster.restart(NodeId(3)).await;
        let node = &cluster.nodes[&NodeId(3)];
        shows(node, "palisade_topology_failed 1").await;
        shows(node, "palisade_ready 1").await;
        assert_eq!(node.meta_status().unwrap().leader, None);
        // Nobody waits for its answer.
        let mut caller = cluster.caller(NodeId(3)).await;
        let route = Route { shard: META.0, ..cluster.shard_route(0) };
        let answer = caller.ask(route, Op::ReadStatus(ReadStatus {})).await;
        assert!(matches!(answer, Some(OpResult::Error(_))), "{answer:?}");
    }
    shows(&cluster.nodes[&NodeId(1)], "palisade_topology_failed 0").await;
    cluster.crash(NodeId(1)).await;
    granted(cluster.ask_leader(acquire("a", 1)).await);
    cluster.stop_all().await;
}

/// Starts a node on an empty directory, as a replacement of its lost one.
async fn reseed(cluster: &mut Cluster, id: NodeId) {
    let engine = Arc::new(MemoryEngine::new());
    cluster.engines.insert(id, engine.clone());
    let first_start = FirstStart::Reseed { force: true };
    let options = NodeOptions { first_start, ..cluster.options(id, engine) };
    cluster.nodes.insert(id, Node::start(options).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_reseeded_gets_its_vote_in_meta_again() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    let founded = agreed(&cluster, Version(1)).await;
    for id in [2, 3].map(NodeId) {
        cluster.stop(id).await;
        reseed(&mut cluster, id).await;
        let votes = |status: &shard::Status| {
            let is_it = |it: &shard::Member| {
                (it.node, it.incarnation, it.learner) == (id, status.incarnation, false)
            };
            status.incarnation > 0 && status.members.iter().any(is_it) && status.members.len() == 3
        };
        let voted = async {
            while !cluster.nodes[&id].meta_status().is_some_and(|status| votes(&status)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, voted).await.expect("it has no vote");
        shows(&cluster.nodes[&id], "palisade_ready 1").await;
    }
    // The nodes have told of their directories since. Nobody has founded it again.
    assert_eq!(agreed(&cluster, Version(1)).await.cluster(), founded.cluster());
    cluster.stop_all().await;
}

/// Regression: the topology of the former replica was kept. The next one told its first changes
/// once more, and the node panicked.
#[tokio::test(flavor = "multi_thread")]
async fn meta_leaves_a_node_and_comes_back_in_another_life() {
    let cluster = Cluster::start_with(3, 2, Settings::default(), true).await;
    let founded = agreed(&cluster, Version(1)).await;
    let leader = leader_of_meta(&cluster).await;
    let leaves = (1..=3).map(NodeId).find(|id| *id != leader).unwrap();
    let node = &cluster.nodes[&leaves];
    node.unhost(META, 0).await.unwrap();
    assert_eq!((node.applied_topology().version(), node.meta_status()), (Version(0), None));
    let wanted = shard::WantedLife { birth: 100, ..Default::default() };
    node.host(META, wanted).await.unwrap();
    let births = (1..=3).map(|id| (NodeId(id), if leaves.0 == id { 100 } else { 0 }));
    let wanted = shard::Wanted::new(9, births).unwrap();
    // The nodes tell of themselves meanwhile.
    let is_told = |known: &topology::Topology| {
        known.version() >= founded.version() && known.cluster().id == founded.cluster().id
    };
    let back = async {
        while !is_told(&node.applied_topology()) {
            cluster.nodes.values().for_each(|node| node.want(META, wanted.clone()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, back).await.expect("it does not come back");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_status_of_meta_can_be_asked_for() {
    let cluster = Cluster::start(3, 2, Settings::default()).await;
    agreed(&cluster, Version(1)).await;
    let mut caller = cluster.caller(NodeId(1)).await;
    let route = Route { shard: META.0, ..cluster.shard_route(0) };
    let Some(OpResult::Status(status)) = caller.ask(route, Op::ReadStatus(ReadStatus {})).await
    else {
        panic!("no status")
    };
    assert_eq!(ShardId(status.shard), META);
    assert!(status.topology_version >= 1, "{status:?}");
    let session_id = "s".to_owned();
    for op in [Op::List(v1::ListRequest::default()), Op::CloseSession(CloseSession { session_id })]
    {
        let answer = caller.ask(route, op).await;
        assert!(matches!(answer, Some(OpResult::StaleRoute(_))), "{answer:?}");
    }
    let answer = caller.ask(route, acquire("a", 1)).await;
    let is_refused = matches!(answer, Some(OpResult::StaleRoute(_) | OpResult::Error(_)));
    assert!(is_refused, "{answer:?}");
    cluster.stop_all().await;
}
