//! The unanswered operations of a link: a queue of those to be sent, and a slab of those that were
//! sent.

use super::failure::Failure;
use super::protocol::Protocol;
use super::reply::{Outcome, Reply};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wire::v1::Error;

/// Bytes that a frame spends on each operation in addition to the operation itself: field tag,
/// length, id.
const OPERATION_OVERHEAD_BYTES: usize = 24;

/// An operation on its way to the driver.
#[derive(Debug)]
pub(super) struct Submission<P: Protocol> {
    pub(super) operation: P::Operation,
    pub(super) deadline: Instant,
    pub(super) reply: Reply<P::Answer>,
}

/// The queue and the slab.
///
/// * An operation is in the queue or in the slab, and leaves with exactly one outcome.
/// * An id is a place in the slab and the generation of that place, so that a late result never
///   meets a later operation.
/// * `soonest` is no later than any deadline in the slab or the queue.
pub(super) struct Pending<P: Protocol> {
    queue: VecDeque<Submission<P>>,
    entries: Vec<Entry<P::Answer>>,
    free: Vec<u32>,
    in_flight: usize,
    soonest: Option<Instant>,
}

struct Entry<A> {
    generation: u32,
    sent: Option<(Instant, Reply<A>)>,
}

impl<P: Protocol> Default for Pending<P> {
    fn default() -> Pending<P> {
        Pending {
            queue: VecDeque::new(),
            entries: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            soonest: None,
        }
    }
}

impl<P: Protocol> Pending<P> {
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// When [`expire`](Self::expire) is due.
    pub(super) fn soonest(&self) -> Option<Instant> {
        self.soonest
    }

    pub(super) fn push(&mut self, submission: Submission<P>) {
        self.soonest = Some(
            self.soonest.map_or(submission.deadline, |soonest| soonest.min(submission.deadline)),
        );
        self.queue.push_back(submission);
    }

    /// Packs operations off the queue into one frame of about `bytes_max`, at least one. `None` if
    /// there is nothing to send.
    ///
    /// The frame carries `sent_ms`, the time when it was sent. The server gets the time left to
    /// each operation, counted from before the queue.
    pub(super) fn pack(
        &mut self,
        now: Instant,
        sent_ms: u64,
        bytes_max: usize,
    ) -> Option<P::Frame> {
        let mut operations = Vec::new();
        let mut bytes = 0;
        while let Some(front) = self.queue.front() {
            let size = P::bytes(&front.operation) + OPERATION_OVERHEAD_BYTES;
            if bytes + size > bytes_max && !operations.is_empty() {
                break;
            }
            let Some(Submission { mut operation, deadline, reply }) = self.queue.pop_front() else {
                break;
            };
            if reply.is_closed() {
                continue; // its caller is gone, and it was never sent
            }
            if now >= deadline {
                reply.send(Err(too_late()));
                continue;
            }
            bytes += size;
            let wait = Duration::from_millis(P::wait_ms(&operation).into());
            P::address(
                &mut operation,
                self.insert(deadline, reply),
                told_ms((deadline - now).saturating_sub(wait)),
            );
            operations.push(operation);
        }
        (!operations.is_empty()).then(|| P::pack(operations, sent_ms))
    }

    /// Hands an outcome to its caller. An outcome of an operation that was given up is dropped.
    pub(super) fn settle(&mut self, id: u64, outcome: Outcome<P::Answer>) {
        if let Some(reply) = self.remove(id) {
            reply.send(outcome);
        }
    }

    /// Fails the operations that are past their deadline.
    pub(super) fn expire(&mut self, now: Instant) {
        let lost: Arc<str> = "no answer in time".into();
        let mut soonest: Option<Instant> = None;
        let mut see = |deadline: Instant| {
            soonest = Some(soonest.map_or(deadline, |soonest| soonest.min(deadline)))
        };
        for (place, entry) in self.entries.iter_mut().enumerate() {
            match &entry.sent {
                Some((deadline, _)) if now >= *deadline => {
                    if let Some((_, reply)) = entry.sent.take() {
                        reply.send(Err(Failure::Lost(lost.clone())));
                    }
                    self.free.push(place as u32);
                    self.in_flight -= 1;
                }
                Some((deadline, _)) => see(*deadline),
                None => {}
            }
        }
        for _ in 0..self.queue.len() {
            let Some(submission) = self.queue.pop_front() else { break };
            if now >= submission.deadline {
                submission.reply.send(Err(too_late()));
            } else {
                see(submission.deadline);
                self.queue.push_back(submission);
            }
        }
        self.soonest = soonest;
    }

    /// Fails the operations in the queue because the server refuses to take any.
    pub(super) fn refuse_queued(&mut self, error: &Error) {
        for submission in self.queue.drain(..) {
            submission.reply.send(Err(Failure::Refused(Box::new(error.clone()))));
        }
    }

    /// Fails all operations because the connection is gone. Those that were sent are in doubt, and
    /// those in the queue were certainly not sent.
    pub(super) fn fail_all(&mut self, why: &str) {
        let why: Arc<str> = why.into();
        for (place, entry) in self.entries.iter_mut().enumerate() {
            if let Some((_, reply)) = entry.sent.take() {
                reply.send(Err(Failure::Lost(why.clone())));
                self.free.push(place as u32);
            }
        }
        self.in_flight = 0;
        for submission in self.queue.drain(..) {
            submission.reply.send(Err(Failure::NotSent(why.clone())));
        }
        self.soonest = None;
    }

    fn insert(&mut self, deadline: Instant, reply: Reply<P::Answer>) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, sent: None });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[place as usize];
        assert!(entry.sent.is_none(), "place {place} was free and is taken");
        entry.generation = entry.generation.wrapping_add(1);
        entry.sent = Some((deadline, reply));
        self.in_flight += 1;
        u64::from(entry.generation) << 32 | u64::from(place)
    }

    fn remove(&mut self, id: u64) -> Option<Reply<P::Answer>> {
        let (generation, place) = ((id >> 32) as u32, id as u32);
        let entry =
            self.entries.get_mut(place as usize).filter(|entry| entry.generation == generation)?;
        let (_, reply) = entry.sent.take()?;
        self.free.push(place);
        self.in_flight -= 1;
        Some(reply)
    }
}

/// The time that the server is given: a tenth less than the caller's, at most 100 ms less, for the
/// answer's way back.
pub(super) fn told_ms(left: Duration) -> u32 {
    // Rounded, so that the microseconds spent on this side do not count.
    let left_ms = (left + Duration::from_micros(500)).as_millis();
    let way_back_ms = (left_ms / 10).min(100);
    u32::try_from(left_ms - way_back_ms).unwrap_or(u32::MAX).max(1)
}

fn too_late() -> Failure {
    Failure::NotSent("its time ran out before it could be sent".into())
}
