//! What a change would lead to: the plans that follow it, one after the other.
//!
//! The rounds are the controller's own, on a copy of the topology. Between them each group does at
//! once what is wanted of it, and the nodes stay as they report now. So what happens later differs
//! only if a node fails or comes back, or if another change comes between.
//!
//! Other running jobs are left out, and so are moves that nobody asked for: a preview shows one
//! change. This module knows nothing of how plans are made.

use super::steps::{Step, steps};
use super::{Plan, ReplicaReport, Reports, Role, Round};
use crate::codec::record;
use crate::command::{Command, Proposal, Setting};
use crate::refusal::Refusal;
use crate::state::*;
use crate::why::Why;
use routing::{NodeId, ShardId};

/// How many rounds are looked ahead. It bounds the time that a preview of a huge change takes.
const ROUNDS_MAX: usize = 2_000;
/// The time between two rounds. It is longer than a node rests after a move of a leadership.
const ROUND_MS: u64 = 5_000;

/// What a change would lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// The version of the topology that it was planned at.
    pub version: Version,
    /// The changes of members, in the order in which they begin.
    pub members: Vec<Regroup>,
    /// The leaderships that move, in that order.
    pub leaders: Vec<Handover>,
    /// Why it would not come to its end, as things stand.
    pub why: Option<Why>,
    /// Whether it would come to its end.
    pub is_done: bool,
}

/// The way of one group to other members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regroup {
    /// The shard.
    pub shard: ShardId,
    /// The changes of single members, in order. Each leaves a quorum of voters that are heard of.
    pub steps: Vec<Step>,
    /// How many voters the group has before.
    pub voters: u32,
    /// How many of them are heard of.
    pub heard: u32,
}

/// A leadership that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The shard.
    pub shard: ShardId,
    /// The node that leads it now.
    pub from: NodeId,
    /// The node that leads it then.
    pub to: NodeId,
}

record!(Preview { version, members, leaders, why, is_done });
record!(Regroup { shard, steps, voters, heard });
record!(Handover { shard, from, to });

/// What a command would lead to, if it came now.
///
/// ```
/// use palisade_topology::plan::{Reports, preview};
/// use palisade_topology::{Command, JobKind, Proposal, Refusal, RequestId, Seed, Topology};
/// use routing::{ClusterConfig, NodeId};
///
/// let mut topology = Topology::default();
/// let seed = Command::Bootstrap { seed: Seed::of(&ClusterConfig::dev(2, 3, 7400).unwrap()) };
/// topology.apply(&Proposal::new(1_700_000_000, seed)).unwrap();
///
/// // A refusal is that of the command itself.
/// let kind = JobKind::Drain { node: NodeId(9) };
/// let drain = Command::Job { request: RequestId(1), kind };
/// let reports = Reports { since_ms: 0, nodes: Default::default() };
/// assert_eq!(preview(&topology, &reports, 0, &drain), Err(Refusal::UnknownNode(NodeId(9))));
/// ```
///
/// # Errors
/// The [`Refusal`] of the command.
pub fn preview(
    topology: &Topology,
    reports: &Reports,
    now_ms: u64,
    command: &Command,
) -> Result<Preview, Refusal> {
    let mut trial = Trial {
        topology: topology.clone(),
        reports: reports.clone(),
        now_ms,
        job: None,
        preview: Preview { version: topology.version(), ..Preview::default() },
    };
    trial.apply(command)?;
    match command {
        Command::Job { request, .. } => trial.job = trial.topology.job_of(*request),
        Command::Set { setting: Setting::RepairAfter { .. } } => {}
        // No other command moves anything by itself.
        _ => return Ok(Preview { is_done: true, ..trial.preview }),
    }
    trial.run();
    Ok(trial.preview)
}

/// The cluster as it would be.
struct Trial {
    topology: Topology,
    reports: Reports,
    now_ms: u64,
    /// The job that is looked at. `None`: repairs are.
    job: Option<JobId>,
    preview: Preview,
}

impl Trial {
    fn run(&mut self) {
        let others: Vec<JobId> =
            self.topology.running().map(|(id, _)| id).filter(|id| Some(*id) != self.job).collect();
        for job in others {
            self.follow(Command::Cancel { job });
        }
        self.follow(Command::Set { setting: Setting::Paused { paused: false } });
        // What is on its way already is no part of the change.
        self.settle();
        (self.preview.members, self.preview.leaders) = Default::default();
        let mut idle = 0;
        for _ in 0..ROUNDS_MAX {
            let is_planned = self.round();
            let is_settled = self.settle();
            self.wait();
            if self.is_done() {
                self.preview.is_done = true;
                self.preview.why = None;
                return;
            }
            // The facts of a round are recorded in the next one.
            idle = if is_planned || is_settled { 0 } else { idle + 1 };
            if idle > 1 {
                self.preview.is_done = self.job.is_none() && self.preview.why.is_none();
                return;
            }
        }
    }

    fn is_done(&self) -> bool {
        let job = self.job.and_then(|job| self.topology.jobs().get(&job));
        job.is_some_and(|job| job.state == JobState::Done)
    }

