//! The log writer: the only thread that writes to the node's disk while it runs. Exceptions are
//! retention and the records of known peers, which concern no replica, and the birth of a replica,
//! which comes before all its writes.
//!
//! The writer merges the queued jobs of all shards into one [`Engine::write`], so that one sync
//! serves them all. Meanwhile the next batch fills. Snapshots that replace a shard are written
//! beside the log writer ([`resets`]).
//!
//! The writer promises that the jobs of each thread are written in the order in which it queued
//! them. It reports no job before the write that holds it has returned. A failed write ends the
//! node, and is never tried again. A replica's data are destroyed after all its writes, and nothing
//! is added to them after that.
//!
//! The senders bound the queue: a replica stops at its entries in flight, and a snapshot's task has
//! one job at a time.

mod job;
mod resets;

pub(crate) use job::{Done, Work, WriteJob};

use crate::disk::DiskWatch;
use crate::lifecycle::{Lifecycle, PanicGuard};
use crate::limits::{WRITE_BYTES_MAX, WRITE_JOBS_MAX};
use crate::mailbox::{Received, Receiver, Sender, mailbox};
use crate::metrics::Metrics;
use job::Message;
use resets::Resets;
use routing::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use storage::{Engine, ShardWrite};
use tokio::sync::oneshot;

/// Tells a shard thread how far its replicas' writes are done: thread, then (place, number).
pub(crate) type Report = Box<dyn Fn(usize, Vec<(usize, u64)>) + Send>;

/// The writer has ended, because the node is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the log writer has ended")]
pub(crate) struct WriterEnded;

/// A handle to the log writer.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    sender: Sender<Message>,
}

impl LogWriter {
    /// Starts the thread for a node with `threads` shard threads.
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        threads: usize,
        report: Report,
        lifecycle: Arc<Lifecycle>,
        metrics: Arc<Metrics>,
        disk: Arc<DiskWatch>,
    ) -> std::io::Result<(LogWriter, JoinHandle<()>)> {
        let (sender, receiver) = mailbox();
        let resets = Resets::default();
        let destroyed = BTreeMap::new();
        let thread = Thread {
            receiver,
            engine,
            threads,
            report,
            lifecycle,
            metrics,
            disk,
            resets,
            destroyed,
        };
        let handle =
            std::thread::Builder::new().name("log-writer".into()).spawn(move || thread.run())?;
        Ok((LogWriter { sender }, handle))
    }

    /// Queues the job behind all earlier ones.
    pub(crate) fn queue(&self, job: WriteJob) {
        // A writer that has ended writes nothing. The node is stopping then, and an unreported
        // write is not acknowledged.
        self.sender.send(Message::Job(job));
    }

    /// Writes data that follow no log, for the replica with this birth: see [`Work::Add`]. It
    /// returns when a reader of the engine sees the data.
    pub(crate) async fn add(&self, birth: u32, write: ShardWrite) -> Result<(), WriterEnded> {
        self.ask(Work::Add { birth, write }).await
    }

    /// Destroys the data of a replica that takes no steps any more, after all its writes. It returns
    /// when the tombstone is on disk.
    pub(crate) async fn destroy(&self, shard: ShardId, birth: u32) -> Result<(), WriterEnded> {
        self.ask(Work::Destroy { shard, birth }).await
    }

    /// Returns once all earlier jobs were written.
    pub(crate) async fn barrier(&self) -> Result<(), WriterEnded> {
        self.ask(Work::Barrier).await
    }

    /// Ends the thread once it has written the queued jobs. Snapshots that wait for other snapshots
    /// are dropped, and so are the jobs behind them.
    pub(crate) fn stop(&self) {
        self.sender.send(Message::Stop);
    }

    async fn ask(&self, work: Work) -> Result<(), WriterEnded> {
        let (done, written) = oneshot::channel();
        self.queue(WriteJob { work, done: Done::Caller(done) });
        written.await.map_err(|_| WriterEnded)
    }
}

struct Thread {
    receiver: Receiver<Message>,
    engine: Arc<dyn Engine>,
    threads: usize,
    report: Report,
    lifecycle: Arc<Lifecycle>,
    metrics: Arc<Metrics>,
    disk: Arc<DiskWatch>,
    resets: Resets,
    /// The birth of the last replica of each shard that was destroyed in this run.
    destroyed: BTreeMap<ShardId, u32>,
}

/// The jobs of one write, and the replica to destroy after it.
#[derive(Default)]
struct Batch {
    writes: Vec<ShardWrite>,
    done: Vec<Done>,
    destroys: Option<(ShardId, u32, Done)>,
}

