//! The leaders of a cluster, by the reports of its replicas.

use client::ClusterStatus;
use std::collections::BTreeMap;

/// A replica that leads a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node of the replica.
    pub node: u64,
    /// The term of this leadership.
    pub term: u64,
}

/// The leader of each shard that has one. If two replicas both report to lead a shard, the one with
/// the higher term counts. The other is a deposed leader that was paused or cut off, and does not
/// know of the new term yet.
pub fn leaders(status: &ClusterStatus) -> BTreeMap<u32, Leader> {
    let mut leaders: BTreeMap<u32, Leader> = BTreeMap::new();
    for replica in status.shards.iter().filter(|replica| replica.role == "leader") {
        let found = Leader { node: replica.node, term: replica.term };
        let known = leaders.entry(replica.shard).or_insert(found);
        if found.term > known.term {
            *known = found;
        }
    }
    leaders
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::ShardStatus;

    #[test]
    fn the_highest_term_leads() {
        let replica = |shard, node, term, role: &str| ShardStatus {
            shard,
            node,
            term,
            role: role.into(),
            ..ShardStatus::default()
        };
        let shards = vec![
            replica(0, 1, 3, "leader"),
            replica(0, 2, 4, "leader"),
            replica(0, 3, 4, "follower"),
            replica(1, 3, 9, "candidate"),
        ];
        let leaders = leaders(&ClusterStatus { shards, ..ClusterStatus::default() });
        assert_eq!(leaders, BTreeMap::from([(0, Leader { node: 2, term: 4 })]));
    }
}
