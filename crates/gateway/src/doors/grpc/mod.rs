//! The door for gRPC: `LockService`, with its stream, and each operation as an RPC of its own.

mod doorman;
pub(crate) mod server;
mod stream;

use crate::core::{is_scan, mismatched_answer};
use crate::identities;
use crate::in_flight::InFlight;
use crate::leaving::Unanswered;
use crate::limits::{OWN_TIMEOUT_MS, RESULT_FRAMES_UNDER_WAY};
use crate::record::Recorded;
use crate::redact::redact;
use crate::router::Router;
use crate::visitor::Visitor;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use wire::OperationKind;
use wire::limits::DEFAULT_TTL_MS;
use wire::v1::lock_service_server::LockService;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

/// The gRPC service for clients.
pub(crate) struct Locks {
    router: Arc<Router>,
    ending: watch::Receiver<bool>,
}

impl Locks {
    pub(crate) fn new(router: Arc<Router>, ending: watch::Receiver<bool>) -> Locks {
        Locks { router, ending }
    }

    fn not_ending(&self) -> Result<(), Status> {
        if *self.ending.borrow() {
            return Err(Error::new(ErrorCode::ShuttingDown, stream::ENDING).into());
        }
        Ok(())
    }

    /// Counts and permits a call that is not an operation of the stream.
    ///
    /// * `count` is the number of operations that it counts as.
    fn permit_call(
        &self,
        visitor: &Visitor,
        kind: OperationKind,
        count: impl FnOnce() -> u32,
    ) -> Result<(), Box<Error>> {
        self.router.within_rate_of(visitor, Some(kind), count)?;
        self.router.permit_kind(visitor, kind, "")
    }

    /// Serves one operation as a call. If the caller hangs up this future is dropped, and a wait is
    /// kept for its grace period.
    async fn one<T>(
        &self,
        mut request: Request<T>,
        op: impl FnOnce(T) -> Op,
    ) -> Result<Answer, Status> {
        self.not_ending()?;
        let (patience, visitor) = (timeout(request.metadata()), Visitor::take(&mut request));
        let mut operation = Operation::of(op(request.into_inner()));
        let wait_ms = operation.op.as_ref().map_or(0, Op::wait_ms);
        operation.timeout_ms = patience.map_or(0, |patience| timeout_ms(patience, wait_ms));
        let refused = |error: Box<Error>| {
            self.router.metrics.refused(&error);
            Status::from(*error)
        };
        self.router.within_rate(&visitor, operation.op.as_ref()).map_err(refused)?;
        if let Some(op) = &mut operation.op {
            self.router.permit(&visitor, op).map_err(refused)?;
        }
        let answer = if wait_ms == 0 {
            let _permit = self.router.admission.call().map_err(refused)?;
            let op = operation.op.as_ref();
            let scans = op.is_some_and(is_scan);
            let _scan = scans.then(|| self.router.admission.scan()).transpose().map_err(refused)?;
            let name = op.and_then(Op::name);
            let redacted = name.is_some_and(|name| self.router.is_redacted(&visitor, name));
            let recorded = op.and_then(|op| Recorded::of(&self.router.audit, &visitor, op));
            let unanswered = match &mut operation.op {
                Some(Op::Acquire(acquire)) => {
                    let (leaving, now_ms) = (&self.router.leaving, self.router.now_ms());
                    Unanswered::of(&visitor.caller, acquire, operation.timeout_ms, leaving, now_ms)
                }
                _ => None,
            };
            let mut answer = self.router.serve(visitor.caller, operation).await;
            if let Some(unanswered) = unanswered {
                unanswered.answered(&answer);
            }
            if let Some(recorded) = recorded {
                recorded.answered(&answer);
            }
            if redacted {
                redact(&mut answer);
            }
            answer
        } else {
            let mut running =
                InFlight::new(self.router.clone(), self.ending.clone(), visitor, true);
            running.push(operation).map_err(refused)?;
            let answered = running.only().await.map_err(refused)?;
            answered
                .and_then(|result| result.result)
                .ok_or_else(|| Status::from(mismatched_answer()))?
        };
        match answer {
            Answer::Error(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }
}

/// The caller's deadline, from the `grpc-timeout` header.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if number.len() > 8 {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The part of the caller's deadline that the operation may use. The wait is subtracted, and so is
/// the time for the answer's way back.
fn timeout_ms(patience: Duration, wait_ms: u32) -> u32 {
    let all_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX).saturating_sub(wait_ms);
    let least_ms = if wait_ms == 0 { 1 } else { OWN_TIMEOUT_MS };
    (all_ms - (all_ms / 10).min(100)).max(least_ms)
}

/// Makes a new session id. Nothing is sent to any node.
fn open_session(request: &OpenSessionRequest) -> Result<OpenSessionResponse, Box<Error>> {
    wire::check_session_options(&request.owner, request.ttl_ms, &request.metadata)?;
    let id: u128 = rand::random();
    let ttl_ms = if request.ttl_ms == 0 { DEFAULT_TTL_MS } else { request.ttl_ms };
    Ok(OpenSessionResponse { session_id: format!("{id:032x}"), ttl_ms })
}

macro_rules! answered {
    ($self:expr, $request:expr, $op:path, $answer:path) => {
        match $self.one($request, $op).await? {
            $answer(response) => Ok(Response::new(response)),
            _ => Err(mismatched_answer().into()),
        }
    };
}

#[tonic::async_trait]
impl LockService for Locks {
    type StreamStream = ReceiverStream<Result<StreamResponse, Status>>;

