//! The unanswered operations of one client, and the fate of its waits when the client is lost.
//!
//! A client that loses its stream may come back, here or at another gateway, with the same request
//! ids. So its waiting acquires keep their place for a grace period. The same request from
//! elsewhere takes the place over, which ends the wait here.
//!
//! A wait that is left after the grace period leaves its queue. An acquire that its client cannot
//! come back to is ended at once: see [`crate::leave`].

use crate::admission::{ScanPlace, UnderWay};
use crate::calls::Calls;
use crate::core::{Caller, Cleanup, is_scan, is_unknown};
use crate::leaving::{Left, Unanswered};
use crate::limits::PROVE_AGAIN_EVERY;
use crate::metrics::AcquireTimes;
use crate::record::Recorded;
use crate::redact::redact;
use crate::router::Router;
use crate::visitor::Visitor;
use link::mux::Answer;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use traces::{Parent, Span};
use wire::limits::REQUEST_ID_BYTES;
use wire::v1::operation::Op;
use wire::v1::{AcquireRequest, Error, ErrorCode, Operation, OperationResult};
use wire::{OperationKind, Outcome};

/// The status that sends clients to another gateway.
pub(crate) const ENDING: &str =
    "this gateway is shutting down: go on through another with the same ids";

/// The facts about an operation that are needed until its answer.
struct Note {
    /// The id that the client gave it. Clients may choose ids that are not unique.
    id: u64,
    kind: Option<OperationKind>,
    received: Instant,
    /// The cleanup that a waiting acquire needs if its client is lost.
    wait: Option<Left>,
    /// The same for an acquire that does not wait, if this gateway chose its request id.
    unanswered: Option<Unanswered>,
    /// The place of a list or history.
    scan: Option<ScanPlace>,
    /// The caller may not read the name, so the answer must tell nothing of others.
    redacted: bool,
    /// The line of the audit log for the answer.
    recorded: Option<Recorded>,
    /// The client of a wait has lost its identity or its right to the name since. The wait is on
    /// its way out of its queue, and this is its answer.
    denied: Option<Box<Error>>,
    /// The span of an operation of a stream that is traced. A single call has its own.
    span: OpSpan,
}

/// The operations in flight of one stream, or of one call.
///
/// * `waits` counts the waiting acquires among them, `scans` the lists and histories.
/// * If it is dropped while waits run, they are kept for the grace period, unless the gateway
///   itself is ending.
pub(crate) struct InFlight {
    router: Arc<Router>,
    ending: watch::Receiver<bool>,
    visitor: Visitor,
    /// Set for a single call.
    unary: bool,
    /// Its stream ends because the gateway is about to end.
    sent_away: bool,
    calls: Calls<Note>,
    waits: usize,
    scans: usize,
    /// Times of acquires since the last flush.
    times: AcquireTimes,
}

impl InFlight {
    /// Starts empty, for a stream or a single call (`unary`) of this visitor.
    pub(crate) fn new(
        router: Arc<Router>,
        ending: watch::Receiver<bool>,
        visitor: Visitor,
        unary: bool,
    ) -> InFlight {
        let calls = Calls::new(router.clone());
        let times = router.metrics.of_stream();
        InFlight {
            router,
            ending,
            visitor,
            unary,
            sent_away: false,
            calls,
            waits: 0,
            scans: 0,
            times,
        }
    }

    /// Adds the times of answered acquires to the metrics. To be called for each frame of answers.
    pub(crate) fn flush_times(&mut self) {
        self.times.flush();
    }

    /// The client of the operations.
    pub(crate) fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// Proves the identity of the client anew, if files changed or its time is over. Waits that it
    /// may not have any more end; short operations in flight go on.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it has no identity any more.
    pub(crate) fn prove_again(&mut self) -> Result<(), Box<Error>> {
        let former = self.visitor.version;
        let proven = self.router.prove_again(&mut self.visitor);
        if proven.is_err() || self.visitor.version != former {
            self.permit_waits_again(proven.as_ref().err().map(|error| &**error));
        }
        proven
    }

    /// Compares all waits with the rights that the client has now, or ends them all if it has
    /// `lost` its identity. A wait that ends is cancelled for good, and a grant that it got
    /// meanwhile is released.
    fn permit_waits_again(&mut self, lost: Option<&Error>) {
        let InFlight { router, visitor, calls, waits, .. } = self;
        calls.give_up(|note| {
            let Some(Left { cleanup, place }) = note.wait.take() else { return false };
            let permitted = match lost {
                Some(error) => Err(Box::new(error.clone())),
                None => router.permit_kind(visitor, OperationKind::Acquire, cleanup.name()),
            };
            note.redacted = router.is_redacted(visitor, cleanup.name());
            note.denied = permitted.err();
            if note.denied.is_none() {
                note.wait = Some(Left { cleanup, place });
                return false;
            }
            *waits -= 1;
            router.leaving.push(Left { cleanup: cleanup.for_good(), place });
            true
        });
    }

