//! How much the store takes on its disk, and how much is left there.

use super::options;
use super::room;
use crate::engine::Sizes;
use crate::keys;
use rocksdb::DB;
use std::path::Path;

/// Reads the sizes. A file that goes while this looks counts as empty.
pub(super) fn sizes(db: &DB, dir: &Path, journal: &Path, database: &Path) -> Sizes {
    let (free_bytes, disk_bytes, read_only) = room::room_of(dir).unwrap_or_default();
    Sizes {
        journal_bytes: files_bytes(journal),
        database_bytes: files_bytes(database),
        memory_bytes: summed(db, "rocksdb.cur-size-all-mem-tables"),
        pending_merge_bytes: summed(db, "rocksdb.estimate-pending-compaction-bytes"),
        free_bytes,
        disk_bytes,
        read_only,
    }
}

/// The bytes of all files in a directory.
fn files_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(|of| of.is_file()).map(|of| of.len()).sum()
}

/// A figure of RocksDB, summed over the column families.
fn summed(db: &DB, property: &str) -> u64 {
    let of = |name| db.property_int_value_cf(options::cf(db, name), property).ok().flatten();
    [keys::CF_LOG, keys::CF_STATE, keys::CF_HISTORY, keys::CF_META].into_iter().filter_map(of).sum()
}
