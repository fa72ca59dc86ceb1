//! What gateways ask of a node: streams of operations for the shards it hosts.
//!
//! It promises that every operation of a live stream gets one result, that bad input is refused before anything is
//! proposed, and that no operation reaches a shard that does not own its name. It holds no lock state.

mod history;
mod operate;
mod outcome;
pub(crate) mod plan;
mod slots;

#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::host::StreamKey;
use crate::limits::STREAMS_MAX;
use operate::OperateStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::v1::shard_service_server::ShardService;
use wire::v1::{OperationFrame, ResultFrame};

/// Frames of results under way to the transport: the slower it takes them, the fuller they get.
const RESULT_FRAMES_UNDER_WAY: usize = 2;

/// The service for gateways.
pub(crate) struct Shards {
    context: Arc<Context>,
    /// The next stream's key. 0 is never given: no ticket may be 0.
    next_stream: AtomicU32,
    streams: Arc<Semaphore>,
}

impl Shards {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Shards { context, next_stream: AtomicU32::new(1), streams: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }

    fn next_key(&self) -> StreamKey {
        loop {
            // Reused after 2^32 streams: by then the former bearer is long gone.
            let key = self.next_stream.fetch_add(1, Ordering::Relaxed);
            if key != 0 {
                return StreamKey(key);
            }
        }
    }
}

#[tonic::async_trait]
impl ShardService for Shards {
    type OperateStream = ReceiverStream<Result<ResultFrame, Status>>;

    async fn operate(
        &self,
        request: Request<Streaming<OperationFrame>>,
    ) -> Result<Response<Self::OperateStream>, Status> {
        if self.context.lifecycle.draining() {
            return Err(Status::unavailable("this node is shutting down: ask another replica"));
        }
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("this node has {STREAMS_MAX} streams already: send more over each"))
        })?;
        let (results, stream) = mpsc::channel(RESULT_FRAMES_UNDER_WAY);
        let task = OperateStream::new(self.context.clone(), self.next_key(), request.into_inner(), results);
        tokio::spawn(async move {
            let _permit = permit;
            task.run().await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
