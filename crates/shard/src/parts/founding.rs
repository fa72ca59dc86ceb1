//! The founders of META, the group of the topology: an entry in the log of shard 0 chooses them.
//!
//! A Raft group begins with a list of members that all of them have from the start. It must be the
//! same list on each, and name lives that can speak. META gets its list late in the life of some
//! clusters. How it goes wrong if each node takes the one of the cluster file:
//!
//! 1. Nodes 2 and 3 lose their disks, one after the other, and are re-seeded. Their replicas of all
//!    shards are new members by now, under new incarnations.
//! 2. META is to begin, with the lives 1⁰, 2⁰ and 3⁰. The second and the third one ended in step 1.
//! 3. No majority of the three ever votes, so META never has a leader.
//!
//! The lives that shard 0 has at some moment would do. But each node applies the log of shard 0 at
//! its own time, and two nodes that take two lists begin two METAs. So the moment is an entry in
//! that log, which the leader of shard 0 proposes if there is none yet. The voters of shard 0 at
//! the first such entry are META's founders, on every node and after every restart:
//!
//! ```text
//! log of shard 0      … | learns 2¹ | leaves 2⁰ | votes 2¹ | … | FOUNDING | … | votes 3¹ | …
//!                                                           └── founders: 1⁰ 2¹ 3⁰
//! ```
//!
//! * A quorum of the founders has the entry on disk, and begins META when it applies the entry. A
//!   founder that lags begins when it has caught up.
//! * A founder that is lost before it has begun META never begins: its node comes back with a higher
//!   incarnation, and is taken in by META's leader as after any other re-seed. META has no quorum only
//!   if a majority of founders is lost, and then shard 0 lost that majority as well, or had it
//!   replaced within the moment between applying the entry and META's first write.
//!
//! The list outlives cuts of shard 0's log, because each checkpoint and each snapshot has it
//! (`parts/kept.rs`).
//!
//! This knows nothing of the host that begins META's replicas, and of their first write
//! (`first_write.rs`).

use crate::parts::group::{Wanted, WantedError};
use crate::raft::peer_id::{incarnation_of, node_of};
use raft::eraftpb::ConfState;
use routing::NodeId;
use std::collections::BTreeMap;

/// The first byte of the entry, and of the list in a record, where a batch of commands has its
/// version.
pub(crate) const KIND: u8 = 4;
/// The entry. It names nobody: the members at its place in the log are what it chooses.
pub(crate) const ENTRY: &[u8] = &[KIND];

/// The replicas with which META begins, each a node and its birth there.
///
/// * It has at least one replica, and one at most on each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founders(Wanted);

impl Founders {
    /// These lives, as chosen by the entry at `index` of shard 0's log.
    ///
    /// # Errors
    /// If there is none, or a node twice.
    pub fn new(
        index: u64,
        lives: impl IntoIterator<Item = (NodeId, u32)>,
    ) -> Result<Founders, WantedError> {
        Wanted::new(index, lives).map(Founders)
    }

    /// The voters of a configuration, at `index` of shard 0's log, each with its birth.
    pub(crate) fn of(
        index: u64,
        conf: &ConfState,
        birth: fn(u32) -> u32,
    ) -> Result<Founders, WantedError> {
        let life = |id: &u64| (node_of(*id), birth(incarnation_of(*id)));
        Founders::new(index, conf.voters.iter().map(life))
    }

    /// The node of each founder, with its birth there.
    pub fn lives(&self) -> &BTreeMap<NodeId, u32> {
        self.0.members()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0.encode_as(KIND)
    }

    /// Decodes the list before other bytes, if there is one, and returns those bytes.
    ///
    /// # Errors
    /// If any byte of the list is wrong.
    pub(crate) fn decode_before(bytes: &[u8]) -> Result<(Option<Founders>, &[u8]), WantedError> {
        let (list, rest) = Wanted::decode_as(KIND, bytes)?;
        Ok((list.map(Founders), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::peer_id::peer_id;

    #[test]
    fn the_voters_are_founders_and_learners_are_not() {
        let voters = vec![peer_id(NodeId(1), 0), peer_id(NodeId(2), 7)];
        let conf =
            ConfState { voters, learners: vec![peer_id(NodeId(3), 9)], ..ConfState::default() };
        let founders = Founders::of(12, &conf, |birth| birth).expect("founders that can be");
        assert_eq!(founders.lives(), &[(NodeId(1), 0), (NodeId(2), 7)].into());
        assert_ne!(ENTRY[0], crate::parts::group::KIND);
    }
}
