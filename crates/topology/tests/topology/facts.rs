//! Facts: late, twice and in any order; joins; directories that lost their data; lives that are out.

use crate::{NOW_S, apply, founded, nodes, told, wanted};
use palisade_topology::*;
use routing::{AddressVersion, NodeId, ShardId};

fn life(node: u64, birth: u32) -> Life {
    Life { node: NodeId(node), birth: Birth(birth) }
}

fn members<const V: usize, const L: usize>(
    conf_index: u64,
    taken: u64,
    voters: [Life; V],
    learners: [Life; L],
) -> Members {
    Members { conf_index, taken: Version(taken), voters: voters.into(), learners: learners.into() }
}

fn is(members: Members) -> Command {
    Command::Is { shard: ShardId(0), members }
}

fn shard(topology: &Topology) -> &Shard {
    topology.shard(ShardId(0)).expect("shard 0")
}

fn want<const N: usize>(topology: &mut Topology, members: [u64; N]) {
    let command = Command::Want { shard: ShardId(0), members: nodes(members) };
    assert_eq!(apply(topology, command), Ok(true));
}

#[test]
fn a_later_start_is_believed_and_an_earlier_one_is_old_news() {
    let mut topology = founded(3, 1, 3, 0);
    let at = |starts, address: &str| Command::NodeIs {
        told: NodeTold { address: address.to_owned(), ..told(2, starts) },
    };
    assert_eq!(apply(&mut topology, at(2, "10.9.9.9:1")), Ok(true));
    assert_eq!(apply(&mut topology, at(2, "10.9.9.9:1")), Ok(false));
    assert_eq!(apply(&mut topology, at(1, "10.0.0.1:1")), Ok(false));
    assert_eq!(topology.node(NodeId(2)).unwrap().address, "10.9.9.9:1");
    assert!(matches!(apply(&mut topology, at(3, "0.0.0.0:1")), Err(Refusal::Address { .. })));
    assert!(matches!(apply(&mut topology, at(3, "nowhere")), Err(Refusal::Address { .. })));
}

#[test]
fn two_nodes_may_swap_their_addresses() {
    let mut topology = founded(2, 1, 1, 0);
    let at = |node, address: &str| Command::NodeIs {
        told: NodeTold { address: address.to_owned(), ..told(node, 1) },
    };
    assert_eq!(apply(&mut topology, at(1, "10.0.0.2:7400")), Ok(true));
    assert_eq!(apply(&mut topology, at(2, "10.0.0.1:7400")), Ok(true));
}

#[test]
fn a_node_that_is_not_known_joins() {
    let mut topology = founded(3, 1, 3, 0);
    let join = |told| Command::NodeIs { told };
    assert_eq!(apply(&mut topology, join(told(7, 1))), Ok(true));
    assert_eq!(topology.node(NodeId(7)).unwrap().state, NodeState::Serving);
    let bad_id = |id| apply(&mut founded(3, 1, 3, 0), join(told(id, 1)));
    assert_eq!(bad_id(0), Err(Refusal::NodeId(NodeId(0))));
    assert_eq!(bad_id(1 << 32), Err(Refusal::NodeId(NodeId(1 << 32))));
    let taken = NodeTold { address: "10.0.0.1:7400".to_owned(), ..told(8, 1) };
    let refused = apply(&mut topology, join(taken)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "node 1 has the address 10.0.0.1:7400 already: start node 8 on an address of its own"
    );
}

/// Regression: a second directory that has started less often than the first was taken for old news, so
/// a node with a wiped directory that joined again was told that it had joined.
#[test]
fn two_directories_under_one_id_are_noticed() {
    let mut topology = founded(3, 1, 3, 0);
    apply(&mut topology, Command::NodeIs { told: told(2, 5) }).unwrap();
    let other = |starts| NodeTold { store: StoreId([99; 16]), ..told(2, starts) };
    for starts in [1, 5, 6] {
        let refused = apply(&mut topology, Command::NodeIs { told: other(starts) });
        assert_eq!(refused, Err(Refusal::IdTaken(NodeId(2))));
    }
    let reseeded = NodeTold { start: AddressVersion { incarnation: 50, starts: 1 }, ..other(1) };
    assert_eq!(apply(&mut topology, Command::NodeIs { told: reseeded }), Ok(true));
}

