//! The jobs of the log writer, and the messages that bring them. The module knows nothing of the
//! threads that write.

use routing::ShardId;
use storage::ShardWrite;
use tokio::sync::oneshot;

/// A job for the disk, and the party that is told when it is done.
#[derive(Debug)]
pub(crate) struct WriteJob {
    pub(crate) work: Work,
    pub(crate) done: Done,
}

/// The work of one job.
#[derive(Debug)]
pub(crate) enum Work {
    /// Nothing: the job only asks to be told that all earlier jobs were written.
    Barrier,
    /// A write of a replica.
    Write(ShardWrite),
    /// Data that follow no log, for the replica with this birth. They are dropped if that replica
    /// has been destroyed, because the next one would take them for its own.
    Add { birth: u32, write: ShardWrite },
    /// The replica with this birth has ended: destroy its data, and put its tombstone.
    Destroy { shard: ShardId, birth: u32 },
}

impl Work {
    /// The shard whose earlier jobs come first. A barrier has none: it waits for all.
    pub(super) fn shard(&self) -> Option<ShardId> {
        match self {
            Work::Barrier => None,
            Work::Write(write) | Work::Add { write, .. } => Some(write.shard),
            Work::Destroy { shard, .. } => Some(*shard),
        }
    }

    /// Whether this is a snapshot, which replaces all data of its shard.
    pub(super) fn is_reset(&self) -> bool {
        matches!(self, Work::Write(write) if write.reset)
    }
}

/// The party that is told when a job is done.
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
pub(super) enum Message {
    Job(WriteJob),
    /// A snapshot of this shard is on disk.
    ResetDone(ShardId, Done),
    Stop,
}
