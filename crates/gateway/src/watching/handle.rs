//! The way from a client's watch to the task that serves all of them.

use super::queue::{Budget, Queue};
use crate::connection::Connection;
use crate::core::watch::{Position, WatchId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::mpsc;
use wire::v1::WatchFilter;

/// A request of a client's watch.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A new watch, which goes on after a position.
    Start { id: WatchId, filter: WatchFilter, from: Position, queue: Arc<Queue> },
    /// The client has taken all parts, after its queue had been full.
    Resume(WatchId),
    /// The client is gone.
    Stop(WatchId),
}

/// The other end of [`Watching`].
pub(crate) type Requests = mpsc::UnboundedReceiver<Asked>;

/// The handle to all watches of a gateway.
#[derive(Clone, Debug)]
pub(crate) struct Watching {
    asked: mpsc::UnboundedSender<Asked>,
    last: Arc<AtomicU64>,
    /// The bytes of all queues.
    bytes: Arc<AtomicUsize>,
}

impl Watching {
    pub(crate) fn new() -> (Watching, Requests) {
        // Admission bounds the watches, and each has few requests under way.
        let (asked, requests) = mpsc::unbounded_channel();
        (Watching { asked, last: Arc::default(), bytes: Arc::default() }, requests)
    }

    /// Begins a watch of a client with this connection.
    pub(super) fn start(
        &self,
        filter: WatchFilter,
        from: Position,
        connection: Arc<Connection>,
    ) -> Seat {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let budget = Budget { all: self.bytes.clone(), connection };
        let queue = Arc::new(Queue::new(budget));
        let start = Asked::Start { id, filter, from, queue: queue.clone() };
        let _ = self.asked.send(start); // the gateway ends
        Seat { id, queue, asked: self.asked.clone() }
    }
}

/// A watch that was begun. Dropping it ends the watch.
#[derive(Debug)]
pub(super) struct Seat {
    id: WatchId,
    pub(super) queue: Arc<Queue>,
    asked: mpsc::UnboundedSender<Asked>,
}

impl Seat {
    /// Goes on after the queue had been full.
    pub(super) fn resume(&self) {
        let _ = self.asked.send(Asked::Resume(self.id)); // the gateway ends
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.asked.send(Asked::Stop(self.id)); // the gateway ends
    }
}
