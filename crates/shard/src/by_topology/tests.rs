//! Which replicas come and go by a topology, and what a node reports.

use super::*;
use routing::ClusterConfig;
use std::collections::BTreeSet;
use topology::{Command, Proposal, Seed};

const SHARD: ShardId = ShardId(0);
const WALL_S: u64 = 1_800_000_000;

fn founded_from(cluster: &ClusterConfig) -> Topology {
    let mut topology = Topology::default();
    let seed = Seed::of(cluster);
    topology.apply(&Proposal::new(1_700_000_000, Command::Bootstrap { seed })).unwrap();
    topology
}

/// One shard on three of four nodes.
fn cluster() -> ClusterConfig {
    ClusterConfig { replicas: 3, ..ClusterConfig::dev(1, 4, 20_000).unwrap() }
}

fn want(topology: &mut Topology, members: &BTreeSet<NodeId>) {
    let command = Command::Want { shard: SHARD, members: members.clone() };
    topology.apply(&Proposal::new(WALL_S, command)).unwrap().unwrap();
}

/// The group has the wanted members.
fn settle(topology: &mut Topology) {
    let known = topology.shard(SHARD).unwrap();
    let members = Members {
        conf_index: known.is.conf_index + 1,
        taken: known.wanted.version,
        voters: known.wanted.lives().collect(),
        ..Members::default()
    };
    let command = Command::Is { shard: SHARD, members };
    topology.apply(&Proposal::new(WALL_S, command)).unwrap().unwrap();
}

fn hosts(birth: u32) -> BTreeMap<ShardId, Lives> {
    [(SHARD, Lives { hosted: Some(birth), destroyed: None })].into()
}

#[test]
fn a_replica_comes_when_it_is_wanted_and_goes_when_it_is_out() {
    use HostingStep::{Host, Unhost};
    let due = |topology: &Topology, shard, taken| wish_due(topology, shard, taken).unwrap();
    let mut topology = founded_from(&cluster());
    let shards: Vec<ShardId> = topology.shards().keys().copied().collect();
    let founders: BTreeSet<NodeId> =
        topology.shard(SHARD).unwrap().founders.keys().copied().collect();
    let outsider = (1..=4).map(NodeId).find(|node| !founders.contains(node)).unwrap();
    let leaves = *founders.first().unwrap();
    let nothing = BTreeMap::new();
    assert_eq!(hosting_steps(&topology, outsider, &nothing), []);
    let all = shards.iter().map(|shard| Host(*shard, Birth(0))).collect::<Vec<_>>();
    assert_eq!(hosting_steps(&topology, leaves, &nothing), all);
    assert_eq!(hosting_steps(&Topology::default(), leaves, &hosts(0)), [], "nothing is known");
    assert_eq!(due(&topology, SHARD, Version(0)), None, "the founding is no wish");

    let mut members = founders.clone();
    members.remove(&leaves);
    members.insert(outsider);
    want(&mut topology, &members);
    let birth = topology.shard(SHARD).unwrap().wanted.members[&outsider];
    assert_eq!(hosting_steps(&topology, outsider, &nothing), [Host(SHARD, birth)]);
    assert_eq!(hosting_steps(&topology, outsider, &hosts(birth.0)), []);
    let of_shard = |steps: Vec<HostingStep>| -> Vec<HostingStep> {
        let is_of_shard = |step: &HostingStep| matches!(step, Host(SHARD, _) | Unhost(SHARD, _));
        steps.into_iter().filter(is_of_shard).collect()
    };
    let steps_of = |topology: &Topology, own, birth: u32| {
        of_shard(hosting_steps(topology, own, &hosts(birth)))
    };
    assert_eq!(steps_of(&topology, leaves, 0), [], "its group may need its vote");
    let wish = due(&topology, SHARD, Version(0)).expect("a later wish");
    assert_eq!(wish.members().keys().copied().collect::<BTreeSet<_>>(), members);
    assert_eq!(due(&topology, SHARD, Version(wish.version())), None);
    assert_eq!(due(&topology, SHARD, Version(wish.version() + 1)), None, "an older one");
    assert_eq!(due(&topology, ShardId(9), Version(0)), None, "no such shard");

    settle(&mut topology);
    assert_eq!(steps_of(&topology, leaves, 0), [Unhost(SHARD, Birth(0))]);
    // It is wanted again before it was destroyed, as another life.
    want(&mut topology, &founders);
    let birth = topology.shard(SHARD).unwrap().wanted.members[&leaves];
    assert!(birth > Birth(0));
    assert_eq!(steps_of(&topology, leaves, 0), [Unhost(SHARD, Birth(0)), Host(SHARD, birth)]);
    assert_eq!(steps_of(&topology, leaves, birth.0 + 1), [], "of a re-seeded directory");
    assert_eq!(steps_of(&topology, outsider, WALL_S as u32), [], "it is not out yet");
}

