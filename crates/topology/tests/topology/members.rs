//! Plans of members: replaced and removed nodes, replica counts, repairs, META, zones, and stalls.

use crate::world::World;
use crate::{NOW_S, founded, nodes};
use palisade_topology::plan::{self, Reports, Step, steps};
use palisade_topology::*;
use routing::{META, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

fn members(topology: &Topology, shard: ShardId) -> BTreeSet<NodeId> {
    topology.shard(shard).expect("the shard").wanted.members.keys().copied().collect()
}

fn is_out(world: &World, node: u64) -> bool {
    world.topology.node(NodeId(node)).unwrap().state == NodeState::Removed
}

fn why(world: &World, job: JobId) -> Option<Why> {
    world.topology.jobs()[&job].why.clone()
}

/// The commands that want other members, in the next plan.
fn wishes(world: &mut World) -> Vec<ShardId> {
    let wish = |command| match command {
        Command::Want { shard, .. } => Some(shard),
        _ => None,
    };
    world.plan().into_iter().filter_map(wish).collect()
}

/// What repairs wait for.
fn stalls(world: &World) -> Vec<Why> {
    plan::plan(&world.topology, &world.reports, world.now_s * 1_000).stalls
}

fn repair_after(world: &mut World, seconds: u64) {
    let setting = Setting::RepairAfter { seconds: Some(seconds) };
    world.propose(Command::Set { setting }).unwrap();
}

#[test]
fn a_dead_node_is_replaced() {
    let mut world = World::new(5, 6, 3, 0, 1);
    world.run(20);
    world.join(6, None);
    world.kill(3);
    let had = |world: &World| {
        let ids: Vec<ShardId> = world.topology.shards().keys().copied().collect();
        ids.into_iter().filter(|id| members(&world.topology, *id).contains(&NodeId(3))).count()
    };
    let shards = had(&world);
    assert!(shards > 2);
    let job = world.job(JobKind::ReplaceNode { old: NodeId(3), new: NodeId(6) }).expect("a job");
    for _ in 0..300 {
        world.tick();
        let coming = |shard: &Shard| {
            shard
                .wanted
                .lives()
                .any(|life| life.node == NodeId(6) && !shard.is.voters.contains(&life))
        };
        let coming = world.topology.shards().values().filter(|shard| coming(shard)).count();
        assert!(coming <= 2, "{coming} replicas are on their way to one node");
    }
    assert!(world.is_done(job) && is_out(&world, 3));
    let Progress { done, total } = world.topology.jobs()[&job].progress;
    assert_eq!((done, total), (shards as u32, shards as u32));
    let replicas = world.topology.shards().values();
    let of_new = replicas.filter(|shard| shard.wanted.members.contains_key(&NodeId(6))).count();
    assert_eq!(of_new, shards, "the new node has all replicas of the old one");
    assert!(world.is_settled());
}

#[test]
fn a_new_node_that_is_a_member_already_is_not_one_twice() {
    let mut world = World::new(4, 1, 3, 0, 1);
    world.run(20);
    // Nodes 1 to 3 are the members. Node 1 is replaced by node 2, so node 4 takes the replica.
    let job = world.job(JobKind::ReplaceNode { old: NodeId(1), new: NodeId(2) }).expect("a job");
    world.run_until(|world| world.is_done(job));
    assert_eq!(members(&world.topology, ShardId(0)), nodes([2, 3, 4]));
}

#[test]
fn a_node_without_a_successor_is_not_removed_and_the_refusal_says_why() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    let node = NodeId(2);
    let refused = Err(Refusal::NoRoom { node, shard: ShardId(0) });
    assert_eq!(world.job(JobKind::RemoveNode { node }), refused);
    assert_eq!(world.job(JobKind::ReplaceNode { old: node, new: NodeId(3) }), refused);
    world.run(60);
    assert_eq!(world.topology.node(node).unwrap().state, NodeState::Serving);
    world.join(4, None);
    let job = world.job(JobKind::RemoveNode { node }).unwrap();
    world.run_until(|world| world.is_done(job));
    assert!(is_out(&world, 2));
    assert_eq!(members(&world.topology, ShardId(0)), nodes([1, 3, 4]));
}

