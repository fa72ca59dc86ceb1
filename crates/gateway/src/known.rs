//! What nodes lately reported of their cluster: the address of each node, and the leader of each
//! shard.
//!
//! A cluster file may be older than the cluster. A node that moved tells its peers its new address,
//! so a gateway with the old one can ask the peers. The reports also tell whether all shards have
//! leaders, so that a probe costs no request. No report counts for long: within seconds it is
//! forgotten or made anew.

use crate::limits::LED_WITHIN;
use routing::{ClusterConfig, NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use wire::internal::v1::ClusterResponse;

/// The latest reports of all nodes.
#[derive(Debug)]
pub(crate) struct Known {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By node: its address in the cluster file.
    configured: BTreeMap<u64, String>,
    /// By node: its address as the nodes report it, by the reporting node.
    said: BTreeMap<u64, BTreeMap<u64, String>>,
    /// When a node last said that it leads a shard.
    led: BTreeMap<ShardId, Instant>,
    /// Nodes that cannot be reached or used, and why.
    lost: BTreeMap<u64, String>,
}

impl Known {
    pub(crate) fn new(cluster: &ClusterConfig) -> Known {
        let configured =
            cluster.nodes.iter().map(|node| (node.id.0, node.address.clone())).collect();
        Known { inner: Mutex::new(Inner { configured, ..Inner::default() }) }
    }

    /// Takes in the report of a node that was reached.
    pub(crate) fn said(&self, node: u64, response: &ClusterResponse) {
        let mut inner = self.lock();
        inner.lost.remove(&node);
        for other in &response.nodes {
            if inner.configured.contains_key(&other.node) && !other.address.is_empty() {
                inner.said.entry(other.node).or_default().insert(node, other.address.clone());
            }
        }
        let now = Instant::now();
        for hosted in response.shards.iter().filter(|hosted| hosted.leads) {
            inner.led.insert(ShardId(hosted.shard), now);
        }
    }

    pub(crate) fn lost(&self, node: u64, why: String) {
        self.lock().lost.insert(node, why);
    }

    /// The addresses where a node may be found, the likeliest first: the address that most nodes
    /// report, then the one in the cluster file.
    pub(crate) fn addresses(&self, node: u64) -> Vec<String> {
        let inner = self.lock();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        let said = inner.said.get(&node).into_iter().flatten();
        for (by, address) in said {
            // A lost node's report is old. A node's word about itself counts for more.
            let weight = if inner.lost.contains_key(by) {
                1
            } else if *by == node {
                4
            } else {
                2
            };
            *votes.entry(address).or_default() += weight;
        }
        if let Some(configured) = inner.configured.get(&node) {
            *votes.entry(configured).or_default() += 1;
        }
        let mut addresses: Vec<(&str, usize)> = votes.into_iter().collect();
        addresses.sort_by_key(|(address, votes)| (std::cmp::Reverse(*votes), *address));
        addresses.into_iter().map(|(address, _)| address.to_owned()).collect()
    }

    /// A node's address in the cluster file.
    pub(crate) fn configured(&self, node: NodeId) -> String {
        self.lock().configured.get(&node.0).cloned().unwrap_or_default()
    }

    /// Whether locks can be served: every shard has a leader that could be reached lately.
    ///
    /// # Errors
    /// The shards without a leader, and the nodes that cannot be reached.
    pub(crate) fn serving(&self, shards: &[ShardId]) -> Result<(), String> {
        let inner = self.lock();
        let is_led =
            |shard: ShardId| inner.led.get(&shard).is_some_and(|at| at.elapsed() < LED_WITHIN);
        let without: Vec<String> =
            shards.iter().filter(|shard| !is_led(**shard)).map(|shard| shard.to_string()).collect();
        let told = match without.len() {
            0 => return Ok(()),
            1 => format!("shard {} has no leader that can be reached", without[0]),
            count if count == shards.len() => "no shard has a leader that can be reached".into(),
            2..=8 => format!("shards {} have no leaders that can be reached", without.join(", ")),
            count => format!(
                "{count} shards have no leaders that can be reached, shard {} among them",
                without[0]
            ),
        };
        let lost: String = inner.lost.values().take(8).map(|why| format!("\n{why}")).collect();
        Err(format!("{told}{lost}\n"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::internal::v1::{HostedShard, NodeAddress};

    fn response(addresses: &[(u64, &str)], leads: &[u32]) -> ClusterResponse {
        let address = |(node, address): &(u64, &str)| NodeAddress {
            node: *node,
            address: (*address).to_owned(),
        };
        let hosted = |shard: &u32| HostedShard { shard: *shard, leads: true, ..Default::default() };
        let (nodes, shards) =
            (addresses.iter().map(address).collect(), leads.iter().map(hosted).collect());
        ClusterResponse { nodes, shards, ..Default::default() }
    }

    #[test]
    fn a_node_that_moved_is_looked_for_where_the_others_say() {
        let known = Known::new(&ClusterConfig::dev(1, 3, 20_000).unwrap());
        let configured = known.configured(NodeId(2));
        assert_eq!(known.addresses(2), std::slice::from_ref(&configured));
        known.said(1, &response(&[(2, "moved:1"), (9, "nobody:1"), (3, "")], &[]));
        known.said(3, &response(&[(2, &configured)], &[]));
        let both = known.addresses(2);
        assert!(
            both.len() == 2 && both.contains(&"moved:1".to_owned()) && both.contains(&configured),
            "{both:?}"
        );
        known.said(2, &response(&[(2, "moved:1")], &[]));
        assert_eq!(known.addresses(2)[0], "moved:1");
        assert!(known.addresses(9).is_empty());
    }

    #[test]
    fn it_serves_while_each_shard_has_a_leader() {
        let cluster = ClusterConfig::dev(2, 3, 20_000).unwrap();
        let (known, map) = (Known::new(&cluster), [ShardId(0), ShardId(1)]);
        assert!(known.serving(&map).unwrap_err().starts_with("no shard has a leader"));
        known.said(1, &response(&[], &[0]));
        known.lost(2, "node 2 at a:1 cannot be reached: refused".into());
        let why = known.serving(&map).unwrap_err();
        assert!(why.starts_with("shard 1 has no leader") && why.contains("node 2 at a:1"), "{why}");
        known.said(2, &response(&[], &[1]));
        assert_eq!(known.serving(&map), Ok(()));
    }
}