    /// The stream was told to end. So its waits keep their places, as when the gateway ends.
    pub(crate) fn send_away(&mut self) {
        self.sent_away = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.len() == 0
    }

    /// The operations in flight, waits aside.
    pub(crate) fn under_way(&self) -> UnderWay {
        UnderWay { short: self.calls.len() - self.waits, scans: self.scans }
    }

    /// Begins to serve an operation that is permitted.
    ///
    /// # Errors
    /// BUSY if the operation is a wait, and its client has its full share of waits, or if it is a
    /// scan and the gateway serves too many.
    pub(crate) fn push(&mut self, mut operation: Operation) -> Result<(), Box<Error>> {
        let op = operation.op.as_ref();
        let mut note = Note {
            id: operation.id,
            kind: op.map(Op::kind),
            received: Instant::now(),
            wait: None,
            unanswered: None,
            scan: None,
            redacted: op
                .and_then(Op::name)
                .is_some_and(|name| self.router.is_redacted(&self.visitor, name)),
            recorded: None,
            denied: None,
            span: OpSpan(None),
        };
        if op.is_some_and(is_scan) {
            note.scan = Some(self.router.admission.scan()?);
        }
        if let Some(Op::Acquire(acquire)) = &mut operation.op {
            if acquire.wait_ms > 0 {
                note.wait = Some(self.wait_of(acquire, operation.timeout_ms)?);
            } else {
                let (leaving, now_ms) = (&self.router.leaving, self.router.now_ms());
                let caller = &self.visitor.caller;
                note.unanswered =
                    Unanswered::of(caller, acquire, operation.timeout_ms, leaving, now_ms);
            }
        }
        // From here on the operation is begun, so it is recorded.
        let op = operation.op.as_ref();
        note.recorded = op.and_then(|op| Recorded::of(&self.router.audit, &self.visitor, op));
        self.waits += usize::from(note.wait.is_some());
        self.scans += usize::from(note.scan.is_some());
        self.router.metrics.in_flight.inc();
        note.span = OpSpan(self.span_of(&operation).map(Box::new));
        let caller = self.caller_in(note.span.0.as_deref());
        self.calls.begin(caller, operation, note);
        Ok(())
    }

    /// The span of an operation of a stream, if the operation is traced.
    fn span_of(&self, operation: &Operation) -> Option<Span> {
        if self.unary || !traces::is_on() {
            return None;
        }
        let kind = operation.op.as_ref()?.kind();
        traces::server(kind.as_str(), Parent::parse(&operation.traceparent))
    }

    /// The client as the caller of an operation with this span.
    fn caller_in(&self, span: Option<&Span>) -> Caller {
        let caller = self.visitor.caller.clone();
        match span {
            Some(span) => Caller::Traced(Box::new((caller, span.parent().to_bytes()))),
            None => caller,
        }
    }

    /// Takes a place for a waiting acquire, and gives it a request id if it has none.
    fn wait_of(&self, acquire: &mut AcquireRequest, timeout_ms: u32) -> Result<Left, Box<Error>> {
        let place = self.router.admission.wait(&self.visitor, self.unary)?;
        let ours = acquire.request_id.is_empty();
        if ours {
            acquire.request_id = rand::random::<[u8; REQUEST_ID_BYTES]>().to_vec();
        }
        let (caller, now_ms) = (self.visitor.caller.clone(), self.router.now_ms());
        let cleanup = Cleanup::of(caller, acquire, timeout_ms, ours, now_ms);
        Ok(Left { cleanup, place: Some(place) })
    }

