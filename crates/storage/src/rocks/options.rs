//! RocksDB's options, each with its reason.
//!
//! The workload has three parts: a lock table written in checkpoints, history that is written once
//! and hardly read, and the few log entries that outlive the journal. Reads happen at start.
//! Several nodes may run in one process, so each database stays small in memory.

use crate::StorageError;
use crate::keys::{CF_HISTORY, CF_LOG, CF_META, CF_STATE};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle,
    DBCompressionType, DBRecoveryMode, DEFAULT_COLUMN_FAMILY_NAME, LogLevel, MemtableFactory,
    Options, UniversalCompactOptions,
};

/// The names of all column families.
pub(super) const NAMES: [&str; 5] =
    [DEFAULT_COLUMN_FAMILY_NAME, CF_LOG, CF_STATE, CF_HISTORY, CF_META];
const MIB: usize = 1 << 20;
/// Flushes that run at a time.
pub(super) const FLUSHES: i32 = 1;
/// Merges that run at a time. With three, merges of the log and of young history do not wait for a
/// long one of all history.
pub(super) const MERGES: i32 = 3;
/// Fewest files that a merge of history takes.
const HISTORY_MERGE_FILES: i32 = 16;
/// Zstandard's level for history that was merged with all other. At its default, 3, merges take a
/// third more time, and history 2 % less room.
const HISTORY_ZSTD_LEVEL: i32 = 1;

/// RocksDB's default.
const ZSTD_WINDOW_BITS: i32 = -14;

/// Options of the whole database.
pub(super) fn database() -> Result<Options, StorageError> {
    // `track_and_verify_wals` has no setter in this binding. With it each log names its
    // predecessor. So a log that is missing, or lost its end, is an error as soon as a later one
    // exists.
    //
    // `avoid_flush_during_shutdown` has none either. The engine flushes when it closes. If a write
    // failed it does not, and then RocksDB must not do so by itself.
    let mut options = Options::default()
        .get_options_from_string("track_and_verify_wals=true;avoid_flush_during_shutdown=true")
        .map_err(|error| {
            StorageError::Io(format!("this build's RocksDB does not know an option: {error}"))
        })?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);

    // The recovery mode decides about a bad record in the write-ahead log:
    //
    // - RocksDB's default, point-in-time, stops at the first bad record and opens with those before
    //   it. Acknowledged writes would be gone without notice.
    // - `AbsoluteConsistency` refuses any bad record. But a kill or a power loss during an append
    //   leaves a torn record at the end. Dropping it is legal, since no one was told that it is on
    //   disk. With this mode a node would need re-seeding after an ordinary crash.
    // - `TolerateCorruptedTailRecords` drops a record that the end of the file cuts off and refuses
    //   any other bad one.
    //
    // The last mode misses an end that was cut off and a damaged length near it. The mark (see
    // `mark.rs`) and the option above find those.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    // Recycled logs would have old records behind their end. This recovery mode ignores the setting
    // anyway.
    options.set_recycle_log_file_num(0);
    // All column families are flushed together. Their contents are not in the write-ahead log, so
    // after a crash they must not be there in part.
    options.set_atomic_flush(true);

    // RocksDB uses a quarter of these for flushes, and the others for merges.
    options.set_max_background_jobs(FLUSHES + MERGES);
    options.set_max_open_files(256);
    // Write tables to the disk in steps, so that a flush does not stall the log's sync.
    options.set_bytes_per_sync(MIB as u64);
    // There is one writer at a time. The machinery for many costs time and gains nothing.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);

    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(4 * MIB);
    Ok(options)
}

/// All column families. RocksDB refuses a database that has others.
pub(super) fn column_families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(8 * MIB);
    // All nodes write the same. With buffers of one size they would flush at the same moments, and
    // operations would wait for a quorum of busy nodes.
    let spread = rand::random_range(0.75..1.25);
    [(DEFAULT_COLUMN_FAMILY_NAME, 1), (CF_LOG, 4), (CF_STATE, 8), (CF_HISTORY, 16), (CF_META, 1)]
        .map(|(name, buffer_mib)| {
            let mut options = column_family((spread * (buffer_mib * MIB) as f64) as usize, &cache);
            if name == CF_STATE {
                // Little of it stays. Denser compression, and merges after every few flushes, would
                // be spent on records that are gone soon.
                options.set_bottommost_compression_type(DBCompressionType::Lz4);
                options.set_level_zero_file_num_compaction_trigger(8);
            }
            if name == CF_HISTORY {
                // A vector is appended to, and sorted when it is flushed or (rarely) read. Where each
                // tenure has a record, that takes a third less processor time per record than a
                // skip list, and history is most of the data.
                options.set_memtable_factory(MemtableFactory::Vector);
                // History is merged by size instead of level by level:
                //
                // - No merge starts before there are twice this many files.
                // - It takes at least this many, and more as long as the next file is at most one
                //   and a half times as large as those before it together.
                //
                // In levels, new history was merged into ever more of the old: that was a fifth of
                // all processor time after a minute of load. The price is long merges and, in the
                // worst case, room for a second copy while files merge.
                let mut merges = UniversalCompactOptions::default();
                merges.set_min_merge_width(HISTORY_MERGE_FILES);
                merges.set_size_ratio(50);
                options.set_bottommost_compression_options(
                    ZSTD_WINDOW_BITS,
                    HISTORY_ZSTD_LEVEL,
                    0,
                    0,
                    true,
                );
                options.set_compaction_style(DBCompactionStyle::Universal);
                options.set_universal_compaction_options(&merges);
                options.set_level_zero_file_num_compaction_trigger(2 * HISTORY_MERGE_FILES);
                options.set_level_zero_slowdown_writes_trigger(8 * HISTORY_MERGE_FILES);
                options.set_level_zero_stop_writes_trigger(16 * HISTORY_MERGE_FILES);
            }
            ColumnFamilyDescriptor::new(name, options)
        })
        .into()
}

/// A column family of an open database.
pub(super) fn cf<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("all column families are opened with the database")
}

fn column_family(write_buffer_bytes: usize, cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_target_file_size_base(16 * MIB as u64);
    options.set_max_bytes_for_level_base(64 * MIB as u64);
    options.set_level_compaction_dynamic_level_bytes(true);
    // Fast compression for young data; dense compression at the bottom, where history spends its
    // days.
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(16 << 10);
    table.set_block_cache(cache);
    options.set_block_based_table_factory(&table);
    options
}
