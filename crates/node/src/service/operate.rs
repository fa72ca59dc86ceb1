//! One stream of operations: it takes frames, sends each operation to its shard's thread, and packs
//! results into frames.
//!
//! * Every received operation gets one result, unless the stream or the node fails first.
//! * Waiting results and operations in flight are bounded together. Beyond the bound the stream is
//!   not read.
//! * Below the bound, reading does not wait for the peer to take results. So a peer that sends
//!   before it reads causes no deadlock.
//! * When the stream ends, its shards are told which waiting acquires no caller awaits any more.

use super::ends::{Ends, Step};
use super::op_table::{InFlight, OpTable};
use crate::context::Context;
use crate::host::{Answer, AnswerPort, Seat, StreamKey, Submission, ticket};
use crate::lifecycle::Phase;
use crate::limits::{
    LINGER, RESULT_FRAME_BYTES, STREAM_OPS_MAX, STREAM_RESULTS_MAX, STREAM_WAITS_MAX,
};
use crate::metrics::AcquireTimes;
use locks::Outcome;
use routing::{META, ShardId, ShardMap};
use service::{Admitted, Caller, Callers, Follow, Refused, refused, stale_route};
use shard::{Answer as Answered, Reply};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::Sizes;
use tokio::sync::mpsc;
use tonic::Status;
use traces::{Parent, Span};
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::{OperateRequest, OperateResponse, Operation, OperationResult};
use wire::v1::{DiskSizes, Error, ErrorCode};
use wire::{Lateness, OperationKind};

/// The time that a stream has to hand over its last results when its node stops.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// When a frame arrived.
#[derive(Clone, Copy)]
struct Arrival {
    late_ms: u64,
    received: Instant,
    /// On the node's clock.
    now_ms: u64,
}

/// One stream of operations and its state.
pub(super) struct OperateStream {
    context: Arc<Context>,
    key: StreamKey,
    ends: Ends,
    /// Keeps `answers` open even if all shard threads end.
    _port: AnswerPort,
    answers: mpsc::UnboundedReceiver<Vec<Answer>>,
    /// Results made outside of the shard threads, by index in the table of operations.
    settle: mpsc::UnboundedSender<(u32, OpResult)>,
    settled: mpsc::UnboundedReceiver<(u32, OpResult)>,
    ops: OpTable,
    ready: VecDeque<OperationResult>,
    /// Times of acquires since the last frame of results.
    times: AcquireTimes,
    lateness: Lateness,
    /// By thread: the operations of the current frame for it.
    batches: Vec<Vec<Submission>>,
}

impl OperateStream {
    pub(super) fn new(context: Arc<Context>, key: StreamKey, ends: Ends) -> Self {
        let (port, answers) = mpsc::unbounded_channel(); // at most one per operation in flight
        let (settle, settled) = mpsc::unbounded_channel(); // with the same bound
        let batches = (0..context.host.threads()).map(|_| Vec::new()).collect();
        context.metrics.streams.inc();
        context.host.open_stream(key, &port);
        OperateStream {
            times: context.metrics.acquires.of_stream(),
            context,
            key,
            ends,
            _port: port,
            answers,
            settle,
            settled,
            ops: OpTable::default(),
            ready: VecDeque::new(),
            lateness: Lateness::default(),
            batches,
        }
    }

