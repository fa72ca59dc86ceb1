//! Intent: what operators and the controller may change, and what is refused in which words.

use crate::{NOW_S, apply, founded, nodes, told, wanted};
use palisade_topology::*;
use routing::{META, NodeId, ShardId};

fn state(node: u64, state: NodeState) -> Command {
    Command::SetNodeState { node: NodeId(node), state }
}

fn want<const N: usize>(shard: u32, members: [u64; N]) -> Command {
    Command::Want { shard: ShardId(shard), members: nodes(members) }
}

fn job(request: u128, kind: JobKind) -> Command {
    Command::Job { request: RequestId(request), kind }
}

#[test]
fn the_seed_is_the_first_version_and_settled() {
    let topology = founded(5, 4, 3, 0);
    assert_eq!(topology.version(), Version(1));
    assert_eq!(topology.check(), Ok(()));
    assert!(topology.shards().values().all(Shard::is_settled));
    assert_eq!(
        topology.shard(META).unwrap().founders,
        topology.shard(ShardId(0)).unwrap().founders
    );
    assert_eq!(topology.slots().iter().map(|(slots, _)| slots).sum::<u32>(), 16_384);
}

#[test]
fn a_cluster_is_founded_once_and_first() {
    let mut topology = Topology::default();
    assert_eq!(apply(&mut topology, Command::ActivateLevel { level: 1 }), Err(Refusal::NotFounded));
    let mut topology = founded(3, 1, 3, 0);
    let before = topology.clone();
    let seed = Seed::of(&crate::cluster(3, 1, 3, 0));
    assert_eq!(apply(&mut topology, Command::Bootstrap { seed }), Err(Refusal::AlreadyFounded));
    assert_eq!(topology, before);
}

#[test]
fn a_seed_that_breaks_a_rule_is_refused() {
    let good = Seed::of(&crate::cluster(3, 2, 3, 0));
    let refused = |change: fn(&mut Seed)| {
        let mut seed = good.clone();
        change(&mut seed);
        let refusal = apply(&mut Topology::default(), Command::Bootstrap { seed }).unwrap_err();
        matches!(refusal, Refusal::Seed(_))
    };
    assert!(refused(|seed| seed.slots[0].0 -= 1));
    assert!(refused(|seed| seed.slots[0].1 = META));
    assert!(refused(|seed| drop(seed.nodes.remove(&NodeId(2)))));
    assert!(refused(|seed| seed.shards.get_mut(&META).unwrap().members.clear()));
    assert!(refused(|seed| seed.shards.get_mut(&META).unwrap().preferred_leader = NodeId(9)));
}

#[test]
fn a_command_that_changes_nothing_leaves_the_version() {
    let mut topology = founded(3, 1, 3, 0);
    for command in [
        want(0, [1, 2, 3]),
        state(1, NodeState::Serving),
        Command::ActivateLevel { level: 1 },
        Command::Set { setting: Setting::Paused { paused: false } },
    ] {
        assert_eq!(apply(&mut topology, command), Ok(false));
    }
    assert_eq!(topology.version(), Version(1));
}

#[test]
fn a_plan_of_an_older_version_is_refused_unless_it_is_done_already() {
    let mut topology = founded(4, 1, 3, 0);
    let planned = |command| Proposal { wall_s: NOW_S, planned_at: Some(Version(1)), command };
    assert!(topology.apply(&planned(state(4, NodeState::Draining))).unwrap().is_some());
    assert_eq!(topology.apply(&planned(state(4, NodeState::Draining))), Ok(None), "a repeat");
    let refusal = topology.apply(&planned(state(4, NodeState::Serving))).unwrap_err();
    assert_eq!(refusal.to_string(), "the topology has changed since this plan (1 → 2): plan again");
}

#[test]
fn births_rise_on_each_node_even_if_the_clock_falls() {
    let mut topology = founded(5, 1, 3, 0);
    apply(&mut topology, want(0, [1, 2, 4])).unwrap();
    let first = wanted(&topology, 0);
    assert_eq!(first[2], Life { node: NodeId(4), birth: Birth(NOW_S as u32) });
    let early = Proposal::new(5, want(META.0, [1, 2, 4]));
    topology.apply(&early).unwrap();
    assert_eq!(wanted(&topology, META.0)[2].birth, Birth(NOW_S as u32 + 1));
    // A second past 32 bits is no birth.
    topology.apply(&Proposal::new(u64::MAX, want(0, [1, 2, 5]))).unwrap();
    assert_eq!(wanted(&topology, 0)[2].birth, Birth(1));
}

