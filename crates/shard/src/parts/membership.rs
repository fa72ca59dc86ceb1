//! The next change of a group's members: so that a node that lost its data comes back, and so that
//! the group has the members that its log wants.
//!
//! # A node that lost its data
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
//! # Members that the log wants
//!
//! A wish (`parts/group.rs`) names the members by node and birth. Without one, they are the nodes
//! of the cluster file. A leader changes the members one by one, always by the first rule that
//! applies:
//!
//! 1. A learner that is not wanted goes.
//! 2. A wanted replica that is missing comes as a learner. If an earlier life of it is a member and
//!    lives, that one goes first, because a node has one replica of a shard at a time; one after the
//!    other, as long as no voter is missing.
//! 3. A wanted learner that is caught up becomes a voter, as long as there is at most one voter more
//!    than wanted. If an earlier life of it votes, which is lost then, that one goes first.
//! 4. A voter that is not wanted goes, once there are more voters than wanted: first those that are
//!    silent, and only if a quorum of the voters that are left was heard of.
//! 5. A leader that is not wanted offers leadership to the wanted voters that are caught up, one after
//!    the other. The one that takes it removes the former leader.
//! 6. If a later life of the leader is wanted, the last other voter does not go. It is offered
//!    leadership, although it is not wanted.
//!
//! ```text
//!              voters        learners     nodes 1, 2 and 4 are wanted
//!              1 2 3
//!  AddLearner  1 2 3         4            until it is caught up
//!  AddNode     1 2 3 4
//!  RemoveNode  1 2 4
//! ```
//!
//! How it goes wrong if a leader removes itself: raft-rs lets it lead on. It sends heartbeats, so
//! that no other replica campaigns, and accepts nothing.
//!
//! How it goes wrong if a voter that lives goes before a silent one: of five voters two are silent,
//! and three are a quorum of five and of four. If one of the three goes, two of four are left.
//!
//! How it goes wrong if that last voter goes: life 1⁰ leads 2 and 3, and a later life of node 1 is
//! wanted alone. Once 2 and 3 are gone, 1⁰ is the only voter. It cannot make room for the next life,
//! because a group needs a voter, and a node has one replica of it.
//!
//! # Why this is sound
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

use crate::parts::group::Wanted;
use crate::planted_bugs;
use crate::raft::conf_state::members;
use crate::raft::peer_id::{incarnation_of, node_of, peer_id};
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};
use routing::NodeId;
use std::collections::BTreeMap;

/// The newest known incarnation of each other node: no earlier life there has its votes and
/// acknowledgements any more.
///
/// * It has no entry for the own node: a replica does not change its own membership.
/// * An incarnation only rises. None in the configuration is above it.
pub(crate) struct Incarnations {
    own: NodeId,
    known: BTreeMap<NodeId, u32>,
}

impl Incarnations {
    /// As far as the configuration of a replica on the node `own` tells.
    pub(crate) fn new(own: NodeId, conf: &ConfState) -> Incarnations {
        let mut incarnations = Incarnations { own, known: BTreeMap::new() };
        incarnations.learn_members(conf);
        incarnations
    }

