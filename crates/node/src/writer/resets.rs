//! Snapshots on their way to the disk.
//!
//! A snapshot replaces all data of a shard, and is on disk in one piece only after a flush of the
//! database. The flush takes seconds, and the other shards' writes must not wait for it. So
//! snapshots are written beside the log writer, one at a time.
//!
//! The jobs that the shard queues meanwhile are held back and follow in order. Otherwise a crash
//! between the two writes could leave the shard's new log without the snapshot that it follows.

use super::job::{Done, Message, Work, WriteJob};
use crate::lifecycle::{Lifecycle, PanicGuard};
use crate::mailbox::Sender;
use routing::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use storage::{Engine, ShardWrite};

/// * A shard is in `held` exactly while a snapshot of it is in `waiting` or under way. Its later
///   jobs are there, in order.
/// * `barriers` is empty if `held` is, because a barrier returns after all jobs that were queued
///   before it.
#[derive(Debug, Default)]
pub(super) struct Resets {
    held: BTreeMap<ShardId, VecDeque<WriteJob>>,
    waiting: VecDeque<(ShardWrite, Done)>,
    under_way: Option<ShardId>,
    barriers: Vec<WriteJob>,
}

impl Resets {
    /// Whether no job is held back or under way.
    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes a job that is a snapshot or must wait for one, and returns any other job.
    pub(super) fn divert(&mut self, job: WriteJob) -> Option<WriteJob> {
        let Some(shard) = job.work.shard() else {
            if self.is_idle() {
                return Some(job);
            }
            self.barriers.push(job);
            return None;
        };
        if let Some(held) = self.held.get_mut(&shard) {
            held.push_back(job);
            return None;
        }
        match job {
            WriteJob { work: Work::Write(write), done } if write.reset => {
                self.held.insert(shard, VecDeque::new());
                self.waiting.push_back((write, done));
                None
            }
            job => Some(job),
        }
    }

    /// Begins the next snapshot, if none is under way. Call it when all jobs queued before are
    /// written.
    pub(super) fn go_on(
        &mut self,
        engine: &Arc<dyn Engine>,
        lifecycle: &Arc<Lifecycle>,
        to_writer: impl FnOnce() -> Sender<Message>,
    ) {
        if self.under_way.is_some() {
            return;
        }
        let Some((write, done)) = self.waiting.pop_front() else { return };
        self.under_way = Some(write.shard);
        let (engine, lifecycle, to_writer) = (engine.clone(), lifecycle.clone(), to_writer());
        // It does not give way, because other writes wait while it puts the records into memory.
        let job = {
            let lifecycle = lifecycle.clone();
            move || {
                let _guard = PanicGuard { lifecycle: &lifecycle, thread: "snapshot-writer" };
                let shard = write.shard;
                if let Err(error) = engine.write(&[write]) {
                    lifecycle.fail(error.to_string());
                }
                // The message is sent after a failure too, because the log writer wakes up by it
                // and ends.
                to_writer.send(Message::ResetDone(shard, done));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("snapshot-writer".into()).spawn(job) {
            lifecycle.fail(format!(
                "cannot start a thread: {error}; raise the limit on processes (ulimit -u)"
            ));
        }
    }

    /// Drops the snapshots that have not begun, and all jobs that follow them, because the node
    /// stops. None of these jobs was reported. Each flush of the database takes seconds, and the
    /// end of the process would wait for all of them.
    pub(super) fn stop(&mut self) {
        let mut dropped = !self.waiting.is_empty();
        self.waiting.clear();
        self.held.retain(|shard, _| self.under_way == Some(*shard));
        for jobs in self.held.values_mut() {
            // The shard of the snapshot under way may have been sent another snapshot since.
            if let Some(next) = jobs.iter().position(|job| job.work.is_reset()) {
                jobs.truncate(next);
                dropped = true;
            }
        }
        if dropped {
            // The callers learn that the writer has ended.
            self.barriers.clear();
        }
    }

    /// Returns the next jobs of a shard, in order, once its snapshot is on disk. They go before all
    /// queued jobs.
    pub(super) fn is_done(&mut self, shard: ShardId) -> Vec<WriteJob> {
        self.under_way = None;
        let mut next: Vec<WriteJob> = self.held.remove(&shard).unwrap_or_default().into();
        if self.is_idle() {
            next.append(&mut self.barriers);
        }
        next
    }
}