    async fn stream(
        &self,
        mut request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        self.not_ending()?;
        let visitor = Visitor::take(&mut request);
        self.router.permit_stream(&visitor).map_err(|error| Status::from(*error))?;
        let place = self.router.admission.stream(&visitor).map_err(|full| *full)?;
        let client = stream::Client { incoming: request.into_inner(), place, visitor };
        let (outgoing, frames) = mpsc::channel(RESULT_FRAMES_UNDER_WAY);
        let (router, ending) = (self.router.clone(), self.ending.clone());
        tokio::spawn(async move {
            router.metrics.streams.inc();
            stream::serve(router.clone(), ending, client, outgoing).await;
            router.metrics.streams.dec();
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }

    async fn acquire(
        &self,
        request: Request<AcquireRequest>,
    ) -> Result<Response<AcquireResponse>, Status> {
        answered!(self, request, Op::Acquire, Answer::Acquire)
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        answered!(self, request, Op::Renew, Answer::Renew)
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        answered!(self, request, Op::Release, Answer::Release)
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        answered!(self, request, Op::Check, Answer::Check)
    }

    async fn open_session(
        &self,
        mut request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        self.not_ending()?;
        let received = std::time::Instant::now();
        let visitor = Visitor::take(&mut request);
        let opened = self.permit_call(&visitor, OperationKind::OpenSession, || 1).and_then(|()| {
            identities::bind_owner(&visitor, &mut request.get_mut().owner)?;
            open_session(request.get_ref())
        });
        let code = opened.as_ref().err().map(|error| error.code());
        self.router.metrics.called(OperationKind::OpenSession, code, received.elapsed());
        opened.map(Response::new).map_err(|error| (*error).into())
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        answered!(self, request, Op::Heartbeat, Answer::Heartbeat)
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        answered!(self, request, Op::CloseSession, Answer::CloseSession)
    }

    async fn cancel_wait(
        &self,
        request: Request<CancelWaitRequest>,
    ) -> Result<Response<CancelWaitResponse>, Status> {
        answered!(self, request, Op::CancelWait, Answer::CancelWait)
    }

    async fn break_lock(
        &self,
        request: Request<BreakLockRequest>,
    ) -> Result<Response<BreakLockResponse>, Status> {
        answered!(self, request, Op::BreakLock, Answer::BreakLock)
    }

    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<HistoryResponse>, Status> {
        answered!(self, request, Op::History, Answer::History)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        answered!(self, request, Op::List, Answer::List)
    }

    async fn cluster_status(
        &self,
        mut request: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        self.not_ending()?;
        let received = std::time::Instant::now();
        let visitor = Visitor::take(&mut request);
        let asked = || self.router.directory.replicas().len() as u32;
        let permitted = self.permit_call(&visitor, OperationKind::ClusterStatus, asked);
        let _scan = match permitted.and_then(|()| self.router.admission.scan()) {
            Ok(place) => place,
            Err(error) => {
                let code = Some(error.code());
                self.router.metrics.called(OperationKind::ClusterStatus, code, received.elapsed());
                return Err((*error).into());
            }
        };
        let status = crate::status::cluster_status(&self.router).await;
        self.router.metrics.called(OperationKind::ClusterStatus, None, received.elapsed());
        Ok(Response::new(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> Option<Duration> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", value.parse().unwrap());
        timeout(&metadata)
    }

    #[test]
    fn grpc_timeouts() {
        assert_eq!(header("5000m"), Some(Duration::from_secs(5)));
        assert_eq!(header("2S"), Some(Duration::from_secs(2)));
        assert_eq!(header("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "5", "5x", "-1S", "999999999S", "1.5S"] {
            assert_eq!(header(bad), None, "{bad}");
        }
        assert_eq!(timeout(&MetadataMap::new()), None);
    }

    #[test]
    fn a_wait_and_the_way_back_are_taken_off() {
        assert_eq!(timeout_ms(Duration::from_secs(15), 10_000), 4_900);
        assert_eq!(timeout_ms(Duration::from_millis(500), 0), 450);
        assert_eq!(timeout_ms(Duration::from_millis(5), 10), OWN_TIMEOUT_MS);
        assert_eq!(timeout_ms(Duration::ZERO, 0), 1);
        assert_eq!(timeout_ms(Duration::MAX, 0), u32::MAX - 100);
    }
}