    /// Notes an incarnation, unless a later one is known.
    pub(crate) fn learn(&mut self, node: NodeId, incarnation: u32) {
        if node != self.own {
            let known = self.known.entry(node).or_default();
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

    /// Whether this id is that of another node's replica, and of none that was replaced.
    ///
    /// It need not be a member in this replica's configuration, nor on a node of the cluster file: a
    /// replica that lags gets messages from members that were taken in since (Raft thesis, 4.1).
    pub(crate) fn is_current(&self, id: u64) -> bool {
        let node = node_of(id);
        node.0 != 0 && node != self.own && !self.is_replaced(id)
    }

    /// Whether this replica has ceased to be, because its node has a later one.
    fn is_replaced(&self, id: u64) -> bool {
        self.known.get(&node_of(id)).is_some_and(|known| incarnation_of(id) < *known)
    }
}

/// The members that a group shall have: each node's birth, at least.
///
/// A re-seed of a wanted node makes it wanted with its new incarnation.
pub(crate) struct Targets(BTreeMap<NodeId, u32>);

impl Targets {
    /// Of the wish, or of the cluster file's `nodes` if there is none, for the replica `own`.
    pub(crate) fn new(
        wanted: Option<&Wanted>,
        nodes: &[NodeId],
        incarnations: &Incarnations,
        own: u64,
    ) -> Targets {
        let mut births = match wanted {
            Some(wanted) => wanted.members().clone(),
            None => nodes.iter().map(|node| (*node, 0)).collect(),
        };
        for (node, birth) in &mut births {
            let known = incarnations.known.get(node).copied();
            let own = (*node == node_of(own)).then_some(incarnation_of(own));
            *birth = (*birth).max(known.or(own).unwrap_or(0));
        }
        Targets(births)
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.0.get(&node_of(id)) == Some(&incarnation_of(id))
    }

    /// Whether a later life of this replica is wanted on its node.
    fn has_later(&self, id: u64) -> bool {
        self.0.get(&node_of(id)).is_some_and(|birth| *birth > incarnation_of(id))
    }
}

/// What a leader should do next for the members.
#[derive(Debug)]
pub(crate) enum Next {
    /// Propose this change.
    Change(ConfChange),
    /// Hand leadership to this voter, by Raft's id.
    HandOver(u64),
}

/// What a leader knows of a member, by Raft's id.
pub(crate) struct Seen<C, H> {
    /// Whether that member is caught up.
    pub caught_up: C,
    /// Whether that member answered lately. `None`: this leadership is too young to tell.
    pub heard: H,
    /// The voter that was offered leadership last, or 0. It has not taken it.
    pub offered: u64,
}

/// The next step of the leader `leader`, by the rules of this module, if any is possible now.
pub(crate) fn next_change<C, H>(
    conf: &ConfState,
    targets: &Targets,
    incarnations: &Incarnations,
    leader: u64,
    seen: &Seen<C, H>,
) -> Option<Next>
where
    C: Fn(u64) -> bool,
    H: Fn(u64) -> Option<bool>,
{
    let unwanted_learner = conf.learners.iter().find(|id| !targets.0.contains_key(&node_of(**id)));
    if let Some(&id) = unwanted_learner {
        return Some(change(ConfChangeType::RemoveNode, id));
    }
    let mut others = targets.0.iter().filter(|(node, _)| **node != node_of(leader));
    let comes = others.find_map(|(&node, &birth)| {
        let newest = peer_id(node, birth);
        let older = |ids: &[u64]| {
            ids.iter().copied().find(|&id| node_of(id) == node && incarnation_of(id) != birth)
        };
        if let Some(replaced) = older(&conf.learners) {
            return Some(change(ConfChangeType::RemoveNode, replaced));
        }
        let former = older(&conf.voters);
        if conf.voters.contains(&newest) || former.is_some_and(|id| !incarnations.is_replaced(id)) {
            return None;
        }
        if !conf.learners.contains(&newest) {
            return Some(change(ConfChangeType::AddLearnerNode, newest));
        }
        if !planted_bugs::is_caught_up((seen.caught_up)(newest)) {
            return None;
        }
        match former {
            Some(replaced) => Some(change(ConfChangeType::RemoveNode, replaced)),
            None if conf.voters.len() > targets.0.len() => None,
            None => Some(change(ConfChangeType::AddNode, newest)),
        }
    });
    comes.or_else(|| next_to_go(conf, targets, incarnations, leader, seen))
}

/// The voter that goes next because it is not wanted (rules 4 and 5).
fn next_to_go<C, H>(
    conf: &ConfState,
    targets: &Targets,
    incarnations: &Incarnations,
    leader: u64,
    seen: &Seen<C, H>,
) -> Option<Next>
where
    C: Fn(u64) -> bool,
    H: Fn(u64) -> Option<bool>,
{
    let has_replacement = conf.voters.len() > targets.0.len();
    // A life that is lost goes by rule 3, once the next one is caught up. If no voter is missing yet,
    // one that lives makes room for the next.
    let makes_room = |id: u64| {
        targets.has_later(id)
            && !incarnations.is_replaced(id)
            && conf.voters.len() >= targets.0.len()
    };
    let may_go = |id: u64| !targets.contains(id) && (has_replacement || makes_room(id));
    let heard = |id: u64| if id == leader { Some(true) } else { (seen.heard)(id) };
    let going: Vec<u64> = conf.voters.iter().copied().filter(|id| may_go(*id)).collect();
    let mut by_silence = Vec::new();
    for &id in going.iter().filter(|id| planted_bugs::may_remove(**id != leader)) {
        by_silence.push((planted_bugs::goes_after(heard(id)?), id));
    }
    let Some((_, id)) = by_silence.into_iter().min() else {
        let able = |id: &u64| *id != leader && targets.contains(*id) && (seen.caught_up)(*id);
        let able = conf.voters.iter().copied().filter(able);
        // A voter that cannot win an election, because others do not hear it, must not get every
        // offer.
        let successor = able.min_by_key(|id| (*id <= seen.offered, *id));
        return successor.filter(|_| going.contains(&leader)).map(Next::HandOver);
    };
    let left: Vec<u64> = conf.voters.iter().copied().filter(|voter| *voter != id).collect();
    if left == [leader] && targets.has_later(leader) {
        return (seen.caught_up)(id).then_some(Next::HandOver(id));
    }
    let heard_of = left.iter().filter(|id| heard(**id) == Some(true)).count();
    (heard_of > left.len() / 2).then(|| change(ConfChangeType::RemoveNode, id))
}

fn change(kind: ConfChangeType, id: u64) -> Next {
    let mut change = ConfChange { node_id: id, ..Default::default() };
    change.set_change_type(kind);
    Next::Change(change)
}

#[cfg(test)]
mod tests;
