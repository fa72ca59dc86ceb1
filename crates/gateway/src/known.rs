//! The reports of nodes about their cluster: its route table, and lately the leader of each shard.
//!
//! A cluster file may be older than the cluster. A node that moved tells its peers its new address,
//! so a gateway with the old one learns it from the peers. Each report of an address has a version,
//! and only newer ones are taken. The reports also tell whether all shards have leaders, so that a
//! probe costs no request. No report of a leader counts for long: within seconds it is forgotten or
//! made anew.

use crate::limits::LED_WITHIN;
use routing::{ClusterConfig, NodeId, RouteTable, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use wire::internal::v1::ClusterResponse;

/// The latest reports of all nodes.
#[derive(Debug)]
pub(crate) struct Known {
    inner: Mutex<Inner>,
    /// The nodes of the route table.
    nodes: watch::Sender<BTreeSet<u64>>,
}

#[derive(Debug)]
struct Inner {
    /// The newest of the cluster file and of all reports.
    routes: RouteTable,
    /// By node: its address in the cluster file.
    configured: BTreeMap<u64, String>,
    /// The node that last said that it leads a shard, and when.
    led: BTreeMap<ShardId, (u64, Instant)>,
    /// By node: when its stream was last seen up.
    connected: BTreeMap<NodeId, Instant>,
    /// Nodes that cannot be reached or used, and why.
    lost: BTreeMap<u64, String>,
    /// By node: its map is newer than this gateway's, so its watcher should ask at once.
    newer: BTreeMap<u64, Arc<Notify>>,
}

/// Shards without a leader that could be reached lately.
///
/// * `without` has at least one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotServing {
    pub(crate) without: Vec<ShardId>,
    /// No shard of the cluster has such a leader.
    none_is_led: bool,
    /// For each node that cannot be reached or used, the reason why.
    pub(crate) lost: BTreeMap<u64, String>,
}

impl std::error::Error for NotServing {}

/// One line about the shards.
impl fmt::Display for NotServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.without.as_slice() {
            [shard] => write!(f, "shard {shard} has no leader that can be reached"),
            _ if self.none_is_led => write!(f, "no shard has a leader that can be reached"),
            [first, others @ ..] if others.len() >= 8 => {
                let count = self.without.len();
                write!(
                    f,
                    "{count} shards have no leaders that can be reached, shard {first} among them"
                )
            }
            shards => {
                let names: Vec<String> = shards.iter().map(ShardId::to_string).collect();
                write!(f, "shards {} have no leaders that can be reached", names.join(", "))
            }
        }
    }
}

impl Known {
    pub(crate) fn new(cluster: &ClusterConfig) -> Known {
        let configured =
            cluster.nodes.iter().map(|node| (node.id.0, node.address.clone())).collect();
        let (routes, led, lost) = (RouteTable::of(cluster), BTreeMap::new(), BTreeMap::new());
        let connected = BTreeMap::new();
        let (nodes, newer) = (watch::Sender::new(ids(&routes)), BTreeMap::new());
        let inner = Inner { routes, configured, led, connected, lost, newer };
        Known { inner: Mutex::new(inner), nodes }
    }

    /// The nodes of the route table, as they come and go.
    pub(crate) fn nodes(&self) -> watch::Receiver<BTreeSet<u64>> {
        self.nodes.subscribe()
    }

    /// The route table as this gateway knows it now.
    pub(crate) fn routes(&self) -> RouteTable {
        self.lock().routes.clone()
    }

    /// Takes in the report of a node that was reached. Returns the shards that another node led
    /// before, or none.
    pub(crate) fn said(&self, node: u64, response: &ClusterResponse) -> Vec<ShardId> {
        let mut inner = self.lock();
        inner.lost.remove(&node);
        if inner.routes.address(NodeId(node)).is_none() {
            return Vec::new(); // it has left the cluster since it was asked
        }
        for other in &response.nodes {
            let (id, version) = (NodeId(other.node), other.address_version());
            if let Some(newer) = inner.routes.with_address(id, &other.address, version) {
                inner.routes = newer;
            }
        }
        let (now, mut news) = (Instant::now(), Vec::new());
        for hosted in response.shards.iter().filter(|hosted| hosted.leads) {
            let before = inner.led.insert(ShardId(hosted.shard), (node, now));
            if before.is_none_or(|(before, _)| before != node) {
                news.push(ShardId(hosted.shard));
            }
        }
        news
    }

