//! Plans: from a topology and what nodes report, the next commands.
//!
//! [`next`] is a pure function, so a dry run, a simulator and the controller get the same answer. It
//! has no memory: what it needs to know of the past stands in the topology. A plan is made on a copy
//! of the topology, to which each command is applied as it is planned. So the commands of one plan
//! fit each other, and none of them would be refused.
//!
//! The order is that of importance: facts, repairs, the members of META, jobs by age, leaders. A
//! step is never given up because it takes long. A [`Why`] says what it waits for. Until its first
//! job a cluster stays as its file describes it: only facts are recorded, and repairs done that an
//! operator has switched on. This module knows nothing of clocks: `now_ms` is wall time of the
//! process that plans.

mod counts;
mod jobs;
mod leaders;
mod members;
mod objections;
mod preview;
mod reports;
mod steps;

pub use objections::{Accepted, objection};
pub use preview::{Handover, Preview, Regroup, preview};
pub use reports::{HEARD_MS, LEVEL_LAG_ENTRIES, ReplicaReport, Report, Reports, Role};
pub use steps::{Step, steps};

use self::counts::Counts;
use crate::command::{Command, Proposal};
use crate::refusal::Refusal;
use crate::state::{Topology, Version};
use crate::why::Why;

/// The next commands, and what stands in the way of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The commands, in the order in which they are to be proposed.
    pub commands: Vec<Command>,
    /// What repairs and the members of META wait for. What jobs wait for stands in the jobs.
    pub stalls: Vec<Why>,
    /// Why facts that nodes told are not recorded. They are not proposed, so they cost no entries.
    pub disbelieved: Vec<Refusal>,
}

/// The next commands. None if nothing is to be done.
///
/// ```
/// use palisade_topology::plan::{self, Reports};
/// use palisade_topology::Topology;
///
/// // A topology that was not founded yet needs nothing that a plan could do.
/// let reports = Reports { since_ms: 0, nodes: Default::default() };
/// assert!(plan::next(&Topology::default(), &reports, 60_000).is_empty());
/// ```
pub fn next(topology: &Topology, reports: &Reports, now_ms: u64) -> Vec<Command> {
    plan(topology, reports, now_ms).commands
}

/// As [`next`], with what stands in the way of further commands.
pub fn plan(topology: &Topology, reports: &Reports, now_ms: u64) -> Plan {
    let mut round = Round::new(topology, reports, now_ms);
    if !topology.is_founded() || reports.are_awaited(topology, now_ms) {
        return round.plan;
    }
    round.record_facts();
    if !topology.cluster().settings.paused {
        let has_changed = topology.cluster().last_job > 0;
        round.repair();
        if has_changed {
            round.size_meta();
        }
        round.work_on_jobs();
        round.place_leaders();
        if has_changed {
            round.relieve_the_busiest();
        }
    }
    round.plan
}

/// The proposals of a plan that was made at this version. Each raises it by one, so another change
/// between two of them refuses the rest of the plan: an operator may have cancelled its job.
pub fn proposals(
    wall_s: u64,
    planned_at: Version,
    commands: Vec<Command>,
) -> impl Iterator<Item = Proposal> {
    let versions = std::iter::successors(Some(planned_at), |version| Some(version.next()));
    let proposal = move |(version, command)| Proposal {
        planned_at: Some(version),
        ..Proposal::new(wall_s, command)
    };
    versions.zip(commands).map(proposal)
}

/// One plan in the making.
///
/// - `topology` is the topology as it will be once all of `plan.commands` are applied.
/// - `counts` are those of `topology`, from when all facts are recorded.
pub(crate) struct Round<'a> {
    topology: Topology,
    reports: &'a Reports,
    now_ms: u64,
    plan: Plan,
    counts: Counts,
}

impl<'a> Round<'a> {
    fn new(topology: &Topology, reports: &'a Reports, now_ms: u64) -> Round<'a> {
        let (topology, plan) = (topology.clone(), Plan::default());
        Round { topology, reports, now_ms, plan, counts: Counts::default() }
    }

    /// Adds a command to the plan, unless it would change nothing or be refused.
    fn plan(&mut self, command: Command) {
        let _ = self.try_plan(command);
    }

    /// Adds a fact to the plan, or the reason why it is not believed.
    fn plan_fact(&mut self, fact: Command) {
        let refused = self.try_plan(fact).err();
        self.plan.disbelieved.extend(refused);
    }

    fn try_plan(&mut self, command: Command) -> Result<(), Refusal> {
        let proposal = Proposal::new(self.now_ms / 1_000, command);
        if self.topology.apply(&proposal)?.is_some() {
            self.plan.commands.push(proposal.command);
        }
        Ok(())
    }

    fn is_heard(&self, node: routing::NodeId) -> bool {
        self.reports.is_heard(node, self.now_ms)
    }

    /// Records what nodes tell of themselves, and leaders of their groups.
    fn record_facts(&mut self) {
        let reports = self.reports;
        for (node, report) in &reports.nodes {
            // A node that is not known joins by a request of its own, not by a report. One that is
            // not heard of any more, as after its removal, is no news.
            if self.topology.node(*node).is_some() && self.is_heard(*node) {
                self.plan_fact(Command::NodeIs { told: report.told.clone() });
            }
        }
        let shards: Vec<_> = self.topology.shards().keys().copied().collect();
        for shard in shards {
            if let Some((_, leader)) = reports.leader(shard, self.now_ms) {
                self.plan_fact(Command::Is { shard, members: leader.members.clone() });
            }
        }
        self.counts = Counts::of(&self.topology);
    }
}
