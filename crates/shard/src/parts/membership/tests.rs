//! Tests of the next change of members: rule by rule, and along every way to the end.

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

fn next(conf: &ConfState, told: &[(u64, u32)], caught_up: &[u64]) -> Option<(ConfChangeType, u64)> {
    let incarnations = heard(conf, told);
    let targets = Targets::new(None, &[1, 2, 3].map(NodeId), &incarnations, 1);
    let seen = Seen { caught_up: |id| caught_up.contains(&id), heard: |_| None, offered: 0 };
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
    assert!(!is_current(0, 0) && !is_current(0, 7), "nobody");
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
    step_after_offer(conf, wanted, caught_up, heard, 0)
}

/// The same, after leadership was offered to `offered`.
fn step_after_offer(
    conf: &ConfState,
    wanted: &[(u64, u32)],
    caught_up: &[u64],
    heard: impl Fn(u64) -> Option<bool>,
    offered: u64,
) -> Option<(Option<ConfChangeType>, u64)> {
    let incarnations = Incarnations::new(OWN, conf);
    let members = wanted.iter().map(|(node, birth)| (NodeId(*node), *birth));
    let wanted = Wanted::new(1, members).expect("a wish that can be");
    let targets = Targets::new(Some(&wanted), &[1, 2, 3].map(NodeId), &incarnations, 1);
    let seen = Seen { caught_up: |id| caught_up.contains(&id), heard, offered };
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
    let silent =
        |silent: &'static [u64]| step(&five, &wanted, &[], move |id| Some(!silent.contains(&id)));
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

/// Regression: the first of the wanted voters got every offer, although it did not take it.
#[test]
fn leadership_is_offered_to_one_wanted_voter_after_the_other() {
    let wanted = [(2, 0), (3, 0), (4, 0)];
    let all_of = conf(&[1, 2, 3, 4], &[]);
    let next = |caught_up: &[u64], offered: u64| {
        step_after_offer(&all_of, &wanted, caught_up, all, offered).map(|(_, to)| to)
    };
    let all = [2, 3, 4];
    assert_eq!([0, 2, 3, 4].map(|offered| next(&all, offered)), [2, 3, 4, 2].map(Some));
    assert_eq!(next(&[2, 4], 2), Some(4), "node 3 lags");
    assert_eq!(next(&[2], 2), Some(2), "there is no other");
}

/// The node has one replica of the shard at a time, so the later one cannot catch up before.
#[test]
fn a_life_that_is_wanted_no_more_goes_before_the_next_one_comes() {
    let wanted = [(1, 0), (2, 0), (3, 9)];
    let step = |voters: &[u64], heard: Option<bool>| {
        step(&conf(voters, &[]), &wanted, &[], move |id| if id == 3 { heard } else { Some(true) })
    };
    assert_eq!(step(&[1, 2, 3], Some(true)), Some((Some(RemoveNode), 3)));
    assert_eq!(step(&[1, 2, 3], Some(false)), Some((Some(RemoveNode), 3)));
    assert_eq!(step(&[1, 2], None), Some((Some(AddLearnerNode), id(3, 9))));
}

/// Regression: while the first one came back as a learner, the next one went, down to one voter.
#[test]
fn lives_that_are_wanted_anew_go_one_by_one() {
    let (wanted, second) = ([(1, 0), (2, 9), (3, 9)], id(2, 9));
    let step = |voters: &[u64], learners: &[u64], caught_up: &[u64]| {
        step(&conf(voters, learners), &wanted, caught_up, |_| Some(true))
    };
    assert_eq!(step(&[1, 2, 3], &[], &[]), Some((Some(RemoveNode), 2)));
    assert_eq!(step(&[1, 3], &[], &[]), Some((Some(AddLearnerNode), second)));
    assert_eq!(step(&[1, 3], &[second], &[]), None, "it has not caught up");
    assert_eq!(step(&[1, 3], &[second], &[second]), Some((Some(AddNode), second)));
    assert_eq!(step(&[1, second, 3], &[], &[]), Some((Some(RemoveNode), 3)));
}

/// Regression: the leader removed the others, and as the only voter it could not make room for the
/// later life on its own node.
#[test]
fn the_last_other_voter_takes_over_if_a_later_life_of_the_leader_is_wanted_alone() {
    let (later, wanted) = (id(1, 9), [(1, 9)]);
    let step = |voters: &[u64], learners: &[u64], caught_up: &[u64]| {
        step(&conf(voters, learners), &wanted, caught_up, all)
    };
    assert_eq!(step(&[1, 2, 3], &[], &[2, 3]), Some((Some(RemoveNode), 2)));
    assert_eq!(step(&[1, 3], &[], &[3]), Some((None, 3)), "leadership goes to it");
    assert_eq!(step(&[1, 3], &[], &[]), None, "it is not caught up");
    // Node 3 leads.
    let by_3 = |voters: &[u64], learners: &[u64]| {
        let conf = conf(voters, learners);
        let incarnations = Incarnations::new(NodeId(3), &conf);
        let wish = Wanted::new(1, [(NodeId(1), 9)]).expect("a wish that can be");
        let targets = Targets::new(Some(&wish), &[], &incarnations, 3);
        let seen = Seen { caught_up: |_| true, heard: all, offered: 0 };
        match next_change(&conf, &targets, &incarnations, 3, &seen)? {
            Next::Change(change) => Some((Some(change.change_type()), change.node_id)),
            Next::HandOver(to) => Some((None, to)),
        }
    };
    assert_eq!(by_3(&[1, 3], &[]), Some((Some(RemoveNode), 1)));
    assert_eq!(by_3(&[3], &[]), Some((Some(AddLearnerNode), later)));
    assert_eq!(by_3(&[3], &[later]), Some((Some(AddNode), later)));
    assert_eq!(by_3(&[3, later], &[]), Some((None, later)));
}

/// A pseudo-random number below another, from a seed.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
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
            let seen = Seen { caught_up: |_| all || lucky, heard: |_| None, offered: 0 };
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
        let mut offered = 0;
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
                        (_, Some(voter)) if count == 1 && conf.voters.len() == 1 => {
                            incarnation_of(*voter)
                        }
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
                offered,
            };
            match next_change(&conf, &targets, &incarnations, leader, &seen) {
                Some(Next::Change(change)) => {
                    let before = conf.clone();
                    apply(&mut conf, &change, seed);
                    let id = change.node_id;
                    assert_ne!(id, leader, "seed {seed}: a leader removed itself");
                    let left = conf.voters.iter().filter(|id| lives(**id)).count();
                    assert!(2 * left > conf.voters.len(), "seed {seed}: {before:?} -> {conf:?}");
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
                        !is_live_one || before.voters.len() >= targets.0.len(),
                        "seed {seed}: {id} went although a voter is missing: {before:?}"
                    );
                    assert!(
                        !is_live_one
                            || targets.has_later(id)
                            || before.voters.iter().find(could_go).is_none(),
                        "seed {seed}: {id} went before a dead one: {before:?}"
                    );
                }
                // Leadership moves anyway.
                Some(Next::HandOver(to)) => {
                    let is_last_other = targets.has_later(leader) && conf.voters.len() == 2;
                    assert!(
                        (targets.contains(to) || is_last_other)
                            && !targets.contains(leader)
                            && lives(to),
                        "seed {seed}"
                    );
                    offered = to;
                }
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
