//! Checkpoints of the state machine, cuts of the log below them, and snapshots for replicas that fell
//! behind.
//!
//! ```text
//! log:      ├── cut ──┤── kept for laggards ──┤── replayed after a crash ──┤
//!                     ▲                       ▲                            ▲
//!               truncated_index       checkpoint index              applied index
//! ```
//!
//! A crash at any moment leaves a durable table and a durable log that give the whole state
//! together:
//!
//! 1. A checkpoint's records and the index that they stand at go in one write, and the history of
//!    the tenures that ended before it in the same or an earlier one.
//! 2. The log is cut only up to that index, in the same write or a later one.
//!
//! When a checkpoint is due, and how long a snapshot is kept, is decided in
//! `parts/checkpointing.rs`.

use super::Replica;
use crate::api::Fatal;
use crate::parts::kept::Kept;
use crate::parts::shard_time::Observation;
use crate::planted_bugs;
use crate::snapshot::{BuiltSnapshot, LoadedSnapshot, SnapshotData};
use raft::eraftpb::{Message, Snapshot, SnapshotMetadata};
use routing::NodeId;

/// At most this much log is kept for the sake of a snapshot, in bytes, because it is in memory.
const SNAPSHOT_LOG_BYTES_MAX: u64 = 256 << 20;

impl Replica {
    /// Writes a checkpoint if one is due, and drops a snapshot that no replica asks for any more.
    pub(super) fn checkpoint_if_due(&mut self) {
        let (node, shard, now_ms) = (self.config.node, self.config.shard, self.now.mono_ms);
        let (dirty, every_bytes) =
            (self.machine.dirty_len(), self.config.raft.checkpoint_log_bytes);
        if self.checkpointing.is_due((node, shard), self.applied_index, dirty, every_bytes, now_ms)
        {
            self.checkpoint();
        }
        if self.checkpointing.snapshot_is_over(now_ms) {
            self.drop_snapshot();
            self.checkpoint(); // cuts the log that was kept for it, even on an idle shard
        }
    }

    /// Builds the snapshot that raft-rs asked for, or asks the host for it.
    ///
    /// A checkpoint goes before it. It puts all history up to its index on the way to the engine,
    /// where the sender reads it.
    pub(super) fn build_snapshot_if_wanted(&mut self) {
        if !self.raw.store().take_snapshot_wanted() || self.applied_index == 0 {
            return;
        }
        if self.checkpointing.is_building() {
            return;
        }
        self.checkpoint();
        if self.checkpointing.host_builds {
            self.out.wants_snapshot = true;
        } else {
            let (metadata, kept) = (self.metadata(), self.kept.clone());
            let data = self.machine.snapshot().into();
            self.keep_snapshot(BuiltSnapshot { metadata, kept, data });
        }
        self.checkpointing.start_building(self.applied_index, self.now.mono_ms);
    }

    /// Takes the snapshot that the host has built, of the checkpoint above or a later one.
    ///
    /// It is of use only if the log goes on from its index, and if the members are still the same:
    /// a new member must be in it.
    pub(super) fn snapshot_built(&mut self, built: Option<BuiltSnapshot>) {
        if !self.checkpointing.end_building(self.now.mono_ms) {
            return;
        }
        let Some(built) = built else { return };
        let store = self.raw.store();
        if built.metadata.index + 1 >= store.first()
            && built.metadata.get_conf_state() == store.conf_state()
        {
            self.keep_snapshot(built);
        }
    }

    /// Gives raft-rs the snapshot to send, without its data: raft-rs would clone that into every
    /// message.
    fn keep_snapshot(&mut self, BuiltSnapshot { metadata, kept, data }: BuiltSnapshot) {
        self.checkpointing.keep_data(metadata.index, kept, data);
        self.raw
            .mut_store()
            .set_snapshot(Some(Snapshot { data: Vec::new(), metadata: Some(metadata) }));
    }

