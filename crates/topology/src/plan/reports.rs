//! What nodes report to the controller, and what follows from it.
//!
//! Reports are not logged: a new controller begins with none. It knows nothing of plans.

use crate::codec::{Reader, Record, Result, record, tagged};
use crate::command::NodeTold;
use crate::state::{Birth, Life, Members, Topology};
use routing::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// A node is heard of if its last report is at most this old. Reports come every 5 s at least.
pub const HEARD_MS: u64 = 15_000;
/// A replica is level if it lags by at most so many entries. Spare followers are always a little
/// behind.
pub const LEVEL_LAG_ENTRIES: u64 = 1_000;

/// The last report of each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// When the controller began to listen, in milliseconds of wall time.
    pub since_ms: u64,
    /// The reports.
    pub nodes: BTreeMap<NodeId, Report>,
}

/// The last report of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// When it came, by the controller's wall time.
    pub heard_ms: u64,
    /// What the node tells of itself.
    pub told: NodeTold,
    /// Its replicas.
    pub replicas: BTreeMap<ShardId, ReplicaReport>,
    /// Of the shards that it leads: the nodes of voters that do not answer, or lack entries of more than
    /// two ticks ago. So a node that died is known within a second, and not only when its reports stay
    /// away. Not part of the encoding.
    pub behind: BTreeSet<(ShardId, NodeId)>,
}

/// One replica, as its node reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Its birth.
    pub birth: Birth,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// How many entries it lags behind the commit index that it knows of.
    pub lag_entries: u64,
    /// The members of its group, as far as it has applied the log.
    pub members: Members,
    /// Operations per second. Only a leader counts them.
    pub ops_per_s: u64,
}

/// The role of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It has a vote.
    Follower,
    /// It has none.
    Learner,
}

impl Report {
    /// Whether it tells something that a plan should not wait for, after the report before it. Loads
    /// and small lags change all the time.
    pub fn is_news_after(&self, before: &Report) -> bool {
        let rough = |report: &Report| -> BTreeMap<ShardId, (bool, ReplicaReport)> {
            let rough = |replica: &ReplicaReport| {
                let is_level = replica.lag_entries <= LEVEL_LAG_ENTRIES;
                (is_level, ReplicaReport { lag_entries: 0, ops_per_s: 0, ..replica.clone() })
            };
            report.replicas.iter().map(|(shard, replica)| (*shard, rough(replica))).collect()
        };
        self.told != before.told || self.behind != before.behind || rough(self) != rough(before)
    }
}

impl Reports {
    /// Whether the node has reported lately.
    pub fn is_heard(&self, node: NodeId, now_ms: u64) -> bool {
        let report = self.nodes.get(&node);
        report.is_some_and(|report| now_ms.saturating_sub(report.heard_ms) <= HEARD_MS)
    }

    /// How long a node has been silent, as far as this controller can know.
    pub fn silent_ms(&self, node: NodeId, now_ms: u64) -> u64 {
        let heard = self.nodes.get(&node).map_or(0, |report| report.heard_ms);
        now_ms.saturating_sub(heard.max(self.since_ms))
    }

    /// Whether the controller is so new that nodes that live may not have reported yet.
    pub fn are_awaited(&self, topology: &Topology, now_ms: u64) -> bool {
        let is_new = now_ms.saturating_sub(self.since_ms) <= HEARD_MS;
        is_new && topology.present().any(|(node, _)| !self.nodes.contains_key(&node))
    }

    /// The replica that leads a shard, with its node: of those that say so, the one of the highest
    /// term.
    pub fn leader(&self, shard: ShardId, now_ms: u64) -> Option<(NodeId, &ReplicaReport)> {
        let heard = self.nodes.iter().filter(|(node, _)| self.is_heard(**node, now_ms));
        heard
            .filter_map(|(node, report)| Some((*node, report.replicas.get(&shard)?)))
            .filter(|(_, replica)| replica.role == Role::Leader)
            .max_by_key(|(node, replica)| (replica.term, std::cmp::Reverse(*node)))
    }

    /// Whether the leader of a shard misses the voter on this node.
    pub fn is_behind(&self, shard: ShardId, node: NodeId, now_ms: u64) -> bool {
        let leader = self.leader(shard, now_ms).map(|(leader, _)| leader);
        let report = leader.and_then(|leader| self.nodes.get(&leader));
        report.is_some_and(|report| report.behind.contains(&(shard, node)))
    }

    /// Whether this life of a replica is heard of and has nearly all of the log.
    pub fn is_level(&self, shard: ShardId, life: Life, now_ms: u64) -> bool {
        let report = self.nodes.get(&life.node).filter(|_| self.is_heard(life.node, now_ms));
        report.and_then(|report| report.replicas.get(&shard)).is_some_and(|replica| {
            replica.birth == life.birth && replica.lag_entries <= LEVEL_LAG_ENTRIES
        })
    }
}

record!(ReplicaReport { birth, role, term, lag_entries, members, ops_per_s });
tagged!(Role { 1 => Leader, 2 => Follower, 3 => Learner });

/// All but `heard_ms`, which is not of the node that reports, and `behind`.
impl Record for Report {
    fn put(&self, into: &mut Vec<u8>) {
        self.told.put(into);
        self.replicas.put(into);
    }

    fn take(from: &mut Reader<'_>) -> Result<Report> {
        let (told, replicas) = (Record::take(from)?, Record::take(from)?);
        Ok(Report { heard_ms: 0, told, replicas, behind: BTreeSet::new() })
    }
}