#[test]
fn facts_come_late_twice_and_in_any_order() {
    let mut topology = founded(4, 1, 3, 0);
    want(&mut topology, [1, 2, 4]);
    let new = wanted(&topology, 0)[2];
    let old = [life(1, 0), life(2, 0), life(3, 0)];
    let [learner, promoted, removed] = [
        members(10, 2, old, [new]),
        members(11, 2, [life(1, 0), life(2, 0), life(3, 0), new], []),
        members(12, 2, [life(1, 0), life(2, 0), new], []),
    ];
    let mut in_order = topology.clone();
    for told in [&learner, &promoted, &removed] {
        assert_eq!(apply(&mut in_order, is(told.clone())), Ok(true));
        assert_eq!(apply(&mut in_order, is(told.clone())), Ok(false));
    }
    let mut late = topology.clone();
    assert_eq!(apply(&mut late, is(removed.clone())), Ok(true));
    for told in [&promoted, &learner, &removed] {
        assert_eq!(apply(&mut late, is(told.clone())), Ok(false));
    }
    assert_eq!(shard(&late), shard(&in_order));
    assert!(shard(&late).is_settled());
    assert!(shard(&late).leaving.is_empty());
}

#[test]
fn a_life_is_out_only_once_its_group_cannot_take_it_in_any_more() {
    let mut topology = founded(5, 1, 3, 0);
    want(&mut topology, [1, 2, 4]); // version 2
    let late = wanted(&topology, 0)[2];
    want(&mut topology, [1, 2, 5]); // version 3, before the group has heard of 2
    let now = wanted(&topology, 0)[2];
    assert!(!topology.is_out(ShardId(0), late));
    // The group goes by the old wish. It has no member of that life yet, but it may get one.
    let founders = [life(1, 0), life(2, 0), life(3, 0)];
    apply(&mut topology, is(members(10, 2, founders, []))).unwrap();
    assert!(!topology.is_out(ShardId(0), late), "a wish for it is on its way");
    apply(&mut topology, is(members(11, 2, founders, [late]))).unwrap();
    assert!(!topology.is_out(ShardId(0), late));
    apply(&mut topology, is(members(11, 3, founders, [late]))).unwrap();
    apply(&mut topology, is(members(12, 3, founders, []))).unwrap();
    assert!(topology.is_out(ShardId(0), late));
    assert!(!topology.is_out(ShardId(0), life(3, 0)), "it has a vote");
    assert!(!topology.is_out(ShardId(0), now), "it is wanted");
}

#[test]
fn a_wish_is_taken_without_a_change_of_members() {
    let mut topology = founded(4, 1, 3, 0);
    want(&mut topology, [1, 2, 4]);
    let skipped = wanted(&topology, 0)[2];
    want(&mut topology, [1, 2]);
    want(&mut topology, [1, 2, 3]);
    let founders = [life(1, 0), life(2, 0), life(3, 0)];
    assert_eq!(apply(&mut topology, is(members(0, 4, founders, []))), Ok(true));
    assert!(topology.is_out(ShardId(0), skipped));
}

/// It may have been loaded from a checkpoint after the last change of members, and before the wish.
#[test]
fn a_leader_that_has_not_applied_the_last_wish_yet_is_not_believed() {
    let mut topology = founded(4, 1, 3, 0);
    want(&mut topology, [1, 2, 4]);
    let founders = [life(1, 0), life(2, 0), life(3, 0)];
    assert_eq!(apply(&mut topology, is(members(10, 2, founders, []))), Ok(true));
    assert_eq!(apply(&mut topology, is(members(12, 1, founders, []))), Ok(false));
    assert_eq!(apply(&mut topology, is(members(12, 2, founders, []))), Ok(true));
}

