//! The log writer against an engine that counts, blocks and fails on demand.

use super::*;
use crossbeam_channel::{Receiver, Sender};
use routing::ShardId;
use std::sync::Mutex;
use storage::{HistoryRecord, Identity, Lives, MemoryEngine, Recovered, StorageError};

/// Announces each write, and continues it only when told to.
struct Gate {
    inner: MemoryEngine,
    arrived: Sender<usize>,
    go: Receiver<()>,
    /// The same permission for resets, which come on a thread of their own.
    resets_go: Receiver<()>,
}

/// The number that announces a reset.
const RESET: usize = usize::MAX;

impl Engine for Gate {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        self.inner.claim(identity)
    }
    fn raise_format(&self, format: u32) -> Result<u32, StorageError> {
        self.inner.raise_format(format)
    }
    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError> {
        if writes.iter().any(|write| write.reset) {
            assert_eq!(writes.len(), 1, "a reset is written alone");
            self.arrived.send(RESET).unwrap();
            self.resets_go.recv().unwrap();
        } else {
            self.arrived.send(writes.len()).unwrap();
            self.go.recv().unwrap();
        }
        self.inner.write(writes)
    }
    fn host_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.inner.host_shard(shard, birth)
    }
    fn drop_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.inner.drop_shard(shard, birth)
    }
    fn lives(&self) -> BTreeMap<ShardId, Lives> {
        self.inner.lives()
    }
    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        self.inner.recover(shard)
    }
    fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError> {
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
    fn last_record(&self) -> u64 {
        self.inner.last_record()
    }
    fn born(&self) -> Option<u128> {
        self.inner.born()
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
    reset_goes: Sender<()>,
    reports: Arc<Mutex<Vec<Reported>>>,
    lifecycle: Arc<Lifecycle>,
}

impl Fixture {
    fn new() -> Self {
        let (arrive, arrived) = crossbeam_channel::unbounded();
        let (go, gone) = crossbeam_channel::unbounded();
        let (reset_goes, resets_go) = crossbeam_channel::unbounded();
        let engine =
            Arc::new(Gate { inner: MemoryEngine::new(), arrived: arrive, go: gone, resets_go });
        let reports = Arc::new(Mutex::new(Vec::new()));
        let lifecycle = Arc::new(Lifecycle::new());
        let report: Report = {
            let reports = reports.clone();
            Box::new(move |thread, persisted| reports.lock().unwrap().push((thread, persisted)))
        };
        let (writer, thread) = LogWriter::start(
            engine.clone(),
            2,
            report,
            lifecycle.clone(),
            crate::testing::metrics(),
            crate::testing::disk(),
        )
        .unwrap();
        Fixture { writer, thread, engine, arrived, go, reset_goes, reports, lifecycle }
    }

    fn queue(&self, thread: usize, index: usize, number: u64) {
        let shard = ShardId(index as u32);
        let write = ShardWrite { shard, entries: vec![(number, vec![1])], ..ShardWrite::default() };
        let done = Done::Replica { thread, index, number };
        self.writer.queue(WriteJob { work: Work::Write(write), done });
    }

    fn queue_reset(&self, index: usize, number: u64) {
        let write = ShardWrite {
            shard: ShardId(index as u32),
            reset: true,
            hard_state: Some(vec![number as u8]),
            ..ShardWrite::default()
        };
        self.writer.queue(WriteJob {
            work: Work::Write(write),
            done: Done::Replica { thread: 0, index, number },
        });
    }

    fn reported(&self) -> Vec<Reported> {
        std::mem::take(&mut self.reports.lock().unwrap())
    }

    /// Expects the next write under this number; the write is done when this returns.
    fn writes(&self, announced: usize) {
        assert_eq!(self.arrived.recv().unwrap(), announced);
        self.go.send(()).unwrap();
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
    assert_eq!(
        *f.reports.lock().unwrap(),
        vec![(0, vec![(0, 1)])],
        "nothing is reported before its write returns"
    );
    f.go.send(()).unwrap();
    let engine = f.engine.clone();
    assert_eq!(
        f.end(),
        vec![(0, vec![(0, 1)]), (0, vec![(0, 100), (1, 100)]), (1, vec![(2, 100)])]
    );
    let numbers: Vec<u64> =
        engine.recover(ShardId(0)).unwrap().entries.into_iter().map(|(index, _)| index).collect();
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
    assert!(
        lifecycle.failure().unwrap().to_string().contains("storage failed"),
        "{:?}",
        lifecycle.failure()
    );
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

/// A snapshot is on disk after a flush of the database. The log writer did that flush itself, and
/// all shards of the node waited.
#[test]
fn a_snapshot_on_its_way_to_the_disk_holds_back_its_own_shard_only() {
    let f = Fixture::new();
    f.queue_reset(0, 1);
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    f.queue(0, 0, 2); // a job of the same shard follows the snapshot
    f.queue(0, 1, 1);
    f.writes(1);
    f.queue(0, 1, 2);
    f.writes(1);
    f.queue(0, 1, 3);
    assert_eq!(f.arrived.recv().unwrap(), 1, "and again: the snapshot is still on its way");
    let reported = f.reported();
    assert!(
        reported.iter().flat_map(|(_, persisted)| persisted).all(|(index, _)| *index == 1),
        "{reported:?}"
    );
    f.go.send(()).unwrap();
    f.reset_goes.send(()).unwrap();
    f.writes(1);
    let engine = f.engine.clone();
    let last =
        f.end().into_iter().flat_map(|(_, persisted)| persisted).filter(|(index, _)| *index == 0);
    assert_eq!(
        last.collect::<Vec<_>>(),
        [(0, 1), (0, 2)],
        "first the snapshot, then what followed it"
    );
    let found = engine.recover(ShardId(0)).unwrap();
    assert_eq!((found.entries, found.hard_state), (vec![(2, vec![1])], Some(vec![1])));
}

#[test]
fn what_is_queued_before_a_snapshot_is_written_before_it() {
    let f = Fixture::new();
    f.queue(0, 1, 1);
    assert_eq!(f.arrived.recv().unwrap(), 1);
    f.queue(0, 0, 1);
    f.queue_reset(0, 2);
    f.queue_reset(1, 2);
    f.go.send(()).unwrap();
    f.writes(1);
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    assert!(f.arrived.try_recv().is_err(), "one at a time");
    f.reset_goes.send(()).unwrap();
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    f.reset_goes.send(()).unwrap();
    let engine = f.engine.clone();
    f.end();
    assert_eq!(engine.recover(ShardId(0)).unwrap().hard_state, Some(vec![2]));
    assert_eq!(
        engine.recover(ShardId(0)).unwrap().entries,
        [],
        "the snapshot came later, and wiped it"
    );
}

#[tokio::test]
async fn a_barrier_waits_for_a_snapshot_and_what_it_held_back() {
    let f = Fixture::new();
    f.queue_reset(0, 1);
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    f.queue(0, 0, 2);
    let writer = f.writer.clone();
    let mut barrier = Box::pin(writer.barrier());
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut barrier).await.is_err());
    f.queue(0, 1, 1);
    f.writes(1);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut barrier).await.is_err());
    f.reset_goes.send(()).unwrap();
    f.writes(1);
    barrier.await.unwrap();
    f.end();
}

