//! One call of a client, as gRPC and HTTP have it: counted, permitted, served, recorded.

use crate::core::{Caller, Cleanup, is_scan, mismatched_answer, shards_asked};
use crate::identities;
use crate::in_flight::{ENDING, InFlight, end_span};
use crate::leaving::Unanswered;
use crate::limits::{CHECK_ROWS_SMALL, CLAIM_TTL_MS};
use crate::record::Recorded;
use crate::redact::redact;
use crate::router::Router;
use crate::visitor::Visitor;
use crate::watching::Watched;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use wire::limits::DEFAULT_TTL_MS;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;
use wire::{ErrorClass, OperationKind, Outcome};

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

    /// Begins a call before its body has come: the call counts as one operation. The identity of
    /// the visitor is proven before.
    ///
    /// # Errors
    /// If the gateway ends, the visitor is above its rate, or the gateway serves too many calls.
    pub(crate) fn begin(
        &self,
        visitor: &Visitor,
        kind: Option<OperationKind>,
    ) -> Result<(), Box<Error>> {
        self.not_ending()?;
        let begun = self.router.within_rate_of(visitor, kind, || 1);
        let begun = begun.and_then(|()| self.router.admission.call().map(drop));
        begun.map_err(|error| self.refused(error))
    }

    /// Serves one operation, of which `counted` have been counted already ([`begin`](Self::begin)).
    /// If the caller hangs up this future is dropped, and a wait is kept for its grace period.
    ///
    /// # Errors
    /// The refusal of an operation that was not begun. Other errors are answers.
    pub(crate) async fn operation(
        &self,
        mut visitor: Visitor,
        operation: Operation,
        counted: u32,
    ) -> Result<Answer, Box<Error>> {
        let kind = operation.op.as_ref().map_or("unknown", |op| op.kind().as_str());
        let Some(span) = traces::server(kind, visitor.trace) else {
            return self.untraced(visitor, operation, counted).await;
        };
        let caller = std::mem::take(&mut visitor.caller);
        visitor.caller = Caller::Traced(Box::new((caller, span.parent().to_bytes())));
        // In a box, so that a call without a span has no room for a second future.
        let answered = Box::pin(self.untraced(visitor, operation, counted)).await;
        let code = match &answered {
            Ok(answer) => answer.error_code(),
            Err(refused) => Some(refused.code()),
        };
        end_span(span, Outcome::of(code));
        answered
    }

    /// Like [`operation`](Single::operation), without a span of its own.
    async fn untraced(
        &self,
        visitor: Visitor,
        mut operation: Operation,
        counted: u32,
    ) -> Result<Answer, Box<Error>> {
        self.not_ending()?;
        let wait_ms = operation.op.as_ref().map_or(0, Op::wait_ms);
        let refused = |error| self.refused(error);
        self.count(&visitor, operation.op.as_ref(), counted).map_err(refused)?;
        if let Some(op) = &mut operation.op {
            self.router.permit(&visitor, op).map_err(refused)?;
        }
        if wait_ms != 0 {
            // In a box, because its future is large and every call would be as large as this one.
            return Box::pin(self.wait(visitor, operation)).await.map_err(refused);
        }
        let _permit = self.router.admission.call().map_err(refused)?;
        let op = operation.op.as_ref();
        if op.is_some_and(is_scan) {
            self.hold_scan(&visitor).map_err(refused)?;
        }
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
        let mut answer = self.router.serve(visitor.caller.clone(), operation).await;
        if let Some(unanswered) = unanswered {
            unanswered.answered(&answer);
        }
        if let Some(recorded) = recorded {
            recorded.answered(&answer);
        }
        if redacted {
            redact(&mut answer);
        }
        if let Answer::Check(checked) = &answer
            && checked.holders.len() + checked.queue.len() > CHECK_ROWS_SMALL
        {
            self.hold_scan(&visitor).map_err(refused)?; // a read can be refused after it was done
        }
        Ok(answer)
    }

    /// Serves an acquire that waits. If no client knows its request id, the grant has a short first
    /// lease, which this gateway makes the full one before it answers.
    async fn wait(&self, visitor: Visitor, mut operation: Operation) -> Result<Answer, Box<Error>> {
        let caller = visitor.caller.clone();
        let name = operation.op.as_ref().and_then(Op::name);
        let redacted = name.is_some_and(|name| self.router.is_redacted(&visitor, name));
        let mut claims = None;
        if let Some(Op::Acquire(acquire)) = &mut operation.op
            && acquire.request_id.is_empty()
            // The heartbeats of a session claim its locks, and its lease bounds them.
            && acquire.session_id.is_empty()
            && acquire.claim_ttl_ms == 0
        {
            acquire.claim_ttl_ms = CLAIM_TTL_MS;
            let now_ms = self.router.now_ms();
            claims = Some(Cleanup::of(caller.clone(), acquire, operation.timeout_ms, true, now_ms));
        }
        let mut running = InFlight::new(self.router.clone(), self.ending.clone(), visitor, true);
        running.push(operation)?;
        let answered = running.only().await?;
        let answer = answered.and_then(|result| result.result);
        let answer = answer.ok_or_else(|| Box::new(mismatched_answer()))?;
        match (claims, answer) {
            (Some(cleanup), Answer::Acquire(AcquireResponse { grant: Some(grant) }))
                if grant.claim_within_ms != 0 =>
            {
                let mut answer = self.claim(caller, cleanup, grant).await;
                if redacted {
                    redact(&mut answer);
                }
                Ok(answer)
            }
            (_, answer) => Ok(answer),
        }
    }

    /// Makes the lease of a grant out of the queue the full one. If that fails, or the client is
    /// gone before, the grant is released.
    async fn claim(&self, caller: Caller, cleanup: Cleanup, mut grant: Grant) -> Answer {
        let granted = Answer::granted(grant.clone());
        let unclaimed = Unanswered::granted(cleanup, &granted, &self.router.leaving);
        let (name, fencing_token) = (grant.resource_name.clone(), grant.fencing_token);
        let renew = Op::Renew(RenewRequest { name, fencing_token });
        match self.router.serve(caller, Operation::of(renew)).await {
            Answer::Renew(renewed) => {
                unclaimed.end();
                grant.expires_at_ms = renewed.expires_at_ms;
                (grant.ttl_ms, grant.remaining_ms) = (renewed.ttl_ms, renewed.ttl_ms);
                (grant.renewal_count, grant.claim_within_ms) = (renewed.renewal_count, 0);
                Answer::granted(grant)
            }
            Answer::Error(error) if error.class() == ErrorClass::Fenced => {
                unclaimed.end(); // it has ended
                Answer::Error(error)
            }
            _ => Answer::Error(Error::outcome_unknown(
                "the lock was granted, but its first lease could not be renewed, so the grant is \
                 taken back: acquire again",
            )),
        }
    }

    pub(super) fn refused(&self, error: Box<Error>) -> Box<Error> {
        self.router.metrics.refused(&error);
        error
    }

    /// Counts an operation, less the part that was counted before.
    fn count(&self, visitor: &Visitor, op: Option<&Op>, counted: u32) -> Result<(), Box<Error>> {
        match op.map_or(1, |op| shards_asked(op, &self.router.directory)).saturating_sub(counted) {
            0 => Ok(()),
            count => self.router.within_rate_of(visitor, op.map(Op::kind), || count),
        }
    }

    /// Takes the place of a call with a large answer, until that is taken.
    pub(super) fn hold_scan(&self, visitor: &Visitor) -> Result<(), Box<Error>> {
        let place = self.router.admission.scan_call(visitor)?;
        let _ = visitor.held.set(Box::new(place)); // a call has one
        Ok(())
    }

    /// Begins a watch, of which `counted` have been counted already ([`begin`](Self::begin)).
    ///
    /// # Errors
    /// The refusal of a watch that was not begun: see [`Watched::begin`].
    pub(crate) fn watch(
        &self,
        visitor: Visitor,
        request: WatchRequest,
        counted: u32,
    ) -> Result<Watched, Box<Error>> {
        let (router, ending) = (self.router.clone(), self.ending.clone());
        let begun = Watched::begin(router, ending, visitor, request, counted);
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
        counted: u32,
    ) -> Result<OpenSessionResponse, Box<Error>> {
        self.not_ending()?;
        let received = Instant::now();
        let count = 1u32.saturating_sub(counted);
        let opened = self.permit_call(visitor, OperationKind::OpenSession, count).and_then(|()| {
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
        counted: u32,
    ) -> Result<ClusterStatusResponse, Box<Error>> {
        self.not_ending()?;
        let received = Instant::now();
        let count = (self.router.directory.replicas().len() as u32).saturating_sub(counted);
        let permitted = self.permit_call(visitor, OperationKind::ClusterStatus, count);
        let status = match permitted.and_then(|()| self.hold_scan(visitor)) {
            Ok(()) => Ok(crate::status::cluster_status(&self.router).await),
            Err(error) => Err(error),
        };
        let code = status.as_ref().err().map(|error| error.code());
        self.router.metrics.called(OperationKind::ClusterStatus, code, received.elapsed());
        status
    }

    /// Counts and permits a call that is not an operation of the stream.
    ///
    /// * `count` is the number of operations that it counts as: 0 if it was counted before.
    fn permit_call(
        &self,
        visitor: &Visitor,
        kind: OperationKind,
        count: u32,
    ) -> Result<(), Box<Error>> {
        if count > 0 {
            self.router.within_rate_of(visitor, Some(kind), || count)?;
        }
        self.router.permit_kind(visitor, kind, "")
    }
}

fn open_session(request: &OpenSessionRequest) -> Result<OpenSessionResponse, Box<Error>> {
    wire::check_session_options(&request.owner, request.ttl_ms, &request.metadata)?;
    let id: u128 = rand::random();
    let ttl_ms = if request.ttl_ms == 0 { DEFAULT_TTL_MS } else { request.ttl_ms };
    Ok(OpenSessionResponse { session_id: format!("{id:032x}"), ttl_ms })
}