#[test]
fn a_group_that_makes_no_sense_is_refused() {
    let mut topology = founded(3, 1, 3, 0);
    let one = life(1, 0);
    let no_group = |told| {
        let refused = apply(&mut topology.clone(), is(told));
        matches!(refused, Err(Refusal::NoGroup { .. }))
    };
    assert!(no_group(members(5, 1, [], [one])));
    assert!(no_group(members(5, 1, [one], [one])));
    assert!(no_group(members(5, 9, [one], [])));
    let unknown = apply(&mut topology, is(members(5, 1, [life(9, 0)], [])));
    assert_eq!(unknown, Err(Refusal::UnknownNode(NodeId(9))));
}

#[test]
fn a_reseeded_directory_is_wanted_under_its_incarnation() {
    let reseeded = |incarnation| Command::NodeIs {
        told: NodeTold {
            start: AddressVersion { incarnation, starts: 1 },
            store: StoreId([77; 16]),
            ..told(2, 1)
        },
    };
    let by_group = members(10, 1, [life(1, 0), life(2, 0), life(3, 0)], [life(2, 700)]);
    // The node tells it first, or its group does: both come to the same.
    let mut by_node = founded(3, 1, 3, 0);
    apply(&mut by_node, Command::NodeIs { told: told(2, 9) }).unwrap();
    let mut both = by_node.clone();
    assert_eq!(apply(&mut by_node, reseeded(700)), Ok(true));
    assert_eq!(wanted(&by_node, 0)[1], life(2, 700));
    assert_eq!(apply(&mut by_node, reseeded(700)), Ok(false));
    assert_eq!(apply(&mut both, is(by_group.clone())), Ok(true));
    assert_eq!(wanted(&both, 0)[1], life(2, 700));
    apply(&mut both, reseeded(700)).unwrap();
    apply(&mut by_node, is(by_group)).unwrap();
    assert_eq!(wanted(&both, 0), wanted(&by_node, 0));
    assert!(shard(&both).leaving.contains_key(&life(2, 0)));
    let gone = members(12, both.version().0, [life(1, 0), life(2, 700), life(3, 0)], []);
    apply(&mut both, is(gone)).unwrap();
    assert!(both.is_out(ShardId(0), life(2, 0)));
    assert!(shard(&both).is_settled());
}

#[test]
fn a_directory_that_was_lost_by_a_slow_clock_begins_no_life_twice() {
    let mut topology = founded(4, 1, 3, 0);
    want(&mut topology, [1, 2, 4]);
    let before = wanted(&topology, 0)[2];
    let told =
        NodeTold { start: AddressVersion { incarnation: NOW_S - 60, starts: 1 }, ..told(4, 1) };
    apply(&mut topology, Command::NodeIs { told }).unwrap();
    let after = wanted(&topology, 0)[2];
    assert!(after.birth > before.birth, "{before:?} may have been on the lost disk");
}

#[test]
fn a_replica_of_a_reseeded_node_is_not_out_before_the_topology_hears_of_it() {
    let topology = founded(3, 1, 3, 0);
    assert!(!topology.is_out(ShardId(0), life(2, 700)));
    assert!(topology.is_out(ShardId(0), life(9, 700)), "nothing of that node is or was wanted");
}

#[test]
fn a_wanted_member_that_its_group_removed_by_an_older_wish_is_taken_in_again() {
    let mut topology = founded(4, 1, 3, 0);
    want(&mut topology, [1, 2, 4]); // version 2
    want(&mut topology, [1, 2, 3]); // version 3
    let without = members(12, 2, [life(1, 0), life(2, 0), wanted_before(4)], []);
    apply(&mut topology, is(without)).unwrap();
    assert_eq!(wanted(&topology, 0)[2], life(3, 0));
    assert!(!topology.is_out(ShardId(0), life(3, 0)));
}

/// The life that node 4 got as the first one of its own.
fn wanted_before(node: u64) -> Life {
    life(node, NOW_S as u32)
}

