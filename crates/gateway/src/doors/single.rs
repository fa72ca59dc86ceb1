//! One call of a client, as gRPC and HTTP have it: counted, permitted, served, recorded.

use crate::core::is_scan;
use crate::core::mismatched_answer;
use crate::identities;
use crate::in_flight::InFlight;
use crate::leaving::Unanswered;
use crate::record::Recorded;
use crate::redact::redact;
use crate::router::Router;
use crate::visitor::Visitor;
use crate::watching::Watched;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use wire::OperationKind;
use wire::limits::DEFAULT_TTL_MS;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

/// The status that sends clients to another gateway.
pub(crate) const ENDING: &str =
    "this gateway is shutting down: go on through another with the same ids";

/// Serves single calls until the gateway ends.
#[derive(Clone, Debug)]
pub(crate) struct Single {
    pub(crate) router: Arc<Router>,
    pub(crate) ending: watch::Receiver<bool>,
}

impl Single {
    /// # Errors
    /// SHUTTING_DOWN if the gateway ends.
    pub(crate) fn not_ending(&self) -> Result<(), Box<Error>> {
        if *self.ending.borrow() {
            return Err(Box::new(Error::new(ErrorCode::ShuttingDown, ENDING)));
        }
        Ok(())
    }

    /// Serves one operation. If the caller hangs up this future is dropped, and a wait is kept for
    /// its grace period.
    ///
    /// # Errors
    /// The refusal of an operation that was not begun. Other errors are answers.
    pub(crate) async fn operation(
        &self,
        visitor: Visitor,
        mut operation: Operation,
    ) -> Result<Answer, Box<Error>> {
        self.not_ending()?;
        let wait_ms = operation.op.as_ref().map_or(0, Op::wait_ms);
        let refused = |error: Box<Error>| {
            self.router.metrics.refused(&error);
            error
        };
        self.router.within_rate(&visitor, operation.op.as_ref()).map_err(refused)?;
        if let Some(op) = &mut operation.op {
            self.router.permit(&visitor, op).map_err(refused)?;
        }
        if wait_ms != 0 {
            let mut running =
                InFlight::new(self.router.clone(), self.ending.clone(), visitor, true);
            running.push(operation).map_err(refused)?;
            let answered = running.only().await.map_err(refused)?;
            return answered
                .and_then(|result| result.result)
                .ok_or_else(|| Box::new(mismatched_answer()));
        }
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
        Ok(answer)
    }

    /// Begins a watch.
    ///
    /// # Errors
    /// The refusal of a watch that was not begun: see [`Watched::begin`].
    pub(crate) fn watch(
        &self,
        visitor: Visitor,
        request: WatchRequest,
    ) -> Result<Watched, Box<Error>> {
        let begun = Watched::begin(self.router.clone(), self.ending.clone(), visitor, request);
        begun.inspect_err(|error| self.router.metrics.refused(error))
    }

    /// Makes a new session id. Nothing is sent to any node.
    ///
    /// # Errors
    /// If the visitor may open no session, or none with these options.
    pub(crate) fn open_session(
        &self,
        visitor: &Visitor,
        mut request: OpenSessionRequest,
    ) -> Result<OpenSessionResponse, Box<Error>> {
        self.not_ending()?;
        let received = Instant::now();
        let opened = self.permit_call(visitor, OperationKind::OpenSession, || 1).and_then(|()| {
            identities::bind_owner(visitor, &mut request.owner)?;
            open_session(&request)
        });
        let code = opened.as_ref().err().map(|error| error.code());
        self.router.metrics.called(OperationKind::OpenSession, code, received.elapsed());
        opened
    }

    /// Asks every replica for its state.
    ///
    /// # Errors
    /// If the visitor may not see it, or too many ask.
    pub(crate) async fn cluster_status(
        &self,
        visitor: &Visitor,
    ) -> Result<ClusterStatusResponse, Box<Error>> {
        self.not_ending()?;
        let received = Instant::now();
        let asked = || self.router.directory.replicas().len() as u32;
        let permitted = self.permit_call(visitor, OperationKind::ClusterStatus, asked);
        let status = match permitted.and_then(|()| self.router.admission.scan()) {
            Ok(_place) => Ok(crate::status::cluster_status(&self.router).await),
            Err(error) => Err(error),
        };
        let code = status.as_ref().err().map(|error| error.code());
        self.router.metrics.called(OperationKind::ClusterStatus, code, received.elapsed());
        status
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
}

fn open_session(request: &OpenSessionRequest) -> Result<OpenSessionResponse, Box<Error>> {
    wire::check_session_options(&request.owner, request.ttl_ms, &request.metadata)?;
    let id: u128 = rand::random();
    let ttl_ms = if request.ttl_ms == 0 { DEFAULT_TTL_MS } else { request.ttl_ms };
    Ok(OpenSessionResponse { session_id: format!("{id:032x}"), ttl_ms })
}
