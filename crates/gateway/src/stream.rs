//! One client's stream: one task that takes frames, serves their operations, and packs results into frames.
//!
//! * Every operation received gets one result, unless the stream fails or the gateway ends first.
//! * Operations in flight and results not yet taken are bounded; the excess is refused, and then not read.

use crate::in_flight::InFlight;
use crate::limits::*;
use crate::router::Router;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use wire::encoded_bytes;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{Error, OperationFrame, OperationResult, ResultFrame};

type Frames = mpsc::Sender<Result<ResultFrame, Status>>;

/// How the gateway tells clients to go elsewhere.
pub(crate) const ENDING: &str = "this gateway is shutting down: go on through another with the same ids";

/// Serves one stream to its end.
pub(crate) async fn serve(
    router: Arc<Router>,
    mut ending: watch::Receiver<bool>,
    mut incoming: Streaming<OperationFrame>,
    outgoing: Frames,
) {
    let mut running = InFlight::new(router.clone(), ending.clone());
    let mut ready: VecDeque<OperationResult> = VecDeque::new();
    let mut reading = true;
    let mut drained_at = None;
    loop {
        let idle = running.len() == 0 && ready.is_empty();
        if idle && !reading && drained_at.is_none() {
            return; // the client has ended its half and has all its answers
        }
        if let Some(until) = drained_at
            && (Instant::now() >= until || (ready.is_empty() && running.len() == running.waiting()))
        {
            let _ = outgoing.try_send(Err(Status::unavailable(ENDING)));
            return;
        }
        tokio::select! {
            biased;
            Some(result) = running.next(), if running.len() > 0 && ready.len() < RESULT_FRAME_OPS => ready.push_back(result),
            room = outgoing.reserve(), if !ready.is_empty() => match room {
                Ok(room) => room.send(Ok(pack(&mut ready))),
                Err(_) => return,
            },
            () = outgoing.closed(), if ready.is_empty() => return,
            _ = ending.wait_for(|ending| *ending), if drained_at.is_none() => {
                reading = false;
                drained_at = Some(Instant::now() + DRAIN_MAX);
            }
            () = tokio::time::sleep_until(drained_at.unwrap_or_else(Instant::now)), if drained_at.is_some() => {}
            frame = incoming.message(), if reading && ready.len() < STREAM_RESULTS_MAX => match frame {
                Ok(Some(frame)) if frame.operations.len() > FRAME_OPS_MAX => {
                    let status = Status::invalid_argument(format!("a frame holds at most {FRAME_OPS_MAX} operations"));
                    let _ = outgoing.try_send(Err(status));
                    return;
                }
                Ok(Some(frame)) => take(&router, frame, &mut running, &mut ready),
                Ok(None) => reading = false,
                Err(status) => {
                    tracing::debug!(%status, "a client's stream broke");
                    return;
                }
            },
        }
    }
}

fn take(router: &Router, frame: OperationFrame, running: &mut InFlight, ready: &mut VecDeque<OperationResult>) {
    router.metrics.frame_operations.observe(frame.operations.len() as f64);
    for operation in frame.operations {
        // Counted apart: waits, which are long, must not take the place of the renewals of what is held.
        let in_flight = match operation.op.as_ref().map_or(0, Op::wait_ms) {
            0 => running.len() - running.waiting(),
            _ => running.waiting(),
        };
        if in_flight < STREAM_OPS_MAX {
            running.push(operation);
            continue;
        }
        let error = Error::busy(
            format!(
                "this stream has {STREAM_OPS_MAX} operations of this kind in flight, and this one was not begun: await some first"
            ),
            50,
        );
        router.metrics.refused.inc();
        ready.push_back(OperationResult { id: operation.id, result: Some(Answer::Error(error)) });
    }
}

/// As many as fit one frame, at least one.
fn pack(ready: &mut VecDeque<OperationResult>) -> ResultFrame {
    let mut results = Vec::with_capacity(ready.len().min(RESULT_FRAME_OPS));
    let mut bytes = 0;
    while let Some(next) = ready.front() {
        bytes += encoded_bytes(next);
        if !results.is_empty() && (bytes > RESULT_FRAME_BYTES || results.len() >= RESULT_FRAME_OPS) {
            break;
        }
        results.extend(ready.pop_front());
    }
    ResultFrame { results }
}