    /// Runs until the peer or the node ends the stream.
    pub(super) async fn run(mut self) {
        let lifecycle = self.context.lifecycle.clone();
        let mut stopped = std::pin::pin!(lifecycle.reached(Phase::Stopped));
        let mut reading = true;
        while reading || self.ops.len() > 0 || !self.ready.is_empty() || !self.ends.is_flushed() {
            if self.ends.has_room() {
                // What is answered already goes into the same frame.
                while let Ok(answers) = self.answers.try_recv() {
                    self.take_answers(answers);
                }
                while !self.ready.is_empty() && self.ends.has_room() {
                    if lifecycle.failed() {
                        return;
                    }
                    self.send();
                }
            }
            let room = self.ops.short() + self.ready.len() < STREAM_RESULTS_MAX;
            tokio::select! {
                biased;
                () = &mut stopped => return self.last_words().await,
                Some(answers) = self.answers.recv() => self.take_answers(answers),
                Some((op_index, result)) = self.settled.recv() => self.finish(op_index, result),
                step = self.ends.step(reading && room) => match step {
                    Step::Operations(frame) if frame.operations.len() > STREAM_OPS_MAX => {
                        let status = Status::invalid_argument(format!("a frame holds at most {STREAM_OPS_MAX} operations"));
                        return self.ends.refuse(status).await;
                    }
                    Step::Operations(frame) => self.take_frame(frame),
                    Step::Room => {}
                    Step::NoMore => reading = false,
                    Step::Gone => return,
                    Step::Broken(status) => {
                        tracing::debug!(%status, "a stream of operations broke");
                        return;
                    }
                },
            }
        }
    }

    /// Hands a frame of results to the transport, which has room.
    fn send(&mut self) {
        self.times.flush();
        let frame = next_frame(&mut self.ready);
        self.context.metrics.result_frame_operations.observe(frame.results.len() as f64);
        self.ends.send(frame);
    }

    fn take_frame(&mut self, frame: OperateRequest) {
        let received = Instant::now();
        let now_ms = self.context.clock.mono_ms();
        let late_ms = self.lateness.late_ms(frame.sent_ms, now_ms);
        self.context.metrics.frame_operations.observe(frame.operations.len() as f64);
        // One look at the map and at the seats serves the whole frame.
        let (routes, seats) = (self.context.routes.now(), self.context.host.seating());
        let mut callers = Callers::default();
        for operation in frame.operations {
            let (id, kind) = (operation.id, operation.op.as_ref().map(Op::kind));
            let caller = callers.of(&operation);
            let admitted = caller.and_then(|caller| {
                let at = Arrival { late_ms, received, now_ms };
                self.admit((routes.map(), &seats), operation, caller, at)
            });
            if let Err(result) = admitted {
                self.context.metrics.answered(
                    kind,
                    service::counted(&result),
                    Duration::ZERO,
                    None,
                );
                self.ready.push_back(OperationResult { id, result: Some(*result) });
            }
        }
        self.submit();
    }

    /// Puts an operation into its thread's batch.
    fn admit(
        &mut self,
        (map, seats): (&ShardMap, &BTreeMap<ShardId, Seat>),
        operation: Operation,
        caller: &Caller,
        Arrival { late_ms, received, now_ms }: Arrival,
    ) -> Result<(), Refused> {
        if self.context.lifecycle.draining() {
            let message = "this node is shutting down and did not do this: ask another replica";
            return Err(refused(Error::new(ErrorCode::ShuttingDown, message)));
        }
        // An operation without a caller may touch the locks and sessions of any identity.
        let of_client = !matches!(operation.op, Some(Op::ReadStatus(_)));
        if self.context.needs_principal && of_client && caller.is_nobody() {
            let message = "this node's cluster file has `access`, and the gateway does not say which \
                           identity asks: give the gateway the same cluster file";
            return Err(refused(Error::new(ErrorCode::Unauthenticated, message)));
        }
        let id = operation.id;
        let trace = Parent::of_bytes(&operation.trace);
        let admitted = service::admit(map, operation, caller, late_ms)?;
        let waits = admitted.waits();
        let Admitted { shard, kind, request, follow, timeout_ms } = admitted;
        let seat = *seats.get(&shard).ok_or_else(|| stale_route(map, shard))?;
        if self.ops.is_full(waits) {
            let message = match waits {
                true => format!(
                    "this stream has {STREAM_WAITS_MAX} waits in flight: await some, or open another"
                ),
                false => format!(
                    "this stream has {STREAM_OPS_MAX} operations in flight: await some, or open another"
                ),
            };
            return Err(refused(Error::busy(message, if waits { 1_000 } else { 50 })));
        }
        let give_up_at_ms = now_ms + u64::from(timeout_ms);
        // A trace has a parent here: the gateway decides which operations are traced.
        let mut span = trace.and_then(|trace| traces::server(kind.as_str(), Some(trace)));
        if let Some(span) = &mut span {
            span.number("palisade.shard", shard.0.into());
            span.number("palisade.node", self.context.id.0);
        }
        let span = span.map(Box::new);
        let operation = InFlight { id, kind, shard, seat, received, waits, follow, span };
        let op_index = self.ops.put(operation);
        let ticket = ticket(self.key, op_index);
        self.batches[seat.thread].push(Submission {
            index: seat.index,
            ticket,
            give_up_at_ms,
            request,
        });
        Ok(())
    }

