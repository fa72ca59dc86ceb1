//! A newer route table on its way through a running cluster.

use crate::cluster::*;
use routing::{AddressVersion, MapVersion, NodeId, RouteTable, Settings, ShardId, ShardMap};
use std::time::Duration;
use wire::internal::v1::RoutesRequest;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::shard_service_client::ShardServiceClient;

async fn told(cluster: &Cluster, id: NodeId) -> RouteTable {
    let address = cluster.nodes[&id].address();
    let mut client = ShardServiceClient::connect(format!("http://{address}")).await.unwrap();
    let answer = client.routes(RoutesRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.identity, Some(cluster.identity(id.0)));
    RouteTable::try_from(&answer.routes.unwrap()).expect("it is sound")
}

async fn all_know(cluster: &Cluster, what: &str, knows: impl Fn(&RouteTable) -> bool) {
    let known = async {
        for id in cluster.nodes.keys() {
            while !knows(&told(cluster, *id).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(HANGS, known).await.unwrap_or_else(|_| panic!("not all know {what}"));
}

/// The route table of the cluster file, with the next map: its two shards exchange their slots.
fn exchanged(cluster: &Cluster) -> RouteTable {
    let file = RouteTable::of(&cluster.config);
    let shards = file.map().shards().map(|(shard, replicas)| (shard, replicas.clone()));
    let runs = [(8_192, ShardId(1)), (8_192, ShardId(0))];
    let map = ShardMap::of_runs(MapVersion(2), runs, shards).expect("a map");
    file.with_map(map).expect("the same nodes")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_map_reaches_all_nodes_and_makes_old_routes_stale() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    granted(cluster.ask_leader(acquire("a", 1)).await);
    let old = cluster.route("a");
    let newer = exchanged(&cluster);
    cluster.nodes[&NodeId(2)].take_routes(&newer);
    all_know(&cluster, "the map", |known| known.map() == newer.map()).await;

    for id in [1, 2, 3] {
        let answer = cluster.caller(NodeId(id)).await.ask(old, acquire("a", 2)).await;
        let Some(OpResult::StaleRoute(stale)) = answer else { panic!("node {id}: {answer:?}") };
        assert_eq!(stale.map_version, 2);
    }
    cluster.map = newer.map().clone();
    assert_ne!(cluster.route("a").shard, old.shard);
    granted(cluster.ask_leader(acquire("a", 3)).await);

    // A node that was away learns the map from its peers, because its file has the first one.
    cluster.stop(NodeId(1)).await;
    cluster.restart(NodeId(1)).await;
    all_know(&cluster, "the map again", |known| known.map() == newer.map()).await;
    cluster.nodes[&NodeId(1)].take_routes(&RouteTable::of(&cluster.config));
    assert_eq!(cluster.nodes[&NodeId(1)].routes().map().version(), MapVersion(2));
    cluster.stop_all().await;
}

/// Two nodes that move at one time have each other's old addresses, so the third must tell them.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_moved_find_each_other_by_the_third() {
    let mut cluster = Cluster::start(3, 1, Settings::default()).await;
    granted(cluster.ask_leader(acquire("a", 1)).await);
    cluster.stop(NodeId(1)).await;
    cluster.stop(NodeId(2)).await;
    let file = cluster.config.clone();
    let mut moved = file.clone();
    for id in [1, 2] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        moved.nodes[id - 1].address.clone_from(&address);
        cluster.config = file.clone(); // the node's own file has its own new address only
        cluster.config.nodes[id - 1].address = address;
        cluster.start_node(NodeId(id as u64), Some(listener)).await;
    }
    cluster.config = moved;
    let second_start = AddressVersion { incarnation: 0, starts: 2 };
    all_know(&cluster, "both addresses", |known| {
        known.members().filter(|(node, _)| node.0 < 3).all(|(node, member)| {
            member.address_version == second_start
                && Some(&member.address) == cluster.config.node(node).map(|node| &node.address)
        })
    })
    .await;
    // Without the third node, the two need connections to each other.
    cluster.crash(NodeId(3)).await;
    granted(cluster.ask_leader(acquire("b", 1)).await);
    cluster.stop_all().await;
}