/// META had one voter once a removal waited for room, and kept it after the removal was cancelled.
#[test]
fn a_removal_that_waits_or_was_cancelled_costs_meta_no_members() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    world.join(4, None);
    let spare = Command::SetNodeState { node: NodeId(4), state: NodeState::Draining };
    let job = world.job(JobKind::RemoveNode { node: NodeId(2) }).unwrap();
    world.propose(spare).unwrap();
    world.kill(4);
    world.run(60);
    assert_eq!(why(&world, job), Some(Why::NoRoom { shard: ShardId(0) }));
    assert_eq!(members(&world.topology, META), nodes([1, 2, 3]));
    world.propose(Command::SetNodeState { node: NodeId(4), state: NodeState::Leaving }).unwrap();
    world.run(60);
    assert_eq!(members(&world.topology, META), nodes([1, 2, 3]));
    world.propose(Command::Cancel { job }).unwrap();
    world.run(60);
    assert_eq!(members(&world.topology, META), nodes([1, 2, 3]));
    assert_eq!(world.topology.node(NodeId(2)).unwrap().state, NodeState::Leaving);
}

#[test]
fn a_node_that_dies_while_it_comes_can_be_given_up() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    world.join(4, None);
    world.run(3);
    let first = world.job(JobKind::ReplaceNode { old: NodeId(1), new: NodeId(4) }).unwrap();
    world.run_until(|world| members(&world.topology, ShardId(0)).contains(&NodeId(4)));
    world.kill(4);
    world.run(60);
    assert_eq!(why(&world, first), Some(Why::Silent { node: NodeId(4) }));
    world.propose(Command::Cancel { job: first }).unwrap();
    world.join(5, None);
    world.run(3);
    let second = world.job(JobKind::ReplaceNode { old: NodeId(4), new: NodeId(5) }).unwrap();
    world.run_until(|world| world.is_done(second) && world.is_settled());
    assert_eq!(members(&world.topology, ShardId(0)), nodes([2, 3, 5]));
}

/// A removal once waited for ever for a node that had died while its replica came.
#[test]
fn a_removal_takes_another_node_if_the_one_that_comes_dies() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    world.join(4, None);
    world.run(3);
    let job = world.job(JobKind::RemoveNode { node: NodeId(1) }).unwrap();
    world.run_until(|world| members(&world.topology, ShardId(0)).contains(&NodeId(4)));
    world.kill(4);
    world.run(60);
    assert_eq!(why(&world, job), Some(Why::Silent { node: NodeId(4) }));
    world.join(5, None);
    world.run_until(|world| world.is_done(job) && world.is_settled());
    assert_eq!(members(&world.topology, ShardId(0)), nodes([2, 3, 5]));
}

/// A job with another node did nothing, because the old node was wanted no more.
/// Only jobs that empty a node passed over a newcomer that died. Others waited for it for ever.
#[test]
fn every_job_takes_another_node_if_the_one_that_comes_dies() {
    for kind in [
        JobKind::Replicas { count: 4, shard: Some(ShardId(0)) },
        JobKind::Rebalance { what: Balance::Members },
    ] {
        let mut world = World::new(3, 2, 3, 0, 1);
        world.run(20);
        world.join(4, None);
        world.run(3);
        let job = world.job(kind.clone()).unwrap();
        let is_coming = |world: &World| {
            let shards = world.topology.shards().values();
            let mut wanted = shards.filter(|shard| shard.wanted.members.contains_key(&NodeId(4)));
            wanted.any(|shard| !shard.is_settled())
        };
        world.run_until(is_coming);
        world.kill(4);
        world.join(5, None);
        world.run_until(|world| world.is_done(job));
        let mut shards = world.topology.shards().iter().filter(|(id, _)| **id != META);
        assert!(shards.all(|(_, shard)| shard.is_settled()), "{kind:?}");
    }
}

