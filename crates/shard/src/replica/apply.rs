//! Committed entries into the state machine, and the answers that follow from them.

use super::Replica;
use crate::api::{Fatal, Reply, Ticket};
use crate::machine::Machine;
use crate::parts::leader::LeaderState;
use crate::parts::proposals::Caller;
use crate::parts::{founding, group, level};
use crate::planted_bugs;
use crate::raft::log_store::entry_bytes;
use locks::{Batch, Command, Effects, Outcome};
use raft::eraftpb::{Entry, EntryType};

impl Replica {
    /// Applies committed entries in order.
    ///
    /// All replicas run the same code on the same bytes.
    ///
    /// # Errors
    /// [`Fatal`] if an entry cannot be applied. That stops every replica at the same entry.
    pub(super) fn apply(&mut self, entries: &[Entry]) -> Result<(), Fatal> {
        if self.out.entries_applied == 0 {
            self.out.replies_applied.start = self.out.replies.len();
        }
        for entry in entries {
            if entry.index != self.applied_index + 1 {
                return Err(self.fatal(format!(
                    "entry {} committed after {}",
                    entry.index, self.applied_index
                )));
            }
            let asked = self.proposals.take_applied(
                entry.index,
                entry.term,
                self.now.mono_ms,
                &mut self.out.replies,
            );
            self.out.entries_applied += usize::from(asked.is_some());
            if entry.entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
                self.check_level(entry)?;
            }
            match entry.entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal if entry.data[0] == group::KIND => self.apply_wish(entry)?,
                EntryType::EntryNormal if entry.data[0] == founding::KIND => {
                    self.apply_founding(entry)?
                }
                EntryType::EntryNormal if entry.data[0] == level::KIND => {
                    self.apply_level(entry)?
                }
                EntryType::EntryNormal => self.apply_batch(entry, asked)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.apply_conf_change(entry)?
                }
            }
            (self.applied_index, self.applied_term) = (entry.index, entry.term);
            if let Some(leader) = &mut self.leader_state
                && leader.term == entry.term
            {
                leader.clock.start(self.observation);
            }
            self.checkpointing.log_bytes += entry_bytes(entry);
            self.stats.entries_applied += 1;
        }
        self.out.replies_applied.end = self.out.replies.len();
        Ok(())
    }

    fn apply_batch(
        &mut self,
        entry: &Entry,
        asked: Option<Vec<Option<Caller>>>,
    ) -> Result<(), Fatal> {
        let shard = self.config.shard;
        let table = match &mut self.machine {
            Machine::Locks(table) => table,
            Machine::Topology(_) => return self.apply_proposals(entry, asked),
        };
        let batch = Batch::decode(&entry.data)
            .map_err(|e| Fatal { shard, what: format!("entry {}: {e}", entry.index) })?;
        self.stats.commands_applied += batch.commands.len() as u64;
        let mut asked = asked.into_iter().flatten();
        let mut effects = std::mem::take(&mut self.effects);
        effects.unheard = self.leader_state.is_none();
        effects.watched = self.watching.is_on();
        for (caller, command) in &batch.commands {
            let outcome = table.apply_as(batch.stamp, *caller, command, &mut effects);
            if let Some(leader) = &mut self.leader_state {
                self.out.ended.extend(effects.ended.iter().map(|it| (it.end, it.held_ms)));
                let now_ms = self.now.mono_ms;
                follow_up(
                    leader,
                    command,
                    outcome,
                    asked.next().flatten(),
                    &effects,
                    now_ms,
                    &mut self.out.replies,
                );
            }
            let leads = self.leader_state.is_some();
            for ended in planted_bugs::recorded(effects.ended.drain(..), leads) {
                self.checkpointing.record(ended, entry.index, table.shard_ms());
            }
            effects.granted.clear();
            effects.dropped.clear();
            effects.leases.clear();
        }
        let leads = self.leader_state.as_ref();
        let is_former = leads.is_some_and(|leader| leader.term > entry.term);
        let events = planted_bugs::told_events(&mut effects.events, is_former);
        self.watching.add(entry.index, batch.stamp.wall_ms, events);
        self.effects = effects;
        self.observation.observe(table.shard_ms(), self.now);
        Ok(())
    }
}

/// Sets the deadlines and gives the answers that follow from one applied command, on the leader.
fn follow_up(
    leader: &mut LeaderState,
    command: &Command<'_>,
    outcome: Outcome,
    asked: Option<Caller>,
    effects: &Effects,
    now_ms: u64,
    replies: &mut Vec<(Ticket, Reply)>,
) {
    for event in &effects.leases {
        leader.on_lease(*event, now_ms);
    }
    for grant in &effects.granted {
        leader.on_granted(grant, replies);
    }
    for (request_id, reason) in &effects.dropped {
        leader.on_dropped(*request_id, *reason, replies);
    }
    if let (Outcome::Queued, Command::Acquire { request_id, name, .. }) = (&outcome, command) {
        leader.on_queued(*request_id, name, asked.as_ref(), now_ms, replies);
    } else if let Some(asked) = asked {
        replies.push((asked.ticket, Reply::Done(outcome)));
    }
}
