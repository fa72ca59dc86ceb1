//! RocksDB's options, each with its reason.
//!
//! The workload: a lock table written in checkpoints; history that is written once and hardly read; the few log entries that outlive
//! the journal. Reads happen at start. Several nodes may live in one process, so each database stays small in memory.

use crate::StorageError;
use crate::keys::{CF_HISTORY, CF_LOG, CF_META, CF_STATE};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompactionStyle, DBCompressionType, DBRecoveryMode,
    DEFAULT_COLUMN_FAMILY_NAME, LogLevel, MemtableFactory, Options, UniversalCompactOptions,
};

/// All of them.
pub(super) const NAMES: [&str; 5] = [DEFAULT_COLUMN_FAMILY_NAME, CF_LOG, CF_STATE, CF_HISTORY, CF_META];
const MIB: usize = 1 << 20;
/// At a time.
pub(super) const FLUSHES: i32 = 1;
/// At a time: the log's, and those of young history, do not wait for a long one of all history.
pub(super) const MERGES: i32 = 3;
/// History is merged in at least so many files.
const HISTORY_MERGE_FILES: i32 = 8;

/// Of the whole database.
pub(super) fn database() -> Result<Options, StorageError> {
    // `track_and_verify_wals` has no setter in this binding. Each log names its predecessor, so that one whose end was lost,
    // or that is missing, is an error as soon as a later one exists.
    let mut options = Options::default()
        .get_options_from_string("track_and_verify_wals=true")
        .map_err(|error| StorageError::Io(format!("this build's RocksDB does not know an option: {error}")))?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);

    // RocksDB's default here, point-in-time, stops at the first bad record and opens with what came before: acknowledged
    // writes would be gone without a word. `AbsoluteConsistency` refuses any bad record, but a kill or a power loss in the
    // middle of an append leaves a torn one at the end, which is legal to drop, since nobody was told that it is on disk: a
    // node would need re-seeding after an ordinary crash. This mode drops a record that the end of the file cuts off and
    // refuses any other bad one. What it lets through, an end that was cut off or a damaged length near it, the mark
    // (see `mark.rs`) and the check above find.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    // Recycling would leave old records behind the end of a log; it is ignored with this recovery mode anyway.
    options.set_recycle_log_file_num(0);
    // All column families at once, in one piece: what is not in the write-ahead log must not be there in part after a crash.
    options.set_atomic_flush(true);

    // RocksDB makes flushes of a quarter of these, and merges of the others.
    options.set_max_background_jobs(FLUSHES + MERGES);
    options.set_max_open_files(256);
    // Writes to the tables in steps, so that their flush does not stall the log's sync.
    options.set_bytes_per_sync(MIB as u64);
    // One writer at a time; the machinery for many costs and gains nothing.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);

    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(4 * MIB);
    Ok(options)
}

/// All column families; RocksDB refuses a database that has others.
pub(super) fn column_families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(8 * MIB);
    // All nodes have the same to write. With buffers of one size they would also flush at the same moments, and operations wait for
    // a quorum of nodes that are busy with that.
    let spread = rand::random_range(0.75..1.25);
    [(DEFAULT_COLUMN_FAMILY_NAME, 1), (CF_LOG, 4), (CF_STATE, 8), (CF_HISTORY, 16), (CF_META, 1)]
        .map(|(name, buffer_mib)| {
            let mut options = column_family((spread * (buffer_mib * MIB) as f64) as usize, &cache);
            if name == CF_STATE {
                // Little of it stays: denser compression, and merges after every few flushes, would be for what is gone soon.
                options.set_bottommost_compression_type(DBCompressionType::Lz4);
                options.set_level_zero_file_num_compaction_trigger(8);
            }
            if name == CF_HISTORY {
                // Appended to, and sorted when it is flushed (or read, which hardly happens): a third less processor time per
                // record than in a skip list, and history is most of what is put.
                options.set_memtable_factory(MemtableFactory::Vector);
                // By size, not level by level: nothing is merged before twice this many files are there, then at least this many,
                // as long as the next is no larger than one and a half times those before it together. In levels new history was
                // merged into ever more of the old: a fifth of all processor time after a minute of load. The price is room for
                // a second copy, in the worst case, while files merge, and merges that take long.
                let mut merges = UniversalCompactOptions::default();
                merges.set_min_merge_width(HISTORY_MERGE_FILES);
                merges.set_size_ratio(50);
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

fn column_family(write_buffer_bytes: usize, cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_target_file_size_base(16 * MIB as u64);
    options.set_max_bytes_for_level_base(64 * MIB as u64);
    options.set_level_compaction_dynamic_level_bytes(true);
    // Fast where data is young; dense at the bottom, where history spends its days.
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(16 << 10);
    table.set_block_cache(cache);
    options.set_block_based_table_factory(&table);
    options
}