#[test]
fn a_replacement_that_was_cancelled_is_started_again_with_another_node() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    world.join(4, None);
    world.run(3);
    let (old, named) = (NodeId(1), |new| JobKind::ReplaceNode { old: NodeId(1), new: NodeId(new) });
    let first = world.job(named(4)).unwrap();
    world.run_until(|world| members(&world.topology, ShardId(0)).contains(&NodeId(4)));
    world.kill(4);
    world.run(60);
    assert_eq!(why(&world, first), Some(Why::Silent { node: NodeId(4) }));
    world.propose(Command::Cancel { job: first }).unwrap();
    world.join(5, None);
    world.run(3);
    let second = world.job(named(5)).unwrap();
    world.run_until(|world| world.is_done(second) && world.is_settled());
    assert!(is_out(&world, old.0));
    assert_eq!(members(&world.topology, ShardId(0)), nodes([2, 3, 5]));
}

#[test]
fn a_successor_that_is_drained_takes_no_replica_and_the_job_says_so() {
    let mut world = World::new(4, 1, 3, 0, 1);
    world.run(20);
    let spare = NodeId(4);
    let old = *members(&world.topology, ShardId(0)).first().unwrap();
    assert!(!members(&world.topology, ShardId(0)).contains(&spare));
    let job = world.job(JobKind::ReplaceNode { old, new: spare }).unwrap();
    let state = |state| Command::SetNodeState { node: spare, state };
    world.propose(state(NodeState::Draining)).unwrap();
    world.run(30);
    assert_eq!(why(&world, job), Some(Why::NotServing { node: spare }));
    world.propose(state(NodeState::Serving)).unwrap();
    world.run_until(|world| world.is_done(job));
}

#[test]
fn a_group_without_a_quorum_is_left_alone() {
    let mut world = World::new(5, 1, 3, 0, 1);
    world.run(20);
    let [one, two, _] = *members(&world.topology, ShardId(0)).into_iter().collect::<Vec<_>>()
    else {
        panic!("three members")
    };
    world.kill(one.0);
    world.kill(two.0);
    world.run(30);
    let job = world.job(JobKind::RemoveNode { node: one }).unwrap();
    let before = world.topology.shard(ShardId(0)).unwrap().wanted.clone();
    world.run(60);
    assert_eq!(why(&world, job), Some(Why::NoQuorum { shard: ShardId(0), heard: 1, voters: 3 }));
    assert_eq!(world.topology.shard(ShardId(0)).unwrap().wanted, before);
    world.start(one.0);
    world.run_until(|world| world.is_done(job));
}

#[test]
fn three_become_five_and_three_again() {
    let mut world = World::new(6, 4, 3, 3, 1);
    world.run(20);
    let count = |world: &World, shard: u32| members(&world.topology, ShardId(shard)).len();
    let grow = world.job(JobKind::Replicas { count: 5, shard: Some(ShardId(2)) }).unwrap();
    world.run_until(|world| world.is_done(grow));
    assert_eq!([0, 1, 2, 3].map(|shard| count(&world, shard)), [3, 3, 5, 3]);
    let shrink = world.job(JobKind::Replicas { count: 3, shard: None }).unwrap();
    world.run_until(|world| world.is_done(shrink) && world.is_settled());
    for shard in 0..4 {
        let zones: BTreeSet<_> = members(&world.topology, ShardId(shard))
            .iter()
            .map(|node| world.topology.node(*node).unwrap().zone.clone())
            .collect();
        assert_eq!((count(&world, shard), zones.len()), (3, 3), "shard {shard} over its zones");
    }
    assert_eq!(members(&world.topology, META).len(), 5, "META follows the nodes");
}

