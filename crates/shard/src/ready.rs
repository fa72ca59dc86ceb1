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

use crate::api::{Fatal, PeerMessage, Role, Write};
use crate::lead::Lead;
use crate::peer::node_of;
use crate::replica::Replica;
use crate::{Leadership, Reply};
use locks::planted::{self, Bug};
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{SnapshotStatus, StateRole};
use raft_prost::Message as _;
use std::collections::VecDeque;
use storage::ShardWrite;

/// A `Ready` whose write is on its way to the disk, or that comes after one.
pub(crate) struct Unpersisted {
    number: u64,
    needs_sync: bool,
    messages: Vec<Message>,
}

/// What this step will ask to be written.
///
/// * `stored_last` is the last log index that storage will hold when all writes so far are done.
/// * `hard_state` is the latest that no write has taken yet: a commit index that moved alone waits here for a synced write.
#[derive(Default)]
pub(crate) struct Pending {
    pub write: ShardWrite,
    pub hard_state: Option<HardState>,
    pub dirty: bool,
    pub number: u64,
    pub stored_last: u64,
}

impl Replica {
    /// Handles everything that raft-rs has ready. Does not propose.
    pub(crate) fn drain_ready(&mut self) -> Result<(), Fatal> {
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
                self.pending.dirty = true;
            }
            let committed = ready.take_committed_entries();
            self.apply(&committed)?;

            let entries = ready.take_entries();
            if let Some(first) = entries.first() {
                let write = &mut self.pending.write;
                write.entries.retain(|(index, _)| *index < first.index);
                write.entries.extend(entries.iter().map(|entry| (entry.index, entry.encode_to_vec())));
                self.raw.mut_store().append(entries)?;
            }
            let needs_sync = ready.must_sync();
            let waits_for_sync = needs_sync && !planted::is(Bug::AckBeforeFsync); // planted: said before it is on disk
            if let Some(hard_state) = ready.hs()
                && !planted::is(Bug::VoteNotWritten)
            // planted: a vote is forgotten with the process
            {
                self.pending.hard_state = Some(hard_state.clone());
            }
            if needs_sync {
                if let Some(hard_state) = self.pending.hard_state.take() {
                    self.pending.write.hard_state = Some(hard_state.encode_to_vec());
                }
                self.pending.dirty = true;
                self.pending.number = ready.number();
            }
            let (number, messages) = (ready.number(), ready.take_persisted_messages());
            self.raw.advance_append_async(ready);
            self.unpersisted.push_back(Unpersisted { number, needs_sync: waits_for_sync, messages });
            self.release_persisted(0);
            self.advance_applied();
        }
        Ok(())
    }

    /// Everything up to this `Ready` is on disk: its messages may go, and those of later ones that wrote nothing.
    pub(crate) fn release_persisted(&mut self, persisted: u64) {
        let mut released = None;
        while let Some(front) = self.unpersisted.front() {
            if front.needs_sync && front.number > persisted {
                break;
            }
            let ready = self.unpersisted.pop_front().expect("just seen");
            ready.messages.into_iter().for_each(|message| self.send(message));
            released = Some(ready.number);
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
    pub(crate) fn take_write(&mut self) -> Option<Write> {
        if !std::mem::take(&mut self.pending.dirty) {
            return None;
        }
        let mut write = std::mem::take(&mut self.pending.write);
        write.shard = self.config.shard;
        // A little with each write: all at once with a checkpoint would hold up the log, of all shards and on all nodes at the
        // same time. Written ahead of its checkpoint it does no harm: after a crash the replay ends the same grants again.
        write.history.append(&mut self.checkpointing.history);
        if !write.entries.is_empty() {
            let last = self.raw.store().last();
            if last < self.pending.stored_last {
                write.delete_after = Some(last);
            }
            self.pending.stored_last = last;
        }
        Some(Write { number: self.pending.number, write })
    }

    /// Puts a message among this step's outputs.
    pub(crate) fn post(&mut self, message: &Message) {
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

    /// Compares what Raft says of leadership with what was known, and takes up or lays down what a leader keeps.
    pub(crate) fn note_leadership(&mut self) {
        let raft = &self.raw.raft;
        let leader = (raft.leader_id != 0).then(|| node_of(raft.leader_id));
        let is_me = raft.state == StateRole::Leader;
        let known = Leadership { leader, term: raft.term, is_me };
        if known == self.leadership {
            return;
        }
        let leader_changed = known.leader != self.leadership.leader;
        self.leadership = known;
        self.out.leadership = Some(known);
        if self.lead.as_ref().is_some_and(|lead| !is_me || lead.term != known.term) {
            let reply = self.not_leading();
            let waiters = if planted::is(Bug::WaiterToldNotDone) { &reply } else { &Reply::Unknown }; // planted: not so
            self.lead.take().expect("just seen").end(waiters, &mut self.out.replies);
            self.proposals.fail_all(&reply, &mut self.out.replies);
        }
        if is_me && self.lead.is_none() {
            self.lead = Some(Lead::new(known.term, self.now.mono_ms, &self.observed, &self.config, &self.table));
        }
        if leader_changed && leader.is_some() {
            self.stats.leader_changes += 1;
            self.retry_reads = true;
        }
    }

    pub(crate) fn not_leading(&self) -> Reply {
        match self.leadership.leader {
            Some(hint) if hint != self.config.node => Reply::NotLeader { hint: Some(hint), term: self.leadership.term },
            _ => Reply::NoLeader,
        }
    }

    pub(crate) fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }
}

/// The readies that are not yet known to be on disk, oldest first.
pub(crate) type UnpersistedQueue = VecDeque<Unpersisted>;
