//! The members of all groups as the world wants them, and what the judge of their changes remembers.

use routing::{NodeId, ShardId};
use shard::{Member, Wanted};
use std::collections::{BTreeMap, BTreeSet};

/// The members of all groups, as the world wants them, and what the judge remembers.
#[derive(Default)]
pub(crate) struct Members {
    /// Whether members move in this run.
    pub move_about: bool,
    /// The nodes that every group is bootstrapped on.
    pub founders: Vec<NodeId>,
    /// All wishes so far, the newest last. None at first.
    pub wishes: BTreeMap<ShardId, Vec<Wanted>>,
    /// Every life that a replica has begun.
    pub lives: BTreeSet<(ShardId, u64, u32)>,
    pub seen: BTreeMap<ShardId, Seen>,
}

/// The newest configuration and wish of a group that any replica has applied.
#[derive(Default)]
pub(crate) struct Seen {
    pub index: u64,
    pub members: Vec<Member>,
    /// The version of the wish.
    pub version: u64,
    /// The index at which each learner was first seen.
    pub learner_since: BTreeMap<Member, u64>,
}

impl Members {
    /// Of groups that are bootstrapped on these nodes.
    pub(crate) fn new(move_about: bool, founders: Vec<NodeId>) -> Members {
        Members { move_about, founders, ..Members::default() }
    }
}