#[test]
fn a_writer_that_is_told_to_end_ends_after_the_snapshot_under_way() {
    let f = Fixture::new();
    f.queue_reset(0, 1);
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    f.queue(0, 0, 2);
    f.writer.stop();
    f.queue(0, 1, 9); // queued after the end, so not written
    f.reset_goes.send(()).unwrap();
    f.writes(1);
    let engine = f.engine.clone();
    let reported: Vec<_> = f.end().into_iter().flat_map(|(_, persisted)| persisted).collect();
    assert_eq!(reported, [(0, 1), (0, 2)]);
    assert_eq!(engine.recover(ShardId(1)).unwrap().entries, []);
}

/// Each snapshot takes a flush of the database. A node with many shards that was told to end seemed
/// to have a disk that hangs.
#[tokio::test]
async fn a_writer_that_is_told_to_end_begins_no_further_snapshot() {
    let f = Fixture::new();
    f.queue_reset(0, 1);
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    f.queue_reset(1, 1);
    f.queue(0, 1, 2); // follows the second
    f.queue(0, 0, 2); // follows the first
    let writer = f.writer.clone();
    let mut barrier = Box::pin(writer.barrier());
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut barrier).await.is_err());
    f.queue(0, 2, 1);
    f.writes(1);
    f.writer.stop();
    // All gates stand open from here on.
    (0..2).for_each(|_| f.reset_goes.send(()).unwrap());
    (0..3).for_each(|_| f.go.send(()).unwrap());
    let (engine, arrived) = (f.engine.clone(), f.arrived.clone());
    let reported: Vec<_> = f.end().into_iter().flat_map(|(_, persisted)| persisted).collect();
    assert_eq!(reported, [(2, 1), (0, 1), (0, 2)], "what was begun, and what follows it");
    assert_eq!(
        arrived.try_iter().collect::<Vec<_>>(),
        [1],
        "what follows the first snapshot, and no other one"
    );
    assert_eq!(engine.recover(ShardId(1)).unwrap(), Recovered::default());
    assert!(barrier.await.is_err(), "not all before it was written");
}