impl Thread {
    fn run(mut self) {
        let lifecycle = self.lifecycle.clone();
        let _guard = PanicGuard { lifecycle: &lifecycle, thread: "log-writer" };
        let mut arrived = Vec::new();
        let mut queue = VecDeque::new();
        let mut batch = Batch::default();
        let mut go_on = true;
        loop {
            // The rest of a full batch goes first. The jobs that arrived meanwhile join it.
            let patience = if queue.is_empty() { None } else { Some(Duration::ZERO) };
            if self.receiver.take_all(&mut arrived, patience) == Received::Closed
                && queue.is_empty()
            {
                return;
            }
            for message in arrived.drain(..) {
                match message {
                    Message::ResetDone(shard, written) => {
                        batch.done.push(written);
                        let next = self.resets.is_done(shard);
                        next.into_iter().rev().for_each(|job| queue.push_front(Message::Job(job)));
                    }
                    // Messages after the end are ignored.
                    _ if !go_on => {}
                    message => queue.push_back(message),
                }
            }
            if self.lifecycle.failed() {
                return;
            }
            // Reports at once, because the jobs that a snapshot held back may take a while.
            self.tell(&mut batch.done);
            go_on &= self.gather(&mut queue, &mut batch);
            let writes = &mut batch.writes;
            if !writes.is_empty() {
                let began = Instant::now();
                self.disk.log_write_begins();
                let written = self.engine.write(writes);
                let took = began.elapsed();
                let synced = writes.iter().any(ShardWrite::has_log);
                self.disk.log_write_ended(synced, took);
                if let Err(error) = written {
                    self.lifecycle.fail(error.to_string());
                    return;
                }
                let entries = writes.iter().map(|write| write.entries.len()).sum();
                self.metrics.wrote(synced, took, entries, writes.len());
                writes.clear();
            }
            self.tell(&mut batch.done);
            if let Some((shard, birth, done)) = batch.destroys.take() {
                if let Err(error) = self.engine.drop_shard(shard, birth) {
                    self.lifecycle.fail(error.to_string());
                    return;
                }
                self.destroyed.insert(shard, birth);
                self.tell(&mut vec![done]);
            }
            self.resets.go_on(&self.engine, &self.lifecycle, || self.receiver.sender());
            if !go_on && queue.is_empty() && self.resets.is_idle() {
                return;
            }
        }
    }

    /// Reports each replica's highest number, one message per thread.
    fn tell(&self, done: &mut Vec<Done>) {
        let mut by_thread: Vec<BTreeMap<usize, u64>> = vec![BTreeMap::new(); self.threads];
        for done in done.drain(..) {
            match done {
                Done::Replica { thread, index, number } => {
                    let highest = by_thread[thread].entry(index).or_default();
                    *highest = number.max(*highest);
                }
                // The caller may have gone.
                Done::Caller(caller) => drop(caller.send(())),
            }
        }
        for (thread, persisted) in by_thread.into_iter().enumerate() {
            if !persisted.is_empty() {
                (self.report)(thread, persisted.into_iter().collect());
            }
        }
    }

    /// Takes the queued jobs, within bounds. Returns whether more may follow.
    fn gather(&mut self, queue: &mut VecDeque<Message>, batch: &mut Batch) -> bool {
        let mut bytes = 0;
        while batch.done.len() < WRITE_JOBS_MAX && bytes < WRITE_BYTES_MAX {
            match queue.pop_front() {
                Some(Message::Job(job)) => {
                    let Some(WriteJob { work, done }) = self.resets.divert(job) else { continue };
                    match work {
                        Work::Write(write) => {
                            bytes += size_bytes(&write);
                            batch.writes.push(write);
                        }
                        Work::Add { birth, write } => {
                            if self.destroyed.get(&write.shard).is_none_or(|last| *last < birth) {
                                bytes += size_bytes(&write);
                                batch.writes.push(write);
                            }
                        }
                        // The writes that were queued before it go first.
                        Work::Destroy { shard, birth } => {
                            batch.destroys = Some((shard, birth, done));
                            return true;
                        }
                        Work::Barrier => {}
                    }
                    batch.done.push(done);
                }
                Some(Message::Stop) => {
                    queue.clear();
                    self.resets.stop();
                    return false;
                }
                Some(Message::ResetDone(..)) => unreachable!("taken when it arrived"),
                None => break,
            }
        }
        true
    }
}

/// The rough size of a write.
fn size_bytes(write: &ShardWrite) -> usize {
    let entries: usize = write.entries.iter().map(|(_, bytes)| bytes.len()).sum();
    let table: usize =
        write.table.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
    let history = write.history.iter().chain(&write.received);
    let history: usize = history.map(|record| record.name.len() + record.tenure.len()).sum();
    entries + table + history
}

#[cfg(test)]
mod tests;
