//! The jobs of the log writer, and the messages that bring them. The module knows nothing of the
//! threads that write.

use routing::ShardId;
use storage::ShardWrite;
use tokio::sync::oneshot;

/// A job for the disk. Without a write, it only asks to be told that all earlier jobs were written.
#[derive(Debug)]
pub(crate) struct WriteJob {
    pub(crate) write: Option<ShardWrite>,
    pub(crate) done: Done,
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