#[test]
fn of_five_the_dead_go_first() {
    let mut world = World::new(5, 1, 5, 0, 1);
    world.run(20);
    world.kill(2);
    world.kill(5);
    world.run(30);
    let job = world.job(JobKind::Replicas { count: 3, shard: None }).unwrap();
    world.run_until(|world| world.is_done(job));
    assert_eq!(members(&world.topology, ShardId(0)), nodes([1, 3, 4]));
}

#[test]
fn a_step_that_would_lose_the_quorum_is_not_planned() {
    let life = |node| Life { node: NodeId(node), birth: Birth(1) };
    let is = Members { voters: [1, 2, 3, 4, 5].map(life).into(), ..Members::default() };
    let is_heard = |node: NodeId| node.0 < 4;
    let path = |wanted: &[u64]| {
        let wanted = wanted.iter().map(|node| life(*node)).collect();
        steps(ShardId(7), &is, &wanted, is_heard)
    };
    // Of 3, 4 and 5 only 3 is heard of.
    let loses = Why::LosesQuorum { shard: ShardId(7), heard: 2, voters: 4 };
    assert_eq!(path(&[3, 4, 5]), Err(loses));
    let removes = [4, 5].map(|node| Step::Remove(life(node)));
    assert_eq!(path(&[1, 2, 3]), Ok(removes.to_vec()));
    assert_eq!(path(&[1, 2, 3, 9]), Err(Why::Silent { node: NodeId(9) }));
}

#[test]
fn of_those_that_go_the_silent_go_first() {
    let life = |node, birth| Life { node: NodeId(node), birth: Birth(birth) };
    let is =
        Members { voters: [1, 2, 3, 4, 5].map(|node| life(node, 1)).into(), ..Members::default() };
    let wanted = [1, 2, 3].map(|node| life(node, 1)).into();
    let path = steps(ShardId(0), &is, &wanted, |node| node != NodeId(5));
    assert_eq!(path, Ok([5, 4].map(|node| Step::Remove(life(node, 1))).to_vec()));
}

#[test]
fn a_life_never_votes_beside_an_older_one_of_its_node() {
    let life = |node, birth| Life { node: NodeId(node), birth: Birth(birth) };
    let is = Members { voters: [1, 2, 3].map(|node| life(node, 1)).into(), ..Members::default() };
    let wanted = [life(1, 1), life(2, 7), life(3, 1)].into();
    let path = steps(ShardId(0), &is, &wanted, |_| true);
    let [old, new] = [life(2, 1), life(2, 7)];
    assert_eq!(path, Ok(vec![Step::Add(new), Step::Remove(old), Step::Promote(new)]));
}

#[test]
fn a_new_controller_waits_for_every_live_node() {
    let mut world = World::new(5, 2, 3, 0, 1);
    world.run(20);
    world.join(6, None);
    world.run(2);
    world.job(JobKind::ReplaceNode { old: NodeId(1), new: NodeId(6) }).unwrap();
    assert!(!world.plan().is_empty());
    let reports = world.reports.clone();
    world.new_controller();
    assert_eq!(world.plan(), []);
    for (node, report) in &reports.nodes {
        assert_eq!(world.plan(), [], "before node {node} has reported");
        world.reports.nodes.insert(*node, report.clone());
    }
    assert!(!world.plan().is_empty(), "all have reported");
    world.reports.nodes.remove(&NodeId(4));
    assert_eq!(world.plan(), []);
    // A node that has not reported for so long does not live.
    let later = world.now_s * 1_000 + plan::HEARD_MS + 1;
    for report in world.reports.nodes.values_mut() {
        report.heard_ms = later;
    }
    assert!(!plan::next(&world.topology, &world.reports, later).is_empty());
}