    /// Hands the batches to their threads. Operations that find no room there are answered at once.
    fn submit(&mut self) {
        for thread in 0..self.batches.len() {
            if self.batches[thread].is_empty() {
                continue;
            }
            let batch = std::mem::take(&mut self.batches[thread]);
            let refused = self.context.host.submit(thread, batch).err().unwrap_or_default();
            for submission in refused {
                // The lower half of a ticket is the index.
                self.finish_reply(submission.ticket as u32, Reply::Busy);
            }
        }
    }

    fn take_answers(&mut self, answers: Vec<Answer>) {
        for Answer { op_index, reply, entry } in answers {
            if let Some(entry) = entry
                && let Some(operation) = self.ops.get_mut(op_index)
                && let Some(span) = &operation.span
            {
                span.part("commit", entry.proposed, entry.committed);
                span.part("apply", entry.committed, entry.applied);
            }
            match reply {
                Some(reply) => self.take_answer(op_index, reply),
                None => self.retired(op_index),
            }
        }
    }

    /// The shard was retired here while the operation was on its way to it.
    fn retired(&mut self, op_index: u32) {
        let Some(operation) = self.ops.get_mut(op_index) else { return };
        let routes = self.context.routes.now();
        let stale = stale_route(routes.map(), operation.shard);
        self.finish(op_index, *stale);
    }

    fn take_answer(&mut self, op_index: u32, reply: Reply) {
        let Some(operation) = self.ops.get_mut(op_index) else {
            debug_assert!(
                false,
                "operation {op_index} is answered, and nothing is in flight there"
            );
            return;
        };
        match (std::mem::replace(&mut operation.follow, Follow::Nothing), reply) {
            (
                Follow::History { name, limit },
                Reply::Read { answer: Answered::History { ended, current }, .. },
            ) => {
                let (context, settle) = (self.context.clone(), self.settle.clone());
                let at = (operation.shard, operation.seat);
                tokio::spawn(async move {
                    let result =
                        super::history::complete(context, at, name, limit, current, ended).await;
                    // A stream that has ended needs no result.
                    let _ = settle.send((op_index, result));
                });
            }
            (_, reply) => self.finish_reply(op_index, reply),
        }
    }

    fn finish_reply(&mut self, op_index: u32, reply: Reply) {
        let Some(operation) = self.ops.get_mut(op_index) else { return };
        if matches!(reply, Reply::Done(Outcome::OverQuota { .. })) {
            self.context.metrics.quota_refusals.inc();
        }
        let mut result = service::result(operation.shard, self.context.id, operation.kind, reply);
        if let OpResult::Status(status) = &mut result {
            // A replica knows nothing of its node's identities, sockets and disk.
            status.insecure = self.context.insecure;
            status.stands_by = !self.context.identities.takes_part();
            let disk = self.context.disk.state();
            status.disk_write_age_ms = disk.write_age_ms;
            status.disk_hangs = disk.hangs;
            status.disk_sync_us = disk.sync_us;
            status.disk_sizes = self.context.disk.sizes().map(disk_sizes);
            if operation.shard == META {
                status.obstacles = self.context.controller.obstacles();
            }
        }
        self.finish(op_index, result);
    }

