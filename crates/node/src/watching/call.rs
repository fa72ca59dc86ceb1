//! One gateway's call, as the task of one shard sees it: its watches, and the frames to be sent.

use crate::limits::WATCH_ORDERS_UNDER_WAY;
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;
use watch::WatcherId;
use wire::internal::v1::{WatchFrame, WatchResponse};
use wire::v1::Error;

/// Names a call of a gateway within this run of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(pub(crate) u64);

/// A call of a gateway, shared by the tasks of the shards that it watches.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: CallId,
    /// The way to the gateway. It holds few messages, so that a gateway that does not read is
    /// noticed.
    pub(crate) outbound: mpsc::Sender<Result<WatchResponse, Status>>,
    open: Mutex<BTreeMap<u64, Opened>>,
    /// One permit for each order that no task has taken yet.
    orders: Arc<Semaphore>,
}

/// A watch with an end that has not been sent.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) shard: ShardId,
    /// Its share of the watches of the node.
    _permit: OwnedSemaphorePermit,
}

impl Handle {
    pub(crate) fn new(
        id: CallId,
        outbound: mpsc::Sender<Result<WatchResponse, Status>>,
    ) -> Arc<Handle> {
        let orders = Arc::new(Semaphore::new(WATCH_ORDERS_UNDER_WAY));
        Arc::new(Handle { id, outbound, open: Mutex::default(), orders })
    }

    /// Opens a watch.
    pub(crate) fn open(&self, id: u64, shard: ShardId, permit: OwnedSemaphorePermit) {
        self.opened().insert(id, Opened { shard, _permit: permit });
    }

    /// The watches with ends that were not sent, by id.
    pub(crate) fn opened(&self) -> MutexGuard<'_, BTreeMap<u64, Opened>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a task has taken an order, if many are under way.
    pub(crate) async fn order_permit(&self) -> OwnedSemaphorePermit {
        self.orders.clone().acquire_owned().await.expect("it is never closed")
    }
}

/// A call with watches of one shard.
///
/// * A watcher stands in `due` at most once, and in `wants` at most once. It stands in neither
///   once it is [forgotten](Self::forget).
pub(super) struct Call {
    pub(super) handle: Arc<Handle>,
    /// By the ids that the gateway chose.
    pub(super) watches: BTreeMap<u64, WatcherId>,
    /// A place in the outbound channel is awaited.
    pub(super) is_blocked: bool,
    /// Ends of watches, which go first. Their watches are still open.
    ended: BTreeMap<u64, Error>,
    /// Watchers that are to be told something.
    due: Line,
    /// Watchers that need a page.
    wants: Line,
}

/// Watchers in their turn, each once.
#[derive(Default)]
struct Line {
    by_turn: BTreeMap<u64, WatcherId>,
    turns: BTreeMap<WatcherId, u64>,
    next: u64,
}

impl Line {
    fn push(&mut self, watcher: WatcherId) {
        if !self.turns.contains_key(&watcher) {
            self.turns.insert(watcher, self.next);
            self.by_turn.insert(self.next, watcher);
            self.next += 1;
        }
    }

    fn pop(&mut self) -> Option<WatcherId> {
        let (_, watcher) = self.by_turn.pop_first()?;
        self.turns.remove(&watcher);
        Some(watcher)
    }

    fn remove(&mut self, watcher: WatcherId) {
        if let Some(turn) = self.turns.remove(&watcher) {
            self.by_turn.remove(&turn);
        }
    }
}

impl Call {
    pub(super) fn new(handle: Arc<Handle>) -> Call {
        Call {
            handle,
            watches: BTreeMap::new(),
            is_blocked: false,
            ended: BTreeMap::new(),
            due: Line::default(),
            wants: Line::default(),
        }
    }

    pub(super) fn push_due(&mut self, watcher: WatcherId) {
        self.due.push(watcher);
    }

    pub(super) fn pop_due(&mut self) -> Option<WatcherId> {
        self.due.pop()
    }

