//! Checkpoints of the lock table, log truncation below them, and snapshots for replicas that fell behind.
//!
//! A checkpoint's changes and applied record go in one write, and history no later; the log is cut only up to the index that
//! they stand at, in the same write or a later one. So at any crash the durable table plus the durable log give the whole
//! state.

use super::Replica;
use crate::api::Fatal;
use crate::parts::shard_time::Observation;
use crate::snapshot::{BuiltSnapshot, LoadedSnapshot};
use locks::planted::{self, Bug};
use raft::eraftpb::{Message, Snapshot, SnapshotMetadata};
use routing::NodeId;
use std::sync::Arc;

/// Log that is kept at most for the sake of a snapshot, in bytes. It is in memory.
const SNAPSHOT_LOG_BYTES_MAX: u64 = 256 << 20;

impl Replica {
    /// Writes a checkpoint if enough was logged, or long enough ago.
    pub(super) fn checkpoint_if_due(&mut self) {
        let (node, shard, now_ms) = (self.config.node, self.config.shard, self.now.mono_ms);
        let (dirty, every_bytes) = (self.table.dirty_len(), self.config.checkpoint_log_bytes);
        if self.checkpointing.is_due((node, shard), self.applied_index, dirty, every_bytes, now_ms) {
            self.checkpoint();
        }
        if self.checkpointing.snapshot_is_over(now_ms) {
            self.drop_snapshot();
            self.checkpoint(); // cuts the log that was kept for it, also where nothing more happens
        }
    }

    /// Builds the snapshot that raft-rs asked for. The checkpoint before it puts all history up to its index on the way
    /// to the engine, where the sender reads it.
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
            let snapshot = Snapshot { data: self.table.snapshot(), metadata: Some(self.metadata()) };
            self.raw.mut_store().set_snapshot(Some(snapshot));
        }
        self.checkpointing.start_building(self.applied_index, self.now.mono_ms);
    }

    /// What was built off this thread: of the checkpoint above, or a later one. It is of use if the log goes on from there, and
    /// if the members are still the same: a newcomer must be in it.
    pub(super) fn snapshot_built(&mut self, built: Option<BuiltSnapshot>) {
        if !self.checkpointing.end_building(self.now.mono_ms) {
            return;
        }
        let Some(BuiltSnapshot { metadata, data }) = built else { return };
        let store = self.raw.mut_store();
        if metadata.index + 1 < store.first() || metadata.get_conf_state() != store.conf_state() {
            return;
        }
        self.checkpointing.keep_data(metadata.index, data);
        store.set_snapshot(Some(Snapshot { data: Vec::new(), metadata: Some(metadata) }));
    }

    /// A snapshot is on its way until the host reports it as sent. Returns its data, if that was built apart.
    pub(super) fn sends_snapshot(&mut self, to: NodeId, message: &Message) -> Option<Arc<Vec<u8>>> {
        let data = self.checkpointing.data_at(message.get_snapshot().get_metadata().index);
        if data.is_some() || !message.get_snapshot().data.is_empty() {
            self.checkpointing.sends_to(to);
        }
        data
    }

    fn checkpoint(&mut self) {
        let changes = self.table.checkpoint().into_iter().map(|change| (change.key, change.value));
        let state_missing = planted::is(Bug::AppliedAheadOfState); // planted: the index moves on, the state does not
        let metadata = self.metadata();
        self.step_write.add_checkpoint(&metadata, changes.filter(|_| !state_missing));
        self.checkpointing.written(self.applied_index, self.now.mono_ms);
        let after = self.checkpointing.log_needed_after(self.applied_index);
        let (keep_bytes, store) = (self.config.log_keep_bytes, self.raw.mut_store());
        let cut = store.truncate(after, keep_bytes);
        let cut_hard = store.truncate(self.applied_index, keep_bytes.max(SNAPSHOT_LOG_BYTES_MAX));
        if let Some(index) = cut_hard.or(cut) {
            self.step_write.truncate_to(index);
        }
        if cut_hard.is_some() {
            self.drop_snapshot(); // too late: the next one is built after this
        }
    }

    /// What the log store has without its data would be of no use.
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

    /// Keeps what a peer's snapshot holds if Raft has accepted it: until it is installed, in this same step.
    pub(super) fn keep_if_accepted(&mut self, loaded: LoadedSnapshot) {
        let accepted = self.raw.raft.raft_log.unstable.snapshot.as_ref();
        if accepted.is_some_and(|snapshot| snapshot.get_metadata().index == loaded.index()) {
            self.incoming = Some(loaded);
        }
    }

    /// Raft accepted a snapshot: it replaces table and log, durably with this step's write. History of this replica's own
    /// goes with it; the sender has put what was missing into the engine before.
    pub(super) fn install_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Fatal> {
        let meta = snapshot.get_metadata();
        let loaded = self.incoming.take().filter(|loaded| loaded.index() == meta.index);
        let Some(LoadedSnapshot { table, records, .. }) = loaded else {
            return Err(self.fatal(format!("Raft installs a snapshot at {} that was not loaded", meta.index)));
        };
        self.table = table;
        self.observation = Observation::new(self.table.shard_ms(), self.now);
        (self.applied_index, self.applied_term) = (meta.index, meta.term);
        self.raw.mut_store().reset_to(snapshot);
        self.incarnations.learn_members(meta.get_conf_state());
        let records = records.into_iter().map(|change| (change.key, change.value));
        let hard_state = self.raw.raft.hard_state();
        self.step_write.reset_to(meta, &hard_state, records, &mut self.checkpointing.history);
        self.checkpointing.reset_to(meta.index, self.now.mono_ms);
        self.stats.snapshots_installed += 1;
        Ok(())
    }
}