#[test]
fn a_member_that_stays_or_returns_at_once_keeps_its_life() {
    let mut topology = founded(4, 1, 3, 0);
    let before = wanted(&topology, 0);
    apply(&mut topology, want(0, [1, 2, 4])).unwrap();
    assert!(topology.shard(ShardId(0)).unwrap().leaving.contains_key(&before[2]));
    assert_eq!(wanted(&topology, 0)[..2], before[..2]);
    apply(&mut topology, want(0, [1, 2, 3])).unwrap();
    assert_eq!(wanted(&topology, 0), before);
    assert!(!topology.shard(ShardId(0)).unwrap().leaving.contains_key(&before[2]));
}

#[test]
fn only_serving_nodes_become_members_and_others_may_stay() {
    let mut topology = founded(5, 1, 3, 0);
    apply(&mut topology, state(3, NodeState::Draining)).unwrap();
    apply(&mut topology, state(4, NodeState::Leaving)).unwrap();
    let refused = apply(&mut topology, want(0, [1, 2, 4]));
    assert_eq!(refused, Err(Refusal::NotServing(NodeId(4))));
    assert_eq!(apply(&mut topology, want(0, [3, 5])), Ok(true));
    assert_eq!(apply(&mut topology, want(0, [])), Err(Refusal::NoMembers(ShardId(0))));
    assert_eq!(apply(&mut topology, want(9, [1])), Err(Refusal::UnknownShard(ShardId(9))));
    assert_eq!(apply(&mut topology, want(0, [9])), Err(Refusal::UnknownNode(NodeId(9))));
}

#[test]
fn a_refused_wish_gives_no_birth() {
    let mut topology = founded(5, 1, 3, 0);
    apply(&mut topology, state(5, NodeState::Draining)).unwrap();
    let before = topology.clone();
    assert!(apply(&mut topology, want(0, [1, 4, 5])).is_err());
    assert_eq!(topology, before);
}

#[test]
fn a_draining_node_is_no_preferred_leader() {
    let mut topology = founded(3, 3, 3, 0);
    let preferred = |topology: &Topology, node| {
        let shards = topology.shards().values();
        shards.filter(|shard| shard.preference.is_some_and(|is| is.node == NodeId(node))).count()
    };
    assert!(preferred(&topology, 1) > 0);
    apply(&mut topology, state(1, NodeState::Draining)).unwrap();
    assert_eq!(preferred(&topology, 1), 0);
    let prefer = |node| Command::Prefer { shard: ShardId(0), node: NodeId(node) };
    assert_eq!(apply(&mut topology, prefer(1)), Err(Refusal::NotServing(NodeId(1))));
    apply(&mut topology, prefer(2)).unwrap();
    assert_eq!(apply(&mut topology, prefer(2)), Ok(false));
    apply(&mut topology, want(0, [1, 3])).unwrap();
    assert_eq!(topology.shard(ShardId(0)).unwrap().preference, None, "it is no member any more");
    let refused = apply(&mut topology, prefer(2));
    assert_eq!(refused, Err(Refusal::NoMember { shard: ShardId(0), node: NodeId(2) }));
}

#[test]
fn a_node_is_removed_only_without_replicas_and_for_good() {
    let mut topology = founded(4, 1, 3, 0);
    let refused = apply(&mut topology, state(1, NodeState::Removed));
    assert_eq!(refused, Err(Refusal::StillMember { node: NodeId(1), shard: ShardId(0) }));
    let spare =
        (1..=4).find(|node| topology.shards().values().all(|shard| !shard.concerns(NodeId(*node))));
    let spare = spare.expect("three of four nodes are members");
    assert_eq!(apply(&mut topology, state(spare, NodeState::Removed)), Ok(true));
    assert_eq!(apply(&mut topology, state(spare, NodeState::Removed)), Ok(false));
    for command in [
        state(spare, NodeState::Serving),
        Command::NodeIs { told: told(spare, 7) },
        want(0, [spare]),
        job(1, JobKind::Drain { node: NodeId(spare) }),
    ] {
        assert_eq!(apply(&mut topology, command), Err(Refusal::Removed(NodeId(spare))));
    }
}

