//! The known leader of each shard: hints, ordered by term.
//!
//! The cache is a pure value and knows nothing of connections and clocks. A wrong hint costs a hop,
//! never correctness, because the replica that is asked decides by itself whether it leads.

use routing::{NodeId, ShardId};
use std::collections::BTreeMap;

/// Shard → leader, by term.
///
/// * The known term of a shard never falls: news of an older term is ignored.
/// * Within one term at most one leader is accepted, because Raft elects at most one.
#[derive(Clone, Debug, Default)]
pub struct LeaderCache {
    shards: BTreeMap<ShardId, Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    term: u64,
    leader: Option<NodeId>,
    /// The leader of `term`, if it failed to answer. It is not the first target again until there
    /// is news of a later term, or an answer of its own.
    suspected: Option<NodeId>,
}

impl LeaderCache {
    /// An empty cache, without any hint.
    pub fn new() -> LeaderCache {
        LeaderCache::default()
    }

    /// The target to try first. `None` if one replica is as good as another.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.shards.get(&shard).and_then(|known| known.leader)
    }

    /// The newest known term, 0 at first.
    pub fn term(&self, shard: ShardId) -> u64 {
        self.shards.get(&shard).map_or(0, |known| known.term)
    }

    /// Takes the report of a replica: the leader in `term`, or that there is none yet. Returns
    /// whether that was news.
    pub fn learn(&mut self, shard: ShardId, leader: Option<NodeId>, term: u64) -> bool {
        let known = self.shards.entry(shard).or_default();
        if term > known.term {
            *known = Known { term, leader, suspected: None };
            return true;
        }
        if term == known.term
            && known.leader.is_none()
            && leader.is_some()
            && leader != known.suspected
        {
            known.leader = leader;
            return true;
        }
        false
    }

    /// Notes that this replica has just answered as leader. This counts only while no leader is
    /// known, because an answer has no term.
    pub fn confirm(&mut self, shard: ShardId, leader: NodeId) {
        let known = self.shards.entry(shard).or_default();
        if known.leader.is_none() {
            known.leader = Some(leader);
            known.suspected = None;
        }
    }

    /// Notes that this replica did not answer. If it is the known leader, it no longer counts as
    /// such.
    pub fn suspect(&mut self, shard: ShardId, node: NodeId) {
        if let Some(known) = self.shards.get_mut(&shard)
            && known.leader == Some(node)
        {
            known.leader = None;
            known.suspected = Some(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ShardId = ShardId(3);
    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn only_a_newer_term_replaces_a_leader() {
        let mut cache = LeaderCache::new();
        assert_eq!((cache.leader(S), cache.term(S)), (None, 0));
        assert!(cache.learn(S, Some(A), 5));
        assert!(!cache.learn(S, Some(B), 4), "older");
        assert!(!cache.learn(S, Some(B), 5), "one leader per term");
        assert_eq!(cache.leader(S), Some(A));
        assert!(cache.learn(S, Some(B), 6));
        assert_eq!((cache.leader(S), cache.term(S)), (Some(B), 6));
        assert_eq!(cache.leader(ShardId(4)), None, "of that shard only");
    }

    #[test]
    fn a_newer_term_without_a_leader_clears_the_hint_until_one_is_named() {
        let mut cache = LeaderCache::new();
        cache.learn(S, Some(A), 5);
        assert!(cache.learn(S, None, 6));
        assert_eq!(cache.leader(S), None);
        assert!(!cache.learn(S, Some(A), 5), "that was the old term's");
        assert!(cache.learn(S, Some(B), 6));
        assert_eq!(cache.leader(S), Some(B));
    }

    #[test]
    fn a_suspected_leader_comes_back_by_an_answer_or_a_later_term_only() {
        let mut cache = LeaderCache::new();
        cache.learn(S, Some(A), 5);
        cache.suspect(S, B);
        assert_eq!(cache.leader(S), Some(A), "somebody else was suspected");
        cache.suspect(S, A);
        assert_eq!(cache.leader(S), None);
        assert!(!cache.learn(S, Some(A), 5), "followers still name it");
        assert_eq!(cache.leader(S), None);
        let mut answered = cache.clone();
        answered.confirm(S, A);
        assert_eq!(answered.leader(S), Some(A));
        assert!(cache.learn(S, Some(A), 7));
        assert_eq!(cache.leader(S), Some(A));
    }

    #[test]
    fn an_answer_does_not_replace_a_known_leader() {
        let mut cache = LeaderCache::new();
        cache.learn(S, Some(A), 5);
        cache.confirm(S, B);
        assert_eq!(cache.leader(S), Some(A));
    }
}
