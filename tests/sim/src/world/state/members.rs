//! The members of all groups as the world wants them, and what the judges of their changes remember.

use crate::checker::groups::{GroupJudge, Id, Speakers};
use routing::{NodeId, ShardId};
use shard::Wanted;
use std::collections::BTreeMap;

/// By whose order members move in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MovedBy {
    #[default]
    Nobody,
    /// By the world's, which wants members for each shard itself (`world/members.rs`).
    World,
    /// By the topology's, as in a real cluster (`world/jobs.rs`).
    Topology,
}

/// The members of all groups, as the world wants them, and what the judges remember.
#[derive(Default)]
pub(crate) struct Members {
    pub moved_by: MovedBy,
    /// The nodes that every group is bootstrapped on.
    pub founders: Vec<NodeId>,
    /// All wishes of the world so far, the newest last. None at first.
    pub wishes: BTreeMap<ShardId, Vec<Wanted>>,
    /// Every life that a replica has begun, by node and birth, with the highest index of a log entry
    /// that was ever on its disk.
    pub had_log: BTreeMap<(ShardId, u64, u32), u64>,
    pub heard: LastHeard,
    pub speakers: Speakers,
    pub judges: BTreeMap<ShardId, GroupJudge>,
}

/// A node's ticks when it last got a message of a member, by term.
///
/// By term, because a member that asks for pre-votes speaks in the next term, and then answers the
/// leader in the present one again.
#[derive(Default)]
pub(crate) struct LastHeard {
    ticks: BTreeMap<(ShardId, u64, Id, u64), u64>,
}

impl LastHeard {
    /// A message that `of` said in this term has reached the node.
    pub(crate) fn note(&mut self, shard: ShardId, node: u64, of: Id, term: u64, ticks: u64) {
        self.ticks.insert((shard, node, of, term), ticks);
    }

    /// The node's ticks at the last message that `of` said in this term.
    pub(crate) fn in_term(&self, shard: ShardId, node: u64, of: Id, term: u64) -> Option<u64> {
        self.ticks.get(&(shard, node, of, term)).copied()
    }
}

impl Members {
    /// Of groups that are bootstrapped on these nodes.
    pub(crate) fn new(moved_by: MovedBy, founders: Vec<NodeId>) -> Members {
        Members { moved_by, founders, ..Members::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: after a pre-vote, all later answers were skipped, because their term was lower.
    #[test]
    fn a_pre_vote_hides_no_later_answer() {
        let (shard, of) = (ShardId(0), (NodeId(2), 0));
        let mut heard = LastHeard::default();
        for (term, ticks) in [(5, 10), (6, 11), (5, 40)] {
            heard.note(shard, 1, of, term, ticks);
        }
        assert_eq!(heard.in_term(shard, 1, of, 5), Some(40));
        assert_eq!(heard.in_term(shard, 1, of, 6), Some(11));
        assert_eq!(heard.in_term(shard, 3, of, 5), None, "another node");
    }
}
