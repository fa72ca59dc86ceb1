//! The write that a step asks the log writer to make durable, and the messages that wait until it
//! is.
//!
//! This knows nothing of the order in which a `Ready` is handled: `replica/ready.rs` tells that
//! story and calls these methods.

use crate::api::Write;
use crate::parts::applied::encode_applied;
use crate::parts::kept::Kept;
use raft::eraftpb::{Entry, HardState, Message, SnapshotMetadata};
use raft_prost::Message as _;
use routing::ShardId;
use std::collections::VecDeque;
use storage::{HistoryRecord, ShardWrite};

/// The one write of a step, as far as it has been collected.
///
/// * `stored_last` is the last log index that storage holds once all writes handed out so far are
///   done.
/// * `hard_state` is the latest that no write has taken yet. A commit index that moved alone waits
///   there for the next synced write, because it is found again after a restart and not worth a
///   write of its own.
/// * `number` is that of the last `Ready` that must be synced. It never falls.
#[derive(Default)]
pub(crate) struct StepWrite {
    write: ShardWrite,
    hard_state: Option<HardState>,
    wanted: bool,
    number: u64,
    stored_last: u64,
}

impl StepWrite {
    /// Starts with a stored log that ends at `stored_last`.
    pub(crate) fn new(stored_last: u64) -> StepWrite {
        StepWrite { stored_last, ..StepWrite::default() }
    }

    /// Adds log entries, in the place of those at their indexes and after.
    pub(crate) fn add_entries(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.write.entries.retain(|(index, _)| *index < first.index);
        self.write.entries.extend(entries.iter().map(|entry| (entry.index, entry.encode_to_vec())));
    }

    /// The hard state has changed: it goes with the next synced write.
    pub(crate) fn note_hard_state(&mut self, hard_state: &HardState) {
        self.hard_state = Some(hard_state.clone());
    }

    /// The `Ready` of this number counts only once it is on disk.
    pub(crate) fn must_sync(&mut self, number: u64) {
        if let Some(hard_state) = self.hard_state.take() {
            self.write.hard_state = Some(hard_state.encode_to_vec());
        }
        self.wanted = true;
        self.number = number;
    }

    /// Adds a checkpoint at `applied`: the records of the table that changed since the one before,
    /// and what the group keeps there.
    pub(crate) fn add_checkpoint(
        &mut self,
        applied: &SnapshotMetadata,
        kept: &Kept,
        changes: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    ) {
        self.write.table.extend(changes);
        self.write.applied = Some(encode_applied(applied, kept));
        self.wanted = true; // so that the history up to here goes with this write at the latest
    }

    /// The log is cut: storage forgets the entries up to `index`.
    pub(crate) fn truncate_to(&mut self, index: u64) {
        self.write.truncate_to = Some(index);
    }

    /// A snapshot at `meta` takes the place of log and table, with all the `records` of its table.
    ///
    /// The reset wipes the stored hard state, and the same `Ready` may not carry another: so it is
    /// written here.
    pub(crate) fn reset_to(
        &mut self,
        (meta, kept): (&SnapshotMetadata, &Kept),
        hard_state: &HardState,
        records: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
        history: &mut Vec<HistoryRecord>,
    ) {
        let write = &mut self.write;
        (write.reset, write.entries, write.truncate_to) = (true, Vec::new(), None);
        write.table = records.collect();
        write.applied = Some(encode_applied(meta, kept));
        write.hard_state = Some(hard_state.encode_to_vec());
        write.history.append(history);
        self.stored_last = meta.index;
        self.wanted = true;
    }

    /// Hands out the write, if there is anything to write. `log_last` is the last index of the log
    /// now.
    ///
    /// `history` goes a little with each write. All at once with a checkpoint, it would hold up the
    /// log of all shards, on all nodes at the same time. Written ahead of its checkpoint it does no
    /// harm: after a crash, replay ends the same grants again.
    pub(crate) fn take(
        &mut self,
        shard: ShardId,
        history: &mut Vec<HistoryRecord>,
        log_last: u64,
    ) -> Option<Write> {
        if !std::mem::take(&mut self.wanted) {
            return None;
        }
        let mut write = std::mem::take(&mut self.write);
        write.shard = shard;
        write.history.append(history);
        if !write.entries.is_empty() {
            if log_last < self.stored_last {
                write.delete_after = Some(log_last);
            }
            self.stored_last = log_last;
        }
        Some(Write { number: self.number, write })
    }
}

/// The messages of a `Ready` that wait until it, or one before it, is on disk.
struct UnsyncedReady {
    number: u64,
    needs_sync: bool,
    messages: Vec<Message>,
}

/// The readies that are not yet known to be on disk, oldest first.
///
/// * Numbers rise.
/// * A `Ready` that wrote nothing waits only for those before it.
#[derive(Default)]
pub(crate) struct UnsyncedReadies(VecDeque<UnsyncedReady>);

impl UnsyncedReadies {
    pub(crate) fn push(&mut self, number: u64, needs_sync: bool, messages: Vec<Message>) {
        debug_assert!(
            self.0.back().is_none_or(|last| last.number < number),
            "Ready {number} comes again"
        );
        self.0.push_back(UnsyncedReady { number, needs_sync, messages });
    }

    /// The oldest `Ready`'s number and messages, if they may go now that `synced` and all before it
    /// are on disk.
    pub(crate) fn pop_synced(&mut self, synced: u64) -> Option<(u64, Vec<Message>)> {
        let may_go = |ready: &mut UnsyncedReady| !ready.needs_sync || ready.number <= synced;
        self.0.pop_front_if(may_go).map(|ready| (ready.number, ready.messages))
    }
}