#[test]
fn a_pause_stops_plans_but_no_facts() {
    let mut world = World::new(5, 2, 3, 0, 1);
    world.run(20);
    let pause = |paused| Command::Set { setting: Setting::Paused { paused } };
    world.propose(pause(true)).unwrap();
    let job = world.job(JobKind::RemoveNode { node: NodeId(1) }).unwrap();
    world.machines.keys().copied().collect::<Vec<_>>().iter().for_each(|node| world.start(node.0));
    world.run(60);
    let node = |world: &World, id| world.topology.node(NodeId(id)).unwrap().clone();
    assert_eq!(node(&world, 1).state, NodeState::Serving);
    assert_eq!(node(&world, 1).start.starts, 2, "what the node told of its second start");
    world.propose(pause(false)).unwrap();
    world.run_until(|world| world.is_done(job));
}

#[test]
fn a_node_that_is_silent_for_long_is_repaired_if_that_is_on() {
    let mut world = World::new(5, 4, 3, 0, 1);
    world.run(20);
    world.kill(2);
    world.run(200);
    assert!(members(&world.topology, ShardId(0)).contains(&NodeId(2)), "repair is off");
    repair_after(&mut world, 300);
    world.run(90);
    assert!(members(&world.topology, ShardId(0)).contains(&NodeId(2)), "not long enough");
    world.run_until(|world| {
        let shards = world.topology.shards().iter().filter(|(id, _)| **id != META);
        shards.into_iter().all(|(_, shard)| !shard.concerns(NodeId(2)))
    });
    assert!(!is_out(&world, 2), "a node that comes back may serve again");
    world.start(2);
    world.run_until(World::is_settled);
}

#[test]
fn a_new_controller_counts_silence_from_its_beginning() {
    let mut world = World::new(5, 1, 3, 0, 1);
    world.run(20);
    repair_after(&mut world, 100);
    world.kill(2);
    world.run(90);
    world.new_controller();
    world.run(90);
    assert!(members(&world.topology, ShardId(0)).contains(&NodeId(2)));
    world.run_until(|world| !members(&world.topology, ShardId(0)).contains(&NodeId(2)));
}

#[test]
fn nothing_is_repaired_if_a_third_of_the_nodes_looks_dead() {
    let mut world = World::new(6, 6, 3, 0, 1);
    world.run(20);
    repair_after(&mut world, 60);
    world.kill(2);
    world.kill(5);
    world.run(50);
    assert_eq!(stalls(&world), [], "none of them is due yet");
    world.run(150);
    assert!(world.topology.shards().values().all(|shard| shard.leaving.is_empty()));
    assert_eq!(stalls(&world), [Why::ManySilent { silent: 2, nodes: 6 }]);
    world.join(7, None);
    world
        .run_until(|world| world.topology.shards().values().any(|shard| !shard.leaving.is_empty()));
}

#[test]
fn one_node_is_repaired_at_a_time() {
    let mut world = World::new(9, 9, 3, 0, 1);
    world.run(20);
    repair_after(&mut world, 60);
    world.kill(6);
    // Node 1 is due while node 6 is under repair, and has the lower id.
    world.run(2);
    world.kill(1);
    let (mut repaired, mut told) = (BTreeSet::new(), false);
    for _ in 0..300 {
        world.tick();
        let waits =
            |why: &Why| matches!(why, Why::OneAtATime { node, .. } if [1, 6].contains(&node.0));
        told |= stalls(&world).iter().any(waits);
        let leaving: BTreeSet<NodeId> = (world.topology.shards().values())
            .flat_map(|shard| shard.leaving.keys().map(|life| life.node))
            .collect();
        assert!(leaving.len() <= 1, "{leaving:?} are repaired at once");
        for node in leaving.difference(&repaired) {
            let others = world.topology.shards().values().filter(|is| !is.concerns(*node));
            assert!(others.into_iter().all(Shard::is_settled), "{node} does not wait its turn");
        }
        repaired.extend(leaving);
    }
    assert_eq!(repaired, nodes([1, 6]));
    assert!(told, "the node that waits is named");
    let shards = || world.topology.shards().values();
    assert!(!shards().any(|shard| shard.concerns(NodeId(6)) || shard.concerns(NodeId(1))));
}

