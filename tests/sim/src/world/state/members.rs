//! The members of all groups as the world wants them, and what the judges of their changes remember.

use crate::checker::groups::{GroupJudge, Id, Speakers};
use routing::{NodeId, ShardId};
use shard::Wanted;
use std::collections::BTreeMap;

/// The members of all groups, as the world wants them, and what the judges remember.
#[derive(Default)]
pub(crate) struct Members {
    /// Whether members move in this run.
    pub move_about: bool,
    /// The nodes that every group is bootstrapped on.
    pub founders: Vec<NodeId>,
    /// All wishes so far, the newest last. None at first.
    pub wishes: BTreeMap<ShardId, Vec<Wanted>>,
    /// Every life that a replica has begun, by node and birth, with the highest index of a log entry
    /// that was ever on its disk.
    pub had_log: BTreeMap<(ShardId, u64, u32), u64>,
    /// The last message of each member that reached a node, by shard, node, and member.
    pub heard: BTreeMap<(ShardId, u64, Id), LastHeard>,
    pub speakers: Speakers,
    pub judges: BTreeMap<ShardId, GroupJudge>,
}

/// When a node last got a message of a member.
#[derive(Clone, Copy, Default)]
pub(crate) struct LastHeard {
    /// The node's ticks then.
    pub ticks: u64,
    /// The term of the message.
    pub term: u64,
}

impl Members {
    /// Of groups that are bootstrapped on these nodes.
    pub(crate) fn new(move_about: bool, founders: Vec<NodeId>) -> Members {
        Members { move_about, founders, ..Members::default() }
    }
}
