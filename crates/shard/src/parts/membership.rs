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
//!    lives, that one goes first, because a node has one replica of a shard at a time.
//! 3. A wanted learner that is caught up becomes a voter, as long as there is at most one voter more
//!    than wanted. If an earlier life of it votes, which is lost then, that one goes first.
//! 4. A voter that is not wanted goes, once another has taken its place: first those that are
//!    silent, and only if a quorum of the voters that are left was heard of.
//! 5. A leader that is not wanted hands leadership to a wanted voter. That one removes it.
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
        node_of(id) != self.own && !self.is_replaced(id)
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

    fn contains(&self, id: u64) -> bool {
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
    // A life that is lost goes by rule 3, once the next one is caught up.
    let makes_room = |id: u64| targets.has_later(id) && !incarnations.is_replaced(id);
    let may_go = |id: u64| !targets.contains(id) && (has_replacement || makes_room(id));
    let heard = |id: u64| if id == leader { Some(true) } else { (seen.heard)(id) };
    let going: Vec<u64> = conf.voters.iter().copied().filter(|id| may_go(*id)).collect();
    let mut by_silence = Vec::new();
    for &id in going.iter().filter(|id| planted_bugs::may_remove(**id != leader)) {
        by_silence.push((heard(id)?, id));
    }
    let Some((_, id)) = by_silence.into_iter().min() else {
        let mut wanted = conf.voters.iter().copied().filter(|id| targets.contains(*id));
        let successor = wanted.find(|id| *id != leader && (seen.caught_up)(*id));
        return successor.filter(|_| going.contains(&leader)).map(Next::HandOver);
    };
    let left: Vec<u64> = conf.voters.iter().copied().filter(|voter| *voter != id).collect();
    let heard_of = left.iter().filter(|id| heard(**id) == Some(true)).count();
    (heard_of > left.len() / 2).then(|| change(ConfChangeType::RemoveNode, id))
}

