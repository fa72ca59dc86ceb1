//! Connections to the node's port, sorted by what they speak: frames are served here, and HTTP goes to
//! the server of gRPC.
//!
//! The same callers are let in over both, by the same table. The module knows nothing of what the
//! streams carry.

use crate::context::Context;
use crate::frames::{DELIVER, ENDS_WITHIN, NodeFrames, OPERATE};
use crate::lifecycle::Phase;
use crate::limits::PEER_FRAME_BYTES_MAX;
use crate::roles::{Caller, check_call};
use crate::service::Shards;
use crate::transport::Peers;
use audit::Event as Told;
use net::accept::{Connection, Speaks};
use net::frames::{Event, Frames};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;
use wire::append;
use wire::internal::v1::{FramesRequest, FramesStatus};
use wire::limits::FRAME_BYTES_MAX;

/// The longest first frame, in bytes.
const OPENING_BYTES_MAX: usize = 4 << 10;
/// The time for the first frame of a stream.
const OPENS_WITHIN: Duration = Duration::from_secs(10);
/// How long the other side may be silent. It is the side that looks for another node, so it gives up
/// sooner.
const SILENCE: Duration = Duration::from_secs(25);

/// Waits for the first bytes of a connection, and serves it if it speaks frames. Others go to `http`.
pub(crate) async fn sort(
    mut connection: Connection<()>,
    http: mpsc::Sender<std::io::Result<Connection<()>>>,
    context: Arc<Context>,
    shards: Arc<Shards>,
    peers: Arc<Peers>,
) {
    let spoken = tokio::select! {
        spoken = connection.speaks() => spoken,
        () = context.lifecycle.reached(Phase::Draining) => return,
    };
    match spoken {
        Ok(Speaks::Http) => drop(http.send(Ok(connection)).await),
        Ok(Speaks::Frames) => serve(connection, context, shards, peers).await,
        Err(error) => tracing::debug!(%error, "a connection did not begin"),
    }
}

/// Serves one connection whose preface was read, until its stream ends.
async fn serve(
    connection: Connection<()>,
    context: Arc<Context>,
    shards: Arc<Shards>,
    peers: Arc<Peers>,
) {
    let caller = Caller::of_peer(connection.peer());
    let mut frames = Box::new(Frames::new(connection, OPENING_BYTES_MAX, SILENCE));
    let opening = tokio::select! {
        opening = tokio::time::timeout(OPENS_WITHIN, first(&mut frames)) => opening,
        () = context.lifecycle.reached(Phase::Draining) => return,
    };
    let Ok(Some(FramesRequest { method, identity })) = opening else { return };
    let peer = frames.connection().peer();
    if let Err(error) = check_call(context.tls.is_some(), Some(peer), &method) {
        context.audit.record(Told { name: method, ..caller.refused(error.message.clone()) });
        return end(frames, &Status::from(*error)).await;
    }
    let ended = match method.as_str() {
        OPERATE => {
            frames.limit(FRAME_BYTES_MAX);
            shards.operate_in_frames(frames, identity.as_ref(), &caller).await
        }
        DELIVER if identity.as_ref().is_some_and(|meant| meant.node != context.id.0) => {
            let (own, meant) = (context.id, identity.map_or(0, |meant| meant.node));
            let why = format!(
                "this is node {own}, not node {meant}: correct the addresses in the cluster file"
            );
            Err((Status::failed_precondition(why), frames))
        }
        DELIVER => {
            frames.limit(PEER_FRAME_BYTES_MAX);
            peers.deliver_in_frames(frames, caller).await
        }
        _ => Err((Status::unimplemented(format!("{method} is not served in frames")), frames)),
    };
    if let Err((status, frames)) = ended {
        end(frames, &status).await;
    }
}

/// The first frame; `None` if the stream ends before.
async fn first(frames: &mut NodeFrames) -> Option<FramesRequest> {
    loop {
        match frames.next(true).await {
            Ok(Event::Frame(bytes)) => return FramesRequest::decode(bytes).ok(),
            Ok(Event::Written) => {}
            Ok(Event::Last(_) | Event::Ended) | Err(_) => return None,
        }
    }
}

/// Ends a stream with an error.
async fn end(mut frames: NodeFrames, status: &Status) {
    frames.put_last(|buffer| append(&FramesStatus::from(status), buffer));
    // A peer that takes nothing finds the connection closed.
    let _ = tokio::time::timeout(ENDS_WITHIN, frames.close()).await;
}
