//! When a checkpoint is due, the history that no write has taken yet, and for how long a snapshot
//! is kept.
//!
//! This decides and remembers. It knows nothing of the log or the table: `replica/checkpoints.rs`
//! asks here, and acts.

use crate::parts::kept::Kept;
use bytes::Bytes;
use routing::{NodeId, ShardId};
use storage::HistoryRecord;

/// A table that has changed is checkpointed at least this often, in milliseconds, however little
/// was logged.
const CHECKPOINT_INTERVAL_MS: u64 = 10_000;
/// A checkpoint is due whenever about this many records of table or history wait. It is built
/// within one step, which must stay far shorter than an election timeout. Otherwise a busy shard
/// loses its leader to its own checkpoints.
const CHECKPOINT_RECORDS: u64 = 16_384;
/// A snapshot is dropped this long after it was built or last arrived, in milliseconds, and with it
/// the log that is kept for its sake. It is built again if a replica needs it.
const SNAPSHOT_KEEP_MS: u64 = 30_000;
const DAY_MS: u64 = 86_400_000;

/// The checkpoints of a replica, and the snapshots on their way to others.
///
/// * `index` is that of the last checkpoint handed to the log writer; the log is never cut above
///   it.
/// * `history` has the ended tenures of applied entries that no write has taken yet, in order. The
///   next write takes all of them. A checkpoint is such a write, so the entry of each is above
///   `index`.
/// * `log_bytes` counts the log applied since the last checkpoint.
#[derive(Default)]
pub(crate) struct Checkpointing {
    pub index: u64,
    pub history: Vec<HistoryRecord>,
    pub log_bytes: u64,
    /// The host builds snapshots, off the replica's thread.
    pub host_builds: bool,
    at_ms: u64,
    catching_up: Option<CatchingUp>,
    /// The index of the snapshot that the log store has, and its parts that are not there: what the
    /// group kept, and the data.
    data: Option<(u64, Kept, Bytes)>,
}

/// The followers that a snapshot was built for, and the log that they need after it.
///
/// A snapshot is of no use on arrival without the entries after it, and the next one would come too
/// late as well: before its data, a receiver is sent history, and reading that takes long where
/// there is much of it.
struct CatchingUp {
    /// The index of the oldest snapshot that counts.
    after: u64,
    /// One is being built, off this thread.
    building: bool,
    /// The nodes that one is on its way to.
    sending: Vec<NodeId>,
    /// When the last was built or arrived.
    at_ms: u64,
}

impl Checkpointing {
    /// Starts with the last checkpoint at `index`.
    pub(crate) fn new(index: u64, now_ms: u64) -> Self {
        Checkpointing { index, at_ms: now_ms, ..Default::default() }
    }

    /// Adds an ended tenure to the history.
    ///
    /// `shard_ms` is the shard's time at the entry `index`. History is dropped by it. A wall clock
    /// would not do, because the records of a leader with a wrong date would be dropped at once, or
    /// never.
    pub(crate) fn record(&mut self, ended: locks::Ended, index: u64, shard_ms: u64) {
        self.history.push(HistoryRecord {
            day: u32::try_from(shard_ms / DAY_MS).unwrap_or(u32::MAX),
            name: ended.name,
            token: ended.token.0,
            index,
            tenure: ended.record,
        });
    }

    /// Whether a checkpoint is due: enough was logged or changed, or the last one is old and an
    /// entry was applied since.
    ///
    /// `dirty_records` of the table have changed. About `every_bytes` of log pass between
    /// checkpoints.
    pub(crate) fn is_due(
        &self,
        (node, shard): (NodeId, ShardId),
        applied_index: u64,
        dirty_records: usize,
        every_bytes: u64,
        now_ms: u64,
    ) -> bool {
        let records = dirty_records.max(self.history.len()) as u64;
        self.log_bytes >= own_share(every_bytes, node, shard)
            || records >= own_share(CHECKPOINT_RECORDS, node, shard)
            || now_ms.saturating_sub(self.at_ms) >= CHECKPOINT_INTERVAL_MS
                && applied_index > self.index
    }

