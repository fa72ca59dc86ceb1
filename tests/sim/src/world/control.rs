//! The controller: the node that leads META plans by the real `topology::plan`, from what nodes
//! have reported to it, and proposes its plan, one command after the other.
//!
//! Another term of META begins it anew, without reports. A plan ends with the first command that is
//! refused, and a later look plans anew.

use super::meta::PATIENCE_MS;
use super::node::OWN_TICKETS;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::following::Tenure;
use super::state::meta::{Asked, Question};
use crate::checker::Invariant;
use crate::checker::plans;
use routing::META;
use shard::{Input, Role};
use topology::plan::{self, Report, proposals};
use topology::{Command, Proposal, Version};

impl World {
    /// A report has come. Nodes that do not lead META take none.
    pub(crate) fn take_report(&mut self, id: u64, report: &Report) {
        let now = self.nodes[&id].clock.read(self.now_us);
        if let Some(tenure) = self.tenure(id) {
            let report = Report { heard_ms: tenure.time_ms(now), ..report.clone() };
            tenure.reports.nodes.insert(report.told.node, report);
        }
    }

    /// Plans, if this node leads META and the plan before is carried out.
    pub(crate) fn control(&mut self, id: u64) {
        let now = self.nodes[&id].clock.read(self.now_us);
        if self.tenure(id).is_none() || self.nodes[&id].following.awaited {
            return;
        }
        let node = &self.nodes[&id];
        let (Some(tenure), Some(topology)) =
            (&node.following.tenure, node.replicas.get(&META).and_then(|it| it.topology()))
        else {
            return;
        };
        let time_ms = tenure.time_ms(now);
        let plan = plan::plan(topology, &tenure.reports, time_ms);
        let is_heard = |node| tenure.reports.is_heard(node, time_ms);
        let found = plans::judge(topology, is_heard, time_ms / 1_000, &plan.commands);
        let repairs = plan.commands.iter().filter(|command| {
            let is_unasked = topology.running().next().is_none();
            matches!(command, Command::Want { shard, .. } if *shard != META && is_unasked)
        });
        let repairs: Vec<String> = repairs.map(|command| format!("{command:?}")).collect();
        let lines: Vec<String> = plan
            .commands
            .iter()
            .map(|command| format!("node {id}    plans {command:?}"))
            .chain(plan.stalls.iter().map(|why| format!("node {id}    stalls: {why}")))
            .collect();
        let plan = proposals(time_ms / 1_000, topology.version(), plan.commands).collect();
        self.nodes.get_mut(&id).expect("a node").following.plan = plan;
        lines.into_iter().for_each(|line| self.trace.line(self.now_us, || line));
        repairs.into_iter().for_each(|what| self.note(FaultKind::SilentReplaced, what));
        for what in found {
            let what = format!("the controller of node {id}: {what}");
            self.violated_in(META, Invariant::Quorums, what);
        }
        self.propose_next(id);
    }

    /// Takes the answer to a proposal of the controller. `None`: it was not made, or that is not
    /// known.
    pub(crate) fn planned(&mut self, id: u64, made: Option<Version>) {
        let following = &mut self.nodes.get_mut(&id).expect("a node").following;
        following.awaited = false;
        if made.is_none() {
            following.plan.clear();
        }
        self.propose_next(id);
    }

    fn propose_next(&mut self, id: u64) {
        let following = &mut self.nodes.get_mut(&id).expect("a node").following;
        if let Some(proposal) = following.plan.pop_front() {
            following.awaited = true;
            self.propose_to(id, &proposal, Question::Planned);
        }
    }

    /// Proposes a change of the topology at this node, which has a replica of META.
    pub(crate) fn propose_to(&mut self, id: u64, proposal: &Proposal, what: Question) {
        let ticket = OWN_TICKETS + self.number();
        self.meta.asked.insert(ticket, Asked { node: id, what });
        let now = self.nodes[&id].clock.read(self.now_us);
        let (command, give_up_at_ms) = (proposal.encode(), now.mono_ms + PATIENCE_MS);
        self.tell(id, META, Input::Propose { ticket, command, wait: None, give_up_at_ms });
    }

    /// The present leadership of META, if it is on this node.
    fn tenure(&mut self, id: u64) -> Option<&mut Tenure> {
        let node = self.nodes.get_mut(&id).expect("a node");
        let now = node.clock.read(self.now_us);
        let status = node.replicas.get(&META).map(|replica| replica.status());
        let term = status.filter(|status| status.role == Role::Leader).map(|status| status.term);
        let following = &mut node.following;
        if following.tenure.as_ref().map(|tenure| tenure.term) != term {
            following.plan.clear();
            following.tenure = term.map(|term| Tenure::new(term, now));
        }
        following.tenure.as_mut()
    }
}
