//! The two directions of a stream of operations, by either transport: gRPC, or frames.

use crate::frames::{ENDS_WITHIN, NodeFrames};
use net::frames::Event;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use wire::internal::v1::{FramesStatus, OperateRequest, OperateResponse};

/// A stream of operations, and of their results.
pub(super) enum Ends {
    Grpc {
        inbound: Box<Streaming<OperateRequest>>,
        outbound: mpsc::Sender<Result<OperateResponse, Status>>,
    },
    Frames(NodeFrames),
}

/// What happened on a stream.
pub(super) enum Step {
    /// A frame of operations came.
    Operations(OperateRequest),
    /// The transport took what it was given.
    Room,
    /// No more operations come. Results may still be awaited.
    NoMore,
    /// The peer is gone.
    Gone,
    /// The stream broke.
    Broken(Status),
}

impl Ends {
    /// Whether the transport takes a frame now. Frames under way are few: the slower the transport
    /// takes them, the fuller the next ones get.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Ends::Grpc { outbound, .. } => outbound.capacity() > 0,
            Ends::Frames(frames) => frames.has_room(),
        }
    }

    /// Whether the stream may end without the loss of a frame.
    pub(super) fn is_flushed(&self) -> bool {
        match self {
            Ends::Grpc { .. } => true,
            Ends::Frames(frames) => frames.has_room(),
        }
    }

    /// Hands a frame to the transport, which has room.
    pub(super) fn send(&mut self, frame: OperateResponse) {
        match self {
            Ends::Grpc { outbound, .. } => drop(outbound.try_send(Ok(frame))),
            Ends::Frames(frames) => frames.put(|buffer| wire::append(&frame, buffer)),
        }
    }

    /// Ends the stream with an error.
    pub(super) async fn refuse(&mut self, status: Status) {
        match self {
            Ends::Grpc { outbound, .. } => drop(outbound.send(Err(status)).await),
            Ends::Frames(frames) => {
                frames.put_last(|buffer| wire::append(&FramesStatus::from(&status), buffer));
                // A peer that takes nothing finds the connection closed.
                let _ = tokio::time::timeout(ENDS_WITHIN, frames.close()).await;
            }
        }
    }

    /// Ends the stream, of which everything is written.
    pub(super) async fn close(&mut self) {
        if let Ends::Frames(frames) = self {
            frames.close().await;
        }
    }

    /// Waits for what happens next, and reads only if it is told to. Dropping the future loses
    /// nothing.
    pub(super) async fn step(&mut self, reads: bool) -> Step {
        match self {
            Ends::Grpc { inbound, outbound } => {
                let is_full = outbound.capacity() == 0;
                tokio::select! {
                    biased;
                    room = outbound.reserve(), if is_full => match room {
                        Ok(_) => Step::Room,
                        Err(_) => Step::Gone,
                    },
                    () = outbound.closed(), if !is_full => Step::Gone,
                    frame = inbound.message(), if reads => match frame {
                        Ok(Some(operations)) => Step::Operations(operations),
                        Ok(None) => Step::NoMore,
                        Err(status) => Step::Broken(status),
                    },
                }
            }
            Ends::Frames(frames) => match frames.next(reads).await {
                Ok(Event::Frame(bytes)) => match OperateRequest::decode(bytes) {
                    Ok(operations) => Step::Operations(operations),
                    Err(error) => Step::Broken(Status::internal(error.to_string())),
                },
                Ok(Event::Written) => Step::Room,
                Ok(Event::Ended | Event::Last(_)) => Step::Gone,
                Err(error) => Step::Broken(Status::from(error)),
            },
        }
    }
}
