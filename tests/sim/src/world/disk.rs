//! A node's disk: the in-memory engine, its one writer, and the faults of both.
//!
//! A batch with all shards' writes is on its way to the disk for a while. A crash then leaves the
//! batch whole, lost, or torn. A torn batch counts as lost, because the write-ahead log's checksums
//! reject it. If a bit is flipped while the node is down, a checksum shows it at the next start.

use super::state::event::Event;
use crate::rng::Rng;
use routing::ShardId;
use std::sync::Arc;
use storage::{Engine, Identity, MemoryEngine, Recovered, ShardWrite, StorageError};

/// A write, and the actions that follow once it is durable.
pub(crate) struct Job {
    pub write: Option<ShardWrite>,
    pub then: Then,
}

pub(crate) enum Then {
    Persisted {
        shard: ShardId,
        number: u64,
        /// The birth of the replica, and the last index of its log with this write.
        log: (u32, u64),
    },
    /// An event that happens at once.
    Event(Box<Event>),
}

pub(crate) struct Disk {
    pub engine: Arc<MemoryEngine>,
    pub queue: Vec<Job>,
    pub writing: Option<Vec<Job>>,
    /// The usual duration of a sync, in microseconds.
    pub sync_us: u64,
    pub slow: bool,
    pub full: bool,
    /// The checksums of the data at the last stop, by shard. They are kept while bits are flipped.
    sealed: Vec<(ShardId, u32)>,
    flipped: Option<(ShardId, Recovered)>,
}

/// The effect of a crash on a batch that was on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashLoss {
    Nothing,
    Unsynced,
    Torn,
}

impl Disk {
    pub(crate) fn new(sync_us: u64) -> Disk {
        Disk {
            engine: Arc::new(MemoryEngine::new()),
            queue: Vec::new(),
            writing: None,
            sync_us,
            slow: false,
            full: false,
            sealed: Vec::new(),
            flipped: None,
        }
    }

    pub(crate) fn claim(&self, node: u64) -> Result<u64, StorageError> {
        if self.full {
            return Err(StorageError::Io("no space left on device".into()));
        }
        self.engine.claim(&Identity { fingerprint: [7; 16], node })
    }

    /// Replaces the disk by an empty one.
    pub(crate) fn replace(&mut self) {
        *self = Disk { slow: self.slow, full: self.full, ..Disk::new(self.sync_us) };
    }

    /// Whether a bit of this disk is flipped, known or not.
    pub(crate) fn is_flipped(&self) -> bool {
        self.flipped.is_some()
    }

    /// Whether anything is queued or under way that concerns this shard.
    pub(crate) fn writes_to(&self, shard: ShardId) -> bool {
        let jobs = self.queue.iter().chain(self.writing.iter().flatten());
        let is_of = |job: &Job| {
            job.write.as_ref().is_some_and(|write| write.shard == shard)
                || matches!(job.then, Then::Persisted { shard: of, .. } if of == shard)
        };
        jobs.into_iter().any(is_of)
    }

    /// Takes all queued jobs if the writer is idle. Returns the duration of the write if one
    /// begins.
    pub(crate) fn start(&mut self, rng: &mut Rng) -> Option<u64> {
        if self.writing.is_some() || self.queue.is_empty() {
            return None;
        }
        let jobs = std::mem::take(&mut self.queue);
        let synced = jobs
            .iter()
            .filter_map(|job| job.write.as_ref())
            .any(|write| write.has_log() || write.reset);
        self.writing = Some(jobs);
        Some(match (synced, self.slow) {
            (false, _) => 30,
            (true, false) => self.sync_us / 2 + rng.around(self.sync_us / 2 + 1),
            (true, true) => rng.range(20_000, 1_500_000),
        })
    }

    /// Completes the batch that was on its way.
    pub(crate) fn finish(&mut self) -> Result<Vec<Job>, StorageError> {
        let mut jobs = self.writing.take().unwrap_or_default();
        if self.full {
            return Err(StorageError::Io("no space left on device".into()));
        }
        let writes: Vec<ShardWrite> = jobs.iter_mut().filter_map(|job| job.write.take()).collect();
        if !writes.is_empty() {
            self.engine.write(&writes)?;
        }
        Ok(jobs)
    }

    /// Ends the process or the machine. The batch on its way to the disk and the in-memory part of
    /// the tables are lost in both cases.
    pub(crate) fn crash(&mut self, rng: &mut Rng) -> CrashLoss {
        self.queue.clear();
        let writing = self.writing.take().unwrap_or_default();
        let writes: Vec<ShardWrite> = writing.into_iter().filter_map(|job| job.write).collect();
        let mut loss = CrashLoss::Nothing;
        match (writes.is_empty(), rng.below(3)) {
            (true, _) => {}
            // A full or failed disk takes nothing, so the batch is lost then.
            (false, 0) if !self.full => {
                let _ = self.engine.write(&writes);
            }
            (false, 1) => loss = CrashLoss::Torn,
            (false, _) => loss = CrashLoss::Unsynced,
        }
        self.engine.crash();
        loss
    }

    /// Flips one bit of a stopped node's data of these shards. Returns `false` if there is no data
    /// yet.
    pub(crate) fn flip_bit(&mut self, rng: &mut Rng, shards: &[ShardId]) -> bool {
        let shard = *rng.pick(shards);
        let Ok(mut found) = self.engine.recover(shard) else { return false };
        self.sealed = vec![(shard, checksum(&found))];
        let entries = found.entries.iter_mut().map(|(_, bytes)| bytes);
        let table = found.table.iter_mut().map(|(_, bytes)| bytes);
        let single = found.hard_state.iter_mut().chain(found.applied.iter_mut());
        let mut values: Vec<&mut Vec<u8>> =
            entries.chain(table).chain(single).filter(|b| !b.is_empty()).collect();
        if values.is_empty() {
            return false;
        }
        let at = rng.below(values.len() as u64) as usize;
        let bit = rng.below(8 * values[at].len() as u64) as usize;
        values[at][bit / 8] ^= 1 << (bit % 8);
        self.flipped = Some((shard, found));
        true
    }

    pub(crate) fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        if let Some((damaged, found)) = &self.flipped
            && *damaged == shard
        {
            let sealed = self.sealed.iter().find(|(of, _)| *of == shard).map(|(_, sum)| *sum);
            if sealed != Some(checksum(found)) {
                return Err(StorageError::Damaged(format!(
                    "shard {shard}: a checksum does not match"
                )));
            }
            return Ok(found.clone());
        }
        self.engine.recover(shard)
    }
}

fn checksum(found: &Recovered) -> u32 {
    let mut sum = 0;
    for (index, bytes) in &found.entries {
        sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, &index.to_le_bytes()), bytes);
    }
    for (key, bytes) in &found.table {
        sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, key), bytes);
    }
    for bytes in found.hard_state.iter().chain(&found.applied) {
        sum = crc32c::crc32c_append(sum, bytes);
    }
    sum
}
