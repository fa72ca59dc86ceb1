//! The door for gRPC: `LockService`, with its stream, and each operation as an RPC of its own.

mod cluster;
mod stream;

pub(crate) use cluster::Clusters;

use crate::core::mismatched_answer;
use crate::doors::single::Single;
use crate::limits::{OWN_TIMEOUT_MS, RESULT_FRAMES_UNDER_WAY};
use crate::visitor::Visitor;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use wire::v1::lock_service_server::LockService;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

/// The gRPC service for clients.
pub(crate) struct Locks(pub(crate) Single);

impl Locks {
    /// Serves one operation as a call.
    async fn one<T>(
        &self,
        mut request: Request<T>,
        op: impl FnOnce(T) -> Op,
    ) -> Result<Answer, Status> {
        let (patience, visitor) = (timeout(request.metadata()), Visitor::take(&mut request));
        let mut operation = Operation::of(op(request.into_inner()));
        let wait_ms = operation.op.as_ref().map_or(0, Op::wait_ms);
        operation.timeout_ms = patience.map_or(0, |patience| timeout_ms(patience, wait_ms));
        match self.0.operation(visitor, operation, 0).await {
            Ok(Answer::Error(error)) => Err(error.into()),
            Ok(answer) => Ok(answer),
            Err(refused) => Err((*refused).into()),
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
        let Single { router, ending } = &self.0;
        let refused = |error: Box<Error>| Status::from(*error);
        self.0.not_ending().map_err(refused)?;
        let visitor = Visitor::take(&mut request);
        router.permit_stream(&visitor).map_err(refused)?;
        let place = router.admission.stream(&visitor).map_err(|full| *full)?;
        let client = stream::Client { incoming: request.into_inner(), place, visitor };
        let (outgoing, frames) = mpsc::channel(RESULT_FRAMES_UNDER_WAY);
        let (router, ending) = (router.clone(), ending.clone());
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
        let visitor = Visitor::take(&mut request);
        let opened = self.0.open_session(&visitor, request.into_inner(), 0);
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
        let visitor = Visitor::take(&mut request);
        let status = self.0.cluster_status(&visitor, 0).await;
        status.map(Response::new).map_err(|error| (*error).into())
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        mut request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let visitor = Visitor::take(&mut request);
        let watched = self.0.watch(visitor, request.into_inner(), 0);
        let mut watched = watched.map_err(|error| Status::from(*error))?;
        let (outgoing, responses) = mpsc::channel(RESULT_FRAMES_UNDER_WAY);
        tokio::spawn(async move {
            loop {
                // A part stays in its queue, which is bounded, until the transport has room for it.
                let Ok(room) = outgoing.reserve().await else { return };
                let next = tokio::select! {
                    next = watched.next() => next,
                    () = outgoing.closed() => return,
                };
                match next {
                    Ok(response) => room.send(Ok(response)),
                    Err(error) => return room.send(Err((*error).into())),
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
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
