//! Handling of raft-rs's `Ready`, in the one order that keeps the promises of a replica
//! (raft-rs 0.7, asynchronous persistence).
//!
//! ```text
//!               Ready
//!                 │
//!  1. messages ───┼──────────────────────────────► peers     only a leader has any
//!  2. committed ──┼──► lock table ──► replies                a quorum has them on disk
//!  3. entries ────┼──► the step's one write ──┐
//!  4. persisted ──┼──► unsynced ······ wait ·· ▼ ·········
//!                 ▼                         log writer
//!        advance_append_async                 │  fsync
//!                                             ▼
//!  5. Input::Persisted ──► unsynced messages ─► peers,  on_persist_ready
//! ```
//!
//! 1. The `messages` go out at once. Only a leader has any before its own disk has them: it may
//!    ask others for entries that it has not synced itself (Raft thesis, 10.2.1). Some of its
//!    appends go a little later (`parts/spares.rs`).
//! 2. The committed entries are applied. raft-rs hands out only entries that a quorum *and* this
//!    replica have on disk. A reply may follow.
//! 3. New entries become readable by Raft, and go into the step's one write together with the
//!    latest hard state.
//! 4. The `persisted_messages`, which are votes and acknowledgements, are kept back until then.
//! 5. The log writer reports the write as synced. Now the messages that were kept back may go, and
//!    raft-rs hears of it (`on_persist_ready`).
//!
//! After each apply, raft-rs hears how far the table is (`advance_apply_to`).
//!
//! How it goes wrong if an acknowledgement is sent in step 4 instead of 5:
//!
//! 1. Leader A of three appends entry 7, a grant. Follower B acknowledges it before its sync.
//! 2. A counts itself and B as a quorum, applies entry 7, and answers "granted, token 12".
//! 3. The power fails. A does not come back. B comes back without entry 7.
//! 4. B and C, which never had entry 7, elect a leader. It grants the same lock to another client.
//!
//! The same holds for a vote: a replica that forgets one can vote twice in a term.
//!
//! A commit index that moved alone is not worth a write, because it is found again. But it goes
//! with the next synced write, at the latest with the entries that came after it was known. A
//! replica that has a change of members on disk must know after a restart that the change before
//! is committed (`parts/membership.rs`).

use super::Replica;
use super::open::APPLIED_BYTES_PER_STEP;
use crate::api::{Fatal, PeerMessage, Write};
use crate::planted_bugs;
use crate::raft::peer_id::node_of;
use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;

impl Replica {
    /// Handles everything that raft-rs has ready, in the order above, up to where the step has applied
    /// enough. Proposes nothing.
    pub(super) fn drain_ready(&mut self) -> Result<(), Fatal> {
        while self.raw.has_ready() && !self.has_applied_enough() {
            let mut ready = self.raw.ready();
            self.note_leadership();

            // 1. Messages that need nothing of this replica on disk.
            let messages = ready.take_messages();
            if !messages.is_empty() {
                self.choose_spares();
            }
            messages.into_iter().for_each(|message| self.send(message));
            for state in ready.take_read_states() {
                self.reads.on_read_state(&state.request_ctx, state.index);
            }

            // 2. Committed entries, or a snapshot in their place.
            if !ready.snapshot().is_empty() {
                self.install_snapshot(&ready.snapshot().clone())?;
            }
            let committed = ready.take_committed_entries();
            self.apply(&committed)?;
            self.applied_bytes +=
                committed.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
            self.leave_if_removed();

            // 3. New entries and the hard state, into one write.
            let entries = ready.take_entries();
            self.step_write.add_entries(&entries);
            self.raw.mut_store().append(entries).map_err(|error| self.fatal(error.to_string()))?;
            let needs_sync = ready.must_sync();
            let waits_for_sync = planted_bugs::waits_for_sync(needs_sync);
            if let Some(hard_state) = planted_bugs::written_hard_state(ready.hs()) {
                self.step_write.note_hard_state(hard_state);
            }
            if needs_sync {
                self.step_write.must_sync(ready.number());
            }

            // 4. Votes and acknowledgements wait for that write.
            let (number, messages) = (ready.number(), ready.take_persisted_messages());
            self.raw.advance_append_async(ready);
            self.unsynced.push(number, waits_for_sync, messages);
            self.release_persisted(0);
            self.advance_applied();
        }
        Ok(())
    }

    /// Whether the rest is left to the next step, so that other replicas of the thread, ticks and
    /// heartbeats are not held up by one that has much to apply.
    pub(super) fn has_applied_enough(&self) -> bool {
        self.applied_bytes >= APPLIED_BYTES_PER_STEP / 2
    }

    /// 5. Everything up to this `Ready` is on disk. Its messages may go, and those of later ones
    ///    that wrote nothing.
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

    /// Tells raft-rs how far the table is. A snapshot counts only once it is on disk.
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

    /// Sends a message now, or delays an append for a spare follower (`parts/spares.rs`).
    ///
    /// Steps 1 and 5 both end here. A heartbeat is never delayed.
    pub(super) fn send(&mut self, message: Message) {
        match &mut self.leader_state {
            Some(leader) if message.msg_type() != MessageType::MsgHeartbeat => {
                let now = leader.spares.route(message, self.now.mono_ms);
                now.into_iter().flatten().for_each(|message| self.post(&message));
            }
            _ => self.post(&message),
        }
    }

    /// Puts a message among this step's outputs. From here on it may reach its peer at any time.
    pub(super) fn post(&mut self, message: &Message) {
        let (to, is_snapshot) =
            (node_of(message.to), message.msg_type() == MessageType::MsgSnapshot);
        if self.is_silent() {
            // As if it was lost. Raft sends a member nothing more until it hears of its snapshot.
            if is_snapshot {
                self.raw.report_snapshot(message.to, SnapshotStatus::Failure);
            }
            return;
        }
        let snapshot = if is_snapshot { self.sends_snapshot(to, message) } else { None };
        if is_snapshot && snapshot.is_none() {
            // Its data has been dropped since. Raft asks again.
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
        let (bytes, snapshot) = match snapshot {
            Some((header, data)) => (header.encode_to_vec(), Some(data)),
            None => (message.encode_to_vec(), None),
        };
        self.out.messages.push(PeerMessage { to, bytes, snapshot, is_urgent });
    }
}
