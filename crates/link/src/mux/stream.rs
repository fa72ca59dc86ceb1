//! The stream on one connection, by either transport: gRPC, or frames.

use super::protocol::Protocol;
use net::dial::Dialled;
use net::frames::{Event, Frames};
use prost::Message;
use tokio::sync::mpsc;
use tonic::Streaming;
use wire::internal::v1::FramesStatus;
use wire::reason;

/// A stream of operations and their results.
pub(super) enum Stream<P: Protocol> {
    Grpc { frames: mpsc::Sender<P::Frame>, incoming: Box<Streaming<P::Results>> },
    Frames(Box<Frames<Dialled>>),
}

/// What happened on a stream.
pub(super) enum Step<R> {
    /// A frame of results came.
    Results(R),
    /// The transport took what it was given.
    Room,
    /// The stream ended, with the reason.
    Ended(String),
}

impl<P: Protocol> Stream<P> {
    /// Whether the transport takes a frame now. Frames under way are few, so that the operations
    /// behind them are packed together.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Stream::Grpc { frames, .. } => frames.capacity() > 0 && !frames.is_closed(),
            Stream::Frames(frames) => frames.has_room(),
        }
    }

    /// Hands a frame to the transport, which has room. It goes with the next step. Of a stream that
    /// has ended, the next step tells.
    pub(super) fn send(&mut self, frame: P::Frame) {
        match self {
            Stream::Grpc { frames, .. } => drop(frames.try_send(frame)),
            Stream::Frames(frames) => frames.put(|buffer| wire::append(&frame, buffer)),
        }
    }

    /// Waits for what happens next. Dropping the future loses nothing.
    pub(super) async fn step(&mut self) -> Step<P::Results> {
        match self {
            Stream::Grpc { frames, incoming } => {
                let is_full = frames.capacity() == 0;
                tokio::select! {
                    frame = incoming.message() => match frame {
                        Ok(Some(results)) => Step::Results(results),
                        Ok(None) => Step::Ended("the server ended the stream".into()),
                        Err(status) => lost(&reason(&status)),
                    },
                    room = frames.reserve(), if is_full => match room {
                        Ok(_) => Step::Room,
                        Err(_) => Step::Ended("the connection was lost".into()),
                    },
                    () = frames.closed(), if !is_full => Step::Ended("the connection was lost".into()),
                }
            }
            Stream::Frames(frames) => match frames.next(true).await {
                Ok(Event::Frame(bytes)) => match P::Results::decode(bytes) {
                    Ok(results) => Step::Results(results),
                    Err(error) => lost(&error.to_string()),
                },
                Ok(Event::Written) => Step::Room,
                Ok(Event::Last(bytes)) => lost(&reason(&FramesStatus::read(bytes))),
                Ok(Event::Ended) => Step::Ended("the server ended the stream".into()),
                Err(error) => lost(&error.to_string()),
            },
        }
    }
}

fn lost<R>(why: &str) -> Step<R> {
    Step::Ended(format!("the connection was lost: {why}"))
}
