//! Checkpoints of the lock table, log truncation below them, and snapshots for replicas that fell behind.
//!
//! A checkpoint's changes and applied record go in one write, and history no later; the log is cut only up to the index that
//! they stand at, in the same write or a later one. So at any crash the durable table plus the durable log give the whole
//! state.

use crate::api::Fatal;
use crate::replica::Replica;
use crate::shard_time::Observed;
use crate::snapshot_message::{BuiltSnapshot, LoadedSnapshot};
use locks::planted::{self, Bug};
use raft::eraftpb::{Message, Snapshot, SnapshotMetadata};
use raft_prost::Message as _;
use routing::{NodeId, ShardId};
use std::sync::Arc;
use storage::HistoryRecord;

/// A table that has changed is checkpointed at least this often, in milliseconds, however little was logged.
const CHECKPOINT_INTERVAL_MS: u64 = 10_000;
/// And whenever about this many records of table or history wait: a checkpoint is built within one step, which must stay far
/// shorter than an election timeout, or a busy shard loses its leader to its own checkpoints.
const CHECKPOINT_RECORDS: u64 = 16_384;
/// A snapshot kept for lagging replicas is dropped this long after it was built or, if that is later, last arrived, in
/// milliseconds, and with it the log kept for its sake: it is built again if asked for.
const SNAPSHOT_KEEP_MS: u64 = 30_000;
/// Log that is kept at most for the sake of a snapshot, in bytes. It is in memory.
const SNAPSHOT_LOG_BYTES_MAX: u64 = 256 << 20;
const DAY_MS: u64 = 86_400_000;

/// * `index` is that of the last checkpoint handed to the log writer; the log is never cut above it.
/// * `history` holds the tenures of applied entries that no write has taken yet, in order. The next write takes all of them, and with
///   it goes the checkpoint, if there is one: none is left behind that is not above `index`.
#[derive(Default)]
pub(crate) struct Checkpointing {
    pub index: u64,
    pub history: Vec<HistoryRecord>,
    pub log_bytes: u64,
    pub builds_apart: bool,
    at_ms: u64,
    catching_up: Option<CatchingUp>,
    /// The data of the snapshot that the log store has without, where they are built apart.
    data: Option<(u64, Arc<Vec<u8>>)>,
}

/// For whom a snapshot was built. Each needs the entries after it, or it is of no use on arrival, and the next comes too late as
/// well: before its data, a snapshot's receiver is sent history, and to read that takes long where there is much of it.
struct CatchingUp {
    /// The index of the oldest snapshot that counts.
    after: u64,
    /// One is being built, off this thread.
    building: bool,
    /// Who is being sent one.
    sending: Vec<NodeId>,
    /// When the last was built or arrived.
    at_ms: u64,
}

impl Checkpointing {
    pub(crate) fn new(index: u64, now_ms: u64) -> Self {
        Checkpointing { index, at_ms: now_ms, ..Default::default() }
    }

    /// `shard_ms` is the shard's time at the entry `index`. History is dropped by it, so it may not be a wall clock's: one leader
    /// with a wrong date would have its records dropped at once, or kept for ever.
    pub(crate) fn record(&mut self, ended: locks::Ended, index: u64, shard_ms: u64) {
        self.history.push(HistoryRecord {
            day: u32::try_from(shard_ms / DAY_MS).unwrap_or(u32::MAX),
            name: ended.name,
            token: ended.token.0,
            index,
            tenure: ended.record,
        });
    }
}

impl Replica {
    /// Writes a checkpoint if enough was logged, or long enough ago.
    pub(crate) fn checkpoint_if_due(&mut self) {
        let checkpointing = &self.checkpointing;
        let idle_due = self.now.mono_ms.saturating_sub(checkpointing.at_ms) >= CHECKPOINT_INTERVAL_MS
            && self.applied_index > checkpointing.index;
        let records = self.table.dirty_len().max(checkpointing.history.len()) as u64;
        let (node, shard) = (self.config.node, self.config.shard);
        let logged_enough = checkpointing.log_bytes >= own_share(self.config.checkpoint_log_bytes, node, shard);
        if logged_enough || records >= own_share(CHECKPOINT_RECORDS, node, shard) || idle_due {
            self.checkpoint();
        }
        let over = |c: &CatchingUp| {
            c.sending.is_empty() && !c.building && self.now.mono_ms.saturating_sub(c.at_ms) >= SNAPSHOT_KEEP_MS
        };
        if self.checkpointing.catching_up.as_ref().is_some_and(over) {
            self.drop_snapshot();
            self.checkpoint(); // cuts the log that was kept for it, also where nothing more happens
        }
    }

