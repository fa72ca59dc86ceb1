//! The acquires of clients that are gone, on their way to be cleaned up.

use crate::admission::WaitPlace;
use crate::core::{Caller, Cleanup, is_unknown};
use crate::limits::{LEAVES_AT_ONCE, LEAVES_MAX};
use link::mux::Answer;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Notify, mpsc};
use wire::limits::REQUEST_ID_BYTES;
use wire::v1::AcquireRequest;

/// One acquire of a client that is gone.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) cleanup: Cleanup,
    /// The place of a wait. It is held until the first try to leave the queue has ended, and no
    /// longer. Without a leader all tries may fail for as long as the wait, and the place is needed
    /// for clients that live.
    pub(crate) place: Option<WaitPlace>,
}

/// A cleanup, and how many tries it had.
pub(crate) type Next = (Left, u32);

/// The other end of [`Leaving`].
pub(crate) type LeftBehind = mpsc::UnboundedReceiver<Next>;

/// The queue that takes acquires of clients that are gone.
#[derive(Clone, Debug)]
pub(crate) struct Leaving {
    queue: mpsc::UnboundedSender<Next>,
    count: Arc<AtomicUsize>,
    closed: Arc<Notify>,
}

impl Leaving {
    pub(crate) fn new() -> (Leaving, LeftBehind) {
        let (queue, left) = mpsc::unbounded_channel(); // at most LEAVES_MAX
        (Leaving { queue, count: Arc::default(), closed: Arc::default() }, left)
    }

    /// Queues an acquire for cleanup. Above [`LEAVES_MAX`] it is dropped, and ends by its own time.
    ///
    /// If the first try has to queue behind others, the acquire's place is given back at once,
    /// because its turn may be minutes away.
    pub(crate) fn push(&self, mut left: Left) {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        if before >= LEAVES_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            let name = left.cleanup.name();
            tracing::debug!(name, "too much is left behind: its own time ends this");
            return;
        }
        if before >= LEAVES_AT_ONCE {
            left.place = None;
        }
        let _ = self.queue.send((left, 0)); // the gateway ends
    }

    /// Says that nothing more comes, so that the cleanups end when the last one has ended.
    pub(crate) fn close(&self) {
        self.closed.notify_one();
    }

    /// Waits for [`close`](Self::close).
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// The cleanups that have not ended.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// One cleanup has ended.
    pub(crate) fn done(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An acquire in flight. If it is dropped before the answer, its client is gone.
#[derive(Debug)]
pub(crate) struct Unanswered {
    leaving: Leaving,
    cleanup: Option<Cleanup>,
}

impl Unanswered {
    /// Tracks an acquire without a request id, and gives it one. No client can ever take up its
    /// grant, because only this gateway knows the id.
    ///
    /// `None` if the client sent an id, because it may come back with it.
    pub(crate) fn of(
        caller: &Caller,
        acquire: &mut AcquireRequest,
        timeout_ms: u32,
        leaving: &Leaving,
        now_ms: u64,
    ) -> Option<Unanswered> {
        if !acquire.request_id.is_empty() {
            return None;
        }
        acquire.request_id = rand::random::<[u8; REQUEST_ID_BYTES]>().to_vec();
        let cleanup = Some(Cleanup::of(caller.clone(), acquire, timeout_ms, true, now_ms));
        Some(Unanswered { leaving: leaving.clone(), cleanup })
    }

    /// Tracks a grant until it is known to be taken. It is released otherwise.
    pub(crate) fn granted(cleanup: Cleanup, granted: &Answer, leaving: &Leaving) -> Unanswered {
        Unanswered { leaving: leaving.clone(), cleanup: cleanup.after(granted) }
    }

    /// Ends the tracking: the client has the grant, or the grant has ended.
    pub(crate) fn end(mut self) {
        self.cleanup = None;
    }

    /// Ends the tracking. If the answer leaves the outcome open, the acquire is cleaned up too:
    /// without an id its client cannot retry.
    pub(crate) fn answered(mut self, answer: &Answer) {
        if !is_unknown(answer) {
            self.cleanup = None;
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(cleanup) = self.cleanup.take() {
            self.leaving.push(Left { cleanup, place: None });
        }
    }
}