#[test]
fn a_new_member_comes_from_the_zone_that_lost_one() {
    let mut world = World::new(6, 2, 3, 3, 1);
    world.run(20);
    let zone = |world: &World, node: &NodeId| world.topology.node(*node).unwrap().zone.clone();
    world.join(7, Some("z2"));
    world.run(2);
    let old = *members(&world.topology, ShardId(0))
        .iter()
        .find(|node| zone(&world, node).as_deref() == Some("z2"))
        .expect("a member in zone z2");
    let job = world.job(JobKind::RemoveNode { node: old }).unwrap();
    world.run_until(|world| world.is_done(job));
    for shard in [ShardId(0), ShardId(1)] {
        let members = members(&world.topology, shard);
        let zones: BTreeSet<_> = members.iter().map(|node| zone(&world, node)).collect();
        assert_eq!(zones.len(), 3, "shard {shard} on {members:?}");
    }
}

#[test]
fn meta_follows_the_number_of_nodes() {
    for (nodes, replicas, meta) in
        [(1, 1, 1), (2, 1, 1), (3, 1, 3), (4, 3, 3), (5, 3, 5), (9, 3, 5)]
    {
        let mut world = World::new(nodes, 2, replicas, 0, 1);
        world.run(90);
        assert!(world.is_settled());
        assert_eq!(members(&world.topology, META).len(), meta, "on {nodes} nodes");
    }
    let mut world = World::new(5, 1, 3, 0, 1);
    world.run(90);
    let job = world.job(JobKind::RemoveNode { node: NodeId(2) }).unwrap();
    world.run_until(|world| world.is_done(job) && world.is_settled());
    assert_eq!(members(&world.topology, META).len(), 3, "on four nodes");
}

#[test]
fn replicas_are_evened_out_within_zones() {
    let mut world = World::new(6, 12, 3, 3, 1);
    world.run(60);
    for node in 7..=9 {
        world.join(node, Some(&format!("z{}", node % 3)));
    }
    world.run(2);
    let job = world.job(JobKind::Rebalance { what: Balance::Members }).unwrap();
    world.run_until(|world| world.is_done(job));
    let mut replicas: BTreeMap<NodeId, usize> = BTreeMap::new();
    for shard in (0..12).map(ShardId) {
        let members = members(&world.topology, shard);
        let zones: BTreeSet<u64> = members.iter().map(|node| node.0 % 3).collect();
        assert_eq!(zones.len(), 3, "shard {shard} on {members:?}");
        members.into_iter().for_each(|node| *replicas.entry(node).or_default() += 1);
    }
    assert!(replicas.values().all(|count| *count == 4), "{replicas:?}");
}

#[test]
fn a_wish_waits_until_the_change_before_it_is_over() {
    let mut world = World::new(5, 1, 3, 0, 1);
    world.run(90);
    let all = members(&world.topology, ShardId(0));
    let mut members = all.into_iter();
    let [one, two] = [members.next().unwrap(), members.next().unwrap()];
    world.job(JobKind::RemoveNode { node: one }).unwrap();
    let second = world.job(JobKind::RemoveNode { node: two }).unwrap();
    let wished = wishes(&mut world);
    assert_eq!(wished.iter().filter(|shard| **shard == ShardId(0)).count(), 1);
    world.tick();
    assert!(matches!(why(&world, second), Some(Why::Changing { .. } | Why::Turn { .. })));
    world.run_until(|world| world.is_done(second));
}

#[test]
fn an_empty_topology_is_not_planned() {
    let reports = Reports { since_ms: 0, nodes: BTreeMap::new() };
    assert_eq!(plan::next(&Topology::default(), &reports, NOW_S * 1_000), []);
    // A founded one without any report has no leader that could be told anything.
    let later = NOW_S * 1_000;
    assert_eq!(plan::next(&founded(5, 2, 3, 0), &reports, later), []);
}
