//! What only META does, the shard of the topology: its entries, its news, and its founding, which
//! shard 0 begins (`parts/founding.rs`).

use super::Replica;
use super::serve::touched;
use crate::api::{Answer, Fatal, Query, Reply};
use crate::machine::{Machine, ProposalsEntry, TopologyMachine};
use crate::parts::first_topology::FirstTopology;
use crate::parts::founding::{self, Founders};
use crate::parts::proposals::Caller;
use crate::planted_bugs::founder_birth;
use crate::raft::peer_id::node_of;
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
    ///
    /// The seed has META where the cluster file puts shard 0. The members that the group has are
    /// the true ones.
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
        let command = match seed {
            FirstTopology::Seed(seed) => {
                let voters = self.raw.store().conf_state().voters.iter();
                let seed = (**seed).clone().with_meta_on(voters.map(|id| node_of(*id)));
                Command::Bootstrap { seed }
            }
            FirstTopology::Rebuilt(topology) => Command::Refound { topology: topology.clone() },
        };
        let proposal = Proposal::new(self.now.wall_ms / 1_000, command);
        // A seed that makes no topology would be proposed again and again.
        if let Err(refusal) = Topology::default().apply(&proposal) {
            self.seed = None;
            return tracing::error!(shard, node, "founds no topology: {refusal}");
        }
        tracing::info!(shard, node, "founds the topology of the cluster");
        self.proposals.push_own(proposal.encode());
    }

    /// Proposes the entry that chooses META's founders, once per tick on a leader of shard 0, if
    /// the log has none and none is in flight.
    pub(super) fn propose_founding(&mut self) {
        let (applied, is_chosen) = (self.applied_index, self.kept.founders.is_some());
        let Some(leader) = &mut self.leader_state else { return };
        // Entries of former leaders must be committed first, because the founding could be among
        // them.
        let is_early = leader.founding_index > applied || !self.raw.raft.commit_to_current_term();
        if !self.founds_meta || is_chosen || is_early || self.handover.is_under_way() {
            return;
        }
        // raft-rs refuses while leadership is handed on, or too much is uncommitted. The next tick
        // tries again.
        if self.raw.propose(Vec::new(), founding::ENTRY.to_vec()).is_ok() {
            leader.founding_index = self.raw.raft.raft_log.last_index();
            let (shard, node) = (self.config.shard.0, self.config.node.0);
            tracing::info!(shard, node, "proposed the founding of the topology's group");
        }
    }

    /// Applies the entry that chooses META's founders, on every replica at the same place in the
    /// log. The first one counts.
    ///
    /// # Errors
    /// [`Fatal`] if the entry is damaged.
    pub(super) fn apply_founding(&mut self, entry: &Entry) -> Result<(), Fatal> {
        if entry.data[..] != *founding::ENTRY {
            return Err(self.fatal(format!("entry {}: no founding of META", entry.index)));
        }
        if self.kept.founders.is_none() {
            let founders = Founders::of(entry.index, self.raw.store().conf_state(), founder_birth)
                .map_err(|e| self.fatal(format!("entry {}: {e}", entry.index)))?;
            self.kept.founders = Some(founders);
        }
        Ok(())
    }

    /// Tells the host META's founders, once.
    pub(super) fn tell_founders(&mut self) {
        if !self.told_founders && self.kept.founders.is_some() {
            self.told_founders = true;
            self.out.founders = self.kept.founders.clone();
        }
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
