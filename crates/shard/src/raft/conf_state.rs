//! The configurations of a group that may occur.

use super::peer_id::node_of;
use raft::eraftpb::ConfState;
use std::collections::BTreeMap;

/// All members, voters before learners, by Raft's id.
pub(crate) fn members(conf: &ConfState) -> impl Iterator<Item = u64> {
    conf.voters.iter().chain(&conf.learners).copied()
}

/// Whether the changes that this service makes can lead to a configuration. raft-rs panics on some
/// others.
///
/// * It has a voter, and is not joint, because changes are simple.
/// * A node has at most one voter and one learner in it, and the learner is of the later
///   incarnation.
///
/// # Errors
/// A description of the rule that is broken.
pub(crate) fn check_conf(conf: &ConfState) -> Result<(), &'static str> {
    if conf.voters.is_empty() {
        return Err("a configuration without voters");
    }
    if !conf.voters_outgoing.is_empty() || !conf.learners_next.is_empty() || conf.auto_leave {
        return Err("a joint configuration");
    }
    let mut voters = BTreeMap::new();
    for &id in &conf.voters {
        if node_of(id).0 == 0 || voters.insert(node_of(id), id).is_some() {
            return Err("two voters of one node, or one of none");
        }
    }
    let mut learners = BTreeMap::new();
    for &id in &conf.learners {
        let replaces = voters.get(&node_of(id)).is_none_or(|voter| *voter < id);
        if node_of(id).0 == 0 || !replaces || learners.insert(node_of(id), id).is_some() {
            return Err("a learner that replaces nobody");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::peer_id::peer_id;
    use routing::NodeId;

    fn id(node: u64, incarnation: u32) -> u64 {
        peer_id(NodeId(node), incarnation)
    }

    fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..Default::default() }
    }

    #[test]
    fn configurations_that_no_change_leads_to_are_found() {
        let joint = ConfState { voters_outgoing: vec![1], ..conf(&[1, 2], &[]) };
        let bad = [
            conf(&[], &[1]),
            joint,
            conf(&[1, id(2, 0), id(2, 1)], &[]),
            conf(&[1, 1], &[]),
            conf(&[0, 1], &[]),
            conf(&[1, 2], &[2]),
            conf(&[1, id(2, 3)], &[id(2, 1)]),
            conf(&[1], &[id(2, 1), id(2, 2)]),
            conf(&[1], &[1 << 32]),
        ];
        for conf in bad {
            assert!(check_conf(&conf).is_err(), "{conf:?}");
        }
        assert_eq!(check_conf(&conf(&[1, id(2, 0), 3], &[id(2, 9)])), Ok(()));
    }
}
