//! A topology that is built again from what nodes know, after its group was lost.

use crate::{NOW_S, apply, founded, nodes, told};
use palisade_topology::plan::{ReplicaReport, Report, Role};
use palisade_topology::rebuild::{
    Loss, Obstacle, Rebuilt, Told, awaited, next_generation, rebuild,
};
use palisade_topology::*;
use routing::{META, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

type AllTold = BTreeMap<NodeId, Told>;

const LATER_S: u64 = NOW_S + 1_000;

/// Seven nodes and four shards on three of them each. META began on nodes 1, 2 and 3.
fn cluster() -> Topology {
    let mut topology = founded(7, 4, 3, 0);
    for node in 1..=7 {
        apply(&mut topology, Command::NodeIs { told: told(node, 1) }).unwrap();
    }
    topology
}

/// What a node tells that has kept this topology, and has the replicas that it wants.
fn of(topology: &Topology, node: u64) -> Told {
    let id = NodeId(node);
    let replica = |shard: &Shard| {
        let birth = *shard.wanted.members.get(&id)?;
        Some(ReplicaReport {
            birth,
            role: Role::Follower,
            term: 5,
            lag_entries: 0,
            members: Members { conf_index: 9, ..shard.is.clone() },
            ops_per_s: 0,
        })
    };
    let shards = topology.shards().iter().filter(|(shard, _)| **shard != META);
    let replicas = shards.filter_map(|(shard, known)| Some((*shard, replica(known)?))).collect();
    let report = Report { heard_ms: 0, told: told(node, 1), replicas, behind: BTreeSet::new() };
    let kept = topology.clone();
    Told { report, kept, generation: 1, leader: None, last_birth: Birth(0) }
}

fn all(topology: &Topology, ids: &[u64]) -> AllTold {
    ids.iter().map(|id| (NodeId(*id), of(topology, *id))).collect()
}

fn built(told: &AllTold, lost: &[u64]) -> Rebuilt {
    let lost = lost.iter().copied().map(NodeId).collect();
    let rebuilt = rebuild(told, &lost, next_generation(told), LATER_S).expect("it can be built");
    assert_eq!(rebuilt.topology.check(), Ok(()));
    let bytes = rebuilt.topology.encode();
    assert_eq!(Topology::decode(&bytes).as_ref(), Ok(&rebuilt.topology));
    rebuilt
}

fn refused(told: &AllTold, lost: &[u64]) -> Vec<Obstacle> {
    let lost = lost.iter().copied().map(NodeId).collect();
    rebuild(told, &lost, next_generation(told), LATER_S).expect_err("it must not be built")
}

#[test]
fn the_latest_kept_topology_goes_on_with_a_group_of_its_own() {
    let mut topology = cluster();
    let early = topology.clone();
    let job = JobKind::Drain { node: NodeId(5) };
    apply(&mut topology, Command::Job { request: RequestId(1), kind: job }).unwrap();
    let mut told = all(&topology, &[4, 5, 6, 7]);
    told.get_mut(&NodeId(6)).unwrap().kept = early;
    let Rebuilt { topology: next, losses } = built(&told, &[1, 2, 3]);
    assert_eq!((next.cluster().id, next.cluster().generation), (topology.cluster().id, 2));
    assert!(next.version().0 > topology.version().0 + 1_000, "above what was heard of nowhere");
    assert_eq!(next.jobs(), topology.jobs());
    assert_eq!(losses[0], Loss::Changes(topology.version()));
    let meta = next.shard(META).unwrap();
    assert_eq!(meta.founders.len(), 3, "of four nodes that answer");
    assert!(meta.founders.keys().all(|node| nodes([4, 5, 6, 7]).contains(node)), "{meta:?}");
    assert!(meta.is_settled() && meta.leaving.is_empty());
    let lost: Vec<&Loss> = losses.iter().filter(|loss| matches!(loss, Loss::Node(_))).collect();
    assert_eq!(lost.len(), 3, "{losses:?}");
    // It is what a group begins with.
    let mut machine = Topology::default();
    let refound = Command::Refound { topology: Box::new(next.clone()) };
    let bytes = Proposal::new(LATER_S, refound).encode();
    let proposal = Proposal::decode(&bytes).unwrap();
    machine.apply(&proposal).unwrap();
    assert_eq!(machine, next);
    assert_eq!(machine.apply(&proposal), Ok(None), "a second one changes nothing");
    let mut other = cluster();
    assert_eq!(other.apply(&proposal), Err(Refusal::AlreadyFounded));
}

#[test]
fn members_of_the_higher_place_in_the_log_win() {
    let topology = cluster();
    let mut told = all(&topology, &[1, 2, 3, 4, 5, 6, 7]);
    let shard = ShardId(0);
    let has = |told: &Told| told.report.replicas.contains_key(&shard);
    let hosts: Vec<NodeId> = told.iter().filter(|(_, told)| has(told)).map(|(id, _)| *id).collect();
    let members = |told: &mut AllTold, node: &NodeId, index: u64, voters: &[NodeId]| {
        let told = told.get_mut(node).unwrap();
        let replica = told.report.replicas.get_mut(&shard).unwrap();
        let life = |node: &NodeId| Life { node: *node, birth: Birth(0) };
        replica.members.conf_index = index;
        replica.members.voters = voters.iter().map(life).collect();
    };
    members(&mut told, &hosts[0], 40, &hosts[..2]);
    members(&mut told, &hosts[1], 30, &hosts);
    members(&mut told, &hosts[2], 20, &hosts[1..]);
    let next = built(&told, &[]).topology;
    let voters: Vec<NodeId> =
        next.shard(shard).unwrap().is.voters.iter().map(|life| life.node).collect();
    assert_eq!(voters, hosts[..2]);
    // At one place there is one configuration.
    members(&mut told, &hosts[1], 40, &hosts);
    let [Obstacle::Members { shard: ShardId(0), index: 40, .. }] = refused(&told, &[])[..] else {
        panic!("{:?}", refused(&told, &[]))
    };
}

/// The lost group gave a group a wish that no node which answers has kept.
#[test]
fn a_group_whose_wish_was_lost_is_wanted_as_it_is() {
    let topology = cluster();
    let mut told = all(&topology, &[1, 2, 3, 4, 5, 6, 7]);
    let shard = ShardId(1);
    let known = topology.shard(shard).unwrap();
    let gone = *known.wanted.members.keys().next().unwrap();
    let come = (1..=7).map(NodeId).find(|id| !known.wanted.members.contains_key(id)).unwrap();
    let taken = Version(topology.version().0 + 4);
    for one in told.values_mut() {
        let Some(replica) = one.report.replicas.get_mut(&shard) else { continue };
        let members = &mut replica.members;
        (members.taken, members.conf_index) = (taken, 70);
        members.voters.retain(|life| life.node != gone);
        members.voters.insert(Life { node: come, birth: Birth(NOW_S as u32) });
    }
    let Rebuilt { topology: next, losses } = built(&told, &[]);
    assert!(losses.contains(&Loss::Wish { shard, kept: known.wanted.version }), "{losses:?}");
    // Its leader tells them again.
    let mut next = next;
    let is = next.shard(shard).unwrap().is.clone();
    apply(&mut next, Command::Is { shard, members: is }).unwrap();
    let known = next.shard(shard).unwrap();
    assert!(known.wanted.members.contains_key(&come) && known.is_settled());
    assert!(known.wanted.version > taken, "the group takes it");
    assert!(known.concerns(gone), "its life there may not be out yet");
    assert!(next.node(come).unwrap().last_birth.0 >= NOW_S as u32);
}

/// Regression: nodes of a group that the lost META had moved found their replicas neither wanted nor
/// leaving, and destroyed all copies of the shard. The group that was left got no wish for ever.
#[test]
fn a_group_that_the_lost_meta_has_moved_unheard_keeps_its_replicas_and_is_wanted_as_it_is() {
    let kept = cluster();
    let shard = ShardId(0);
    let mut later = kept.clone();
    apply(&mut later, Command::Want { shard, members: nodes([4, 5, 6]) }).unwrap();
    let wanted = later.shard(shard).unwrap().wanted.clone();
    let moved = Members {
        conf_index: 90,
        taken: wanted.version,
        voters: wanted.lives().collect(),
        ..Members::default()
    };
    let mut next = built(&all(&kept, &[7]), &[1, 2, 3, 4, 5, 6]).topology;
    let former = Life { node: NodeId(1), birth: Birth(0) };
    for life in wanted.lives() {
        assert!(!next.is_out(shard, life), "it is a voter: {life:?}");
    }
    // Its wish is kept for a lost directory, too.
    let reseeded = NodeTold {
        start: routing::AddressVersion { incarnation: LATER_S, starts: 1 },
        store: StoreId([9; 16]),
        ..told(1, 1)
    };
    apply(&mut next, Command::NodeIs { told: reseeded }).unwrap();
    // A leader of the time before tells what is older.
    let is = Members { conf_index: 9, ..kept.shard(shard).unwrap().is.clone() };
    let mut misled = next.clone();
    apply(&mut misled, Command::Is { shard, members: is }).unwrap();
    assert!(wanted.lives().all(|life| !misled.is_out(shard, life)), "the group took nothing yet");

    apply(&mut next, Command::Is { shard, members: moved.clone() }).unwrap();
    let known = next.shard(shard).unwrap();
    assert_eq!((&known.wanted.members, known.is_settled()), (&wanted.members, true));
    assert!(known.wanted.version > wanted.version, "the group takes it");
    assert!(!next.is_out(shard, former) && wanted.lives().all(|life| !next.is_out(shard, life)));
    let again = apply(&mut next, Command::Is { shard, members: moved.clone() });
    assert_eq!(again, Ok(false), "one wish is enough");
    let taken = next.shard(shard).unwrap().wanted.version;
    apply(&mut next, Command::Is { shard, members: Members { taken, ..moved } }).unwrap();
    assert!(next.is_out(shard, former) && wanted.lives().all(|life| !next.is_out(shard, life)));
}

/// Regression: a node that joined unheard by those that answer came back, and its id was another's.
#[test]
fn new_ids_are_far_above_all_that_are_known() {
    let topology = cluster();
    assert_eq!(topology.cluster().former_ids, NodeId(0));
    let next = built(&all(&topology, &[4, 5, 6, 7]), &[1, 2, 3]).topology;
    assert!(next.cluster().former_ids > NodeId(500), "{:?}", next.cluster());
    let again = built(&all(&next, &[4, 5, 6, 7]), &[1, 2, 3]).topology;
    assert!(again.cluster().former_ids > next.cluster().former_ids);
    // A node with such an id may have had births.
    let mut next = next;
    apply(&mut next, Command::NodeIs { told: crate::told(8, 1) }).unwrap();
    assert!(next.node(NodeId(8)).unwrap().last_birth >= Birth(NOW_S as u32));
}

/// Regression: a group that had only no leader at the moment was founded a second time.
#[test]
fn a_group_with_a_working_majority_is_not_lost() {
    let topology = cluster();
    let mut told = all(&topology, &[1, 2, 4, 5, 6, 7]);
    let works = |told: &mut AllTold, node: u64| {
        let one = told.get_mut(&NodeId(node)).unwrap();
        let replica = ReplicaReport {
            birth: Birth(0),
            role: Role::Follower,
            term: 5,
            lag_entries: 0,
            members: topology.shard(META).unwrap().is.clone(),
            ops_per_s: 0,
        };
        one.report.replicas.insert(META, replica);
    };
    works(&mut told, 1);
    built(&told, &[3]);
    works(&mut told, 2);
    let working = vec![NodeId(1), NodeId(2)];
    assert_eq!(refused(&told, &[3]), [Obstacle::Working { working, voters: 3 }]);
}

#[test]
fn a_shard_of_which_no_replica_answers_is_told_and_stays() {
    let topology = cluster();
    let shard = ShardId(2);
    let members: Vec<u64> =
        topology.shard(shard).unwrap().wanted.members.keys().map(|node| node.0).collect();
    let others: Vec<u64> = (1..=7).filter(|node| !members.contains(node)).collect();
    let Rebuilt { topology: next, losses } = built(&all(&topology, &others), &members);
    let voters = members.iter().copied().map(NodeId).collect();
    assert!(losses.contains(&Loss::Quorum { shard, voters, heard: 0 }), "{losses:?}");
    assert_eq!(next.shard(shard), topology.shard(shard));
    let loss = losses.iter().map(Loss::to_string).find(|loss| loss.starts_with("shard 2"));
    assert!(loss.is_some_and(|loss| loss.contains("only 0 answer")));
}

#[test]
fn a_removed_node_that_comes_back_stays_removed_and_no_id_is_used_again() {
    let mut topology = cluster();
    apply(&mut topology, Command::NodeIs { told: told(8, 1) }).unwrap();
    let before = topology.clone();
    let state = NodeState::Removed;
    apply(&mut topology, Command::SetNodeState { node: NodeId(8), state }).unwrap();
    let mut told = all(&topology, &[1, 2, 3, 4, 5, 6, 7]);
    // It was away, and does not know that it was removed.
    told.insert(NodeId(8), of(&before, 8));
    let Rebuilt { topology: next, losses } = built(&told, &[]);
    assert_eq!(next.node(NodeId(8)).unwrap().state, state);
    assert!(losses.contains(&Loss::Removed(NodeId(8))), "{losses:?}");
    assert!(!next.shard(META).unwrap().founders.contains_key(&NodeId(8)));
    let mut next = next;
    let again = apply(&mut next, Command::NodeIs { told: crate::told(8, 9) });
    assert_eq!(again, Err(Refusal::Removed(NodeId(8))));
}

#[test]
fn births_are_above_all_that_are_known_and_above_the_present_second() {
    let topology = cluster();
    let mut told = all(&topology, &[1, 2, 3, 4, 5, 6, 7]);
    let high = Birth(LATER_S as u32 + 500);
    told.get_mut(&NodeId(2)).unwrap().last_birth = high;
    let next = built(&told, &[]).topology;
    for (id, node) in next.nodes() {
        let least = if *id == NodeId(2) { high } else { Birth(LATER_S as u32) };
        assert!(node.last_birth >= least, "node {id}: {:?}", node.last_birth);
    }
    let meta = next.shard(META).unwrap();
    assert_eq!(meta.founders.len(), 5);
    assert!(meta.founders[&NodeId(2)] > high);
    // The lives of the group that was given up are out.
    let old = Life { node: NodeId(2), birth: Birth(0) };
    assert!(next.is_out(META, old));
}

#[test]
fn nothing_is_built_while_a_node_is_missing_or_the_group_lives() {
    let topology = cluster();
    let told = all(&topology, &[4, 5, 6, 7]);
    let silent: BTreeSet<NodeId> = refused(&told, &[1])
        .into_iter()
        .map(|obstacle| match obstacle {
            Obstacle::Silent { node, .. } => node,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(silent, nodes([2, 3]));
    let lost = nodes([1]);
    assert_eq!(awaited(&told, &lost).into_keys().collect::<BTreeSet<_>>(), nodes([2, 3]));
    assert_eq!(refused(&told, &[1, 2, 3, 4]), [Obstacle::NotLost(NodeId(4))]);
    assert_eq!(refused(&told, &[1, 2, 3, 77]), [Obstacle::Unknown(NodeId(77))]);
    let mut led = told.clone();
    led.get_mut(&NodeId(5)).unwrap().leader = Some(NodeId(2));
    let by = Obstacle::Led { node: NodeId(5), leader: NodeId(2) };
    assert_eq!(refused(&led, &[1, 2, 3]), [by]);
    assert_eq!(refused(&AllTold::new(), &[]), [Obstacle::NothingKept]);
}

#[test]
fn what_contradicts_itself_is_an_obstacle() {
    let topology = cluster();
    let mut told = all(&topology, &[1, 2, 3, 4, 5, 6, 7]);
    // The same version with something else in it.
    let (mut one, mut other) = (topology.clone(), topology.clone());
    let drain = |node| Command::SetNodeState { node: NodeId(node), state: NodeState::Draining };
    apply(&mut one, drain(1)).unwrap();
    apply(&mut other, drain(2)).unwrap();
    told.get_mut(&NodeId(1)).unwrap().kept = one.clone();
    told.get_mut(&NodeId(2)).unwrap().kept = other;
    let [Obstacle::Contradiction { version, .. }] = refused(&told, &[])[..] else { panic!() };
    assert_eq!(version, one.version());
    let mut told = all(&topology, &[1, 2, 3, 4, 5, 6, 7]);
    let three = told.get_mut(&NodeId(3)).unwrap();
    let replica = three.report.replicas.values().next().unwrap().clone();
    three.report.replicas.insert(ShardId(77), replica);
    let unknown = Obstacle::UnknownShard { node: NodeId(3), shard: ShardId(77) };
    assert_eq!(refused(&told, &[]), [unknown]);
}

#[test]
fn each_time_has_a_higher_generation() {
    let topology = cluster();
    let mut told = all(&topology, &[4, 5, 6, 7]);
    assert_eq!(next_generation(&told), 2);
    // A time before ended after a node had given the group up.
    told.get_mut(&NodeId(6)).unwrap().generation = 2;
    let next = built(&told, &[1, 2, 3]).topology;
    assert_eq!((next_generation(&told), next.cluster().generation), (3, 3));
    let told = of(&topology, 6);
    assert_eq!(Told::decode(&told.encode()), Ok(told));
}

/// One shard on nodes 1 to 3 of nine nodes, as the kept topology has it. The lost META moved it to these
/// nodes, and its group took that wish.
fn moved_unheard(to: [u64; 3]) -> (Topology, Members) {
    let mut kept = founded(9, 1, 3, 0);
    for node in 1..=9 {
        apply(&mut kept, Command::NodeIs { told: told(node, 1) }).unwrap();
    }
    let mut later = kept.clone();
    apply(&mut later, Command::Want { shard: ShardId(0), members: nodes(to) }).unwrap();
    let wanted = &later.shard(ShardId(0)).unwrap().wanted;
    let (taken, voters) = (wanted.version, wanted.lives().collect());
    (kept, Members { conf_index: 90, taken, voters, ..Members::default() })
}

/// Regression: a voter on a directory that is lost was wanted again, which no copy of the topology
/// takes. So the group of the topology failed on every node.
#[test]
fn a_member_on_a_lost_directory_is_wanted_in_its_next_life() {
    let (kept, moved) = moved_unheard([2, 4, 5]);
    let mut next = built(&all(&kept, &[6, 7, 8, 9]), &[1, 2, 3, 4, 5]).topology;
    let start = routing::AddressVersion { incarnation: LATER_S + 5, starts: 1 };
    let reseeded = NodeTold { start, store: StoreId([9; 16]), ..told(2, 1) };
    apply(&mut next, Command::NodeIs { told: reseeded }).unwrap();
    apply(&mut next, Command::Is { shard: ShardId(0), members: moved.clone() }).unwrap();
    assert_eq!(next.check(), Ok(()));
    let wanted = &next.shard(ShardId(0)).unwrap().wanted.members;
    assert!(wanted.keys().eq(&nodes([2, 4, 5])), "{wanted:?}");
    assert_eq!(wanted[&NodeId(2)], Birth(LATER_S as u32 + 5));
    let others = moved.voters.iter().filter(|life| life.node != NodeId(2));
    assert!(others.clone().all(|life| wanted[&life.node] == life.birth), "{wanted:?}");
}

/// Regression: what a group told was refused for ever, because one of its members had been removed as a
/// lost node before it could tell.
#[test]
fn a_member_on_a_node_that_was_removed_unheard_leaves() {
    let (kept, moved) = moved_unheard([4, 8, 9]);
    let shard = ShardId(0);
    let mut next = built(&all(&kept, &[1, 2, 3, 5, 6, 7]), &[4, 8, 9]).topology;
    for state in [NodeState::Leaving, NodeState::Removed] {
        apply(&mut next, Command::SetNodeState { node: NodeId(8), state }).unwrap();
    }
    apply(&mut next, Command::Is { shard, members: moved.clone() }).unwrap();
    assert_eq!(next.check(), Ok(()));
    let known = next.shard(shard).unwrap().clone();
    assert!(known.wanted.members.keys().eq(&nodes([4, 9])), "{known:?}");
    let gone = *moved.voters.iter().find(|life| life.node == NodeId(8)).unwrap();
    assert!(!next.is_out(shard, gone), "the group has it");
    let taken = known.wanted.version;
    let on_its_way = Members { taken, conf_index: 91, ..moved.clone() };
    apply(&mut next, Command::Is { shard, members: on_its_way }).unwrap();
    let voters = moved.voters.into_iter().filter(|life| *life != gone).collect();
    let done = Members { taken, conf_index: 95, voters, ..Members::default() };
    apply(&mut next, Command::Is { shard, members: done }).unwrap();
    assert!(next.is_out(shard, gone) && next.shard(shard).unwrap().is_settled());
}

/// Regression: no topology could be built again, because a node that had joined unheard was a member of a
/// group, and `--lost` did not take it.
#[test]
fn a_member_on_a_node_that_no_topology_has_is_named_and_can_be_counted_as_lost() {
    let (kept, moved) = moved_unheard([1, 2, 4]);
    let mut told = all(&kept, &[1, 2, 4, 5, 6, 7, 8, 9]);
    let stranger = Life { node: NodeId(11), birth: Birth(LATER_S as u32) };
    let voters = moved.voters.iter().copied().filter(|life| life.node != NodeId(4));
    let voters: BTreeSet<Life> = voters.chain([stranger]).collect();
    for node in [1, 2] {
        let replicas = &mut told.get_mut(&NodeId(node)).unwrap().report.replicas;
        replicas.get_mut(&ShardId(0)).unwrap().members =
            Members { voters: voters.clone(), ..moved.clone() };
    }
    let unknown = Obstacle::UnknownMember { shard: ShardId(0), node: NodeId(11) };
    assert_eq!(refused(&told, &[3]), [unknown]);
    assert!(refused(&told, &[3, 77]).contains(&Obstacle::Unknown(NodeId(77))));
    let Rebuilt { topology: mut next, losses } = built(&told, &[3, 11]);
    assert!(losses.contains(&Loss::Gone(NodeId(11))), "{losses:?}");
    assert!(!losses.contains(&Loss::Node(NodeId(11))), "nothing is to be put in its place");
    assert_eq!(next.node(NodeId(11)).unwrap().state, NodeState::Removed);
    let is = Members { voters, ..moved };
    apply(&mut next, Command::Is { shard: ShardId(0), members: is }).unwrap();
    let wanted = &next.shard(ShardId(0)).unwrap().wanted.members;
    assert!(wanted.keys().eq(&nodes([1, 2])), "{wanted:?}");
}
