//! The next change of a group's members, so that a node that lost its data comes back.
//!
//! A replica that lost its log has forgotten votes and acknowledgements that others count on. How
//! it goes wrong if it comes back under its old id:
//!
//! 1. Leader A of three has entry 7 acknowledged by B. Both have it on disk, so it is committed.
//! 2. B loses its disk and starts empty.
//! 3. A fails. B votes for C, which never had entry 7. Two of three are a majority.
//! 4. C leads, and entry 7 is lost although it was acknowledged.
//!
//! So B comes back under a new id, with its node's next **incarnation**, which no member has heard
//! of yet. The leader takes it in by entries in the log:
//!
//! ```text
//!              voters        learners
//!              A B⁰ C
//!  AddLearner  A B⁰ C        B¹           B¹ gets the log, and has no vote
//!                                         … until it is caught up
//!  RemoveNode  A    C        B¹           B⁰ is removed
//!  AddNode     A B¹ C                     B¹ votes
//! ```
//!
//! Each is one simple change, and is proposed only once the change before it is applied. So a
//! quorum of each configuration meets every quorum of the next.
//!
//! raft-rs changes its configuration when an entry is applied, not when it is appended. That is
//! sound as long as no replica campaigns that is more than one change behind its own log. It holds
//! for a replica that has entry k + 1, a change, in its log:
//!
//! 1. With the entry it was told that change k is committed, because k + 1 was proposed after k was
//!    applied.
//! 2. It still knows that after a restart, because the commit index is written with every synced
//!    write (`replica/ready.rs`).
//! 3. It does not campaign before it has applied all entries that it knows as committed.
//!
//! If a majority is lost at once, no quorum of the old members is left. Then nothing is changed,
//! and nothing served.
//!
//! This knows nothing of how a node gets its incarnation, or of when an old one has ceased to be:
//! it is told.

use crate::raft::conf_state::members;
use crate::raft::peer_id::{incarnation_of, node_of, peer_id};
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};
use routing::NodeId;
use std::collections::BTreeMap;

/// The newest known incarnation of each other node of the shard.
///
/// * It has an entry for each node that the cluster file gives the shard, except the own node: a
///   replica does not change its own membership. No other node can be a member.
/// * An incarnation only rises. None in the configuration is above it.
pub(crate) struct Incarnations(BTreeMap<NodeId, u32>);

impl Incarnations {
    /// Of the shard's `nodes`, as far as its configuration tells.
    pub(crate) fn new(own: NodeId, nodes: &[NodeId], conf: &ConfState) -> Incarnations {
        let others = nodes.iter().filter(|node| **node != own);
        let mut incarnations = Incarnations(others.map(|node| (*node, 0)).collect());
        incarnations.learn_members(conf);
        incarnations
    }

    /// Notes an incarnation, unless a later one is known or the node is not of this shard.
    pub(crate) fn learn(&mut self, node: NodeId, incarnation: u32) {
        if let Some(known) = self.0.get_mut(&node) {
            *known = incarnation.max(*known);
        }
    }

    /// Notes the incarnations of all members. A former leader may have known of more than this
    /// replica.
    pub(crate) fn learn_members(&mut self, conf: &ConfState) {
        for id in members(conf) {
            self.learn(node_of(id), incarnation_of(id));
        }
    }

    /// Whether this id is that of another node of the shard, and of no replaced replica.
    ///
    /// It need not be a member in this replica's configuration: a replica that lags gets messages
    /// from members that were taken in since (Raft thesis, 4.1).
    pub(crate) fn is_current(&self, id: u64) -> bool {
        self.0.get(&node_of(id)).is_some_and(|known| incarnation_of(id) >= *known)
    }
}

/// The change that a leader should propose next, if any: for the first node that lacks its newest
/// replica among the voters, and that a change can bring further now.
///
/// `caught_up` tells for a Raft id whether that member is caught up.
pub(crate) fn next_change(
    conf: &ConfState,
    wanted: &Incarnations,
    caught_up: impl Fn(u64) -> bool,
) -> Option<ConfChange> {
    wanted.0.iter().find_map(|(&node, &incarnation)| {
        let newest = peer_id(node, incarnation);
        let older =
            |ids: &[u64]| ids.iter().copied().find(|&id| node_of(id) == node && id < newest);
        if let Some(replaced) = older(&conf.learners) {
            return Some(change(ConfChangeType::RemoveNode, replaced));
        }
        if conf.voters.contains(&newest) {
            return None;
        }
        if !conf.learners.contains(&newest) {
            return Some(change(ConfChangeType::AddLearnerNode, newest));
        }
        if !caught_up(newest) {
            return None;
        }
        Some(match older(&conf.voters) {
            Some(replaced) => change(ConfChangeType::RemoveNode, replaced),
            None => change(ConfChangeType::AddNode, newest),
        })
    })
}

