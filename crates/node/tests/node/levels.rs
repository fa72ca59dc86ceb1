//! Levels in a cluster of nodes: a level that all know reaches every group and every directory, and
//! a start finds it there.

use crate::cluster::*;
use crate::control::{propose_to_leader, until_told};
use palisade_node::{NodeError, NodeHandle};
use routing::{NodeId, Settings};
use storage::{Engine, FORMATS};
use topology::{Command, KNOWN_LEVELS, Refusal};
use wire::internal::v1::propose_response::Outcome;

fn activate(level: u32) -> Command {
    Command::ActivateLevel { level }
}

/// Waits until the replicas of all groups, META's included, have reached a level.
async fn reached(cluster: &Cluster, level: u32) {
    let is_reached = |node: &NodeHandle| {
        let mut statuses = node.statuses();
        statuses.extend(node.meta_status());
        statuses.iter().all(|status| status.level == level)
    };
    let all = async {
        while !cluster.nodes.values().all(is_reached) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, all).await.expect("a group does not reach the level")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_that_all_nodes_know_reaches_each_group_and_each_directory() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    let told = until_told(&cluster, &[1, 2, 3]).await;
    assert!(told.nodes().values().all(|node| node.levels == Some(KNOWN_LEVELS)));
    granted(cluster.ask_leader(acquire("orders", 1)).await);
    reached(&cluster, 1).await;
    let (first, last) = FORMATS.into_inner();
    let format = |cluster: &Cluster, id| cluster.engines[&NodeId(id)].raise_format(first).unwrap();
    assert_eq!([1, 2, 3].map(|id| format(&cluster, id)), [first; 3], "until it is active");

    let unknown = propose_to_leader(&cluster, activate(KNOWN_LEVELS.max + 1)).await;
    let Outcome::Refusal(refusal) = unknown else { panic!("{unknown:?}") };
    let refusal = Refusal::decode(&refusal).unwrap().to_string();
    assert!(refusal.starts_with("nodes 1, 2 and 3 have not told of level 3"), "{refusal}");

    propose_to_leader(&cluster, activate(KNOWN_LEVELS.max)).await;
    reached(&cluster, KNOWN_LEVELS.max).await;
    let raised = async {
        while [1, 2, 3].map(|id| format(&cluster, id)) != [last; 3] {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, raised).await.expect("a directory keeps its format");

    for id in [1, 2, 3].map(NodeId) {
        cluster.stop(id).await;
        cluster.restart(id).await;
    }
    reached(&cluster, KNOWN_LEVELS.max).await;
    cluster.assert_replicas_agree().await;
    cluster.stop_all().await;
}

/// A directory of a cluster that has moved on to a level of a later build.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_start_in_a_cluster_of_a_level_that_it_does_not_know() {
    let mut cluster = Cluster::start(3, 1, Settings::default()).await;
    let mut topology = until_told(&cluster, &[1, 2, 3]).await;
    cluster.stop(NodeId(3)).await;
    let level = KNOWN_LEVELS.max + 1;
    for (id, node) in topology.nodes().clone() {
        let told = topology::NodeTold {
            node: id,
            address: node.address,
            zone: node.zone,
            store: node.store.unwrap(),
            start: routing::AddressVersion { starts: node.start.starts + 1, ..node.start },
            levels: topology::Levels { min: 1, max: level },
            binary: node.binary,
        };
        topology.apply(&topology::Proposal::new(1, Command::NodeIs { told })).unwrap();
    }
    topology.apply(&topology::Proposal::new(1, activate(level))).unwrap().unwrap();
    let engine = cluster.engines[&NodeId(3)].clone();
    engine.put_node_records(&[(b"topology".to_vec(), topology.encode())]).unwrap();
    let started = palisade_node::Node::start(cluster.options(NodeId(3), engine)).await;
    let refused = started.err().expect("it starts");
    assert!(matches!(refused, NodeError::Level(_)), "{refused}");
    assert_eq!(
        refused.to_string(),
        "level 3 is active, this build knows 1 to 2: start the newer one"
    );
    cluster.stop_all().await;
}
