//! Who belongs to the group, and how a node that lost its data comes back into it.
//!
//! A replica that lost its log has forgotten votes and acknowledgements that others count on. Under its old name it could
//! help to elect a leader that lacks an acknowledged entry. So it comes back under a new one, its node's next incarnation,
//! which no member of the group has heard of yet, and the leader takes it in, by entries in the log:
//!
//! 1. a learner gets the log and has no vote;
//! 2. once it has caught up, the voter that it replaces is removed;
//! 3. and it becomes a voter.
//!
//! Each is one simple change, proposed only when the one before is applied, so that a quorum of each configuration meets
//! every quorum of the next. raft-rs changes its configuration when an entry is applied, not when it is appended. That is sound
//! as long as nobody campaigns who is more than one change behind its own log: whoever has entry k + 1 was told with it that
//! change k is committed, must still know that after a restart (`ready.rs` writes the commit index with every synced
//! write), and does not campaign before it has applied what is committed.
//!
//! With more than a minority lost at once no quorum of the old members is left: nothing is changed, and nothing served.
//!
//! This knows nothing of how a node comes by its incarnation, or of when an old one has ceased to be: it is told.

use crate::api::{Fatal, Member};
use crate::peer::{incarnation_of, node_of, peer_id};
use crate::replica::Replica;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType};
use raft_prost::Message as _;
use routing::NodeId;
use std::collections::BTreeMap;

/// The newest incarnation heard of, for each other node of the shard.
///
/// * Has an entry for each node of the cluster file that shares the shard, the own one left out: nobody changes its own
///   membership, and nobody else has any.
/// * An incarnation only ever rises. None of the configuration is above it.
pub(crate) struct Incarnations(BTreeMap<NodeId, u32>);

impl Incarnations {
    pub(crate) fn new(own: NodeId, nodes: &[NodeId], conf: &ConfState) -> Incarnations {
        let others = nodes.iter().filter(|node| **node != own);
        let mut incarnations = Incarnations(others.map(|node| (*node, 0)).collect());
        incarnations.learn_members(conf);
        incarnations
    }

    pub(crate) fn learn(&mut self, node: NodeId, incarnation: u32) {
        if let Some(known) = self.0.get_mut(&node) {
            *known = incarnation.max(*known);
        }
    }

    /// A leader before this one may have heard of more than this replica has.
    pub(crate) fn learn_members(&mut self, conf: &ConfState) {
        for id in members(conf) {
            self.learn(node_of(id), incarnation_of(id));
        }
    }

    /// Whether this is a replica of another node of the shard, and none that has been replaced. It need not be a member as far
    /// as is known here: who lags behind hears from members that were taken in since (Raft thesis, 4.1).
    pub(crate) fn may_speak(&self, id: u64) -> bool {
        self.0.get(&node_of(id)).is_some_and(|known| incarnation_of(id) >= *known)
    }
}

