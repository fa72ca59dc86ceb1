//! The topology and its jobs between the crate `topology` and the protocol for clients.

use super::Change;
use routing::{META, NodeId, ShardId};
use topology::plan::{Preview, Step};
use topology::{
    Balance, Command, Job, JobId, JobKind, JobState, NodeState, RequestId, Setting, Shard,
    Topology, Version,
};
use wire::internal::v1::Accepted;
use wire::v1::{self, ClusterTopology, Error, JobSpec, TopologyNode, TopologyShard};

/// The topology as clients see it.
pub(crate) fn topology(topology: &Topology) -> ClusterTopology {
    let shards = topology.shards().iter().filter(|(id, _)| **id != META);
    ClusterTopology {
        version: topology.version().0,
        level: topology.cluster().level,
        nodes: topology.nodes().iter().map(|(id, known)| node(*id, known)).collect(),
        shards: shards.map(|(id, known)| shard(*id, known)).collect(),
        meta: topology.shard(META).map(|meta| shard(META, meta)),
        jobs: topology.jobs().iter().map(|(id, known)| job(id.0, known)).collect(),
        settings: Some(settings(topology)),
    }
}

fn settings(topology: &Topology) -> v1::ClusterSettings {
    let settings = &topology.cluster().settings;
    v1::ClusterSettings {
        repair_after_s: settings.repair_after_s.unwrap_or_default(),
        paused: settings.paused,
    }
}

fn node(id: NodeId, known: &topology::Node) -> TopologyNode {
    let state = match known.state {
        NodeState::Serving => "serving",
        NodeState::Draining => "draining",
        NodeState::Leaving => "leaving",
        NodeState::Removed => "removed",
    };
    TopologyNode {
        node: id.0,
        address: known.address.clone(),
        zone: known.zone.clone().unwrap_or_default(),
        state: state.into(),
        level_min: known.levels.map_or(0, |levels| levels.min),
        level_max: known.levels.map_or(0, |levels| levels.max),
        binary: known.binary.clone(),
    }
}

fn shard(id: ShardId, known: &Shard) -> TopologyShard {
    let nodes = |lives: &std::collections::BTreeSet<topology::Life>| {
        lives.iter().map(|life| life.node.0).collect::<Vec<_>>()
    };
    TopologyShard {
        shard: id.0,
        wanted: known.wanted.members.keys().map(|node| node.0).collect(),
        voters: nodes(&known.is.voters),
        learners: nodes(&known.is.learners),
        preferred_leader: known.preference.map_or(0, |preference| preference.node.0),
        is_settled: known.is_settled(),
    }
}

