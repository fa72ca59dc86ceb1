//! The unanswered operations of one client, and the fate of its waits when the client is lost.
//!
//! A client that loses its stream may come back, here or at another gateway, with the same request
//! ids. So its waiting acquires keep their place for a grace period. The same request from
//! elsewhere takes the place over, which ends the wait here.
//!
//! A wait that is left after the grace period leaves its queue. An acquire that its client cannot
//! come back to is ended at once: see [`crate::leave`].

use crate::leave::{Left, Unanswered, is_unknown, release};
use crate::nodes::{Outcome, Port};
use crate::router::{Begun, Router, Sent};
use crate::share::{Share, WaitPlace};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use link::mux::Answer;
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use wire::OperationKind;
use wire::limits::REQUEST_ID_BYTES;
use wire::v1::operation::Op;
use wire::v1::{AcquireRequest, AcquireResponse, Error, Operation, OperationResult};

/// A key of our own for each operation, because clients may choose ids that are not unique.
type Key = u64;
type Running = FuturesUnordered<BoxFuture<'static, (Key, OperationResult)>>;
/// Acquires that may be in a queue, with the cleanup that each needs if its client is lost.
type Waiting = BTreeMap<Key, Left>;

/// An operation that was sent. Its outcome comes to `outcomes`.
struct Direct {
    id: u64,
    received: Instant,
    sent: Box<Sent>,
    unanswered: Option<Unanswered>,
}

/// The operations in flight of one stream, or of one call.
///
/// * An operation is in `direct`, `running` or `answered`, and leaves with one answer.
/// * `waiting` holds exactly the waiting acquires among the running operations, `scans` the lists
///   and histories.
/// * If it is dropped while waits run, they are kept for the grace period, unless the gateway
///   itself is ending.
pub(crate) struct InFlight {
    router: Arc<Router>,
    ending: watch::Receiver<bool>,
    /// The share of the connection. `unary` is set for a single call.
    share: Arc<Share>,
    unary: bool,
    abandoned: Arc<AtomicBool>,
    direct: Slab<Direct>,
    port: mpsc::UnboundedSender<(usize, Outcome)>,
    /// Holds at most one outcome for each entry of `direct`.
    outcomes: mpsc::UnboundedReceiver<(usize, Outcome)>,
    running: Running,
    answered: VecDeque<OperationResult>,
    waiting: Waiting,
    /// Acquires that were retried, if this gateway chose their ids.
    unanswered: BTreeMap<Key, Unanswered>,
    scans: BTreeSet<Key>,
    next_key: Key,
}

impl InFlight {
    /// Starts empty, for a client's stream or a single call (`unary`), on the connection of this
    /// share.
    pub(crate) fn new(
        router: Arc<Router>,
        ending: watch::Receiver<bool>,
        share: Arc<Share>,
        unary: bool,
    ) -> InFlight {
        let (port, outcomes) = mpsc::unbounded_channel();
        InFlight {
            router,
            ending,
            share,
            unary,
            abandoned: Arc::default(),
            direct: Slab::new(),
            port,
            outcomes,
            running: Running::new(),
            answered: VecDeque::new(),
            waiting: Waiting::new(),
            unanswered: BTreeMap::new(),
            scans: BTreeSet::new(),
            next_key: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.direct.len() + self.running.len() + self.answered.len()
    }

    /// How many operations may be in a queue.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many operations are lists or histories.
    pub(crate) fn scans(&self) -> usize {
        self.scans.len()
    }

    /// Begins to serve an operation.
    ///
    /// # Errors
    /// BUSY if the operation is a wait, and its connection has its full share of waits.
    pub(crate) fn push(&mut self, mut operation: Operation) -> Result<(), Box<Error>> {
        let (id, received) = (operation.id, Instant::now());
        let kind = operation.op.as_ref().map(Op::kind);
        let (mut wait, mut unanswered) = (None, None);
        if let Some(Op::Acquire(acquire)) = &mut operation.op {
            if acquire.wait_ms > 0 {
                wait = Some(self.wait_of(acquire, operation.timeout_ms)?);
            } else {
                unanswered = Unanswered::of(acquire, operation.timeout_ms, &self.router.leaving);
            }
        }
        let scans = operation.op.as_ref().is_some_and(is_scan);
        self.router.metrics.in_flight.inc();
        let place = self.direct.vacant_key();
        match self.router.begin(operation, || Port::new(&self.port, place)) {
            Begun::Sent(sent) => {
                self.direct.insert(Direct { id, received, sent, unanswered });
            }
            Begun::Answered(answer) => {
                unanswered.into_iter().for_each(|unanswered| unanswered.answered(Some(&answer)));
                self.router.metrics.answered(kind, &answer, received.elapsed());
                self.answered.push_back(OperationResult { id, result: Some(answer) });
            }
            Begun::Alone(alone) => {
                let key = self.run(id, kind, received, async move |router, abandoned| {
                    router.serve(alone, &abandoned).await
                });
                if scans {
                    self.scans.insert(key);
                }
                if let Some(wait) = wait {
                    self.waiting.insert(key, wait);
                }
            }
        }
        Ok(())
    }

    /// Takes a place for a waiting acquire, and gives it a request id if it has none.
    fn wait_of(&self, acquire: &mut AcquireRequest, timeout_ms: u32) -> Result<Left, Box<Error>> {
        let place = WaitPlace::take(&self.share, &self.router.waits, self.unary)?;
        let ours = acquire.request_id.is_empty();
        if ours {
            acquire.request_id = rand::random::<[u8; REQUEST_ID_BYTES]>().to_vec();
        }
        Ok(Left::of(acquire, timeout_ms, ours, Some(place)))
    }

    /// The next answer, or `None` if nothing is in flight. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<OperationResult> {
        loop {
            // Futures come first, at each call. Outcomes can come faster than they are taken, so
            // one is always ready; a heartbeat behind them would never be polled, and so never
            // sent.
            tokio::select! {
                biased;
                Some((key, result)) = self.running.next() => {
                    let wait = self.waiting.remove(&key).filter(|wait| wait.ours);
                    if let Some(wait) = wait.filter(|_| result.result.as_ref().is_some_and(is_unknown)) {
                        self.router.leaving.push(Left { place: None, ..wait });
                    }
                    self.scans.remove(&key);
                    let unanswered = self.unanswered.remove(&key);
                    unanswered.into_iter().for_each(|unanswered| unanswered.answered(result.result.as_ref()));
                    self.answered.push_back(result);
                }
                () = std::future::ready(()), if !self.answered.is_empty() => {}
                Some((place, outcome)) = self.outcomes.recv(), if !self.direct.is_empty() => self.settle(place, outcome),
                else => return None,
            }
            if let Some(result) = self.next_now() {
                return Some(result);
            }
        }
    }

