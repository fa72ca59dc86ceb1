//! A store that a case can close and open again, and what the cases write to it and read of it.

use palisade_storage::*;
use routing::ShardId;

pub const A: ShardId = ShardId(0);
pub const B: ShardId = ShardId(1);

/// An engine and the place where it keeps its bytes.
pub trait Store {
    fn new() -> Self;
    fn engine(&self) -> &dyn Engine;
    /// Closes the engine and opens it again.
    fn reopen(&mut self);
    /// Kills the engine and opens it again. Only what is promised to be on disk is sure to be there.
    fn crash(&mut self);
}

pub struct Memory(MemoryEngine);

impl Store for Memory {
    fn new() -> Self {
        Memory(MemoryEngine::new())
    }
    fn engine(&self) -> &dyn Engine {
        &self.0
    }
    fn reopen(&mut self) {
        self.0.flush();
        self.0.crash();
    }
    fn crash(&mut self) {
        self.0.crash();
    }
}

pub struct Rocks {
    engine: Option<RocksEngine>,
    dir: tempfile::TempDir,
}

impl Store for Rocks {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        // So small that logs outlive their segments.
        Rocks {
            engine: Some(RocksEngine::open_with_segments(dir.path(), 2048).expect("a new store")),
            dir,
        }
    }
    fn engine(&self) -> &dyn Engine {
        self.engine.as_ref().expect("open")
    }
    fn reopen(&mut self) {
        self.engine = None;
        self.engine =
            Some(RocksEngine::open_with_segments(self.dir.path(), 2048).expect("the same store"));
    }
    fn crash(&mut self) {
        self.engine.take().expect("open").crash();
        self.reopen();
    }
}

/// [`Rocks`] with history in rows of many tenures.
pub struct Rows(Rocks);

impl Store for Rows {
    fn new() -> Self {
        let store = Rocks::new();
        store.engine().claim(&Identity { fingerprint: [7; 16], node: 3 }).expect("claim");
        store.engine().raise_format(*FORMATS.end()).expect("raise");
        Rows(store)
    }
    fn engine(&self) -> &dyn Engine {
        self.0.engine()
    }
    fn reopen(&mut self) {
        self.0.reopen();
    }
    fn crash(&mut self) {
        self.0.crash();
    }
}

pub fn entries(range: std::ops::RangeInclusive<u64>, what: &str) -> Vec<(u64, Vec<u8>)> {
    range.map(|index| (index, format!("{what} {index}").into_bytes())).collect()
}

pub fn write(store: &impl Store, write: ShardWrite) {
    store.engine().write(&[write]).expect("write");
}

/// Recovers a shard. Its table, read alone, must be the same.
pub fn recover(store: &impl Store, shard: ShardId) -> Recovered {
    let found = store.engine().recover(shard).expect("recover");
    let Recovered { applied, table, .. } = found.clone();
    let mut alone = Vec::new();
    let mut each = |key: &[u8], value: &[u8]| alone.push((key.to_vec(), value.to_vec()));
    assert_eq!(store.engine().table(shard, &mut each).expect("the table"), applied);
    assert_eq!(alone, table);
    found
}

pub fn tenure(day: u32, name: &str, token: u64, index: u64) -> HistoryRecord {
    HistoryRecord {
        day,
        name: name.into(),
        token,
        index,
        tenure: format!("{name} {token}").into_bytes(),
    }
}

pub fn history(store: &impl Store, name: &str, limit: usize) -> Vec<u64> {
    store
        .engine()
        .history(A, name, limit)
        .expect("history")
        .iter()
        .map(|record| record.token)
        .collect()
}
