//! META in a cluster of nodes: the topology is founded once, from the cluster file, and no client
//! reaches it.

use crate::cluster::*;
use palisade_node::{Node, NodeHandle};
use routing::{META, NodeId, Settings, ShardId};
use shard::Role;
use std::time::Duration;
use storage::{Engine, ShardWrite};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_meta_says_so_and_does_not_start() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    agreed(&cluster, Version(1)).await;
    cluster.stop(NodeId(3)).await;
    let reset = ShardWrite { shard: META, reset: true, ..ShardWrite::default() };
    cluster.engines[&NodeId(3)].write(&[reset]).unwrap();
    let options = cluster.options(NodeId(3), cluster.engines[&NodeId(3)].clone());
    let refused = Node::start(options).await.err().expect("it must not vote").to_string();
    assert!(refused.contains("topology") && refused.contains("re-seed"), "{refused}");
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