    fn finish(&mut self, op_index: u32, result: OpResult) {
        let Some(operation) = self.ops.take(op_index) else { return };
        let InFlight { id, kind, shard, received, span, .. } = operation;
        if let Some(span) = span {
            end_span(*span, &result);
        }
        self.context.metrics.answered(
            Some(kind),
            service::counted(&result),
            received.elapsed(),
            Some(shard),
        );
        if kind == OperationKind::Acquire {
            self.times.answered(&result, received.elapsed());
            if met_contention(&result) {
                self.context.metrics.contended(shard);
            }
        }
        self.ready.push_back(OperationResult { id, result: Some(result) });
    }

    /// Ends the stream because the node stops. Answers the operations in flight, as far as their
    /// replicas reply in [`LINGER`], and hands over the results.
    async fn last_words(mut self) {
        if self.context.lifecycle.failed() {
            return;
        }
        let replies = async {
            while self.ops.short() > 0 {
                tokio::select! {
                    Some(answers) = self.answers.recv() => self.take_answers(answers),
                    Some((op_index, result)) = self.settled.recv() => self.finish(op_index, result),
                }
            }
        };
        // A replica that leads replies once a quorum has the entry, and another one at once. Without
        // a quorum there is no reply to wait for.
        let _ = tokio::time::timeout(LINGER, replies).await;
        let indexes: Vec<u32> = self.ops.iter().map(|(op_index, _)| op_index).collect();
        for op_index in indexes {
            let Some(operation) = self.ops.get_mut(op_index) else { continue };
            let last = service::unanswered(operation.kind);
            self.finish(op_index, last);
        }
        let hand_over = async {
            while !self.ready.is_empty() || !self.ends.is_flushed() {
                if self.ends.has_room() && !self.ready.is_empty() {
                    self.ends.send(next_frame(&mut self.ready));
                    continue;
                }
                if let Step::Gone | Step::Broken(_) = self.ends.step(false).await {
                    return;
                }
            }
            self.ends.close().await;
        };
        // A peer that does not take the results in time finds the connection closed, which tells it
        // the same.
        let _ = tokio::time::timeout(LAST_WORDS, hand_over).await;
    }
}

impl Drop for OperateStream {
    fn drop(&mut self) {
        let waiting = self.ops.iter().filter(|(_, operation)| operation.waits);
        let waiting = waiting
            .map(|(op_index, operation)| (operation.seat, ticket(self.key, op_index)))
            .collect();
        self.context.host.close_stream(self.key, waiting);
        self.context.metrics.streams.dec();
    }
}

/// Ends the span of an operation with this result.
fn end_span(mut span: Span, result: &OpResult) {
    let outcome = service::counted(result);
    span.word("palisade.outcome", outcome.as_str());
    if outcome.is_failure() {
        span.failed(outcome.as_str());
    }
    if let OpResult::Grant(grant) = result {
        span.number("palisade.waited_ms", grant.waited_ms);
    }
}

/// The sizes that the status of a shard tells of its node.
fn disk_sizes(sizes: Sizes) -> DiskSizes {
    let Sizes { journal_bytes, database_bytes, free_bytes, disk_bytes, .. } = sizes;
    DiskSizes { journal_bytes, database_bytes, free_bytes, disk_bytes }
}

/// Whether this is the result of an acquire that another holder blocked, however the acquire ended.
fn met_contention(result: &OpResult) -> bool {
    match result {
        OpResult::Grant(grant) => grant.waited_ms > 0,
        OpResult::Error(error) => {
            matches!(
                error.code(),
                ErrorCode::Held | ErrorCode::WaitTimeout | ErrorCode::WaitCancelled
            )
        }
        _ => false,
    }
}

/// Takes as many results as fit one frame, but at least one.
pub(super) fn next_frame(ready: &mut VecDeque<OperationResult>) -> OperateResponse {
    let mut results = Vec::new();
    let mut bytes = 0;
    while let Some(result) = ready.front() {
        bytes += wire::encoded_bytes(result) + 8;
        if bytes > RESULT_FRAME_BYTES && !results.is_empty() {
            break;
        }
        results.extend(ready.pop_front());
    }
    OperateResponse { results }
}
