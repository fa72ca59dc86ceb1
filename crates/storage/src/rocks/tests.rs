//! Tests that need a certain moment between threads.

use super::*;

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
        store.marked(1, put).expect("writes");
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