fn job(id: u64, known: &Job) -> v1::Job {
    let state = match known.state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
    };
    v1::Job {
        job: id,
        spec: Some(job_spec(&known.kind)),
        state: state.into(),
        done: known.progress.done,
        total: known.progress.total,
        why: known.why.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn job_spec(kind: &JobKind) -> JobSpec {
    let of = |kind: v1::JobKind| JobSpec { kind: kind.into(), ..JobSpec::default() };
    let on = |kind, node: NodeId| JobSpec { node: node.0, ..of(kind) };
    match *kind {
        JobKind::Drain { node } => on(v1::JobKind::Drain, node),
        JobKind::Undrain { node } => on(v1::JobKind::Undrain, node),
        JobKind::RemoveNode { node } => on(v1::JobKind::RemoveNode, node),
        JobKind::ReplaceNode { old, new } => {
            JobSpec { new_node: new.0, ..on(v1::JobKind::ReplaceNode, old) }
        }
        JobKind::Replicas { count, shard } => JobSpec {
            replicas: count,
            shard: shard.map(|shard| shard.0),
            ..of(v1::JobKind::Replicas)
        },
        JobKind::Rebalance { what: Balance::Members } => of(v1::JobKind::RebalanceMembers),
        JobKind::Rebalance { what: Balance::Leaders } => of(v1::JobKind::RebalanceLeaders),
    }
}

/// What a client wants to be done.
///
/// # Errors
/// INVALID_ARGUMENT for a kind of job that is not known.
fn job_kind(spec: &JobSpec) -> Result<JobKind, Box<Error>> {
    let node = NodeId(spec.node);
    Ok(match spec.kind() {
        v1::JobKind::Drain => JobKind::Drain { node },
        v1::JobKind::Undrain => JobKind::Undrain { node },
        v1::JobKind::RemoveNode => JobKind::RemoveNode { node },
        v1::JobKind::ReplaceNode => JobKind::ReplaceNode { old: node, new: NodeId(spec.new_node) },
        v1::JobKind::Replicas => {
            JobKind::Replicas { count: spec.replicas, shard: spec.shard.map(ShardId) }
        }
        v1::JobKind::RebalanceMembers => JobKind::Rebalance { what: Balance::Members },
        v1::JobKind::RebalanceLeaders => JobKind::Rebalance { what: Balance::Leaders },
        v1::JobKind::Unspecified => {
            return Err(Box::new(Error::invalid(
                "the job has no kind that this gateway knows: use a newer gateway",
            )));
        }
    })
}

/// The start of a job.
///
/// # Errors
/// INVALID_ARGUMENT for a kind of job that is not known.
pub(crate) fn start(
    request: RequestId,
    spec: &JobSpec,
    at_version: u64,
) -> Result<Change, Box<Error>> {
    let command = Command::Job { request, kind: job_kind(spec)? };
    let JobSpec { accept_no_spare: no_spare, accept_other_zone: other_zone, .. } = *spec;
    Ok(Change { accepted: Accepted { no_spare, other_zone }, ..change(command, at_version) })
}

/// The end of a job.
pub(crate) fn cancel(job: u64, at_version: u64) -> Change {
    change(Command::Cancel { job: JobId(job) }, at_version)
}

/// A setting with its new value.
///
/// # Errors
/// INVALID_ARGUMENT for a setting that is not known.
pub(crate) fn set(
    setting: Option<v1::SettingChange>,
    at_version: u64,
) -> Result<Change, Box<Error>> {
    use v1::setting_change::Setting as Told;
    let setting = match setting.and_then(|change| change.setting) {
        Some(Told::RepairAfterS(0)) => Setting::RepairAfter { seconds: None },
        Some(Told::RepairAfterS(seconds)) => Setting::RepairAfter { seconds: Some(seconds) },
        Some(Told::Paused(paused)) => Setting::Paused { paused },
        None => {
            return Err(Box::new(Error::invalid(
                "the change has no setting that this gateway knows: use a newer gateway",
            )));
        }
    };
    Ok(change(Command::Set { setting }, at_version))
}

/// A level of formats and commands.
///
/// # Errors
/// INVALID_ARGUMENT without a level.
pub(crate) fn activate(level: u32) -> Result<Change, Box<Error>> {
    if level == 0 {
        let why = "the request has no level: see `palisade cluster upgrade` for those there are";
        return Err(Box::new(Error::invalid(why)));
    }
    Ok(change(Command::ActivateLevel { level }, 0))
}

fn change(command: Command, at_version: u64) -> Change {
    let at_version = (at_version != 0).then_some(Version(at_version));
    Change { command, at_version, accepted: Accepted::default() }
}

/// What a change would lead to, as clients see it.
pub(crate) fn plan(preview: &Preview) -> v1::ChangePlan {
    let step = |step: &Step| {
        let (step, life) = match step {
            Step::Add(life) => ("add", life),
            Step::Promote(life) => ("promote", life),
            Step::Remove(life) => ("remove", life),
        };
        v1::MemberStep { step: step.into(), node: life.node.0 }
    };
    let shards = preview.members.iter().map(|regroup| v1::ShardPlan {
        shard: regroup.shard.0,
        steps: regroup.steps.iter().map(step).collect(),
        voters: regroup.voters,
        heard_voters: regroup.heard,
    });
    let leaders = preview.leaders.iter().map(|handover| v1::LeaderPlan {
        shard: handover.shard.0,
        from_node: handover.from.0,
        to_node: handover.to.0,
    });
    v1::ChangePlan {
        version: preview.version.0,
        shards: shards.collect(),
        leaders: leaders.collect(),
        why: preview.why.as_ref().map(ToString::to_string).unwrap_or_default(),
        is_done: preview.is_done,
    }
}

/// The change in the words of the audit log.
pub(crate) fn in_words(change: &Change) -> String {
    match &change.command {
        Command::Job { kind, .. } => job_in_words(kind),
        Command::Cancel { job } => format!("job {job}"),
        Command::Set { setting: Setting::RepairAfter { seconds: Some(seconds) } } => {
            format!("repair nodes that are silent for {seconds} s")
        }
        Command::Set { setting: Setting::RepairAfter { seconds: None } } => "repair no node".into(),
        Command::Set { setting: Setting::Paused { paused: true } } => {
            "pause jobs and repairs".into()
        }
        Command::Set { setting: Setting::Paused { paused: false } } => {
            "resume jobs and repairs".into()
        }
        Command::ActivateLevel { level } => format!("level {level}"),
        command => format!("{command:?}"),
    }
}

/// The job in the words of the audit log.
fn job_in_words(kind: &JobKind) -> String {
    match kind {
        JobKind::Drain { node } => format!("drain node {node}"),
        JobKind::Undrain { node } => format!("undrain node {node}"),
        JobKind::RemoveNode { node } => format!("remove node {node}"),
        JobKind::ReplaceNode { old, new } => format!("replace node {old} by node {new}"),
        JobKind::Replicas { count, shard: Some(shard) } => {
            format!("{count} replicas of shard {shard}")
        }
        JobKind::Replicas { count, shard: None } => format!("{count} replicas of each shard"),
        JobKind::Rebalance { what: Balance::Members } => "rebalance members".into(),
        JobKind::Rebalance { what: Balance::Leaders } => "rebalance leaders".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::ClusterConfig;
    use topology::{Progress, Proposal, Seed, Why};

    #[test]
    fn each_job_goes_to_clients_and_comes_back() {
        let node = NodeId(3);
        let kinds = [
            JobKind::Drain { node },
            JobKind::Undrain { node },
            JobKind::RemoveNode { node },
            JobKind::ReplaceNode { old: node, new: NodeId(9) },
            JobKind::Replicas { count: 5, shard: None },
            JobKind::Replicas { count: 3, shard: Some(ShardId(0)) },
            JobKind::Rebalance { what: Balance::Members },
            JobKind::Rebalance { what: Balance::Leaders },
        ];
        for kind in kinds {
            assert_eq!(job_kind(&job_spec(&kind)).unwrap(), kind);
        }
        assert!(job_kind(&JobSpec { kind: 99, ..JobSpec::default() }).is_err());
    }

    #[test]
    fn a_topology_is_told_with_its_jobs_and_what_they_wait_for() {
        let mut topology = Topology::default();
        let seed = Seed::of(&ClusterConfig::dev(2, 3, 7400).unwrap());
        let mut apply = |command| topology.apply(&Proposal::new(7, command)).unwrap().unwrap();
        apply(Command::Bootstrap { seed });
        apply(Command::Job { request: RequestId(1), kind: JobKind::Drain { node: NodeId(2) } });
        apply(Command::JobProgress {
            job: JobId(1),
            progress: Progress { done: 1, total: 3 },
            why: Some(Why::Leads { shard: ShardId(1), node: NodeId(2) }),
            is_done: false,
        });
        let told = super::topology(&topology);
        assert_eq!((told.version, told.nodes.len(), told.shards.len()), (3, 3, 2));
        assert_eq!(told.nodes[0].state, "serving");
        let meta = told.meta.expect("META has members");
        assert_eq!((meta.wanted, meta.is_settled), (vec![1, 2, 3], true));
        let job = &told.jobs[0];
        assert_eq!((job.job, &*job.state, job.done, job.total), (1, "running", 1, 3));
        assert!(job.why.contains("node 2 still leads shard 1"), "{}", job.why);
    }
}