    /// The next answer, or `None` if nothing is in flight. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<OperationResult> {
        let (note, answer) = self.calls.next().await?;
        Some(self.answered(note, answer))
    }

    /// The answer to the operation of a single call. Until it comes, the identity of the client is
    /// proven again and again.
    ///
    /// # Errors
    /// UNAUTHENTICATED if the client has no identity any more, and SHUTTING_DOWN if the gateway
    /// ends.
    pub(crate) async fn only(&mut self) -> Result<Option<OperationResult>, Box<Error>> {
        let has_identity = self.router.identities.is_some();
        let mut ending = self.ending.clone();
        let mut look_again = tokio::time::interval(PROVE_AGAIN_EVERY);
        loop {
            tokio::select! {
                biased;
                answered = self.next() => return Ok(answered),
                _ = ending.wait_for(|ending| *ending) => break,
                _ = look_again.tick(), if has_identity => self.prove_again()?,
            }
        }
        Err(self.end())
    }

    /// Ends the operations in flight because the gateway ends. If no client can come back to a
    /// wait, the wait ends for good, because no client could take its grant. Any other wait keeps
    /// its place, and its client goes on through another gateway.
    fn end(&mut self) -> Box<Error> {
        let InFlight { router, calls, .. } = self;
        // Nothing is tried again, so no later try follows the cancel.
        calls.give_up(|note| {
            leave_for_good(router, note.wait.take());
            true
        });
        self.waits = 0;
        Box::new(Error::new(ErrorCode::ShuttingDown, ENDING))
    }

    /// The next answer, if one is ready.
    pub(crate) fn next_now(&mut self) -> Option<OperationResult> {
        let (note, answer) = self.calls.next_now()?;
        Some(self.answered(note, answer))
    }

    fn answered(&mut self, note: Note, mut answer: Answer) -> OperationResult {
        let Note { id, kind, received, wait, unanswered, scan, redacted, recorded, denied, span } =
            note;
        if let Some(error) = denied {
            answer = Answer::Error(*error);
        }
        span.end(Outcome::of(answer.error_code()));
        self.waits -= usize::from(wait.is_some());
        self.scans -= usize::from(scan.is_some());
        if let Some(Left { cleanup, .. }) = wait
            && cleanup.is_ours()
            && is_unknown(&answer)
        {
            self.router.leaving.push(Left { cleanup, place: None });
        }
        if let Some(unanswered) = unanswered {
            unanswered.answered(&answer);
        }
        let (metrics, took) = (&self.router.metrics, received.elapsed());
        metrics.answered_in_stream(&mut self.times, kind, &answer, took);
        self.router.metrics.in_flight.dec();
        if let Some(recorded) = recorded {
            recorded.answered(&answer);
        }
        if redacted {
            redact(&mut answer);
        }
        OperationResult { id, result: Some(answer) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.router.metrics.in_flight.sub(self.calls.len() as i64);
        if self.waits == 0 {
            return;
        }
        if self.sent_away || *self.ending.borrow() {
            self.end();
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut calls = std::mem::replace(&mut self.calls, Calls::new(self.router.clone()));
        calls.abandon(|note| note.wait.is_some());
        runtime.spawn(keep(self.router.clone(), self.ending.clone(), calls));
    }
}

/// The span of an operation, if it is traced. Dropped without an answer, the outcome is unknown.
struct OpSpan(Option<Box<Span>>);

impl OpSpan {
    fn end(mut self, outcome: Outcome) {
        if let Some(span) = self.0.take() {
            end_span(*span, outcome);
        }
    }
}

impl Drop for OpSpan {
    fn drop(&mut self) {
        if let Some(span) = self.0.take() {
            end_span(*span, Outcome::Unknown);
        }
    }
}

/// Ends the span of an operation with this outcome.
pub(crate) fn end_span(mut span: Span, outcome: Outcome) {
    span.word("palisade.outcome", outcome.as_str());
    if outcome.is_failure() {
        span.failed(outcome.as_str());
    }
}

/// Has a wait leave its queue while the gateway ends, if no client can come back to it.
fn leave_for_good(router: &Router, wait: Option<Left>) {
    if let Some(left) = wait.filter(|left| left.cleanup.is_ours()) {
        router.leaving.push(left);
    }
}

/// Lets lost waits run for the grace period, then takes them out of their queues.
///
/// A grant in that time is released only if this gateway chose the id. Otherwise the client may
/// have come back with its id elsewhere, and hold the grant.
async fn keep(router: Arc<Router>, mut ending: watch::Receiver<bool>, mut calls: Calls<Note>) {
    let grace = tokio::time::sleep(router.waiter_grace());
    tokio::pin!(grace);
    loop {
        tokio::select! {
            // One event can end many calls, and each has its answer before the grace period ends.
            biased;
            answered = calls.next() => {
                let Some((note, answer)) = answered else { return };
                router.metrics.answered(note.kind, &answer, note.received.elapsed());
                note.span.end(Outcome::of(answer.error_code()));
                if let Some(recorded) = note.recorded {
                    recorded.answered(&answer);
                }
                let Some(Left { cleanup, place }) = note.wait else { continue };
                let granted = answer.grant().is_some();
                if granted {
                    router.metrics.unseen_grants.inc();
                }
                if let Some(cleanup) = cleanup.after(&answer) {
                    router.leaving.push(Left { cleanup, place: place.filter(|_| !granted) });
                }
            }
            () = &mut grace => break,
            _ = ending.wait_for(|ending| *ending) => {
                calls.into_notes().for_each(|note| leave_for_good(&router, note.wait));
                return;
            }
        }
    }
    let left = calls.into_notes().filter_map(|note| note.wait);
    for left in left {
        router.metrics.waits_left.inc();
        router.leaving.push(left);
    }
}