    pub(super) fn due(&self) -> usize {
        self.due.turns.len()
    }

    pub(super) fn push_wants(&mut self, watcher: WatcherId) {
        self.wants.push(watcher);
    }

    pub(super) fn pop_wants(&mut self) -> Option<WatcherId> {
        self.wants.pop()
    }

    pub(super) fn wants_pages(&self) -> bool {
        !self.wants.turns.is_empty()
    }

    /// A watcher ends.
    pub(super) fn forget(&mut self, watcher: WatcherId) {
        self.due.remove(watcher);
        self.wants.remove(watcher);
    }

    /// The watch of this id is over. It is open until that is sent, so that the ends that wait are
    /// bounded as the open watches are.
    pub(super) fn push_ended(&mut self, id: u64, error: Error) {
        self.ended.insert(id, error);
    }

    /// The gateway does not want to hear of this watch any more.
    pub(super) fn drop_ended(&mut self, id: u64) {
        self.ended.remove(&id);
    }

    /// At most so many ends of watches, which are to be sent now.
    pub(super) fn take_ended(&mut self, most: usize) -> Vec<WatchFrame> {
        let mut opened = self.handle.opened();
        let ended = std::iter::from_fn(|| self.ended.pop_first()).take(most);
        let frame = |(id, error)| {
            opened.remove(&id);
            WatchFrame { id, ended: Some(error), ..WatchFrame::default() }
        };
        ended.map(frame).collect()
    }

    pub(super) fn has_work(&self) -> bool {
        !self.ended.is_empty() || self.due() > 0
    }

    /// Whether something can be sent now.
    pub(super) fn is_ready(&self) -> bool {
        self.has_work() && !self.is_blocked
    }
}

/// Sends the ends of watches that are left when the task of a shard ends. Waits for the gateway for
/// as long as its call lasts.
pub(super) async fn send_ended(mut call: Call) {
    let outbound = call.handle.outbound.clone();
    while !call.ended.is_empty()
        && let Ok(permit) = outbound.reserve().await
    {
        permit.send(Ok(WatchResponse { frames: call.take_ended(ENDS_AT_ONCE) }));
    }
}

/// Ends of watches in one response. An error has few hundred bytes.
pub(super) const ENDS_AT_ONCE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_stands_in_a_line_once_and_leaves_it_when_it_ends() {
        let mut line = Line::default();
        for id in [1, 2, 3, 2, 1] {
            line.push(WatcherId(id));
        }
        line.remove(WatcherId(2));
        assert_eq!((line.by_turn.len(), line.turns.len()), (2, 2));
        line.push(WatcherId(2));
        let turns: Vec<_> = std::iter::from_fn(|| line.pop()).collect();
        assert_eq!(turns, [1, 3, 2].map(WatcherId));
    }

    /// The gateway reads nothing at first. Each end is sent, and no watch is closed before.
    #[tokio::test]
    async fn ends_wait_for_a_gateway_and_hold_their_watches_open() {
        let node = Arc::new(Semaphore::new(3_000));
        let (outbound, mut inbound) = mpsc::channel(1);
        let handle = Handle::new(CallId(1), outbound);
        let mut call = Call::new(handle.clone());
        for id in 0..2_000 {
            handle.open(id, ShardId(0), node.clone().try_acquire_owned().unwrap());
            call.push_ended(id, Error::busy("later", 1));
        }
        call.drop_ended(7);
        handle.opened().remove(&7);
        assert_eq!(node.available_permits(), 1_001);
        let sending = tokio::spawn(send_ended(call));
        tokio::task::yield_now().await;
        assert!(handle.opened().len() >= 2_000 - 1 - 2 * ENDS_AT_ONCE);
        let mut ended = 0;
        while ended < 1_999 {
            ended += inbound.recv().await.unwrap().unwrap().frames.len();
        }
        sending.await.unwrap();
        assert_eq!((handle.opened().len(), node.available_permits()), (0, 3_000));
    }
}
