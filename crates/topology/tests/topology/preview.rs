//! Previews: what is told in advance is what happens, and what is refused is told with its reason.

use crate::nodes;
use crate::world::World;
use palisade_topology::plan::{Accepted, Handover, Preview, Regroup, Step, objection, preview};
use palisade_topology::*;
use routing::{META, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

fn look(world: &World, kind: JobKind) -> Result<Preview, Refusal> {
    let command = Command::Job { request: RequestId(77), kind };
    preview(&world.topology, &world.reports, world.now_s * 1_000, &command)
}

fn objected(world: &World, kind: JobKind, accepted: Accepted) -> Option<Refusal> {
    objection(&world.topology, &world.reports, world.now_s * 1_000, &kind, accepted)
}

/// The nodes of all members of each shard.
fn groups(topology: &Topology) -> BTreeMap<ShardId, BTreeSet<NodeId>> {
    let nodes = |shard: &Shard| shard.is.voters.iter().map(|life| life.node).collect();
    topology.shards().iter().map(|(id, shard)| (*id, nodes(shard))).collect()
}

/// The same after the steps of a preview.
fn after(topology: &Topology, preview: &Preview) -> BTreeMap<ShardId, BTreeSet<NodeId>> {
    let mut groups = groups(topology);
    for Regroup { shard, steps, .. } in &preview.members {
        for step in steps {
            match step {
                Step::Add(_) => {}
                Step::Promote(life) => assert!(groups.get_mut(shard).unwrap().insert(life.node)),
                Step::Remove(life) => assert!(groups.get_mut(shard).unwrap().remove(&life.node)),
            }
        }
    }
    groups
}

fn steps_of(preview: &Preview, shard: ShardId) -> Vec<(&'static str, u64)> {
    let steps = preview.members.iter().filter(|regroup| regroup.shard == shard);
    let word = |step: &Step| match step {
        Step::Add(life) => ("add", life.node.0),
        Step::Promote(life) => ("promote", life.node.0),
        Step::Remove(life) => ("remove", life.node.0),
    };
    steps.flat_map(|regroup| regroup.steps.iter().map(word)).collect()
}

#[test]
fn a_replacement_is_told_step_by_step() {
    let mut world = World::new(3, 4, 3, 0, 1);
    world.run(20);
    world.join(4, None);
    world.run(3);
    world.kill(3);
    world.run(20);
    let told = look(&world, JobKind::ReplaceNode { old: NodeId(3), new: NodeId(4) }).unwrap();
    assert_eq!((told.version, told.is_done, &told.why), (world.topology.version(), true, &None));
    for shard in (0..4).map(ShardId).chain([META]) {
        let steps = [("add", 4), ("promote", 4), ("remove", 3)];
        assert_eq!(steps_of(&told, shard), steps, "shard {shard}");
    }
    assert!(told.members.iter().all(|way| (way.heard, way.voters) == (2, 3)));
    let back = Preview::decode(&told.encode()).expect("it comes back from its bytes");
    assert_eq!(back, told);
    // Nothing was done.
    assert_eq!(world.topology.version(), told.version);
    assert!(world.topology.node(NodeId(3)).unwrap().state == NodeState::Serving);
}

/// The plans of each kind of job, on different clusters, lead to what was told.
#[test]
fn what_is_told_is_what_happens() {
    let mut moves = 0;
    for seed in 0..12 {
        let (zones, replicas) = (seed % 3, 3);
        let mut world = World::new(5 + seed % 3, 6, replicas, zones, seed);
        world.run(20);
        let zone = (zones > 0).then(|| "z0".to_owned());
        world.join(20, zone.as_deref());
        world.run(20);
        let node = NodeId(1 + seed % 5);
        for kind in [
            JobKind::Replicas { count: 5, shard: Some(ShardId(1)) },
            JobKind::ReplaceNode { old: node, new: NodeId(20) },
            JobKind::Rebalance { what: Balance::Members },
            JobKind::Replicas { count: 3, shard: None },
            JobKind::Drain { node: NodeId(20) },
            JobKind::Undrain { node: NodeId(20) },
        ] {
            let told = look(&world, kind.clone()).unwrap();
            assert!(told.is_done, "{kind:?}: {told:?}");
            let expected = after(&world.topology, &told);
            let job = world.job(kind.clone()).unwrap();
            world.run_until(|world| world.is_done(job) && world.is_settled());
            assert_eq!(groups(&world.topology), expected, "seed {seed}, {kind:?}");
            moves += told.members.len();
        }
    }
    assert!(moves > 50, "only {moves} groups have changed");
}

#[test]
fn a_drain_tells_which_leaderships_go_and_what_it_would_wait_for() {
    let mut world = World::new(3, 3, 3, 0, 1);
    world.run(20);
    let node = NodeId(2);
    let leads = |world: &World, id: &ShardId| {
        world.groups[id].leader.is_some_and(|leader| leader.node == node)
    };
    let led: BTreeSet<ShardId> =
        world.groups.keys().filter(|id| leads(&world, id)).copied().collect();
    assert!(!led.is_empty());
    let told = look(&world, JobKind::Drain { node }).unwrap();
    let from = |Handover { shard, from, .. }: &Handover| (*from == node).then_some(*shard);
    assert_eq!(told.leaders.iter().filter_map(from).collect::<BTreeSet<_>>(), led);
    assert!(told.is_done && told.members.is_empty(), "{told:?}");
    world.kill(3);
    world.run(20);
    let told = look(&world, JobKind::Drain { node }).unwrap();
    assert!(!told.is_done);
    let why = told.why.expect("node 2 is needed").to_string();
    assert!(why.contains("without a quorum"), "{why}");
}

#[test]
fn a_refusal_is_told_and_other_jobs_are_left_out() {
    let mut world = World::new(4, 2, 3, 0, 1);
    world.run(20);
    let refused = look(&world, JobKind::Drain { node: NodeId(9) });
    assert_eq!(refused, Err(Refusal::UnknownNode(NodeId(9))));
    world.propose(Command::Set { setting: Setting::Paused { paused: true } }).unwrap();
    let busy = world.job(JobKind::RemoveNode { node: NodeId(1) }).unwrap();
    assert_eq!(look(&world, JobKind::Drain { node: NodeId(1) }), Err(Refusal::Busy(busy)));
    // It is told although plans rest, and without the removal of node 1.
    let told = look(&world, JobKind::Replicas { count: 1, shard: Some(ShardId(0)) }).unwrap();
    assert!(told.is_done && told.members.iter().all(|way| way.shard == ShardId(0)), "{told:?}");
    let cancel = Command::Cancel { job: busy };
    let told = preview(&world.topology, &world.reports, world.now_s * 1_000, &cancel).unwrap();
    assert!(told.is_done && told.members.is_empty());
}

#[test]
fn a_repair_is_told_with_the_brake_that_holds() {
    let mut world = World::new(6, 4, 3, 0, 1);
    world.run(20);
    world.kill(2);
    world.run(200);
    let told = |world: &World, seconds| {
        let set = Command::Set { setting: Setting::RepairAfter { seconds: Some(seconds) } };
        preview(&world.topology, &world.reports, world.now_s * 1_000, &set).unwrap()
    };
    let now = told(&world, 60);
    assert!(now.is_done && !now.members.is_empty(), "{now:?}");
    let removed = |way: &Regroup| steps_of(&now, way.shard).contains(&("remove", 2));
    assert!(now.members.iter().all(removed), "{now:?}");
    assert_eq!(told(&world, 600).members, [], "not long enough");
    world.kill(3);
    world.run(90);
    let brake = told(&world, 60);
    assert_eq!(brake.why, Some(Why::ManySilent { silent: 2, nodes: 6 }));
    assert!(brake.members.is_empty() && !brake.is_done);
}

#[test]
fn another_number_of_members_is_refused_if_all_that_are_left_would_be_needed() {
    let mut world = World::new(5, 1, 5, 0, 1);
    world.run(20);
    let three = JobKind::Replicas { count: 3, shard: None };
    assert_eq!(objected(&world, three.clone(), Accepted::default()), None);
    world.kill(4);
    world.run(20);
    assert_eq!(objected(&world, three.clone(), Accepted::default()), None, "one may fail yet");
    world.kill(5);
    world.run(20);
    let no_spare = Refusal::NoSpare { shard: ShardId(0), heard: 3, voters: 4 };
    assert_eq!(objected(&world, three.clone(), Accepted::default()), Some(no_spare));
    let accepted = Accepted { no_spare: true, ..Accepted::default() };
    assert_eq!(objected(&world, three.clone(), accepted), None);
    let job = world.job(three).unwrap();
    world.run_until(|world| world.is_done(job));
    assert_eq!(groups(&world.topology)[&ShardId(0)], nodes([1, 2, 3]));
}

#[test]
fn a_node_is_not_replaced_by_one_of_another_zone_unaccepted() {
    let mut world = World::new(6, 2, 3, 3, 1);
    world.run(20);
    world.join(7, Some("z0"));
    world.join(8, Some("z1"));
    world.join(9, None);
    let replace = |new| JobKind::ReplaceNode { old: NodeId(3), new: NodeId(new) };
    let refused = |new| Refusal::OtherZone { old: NodeId(3), new: NodeId(new), zone: "z0".into() };
    assert_eq!(objected(&world, replace(7), Accepted::default()), None);
    for new in [8, 9] {
        assert_eq!(objected(&world, replace(new), Accepted::default()), Some(refused(new)));
        let accepted = Accepted { other_zone: true, ..Accepted::default() };
        assert_eq!(objected(&world, replace(new), accepted), None);
    }
    assert_eq!(objected(&world, replace(99), Accepted::default()), None, "there is no node 99");
    let from_none = JobKind::ReplaceNode { old: NodeId(9), new: NodeId(8) };
    assert_eq!(objected(&world, from_none, Accepted::default()), None, "node 9 has no zone");
}
