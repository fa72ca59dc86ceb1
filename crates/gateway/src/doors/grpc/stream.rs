//! One client's stream: one task that takes frames, serves their operations, and packs results into
//! frames.
//!
//! * Every operation received gets one result, unless the stream fails or the gateway ends first.
//! * For a moment, a stream that has to end refuses the operations that still come. So no short
//!   operation is left without a result, and its client need not wonder whether it was done. Waits
//!   have no result: their clients go on elsewhere with the same ids.
//! * Operations in flight are bounded, and the excess is refused. Results that are not taken yet
//!   are bounded too: above that bound the stream is not read.

use crate::admission::StreamPlace;
use crate::identities::work_of;
use crate::in_flight::{ENDING, InFlight};
use crate::limits::*;
use crate::router::Router;
use crate::visitor::Visitor;
use access::Work;
use std::cell::LazyCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{Error, ErrorCode, Operation, OperationResult, StreamRequest, StreamResponse};
use wire::{Lateness, encoded_bytes};

type Frames = mpsc::Sender<Result<StreamResponse, Status>>;

/// The client's side of a stream.
pub(crate) struct Client {
    pub(crate) incoming: Streaming<StreamRequest>,
    pub(crate) place: StreamPlace,
    pub(crate) visitor: Visitor,
}

/// Serves one stream to its end.
pub(crate) async fn serve(
    router: Arc<Router>,
    ending: watch::Receiver<bool>,
    client: Client,
    outgoing: Frames,
) {
    let Client { mut incoming, place, visitor } = client;
    let mut notice = router.notices.notice();
    let mut running = InFlight::new(router.clone(), ending, visitor, false);
    let has_identity = router.identities.is_some();
    let mut look_again = tokio::time::interval(PROVE_AGAIN_EVERY);
    // The stream of a client above its rate is not read for a moment, so that a flood costs little.
    let mut held_until: Option<Instant> = None;
    let mut ready = Ready::default();
    let (started, mut lateness) = (std::time::Instant::now(), Lateness::default());
    let mut reading = true;
    let mut drain: Option<Drain> = None;
    loop {
        let idle = running.is_empty() && ready.queue.is_empty();
        if idle && !reading {
            return; // the client has ended its half and has all its answers
        }
        let is_quiet = ready.queue.is_empty() && running.under_way().short == 0;
        if drain.as_ref().is_some_and(|drain| drain.is_over(Instant::now(), is_quiet)) {
            let _ = outgoing.try_send(Err(Status::unavailable(ENDING)));
            return;
        }
        tokio::select! {
            biased;
            Some(result) = running.next(), if !running.is_empty() && ready.has_room() => {
                ready.push(result);
                while ready.has_room() && let Some(result) = running.next_now() {
                    ready.push(result);
                }
            }
            room = outgoing.reserve(), if !ready.queue.is_empty() => match room {
                Ok(room) => {
                    running.flush_times();
                    let frame = ready.pack();
                    router.metrics.result_frame_operations.observe(frame.results.len() as f64);
                    room.send(Ok(frame));
                }
                Err(_) => return,
            },
            () = outgoing.closed(), if ready.queue.is_empty() => return,
            () = notice.given(), if drain.is_none() => {
                running.send_away();
                drain = Some(Drain::since(Instant::now()));
            }
            () = until(drain.as_ref().and_then(|drain| drain.next(Instant::now()))), if drain.is_some() => {}
            // A token may expire, or an identity be revoked, while the stream is silent.
            _ = look_again.tick(), if has_identity => if let Err(error) = running.prove_again() {
                return ready.end(&outgoing, *error);
            },
            () = until(held_until), if held_until.is_some() => {
                held_until = None;
            }
            frame = incoming.message(), if reading && (held_until.is_none() || drain.is_some()) && ready.queue.len() < STREAM_RESULTS_MAX => match frame {
                Ok(Some(frame)) if frame.operations.len() > FRAME_OPS_MAX => {
                    let status = Status::invalid_argument(format!("a frame holds at most {FRAME_OPS_MAX} operations"));
                    let _ = outgoing.try_send(Err(status));
                    return;
                }
                Ok(Some(frame)) if drain.is_some() => {
                    for Operation { id, .. } in frame.operations {
                        let error = Error::new(ErrorCode::ShuttingDown, ENDING);
                        ready.push(OperationResult { id, result: Some(Answer::Error(error)) });
                    }
                }
                Ok(Some(frame)) => {
                    let late_ms = lateness.late_ms(frame.sent_ms, started.elapsed().as_millis() as u64);
                    if let Err(error) = running.prove_again() {
                        // Without these answers the client would be in doubt about its operations.
                        for Operation { id, .. } in frame.operations {
                            let refused = Answer::Error((*error).clone());
                            ready.push(OperationResult { id, result: Some(refused) });
                        }
                        return ready.end(&outgoing, *error);
                    }
                    let above = take(&router, frame, late_ms, &place, &mut running, &mut ready);
                    held_until = above.hold().map(|time| Instant::now() + time);
                }
                Ok(None) => reading = false,
                Err(status) => {
                    tracing::debug!(%status, "a client's stream broke");
                    return;
                }
            },
        }
    }
}

/// The end of a stream that was given notice.
struct Drain {
    /// From then on the stream ends once nothing is under way but waits.
    quiet_from: Instant,
    ends: Instant,
}