#[test]
fn lives_of_unknown_shards_are_left_alone() {
    let topology = founded_from(&ClusterConfig::dev(1, 1, 20_000).unwrap());
    let mut lives = hosts(0);
    lives.insert(routing::META, Lives { hosted: Some(0), destroyed: None });
    lives.insert(ShardId(77), Lives { hosted: Some(3), destroyed: None });
    assert_eq!(hosting_steps(&topology, NodeId(1), &lives), []);
}

#[test]
fn a_life_that_may_have_been_on_a_lost_directory_does_not_begin() {
    let (own, former, wiped) = (StoreId([8; 16]), StoreId([0; 16]), StoreId([1; 16]));
    let wanted = |birth, version, store: Option<StoreId>| {
        let directory = Recorded { store, since: Version(50) };
        WantedLife { birth, version: Version(version), generation: 1, directory }
    };
    for store in [None, Some(former)] {
        for birth in [0, 800, 900] {
            let refused = wanted(birth, 60, store).check(own, 800);
            assert_eq!(refused, Err(NotYet::NotRecorded), "{birth}");
        }
    }
    for (birth, version) in [(700, 60), (900, 49)] {
        let refused = wanted(birth, version, Some(own)).check(own, 800);
        assert_eq!(refused, Err(NotYet::OnLostDirectory { birth, incarnation: 800 }));
    }
    for (birth, version) in [(800, 40), (800, 60), (900, 50), (900, 60)] {
        wanted(birth, version, Some(own)).check(own, 800).expect("it was wanted since");
    }
    // The first directory of a node may be unknown to the topology. A wiped one is refused.
    let first = WantedLife { birth: 0, ..WantedLife::default() };
    first.check(former, 0).expect("the cluster file's");
    assert!(wanted(900, 60, Some(former)).check(wiped, 0).is_err());
}

fn status(role: Role) -> Status {
    let member = |node, incarnation, learner| Member { node: NodeId(node), incarnation, learner };
    Status {
        shard: ShardId(2),
        node: NodeId(3),
        role,
        term: 7,
        incarnation: 5,
        told_committed_index: 90,
        applied_index: 60,
        conf_index: 44,
        members_durable: role == Role::Leader,
        members: vec![member(1, 0, false), member(3, 5, false), member(4, 9, true)],
        ..Status::default()
    }
}

#[test]
fn a_replica_is_reported_as_its_status_has_it() {
    let life = |node, birth| Life { node: NodeId(node), birth: Birth(birth) };
    let leads = replica_report(&status(Role::Leader), 800);
    let members = Members {
        conf_index: 44,
        taken: Version(0),
        voters: [life(1, 0), life(3, 5)].into(),
        learners: [life(4, 9)].into(),
    };
    let expected = ReplicaReport {
        birth: Birth(5),
        role: plan::Role::Leader,
        term: 7,
        lag_entries: 30,
        members: members.clone(),
        ops_per_s: 800,
    };
    assert_eq!(leads, expected);
    let doubted = Status { members_durable: false, ..status(Role::Leader) };
    let not_taken = Members { conf_index: 0, ..members.clone() };
    assert_eq!(replica_report(&doubted, 0).members, not_taken);
    let follows = replica_report(&status(Role::Candidate), 800);
    assert_eq!((follows.role, follows.ops_per_s), (plan::Role::Follower, 0));
    // Another life of this node has the vote.
    let reborn = Status { incarnation: 6, ..status(Role::Follower) };
    assert_eq!(replica_report(&reborn, 0).role, plan::Role::Learner);
    let wanted = Wanted::new(12, [(NodeId(1), 0)]).unwrap();
    let wished = Status { wanted: Some(wanted), ..status(Role::Follower) };
    assert_eq!(replica_report(&wished, 0).members, Members { taken: Version(12), ..members });
}

/// Regression: a node whose replica of META had been removed waited for it to tell that, and kept
/// the replica for ever.
#[test]
fn a_replica_without_a_vote_does_not_hear_its_group() {
    let (node, incarnation) = (NodeId(2), 7);
    let member = Member { node, incarnation, learner: false };
    let status = Status {
        node,
        incarnation,
        leader: Some(NodeId(1)),
        members: vec![member],
        ..Status::default()
    };
    assert!(status.hears_its_group());
    assert!(!Status { leader: None, ..status.clone() }.hears_its_group());
    let learner = Member { learner: true, ..member };
    assert!(!Status { members: vec![learner], ..status.clone() }.hears_its_group());
    assert!(!Status { members: Vec::new(), ..status.clone() }.hears_its_group());
    assert!(!Status { incarnation: 8, ..status }.hears_its_group(), "of another life");
}
