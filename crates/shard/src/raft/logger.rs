//! A logger for raft-rs, which logs through slog: hands its warnings and errors on to `tracing`.

use routing::{NodeId, ShardId};
use slog::{Drain, Level, Logger, OwnedKVList, Record, o};

/// Hands slog records to `tracing`, with the replica that they belong to.
struct ToTracing {
    shard: ShardId,
    node: NodeId,
}

impl Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        let (shard, node, message) = (self.shard.0, self.node.0, record.msg());
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "raft", shard, node, "{message}")
            }
            Level::Warning => tracing::warn!(target: "raft", shard, node, "{message}"),
            _ => tracing::debug!(target: "raft", shard, node, "{message}"),
        }
        Ok(())
    }
}

/// A logger for one replica. Debug records of raft-rs, several per message, are dropped before they
/// are formatted.
pub(crate) fn logger(shard: ShardId, node: NodeId) -> Logger {
    Logger::root(slog::LevelFilter::new(ToTracing { shard, node }, Level::Info).fuse(), o!())
}
