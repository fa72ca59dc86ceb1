//! What only META does, the shard of the topology: its founding, its entries, and its news.

use super::Replica;
use super::serve::touched;
use crate::api::{Answer, Fatal, Query, Reply};
use crate::machine::{Machine, ProposalsEntry, TopologyMachine};
use crate::parts::proposals::Caller;
use raft::eraftpb::Entry;
use topology::{Command, Proposal, Refusal, Topology};

/// The refusal of any operation while no cluster was founded. Otherwise a flood of them could keep
/// the founding from its place in the log.
pub(super) fn refused_unfounded(machine: &TopologyMachine) -> Option<Reply> {
    let is_founded = machine.topology().is_founded();
    (!is_founded).then_some(Reply::Applied(Err(Refusal::NotFounded)))
}

impl Replica {
    /// Founds the cluster: a leader of an empty topology proposes the seed.
    ///
    /// It does so once it has applied the first entry of its own term, because the founding could
    /// be among the entries before that. While an operation is queued or in flight, it waits: that
    /// may be the founding. The topology takes the first one only.
    pub(super) fn found_cluster(&mut self) {
        let (Some(leader), Machine::Topology(machine), Some(seed)) =
            (&self.leader_state, &self.machine, &self.seed)
        else {
            return;
        };
        let is_current = leader.clock.shard_ms(0, self.now.mono_ms).is_some();
        let is_idle = self.proposals.is_empty() && self.proposals.nothing_in_flight();
        if machine.topology().is_founded() || !is_current || !is_idle {
            return;
        }
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let command = Command::Bootstrap { seed: (**seed).clone() };
        let proposal = Proposal::new(self.now.wall_ms / 1_000, command);
        // A seed that makes no topology would be proposed again and again.
        if let Err(refusal) = Topology::default().apply(&proposal) {
            self.seed = None;
            return tracing::error!(shard, node, "founds no topology: {refusal}");
        }
        tracing::info!(shard, node, "founds the topology of the cluster");
        self.proposals.push_own(proposal.encode());
    }

    /// Applies an entry of proposals.
    ///
    /// # Errors
    /// [`Fatal`] if the entry is damaged.
    pub(super) fn apply_proposals(
        &mut self,
        entry: &Entry,
        asked: Option<Vec<Option<Caller>>>,
    ) -> Result<(), Fatal> {
        let proposals = ProposalsEntry::decode(&entry.data)
            .map_err(|e| self.fatal(format!("entry {}: {e}", entry.index)))?;
        let Machine::Topology(machine) = &mut self.machine else { return Ok(()) };
        self.stats.commands_applied += proposals.len() as u64;
        let mut asked = asked.into_iter().flatten();
        for proposal in &proposals {
            let applied = machine.apply(proposal);
            if let Some(caller) = asked.next().flatten() {
                self.out.replies.push((caller.ticket, Reply::Applied(applied)));
            }
        }
        Ok(())
    }

    /// The answer to a query. Lowers `rows` by the rows that it touches.
    pub(super) fn answer_of_meta(&mut self, query: &Query, rows: &mut usize) -> Answer {
        match (query, &self.machine) {
            (Query::Topology { known }, Machine::Topology(machine)) => {
                touched(&mut self.out, machine.rows(), rows);
                Answer::Topology(machine.since(*known))
            }
            (Query::Position, _) => Answer::Position,
            (Query::Status, _) => Answer::Status(Box::new(self.hashed_status(rows))),
            _ => Answer::Unsuited,
        }
    }

    /// Tells the host what changed in the topology.
    pub(super) fn tell_topology(&mut self) {
        if let Machine::Topology(machine) = &mut self.machine {
            self.out.topology = machine.take_news();
        }
    }
}
