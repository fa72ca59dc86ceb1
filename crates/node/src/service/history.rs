//! The part of a history answer that is on disk, read apart from the tokio workers.

use crate::context::Context;
use crate::host::Seat;
use locks::{Grant, Tenure};
use routing::ShardId;
use std::sync::Arc;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::v1::{Error, ErrorCode};

/// Completes a history answer with the records on disk. `current` and `recent` are the records in
/// the replica's memory, read before this call.
pub(super) async fn complete(
    context: Arc<Context>,
    (shard, seat): (ShardId, Seat),
    name: String,
    limit: usize,
    current: Vec<Grant>,
    recent: Vec<Tenure>,
) -> OpResult {
    let Ok(_permit) = context.history_reads.acquire().await else {
        return OpResult::Error(Error::new(
            ErrorCode::ShuttingDown,
            "this node is shutting down: ask another replica",
        ));
    };
    // A checkpoint takes records out of the replica's memory. It queued them for the disk before
    // the replica answered, so the barrier waits for them.
    if context.writer.barrier().await.is_err() {
        return OpResult::Error(Error::new(
            ErrorCode::ShuttingDown,
            "this node is shutting down: ask another replica",
        ));
    }
    let engine = context.engine.clone();
    let read = tokio::task::spawn_blocking(move || engine.history(shard, &name, limit)).await;
    let records = match read {
        Ok(Ok(records)) => records,
        Ok(Err(storage)) => {
            context.lifecycle.fail(storage.to_string());
            return OpResult::Error(Error::new(
                ErrorCode::Internal,
                "this node's storage failed: ask another replica",
            ));
        }
        Err(_) => {
            return OpResult::Error(Error::new(
                ErrorCode::ShuttingDown,
                "this node is shutting down: ask another",
            ));
        }
    };
    // What was read is whole only if the replica was here all the time.
    if context.host.seat(shard) != Some(seat) {
        let message = format!("shard {shard} has no replica here any more: ask another replica");
        return OpResult::Error(Error::no_leader(message));
    }
    let mut ended = recent;
    for record in records {
        match Tenure::decode(&record.name, locks::Token(record.token), &record.tenure) {
            Ok(tenure) => ended.push(tenure),
            Err(reason) => {
                tracing::error!(%shard, token = record.token, %reason, "a history record is damaged");
                let message =
                    "a history record of this name is damaged on this node: ask another replica";
                return OpResult::Error(Error::new(ErrorCode::Internal, message));
            }
        }
    }
    service::history(shard, current, ended, limit)
}
