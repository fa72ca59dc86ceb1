//! The service for gateways: streams of operations for the shards that this node hosts.
//!
//! It promises that every operation of a live stream gets one result. Bad input is refused before
//! anything is proposed, and no operation reaches a shard that does not own its name. The service
//! holds no lock state.

mod ends;
mod history;
mod op_table;
mod operate;
mod propose;
mod strangers;
mod topology;
mod watch;

#[cfg(test)]
mod tests;

pub(crate) use self::topology::Topologies;

use crate::board::Leader;
use crate::context::Context;
use crate::frames::NodeFrames;
use crate::limits::{STREAMS_MAX, WATCH_CALLS_MAX, WATCH_RESPONSES_UNDER_WAY};
use crate::roles::Caller;
use crate::watching::{CallId, Handle, Hub};
use ends::Ends;
use operate::OperateStream;
use routing::META;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use strangers::Strangers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use watch::WatchCall;
use wire::internal::v1::shard_service_server::ShardService;
use wire::internal::v1::{
    ClusterIdentity, ClusterRequest, ClusterResponse, FramesResponse, HostedShard, Member,
    OperateRequest, OperateResponse, RoutesRequest, RoutesResponse, WatchRequest, WatchResponse,
};

/// Frames of results under way to the transport. The slower the transport takes them, the fuller
/// the next ones get.
const RESULT_FRAMES_UNDER_WAY: usize = 2;

/// The service for gateways.
pub(crate) struct Shards {
    context: Arc<Context>,
    streams: Arc<Semaphore>,
    watching: Arc<Hub>,
    next_call: AtomicU64,
    calls: Arc<Semaphore>,
    strangers: Strangers,
}

impl Shards {
    /// `election_timeout` is the shortest one of the node's replicas.
    pub(crate) fn new(context: Arc<Context>, election_timeout: Duration) -> Self {
        Shards {
            watching: Arc::new(Hub::new(context.clone(), election_timeout)),
            strangers: Strangers::new(context.clone()),
            context,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            next_call: AtomicU64::new(1),
            calls: Arc::new(Semaphore::new(WATCH_CALLS_MAX)),
        }
    }
}

impl Shards {
    /// A place for one more stream of operations.
    fn admit(
        &self,
        identity: Option<&ClusterIdentity>,
        caller: impl FnOnce() -> Caller,
    ) -> Result<OwnedSemaphorePermit, Status> {
        if self.context.lifecycle.draining() {
            return Err(Status::unavailable("this node is shutting down: ask another replica"));
        }
        self.strangers.check_identity(identity, caller)?;
        self.streams.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "this node has {STREAMS_MAX} streams already: send more over each"
            ))
        })
    }

    fn operate_on(
        &self,
        ends: Ends,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + use<> {
        let task = OperateStream::new(self.context.clone(), self.context.host.next_stream(), ends);
        async move {
            let _permit = permit;
            task.run().await;
        }
    }

    /// Serves `Operate` in frames, until the stream ends.
    ///
    /// # Errors
    /// The reason for which the caller is refused, with its stream.
    pub(crate) async fn operate_in_frames(
        &self,
        mut frames: NodeFrames,
        identity: Option<&ClusterIdentity>,
        caller: &Caller,
    ) -> Result<(), (Status, NodeFrames)> {
        let permit = match self.admit(identity, || caller.clone()) {
            Ok(permit) => permit,
            Err(status) => return Err((status, frames)),
        };
        let answer = FramesResponse { identity: Some(self.context.identity.clone()) };
        frames.put(|buffer| wire::append(&answer, buffer));
        self.operate_on(Ends::Frames(frames), permit).await;
        Ok(())
    }
}

#[tonic::async_trait]
impl ShardService for Shards {
    type OperateStream = ReceiverStream<Result<OperateResponse, Status>>;

    async fn operate(
        &self,
        request: Request<Streaming<OperateRequest>>,
    ) -> Result<Response<Self::OperateStream>, Status> {
        let caller = ClusterIdentity::of(request.metadata());
        let permit = self.admit(caller.as_ref(), || Caller::of(request.extensions()))?;
        let (outbound, stream) = mpsc::channel(RESULT_FRAMES_UNDER_WAY);
        let ends = Ends::Grpc { inbound: Box::new(request.into_inner()), outbound };
        tokio::spawn(self.operate_on(ends, permit));
        let mut response = Response::new(ReceiverStream::new(stream));
        self.context.identity.put(response.metadata_mut());
        Ok(response)
    }

    async fn cluster(
        &self,
        _: Request<ClusterRequest>,
    ) -> Result<Response<ClusterResponse>, Status> {
        let context = &self.context;
        if context.lifecycle.failed() {
            return Err(Status::unavailable("this node has failed"));
        }
        let routes = context.routes.now();
        let hosted = |known: Leader| HostedShard {
            shard: known.shard.0,
            leader: known.leader.map_or(0, |leader| leader.0),
            term: known.term,
            leads: known.is_me,
        };
        Ok(Response::new(ClusterResponse {
            identity: Some(context.identity.clone()),
            map_version: routes.map().version().0,
            topology_version: routes.map().edition().topology,
            nodes: routes.members().map(Member::from).collect(),
            shards: context
                .board
                .leaders()
                .filter(|known| known.shard != META)
                .map(hosted)
                .collect(),
        }))
    }

    async fn routes(&self, _: Request<RoutesRequest>) -> Result<Response<RoutesResponse>, Status> {
        let context = &self.context;
        if context.lifecycle.failed() {
            return Err(Status::unavailable("this node has failed"));
        }
        Ok(Response::new(RoutesResponse {
            identity: Some(context.identity.clone()),
            routes: Some((&*context.routes.now()).into()),
        }))
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if self.context.lifecycle.draining() {
            return Err(Status::unavailable("this node is shutting down: watch another replica"));
        }
        self.strangers.check(&request)?;
        let permit = self.calls.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "this node has {WATCH_CALLS_MAX} calls of watches already: start more over each"
            ))
        })?;
        let (responses, stream) = mpsc::channel(WATCH_RESPONSES_UNDER_WAY);
        let id = CallId(self.next_call.fetch_add(1, Ordering::Relaxed));
        let call = Handle::new(id, responses);
        let (watching, lifecycle) = (self.watching.clone(), self.context.lifecycle.clone());
        tokio::spawn(async move {
            let _permit = permit;
            WatchCall::new(watching, call).run(request.into_inner(), &lifecycle).await;
        });
        let mut response = Response::new(ReceiverStream::new(stream));
        self.context.identity.put(response.metadata_mut());
        Ok(response)
    }
}