    /// The next answer, if one is ready.
    pub(crate) fn next_now(&mut self) -> Option<OperationResult> {
        while self.answered.is_empty()
            && let Ok((place, outcome)) = self.outcomes.try_recv()
        {
            self.settle(place, outcome);
        }
        let result = self.answered.pop_front()?;
        self.router.metrics.in_flight.dec();
        Some(result)
    }

    /// Takes the outcome of a direct operation: its answer, or a failure that is retried.
    fn settle(&mut self, place: usize, outcome: Outcome) {
        let Direct { id, received, sent, unanswered } = self.direct.remove(place);
        let kind = Some(sent.kind());
        match self.router.settle(sent, outcome) {
            Ok(answer) => {
                unanswered.into_iter().for_each(|unanswered| unanswered.answered(Some(&answer)));
                self.router.metrics.answered(kind, &answer, received.elapsed());
                self.answered.push_back(OperationResult { id, result: Some(answer) });
            }
            Err(failed) => {
                let go_on = async move |router: Arc<Router>, abandoned: Arc<AtomicBool>| {
                    router.go_on(failed, &abandoned).await
                };
                let key = self.run(id, kind, received, go_on);
                self.unanswered.extend(unanswered.map(|unanswered| (key, unanswered)));
            }
        }
    }

    fn run<F>(
        &mut self,
        id: u64,
        kind: Option<OperationKind>,
        received: Instant,
        serve: impl FnOnce(Arc<Router>, Arc<AtomicBool>) -> F,
    ) -> Key
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let key = self.next_key;
        self.next_key += 1;
        let router = self.router.clone();
        let served = serve(self.router.clone(), self.abandoned.clone());
        self.running.push(Box::pin(async move {
            let answer = served.await;
            router.metrics.answered(kind, &answer, received.elapsed());
            (key, OperationResult { id, result: Some(answer) })
        }));
        key
    }
}

/// Whether an operation is a list or a history, because their answers can be large.
pub(crate) fn is_scan(op: &Op) -> bool {
    matches!(op, Op::List(_) | Op::History(_))
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        let (running, waiting) =
            (std::mem::take(&mut self.running), std::mem::take(&mut self.waiting));
        self.router
            .metrics
            .in_flight
            .sub((running.len() + self.direct.len() + self.answered.len()) as i64);
        if waiting.is_empty() || *self.ending.borrow() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(keep(self.router.clone(), self.ending.clone(), running, waiting));
    }
}

/// Lets lost waits run for the grace period, then takes them out of their queues.
///
/// A grant in that time is released only if this gateway chose the id. Otherwise the client may
/// have come back with its id elsewhere, and hold the grant.
async fn keep(
    router: Arc<Router>,
    mut ending: watch::Receiver<bool>,
    mut running: Running,
    mut waiting: Waiting,
) {
    let grace = tokio::time::sleep(router.waiter_grace());
    tokio::pin!(grace);
    while !waiting.is_empty() {
        tokio::select! {
            Some((key, result)) = running.next() => {
                match (waiting.remove(&key), result.result) {
                    (Some(wait), Some(Answer::Acquire(AcquireResponse { grant: Some(grant) }))) => {
                        router.metrics.unseen_grants.inc();
                        if wait.ours {
                            router.leaving.push(Left { granted: Some(release(grant)), place: None, ..wait });
                        }
                    }
                    // The last try was given up because the client is gone, so the request may
                    // still be queued. A request with the client's own id may have been taken up
                    // elsewhere: we must not leave that place.
                    (Some(wait), Some(answer)) if wait.ours && is_unknown(&answer) => router.leaving.push(wait),
                    _ => {}
                }
            }
            () = &mut grace => break,
            _ = ending.wait_for(|ending| *ending) => return,
        }
    }
    router.metrics.waits_left.inc_by(waiting.len() as u64);
    waiting.into_values().for_each(|wait| router.leaving.push(wait));
}