impl Drain {
    fn since(now: Instant) -> Drain {
        Drain { quiet_from: now + LINGER, ends: now + DRAIN_MAX }
    }

    fn is_over(&self, now: Instant, is_quiet: bool) -> bool {
        now >= self.ends || (is_quiet && now >= self.quiet_from)
    }

    /// The next time at which the stream may end by itself.
    fn next(&self, now: Instant) -> Option<Instant> {
        [self.quiet_from, self.ends].into_iter().find(|at| *at > now)
    }
}

/// Returns at this time. A timer is made only when the future is first polled, and a branch that is
/// switched off is not.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Begins the operations of a frame. Returns those that were above the client's rate.
fn take(
    router: &Router,
    frame: StreamRequest,
    late_ms: u64,
    place: &StreamPlace,
    running: &mut InFlight,
    ready: &mut Ready,
) -> AboveRate {
    let mut above = AboveRate::default();
    router.metrics.frame_operations.observe(frame.operations.len() as f64);
    let now_ms = LazyCell::new(|| router.now_ms());
    for mut operation in frame.operations {
        let id = operation.id;
        let mut begin = || {
            let op = operation.op.as_ref();
            let within = router.within_rate(running.visitor(), op, || *now_ms);
            above.count(
                work_of(op.map(Op::kind)),
                within.as_ref().err().map(|error| error.retry_after_ms),
            );
            within?;
            if let Some(op) = &mut operation.op {
                router.permit(running.visitor(), op)?;
            }
            operation.held_up(late_ms)?;
            place.admit(&operation, running.under_way())?;
            running.push(std::mem::take(&mut operation))
        };
        if let Err(error) = begin() {
            router.metrics.refused(&error);
            ready.push(OperationResult { id, result: Some(Answer::Error(*error)) });
        }
    }
    above
}

/// The operations of one frame that were above the client's rate.
///
/// * `kept_ms` is the time until there is room for renewals and heartbeats, if one was refused.
#[derive(Debug, Default)]
struct AboveRate {
    refused: usize,
    within: usize,
    kept_ms: Option<u32>,
}

impl AboveRate {
    /// Counts an operation, with the time until there is room for it if it was refused.
    fn count(&mut self, work: Work, refused_ms: Option<u32>) {
        match refused_ms {
            None => self.within += 1,
            Some(ms) => {
                self.refused += 1;
                if work == Work::Keep {
                    self.kept_ms = Some(ms);
                }
            }
        }
    }

    /// For how long the stream should not be read. A frame in which some operations were refused
    /// holds nothing back, because renewals can stand behind it.
    fn hold(&self) -> Option<Duration> {
        match self.kept_ms {
            Some(ms) => Some(HOLD_MAX.min(Duration::from_millis(ms.into()))),
            None => (self.refused > 0 && self.within == 0).then_some(HOLD_AFTER_NOTHING),
        }
    }
}

/// Results that the client has not taken yet.
///
/// * `bytes` is the size of all results in the queue.
#[derive(Default)]
struct Ready {
    queue: VecDeque<OperationResult>,
    bytes: usize,
}

impl Ready {
    /// Whether more answers may be taken in.
    fn has_room(&self) -> bool {
        self.queue.len() < RESULT_FRAME_OPS && self.bytes < STREAM_RESULT_BYTES_MAX
    }

    fn push(&mut self, result: OperationResult) {
        self.bytes += encoded_bytes(&result);
        self.queue.push_back(result);
    }

    /// Ends a stream with an error, after as many results as find room at once.
    fn end(&mut self, outgoing: &Frames, error: Error) {
        while outgoing.capacity() > 1 && !self.queue.is_empty() {
            let _ = outgoing.try_send(Ok(self.pack()));
        }
        let _ = outgoing.try_send(Err(error.into()));
    }

    /// Packs one frame: as many results as fit, and at least one.
    fn pack(&mut self) -> StreamResponse {
        let mut results = Vec::with_capacity(self.queue.len().min(RESULT_FRAME_OPS));
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let size = encoded_bytes(next);
            if !results.is_empty()
                && (bytes + size > RESULT_FRAME_BYTES || results.len() >= RESULT_FRAME_OPS)
            {
                break;
            }
            bytes += size;
            results.extend(self.queue.pop_front());
        }
        self.bytes -= bytes;
        StreamResponse { results }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: frames in which all was above the rate were answered as fast as a client could
    /// send them, and each of their operations cost an answer.
    #[test]
    fn a_frame_of_nothing_but_refused_operations_holds_its_stream_for_a_moment() {
        let hold = |operations: &[(Work, Option<u32>)]| {
            let mut above = AboveRate::default();
            operations.iter().for_each(|(work, refused_ms)| above.count(*work, *refused_ms));
            above.hold()
        };
        let (ok, refused) = ((Work::Other, None), (Work::Other, Some(1)));
        assert_eq!(hold(&[]), None);
        assert_eq!(hold(&[ok, ok]), None);
        assert_eq!(hold(&[refused, (Work::Keep, None)]), None, "renewals go on");
        assert_eq!(hold(&[refused, (Work::End, Some(1))]), Some(HOLD_AFTER_NOTHING));
        let kept = |ms| hold(&[ok, (Work::Keep, Some(ms))]);
        assert_eq!(kept(100), Some(Duration::from_millis(100)));
        assert_eq!(kept(1_000), Some(HOLD_MAX));
    }
}
