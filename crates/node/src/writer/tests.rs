//! The log writer against an engine that counts, blocks and fails on demand.

use super::*;
use crossbeam_channel::{Receiver, Sender};
use routing::ShardId;
use std::sync::Mutex;
use storage::{HistoryRecord, Identity, MemoryEngine, Recovered, StorageError};

/// Announces each write, and goes on with it only when told to.
struct Gate {
    inner: MemoryEngine,
    arrived: Sender<usize>,
    go: Receiver<()>,
}

impl Engine for Gate {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        self.inner.claim(identity)
    }
    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError> {
        self.arrived.send(writes.len()).unwrap();
        self.go.recv().unwrap();
        self.inner.write(writes)
    }
    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        self.inner.recover(shard)
    }
    fn history(&self, shard: ShardId, name: &str, limit: usize) -> Result<Vec<HistoryRecord>, StorageError> {
        self.inner.history(shard, name, limit)
    }
    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        self.inner.history_since(shard, after_index, cursor, limit)
    }
    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        self.inner.drop_history_before(shard, day)
    }
    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.node_record(name)
    }
    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        self.inner.put_node_records(records)
    }
}

/// A thread, and by place the numbers that it was told are on disk.
type Reported = (usize, Vec<(usize, u64)>);

struct Fixture {
    writer: LogWriter,
    thread: JoinHandle<()>,
    engine: Arc<Gate>,
    arrived: Receiver<usize>,
    go: Sender<()>,
    reports: Arc<Mutex<Vec<Reported>>>,
    lifecycle: Arc<Lifecycle>,
}

impl Fixture {
    fn new() -> Self {
        let (arrive, arrived) = crossbeam_channel::unbounded();
        let (go, gone) = crossbeam_channel::unbounded();
        let engine = Arc::new(Gate { inner: MemoryEngine::new(), arrived: arrive, go: gone });
        let reports = Arc::new(Mutex::new(Vec::new()));
        let lifecycle = Arc::new(Lifecycle::new());
        let report: Report = {
            let reports = reports.clone();
            Box::new(move |thread, persisted| reports.lock().unwrap().push((thread, persisted)))
        };
        let (writer, thread) =
            LogWriter::start(engine.clone(), 2, report, lifecycle.clone(), crate::testing::metrics()).unwrap();
        Fixture { writer, thread, engine, arrived, go, reports, lifecycle }
    }

    fn queue(&self, thread: usize, index: usize, number: u64) {
        let shard = ShardId(index as u32);
        let write = ShardWrite { shard, entries: vec![(number, vec![1])], ..ShardWrite::default() };
        let done = Done::Replica { thread, index, number };
        self.writer.queue(WriteJob { write: Some(write), done });
    }

    fn end(self) -> Vec<Reported> {
        self.writer.stop();
        self.thread.join().unwrap();
        std::mem::take(&mut self.reports.lock().unwrap())
    }
}

#[test]
fn what_queues_during_a_write_is_one_write() {
    let f = Fixture::new();
    f.queue(0, 0, 1);
    assert_eq!(f.arrived.recv().unwrap(), 1);
    for number in 2..=100 {
        f.queue(0, 0, number);
        f.queue(0, 1, number);
        f.queue(1, 2, number);
    }
    f.go.send(()).unwrap();
    assert_eq!(f.arrived.recv().unwrap(), 297, "all of them");
    assert_eq!(*f.reports.lock().unwrap(), vec![(0, vec![(0, 1)])], "nothing is reported before its write returns");
    f.go.send(()).unwrap();
    let engine = f.engine.clone();
    assert_eq!(f.end(), vec![(0, vec![(0, 1)]), (0, vec![(0, 100), (1, 100)]), (1, vec![(2, 100)])]);
    let numbers: Vec<u64> = engine.recover(ShardId(0)).unwrap().entries.into_iter().map(|(index, _)| index).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>(), "in the order in which they were queued");
}

#[test]
fn a_failed_write_ends_the_node_and_is_not_reported() {
    let f = Fixture::new();
    f.engine.inner.fail_next_write();
    f.queue(0, 0, 1);
    f.arrived.recv().unwrap();
    f.queue(0, 0, 2);
    f.go.send(()).unwrap();
    let (lifecycle, arrived) = (f.lifecycle.clone(), f.arrived.clone());
    assert_eq!(f.end(), vec![]);
    assert!(lifecycle.failed());
    assert!(lifecycle.failure().unwrap().contains("storage failed"), "{:?}", lifecycle.failure());
    assert!(arrived.try_recv().is_err(), "a second write was tried after the first failed");
}

#[tokio::test]
async fn a_barrier_returns_after_all_before_it() {
    let f = Fixture::new();
    f.queue(0, 0, 1);
    f.arrived.recv().unwrap();
    let writer = f.writer.clone();
    let barrier = tokio::spawn(async move { writer.barrier().await });
    f.go.send(()).unwrap();
    barrier.await.unwrap().unwrap();
    assert_eq!(f.end(), vec![(0, vec![(0, 1)])]);
}
