//! A cluster at rest: facts are recorded once, and then nothing is proposed any more.

use crate::world::World;
use crate::{NOW_S, told};
use palisade_topology::plan::{self, Plan, Report};
use palisade_topology::*;
use routing::{NodeId, ShardId};

fn is_fact(command: &Command) -> bool {
    matches!(command, Command::NodeIs { .. } | Command::Is { .. })
}

fn plan_of(world: &World) -> Plan {
    plan::plan(&world.topology, &world.reports, world.now_s * 1_000)
}

/// Seven nodes, and META on three of them. One node leads much more than the others.
fn skewed() -> World {
    let mut world = World::as_founded(7, 6, 3, 0, 1);
    for group in world.groups.values_mut() {
        // Where its replicas began, after a restart of all nodes.
        group.members.conf_index = 12;
        group.ops_per_s = 9_000;
    }
    world
}

#[test]
fn after_the_facts_nothing_is_proposed_for_an_hour() {
    let mut world = skewed();
    let mut facts = 0;
    for second in 0..3_600 {
        let version = world.topology.version();
        world.tick();
        let changes = world.topology.version().0 - version.0;
        assert!(second < 30 || changes == 0, "{changes} changes in second {second}");
        facts += changes;
        // Every ten minutes another node becomes the controller, with no reports.
        if second % 600 == 599 {
            world.new_controller();
        }
    }
    // Each node tells itself once, and each group its members and the wish that founded it.
    let groups = world.topology.shards().len() as u64;
    assert!((7 + groups..=7 + 2 * groups).contains(&facts), "{facts} facts");
    let seed = World::as_founded(7, 6, 3, 0, 1).topology;
    for (id, shard) in seed.shards() {
        let now = world.topology.shard(*id).unwrap();
        assert_eq!(
            (&now.wanted, &now.preference),
            (&shard.wanted, &shard.preference),
            "shard {id}"
        );
    }
}

#[test]
fn a_cluster_is_planned_for_from_its_first_job_on() {
    let mut world = skewed();
    world.run(20);
    assert_eq!(world.plan(), []);
    let job = world.job(JobKind::Undrain { node: NodeId(1) }).expect("a job");
    world.run_until(|world| world.is_done(job));
    world.run_until(|world| {
        let meta = world.topology.shard(routing::META).unwrap();
        meta.wanted.members.len() == 5 && meta.is_settled()
    });
}

#[test]
fn a_leader_that_restarts_tells_its_members_once() {
    let mut world = skewed();
    world.run(20);
    world.groups.get_mut(&ShardId(2)).unwrap().members.conf_index = 70;
    world.tick();
    assert_eq!(world.topology.shard(ShardId(2)).unwrap().is.conf_index, 70);
    let version = world.topology.version();
    // The next leader has not restarted, so its configuration has a lower index.
    world.groups.get_mut(&ShardId(2)).unwrap().members.conf_index = 12;
    world.run(60);
    assert_eq!(world.topology.version(), version);
}

#[test]
fn a_fact_that_is_not_believed_is_never_proposed_and_said_with_its_reason() {
    let mut world = skewed();
    world.run(20);
    let now_ms = world.now_s * 1_000;
    let report = |world: &World, node: u64, told: NodeTold| {
        let replicas = world.reports.nodes[&NodeId(node)].replicas.clone();
        Report { heard_ms: now_ms, told, replicas, behind: Default::default() }
    };
    let other_store = NodeTold { store: StoreId([99; 16]), ..told(2, 5) };
    let no_address = NodeTold { address: "nowhere".to_owned(), ..told(3, 5) };
    let mut no_group = report(&world, 4, told(4, 1));
    let led = no_group.replicas.values_mut().find(|replica| replica.role == plan::Role::Leader);
    let led = led.expect("node 4 leads a shard");
    led.members.conf_index += 1;
    led.members.learners = led.members.voters.clone();
    let two = report(&world, 2, other_store);
    let three = report(&world, 3, no_address);
    world.reports.nodes.extend([(NodeId(2), two), (NodeId(3), three), (NodeId(4), no_group)]);
    for _ in 0..3 {
        let plan = plan_of(&world);
        assert_eq!(plan.commands, []);
        assert!(
            matches!(
                plan.disbelieved.as_slice(),
                [Refusal::IdTaken(NodeId(2)), Refusal::Address { .. }, Refusal::NoGroup { .. }]
            ),
            "{:?}",
            plan.disbelieved
        );
    }
    world.now_s += plan::HEARD_MS / 1_000 + 1;
    assert_eq!(plan_of(&world).disbelieved, [], "reports that nobody repeats");
}

#[test]
fn a_restart_of_a_node_is_one_fact() {
    let mut world = skewed();
    world.run(20);
    world.start(5);
    world.now_s += 1;
    let later = Report {
        heard_ms: world.now_s * 1_000,
        told: told(5, 2),
        ..world.reports.nodes[&NodeId(5)].clone()
    };
    world.reports.nodes.insert(NodeId(5), later);
    let commands = world.plan();
    assert!(matches!(commands.as_slice(), [fact] if is_fact(fact)), "{commands:?}");
    for command in commands {
        world.propose(command).unwrap();
    }
    assert_eq!(world.plan(), []);
    assert!(world.now_s > NOW_S);
}
