//! The log writer: one thread, the only one that writes to the node's disk while it runs, but for what concerns no replica
//! (retention, and which peers are known).
//!
//! It merges whatever all shards have queued into one [`Engine::write`], so that one sync serves them all, and meanwhile
//! the next batch fills. Snapshots that replace a shard are written beside it ([`resets`]). It promises that jobs are written in the order in which each thread queued them, and that
//! nothing is reported before the write that holds it has returned. A failed write ends the node; it is never tried
//! again.
//!
//! Its queue is bounded by those who fill it: a replica stops at its entries in flight, and a snapshot's task has one
//! job at a time.

mod resets;

use crate::disk::DiskWatch;
use crate::lifecycle::{Lifecycle, PanicGuard};
use crate::limits::{WRITE_BYTES_MAX, WRITE_JOBS_MAX};
use crate::mailbox::{Received, Receiver, Sender, mailbox};
use crate::metrics::Metrics;
use resets::Resets;
use routing::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use storage::{Engine, ShardWrite};
use tokio::sync::oneshot;

/// Something to write, or (without a write) to be told that all before it was written.
#[derive(Debug)]
pub(crate) struct WriteJob {
    pub(crate) write: Option<ShardWrite>,
    pub(crate) done: Done,
}

/// Who is told.
#[derive(Debug)]
pub(crate) enum Done {
    /// The replica at this place of this shard thread.
    Replica {
        thread: usize,
        index: usize,
        number: u64,
    },
    Caller(oneshot::Sender<()>),
}

#[derive(Debug)]
enum Message {
    Job(WriteJob),
    /// A snapshot of this shard is on disk.
    ResetDone(ShardId, Done),
    Stop,
}

/// Tells a shard thread how far its replicas' writes are done: thread, then (place, number).
pub(crate) type Report = Box<dyn Fn(usize, Vec<(usize, u64)>) + Send>;

/// The writer has ended: the node is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the log writer has ended")]
pub(crate) struct WriterEnded;

/// The way to the log writer.
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
        let thread = Thread { receiver, engine, threads, report, lifecycle, metrics, disk, resets };
        let handle = std::thread::Builder::new().name("log-writer".into()).spawn(move || thread.run())?;
        Ok((LogWriter { sender }, handle))
    }

    /// Takes its place behind all that was queued before.
    pub(crate) fn queue(&self, job: WriteJob) {
        // A writer that has ended writes nothing: the node is stopping, and what is not reported is not acknowledged.
        self.sender.send(Message::Job(job));
    }

    /// Writes what follows no log; done when a reader of the engine sees it.
    pub(crate) async fn write(&self, write: ShardWrite) -> Result<(), WriterEnded> {
        self.ask(Some(write)).await
    }

    /// Returns once everything queued before was written.
    pub(crate) async fn barrier(&self) -> Result<(), WriterEnded> {
        self.ask(None).await
    }

    /// Ends the thread once it has written what is queued, but for snapshots that wait for others, and what follows them.
    pub(crate) fn stop(&self) {
        self.sender.send(Message::Stop);
    }

    async fn ask(&self, write: Option<ShardWrite>) -> Result<(), WriterEnded> {
        let (done, written) = oneshot::channel();
        self.queue(WriteJob { write, done: Done::Caller(done) });
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
}

impl Thread {
    fn run(mut self) {
        let lifecycle = self.lifecycle.clone();
        let _guard = PanicGuard { lifecycle: &lifecycle, thread: "log-writer" };
        let mut arrived = Vec::new();
        let mut queue = VecDeque::new();
        let mut writes = Vec::new();
        let mut done = Vec::new();
        let mut go_on = true;
        loop {
            // What is left of a full batch goes first; what came meanwhile joins it.
            let patience = if queue.is_empty() { None } else { Some(Duration::ZERO) };
            if self.receiver.take_all(&mut arrived, patience) == Received::Closed && queue.is_empty() {
                return;
            }
            for message in arrived.drain(..) {
                match message {
                    Message::ResetDone(shard, written) => {
                        done.push(written);
                        let next = self.resets.is_done(shard);
                        next.into_iter().rev().for_each(|job| queue.push_front(Message::Job(job)));
                    }
                    // What was said after the end is not heard.
                    _ if !go_on => {}
                    message => queue.push_back(message),
                }
            }
            if self.lifecycle.failed() {
                return;
            }
            // At once: what a snapshot held back may take a while.
            self.tell(&mut done);
            go_on &= gather(&mut queue, &mut self.resets, &mut writes, &mut done);
            if !writes.is_empty() {
                let began = Instant::now();
                self.disk.log_write_begins();
                let written = self.engine.write(&writes);
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
            self.tell(&mut done);
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
                // Whoever asked may have gone.
                Done::Caller(caller) => drop(caller.send(())),
            }
        }
        for (thread, persisted) in by_thread.into_iter().enumerate() {
            if !persisted.is_empty() {
                (self.report)(thread, persisted.into_iter().collect());
            }
        }
    }
}

/// Takes what is there, within bounds: whether there is more to come after it.
fn gather(
    queue: &mut VecDeque<Message>,
    resets: &mut Resets,
    writes: &mut Vec<ShardWrite>,
    done: &mut Vec<Done>,
) -> bool {
    let mut bytes = 0;
    while done.len() < WRITE_JOBS_MAX && bytes < WRITE_BYTES_MAX {
        match queue.pop_front() {
            Some(Message::Job(job)) => {
                let Some(job) = resets.divert(job) else { continue };
                bytes += job.write.as_ref().map_or(0, size_bytes);
                writes.extend(job.write);
                done.push(job.done);
            }
            Some(Message::Stop) => {
                queue.clear();
                resets.stop();
                return false;
            }
            Some(Message::ResetDone(..)) => unreachable!("taken when it arrived"),
            None => break,
        }
    }
    true
}

/// Roughly.
fn size_bytes(write: &ShardWrite) -> usize {
    let entries: usize = write.entries.iter().map(|(_, bytes)| bytes.len()).sum();
    let table: usize = write.table.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
    let history: usize = write.history.iter().map(|record| record.name.len() + record.tenure.len()).sum();
    entries + table + history
}

#[cfg(test)]
mod tests;
