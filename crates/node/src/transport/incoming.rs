//! The service for peers: frames of Raft messages, and snapshots.

use super::hello::{Accepted, Greeter, Refusal, seen_from_wire};
use super::outbox::Outboxes;
use super::snapshot_in::SnapshotReceiver;
use crate::context::Context;
use crate::frames::NodeFrames;
use crate::lifecycle::Phase;
use crate::limits::SNAPSHOTS_AT_ONCE;
use crate::roles::Caller;
use net::frames::Event as Happened;
use prost::Message;
use routing::{RouteTable, ShardId};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::internal::v1::peer_service_server::PeerService;
use wire::internal::v1::{
    DeliverRequest, DeliverResponse, GreetRequest, GreetResponse, InstallSnapshotRequest,
    InstallSnapshotResponse,
};

/// The frames of a peer, by either transport.
enum Inbound {
    Grpc(Box<Streaming<DeliverRequest>>),
    Frames(NodeFrames),
}

impl Inbound {
    /// The next frame; `None` if the peer ended the stream.
    async fn message(&mut self) -> Result<Option<DeliverRequest>, Status> {
        match self {
            Inbound::Grpc(frames) => frames.message().await,
            Inbound::Frames(frames) => loop {
                match frames.next(true).await? {
                    Happened::Frame(bytes) => {
                        let frame = DeliverRequest::decode(bytes);
                        return frame
                            .map(Some)
                            .map_err(|error| Status::internal(error.to_string()));
                    }
                    Happened::Written => {}
                    Happened::Last(_) | Happened::Ended => return Ok(None),
                }
            },
        }
    }
}

impl Inbound {
    /// Does this work, which may wait for the disk, and shows the peer meanwhile that this node is
    /// alive.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Status> {
        let Inbound::Frames(frames) = self else { return Ok(work.await) };
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                written = frames.next(false) => drop(written?),
            }
        }
    }
}

/// The service between nodes.
pub(crate) struct Peers {
    context: Arc<Context>,
    greeter: Arc<Greeter>,
    outboxes: Arc<Outboxes>,
    snapshots: Arc<Semaphore>,
}

impl Peers {
    pub(crate) fn new(
        context: Arc<Context>,
        greeter: Arc<Greeter>,
        outboxes: Arc<Outboxes>,
    ) -> Self {
        Peers { context, greeter, outboxes, snapshots: Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE)) }
    }

    /// Serves `Deliver` in frames, until the stream ends.
    ///
    /// # Errors
    /// The reason why the node ends it, with the stream.
    pub(crate) async fn deliver_in_frames(
        &self,
        frames: NodeFrames,
        caller: Caller,
    ) -> Result<(), (Status, NodeFrames)> {
        let mut inbound = Inbound::Frames(frames);
        let ended = self.deliver_from(&mut inbound, &caller).await;
        match (ended, inbound) {
            (Err(status), Inbound::Frames(frames)) => Err((status, frames)),
            _ => Ok(()),
        }
    }

    async fn deliver_from(&self, inbound: &mut Inbound, caller: &Caller) -> Result<(), Status> {
        tokio::select! {
            () = self.context.lifecycle.reached(Phase::Stopped) => Err(Status::unavailable("this node is shutting down")),
            ended = self.listen(inbound, caller) => ended,
        }
    }

    async fn listen(&self, frames: &mut Inbound, caller: &Caller) -> Result<(), Status> {
        let Some(mut first) = frames.message().await? else { return Ok(()) };
        let checked = self.greeter.check(first.hello.take(), caller);
        let mut accepted = frames.beside(checked).await??;
        let peer = accepted.peer;
        let metrics = self.context.metrics.peer(peer);
        let mut next = Some(first);
        while let Some(frame) = next {
            if !self.context.view.has(peer) {
                let left = format!("node {peer} is no node of the cluster any more");
                return Err(Status::failed_precondition(left));
            }
            if accepted.run.is_some() || !frame.messages.is_empty() {
                let recorded = self.greeter.listen_to(&mut accepted, caller, frame.record);
                let run = frames.beside(recorded).await??;
                if !run.heard(frame.record, self.context.clock.mono_ms()) {
                    let reason = format!("node {peer} has been accepted with another run since");
                    return Err(Status::failed_precondition(reason));
                }
            }
            if !frame.seen.is_empty() {
                self.context.identities.hear_of(frame.seen.into_iter().map(seen_from_wire));
            }
            self.context.routes.hear(&frame.members);
            if let Some(told) = &frame.routes {
                match RouteTable::try_from(told) {
                    Ok(routes) => {
                        self.context.routes.take(&routes, &self.context.view.now());
                    }
                    Err(error) => {
                        return Err(Status::invalid_argument(format!(
                            "a route table is refused: {error}"
                        )));
                    }
                }
            }
            metrics.frames_received.inc();
            metrics.messages_received.inc_by(frame.messages.len() as u64);
            let messages = frame
                .messages
                .into_iter()
                .map(|message| (ShardId(message.shard), message.raft.into()));
            let dropped = self.context.host.deliver(messages);
            metrics.messages_dropped.inc_by(dropped as u64);
            next = frames.message().await?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl PeerService for Peers {
    type InstallSnapshotStream = ReceiverStream<Result<InstallSnapshotResponse, Status>>;

    async fn greet(
        &self,
        request: Request<GreetRequest>,
    ) -> Result<Response<GreetResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let GreetRequest { hello } = request.into_inner();
        if let Some(hello) = hello.as_ref().filter(|hello| hello.is_lost) {
            return match self.greeter.check_lost(hello, &caller).await {
                Ok(greeting) => Ok(Response::new(greeting)),
                Err(Refusal::Store(refused_store)) => {
                    Ok(Response::new(GreetResponse { refused_store, ..GreetResponse::default() }))
                }
                Err(refusal) => Err(refusal.into()),
            };
        }
        match self.greeter.check(hello, &caller).await {
            Ok(Accepted { peer, .. }) => {
                if let Some(outbox) = self.outboxes.of(peer) {
                    outbox.peer_is_there();
                }
                Ok(Response::new(GreetResponse {
                    hello: Some(self.greeter.hello()),
                    ..GreetResponse::default()
                }))
            }
            Err(Refusal::Store(refused_store)) => {
                Ok(Response::new(GreetResponse { refused_store, ..GreetResponse::default() }))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverRequest>>,
    ) -> Result<Response<DeliverResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let mut inbound = Inbound::Grpc(Box::new(request.into_inner()));
        self.deliver_from(&mut inbound, &caller).await?;
        Ok(Response::new(DeliverResponse {}))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<InstallSnapshotRequest>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        if !self.context.identities.takes_part() {
            return Err(Status::unavailable(
                "this node takes no part before its peers have greeted it",
            ));
        }
        let permit = self.snapshots.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(
                "this node is receiving other snapshots; the sender tries again by itself",
            )
        })?;
        let (progress, stream) = mpsc::channel(4);
        let receiver = SnapshotReceiver {
            context: self.context.clone(),
            greeter: self.greeter.clone(),
            caller: Caller::of(request.extensions()),
            chunks: request.into_inner(),
            progress: progress.clone(),
        };
        let lifecycle = self.context.lifecycle.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let ended = tokio::select! {
                () = lifecycle.reached(Phase::Stopped) => Err(Status::unavailable("this node is shutting down")),
                ended = receiver.run() => ended,
            };
            if let Err(status) = ended {
                // A sender that has gone needs no reason.
                let _ = progress.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