#[test]
fn a_repeated_request_starts_one_job() {
    let mut topology = founded(4, 1, 3, 0);
    let drain = |request, node| job(request, JobKind::Drain { node: NodeId(node) });
    assert_eq!(apply(&mut topology, drain(7, 1)), Ok(true));
    assert_eq!(apply(&mut topology, drain(7, 1)), Ok(false));
    assert_eq!(topology.job_of(RequestId(7)), Some(JobId(1)));
    assert_eq!(apply(&mut topology, drain(8, 1)), Err(Refusal::Busy(JobId(1))));
    assert_eq!(apply(&mut topology, drain(9, 2)), Ok(true));
    assert_eq!(topology.job_of(RequestId(9)), Some(JobId(2)));
}

#[test]
fn jobs_that_change_the_same_do_not_run_together() {
    let mut topology = founded(6, 3, 3, 0);
    let replicas =
        |count, shard: Option<u32>| JobKind::Replicas { count, shard: shard.map(ShardId) };
    let replace = |old, new| JobKind::ReplaceNode { old: NodeId(old), new: NodeId(new) };
    let leaders = JobKind::Rebalance { what: Balance::Leaders };
    apply(&mut topology, job(1, replicas(5, Some(1)))).unwrap();
    apply(&mut topology, job(2, replicas(5, Some(2)))).unwrap();
    assert_eq!(apply(&mut topology, job(3, replicas(5, None))), Err(Refusal::Busy(JobId(1))));
    apply(&mut topology, job(4, replace(1, 6))).unwrap();
    assert_eq!(apply(&mut topology, job(5, replace(6, 2))), Err(Refusal::Busy(JobId(3))));
    apply(&mut topology, job(6, leaders.clone())).unwrap();
    assert_eq!(apply(&mut topology, job(7, leaders)), Err(Refusal::Busy(JobId(4))));
    apply(&mut topology, Command::Cancel { job: JobId(1) }).unwrap();
    apply(&mut topology, Command::Cancel { job: JobId(2) }).unwrap();
    assert_eq!(apply(&mut topology, job(8, replicas(5, None))), Ok(true));
}

#[test]
fn jobs_that_make_no_sense_are_refused() {
    let mut topology = founded(3, 1, 3, 0);
    let replace = |old, new| JobKind::ReplaceNode { old: NodeId(old), new: NodeId(new) };
    let of_all = |count| JobKind::Replicas { count, shard: None };
    let of_meta = JobKind::Replicas { count: 3, shard: Some(META) };
    for (request, kind) in [replace(1, 1), of_all(0), of_all(4), of_meta].into_iter().enumerate() {
        let refused = apply(&mut topology, job(request as u128, kind.clone()));
        assert!(matches!(refused, Err(Refusal::Job(_))), "{kind:?}: {refused:?}");
    }
    apply(&mut topology, state(3, NodeState::Draining)).unwrap();
    assert_eq!(apply(&mut topology, job(9, replace(1, 3))), Err(Refusal::NotServing(NodeId(3))));
}

#[test]
fn a_job_that_has_ended_stays_ended() {
    let mut topology = founded(3, 1, 3, 0);
    let progress = |job, is_done| Command::JobProgress {
        job: JobId(job),
        progress: Progress { done: 1, total: 2 },
        why: None,
        is_done,
    };
    apply(&mut topology, job(1, JobKind::Drain { node: NodeId(1) })).unwrap();
    apply(&mut topology, job(2, JobKind::Drain { node: NodeId(2) })).unwrap();
    assert_eq!(apply(&mut topology, progress(1, false)), Ok(true));
    assert_eq!(apply(&mut topology, progress(1, true)), Ok(true));
    assert_eq!(apply(&mut topology, progress(1, true)), Ok(false));
    assert_eq!(apply(&mut topology, progress(1, false)), Err(Refusal::Ended(JobId(1))));
    let cancel = |job| Command::Cancel { job: JobId(job) };
    assert_eq!(apply(&mut topology, cancel(1)), Err(Refusal::Ended(JobId(1))));
    assert_eq!(apply(&mut topology, cancel(2)), Ok(true));
    assert_eq!(apply(&mut topology, cancel(2)), Ok(false));
    assert_eq!(apply(&mut topology, progress(2, true)), Err(Refusal::Ended(JobId(2))));
    assert_eq!(apply(&mut topology, cancel(3)), Err(Refusal::UnknownJob(JobId(3))));
}