    /// Notes that the snapshot of this message is on its way, until the host reports it as sent.
    /// Returns the header, which has what the group kept in its context, and the data. `None`: they
    /// have been dropped.
    pub(super) fn sends_snapshot(
        &mut self,
        to: NodeId,
        message: &Message,
    ) -> Option<(Message, SnapshotData)> {
        let index = message.get_snapshot().get_metadata().index;
        let (kept, data) = self.checkpointing.data_at(index)?;
        let context = Kept::encode(kept);
        self.checkpointing.sends_to(to);
        Some((Message { context, ..message.clone() }, SnapshotData { index, data }))
    }

    fn checkpoint(&mut self) {
        let changes = planted_bugs::written_changes(self.machine.checkpoint());
        let records = changes.into_iter().map(|change| (change.key, change.value));
        let metadata = self.metadata();
        self.step_write.add_checkpoint(&metadata, &self.kept, records);
        self.checkpointing.written(self.applied_index, self.now.mono_ms);
        let after = self.checkpointing.log_needed_after(self.applied_index);
        let (keep_bytes, store) = (self.config.raft.log_keep_bytes, self.raw.mut_store());
        let cut = store.truncate(after, keep_bytes);
        let cut_hard = store.truncate(self.applied_index, keep_bytes.max(SNAPSHOT_LOG_BYTES_MAX));
        if let Some(index) = cut_hard.or(cut) {
            self.step_write.truncate_to(index);
        }
        if cut_hard.is_some() {
            self.drop_snapshot(); // the log after it is gone, so the next one must be newer
        }
    }

    /// Drops the snapshot, both its data and the log store's record of it.
    fn drop_snapshot(&mut self) {
        self.checkpointing.drop_snapshot();
        self.raw.mut_store().set_snapshot(None);
    }

    fn metadata(&self) -> SnapshotMetadata {
        SnapshotMetadata {
            conf_state: Some(self.raw.store().conf_state().clone()),
            index: self.applied_index,
            term: self.applied_term,
        }
    }

    /// Keeps the state of a peer's snapshot if Raft has accepted it. It is installed in this same
    /// step.
    pub(super) fn keep_if_accepted(&mut self, loaded: LoadedSnapshot) {
        let accepted = self.raw.raft.raft_log.unstable.snapshot.as_ref();
        if accepted.is_some_and(|snapshot| snapshot.get_metadata().index == loaded.index()) {
            self.incoming = Some(loaded);
        }
    }

    /// Installs a snapshot that Raft accepted: it replaces table and log, durably with this step's
    /// write.
    ///
    /// The history that this replica has in memory goes with that write. The history that it lacked
    /// is in the engine already: the sender sent it before the snapshot.
    ///
    /// # Errors
    /// [`Fatal`] if Raft installs a snapshot that was not loaded here.
    pub(super) fn install_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Fatal> {
        let meta = snapshot.get_metadata();
        let loaded = self.incoming.take().filter(|loaded| loaded.index() == meta.index);
        let Some(LoadedSnapshot { machine, records, kept, .. }) = loaded else {
            return Err(self
                .fatal(format!("Raft installs a snapshot at {} that was not loaded", meta.index)));
        };
        (self.machine, self.kept) = (machine, kept);
        self.observation = Observation::new(self.machine.shard_ms(), self.now);
        (self.applied_index, self.applied_term) = (meta.index, meta.term);
        self.conf_index = self.kept.reached.map_or(meta.index, |reached| reached.conf_index);
        self.members_doubted_at = Some(meta.index);
        self.raw.mut_store().reset_to(snapshot);
        self.incarnations.learn_members(meta.get_conf_state());
        let records = records.into_iter().map(|change| (change.key, change.value));
        let hard_state = self.raw.raft.hard_state();
        let position = (meta, &self.kept);
        self.step_write.reset_to(position, &hard_state, records, &mut self.checkpointing.history);
        self.checkpointing.reset_to(meta.index, self.now.mono_ms);
        self.watching.reset_to(meta.index);
        self.stats.snapshots_installed += 1;
        Ok(())
    }
}