    /// A checkpoint at `index` goes with this step's write.
    pub(crate) fn written(&mut self, index: u64, now_ms: u64) {
        (self.index, self.log_bytes, self.at_ms) = (index, 0, now_ms);
    }

    /// Starts over at a snapshot that was installed.
    pub(crate) fn reset_to(&mut self, index: u64, now_ms: u64) {
        let host_builds = self.host_builds;
        *self = Checkpointing { host_builds, ..Checkpointing::new(index, now_ms) };
    }

    /// The log after this index is kept for snapshots that are on their way; without any, none
    /// after `applied_index`.
    pub(crate) fn log_needed_after(&self, applied_index: u64) -> u64 {
        self.catching_up.as_ref().map_or(applied_index, |c| c.after.min(applied_index))
    }

    /// Whether the host is building a snapshot now.
    pub(crate) fn is_building(&self) -> bool {
        self.catching_up.as_ref().is_some_and(|c| c.building)
    }

    /// A snapshot at `index` is built in this step, or by the host from now on. The log after an
    /// older one is still needed while that is on its way.
    pub(crate) fn start_building(&mut self, index: u64, now_ms: u64) {
        let former = self.catching_up.take().filter(|former| !former.sending.is_empty());
        let (after, sending) =
            former.map_or((index, Vec::new()), |former| (former.after, former.sending));
        self.catching_up =
            Some(CatchingUp { after, building: self.host_builds, sending, at_ms: now_ms });
    }

    /// The host's building has ended, with or without a snapshot. Returns whether one is still
    /// wanted.
    pub(crate) fn end_building(&mut self, now_ms: u64) -> bool {
        let Some(catching_up) = &mut self.catching_up else { return false };
        (catching_up.building, catching_up.at_ms) = (false, now_ms);
        true
    }

    /// Keeps the parts of the snapshot at `index` for all messages that carry it.
    pub(crate) fn keep_data(&mut self, index: u64, kept: Kept, data: Bytes) {
        self.data = Some((index, kept, data));
    }

    /// What the group kept and the data of the snapshot at `index`, if it is here.
    pub(crate) fn data_at(&self, index: u64) -> Option<(&Kept, Bytes)> {
        let (_, kept, data) = self.data.as_ref().filter(|(of, _, _)| *of == index)?;
        Some((kept, data.clone()))
    }

    /// A snapshot is on its way to this node, until [`sent`](Self::sent).
    pub(crate) fn sends_to(&mut self, to: NodeId) {
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.sending.push(to);
        }
    }

    /// A snapshot has arrived at this node, or was refused. A refusal does not prolong its life:
    /// the log is not kept for a node that is sent nothing.
    pub(crate) fn sent(&mut self, to: NodeId, ok: bool, now_ms: u64) {
        if let Some(catching_up) = &mut self.catching_up
            && let Some(at) = catching_up.sending.iter().position(|node| *node == to)
        {
            catching_up.sending.swap_remove(at);
            if ok {
                catching_up.at_ms = now_ms;
            }
        }
    }

    /// Whether a snapshot is kept that no replica has needed for a while.
    pub(crate) fn snapshot_is_over(&self, now_ms: u64) -> bool {
        self.catching_up.as_ref().is_some_and(|c| {
            c.sending.is_empty()
                && !c.building
                && now_ms.saturating_sub(c.at_ms) >= SNAPSHOT_KEEP_MS
        })
    }

    /// Forgets the snapshot, and with it the claim on the log after it.
    pub(crate) fn drop_snapshot(&mut self) {
        (self.catching_up, self.data) = (None, None);
    }
}

/// Three to five quarters of `of`, by node and shard.
///
/// All replicas of a shard apply the same entries. With equal shares they would build their
/// checkpoints at the same moment, and operations would wait for a quorum of nodes that are busy
/// with that.
fn own_share(of: u64, node: NodeId, shard: ShardId) -> u64 {
    // Multiples of irrational parts of 2³² spread consecutive nodes, and consecutive shards, evenly
    // (Weyl's equidistribution).
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