#[test]
fn a_node_that_is_wanted_again_keeps_its_life_until_that_is_out() {
    let mut topology = founded(4, 1, 3, 0);
    want(&mut topology, [1, 2, 4]); // version 2
    want(&mut topology, [1, 2, 3]); // version 3
    assert_eq!(wanted(&topology, 0)[2], life(3, 0), "its group may not have heard of it");
    assert!(!shard(&topology).leaving.contains_key(&life(3, 0)));
    want(&mut topology, [1, 2, 4]); // version 4
    assert_eq!(wanted(&topology, 0)[2], wanted_before(4));
    let gone = members(12, 4, [life(1, 0), life(2, 0), wanted_before(4)], []);
    apply(&mut topology, is(gone)).unwrap();
    assert!(topology.is_out(ShardId(0), life(3, 0)));
    want(&mut topology, [1, 2, 3]); // version 6
    assert_eq!(wanted(&topology, 0)[2], life(3, NOW_S as u32), "it may be destroyed by now");
}

/// The votes of the life were on the lost directory.
#[test]
fn a_life_that_a_lost_directory_had_is_not_wanted_again() {
    let reseeded = |topology: &mut Topology| {
        let start = AddressVersion { incarnation: 700, starts: 1 };
        let told = NodeTold { start, store: StoreId([77; 16]), ..told(3, 1) };
        assert_eq!(apply(topology, Command::NodeIs { told }), Ok(true));
    };
    let mut before = founded(4, 1, 3, 0);
    want(&mut before, [1, 2, 4]);
    reseeded(&mut before);
    want(&mut before, [1, 2, 3]);
    assert_eq!(wanted(&before, 0)[2], life(3, NOW_S as u32));
    let mut after = founded(4, 1, 3, 0);
    reseeded(&mut after);
    assert_eq!(wanted(&after, 0)[2], life(3, 700));
    want(&mut after, [1, 2, 4]);
    want(&mut after, [1, 2, 3]);
    assert_eq!(wanted(&after, 0)[2], life(3, 700), "it is on the new one");
}

/// Regression: the date of an unknown life is that of the present wish, which was later than the
/// directory.
#[test]
fn a_life_of_a_lost_directory_that_is_told_late_is_not_wanted_again() {
    let reseeded = |topology: &mut Topology, incarnation| {
        let start = AddressVersion { incarnation, starts: 1 };
        let store = StoreId([(incarnation % 251) as u8; 16]);
        let told = NodeTold { start, store, ..told(3, 1) };
        assert_eq!(apply(topology, Command::NodeIs { told }), Ok(true));
    };
    let wanted_again = |wishes: &[u64], birth| {
        let mut topology = founded(6, 1, 3, 0);
        want(&mut topology, [1, 2, 4]);
        reseeded(&mut topology, 700);
        reseeded(&mut topology, 900);
        wishes.iter().for_each(|node| want(&mut topology, [1, 2, *node]));
        // The group goes by the oldest wish, and took the re-seeded replica in by itself.
        let told = members(10, 1, [life(1, 0), life(2, 0), life(3, birth)], []);
        assert_eq!(apply(&mut topology, is(told)), Ok(true));
        want(&mut topology, [1, 2, 3]);
        wanted(&topology, 0)[2]
    };
    assert_eq!(wanted_again(&[5], 700), life(3, NOW_S as u32), "it was on a lost directory");
    assert_eq!(wanted_again(&[5], 900), life(3, 900), "it is on the present one");
    assert_eq!(wanted_again(&[], 900), life(3, 900), "whenever it was wished away");
}

/// Regression: the index went before the wish, so what the second leader told looked old for ever.
#[test]
fn a_wish_is_taken_from_a_leader_whose_configuration_has_a_lower_index() {
    let mut topology = founded(4, 1, 3, 0);
    want(&mut topology, [1, 2, 4]); // version 2
    let skipped = wanted(&topology, 0)[2];
    want(&mut topology, [1, 2, 3]); // version 3
    let founders = [life(1, 0), life(2, 0), life(3, 0)];
    let restarted = members(100, 1, founders, []);
    assert_eq!(apply(&mut topology, is(restarted.clone())), Ok(true));
    assert_eq!(apply(&mut topology, is(members(60, 3, founders, []))), Ok(true));
    assert!(topology.is_out(ShardId(0), skipped));
    assert_eq!(apply(&mut topology, is(restarted)), Ok(false), "it is older");
}
