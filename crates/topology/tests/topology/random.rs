//! Random operators, faults and late facts in the model world.
//!
//! [`World::propose`] and [`World::plan`] check each command and each plan. Here the world is hurt at
//! random, then left alone, and everything that was wanted must come about.

use crate::world::World;
use palisade_topology::*;
use routing::{NodeId, ShardId};

/// Something that an operator might do, sensible or not.
fn operator(world: &mut World) {
    let all: Vec<NodeId> = world.topology.nodes().keys().copied().collect();
    let node = world.random.pick(&all).unwrap();
    let other = world.random.pick(&all).unwrap();
    let shards: Vec<ShardId> = world.topology.shards().keys().copied().collect();
    let shard = world.random.pick(&shards).unwrap();
    let count = 1 + world.random.below(5) as u32;
    let job = JobId(1 + world.random.below(10));
    let kind = match world.random.below(12) {
        0 => JobKind::Drain { node },
        1 => JobKind::Undrain { node },
        2 | 3 => JobKind::ReplaceNode { old: node, new: other },
        4 => JobKind::RemoveNode { node },
        5 => JobKind::Replicas { count, shard: Some(shard) },
        6 => JobKind::Replicas { count: 3, shard: None },
        7 => JobKind::Rebalance { what: Balance::Members },
        8 => JobKind::Rebalance { what: Balance::Leaders },
        9 => {
            let _ = world.propose(Command::Cancel { job });
            return;
        }
        10 => {
            let _ = world.propose(Command::Prefer { shard, node });
            return;
        }
        _ => {
            let seconds = (count > 2).then_some(60);
            let _ = world.propose(Command::Set { setting: Setting::RepairAfter { seconds } });
            return;
        }
    };
    let _ = world.job(kind);
}

fn fault(world: &mut World) {
    let nodes: Vec<u64> = world.topology.present().map(|(node, _)| node.0).collect();
    let down: Vec<u64> = nodes.iter().copied().filter(|node| !world.is_up(NodeId(*node))).collect();
    let node = world.random.pick(&nodes).unwrap();
    match world.random.below(8) {
        0..3 if down.is_empty() => world.kill(node),
        3..5 if !down.is_empty() => world.start(down[0]),
        5 if down.is_empty() && world.can_lose_the_disk_of(NodeId(node)) => world.reseed(node),
        6 => world.new_controller(),
        _ => world.repeat_a_fact(),
    }
}

fn heal(world: &mut World) {
    let present: Vec<u64> = world.topology.present().map(|(node, _)| node.0).collect();
    for node in present {
        if !world.is_up(NodeId(node)) {
            world.start(node);
        }
    }
}

/// Whether a job cannot end, because there are too few nodes or another one is drained. It says so.
fn is_out_of_room(job: &Job) -> bool {
    let no_room =
        matches!(job.why, Some(Why::NoRoom { .. } | Why::TooFew { .. } | Why::Leads { .. }));
    let is_drain = matches!(job.kind, JobKind::Drain { .. });
    no_room || (is_drain && matches!(job.why, Some(Why::NotServing { .. })))
}

#[test]
fn whatever_operators_and_faults_do_the_wanted_state_comes_about() {
    let mut seen = [0; 4];
    for seed in 0..40 {
        let mut world = World::new(6, 4, 3, seed % 4, seed);
        world.join(7, Some("z1"));
        for _ in 0..200 {
            match world.random.below(12) {
                0 => operator(&mut world),
                1 => fault(&mut world),
                2 => world.repeat_a_fact(),
                _ => {}
            }
            world.tick();
        }
        heal(&mut world);
        world.run_until(|world| {
            world.is_settled() && world.topology.running().all(|(_, job)| is_out_of_room(job))
        });
        let jobs = world.topology.jobs().values();
        seen[0] += jobs.clone().filter(|job| job.state == JobState::Done).count();
        seen[1] += jobs.clone().filter(|job| job.state == JobState::Cancelled).count();
        seen[2] += jobs.filter(|job| job.state == JobState::Running).count();
        let nodes = world.topology.nodes().values();
        seen[3] += nodes.filter(|node| node.state == NodeState::Removed).count();
    }
    assert!(seen.iter().all(|count| *count > 0), "done, cancelled, out of room, removed: {seen:?}");
}

#[test]
fn the_same_commands_make_the_same_topology() {
    let hash = |seed| {
        let mut world = World::new(5, 3, 3, 2, seed);
        for _ in 0..80 {
            if world.random.once_in(5) {
                operator(&mut world);
            }
            world.tick();
        }
        world.topology.state_hash()
    };
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}