    pub(crate) fn lost(&self, node: u64, why: String) {
        let mut inner = self.lock();
        if inner.routes.address(NodeId(node)).is_some() {
            inner.lost.insert(node, why);
        }
    }

    /// Notes that this node has a newer map.
    pub(crate) fn stale_by(&self, node: u64) {
        self.newer(node).notify_one();
    }

    /// Returns once this node is known to have a newer map.
    pub(crate) async fn is_stale_by(&self, node: u64) {
        self.newer(node).notified().await;
    }

    fn newer(&self, node: u64) -> Arc<Notify> {
        self.lock().newer.entry(node).or_default().clone()
    }

    /// Takes the newer parts of a node's route table. Returns what is known now, if the map is of a
    /// later edition than before. What is known of nodes that it does not have is forgotten.
    pub(crate) fn take(&self, news: &RouteTable) -> Option<RouteTable> {
        let mut inner = self.lock();
        let former = inner.routes.map().edition();
        inner.routes = inner.routes.merged(news)?;
        if inner.routes.map().edition() == former {
            return None;
        }
        let (routes, nodes) = (inner.routes.clone(), ids(&inner.routes));
        inner.connected.retain(|node, _| nodes.contains(&node.0));
        inner.lost.retain(|node, _| nodes.contains(node));
        inner.led.retain(|_, (node, _)| nodes.contains(node));
        inner.newer.retain(|node, _| nodes.contains(node));
        self.nodes.send_if_modified(|known| {
            let differ = *known != nodes;
            *known = nodes;
            differ
        });
        Some(routes)
    }

    /// The addresses where a node may be found, the likeliest first: the one that the node
    /// announced last, as far as this gateway has heard, then the one in the cluster file.
    pub(crate) fn addresses(&self, node: u64) -> Vec<String> {
        let inner = self.lock();
        let mut addresses = Vec::new();
        addresses.extend(inner.routes.address(NodeId(node)).map(ToOwned::to_owned));
        addresses.extend(inner.configured.get(&node).cloned());
        addresses.dedup();
        addresses
    }

    /// A node's address in the cluster file.
    pub(crate) fn configured(&self, node: NodeId) -> String {
        self.lock().configured.get(&node.0).cloned().unwrap_or_default()
    }

