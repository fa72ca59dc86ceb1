//! Handling of raft-rs `Ready`, in the one order that keeps the promises (raft-rs 0.7, asynchronous persistence):
//!
//! 1. take the `Ready`;
//! 2. send its `messages` at once: only a leader has any before its own disk has them (Raft thesis, 10.2.1). Some of a leader's
//!    appends go a little later (`spare.rs`);
//! 3. apply its committed entries: raft-rs hands out only what a quorum *and* this replica have on disk;
//! 4. make its entries readable by Raft and put them, with the latest hard state, into this step's one write; keep its
//!    `persisted_messages` (votes, acknowledgements) back; `advance_append_async`;
//! 5. when the log writer reports the write as synced: send those messages and `on_persist_ready`;
//! 6. after apply: `advance_apply_to`.
//!
//! An acknowledgement sent before step 5 would let a leader count a replica that can still forget: after a power cut it
//! comes back without the entry, and the group has lost an acknowledged grant (or panics in `to_commit out of range`).
//!
//! A commit index that moved alone is not worth a write: it is found again. But it goes with the next synced one, at the
//! latest with the entries that came after it was known: a replica that has a change of members on disk must know after
//! a restart that the change before it is committed (see `membership.rs`).

use super::Replica;
use crate::api::{Fatal, PeerMessage, Write};
use crate::raft::peer_id::node_of;
use locks::planted::{self, Bug};
use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;

impl Replica {
    /// Handles everything that raft-rs has ready. Does not propose.
    pub(super) fn drain_ready(&mut self) -> Result<(), Fatal> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.note_leadership();
            let messages = ready.take_messages();
            if !messages.is_empty() {
                self.choose_spares();
            }
            messages.into_iter().for_each(|message| self.send(message));
            for state in ready.take_read_states() {
                self.reads.on_read_state(&state.request_ctx, state.index);
            }
            if !ready.snapshot().is_empty() {
                self.install_snapshot(&ready.snapshot().clone())?;
            }
            let committed = ready.take_committed_entries();
            self.apply(&committed)?;

            let entries = ready.take_entries();
            self.step_write.add_entries(&entries);
            self.raw.mut_store().append(entries).map_err(|what| self.fatal(what))?;
            let needs_sync = ready.must_sync();
            let waits_for_sync = needs_sync && !planted::is(Bug::AckBeforeFsync); // planted: said before it is on disk
            if let Some(hard_state) = ready.hs()
                && !planted::is(Bug::VoteNotWritten)
            // planted: a vote is forgotten with the process
            {
                self.step_write.note_hard_state(hard_state);
            }
            if needs_sync {
                self.step_write.must_sync(ready.number());
            }
            let (number, messages) = (ready.number(), ready.take_persisted_messages());
            self.raw.advance_append_async(ready);
            self.unsynced.push(number, waits_for_sync, messages);
            self.release_persisted(0);
            self.advance_applied();
        }
        Ok(())
    }

    /// Everything up to this `Ready` is on disk: its messages may go, and those of later ones that wrote nothing.
    pub(super) fn release_persisted(&mut self, persisted: u64) {
        let mut released = None;
        while let Some((number, messages)) = self.unsynced.pop_synced(persisted) {
            messages.into_iter().for_each(|message| self.send(message));
            released = Some(number);
        }
        if let Some(number) = released {
            self.raw.on_persist_ready(number);
            self.advance_applied();
        }
    }

    /// Tells raft-rs how far the table is, as far as it wants to hear: a snapshot counts only once it is on disk.
    fn advance_applied(&mut self) {
        let log = &self.raw.raft.raft_log;
        let index = self.applied_index.min(log.committed).min(log.persisted);
        if index > log.applied {
            self.raw.advance_apply_to(index);
        }
    }

    /// Hands out this step's write, if there is anything to write.
    pub(super) fn take_write(&mut self) -> Option<Write> {
        let log_last = self.raw.store().last();
        self.step_write.take(self.config.shard, &mut self.checkpointing.history, log_last)
    }

    /// Sends a message now, or later with others.
    pub(super) fn send(&mut self, message: Message) {
        match &mut self.leader_state {
            Some(leader) if message.msg_type() != MessageType::MsgHeartbeat => {
                let now = leader.spares.route(message, self.now.mono_ms);
                now.into_iter().flatten().for_each(|message| self.post(&message));
            }
            _ => self.post(&message),
        }
    }

    /// Puts a message among this step's outputs.
    pub(super) fn post(&mut self, message: &Message) {
        let (to, is_snapshot) = (node_of(message.to), message.msg_type() == MessageType::MsgSnapshot);
        if self.is_silent() {
            // As if it was lost. Raft sends a member nothing more until it hears what became of its snapshot.
            if is_snapshot {
                self.raw.report_snapshot(message.to, SnapshotStatus::Failure);
            }
            return;
        }
        let snapshot_data = if is_snapshot { self.sends_snapshot(to, message) } else { None };
        if is_snapshot && snapshot_data.is_none() && message.get_snapshot().data.is_empty() {
            // It was built apart, and has been dropped since: Raft asks again.
            self.raw.report_snapshot(message.to, SnapshotStatus::Failure);
            return;
        }
        let is_urgent = matches!(
            message.msg_type(),
            MessageType::MsgHeartbeat
                | MessageType::MsgHeartbeatResponse
                | MessageType::MsgRequestVote
                | MessageType::MsgRequestVoteResponse
                | MessageType::MsgRequestPreVote
                | MessageType::MsgRequestPreVoteResponse
        );
        self.out.messages.push(PeerMessage {
            to,
            bytes: message.encode_to_vec(),
            is_snapshot,
            snapshot_data,
            is_urgent,
        });
    }
}