    fn apply(&mut self, command: &Command) -> Result<(), Refusal> {
        self.topology.apply(&Proposal::new(self.now_ms / 1_000, command.clone())).map(drop)
    }

    /// Applies a command that is right in any case.
    fn follow(&mut self, command: Command) {
        let done = self.apply(&command);
        debug_assert_eq!(done, Ok(()), "{command:?}");
    }

    /// One plan. Returns whether it has more than facts and words.
    fn round(&mut self) -> bool {
        let mut round = Round::new(&self.topology, &self.reports, self.now_ms);
        round.record_facts();
        if self.job.is_some() {
            round.size_meta();
            round.work_on_jobs();
            round.place_leaders();
        } else {
            round.repair();
        }
        let Round { topology, plan: Plan { commands, stalls, .. }, .. } = round;
        self.topology = topology;
        self.preview.why = match self.job {
            Some(job) => self.topology.jobs().get(&job).and_then(|job| job.why.clone()),
            None => stalls.into_iter().next(),
        };
        commands.iter().any(|command| match command {
            Command::Want { .. } | Command::Prefer { .. } | Command::SetNodeState { .. } => true,
            Command::JobProgress { is_done, .. } => *is_done,
            _ => false,
        })
    }

    /// Time passes, in which each node stays as heard of or as silent as it is.
    fn wait(&mut self) {
        self.now_ms += ROUND_MS;
        self.reports.since_ms += ROUND_MS;
        self.reports.nodes.values_mut().for_each(|report| report.heard_ms += ROUND_MS);
    }

    /// Each group gets the members that are wanted, if it can, and the leader that is preferred.
    /// Returns whether any of that is news.
    fn settle(&mut self) -> bool {
        let shards: Vec<ShardId> = self.topology.shards().keys().copied().collect();
        let mut is_news = false;
        for id in shards {
            is_news |= self.regroup(id).is_some();
            is_news |= self.hand_over(id).is_some();
        }
        is_news
    }

    fn regroup(&mut self, id: ShardId) -> Option<()> {
        let shard = self.topology.shard(id)?;
        let (leader, told) = self.reports.leader(id, self.now_ms)?;
        if shard.wanted.version <= told.members.taken {
            return None; // it has done that
        }
        let is_heard = |node: NodeId| self.reports.is_heard(node, self.now_ms);
        let wanted = shard.wanted.lives().collect();
        let way = steps(id, &shard.is, &wanted, is_heard).ok()?;
        let voters = shard.is.voters.len() as u32;
        let heard = shard.is.voters.iter().filter(|life| is_heard(life.node)).count() as u32;
        let members = Members {
            conf_index: told.members.conf_index.max(shard.is.conf_index) + 1,
            taken: shard.wanted.version,
            voters: wanted,
            learners: Default::default(),
        };
        let (term, ops_per_s) = (told.term + 1, told.ops_per_s);
        let preferred = shard.preference.map(|preference| preference.node);
        let can_lead = |node: &NodeId| is_heard(*node) && shard.wanted.members.contains_key(node);
        let next = Some(leader).filter(can_lead).or(preferred.filter(can_lead));
        let next = next.or_else(|| shard.wanted.members.keys().copied().find(can_lead))?;
        for (node, report) in &mut self.reports.nodes {
            let Some(birth) = shard.wanted.members.get(node) else {
                report.replicas.remove(&id);
                continue;
            };
            let leads = *node == next;
            let replica = ReplicaReport {
                birth: *birth,
                role: if leads { Role::Leader } else { Role::Follower },
                term,
                lag_entries: 0,
                members: members.clone(),
                ops_per_s: if leads { ops_per_s } else { 0 },
            };
            report.replicas.insert(id, replica);
        }
        if !way.is_empty() {
            self.preview.members.push(Regroup { shard: id, steps: way, voters, heard });
        }
        if next != leader {
            self.preview.leaders.push(Handover { shard: id, from: leader, to: next });
        }
        Some(())
    }

    fn hand_over(&mut self, id: ShardId) -> Option<()> {
        let shard = self.topology.shard(id)?;
        let to = shard.preference?.node;
        let (from, told) = self.reports.leader(id, self.now_ms)?;
        let life = Life { node: to, birth: *shard.wanted.members.get(&to)? };
        let can_lead = told.members.voters.contains(&life)
            && self.reports.is_level(id, life, self.now_ms)
            && from != to;
        if !can_lead {
            return None;
        }
        let told = told.clone();
        let former = self.replica(from, id)?;
        (former.role, former.ops_per_s) = (Role::Follower, 0);
        let next = self.replica(to, id)?;
        (next.role, next.term, next.ops_per_s) = (Role::Leader, told.term + 1, told.ops_per_s);
        next.members = told.members;
        self.preview.leaders.push(Handover { shard: id, from, to });
        Some(())
    }

    fn replica(&mut self, node: NodeId, id: ShardId) -> Option<&mut ReplicaReport> {
        self.reports.nodes.get_mut(&node)?.replicas.get_mut(&id)
    }
}
