//! Tests that need a certain moment between threads.

use super::*;
use rocksdb::WriteOptions;

/// A directory as a kill leaves it: records that were only in memory are gone.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("temporary directory");
    let copied =
        std::process::Command::new("cp").arg("-a").arg(dir.join(".")).arg(copy.path()).status();
    assert!(copied.expect("cp runs").success());
    copy
}

/// Regression: after a kill, the node refused its store. A reset puts its records without the
/// writer's lock, and they are in no write-ahead log. If they came between a node's record and the
/// reading of RocksDB's last number, the mark counted them as records of that log.
#[test]
fn records_of_a_reset_are_not_marked_as_written_to_the_write_ahead_log() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = RocksEngine::open(dir.path()).expect("a new store");
    let store = &engine.store;
    let key = keys::node_record(b"name");
    let put = |with_reset: bool| {
        let mut reset = WriteBatch::default();
        for record in 0..100u8 {
            reset.put_cf(
                store.cf(keys::CF_STATE),
                keys::table(ShardId(0), &[record]),
                b"in memory",
            );
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let put = || {
            let put = store.db.put_cf_opt(
                store.cf(keys::CF_META),
                &key,
                keys::seal(&key, &[1]),
                &options,
            );
            put?;
            if with_reset { put_in_memory(&store.db, reset) } else { Ok(()) }
        };
        store.change(|writer| store.marked(writer, 1, put)).expect("writes");
    };
    put(true);
    let copy = killed(dir.path());
    let found = RocksEngine::open(copy.path()).expect("a store whose process was killed");
    assert_eq!(found.node_record(b"name").expect("reads"), Some(vec![1]));
    put(false);
    let copy = killed(dir.path());
    // The mark still detects a write-ahead log that lost its end.
    let log = std::fs::read_dir(copy.path().join(DB_DIR))
        .expect("a directory")
        .map(|file| file.expect("a file").path());
    let log = log
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .max()
        .expect("a log");
    let bytes = log.metadata().expect("its size").len();
    let log = std::fs::File::options().write(true).open(log).expect("opens");
    log.set_len(bytes - 1).expect("cuts");
    let refused = RocksEngine::open(copy.path()).expect_err("the last record is gone").to_string();
    assert!(refused.contains("write-ahead log ends"), "{refused}");
}

/// Regression: beside another flush, a flush returned before its records were on disk. Files of the
/// journal were then used again while the database still needed them.
#[test]
fn a_flush_beside_others_returns_only_once_its_records_are_on_disk() {
    const ROUNDS: u64 = 30;
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = RocksEngine::open(dir.path()).expect("a new store");
    let store = &engine.store;
    let put = |family: &str, key: &[u8], value: u64| {
        let mut batch = WriteBatch::default();
        batch.put_cf(store.cf(family), key, value.to_le_bytes());
        put_in_memory(&store.db, batch).expect("writes");
    };
    for name in options::NAMES {
        // A merge could delete files while a view opens them.
        let without_merges = [
            ("disable_auto_compactions", "true"),
            ("level0_slowdown_writes_trigger", "100000"),
            ("level0_stop_writes_trigger", "100000"),
        ];
        store.db.set_options_cf(store.cf(name), &without_merges).expect("options");
    }
    /// Ends the other thread, also if a check panics.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        // Another thread puts records into one family at a time, so that the memory tables of the
        // families have different numbers.
        scope.spawn(|| {
            let families = [keys::CF_LOG, keys::CF_STATE, keys::CF_HISTORY, keys::CF_META];
            for round in (0u64..).take_while(|_| !over.load(Ordering::Relaxed)) {
                put(families[(round % 4) as usize], &[1], round);
                store.flush().expect("flushes");
                std::thread::sleep(Duration::from_millis(2)); // the lock is not fair
            }
        });
        for round in 1..=ROUNDS {
            put(keys::CF_META, &[2], round);
            store.flush().expect("flushes");
            // This view shows the records on disk, because they are in no log.
            let path = dir.path().join(DB_DIR);
            let options = rocksdb::Options::default();
            let view = rocksdb::DB::open_cf_for_read_only(&options, path, options::NAMES, false)
                .expect("a view");
            let family = view.cf_handle(keys::CF_META).expect("a family");
            let found = view.get_cf(family, [2]).expect("reads");
            assert_eq!(found, Some(round.to_le_bytes().to_vec()), "round {round}");
        }
    });
}
