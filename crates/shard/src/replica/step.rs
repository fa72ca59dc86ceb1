//! One step: inputs in, outputs out.
//!
//! 1. Each input is handled in order. Most of them only queue something, or tell raft-rs.
//! 2. A new leader takes over some rows of the table. A leader queues the ends of leases and waits
//!    that have come due.
//! 3. All that raft-rs has ready is drained (`ready.rs`), and new proposals and reads go into it,
//!    until nothing is left to do.
//! 4. Reads are answered, a checkpoint is taken if one is due, and the step's one write is handed
//!    out.

use super::Replica;
use super::meta::refused_unfounded;
use crate::api::*;
use crate::machine::{Machine, ProposalsEntry};
use crate::parts::leader::LeaderState;
use crate::parts::oldest::Oldest;
use crate::parts::proposals::Caller;
use crate::planted_bugs;
use locks::{BatchBuilder, Stamp};
use raft::SnapshotStatus;

/// Ticks after the start at which the preferred leader asks for votes, if no replica leads.
const FIRST_CAMPAIGN_TICKS: u64 = 3;

impl Replica {
    /// Takes `inputs` in order and returns everything that follows from them.
    ///
    /// # Errors
    /// [`Fatal`]: the process must stop, without answering anything more.
    pub fn step(
        &mut self,
        now: Now,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<Outputs, Fatal> {
        debug_assert!(now.mono_ms >= self.now.mono_ms, "the monotonic clock went back");
        (self.now, self.applied_bytes) = (now, 0);
        for input in inputs {
            self.handle(input)?;
        }
        if let (Some(leader), Some(table)) = (&mut self.leader_state, self.machine.locks()) {
            leader.take_over(table, &self.observation, now.mono_ms);
        }
        if let Some(leader) = &mut self.leader_state
            && !self.disk.hangs()
        {
            match &mut self.machine {
                Machine::Locks(table) => {
                    planted_bugs::expire_without_quorum(&mut leader.leases, table, now);
                    leader.propose_due(now.mono_ms, &mut self.proposals);
                }
                Machine::Topology(_) => self.found_cluster(),
            }
        }
        loop {
            self.drain_ready()?;
            self.ask_successor();
            self.propose();
            self.confirm_members();
            self.start_read_rounds();
            if !self.raw.has_ready() || self.has_applied_enough() {
                break;
            }
        }
        self.note_leadership();
        self.serve_reads();
        self.checkpoint_if_due();
        self.build_snapshot_if_wanted();
        self.out.write = self.take_write();
        self.out.watched = self.watching.take(self.applied_index);
        self.tell_topology();
        self.tell_founders();
        let delayed_until_ms = self.send_delayed();
        let goes_on = self.has_applied_enough() && self.raw.has_ready()
            || self.leader_state.as_ref().is_some_and(LeaderState::is_taking_over);
        let wakes = [
            self.proposals.wake_at_ms(now.mono_ms),
            delayed_until_ms,
            self.reads_wake_at_ms(),
            goes_on.then_some(now.mono_ms),
        ];
        self.out.wake_at_ms = self.wakes.next(now.mono_ms, wakes.into_iter().flatten());
        Ok(std::mem::take(&mut self.out))
    }

    fn handle(&mut self, input: Input) -> Result<(), Fatal> {
        match input {
            Input::Tick => self.tick(),
            Input::Peer(bytes) => return self.receive(&bytes),
            Input::SnapshotBuilt(built) => self.snapshot_built(built),
            Input::Snapshot(loaded) => return self.receive_snapshot(loaded),
            Input::Propose { ticket, command, wait, give_up_at_ms } => {
                self.queue_proposal(Caller { ticket, wait }, command, give_up_at_ms);
            }
            Input::Read { ticket, query, linearizable } => {
                self.queue_read(ticket, query, linearizable)
            }
            Input::Detach { ticket } => {
                // A stream that ends may leave thousands. Those in lock queues are found by their
                // ticket, so that the proposals are not searched for each of them.
                let waited = self
                    .leader_state
                    .as_mut()
                    .is_some_and(|leader| leader.detach(ticket, self.now.mono_ms));
                if !waited {
                    self.proposals.detach(ticket);
                }
            }
            Input::Persisted { number } => self.release_persisted(number),
            Input::Unreachable { node } => {
                self.members_on(node).into_iter().for_each(|id| self.raw.report_unreachable(id));
            }
            Input::SnapshotSent { node, ok } => {
                self.checkpointing.sent(node, ok, self.now.mono_ms);
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.members_on(node)
                    .into_iter()
                    .for_each(|id| self.raw.report_snapshot(id, status));
            }
            Input::Wake => {}
            Input::Watch { on } => self.watching.set(on, self.applied_index),
            Input::Disk { hangs, stretch } => self.on_disk(hangs, stretch),
            Input::Campaign => self.campaign(),
            Input::Incarnation { node, incarnation } => {
                self.incarnations.learn(node, planted_bugs::incarnation(incarnation));
            }
            Input::Want(wanted) => self.want(wanted),
            Input::Level(level) => self.raise_level(level),
            Input::Transfer { to } => self.hand_over(to),
            Input::StandAside => self.stands_aside = true,
        }
        Ok(())
    }

    fn queue_proposal(&mut self, caller: Caller, command: Vec<u8>, give_up_at_ms: u64) {
        let ticket = caller.ticket;
        let reply = if let Some(leader) = &self.leader_state {
            if self.disk.hangs() {
                Reply::NoLeader
            } else if let Some(shard_ms) =
                leader.clock.shard_ms(self.machine.shard_ms(), self.now.mono_ms)
                && let Some(refusal) = self.refused_early(&command, shard_ms)
            {
                // The machine would refuse it as it is now. Refused here, it costs no place in the
                // log. Before the clock runs, the machine may lack entries that the last leader
                // answered.
                refusal
            } else {
                let told = planted_bugs::told_queued(&self.machine, &command);
                if self.proposals.push(caller, command, give_up_at_ms) {
                    return self.out.replies.extend(told.map(|told| (ticket, told)));
                }
                Reply::Busy
            }
        } else if !self.handover.awaits_successor() {
            self.not_leading()
        } else if self.proposals.push(caller, command, give_up_at_ms) {
            return;
        } else {
            Reply::Busy
        };
        self.out.replies.push((ticket, reply));
    }

    /// The refusal of an operation by the state as it is now, at this shard time.
    fn refused_early(&self, command: &[u8], shard_ms: u64) -> Option<Reply> {
        match &self.machine {
            Machine::Locks(table) => table.over_quota(command, shard_ms).map(Reply::Done),
            Machine::Topology(machine) => refused_unfounded(machine),
        }
    }

    fn tick(&mut self) {
        self.stats.ticks += 1;
        self.committed_at_ticks = [self.committed_at_ticks[1], self.raw.raft.raft_log.committed];
        if self.disk.hangs() {
            self.tick_without_disk();
            if let Some(context) = self.reads.tick(&mut self.out.replies) {
                self.raw.read_index(context);
            }
            return self.seed_election_timeout();
        }
        self.stretch_election_timeout(self.stats.ticks);
        self.ask_for_no_votes();
        if !self.awaits_snapshot() {
            self.raw.tick();
        }
        self.tick_handover();
        self.propose_wish();
        self.propose_founding();
        self.propose_level();
        self.change_membership();
        match (&self.leader_state, &self.machine) {
            (Some(_), Machine::Locks(table)) => self.oldest.look(table),
            _ => self.oldest = Oldest::default(),
        }
        self.seed_election_timeout();
        if self.stats.ticks == FIRST_CAMPAIGN_TICKS
            && self.config.preferred_leader == self.config.node
            && self.leadership.leader.is_none()
        {
            self.campaign();
        }
        if let Some(context) = self.reads.tick(&mut self.out.replies) {
            self.raw.read_index(context);
        }
    }

    fn campaign(&mut self) {
        // raft-rs checks that it may be promoted only where it campaigns by itself. A learner, or a
        // replica that is no member, must not.
        if self.awaits_snapshot()
            || self.disk.hangs()
            || self.stands_aside
            || !self.raw.raft.promotable()
        {
            return;
        }
        if let Err(error) = self.raw.campaign() {
            tracing::debug!(
                shard = self.config.shard.0,
                node = self.config.node.0,
                "not campaigning: {error}"
            );
        }
    }

    /// Fills entries from the queue while more may be in flight.
    ///
    /// Nothing is proposed before the leader's clock runs. The entry that starts it is applied in
    /// a step like this one, which then goes on here. Nor is anything proposed while leadership is
    /// handed over.
    fn propose(&mut self) {
        let now_ms = self.now.mono_ms;
        if self.handover.is_under_way() {
            return self.proposals.refuse_late(now_ms, &mut self.out.replies);
        }
        while self.proposals.can_propose(now_ms) {
            let Some(leader) = &self.leader_state else { return };
            self.proposals.refuse_late(now_ms, &mut self.out.replies);
            if self.proposals.is_empty() {
                return;
            }
            let Some(shard_ms) = leader.clock.shard_ms(self.machine.shard_ms(), now_ms) else {
                return;
            };
            let stamp = Stamp { wall_ms: self.now.wall_ms, shard_ms };
            let (entry, count) = match &self.machine {
                Machine::Locks(_) => self.proposals.next_entry(BatchBuilder::new(stamp), now_ms),
                Machine::Topology(_) => self.proposals.next_entry(ProposalsEntry::new(), now_ms),
            };
            // raft-rs refuses while a disk that hangs has leadership handed on, or too much is
            // uncommitted. The operations stay queued.
            let mut told_early = planted_bugs::told_early(self.machine.locks(), &entry);
            if self.raw.propose(Vec::new(), entry).is_err() {
                return;
            }
            let (index, term) = (self.raw.raft.raft_log.last_index(), self.raw.raft.term);
            if self.watching.is_on() {
                self.watching.add(index, stamp.wall_ms, &mut told_early);
            }
            self.proposals.proposed(index, term, count, now_ms, &mut self.out.replies);
            self.out.entries_proposed += 1;
        }
    }
}