    /// Builds the snapshot that raft-rs asked for. The checkpoint before it puts all history up to its index on the way
    /// to the engine, where the sender reads it.
    pub(crate) fn build_snapshot_if_wanted(&mut self) {
        if !self.raw.store().take_snapshot_wanted() || self.applied_index == 0 {
            return;
        }
        if self.checkpointing.catching_up.as_ref().is_some_and(|c| c.building) {
            return;
        }
        self.checkpoint();
        let building = self.checkpointing.builds_apart;
        if building {
            self.out.wants_snapshot = true;
        } else {
            let snapshot = Snapshot { data: self.table.snapshot(), metadata: Some(self.metadata()) };
            self.raw.mut_store().set_snapshot(Some(snapshot));
        }
        let (index, at_ms) = (self.applied_index, self.now.mono_ms);
        let catching_up = self.checkpointing.catching_up.take();
        let former = catching_up.filter(|former| !former.sending.is_empty());
        let (after, sending) = former.map_or((index, Vec::new()), |former| (former.after, former.sending));
        self.checkpointing.catching_up = Some(CatchingUp { after, building, sending, at_ms });
    }

    /// What was built off this thread: of the checkpoint above, or a later one. It is of use if the log goes on from there, and
    /// if the members are still the same: a newcomer must be in it.
    pub(crate) fn snapshot_built(&mut self, built: Option<BuiltSnapshot>) {
        let Some(catching_up) = &mut self.checkpointing.catching_up else { return };
        (catching_up.building, catching_up.at_ms) = (false, self.now.mono_ms);
        let Some(BuiltSnapshot { metadata, data }) = built else { return };
        let store = self.raw.mut_store();
        if metadata.index + 1 < store.first() || metadata.get_conf_state() != store.conf_state() {
            return;
        }
        self.checkpointing.data = Some((metadata.index, data));
        store.set_snapshot(Some(Snapshot { data: Vec::new(), metadata: Some(metadata) }));
    }

    /// A snapshot is on its way: until [`snapshot_sent`](Self::snapshot_sent). Its data, if that was built apart.
    pub(crate) fn sends_snapshot(&mut self, to: NodeId, message: &Message) -> Option<Arc<Vec<u8>>> {
        let index = message.get_snapshot().get_metadata().index;
        let data = self.checkpointing.data.as_ref().filter(|(of, _)| *of == index).map(|(_, data)| data.clone());
        if let Some(catching_up) = &mut self.checkpointing.catching_up
            && (data.is_some() || !message.get_snapshot().data.is_empty())
        {
            catching_up.sending.push(to);
        }
        data
    }

    /// One that was refused does not count: who is sent nothing is not waited for.
    pub(crate) fn snapshot_sent(&mut self, to: NodeId, ok: bool) {
        if let Some(catching_up) = &mut self.checkpointing.catching_up
            && let Some(at) = catching_up.sending.iter().position(|node| *node == to)
        {
            catching_up.sending.swap_remove(at);
            if ok {
                catching_up.at_ms = self.now.mono_ms;
            }
        }
    }

    fn checkpoint(&mut self) {
        let metadata = self.metadata().encode_to_vec();
        let write = &mut self.pending.write;
        let changes = self.table.checkpoint().into_iter().map(|change| (change.key, change.value));
        if planted::is(Bug::AppliedAheadOfState) {
            drop(changes); // planted: the index moves on, the state does not
        } else {
            write.table.extend(changes);
        }
        write.applied = Some(metadata);
        self.pending.dirty = true; // so that the history up to here goes with this step's write, at the latest
        self.checkpointing.index = self.applied_index;
        self.checkpointing.log_bytes = 0;
        self.checkpointing.at_ms = self.now.mono_ms;
        let after = self.checkpointing.catching_up.as_ref().map_or(self.applied_index, |c| c.after);
        let (keep_bytes, store) = (self.config.log_keep_bytes, self.raw.mut_store());
        let cut = store.truncate(after.min(self.applied_index), keep_bytes);
        let cut_hard = store.truncate(self.applied_index, keep_bytes.max(SNAPSHOT_LOG_BYTES_MAX));
        write.truncate_to = cut_hard.or(cut).or(write.truncate_to);
        if cut_hard.is_some() {
            self.drop_snapshot(); // too late: the next one is built after this
        }
    }