fn change(kind: ConfChangeType, id: u64) -> ConfChange {
    let mut change = ConfChange { node_id: id, ..Default::default() };
    change.set_change_type(kind);
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::conf_state::check_conf;
    use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};

    const OWN: NodeId = NodeId(1);

    fn id(node: u64, incarnation: u32) -> u64 {
        peer_id(NodeId(node), incarnation)
    }

    fn conf(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..Default::default() }
    }

    fn heard(conf: &ConfState, told: &[(u64, u32)]) -> Incarnations {
        let mut incarnations = Incarnations::new(OWN, &[1, 2, 3].map(NodeId), conf);
        told.iter().for_each(|(node, incarnation)| incarnations.learn(NodeId(*node), *incarnation));
        incarnations
    }

    fn next(
        conf: &ConfState,
        told: &[(u64, u32)],
        caught_up: &[u64],
    ) -> Option<(ConfChangeType, u64)> {
        let change = next_change(conf, &heard(conf, told), |id| caught_up.contains(&id))?;
        Some((change.change_type(), change.node_id))
    }

    #[test]
    fn a_replaced_replica_comes_in_as_a_learner_and_takes_the_place_of_the_old_one() {
        let (old, new) = (id(3, 0), id(3, 7));
        let told = [(3, 7)];
        assert_eq!(next(&conf(&[1, 2, old], &[]), &[], &[old]), None, "nobody was replaced");
        assert_eq!(next(&conf(&[1, 2, old], &[]), &told, &[]), Some((AddLearnerNode, new)));
        assert_eq!(next(&conf(&[1, 2, old], &[new]), &told, &[old]), None, "it has not caught up");
        assert_eq!(next(&conf(&[1, 2, old], &[new]), &told, &[new]), Some((RemoveNode, old)));
        assert_eq!(next(&conf(&[1, 2], &[new]), &told, &[]), None, "it has not caught up any more");
        assert_eq!(next(&conf(&[1, 2], &[new]), &told, &[new]), Some((AddNode, new)));
        assert_eq!(next(&conf(&[1, 2, new], &[]), &told, &[new]), None);
    }

    #[test]
    fn a_leader_that_was_not_told_goes_on_from_what_the_members_show() {
        let new = id(3, 7);
        for told in [&[][..], &[(3, 5)]] {
            assert_eq!(
                next(&conf(&[1, 2, id(3, 0)], &[new]), told, &[new]),
                Some((RemoveNode, id(3, 0)))
            );
            assert_eq!(next(&conf(&[1, 2], &[new]), told, &[new]), Some((AddNode, new)));
            assert_eq!(next(&conf(&[1, 2, new], &[]), told, &[new]), None);
        }
    }

    #[test]
    fn who_was_lost_again_on_the_way_is_removed_first() {
        let (old, lost, new) = (id(3, 0), id(3, 7), id(3, 8));
        let told = [(3, 8)];
        assert_eq!(next(&conf(&[1, 2, old], &[lost]), &told, &[lost]), Some((RemoveNode, lost)));
        assert_eq!(next(&conf(&[1, 2], &[lost]), &told, &[lost]), Some((RemoveNode, lost)));
        assert_eq!(next(&conf(&[1, 2], &[]), &told, &[]), Some((AddLearnerNode, new)));
        assert_eq!(next(&conf(&[1, 2, lost], &[]), &told, &[lost]), Some((AddLearnerNode, new)));
    }

    #[test]
    fn a_node_that_cannot_be_helped_does_not_hold_up_another() {
        let conf = conf(&[1, id(2, 0), id(3, 0)], &[id(2, 7)]);
        assert_eq!(next(&conf, &[(2, 7), (3, 8)], &[]), Some((AddLearnerNode, id(3, 8))));
    }

    #[test]
    fn the_own_node_and_strangers_are_nobodys_business() {
        let conf = conf(&[1, 2, 3], &[]);
        assert_eq!(next(&conf, &[(1, 7), (4, 7)], &[]), None);
        let incarnations = heard(&conf, &[(1, 7), (3, 7)]);
        let is_current = |of, incarnation| incarnations.is_current(id(of, incarnation));
        assert!(is_current(2, 0) && is_current(2, 1) && is_current(3, 7) && is_current(3, 8));
        assert!(!is_current(3, 0) && !is_current(3, 6), "replaced");
        assert!(
            !is_current(1, 0) && !is_current(1, 7) && !is_current(4, 0),
            "itself, and a stranger"
        );
    }

    /// Incarnations are learned in any order, with changes from former leaders between. Each step
    /// is one simple change, leaves a configuration that passes the check, and in the end all are
    /// voters.
    #[test]
    fn every_way_leads_to_all_newest_incarnations_by_legal_steps() {
        for seed in 0..2_000u64 {
            let mut random = seed;
            let mut below = |n: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % n
            };
            let mut conf = conf(&[1, 2, 3], &[]);
            let mut told = [(2, 0), (3, 0)];
            for step in 0.. {
                assert!(step < 200, "seed {seed}: never done: {conf:?}, {told:?}");
                if step < 20 && below(4) == 0 {
                    told[below(2) as usize].1 += 1;
                }
                let all = step >= 20;
                let lucky = below(2) == 0;
                // Leaders have not all heard the same.
                let heard_of: Vec<(u64, u32)> =
                    told.iter().copied().filter(|_| all || below(2) == 0).collect();
                let wanted = heard(&conf, &heard_of);
                let Some(change) = next_change(&conf, &wanted, |_| all || lucky) else {
                    if all {
                        break;
                    }
                    continue;
                };
                let (id, kind) = (change.node_id, change.change_type());
                let before = conf.voters.clone();
                conf.voters.retain(|voter| *voter != id);
                conf.learners.retain(|learner| *learner != id);
                match kind {
                    AddNode => conf.voters.push(id),
                    AddLearnerNode => conf.learners.push(id),
                    RemoveNode => {}
                }
                assert!(before.len().abs_diff(conf.voters.len()) <= 1);
                assert!(
                    kind != AddLearnerNode || !before.contains(&id),
                    "seed {seed}: a voter was demoted"
                );
                assert_eq!(check_conf(&conf), Ok(()), "seed {seed}: {conf:?}");
            }
            let mut voters = conf.voters.clone();
            voters.sort_unstable();
            let mut newest = vec![1, id(told[0].0, told[0].1), id(told[1].0, told[1].1)];
            newest.sort_unstable();
            assert_eq!((voters, conf.learners.len()), (newest, 0), "seed {seed}");
        }
    }
}
