//! The two services that a link can carry, with their streams and messages.

use super::failure::Failure;
use super::reply::Outcome;
use routing::NodeId;
use std::fmt::Debug;
use std::future::Future;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use wire::encoded_bytes;
use wire::internal::v1 as internal;
use wire::internal::v1::shard_service_client::ShardServiceClient;
use wire::limits::RESULT_FRAME_BYTES_MAX;
use wire::v1;
use wire::v1::lock_service_client::LockServiceClient;

/// A service with a stream of operations. Each answer carries its operation's number, and answers
/// come in any order.
pub trait Protocol: Debug + Send + Sync + Sized + 'static {
    /// One operation, with its number and the time left to it.
    type Operation: Debug + Send + 'static;
    /// The answer to an operation that is not refused.
    type Answer: Debug + Send + 'static;
    /// A frame of operations, as it is sent.
    type Frame: prost::Message + 'static;
    /// A frame of answers, as it is received.
    type Results: prost::Message + Default + 'static;

    /// The method of the stream, if a server may carry it in frames ([`net::frames`]).
    const FRAMES: Option<&'static str>;

    /// How long the operation may wait in a lock's queue.
    fn wait_ms(operation: &Self::Operation) -> u32;

    /// The size of the operation on the wire.
    fn bytes(operation: &Self::Operation) -> usize;

    /// Sets the operation's number, and how long its sender waits.
    fn address(operation: &mut Self::Operation, id: u64, timeout_ms: u32);

    /// Packs operations into one frame.
    fn pack(operations: Vec<Self::Operation>, sent_ms: u64) -> Self::Frame;

    /// Unpacks answers, each with its operation's number.
    fn unpack(
        results: Self::Results,
    ) -> impl Iterator<Item = (u64, Result<Self::Answer, Failure>)> + Send;

    /// Opens the stream on a channel.
    fn open(
        channel: Channel,
        call: Request<ReceiverStream<Self::Frame>>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Results>>, Status>> + Send;
}

/// `LockService.Stream` of a gateway.
#[derive(Debug)]
pub struct Locks;

impl Protocol for Locks {
    type Operation = v1::Operation;
    type Answer = v1::operation_result::Result;
    type Frame = v1::StreamRequest;
    type Results = v1::StreamResponse;

    const FRAMES: Option<&'static str> = None;

    fn wait_ms(operation: &v1::Operation) -> u32 {
        operation.op.as_ref().map_or(0, v1::operation::Op::wait_ms)
    }

    fn bytes(operation: &v1::Operation) -> usize {
        encoded_bytes(operation)
    }

    fn address(operation: &mut v1::Operation, id: u64, timeout_ms: u32) {
        (operation.id, operation.timeout_ms) = (id, timeout_ms);
    }

    fn pack(operations: Vec<v1::Operation>, sent_ms: u64) -> v1::StreamRequest {
        v1::StreamRequest { operations, sent_ms }
    }

    fn unpack(
        results: v1::StreamResponse,
    ) -> impl Iterator<Item = (u64, Result<Self::Answer, Failure>)> + Send {
        let outcome = |result| match result {
            Some(v1::operation_result::Result::Error(error)) => {
                Err(Failure::Refused(Box::new(error)))
            }
            Some(answer) => Ok(answer),
            None => Err(of_another_kind()),
        };
        results.results.into_iter().map(move |result| (result.id, outcome(result.result)))
    }

    async fn open(
        channel: Channel,
        call: Request<ReceiverStream<v1::StreamRequest>>,
    ) -> Result<Response<Streaming<v1::StreamResponse>>, Status> {
        LockServiceClient::new(channel)
            .max_decoding_message_size(RESULT_FRAME_BYTES_MAX)
            .stream(call)
            .await
    }
}

/// `ShardService.Operate` of a node.
#[derive(Debug)]
pub struct Shards;

impl Protocol for Shards {
    type Operation = internal::Operation;
    type Answer = internal::operation_result::Result;
    type Frame = internal::OperateRequest;
    type Results = internal::OperateResponse;

    const FRAMES: Option<&'static str> = Some("/palisade.internal.v1.ShardService/Operate");

    fn wait_ms(operation: &internal::Operation) -> u32 {
        operation.op.as_ref().map_or(0, internal::operation::Op::wait_ms)
    }

    fn bytes(operation: &internal::Operation) -> usize {
        encoded_bytes(operation)
    }

    fn address(operation: &mut internal::Operation, id: u64, timeout_ms: u32) {
        (operation.id, operation.timeout_ms) = (id, timeout_ms);
    }

    fn pack(mut operations: Vec<internal::Operation>, sent_ms: u64) -> internal::OperateRequest {
        wire::number_callers(&mut operations);
        internal::OperateRequest { operations, sent_ms }
    }

    fn unpack(
        results: internal::OperateResponse,
    ) -> impl Iterator<Item = (u64, Result<Self::Answer, Failure>)> + Send {
        results.results.into_iter().map(move |result| (result.id, node_outcome(result.result)))
    }

    async fn open(
        channel: Channel,
        call: Request<ReceiverStream<internal::OperateRequest>>,
    ) -> Result<Response<Streaming<internal::OperateResponse>>, Status> {
        ShardServiceClient::new(channel)
            .max_decoding_message_size(RESULT_FRAME_BYTES_MAX)
            .operate(call)
            .await
    }
}

fn of_another_kind() -> Failure {
    Failure::Lost(
        "the server answered with a result of a kind that this version does not know".into(),
    )
}

/// The meaning of a node's result to its gateway: an answer, or a failure that may be tried again.
pub fn node_outcome(
    result: Option<internal::operation_result::Result>,
) -> Outcome<internal::operation_result::Result> {
    use internal::operation_result::Result;
    match result {
        Some(Result::Error(error)) => Err(Failure::Refused(Box::new(error))),
        Some(Result::NotLeader(internal::NotLeader { message, leader, term })) => {
            let leader = (leader != 0).then_some(NodeId(leader));
            Err(Failure::NotLeader { leader, term, why: message.into() })
        }
        Some(Result::StaleRoute(internal::StaleRoute { message, map_version })) => {
            Err(Failure::StaleRoute { map_version, why: message.into() })
        }
        Some(answer) => Ok(answer),
        None => Err(of_another_kind()),
    }
}
