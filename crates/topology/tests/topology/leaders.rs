//! Plans of leaders: drained nodes, loads that are uneven, and rest between moves.

use crate::NOW_S;
use crate::world::World;
use palisade_topology::plan::LEVEL_LAG_ENTRIES;
use palisade_topology::*;
use routing::{NodeId, ShardId};

/// The preferences in the next plan.
fn prefers(world: &mut World) -> Vec<(ShardId, NodeId)> {
    let prefer = |command| match command {
        Command::Prefer { shard, node } => Some((shard, node)),
        _ => None,
    };
    world.plan().into_iter().filter_map(prefer).collect()
}

/// A world on five nodes that all have all shards, where these nodes lead them with these loads, and
/// all have rested.
fn loaded(leaders: &[(u64, u64)]) -> World {
    let mut world = World::new(5, leaders.len() as u32, 5, 0, 1);
    // Too little load to move anything.
    world.groups.values_mut().for_each(|group| group.ops_per_s = 0);
    world.run(20);
    let shards = || (0..).map(ShardId);
    for (shard, (node, _)) in shards().zip(leaders) {
        world.propose(Command::Prefer { shard, node: NodeId(*node) }).unwrap();
    }
    world.run(10);
    world.now_s += 400;
    world.run(1);
    for (shard, (node, ops_per_s)) in shards().zip(leaders) {
        let group = world.groups.get_mut(&shard).unwrap();
        assert_eq!(group.leader.unwrap().node, NodeId(*node));
        group.ops_per_s = *ops_per_s;
    }
    world
}

/// As [`loaded`], where node 1 leads all.
fn skewed(loads: &[u64]) -> World {
    loaded(&loads.iter().map(|load| (1, *load)).collect::<Vec<_>>())
}

/// Reports arrive, and nothing else happens.
fn reported(mut world: World) -> World {
    let topology = world.topology.clone();
    let pause = Command::Set { setting: Setting::Paused { paused: true } };
    world.propose(pause).unwrap();
    world.tick();
    let pause = Command::Set { setting: Setting::Paused { paused: false } };
    world.propose(pause).unwrap();
    assert_eq!(world.topology.shards(), topology.shards());
    world
}

fn led_by(world: &World, node: u64) -> usize {
    let leads =
        |group: &&crate::world::Group| group.leader.is_some_and(|is| is.node == NodeId(node));
    world.groups.values().filter(leads).count()
}

#[test]
fn a_small_difference_moves_nothing() {
    let moved = |leaders: &[(u64, u64)]| prefers(&mut reported(loaded(leaders)));
    let far = |last| [(1, 11_000), (1, 1_500), (2, 11_500), (3, 11_500), (4, 11_500), (5, last)];
    assert_eq!(moved(&far(9_000)), [], "12 % above the mean");
    assert_eq!(moved(&far(5_000)), [(ShardId(1), NodeId(5))], "20 % above the mean");
    let few = |ops| [(1, 4 * ops), (1, 2 * ops), (2, ops), (3, ops), (4, ops), (5, ops)];
    assert_eq!(moved(&few(100)), [], "400 operations per second above the mean");
    assert_eq!(moved(&few(200)).len(), 1, "800 operations per second above the mean");
}

#[test]
fn a_move_that_gains_little_is_not_made() {
    let moved = |leaders: &[(u64, u64)]| prefers(&mut reported(loaded(leaders)));
    // One busy shard is as busy elsewhere.
    assert_eq!(moved(&[(1, 100_000)]), []);
    // Node 5 would have 9,000 in place of the 10,000 of node 1, for a move of 6,000.
    let two = [(1, 6_000), (1, 4_000), (2, 3_000), (3, 3_000), (4, 3_000), (5, 3_000)];
    assert_eq!(moved(&two), [(ShardId(1), NodeId(2))], "the smaller one gains 3,000 of 4,000");
    assert_eq!(moved(&two[..1]), []);
}