    /// Whether locks can be served: every shard has a leader that was heard of lately. The leader's
    /// stream must be up by `is_connected`, or must have been up at a look within `down_for_max`.
    /// So a stream that reconnects need not count.
    ///
    /// # Errors
    /// [`NotServing`], with the shards without a leader.
    pub(crate) fn serving(
        &self,
        shards: &[ShardId],
        is_connected: impl Fn(NodeId) -> bool,
        down_for_max: Duration,
    ) -> Result<(), NotServing> {
        let mut inner = self.lock();
        let Inner { led, connected, .. } = &mut *inner;
        let now = Instant::now();
        let mut is_up = |node: NodeId| {
            if is_connected(node) {
                connected.insert(node, now);
                return true;
            }
            connected.get(&node).is_some_and(|at| now.duration_since(*at) < down_for_max)
        };
        let mut is_led = |shard: &ShardId| {
            let led = led.get(shard);
            led.is_some_and(|(node, at)| at.elapsed() < LED_WITHIN && is_up(NodeId(*node)))
        };
        let without: Vec<ShardId> = shards.iter().copied().filter(|shard| !is_led(shard)).collect();
        if without.is_empty() {
            return Ok(());
        }
        let lost = inner.lost.clone();
        Err(NotServing { none_is_led: without.len() == shards.len(), without, lost })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ids(routes: &RouteTable) -> BTreeSet<u64> {
    routes.members().map(|(node, _)| node.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::internal::v1::{HostedShard, Member};

    /// A report with addresses by node and start.
    fn response(addresses: &[(u64, u64, &str)], leads: &[u32]) -> ClusterResponse {
        let member = |(node, starts, address): &(u64, u64, &str)| Member {
            node: *node,
            starts: *starts,
            address: (*address).to_owned(),
            ..Default::default()
        };
        let hosted = |shard: &u32| HostedShard { shard: *shard, leads: true, ..Default::default() };
        let (nodes, shards) =
            (addresses.iter().map(member).collect(), leads.iter().map(hosted).collect());
        ClusterResponse { nodes, shards, ..Default::default() }
    }

    #[test]
    fn a_node_that_moved_is_looked_for_where_it_announced_itself_last() {
        let known = Known::new(&ClusterConfig::dev(1, 3, 20_000).unwrap());
        let configured = known.configured(NodeId(2));
        assert_eq!(known.addresses(2), std::slice::from_ref(&configured));
        known.said(1, &response(&[(2, 0, "file.of.node.1:1"), (9, 1, "nobody:1")], &[]));
        assert_eq!(known.addresses(2), std::slice::from_ref(&configured));
        known.said(1, &response(&[(2, 5, "moved:1")], &[]));
        known.said(3, &response(&[(2, 4, "before:1")], &[]));
        assert_eq!(known.addresses(2), ["moved:1", configured.as_str()]);
        assert!(known.addresses(9).is_empty());
    }

    #[test]
    fn a_route_table_is_taken_if_it_is_newer() {
        let cluster = ClusterConfig::dev(2, 3, 20_000).unwrap();
        let (known, file) = (Known::new(&cluster), RouteTable::of(&cluster));
        let shards = || file.map().shards().map(|(shard, replicas)| (shard, replicas.clone()));
        let runs = [(8_192, ShardId(1)), (8_192, ShardId(0))];
        let map = routing::ShardMap::of_runs(routing::MapVersion(2), runs, shards()).unwrap();
        let newer = file.with_map(map).unwrap();
        assert_eq!(known.take(&file), None);
        assert_eq!(known.take(&newer), Some(newer.clone()));
        assert_eq!(known.take(&newer), None);
    }

    #[test]
    fn it_serves_while_each_shard_has_a_leader_that_is_connected() {
        let cluster = ClusterConfig::dev(2, 3, 20_000).unwrap();
        let (known, map) = (Known::new(&cluster), [ShardId(0), ShardId(1)]);
        let serving = |known: &Known| known.serving(&map, |_| true, Duration::ZERO);
        assert!(serving(&known).unwrap_err().to_string().starts_with("no shard has a leader"));
        assert_eq!(known.said(1, &response(&[], &[0])), [ShardId(0)]);
        assert_eq!(known.said(1, &response(&[], &[0])), [], "no news");
        known.lost(2, "node 2 at a:1 cannot be reached: refused".into());
        let why = serving(&known).unwrap_err();
        assert!(why.to_string().starts_with("shard 1 has no leader"), "{why}");
        assert!(why.lost[&2].contains("node 2 at a:1"), "{why:?}");
        known.said(2, &response(&[], &[1]));
        assert_eq!(serving(&known), Ok(()));
        let cut_off = |node| node != NodeId(2);
        let why = known.serving(&map, cut_off, Duration::ZERO).unwrap_err();
        assert_eq!(why.without, [ShardId(1)], "no stream to its leader");
        let hour = Duration::from_secs(3_600);
        assert_eq!(known.serving(&map, cut_off, hour), Ok(()), "it was up at the last look");
        let anew = Known::new(&cluster);
        anew.said(1, &response(&[], &[0]));
        anew.said(2, &response(&[], &[1]));
        let why = anew.serving(&map, cut_off, hour).unwrap_err();
        assert_eq!(why.without, [ShardId(1)], "its stream was never up");
    }
}
