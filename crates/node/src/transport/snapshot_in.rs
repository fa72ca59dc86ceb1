//! Receiving one snapshot: its history goes to the engine as it comes, its state to the shard once
//! it is whole.

use super::hello::{Accepted, Greeter};
use crate::context::Context;
use crate::giving_way::giving_way;
use crate::limits::{SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_STEP_TIMEOUT};
use crate::roles::Caller;
use routing::ShardId;
use shard::Input;
use std::sync::Arc;
use storage::ShardWrite;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use wire::internal::v1::install_snapshot_request::Part;
use wire::internal::v1::{
    HistoryChunk, HistoryRecord, InstallSnapshotRequest, InstallSnapshotResponse, SnapshotHeader,
};

/// Receives one snapshot. The sender is a peer, but its bytes are checked like those of any other
/// caller.
pub(super) struct SnapshotReceiver {
    pub(super) context: Arc<Context>,
    pub(super) greeter: Arc<Greeter>,
    pub(super) caller: Caller,
    pub(super) chunks: Streaming<InstallSnapshotRequest>,
    pub(super) progress: mpsc::Sender<Result<InstallSnapshotResponse, Status>>,
}

impl SnapshotReceiver {
    pub(super) async fn run(mut self) -> Result<(), Status> {
        let Part::Header(header) = self.next().await? else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let SnapshotHeader { hello, shard, raft, data_bytes } = header;
        let Accepted { peer, .. } = self.greeter.check(hello, &self.caller).await?;
        let shard = ShardId(shard);
        let hosted = self.context.host.seat(shard).zip(self.context.board.get(shard));
        let Some((seat, status)) = hosted else {
            return Err(Status::failed_precondition(format!(
                "node {} has no replica of shard {shard}",
                self.context.id
            )));
        };
        let context = self.context.clone();
        let _arriving = context.board.arrives(shard);
        if data_bytes > SNAPSHOT_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "a snapshot has at most {SNAPSHOT_BYTES_MAX} bytes"
            )));
        }
        // The replica has every grant that ended up to here, in the engine or in memory. The grants
        // in memory go to the engine with the write that installs the snapshot. A status that is a
        // little old requests some records twice.
        self.report(InstallSnapshotResponse {
            history_after: status.applied_index,
            installed: false,
        })
        .await?;

        // The buffer is reserved in one piece, so that its data is not copied as it grows. It takes
        // no memory before it is filled.
        let mut data = Vec::new();
        let room = data.try_reserve_exact(data_bytes as usize);
        room.map_err(|error| {
            Status::resource_exhausted(format!("a snapshot of {data_bytes} bytes: {error}"))
        })?;
        loop {
            match self.next().await? {
                Part::Header(_) => {
                    return Err(Status::invalid_argument("a snapshot has one header"));
                }
                Part::History(chunk) => {
                    self.keep_history(shard, status.incarnation, chunk).await?;
                }
                Part::Data(chunk) => {
                    let total_bytes = (data.len() + chunk.len()) as u64;
                    if chunk.len() > SNAPSHOT_CHUNK_BYTES || total_bytes > data_bytes {
                        return Err(Status::invalid_argument("more snapshot data than announced"));
                    }
                    data.extend_from_slice(&chunk);
                }
                Part::End(_) => break,
            }
        }
        if data.len() as u64 != data_bytes {
            return Err(Status::data_loss(format!("{} bytes of {data_bytes} arrived", data.len())));
        }
        // Decoding runs off the async threads, and off the shard's, because a large snapshot takes
        // seconds.
        let loaded = giving_way(move || shard::load_snapshot(shard, &raft, &data)).await;
        let loaded =
            loaded.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| {
                tracing::warn!(%shard, %peer, %error, "refused a snapshot");
                Status::invalid_argument(error.to_string())
            })?;
        self.context.host.input_at(seat, Input::Snapshot(Arc::new(loaded)));
        self.context.metrics.snapshots_received.inc();
        tracing::info!(%shard, %peer, data_bytes, "snapshot received");
        self.report(InstallSnapshotResponse {
            history_after: status.applied_index,
            installed: true,
        })
        .await
    }

    /// Writes history without a sync, because the write that installs the snapshot comes later, and
    /// is synced. It is for the replica with this birth only.
    async fn keep_history(
        &self,
        shard: ShardId,
        birth: u32,
        chunk: HistoryChunk,
    ) -> Result<(), Status> {
        if chunk.records.is_empty() {
            return Ok(()); // the sender reads on
        }
        let received = chunk.records.into_iter().map(from_wire).collect();
        let write = ShardWrite { shard, received, ..ShardWrite::default() };
        self.context
            .writer
            .add(birth, write)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn next(&mut self) -> Result<Part, Status> {
        let chunk = tokio::time::timeout(SNAPSHOT_STEP_TIMEOUT, self.chunks.message()).await;
        let chunk = chunk.map_err(|_| Status::deadline_exceeded("the sender fell silent"))??;
        chunk
            .ok_or_else(|| Status::data_loss("the stream ended before the snapshot did"))?
            .part
            .ok_or_else(|| {
                Status::invalid_argument("a part of a snapshot that this version does not know")
            })
    }

    async fn report(&self, progress: InstallSnapshotResponse) -> Result<(), Status> {
        self.progress.send(Ok(progress)).await.map_err(|_| Status::cancelled("the sender has gone"))
    }
}

fn from_wire(record: HistoryRecord) -> storage::HistoryRecord {
    let HistoryRecord { day, name, token, index, tenure } = record;
    storage::HistoryRecord { day, name, token, index, tenure }
}