#[test]
fn one_leadership_leaves_a_node_in_three_seconds() {
    let mut world = skewed(&[1_000; 8]);
    let mut moved: Vec<(u64, NodeId)> = Vec::new();
    for _ in 0..60 {
        let before: Vec<_> = world.topology.shards().values().map(|is| is.preference).collect();
        world.tick();
        let after = world.topology.shards().values().map(|is| is.preference);
        for (before, after) in before.into_iter().zip(after).filter(|(one, other)| one != other) {
            assert_eq!(before.unwrap().node, NodeId(1));
            moved.push((world.now_s, after.unwrap().node));
        }
    }
    assert!(moved.len() >= 4, "{moved:?}");
    assert!(moved.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 3), "{moved:?}");
    let shards = |world: &World| [1, 2, 3, 4, 5].map(|node| led_by(world, node));
    let settled = shards(&world);
    world.run(600);
    assert_eq!(shards(&world), settled, "an even load moves nothing more");
    assert!(settled.iter().all(|led| *led <= 3), "8 shards and META are led by {settled:?}");
}

#[test]
fn a_shard_rests_for_five_minutes() {
    let mut world = skewed(&[1_000, 1_000]);
    world.run(10);
    let moved = (0..2)
        .map(ShardId)
        .find(|shard| world.topology.shard(*shard).unwrap().preference.unwrap().node != NodeId(1));
    let moved = moved.expect("one has moved");
    let to = world.topology.shard(moved).unwrap().preference.unwrap();
    // Now its new node is the busiest one, because of another shard.
    let other = ShardId(1 - moved.0);
    world.propose(Command::Prefer { shard: other, node: to.node }).unwrap();
    let at = world.now_s;
    let preferred =
        |world: &World, shard| world.topology.shard(shard).unwrap().preference.unwrap().node;
    while preferred(&world, moved) == to.node && preferred(&world, other) == to.node {
        assert!(world.now_s < at + 400, "it moves in the end");
        world.tick();
    }
    assert!(world.now_s - to.at_s >= 300, "after {} s", world.now_s - to.at_s);
}

#[test]
fn only_level_voters_on_serving_nodes_lead() {
    let mut world = reported(skewed(&[5_000, 5_000]));
    for (node, report) in &mut world.reports.nodes {
        for replica in report.replicas.values_mut() {
            replica.lag_entries =
                LEVEL_LAG_ENTRIES + u64::from(*node != NodeId(1) && *node != NodeId(4));
        }
    }
    let planned = prefers(&mut world);
    assert!(
        !planned.is_empty() && planned.iter().all(|(_, node)| *node == NodeId(4)),
        "{planned:?}"
    );
    world.propose(Command::SetNodeState { node: NodeId(4), state: NodeState::Draining }).unwrap();
    assert_eq!(prefers(&mut world), []);
}

#[test]
fn all_leaderships_of_a_draining_node_get_their_next_leaders_in_one_plan() {
    let mut world = skewed(&[100; 12]);
    let leads = led_by(&world, 1);
    let job = world.job(JobKind::Drain { node: NodeId(1) }).unwrap();
    let planned = prefers(&mut world);
    assert_eq!((planned.len(), leads >= 12), (leads, true));
    assert!(planned.iter().all(|(_, node)| *node != NodeId(1)));
    world.run_until(|world| world.is_done(job));
    assert_eq!(led_by(&world, 1), 0);
    assert_eq!(world.topology.node(NodeId(1)).unwrap().state, NodeState::Draining);
    let loads: Vec<usize> = (2..=5).map(|node| led_by(&world, node)).collect();
    assert!(loads.iter().all(|led| (2..=5).contains(led)), "spread over the others: {loads:?}");
    let back = world.job(JobKind::Undrain { node: NodeId(1) }).unwrap();
    world.run_until(|world| world.is_done(back));
    assert_eq!(world.topology.node(NodeId(1)).unwrap().state, NodeState::Serving);
}

#[test]
fn a_drain_says_which_shard_needs_the_node_and_why() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    world.kill(2);
    world.run(30);
    let job = world.job(JobKind::Drain { node: NodeId(1) }).unwrap();
    world.run(60);
    let why = world.topology.jobs()[&job].why.clone();
    // At level 1, the log has the reason that builds before level 2 know.
    let (shard, node, other) = (ShardId(0), NodeId(1), NodeId(2));
    assert_eq!(why, Some(Why::Needed { shard, node, other }));
    assert_eq!(led_by(&world, 1), 0, "it leads nothing nevertheless");
    world.start(2);
    world.run_until(|world| world.is_done(job));
}

