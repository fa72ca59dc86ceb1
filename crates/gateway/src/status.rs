//! The state of all replicas, asked of each once.

use crate::limits::STATUS_TIMEOUT_MS;
use crate::router::Router;
use futures_util::future::{join, join_all};
use routing::{META, ShardId};
use std::collections::BTreeSet;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::internal::v1::{Operation, ReadStatus, Route};
use wire::v1::{ClusterStatusResponse, NodeStatus, ShardStatus};

/// Asks every replica for its state. A replica that does not answer in time is left out, and its
/// node is shown as unreachable.
pub(crate) async fn cluster_status(router: &Router) -> ClusterStatusResponse {
    let replicas = router.directory.replicas();
    let hosts: BTreeSet<u64> = replicas.iter().map(|(_, node)| node.0).collect();
    let asked = replicas.into_iter().map(|(shard, node)| shard_status(router, shard, node.0));
    // The group of the topology is in no map, so every node is asked for its replica.
    let routes = router.known.routes();
    let of_meta = routes.members().map(|(node, _)| shard_status(router, META, node.0));
    let (shards, topology) = join(join_all(asked), join_all(of_meta)).await;
    let shards: Vec<ShardStatus> = shards.into_iter().flatten().collect();
    let answered: BTreeSet<u64> = shards.iter().map(|replica| replica.node).collect();
    let nodes = routes.members().map(|(id, node)| NodeStatus {
        node: id.0,
        address: node.address.clone(),
        zone: node.zone.clone().unwrap_or_default(),
        reachable: answered.contains(&id.0)
            || (!hosts.contains(&id.0) && router.nodes.is_connected(id)),
    });
    ClusterStatusResponse {
        cluster: router.cluster.cluster.clone(),
        map_version: router.directory.version().0,
        nodes: nodes.collect(),
        shards,
        insecure: router.insecure,
        topology: topology.into_iter().flatten().collect(),
    }
}

async fn shard_status(router: &Router, shard: ShardId, node: u64) -> Option<ShardStatus> {
    let map_version = router.directory.version().0;
    let route = Route { shard: shard.0, slot: 0, map_version };
    let operation = Operation::routed(Op::ReadStatus(ReadStatus {}), route);
    match router.nodes.call(node, operation, STATUS_TIMEOUT_MS).await {
        Ok(RoutedAnswer::Status(status)) => Some(*status),
        outcome => {
            tracing::debug!(%shard, node, ?outcome, "no status");
            None
        }
    }
}
