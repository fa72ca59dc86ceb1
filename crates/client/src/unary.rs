//! One RPC per operation, for `ClientOptions::unary` and for the calls that the stream does not
//! carry.

use crate::trace;
use link::mux::{Answer, Failure};
use net::token::Token;
use std::time::Duration;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use wire::limits::RESULT_FRAME_BYTES_MAX;
use wire::reason;
use wire::v1::cluster_service_client::ClusterServiceClient;
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::operation::Op;
use wire::v1::{Error, ErrorCode, Operation};

/// A channel that carries the client's token with its calls.
pub(crate) type Authorized = InterceptedService<Channel, Authorize>;

/// Puts the client's token on each call, if it has one.
#[derive(Clone, Debug)]
pub(crate) struct Authorize {
    pub(crate) token: Option<Token>,
}

impl Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            let put = token.put(request.metadata_mut());
            put.map_err(|error| Error::new(ErrorCode::Unauthenticated, error.to_string()))?;
        }
        Ok(request)
    }
}

pub(crate) fn service(channel: Authorized) -> LockServiceClient<Authorized> {
    LockServiceClient::new(channel).max_decoding_message_size(RESULT_FRAME_BYTES_MAX)
}

pub(crate) fn cluster_service(channel: Authorized) -> ClusterServiceClient<Authorized> {
    ClusterServiceClient::new(channel).max_decoding_message_size(RESULT_FRAME_BYTES_MAX)
}

/// Sends one operation as an RPC with this timeout.
pub(crate) async fn call(
    channel: Authorized,
    operation: Operation,
    timeout: Duration,
) -> Result<Answer, Failure> {
    let mut service = service(channel);
    macro_rules! rpc {
        ($method:ident, $request:expr, $answer:path) => {
            service
                .$method(timed($request, timeout))
                .await
                .map(|response| $answer(response.into_inner()))
        };
    }
    let outcome = match operation.op {
        Some(Op::Acquire(request)) => rpc!(acquire, request, Answer::Acquire),
        Some(Op::Renew(request)) => rpc!(renew, request, Answer::Renew),
        Some(Op::Release(request)) => rpc!(release, request, Answer::Release),
        Some(Op::Check(request)) => rpc!(check, request, Answer::Check),
        Some(Op::Heartbeat(request)) => rpc!(heartbeat, request, Answer::Heartbeat),
        Some(Op::CloseSession(request)) => rpc!(close_session, request, Answer::CloseSession),
        Some(Op::CancelWait(request)) => rpc!(cancel_wait, request, Answer::CancelWait),
        Some(Op::BreakLock(request)) => rpc!(break_lock, request, Answer::BreakLock),
        Some(Op::History(request)) => rpc!(history, request, Answer::History),
        Some(Op::List(request)) => rpc!(list, request, Answer::List),
        None => {
            return Err(Failure::Refused(Box::new(Error::invalid("the operation is empty"))));
        }
    };
    outcome.map_err(|status| failed(&status))
}

/// A request with a timeout that holds on both sides.
pub(crate) fn timed<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    trace::put(&mut request);
    request
}

/// Maps a status to a failure. A typed error is an answer, and any other status leaves the outcome
/// open.
pub(crate) fn failed(status: &Status) -> Failure {
    match Error::from_status(status) {
        Some(error) => Failure::Refused(Box::new(error)),
        None => Failure::Lost(format!("{}: {}", status.code(), reason(status)).into()),
    }
}