/// Regression: for 15 s after a node had died, a drain of another one was done, and said that this one
/// could be stopped.
#[test]
fn a_drain_right_after_another_node_died_waits_for_that() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    world.kill(2);
    let job = world.job(JobKind::Drain { node: NodeId(1) }).unwrap();
    world.run(8);
    assert!(world.reports.is_heard(NodeId(2), world.now_s * 1_000), "as far as its reports say");
    let why = world.topology.jobs()[&job].why.clone();
    let (shard, node, other) = (ShardId(0), NodeId(1), NodeId(2));
    assert_eq!((world.is_done(job), why), (false, Some(Why::Needed { shard, node, other })));
    world.start(2);
    world.run_until(|world| world.is_done(job));
}

/// Regression: two drained nodes could each be stopped, as they said, and their shards had no quorum
/// without both.
#[test]
fn a_drain_counts_on_no_node_that_is_drained() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    let first = world.job(JobKind::Drain { node: NodeId(1) }).unwrap();
    world.run_until(|world| world.is_done(first));
    let second = world.job(JobKind::Drain { node: NodeId(2) }).unwrap();
    world.run(60);
    let why = world.topology.jobs()[&second].why.clone();
    assert_eq!(why, Some(Why::NotServing { node: NodeId(1) }));
    world.job(JobKind::Undrain { node: NodeId(1) }).unwrap();
    world.run_until(|world| world.is_done(second));
}

/// Regression: two drains that were under way at once waited for each other.
#[test]
fn of_two_drains_at_once_one_is_done() {
    let mut world = World::new(3, 1, 3, 0, 1);
    world.run(20);
    let jobs = [1, 2].map(|node| world.job(JobKind::Drain { node: NodeId(node) }).unwrap());
    world.run_until(|world| jobs.iter().any(|job| world.is_done(*job)));
    world.run(60);
    let (done, waits) = if world.is_done(jobs[0]) { (1, jobs[1]) } else { (2, jobs[0]) };
    let why = world.topology.jobs()[&waits].why.clone();
    assert_eq!(why, Some(Why::NotServing { node: NodeId(done) }));
}

#[test]
fn a_shard_on_one_node_cannot_do_without_it() {
    let mut world = World::new(2, 1, 1, 0, 1);
    world.run(20);
    let member = *world.topology.shard(ShardId(0)).unwrap().wanted.members.keys().next().unwrap();
    let job = world.job(JobKind::Drain { node: member }).unwrap();
    world.run(60);
    let why = world.topology.jobs()[&job].why.clone();
    assert_eq!(why, Some(Why::TooFew { shard: ShardId(0), node: member, voters: 1 }));
}

#[test]
fn leaders_are_evened_out_on_request_without_rest() {
    let mut world = skewed(&[40; 10]);
    world.run(60);
    assert_eq!(
        led_by(&world, 1),
        10 + usize::from(leads_meta(&world)),
        "too little to move by itself"
    );
    let job = world.job(JobKind::Rebalance { what: Balance::Leaders }).unwrap();
    world.run_until(|world| world.is_done(job));
    let loads: Vec<usize> = (1..=5).map(|node| led_by(&world, node)).collect();
    assert!(loads.iter().all(|led| (1..=3).contains(led)), "{loads:?}");
    assert!(world.now_s < NOW_S + 1_000);
}

fn leads_meta(world: &World) -> bool {
    world.groups[&routing::META].leader.is_some_and(|is| is.node == NodeId(1))
}

#[test]
fn a_shard_without_a_preference_prefers_its_leader() {
    let mut world = reported(skewed(&[100; 3]));
    for state in [NodeState::Draining, NodeState::Serving] {
        world.propose(Command::SetNodeState { node: NodeId(1), state }).unwrap();
    }
    let planned = prefers(&mut world);
    assert!(planned.len() >= 3, "{planned:?}");
    // Others have less load, but nothing has to move.
    assert!(planned.iter().all(|(_, node)| *node == NodeId(1)), "{planned:?}");
}

#[test]
fn a_shard_that_lost_its_preferred_leader_gets_another() {
    let mut world = World::new(4, 1, 3, 0, 1);
    world.run(20);
    let preferred = |world: &World| world.topology.shard(ShardId(0)).unwrap().preference;
    let before = preferred(&world).unwrap().node;
    let job = world.job(JobKind::RemoveNode { node: before }).unwrap();
    world.run_until(|world| world.is_done(job) && preferred(world).is_some());
    assert_ne!(preferred(&world).unwrap().node, before);
}