/// The second snapshot of the shard was held back behind the first. It was begun once the first was
/// done, though the writer had been told to end.
#[tokio::test]
async fn a_writer_that_is_told_to_end_begins_no_second_snapshot_of_a_shard() {
    let f = Fixture::new();
    f.queue_reset(0, 1);
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    f.queue(0, 0, 2); // follows the first
    f.queue_reset(0, 3);
    f.queue(0, 0, 4); // follows the second
    let writer = f.writer.clone();
    let mut barrier = Box::pin(writer.barrier());
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut barrier).await.is_err());
    f.queue(0, 2, 1);
    f.writes(1);
    f.writer.stop();
    // All gates stand open from here on.
    (0..2).for_each(|_| f.reset_goes.send(()).unwrap());
    (0..3).for_each(|_| f.go.send(()).unwrap());
    let (engine, arrived) = (f.engine.clone(), f.arrived.clone());
    let reported: Vec<_> = f.end().into_iter().flat_map(|(_, persisted)| persisted).collect();
    assert_eq!(reported, [(2, 1), (0, 1), (0, 2)], "the first one, and what follows it");
    assert_eq!(arrived.try_iter().collect::<Vec<_>>(), [1], "no second snapshot is begun");
    let found = engine.recover(ShardId(0)).unwrap();
    assert_eq!((found.entries, found.hard_state), (vec![(2, vec![1])], Some(vec![1])));
    assert!(barrier.await.is_err(), "not all before it was written");
}

#[test]
fn a_snapshot_that_fails_ends_the_node() {
    let f = Fixture::new();
    f.engine.inner.fail_next_write();
    f.queue_reset(0, 1);
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    f.reset_goes.send(()).unwrap();
    let lifecycle = f.lifecycle.clone();
    f.thread.join().unwrap();
    assert!(lifecycle.failure().unwrap().to_string().contains("storage failed"));
    assert_eq!(*f.reports.lock().unwrap(), []);
}

/// What is left in the queue of a replica that was destroyed must not become data of the next one:
/// the engine would panic on it, or take it.
#[tokio::test]
async fn a_replica_is_destroyed_after_its_writes_and_nothing_is_added_after_that() {
    let f = Fixture::new();
    f.engine.host_shard(ShardId(0), 7).unwrap();
    f.queue(0, 0, 1);
    assert_eq!(f.arrived.recv().unwrap(), 1);
    f.queue(0, 0, 2);
    let writer = f.writer.clone();
    let ended = writer.destroy(ShardId(0), 7);
    let record = HistoryRecord { name: "late".into(), ..HistoryRecord::default() };
    let history = || ShardWrite { received: vec![record.clone()], ..ShardWrite::default() };
    let late = writer.add(7, history());
    tokio::pin!(ended, late);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut ended).await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut late).await.is_err());
    f.go.send(()).unwrap();
    f.writes(1);
    f.go.send(()).unwrap(); // for the next write, whichever that is
    ended.await.unwrap();
    late.await.unwrap();
    let gone = Lives { hosted: None, destroyed: Some(7) };
    assert_eq!(f.engine.lives()[&ShardId(0)], gone);
    assert_eq!(f.engine.recover(ShardId(0)).unwrap(), Recovered::default());
    assert!(f.arrived.try_recv().is_err(), "the late record was written");

    f.engine.host_shard(ShardId(0), 8).unwrap();
    f.writer.add(8, history()).await.unwrap();
    assert_eq!(f.engine.history(ShardId(0), "late", 9).unwrap(), [record]);
    let reported: Vec<_> = f.end().into_iter().flat_map(|(_, persisted)| persisted).collect();
    assert_eq!(reported, [(0, 1), (0, 2)], "the writes before the end were reported");
}

#[tokio::test]
async fn a_replica_whose_snapshot_is_on_its_way_to_the_disk_is_destroyed_after_that() {
    let f = Fixture::new();
    f.engine.host_shard(ShardId(0), 7).unwrap();
    f.queue_reset(0, 1);
    assert_eq!(f.arrived.recv().unwrap(), RESET);
    let writer = f.writer.clone();
    let ended = writer.destroy(ShardId(0), 7);
    tokio::pin!(ended);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut ended).await.is_err());
    f.queue(0, 1, 1);
    f.writes(1);
    assert_eq!(f.engine.lives()[&ShardId(0)].hosted, Some(7));
    f.reset_goes.send(()).unwrap();
    ended.await.unwrap();
    assert_eq!(f.engine.recover(ShardId(0)).unwrap(), Recovered::default());
    f.end();
}