    /// What the log store has without its data would be of no use.
    fn drop_snapshot(&mut self) {
        (self.checkpointing.catching_up, self.checkpointing.data) = (None, None);
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
    pub(crate) fn keep_if_accepted(&mut self, loaded: LoadedSnapshot) {
        let accepted = self.raw.raft.raft_log.unstable.snapshot.as_ref();
        if accepted.is_some_and(|snapshot| snapshot.get_metadata().index == loaded.index()) {
            self.incoming = Some(loaded);
        }
    }

    /// Raft accepted a snapshot: it replaces table and log, durably with this step's write. History of this replica's own
    /// goes with it; the sender has put what was missing into the engine before.
    pub(crate) fn install_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Fatal> {
        let meta = snapshot.get_metadata();
        let loaded = self.incoming.take().filter(|loaded| loaded.index() == meta.index);
        let Some(LoadedSnapshot { table, records, .. }) = loaded else {
            return Err(self.fatal(format!("Raft installs a snapshot at {} that was not loaded", meta.index)));
        };
        self.table = table;
        self.observed = Observed::new(self.table.shard_ms(), self.now);
        (self.applied_index, self.applied_term) = (meta.index, meta.term);
        self.raw.mut_store().reset_to(snapshot);
        self.incarnations.learn_members(meta.get_conf_state());
        let write = &mut self.pending.write;
        (write.reset, write.entries, write.truncate_to) = (true, Vec::new(), None);
        write.table = records.into_iter().map(|change| (change.key, change.value)).collect();
        write.applied = Some(meta.encode_to_vec());
        // The reset wipes the stored one, and this `Ready` may not carry another.
        write.hard_state = Some(self.raw.raft.hard_state().encode_to_vec());
        write.history.append(&mut self.checkpointing.history);
        self.pending.stored_last = meta.index;
        let builds_apart = self.checkpointing.builds_apart;
        self.checkpointing = Checkpointing { builds_apart, ..Checkpointing::new(meta.index, self.now.mono_ms) };
        self.stats.snapshots_installed += 1;
        Ok(())
    }
}

/// Three to five quarters of this, by node and shard. All replicas apply the same entries: without it those of a shard would build
/// their checkpoints at the same moment, and operations wait for a quorum of nodes that are busy with that.
fn own_share(of: u64, node: NodeId, shard: ShardId) -> u64 {
    // Multiples of irrational parts of 2³²: consecutive nodes, and consecutive shards, are spread evenly (Weyl's equidistribution).
    let by_node = (node.0 as u32).wrapping_mul(0x9E37_79B9);
    let turn = by_node.wrapping_add(shard.0.wrapping_mul(0x6A09_E667));
    of - of / 4 + ((of / 2 * u64::from(turn)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_of_a_shard_take_turns() {
        let share = |node, shard| own_share(1_000, NodeId(node), ShardId(shard));
        for shard in 0..100 {
            let mut shares: Vec<u64> = (1..=5).map(|node| share(node, shard)).collect();
            shares.sort_unstable();
            assert!(shares.iter().all(|share| (750..1_250).contains(share)), "{shares:?}");
            assert!(shares.windows(2).all(|pair| pair[1] - pair[0] >= 50), "{shares:?}");
        }
        // Nor do the shards of a node.
        let mut shares: Vec<u64> = (0..8).map(|shard| share(1, shard)).collect();
        shares.sort_unstable();
        assert!(shares.windows(2).all(|pair| pair[1] - pair[0] >= 20), "{shares:?}");
        assert_eq!(own_share(1, NodeId(3), ShardId(3)), 1, "never nothing");
    }
}