#[test]
fn few_jobs_are_remembered_and_few_run() {
    let mut topology = founded(3, 1, 3, 0);
    for number in 1..=100 {
        apply(&mut topology, job(number, JobKind::Drain { node: NodeId(1) })).unwrap();
        apply(&mut topology, Command::Cancel { job: JobId(number as u64) }).unwrap();
    }
    assert_eq!(topology.jobs().len(), 64);
    assert_eq!(topology.jobs().last_key_value().unwrap().0, &JobId(100));
    let mut topology = founded(70, 1, 3, 0);
    for node in 1..=64 {
        apply(&mut topology, job(node.into(), JobKind::Drain { node: NodeId(node) })).unwrap();
    }
    let refused = apply(&mut topology, job(65, JobKind::Drain { node: NodeId(65) }));
    assert_eq!(refused, Err(Refusal::TooManyJobs(64)));
}

#[test]
fn a_level_is_active_only_if_every_node_knows_it_and_never_falls() {
    let mut topology = founded(2, 1, 1, 0);
    let activate = |level| Command::ActivateLevel { level };
    let unknown = |nodes: &[u64]| {
        let nodes = nodes.iter().copied().map(NodeId).collect();
        Err(Refusal::LevelUnknown { level: 2, nodes })
    };
    assert_eq!(apply(&mut topology, activate(2)), unknown(&[1, 2]));
    apply(&mut topology, Command::NodeIs { told: told(1, 1) }).unwrap();
    let refused = apply(&mut topology, activate(2));
    assert_eq!(refused, unknown(&[2]));
    assert!(refused.unwrap_err().to_string().starts_with("node 2 has not told of level 2: "));
    // A node that went back to the former build does not count as upgraded.
    apply(&mut topology, Command::NodeIs { told: told(2, 1) }).unwrap();
    let mut back = told(2, 2);
    back.levels = Levels { min: 1, max: 1 };
    apply(&mut topology, Command::NodeIs { told: back }).unwrap();
    assert_eq!(apply(&mut topology, activate(2)), unknown(&[2]));
    apply(&mut topology, Command::NodeIs { told: told(2, 3) }).unwrap();
    assert_eq!(apply(&mut topology, activate(2)), Ok(true));
    assert_eq!(apply(&mut topology, activate(2)), Ok(false));
    let falls = Refusal::LevelFalls { active: 2, level: 1 };
    assert_eq!(apply(&mut topology, activate(1)), Err(falls));
    let mut old = told(3, 1);
    old.levels = Levels { min: 1, max: 1 };
    let refused = apply(&mut topology, Command::NodeIs { told: old }).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "level 2 is active, node 3 runs a build that knows 1: start the newer one"
    );
}

#[test]
fn settings_have_bounds() {
    let mut topology = founded(3, 1, 3, 0);
    let repair = |seconds| Command::Set { setting: Setting::RepairAfter { seconds } };
    let rate = |bytes| Command::Set { setting: Setting::SnapshotBytesPerS { bytes } };
    assert!(matches!(apply(&mut topology, repair(Some(59))), Err(Refusal::Setting(_))));
    assert!(matches!(apply(&mut topology, rate(1)), Err(Refusal::Setting(_))));
    assert_eq!(apply(&mut topology, repair(Some(60))), Ok(true));
    assert_eq!(apply(&mut topology, rate(1 << 20)), Ok(true));
    let Settings { repair_after_s, snapshot_bytes_per_s, .. } = &topology.cluster().settings;
    assert_eq!((*repair_after_s, *snapshot_bytes_per_s), (Some(60), 1 << 20));
    assert_eq!(apply(&mut topology, repair(None)), Ok(true));
}
