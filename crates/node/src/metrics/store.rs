//! The sizes of the node's store and of its disk.

use super::registrar::Registrar;
use prometheus::{Error, IntGauge};
use storage::Sizes;

/// One gauge for each size.
#[derive(Debug)]
pub(super) struct StoreMetrics {
    journal: IntGauge,
    database: IntGauge,
    memory: IntGauge,
    pending_merges: IntGauge,
    free: IntGauge,
    disk: IntGauge,
}

impl StoreMetrics {
    pub(super) fn new(r: &Registrar) -> Result<StoreMetrics, Error> {
        Ok(StoreMetrics {
            journal: r.gauge(
                "palisade_journal_bytes",
                "Files of the journal, those kept for reuse included.",
            )?,
            database: r.gauge("palisade_database_bytes", "Files of the database (RocksDB).")?,
            memory: r.gauge(
                "palisade_database_memory_bytes",
                "Records in the database's memory that no file has yet.",
            )?,
            pending_merges: r.gauge(
                "palisade_database_pending_merge_bytes",
                "An estimate of what the database's merges have to rewrite.",
            )?,
            free: r.gauge(
                "palisade_disk_free_bytes",
                "Free room on the disk of the data directory.",
            )?,
            disk: r.gauge(
                "palisade_disk_size_bytes",
                "Size of the file system of the data directory.",
            )?,
        })
    }

    pub(super) fn show(&self, sizes: Sizes) {
        for (gauge, bytes) in [
            (&self.journal, sizes.journal_bytes),
            (&self.database, sizes.database_bytes),
            (&self.memory, sizes.memory_bytes),
            (&self.pending_merges, sizes.pending_merge_bytes),
            (&self.free, sizes.free_bytes),
            (&self.disk, sizes.disk_bytes),
        ] {
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}