/// What a leader should propose next, if anything: for the first node that is not yet as it should be, and can be helped.
/// `caught_up` tells of a peer id whether its log is level with the leader's.
pub(crate) fn next_change(
    conf: &ConfState,
    wanted: &Incarnations,
    caught_up: impl Fn(u64) -> bool,
) -> Option<ConfChange> {
    wanted.0.iter().find_map(|(&node, &incarnation)| {
        let newest = peer_id(node, incarnation);
        let older = |ids: &[u64]| ids.iter().copied().find(|&id| node_of(id) == node && id < newest);
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

/// What is wrong with a configuration, if it is none that these changes lead to. raft-rs panics on some that are not.
///
/// * It has a voter, and is not joint: changes are simple.
/// * Of a node it has one voter at most, and one learner, of a later incarnation.
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

/// Voters and learners.
fn members(conf: &ConfState) -> impl Iterator<Item = u64> {
    conf.voters.iter().chain(&conf.learners).copied()
}

fn change(kind: ConfChangeType, id: u64) -> ConfChange {
    let mut change = ConfChange { node_id: id, ..Default::default() };
    change.set_change_type(kind);
    change
}

impl Replica {
    /// As of the applied index.
    pub(crate) fn members(&self) -> Vec<Member> {
        let conf = self.raw.store().conf_state();
        let member =
            |id| Member { node: node_of(id), incarnation: incarnation_of(id), learner: conf.learners.contains(&id) };
        let mut members: Vec<Member> = members(conf).map(member).collect();
        members.sort_unstable();
        members
    }

    /// The members on this node: while it is being re-seeded there may be two, who is replaced and who comes.
    pub(crate) fn members_on(&self, node: NodeId) -> Vec<u64> {
        members(self.raw.store().conf_state()).filter(|id| node_of(*id) == node).collect()
    }

    /// Which member on this node has a vote.
    pub(crate) fn voter_on(&self, node: NodeId) -> Option<u64> {
        self.raw.store().conf_state().voters.iter().copied().find(|id| node_of(*id) == node)
    }

    /// Whether a member that is heard of has as good as all of the log, as far as a leader knows.
    ///
    /// It is measured against what was committed a tick ago, or up to two: on a busy shard nobody is ever level with this very
    /// moment, and spare followers (`spare.rs`) on purpose. It decides only how long a group waits for its new voter's log, and
    /// how long a new leader's takes to become complete, not what is safe.
    pub(crate) fn is_level(&self, progress: &raft::Progress) -> bool {
        progress.recent_active && progress.matched > 0 && progress.matched >= self.committed_at_ticks[0]
    }

    /// On a leader, once per tick: proposes the next change, if one is due and none is under way.
    pub(crate) fn change_membership(&mut self) {
        let raft = &self.raw.raft;
        // What stands in the log of former leaders must be settled first: a change of theirs could be among it.
        if self.lead.is_none() || raft.has_pending_conf() || !raft.commit_to_current_term() {
            return;
        }
        let caught_up = |id| raft.prs().get(id).is_some_and(|progress| self.is_level(progress));
        let Some(change) = next_change(self.raw.store().conf_state(), &self.incarnations, caught_up) else { return };
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let (of, incarnation) = (node_of(change.node_id).0, incarnation_of(change.node_id));
        match self.raw.propose_conf_change(Vec::new(), change.clone()) {
            Ok(()) => {
                tracing::info!(shard, node, of, incarnation, change = ?change.change_type(), "proposed a change of members");
            }
            // Leadership is being handed on, or too much is uncommitted: the next tick tries again.
            Err(error) => tracing::debug!(shard, node, of, incarnation, "no change of members for now: {error}"),
        }
    }

    /// A committed change takes effect, on every replica at the same place in the log.
    pub(crate) fn apply_conf_change(&mut self, entry: &Entry) -> Result<(), Fatal> {
        let malformed = |what: &dyn std::fmt::Display| format!("entry {}, a change of members: {what}", entry.index);
        let applied = match entry.entry_type() {
            EntryType::EntryConfChangeV2 => {
                let change = ConfChangeV2::decode(entry.data.as_ref()).map_err(|e| self.fatal(malformed(&e)))?;
                self.raw.apply_conf_change(&change)
            }
            _ => {
                let change = ConfChange::decode(entry.data.as_ref()).map_err(|e| self.fatal(malformed(&e)))?;
                self.raw.apply_conf_change(&change)
            }
        };
        let mut conf = applied.map_err(|e| self.fatal(malformed(&e)))?;
        check_conf(&conf).map_err(|e| self.fatal(malformed(&e)))?;
        // Out of a hash table; these bytes are stored, and should not differ between replicas.
        conf.voters.sort_unstable();
        conf.learners.sort_unstable();
        self.incarnations.learn_members(&conf);
        self.raw.mut_store().set_conf_state(conf);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn next(conf: &ConfState, told: &[(u64, u32)], caught_up: &[u64]) -> Option<(ConfChangeType, u64)> {
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
            assert_eq!(next(&conf(&[1, 2, id(3, 0)], &[new]), told, &[new]), Some((RemoveNode, id(3, 0))));
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
        let may_speak = |of, incarnation| incarnations.may_speak(id(of, incarnation));
        assert!(may_speak(2, 0) && may_speak(2, 1) && may_speak(3, 7) && may_speak(3, 8));
        assert!(!may_speak(3, 0) && !may_speak(3, 6), "replaced");
        assert!(!may_speak(1, 0) && !may_speak(1, 7) && !may_speak(4, 0), "itself, and a stranger");
    }

    /// Whatever is heard and in whatever order, with changes from anywhere between: each step is one change that raft-rs takes as
    /// a simple one, leaves a configuration that passes the check, and in the end everybody is in.
    #[test]
    fn every_way_leads_to_all_newest_incarnations_by_legal_steps() {
        for seed in 0..2_000u64 {
            let mut random = seed;
            let mut below = |n: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
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
                let heard_of: Vec<(u64, u32)> = told.iter().copied().filter(|_| all || below(2) == 0).collect();
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
                assert!(kind != AddLearnerNode || !before.contains(&id), "seed {seed}: a voter was demoted");
                assert_eq!(check_conf(&conf), Ok(()), "seed {seed}: {conf:?}");
            }
            let mut voters = conf.voters.clone();
            voters.sort_unstable();
            let mut newest = vec![1, id(told[0].0, told[0].1), id(told[1].0, told[1].1)];
            newest.sort_unstable();
            assert_eq!((voters, conf.learners.len()), (newest, 0), "seed {seed}");
        }
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