fn change(kind: ConfChangeType, id: u64) -> Next {
    let mut change = ConfChange { node_id: id, ..Default::default() };
    change.set_change_type(kind);
    Next::Change(change)
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
        let mut incarnations = Incarnations::new(OWN, conf);
        told.iter().for_each(|(node, incarnation)| incarnations.learn(NodeId(*node), *incarnation));
        incarnations
    }

    fn next(
        conf: &ConfState,
        told: &[(u64, u32)],
        caught_up: &[u64],
    ) -> Option<(ConfChangeType, u64)> {
        let incarnations = heard(conf, told);
        let targets = Targets::new(None, &[1, 2, 3].map(NodeId), &incarnations, 1);
        let seen = Seen { caught_up: |id| caught_up.contains(&id), heard: |_| None };
        match next_change(conf, &targets, &incarnations, 1, &seen)? {
            Next::Change(change) => Some((change.change_type(), change.node_id)),
            Next::HandOver(to) => panic!("leadership goes to {to}"),
        }
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
        let incarnations = heard(&conf, &[(1, 7), (3, 7), (4, 7)]);
        let is_current = |of, incarnation| incarnations.is_current(id(of, incarnation));
        assert!(is_current(2, 0) && is_current(2, 1) && is_current(3, 7) && is_current(3, 8));
        assert!(!is_current(3, 0) && !is_current(3, 6), "replaced");
        assert!(!is_current(1, 0) && !is_current(1, 7), "itself");
        assert!(
            !is_current(4, 0) && is_current(4, 7),
            "a member that this replica has not heard of, and its former life"
        );
    }

    /// A step of node 1 as leader, in a group that wants `wanted`. Voters are heard of as `heard`
    /// tells by Raft's id.
    fn step(
        conf: &ConfState,
        wanted: &[(u64, u32)],
        caught_up: &[u64],
        heard: impl Fn(u64) -> Option<bool>,
    ) -> Option<(Option<ConfChangeType>, u64)> {
        let incarnations = Incarnations::new(OWN, conf);
        let members = wanted.iter().map(|(node, birth)| (NodeId(*node), *birth));
        let wanted = Wanted::new(1, members).expect("a wish that can be");
        let targets = Targets::new(Some(&wanted), &[1, 2, 3].map(NodeId), &incarnations, 1);
        let seen = Seen { caught_up: |id| caught_up.contains(&id), heard };
        Some(match next_change(conf, &targets, &incarnations, 1, &seen)? {
            Next::Change(change) => (Some(change.change_type()), change.node_id),
            Next::HandOver(to) => (None, to),
        })
    }

    fn all(_: u64) -> Option<bool> {
        Some(true)
    }

    #[test]
    fn a_voter_goes_once_another_has_taken_its_place() {
        let new = id(4, 9);
        let wanted = [(1, 0), (2, 0), (4, 9)];
        let step = |voters: &[u64], learners: &[u64], caught_up: &[u64]| {
            step(&conf(voters, learners), &wanted, caught_up, |id| Some(id != 3))
        };
        assert_eq!(step(&[1, 2, 3], &[], &[]), Some((Some(AddLearnerNode), new)));
        assert_eq!(step(&[1, 2, 3], &[new], &[]), None, "it has not caught up");
        assert_eq!(step(&[1, 2, 3], &[new], &[new]), Some((Some(AddNode), new)));
        assert_eq!(step(&[1, 2, 3, new], &[], &[new]), Some((Some(RemoveNode), 3)));
        assert_eq!(step(&[1, 2, new], &[], &[new]), None);
        assert_eq!(step(&[1, 2, new], &[5], &[]), Some((Some(RemoveNode), 5)), "nobody wants it");
    }

    #[test]
    fn a_silent_voter_goes_before_one_that_lives_and_only_if_a_quorum_is_left() {
        let five = conf(&[1, 2, 3, 4, 5], &[]);
        let wanted = [(1, 0), (2, 0), (3, 0)];
        let silent = |silent: &'static [u64]| {
            step(&five, &wanted, &[], move |id| Some(!silent.contains(&id)))
        };
        assert_eq!(silent(&[]), Some((Some(RemoveNode), 4)));
        assert_eq!(silent(&[5]), Some((Some(RemoveNode), 5)));
        assert_eq!(silent(&[2, 5]), Some((Some(RemoveNode), 5)), "three of four are left");
        assert_eq!(silent(&[2, 3]), None, "two of four would be left");
        assert_eq!(step(&five, &wanted, &[], |id| (id != 5).then_some(true)), None, "too early");
    }

    #[test]
    fn at_most_one_voter_more_than_wanted() {
        let wanted = [(1, 0), (4, 0), (5, 0)];
        let step =
            |voters: &[u64], learners: &[u64]| step(&conf(voters, learners), &wanted, &[4, 5], all);
        assert_eq!(step(&[1, 2, 3], &[4, 5]), Some((Some(AddNode), 4)));
        assert_eq!(step(&[1, 2, 3, 4], &[5]), Some((Some(RemoveNode), 2)));
        assert_eq!(step(&[1, 3, 4], &[5]), Some((Some(AddNode), 5)));
        assert_eq!(step(&[1, 3, 4, 5], &[]), Some((Some(RemoveNode), 3)));
    }

    #[test]
    fn a_leader_that_is_not_wanted_goes_last_and_not_by_its_own_hand() {
        let wanted = [(2, 0), (3, 0), (4, 0)];
        let step =
            |voters: &[u64], caught_up: &[u64]| step(&conf(voters, &[]), &wanted, caught_up, all);
        assert_eq!(step(&[1, 2, 3, 4, 5], &[2]), Some((Some(RemoveNode), 5)));
        assert_eq!(step(&[1, 2, 3, 4], &[]), None, "no successor has caught up");
        assert_eq!(step(&[1, 2, 3, 4], &[3]), Some((None, 3)));
    }

    /// The node has one replica of the shard at a time, so the later one cannot catch up before.
    #[test]
    fn a_life_that_is_wanted_no_more_goes_before_the_next_one_comes() {
        let wanted = [(1, 0), (2, 0), (3, 9)];
        let step = |voters: &[u64], heard: Option<bool>| {
            step(
                &conf(voters, &[]),
                &wanted,
                &[],
                move |id| if id == 3 { heard } else { Some(true) },
            )
        };
        assert_eq!(step(&[1, 2, 3], Some(true)), Some((Some(RemoveNode), 3)));
        assert_eq!(step(&[1, 2, 3], Some(false)), Some((Some(RemoveNode), 3)));
        assert_eq!(step(&[1, 2], None), Some((Some(AddLearnerNode), id(3, 9))));
    }

    /// A pseudo-random number below another, from a seed.
    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        }
    }

    /// Makes one change, and checks that it was a legal one.
    fn apply(conf: &mut ConfState, change: &ConfChange, seed: u64) {
        let (id, before) = (change.node_id, conf.voters.clone());
        conf.voters.retain(|voter| *voter != id);
        conf.learners.retain(|learner| *learner != id);
        match change.change_type() {
            AddNode => conf.voters.push(id),
            AddLearnerNode => conf.learners.push(id),
            RemoveNode => {}
        }
        assert!(before.len().abs_diff(conf.voters.len()) <= 1);
        assert!(
            change.change_type() != AddLearnerNode || !before.contains(&id),
            "seed {seed}: a voter was demoted"
        );
        assert_eq!(check_conf(conf), Ok(()), "seed {seed}: {conf:?}");
    }

    /// Incarnations are learned in any order, with changes from former leaders between. Each step
    /// is one simple change, leaves a configuration that passes the check, and in the end all are
    /// voters.
    #[test]
    fn every_way_leads_to_all_newest_incarnations_by_legal_steps() {
        for seed in 0..2_000u64 {
            let mut below = random(seed);
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
                let incarnations = heard(&conf, &heard_of);
                let targets = Targets::new(None, &[1, 2, 3].map(NodeId), &incarnations, 1);
                let seen = Seen { caught_up: |_| all || lucky, heard: |_| None };
                match next_change(&conf, &targets, &incarnations, 1, &seen) {
                    Some(Next::Change(change)) => apply(&mut conf, &change, seed),
                    Some(Next::HandOver(_)) => panic!("seed {seed}: a static group"),
                    None if all => break,
                    None => {}
                }
            }
            let mut voters = conf.voters.clone();
            voters.sort_unstable();
            let mut newest = vec![1, id(told[0].0, told[0].1), id(told[1].0, told[1].1)];
            newest.sort_unstable();
            assert_eq!((voters, conf.learners.len()), (newest, 0), "seed {seed}");
        }
    }

    /// Wishes change at random, nodes die and come back or lose their data, and leadership moves.
    /// Each step is one simple change with a quorum of living voters after it. A voter that lives
    /// never goes while a dead one could. In the end the members are as wanted.
    #[test]
    fn every_way_leads_to_the_wanted_members_and_keeps_a_quorum() {
        const NODES: u64 = 6;
        for seed in 0..3_000u64 {
            let mut below = random(seed);
            let mut conf = conf(&[1, 2, 3], &[]);
            let mut births = [0u32; NODES as usize + 1];
            let mut wanted: BTreeMap<NodeId, u32> = (1..=3).map(|id| (NodeId(id), 0)).collect();
            // The Raft ids that answer nobody, and the nodes that lost their data.
            let (mut dead, mut told): (Vec<u64>, Vec<(u64, u32)>) = (Vec::new(), Vec::new());
            for step in 0.. {
                assert!(step < 400, "seed {seed}: never done: {conf:?}, wanted {wanted:?}");
                let calm = step >= 40;
                if calm {
                    dead.retain(|id| {
                        told.iter().any(|(n, i)| node_of(*id).0 == *n && incarnation_of(*id) < *i)
                    });
                } else if below(4) == 0 {
                    let count = 1 + 2 * below(3);
                    let mut next = BTreeMap::new();
                    while (next.len() as u64) < count {
                        let node = 1 + below(NODES);
                        let voter = conf.voters.iter().find(|id| node_of(**id).0 == node);
                        let birth = match (wanted.get(&NodeId(node)), voter) {
                            // A group of one cannot replace its only replica on the same node.
                            (_, Some(voter)) if count == 1 => incarnation_of(*voter),
                            (Some(birth), _) if below(5) > 0 => *birth,
                            _ => {
                                births[node as usize] += 1;
                                births[node as usize]
                            }
                        };
                        next.insert(NodeId(node), birth);
                    }
                    wanted = next;
                } else if below(3) == 0 {
                    // A quorum always lives: without one, nothing could be committed.
                    let voter = conf.voters[below(conf.voters.len() as u64) as usize];
                    let living = conf.voters.iter().filter(|id| !dead.contains(id)).count();
                    if !dead.contains(&voter) && 2 * (living - 1) > conf.voters.len() {
                        dead.push(voter);
                        if below(2) == 0 {
                            let node = node_of(voter).0;
                            births[node as usize] += 1;
                            told.push((node, births[node as usize]));
                        }
                    }
                }
                let living: Vec<u64> =
                    conf.voters.iter().copied().filter(|id| !dead.contains(id)).collect();
                let leader = living[below(living.len() as u64) as usize];
                let mut incarnations = Incarnations::new(node_of(leader), &conf);
                told.iter().for_each(|(node, known)| incarnations.learn(NodeId(*node), *known));
                let wish = Wanted::new(1, wanted.clone()).expect("a wish that can be");
                let targets = Targets::new(Some(&wish), &[], &incarnations, leader);
                let lucky = below(2) == 0;
                let lives = |id: u64| !dead.contains(&id);
                let seen = Seen {
                    caught_up: |id| lives(id) && (calm || lucky),
                    heard: |id| (calm || lucky).then_some(lives(id)),
                };
                match next_change(&conf, &targets, &incarnations, leader, &seen) {
                    Some(Next::Change(change)) => {
                        let before = conf.clone();
                        apply(&mut conf, &change, seed);
                        let id = change.node_id;
                        assert_ne!(id, leader, "seed {seed}: a leader removed itself");
                        let left = conf.voters.iter().filter(|id| lives(**id)).count();
                        assert!(
                            2 * left > conf.voters.len(),
                            "seed {seed}: {before:?} -> {conf:?}"
                        );
                        assert!(
                            conf.voters.len() <= before.voters.len().max(targets.0.len() + 1),
                            "seed {seed}: too many voters: {conf:?}"
                        );
                        let is_live_one = change.change_type() == RemoveNode
                            && before.voters.contains(&id)
                            && lives(id);
                        let could_go =
                            |id: &&u64| !lives(**id) && !targets.0.contains_key(&node_of(**id));
                        assert!(
                            !is_live_one
                                || targets.has_later(id)
                                || before.voters.iter().find(could_go).is_none(),
                            "seed {seed}: {id} went before a dead one: {before:?}"
                        );
                    }
                    // Leadership moves anyway.
                    Some(Next::HandOver(to)) => assert!(
                        targets.contains(to) && !targets.contains(leader) && lives(to),
                        "seed {seed}"
                    ),
                    None if calm && is_as_wanted(&conf, &targets) => break,
                    None => {}
                }
            }
        }
    }

    fn is_as_wanted(conf: &ConfState, targets: &Targets) -> bool {
        conf.learners.is_empty()
            && conf.voters.len() == targets.0.len()
            && conf.voters.iter().all(|id| targets.contains(*id))
    }
}
