//! The state of the cluster as its status tells it, with rates from two statuses in a row.

use super::moment::Moment;
use client::ClusterStatus;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use wire::json;

/// An order of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardOrder {
    Number,
    /// Shards without a leader first, then by the entries that their slowest replica lacks.
    Lag,
    Locks,
    Waiters,
    Grants,
}

impl ShardOrder {
    pub const ALL: [ShardOrder; 5] = [
        ShardOrder::Number,
        ShardOrder::Lag,
        ShardOrder::Locks,
        ShardOrder::Waiters,
        ShardOrder::Grants,
    ];
}

/// An order of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOrder {
    /// As in the cluster file.
    File,
    Leads,
    /// Slowest sync first, and a disk that hangs before all.
    Sync,
    Lag,
}

impl NodeOrder {
    pub const ALL: [NodeOrder; 4] =
        [NodeOrder::File, NodeOrder::Leads, NodeOrder::Sync, NodeOrder::Lag];
}

/// Rates of one shard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShardRates {
    /// Fencing tokens issued per second: one for each grant.
    pub grants: f64,
    /// Log entries applied per second.
    pub entries: f64,
}

/// A status, and the changes since the one before.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub status: json::ClusterStatus,
    pub at: Moment,
    rates: BTreeMap<u32, ShardRates>,
}

/// One node, with sums over its replicas.
#[derive(Clone, Copy, Debug)]
pub struct NodeRow<'a> {
    pub node: &'a json::Node,
    pub replicas: usize,
    /// The entries that its slowest replica lacks. `None` if no replica answered.
    pub lag: Option<u64>,
    pub snapshots: u64,
}

impl Cluster {
    /// A status that came at this moment, after another one.
    pub fn new(status: &ClusterStatus, at: Moment, former: Option<&Cluster>) -> Cluster {
        let status = json::ClusterStatus::from(status);
        let rates = former.map(|former| rates(&status, at, former)).unwrap_or_default();
        Cluster { status, at, rates }
    }

    /// The rates of a shard. `None` before the second status, and while nothing is comparable.
    pub fn rates(&self, shard: u32) -> Option<ShardRates> {
        self.rates.get(&shard).copied()
    }

    /// The shards in an order. Equal ones are by number.
    pub fn shards(&self, order: ShardOrder) -> Vec<&json::Shard> {
        let mut shards: Vec<&json::Shard> = self.status.shards.iter().collect();
        match order {
            ShardOrder::Number => {}
            ShardOrder::Lag => {
                shards.sort_by_key(|shard| (shard.leader.is_some(), Reverse(lag(shard))));
            }
            ShardOrder::Locks => shards.sort_by_key(|shard| Reverse(shard.active_locks)),
            ShardOrder::Waiters => shards.sort_by_key(|shard| Reverse(shard.waiters)),
            ShardOrder::Grants => {
                let grants = |shard: &json::Shard| {
                    self.rates(shard.shard).map_or(-1.0, |rates| rates.grants)
                };
                shards.sort_by(|a, b| grants(b).total_cmp(&grants(a)));
            }
        }
        shards
    }

    /// The nodes in an order. Equal ones are as in the cluster file.
    pub fn nodes(&self, order: NodeOrder) -> Vec<NodeRow<'_>> {
        let mut nodes: Vec<NodeRow<'_>> =
            self.status.nodes.iter().map(|node| self.node(node)).collect();
        match order {
            NodeOrder::File => {}
            NodeOrder::Leads => nodes.sort_by_key(|row| Reverse(row.node.leads)),
            NodeOrder::Sync => nodes.sort_by(|a, b| {
                let key = |row: &NodeRow<'_>| {
                    (row.node.disk_hangs, row.node.disk_sync_ms.unwrap_or(-1.0))
                };
                let ((a_hangs, a_ms), (b_hangs, b_ms)) = (key(a), key(b));
                b_hangs.cmp(&a_hangs).then(b_ms.total_cmp(&a_ms))
            }),
            NodeOrder::Lag => nodes.sort_by_key(|row| (row.lag.is_some(), Reverse(row.lag))),
        }
        nodes
    }

    /// The number of shards with a leader.
    pub fn led(&self) -> usize {
        self.status.shards.iter().filter(|shard| shard.leader.is_some()).count()
    }

    /// The number of nodes that answer.
    pub fn up(&self) -> usize {
        self.status.nodes.iter().filter(|node| node.reachable).count()
    }

    /// A number summed over all shards.
    pub fn sum(&self, of: impl Fn(&json::Shard) -> u64) -> u64 {
        self.status.shards.iter().map(of).sum()
    }

    fn node<'a>(&self, node: &'a json::Node) -> NodeRow<'a> {
        let replicas = self.status.shards.iter().flat_map(|shard| &shard.replicas);
        let replicas: Vec<&json::Replica> =
            replicas.filter(|replica| replica.node == node.node).collect();
        NodeRow {
            node,
            replicas: replicas.len(),
            lag: replicas.iter().map(|replica| replica.lag).max(),
            snapshots: replicas.iter().map(|replica| replica.snapshots_installed).sum(),
        }
    }
}

