//! The Raft log as raft-rs reads it: all entries since the last cut, in memory.
//!
//! The same entries are durable through the log writer. Only recovery reads that copy. The size is
//! bounded by the cuts after checkpoints.

use crate::planted_bugs;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// Entries that do not join the log, because one between is missing or the first was cut off.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} does not join the log {have_first}..={have_last}")]
pub(crate) struct Disjoint {
    index: u64,
    have_first: u64,
    have_last: u64,
}

/// The log of one replica.
///
/// * Entries are consecutive, the first at `truncated_index + 1`.
/// * `conf_state` is that of the applied index. A snapshot that is kept was built under it.
/// * `bytes` is the sum of [`entry_bytes`] over the entries.
pub(crate) struct LogStore {
    hard_state: HardState,
    conf_state: ConfState,
    truncated_index: u64,
    truncated_term: u64,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Built when raft-rs asks for one (`replica/checkpoints.rs`).
    snapshot: Option<Snapshot>,
    /// raft-rs asked for a snapshot that reaches this index, and was refused.
    snapshot_wanted: Cell<Option<u64>>,
}

/// The size of an entry in bytes: its data, and a little for its frame.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64 + 32
}

impl LogStore {
    /// A log of `entries` that follow the cut at (`truncated_index`, `truncated_term`).
    pub(crate) fn new(
        hard_state: HardState,
        conf_state: ConfState,
        truncated_index: u64,
        truncated_term: u64,
        entries: VecDeque<Entry>,
    ) -> LogStore {
        let bytes = entries.iter().map(entry_bytes).sum();
        let store = LogStore {
            hard_state,
            conf_state,
            truncated_index,
            truncated_term,
            entries,
            bytes,
            snapshot: None,
            snapshot_wanted: Cell::new(None),
        };
        debug_assert!(store.entries.front().is_none_or(|e| e.index == truncated_index + 1));
        store
    }

    pub(crate) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Sets the configuration of the applied index. A snapshot that was built under the former one
    /// is dropped, because it may lack the member that it is for.
    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
        if planted_bugs::drops_snapshot(true) {
            self.snapshot = None;
        }
    }

    /// The first index kept.
    pub(crate) fn first(&self) -> u64 {
        self.truncated_index + 1
    }

    /// The last index, or that of the cut if no entry follows it.
    pub(crate) fn last(&self) -> u64 {
        self.truncated_index + self.entries.len() as u64
    }

    /// Adds entries, in the place of those at their indexes and after.
    ///
    /// # Errors
    /// If the entries do not join the log.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> Result<(), Disjoint> {
        let Some(first) = entries.first() else { return Ok(()) };
        if first.index <= self.truncated_index || first.index > self.last() + 1 {
            let (have_first, have_last) = (self.first(), self.last());
            return Err(Disjoint { index: first.index, have_first, have_last });
        }
        while self.last() >= first.index {
            let gone =
                self.entries.pop_back().expect("the log reaches to the entry to be replaced");
            self.bytes -= entry_bytes(&gone);
        }
        for entry in entries {
            debug_assert_eq!(entry.index, self.last() + 1);
            self.bytes += entry_bytes(&entry);
            self.entries.push_back(entry);
        }
        Ok(())
    }

    /// Forgets the oldest entries while at least `keep_bytes` remain, and none above
    /// `durable_index`. Returns the new `truncated_index` if it moved.
    pub(crate) fn truncate(&mut self, durable_index: u64, keep_bytes: u64) -> Option<u64> {
        let before = self.truncated_index;
        while let Some(front) = self.entries.front() {
            if front.index > durable_index || self.bytes - entry_bytes(front) < keep_bytes {
                break;
            }
            self.bytes -= entry_bytes(front);
            (self.truncated_index, self.truncated_term) = (front.index, front.term);
            self.entries.pop_front();
        }
        if self.snapshot.as_ref().is_some_and(|s| s.get_metadata().index < self.truncated_index) {
            self.snapshot = None;
        }
        (self.truncated_index > before).then_some(self.truncated_index)
    }

    /// Puts a snapshot in the place of the whole log.
    pub(crate) fn reset_to(&mut self, snapshot: &Snapshot) {
        let meta = snapshot.get_metadata();
        (self.truncated_index, self.truncated_term) = (meta.index, meta.term);
        self.conf_state = meta.get_conf_state().clone();
        self.entries.clear();
        self.bytes = 0;
        self.snapshot = None;
    }

    /// Whether raft-rs has asked for a snapshot since the last call, and none that is kept will do.
    /// One may have been built meanwhile.
    pub(crate) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take().is_some_and(|index| self.usable_snapshot(index).is_none())
    }

    /// The snapshot that is kept, if it reaches the index asked for and the log goes on from it.
    fn usable_snapshot(&self, request_index: u64) -> Option<&Snapshot> {
        let index_min = request_index.max(self.truncated_index);
        self.snapshot.as_ref().filter(|snapshot| snapshot.get_metadata().index >= index_min)
    }

    /// Keeps a snapshot for raft-rs, or drops the one that is kept.
    pub(crate) fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// The term of an entry or of the cut, if the log reaches there.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.truncated_index {
            return Some(self.truncated_term);
        }
        let offset = index.checked_sub(self.first())?;
        self.entries.get(usize::try_from(offset).ok()?).map(|e| e.term)
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        let mut taken_bytes = 0;
        let (from, to) = ((low - self.first()) as usize, (high - self.first()) as usize);
        Ok(self
            .entries
            .range(from..to)
            .enumerate()
            .take_while(|(i, entry)| {
                taken_bytes += entry_bytes(entry);
                *i == 0 || taken_bytes <= max_bytes
            })
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).ok_or(raft::Error::Store(if index < self.truncated_index {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        }))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if let Some(snapshot) = self.usable_snapshot(request_index) {
            return Ok(snapshot.clone());
        }
        self.snapshot_wanted.set(self.snapshot_wanted.get().max(Some(request_index)));
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