/// The entries that the slowest replica of a shard lacks.
pub fn lag(shard: &json::Shard) -> u64 {
    shard.replicas.iter().map(|replica| replica.lag).max().unwrap_or(0)
}

fn rates(status: &json::ClusterStatus, at: Moment, former: &Cluster) -> BTreeMap<u32, ShardRates> {
    let seconds = at.since(former.at) as f64 / 1_000.0;
    if seconds <= 0.0 {
        return BTreeMap::new();
    }
    let per_second = |now: u64, then: u64| Some(now.checked_sub(then)? as f64 / seconds);
    let of_shard = |shard: &json::Shard| {
        let then = former.status.shards.iter().find(|then| then.shard == shard.shard)?;
        // Without a leader in both, the numbers are of replicas that lag.
        (shard.leader.is_some() && then.leader.is_some()).then_some(())?;
        let grants = per_second(shard.last_token, then.last_token)?;
        let entries = per_second(shard.applied_index, then.applied_index)?;
        Some((shard.shard, ShardRates { grants, entries }))
    };
    status.shards.iter().filter_map(of_shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::{NodeStatus, ShardStatus};

    const fn at(ms: u64) -> Moment {
        Moment { unix_ms: ms, ms }
    }

    fn replica(shard: u32, node: u64, role: &str, applied_index: u64) -> ShardStatus {
        ShardStatus { shard, node, role: role.into(), applied_index, ..ShardStatus::default() }
    }

    fn status(shards: Vec<ShardStatus>) -> ClusterStatus {
        let node = |node| NodeStatus { node, reachable: node != 3, ..NodeStatus::default() };
        ClusterStatus { nodes: (1..=3).map(node).collect(), shards, ..Default::default() }
    }

    #[test]
    fn rates_are_differences_of_two_statuses() {
        let told = |token, applied| {
            let leader = ShardStatus { last_token: token, ..replica(0, 1, "leader", applied) };
            status(vec![leader])
        };
        let first = Cluster::new(&told(10, 100), at(0), None);
        assert_eq!(first.rates(0), None);
        let second = Cluster::new(&told(30, 300), at(2_000), Some(&first));
        assert_eq!(second.rates(0), Some(ShardRates { grants: 10.0, entries: 100.0 }));
        let anew = Cluster::new(&told(0, 1), at(4_000), Some(&second));
        assert_eq!(anew.rates(0), None, "a cluster that began anew has no rate below zero");
        let led_by_none = status(vec![replica(0, 1, "follower", 400)]);
        assert_eq!(Cluster::new(&led_by_none, at(6_000), Some(&second)).rates(0), None);
    }

    #[test]
    fn orders_put_trouble_first() {
        let mut replicas = vec![
            replica(0, 1, "leader", 10),
            replica(0, 2, "follower", 9),
            replica(1, 1, "follower", 20),
            replica(2, 2, "leader", 30),
            replica(2, 1, "follower", 23),
        ];
        (replicas[3].active_locks, replicas[0].waiters) = (5, 2);
        (replicas[1].disk_sync_us, replicas[3].disk_sync_us) = (9_000, 9_000);
        let cluster = Cluster::new(&status(replicas), at(0), None);
        let shards =
            |order| cluster.shards(order).iter().map(|shard| shard.shard).collect::<Vec<_>>();
        assert_eq!(shards(ShardOrder::Number), [0, 1, 2]);
        assert_eq!(shards(ShardOrder::Lag), [1, 2, 0]);
        assert_eq!(shards(ShardOrder::Locks), [2, 0, 1]);
        assert_eq!(shards(ShardOrder::Waiters), [0, 1, 2]);
        let nodes =
            |order| cluster.nodes(order).iter().map(|row| row.node.node).collect::<Vec<_>>();
        assert_eq!(nodes(NodeOrder::File), [1, 2, 3]);
        assert_eq!(nodes(NodeOrder::Sync), [2, 1, 3]);
        assert_eq!(nodes(NodeOrder::Lag), [3, 1, 2], "one that does not answer comes first");
        assert_eq!((cluster.led(), cluster.up()), (2, 2));
        assert_eq!(cluster.nodes(NodeOrder::File)[0].lag, Some(7));
    }
}
