//! The parts that the client of one watch has not taken yet.
//!
//! * A queue is bounded in parts and bytes. All queues together are bounded in bytes, and so are
//!   those of one connection. A part that finds no room is dropped, and the watch is stopped until
//!   the client has taken all others.
//! * An empty queue has room for one part of any size.
//! * While a state is being told, the bound is higher. A state that does not fit ends the watch,
//!   because to begin it again would come to the same.

use crate::connection::Connection;
use crate::core::watch::{Part, Taken};
use crate::limits::{
    WATCH_BYTES_MAX, WATCH_BYTES_MIN, WATCH_PARTS_MAX, WATCH_STATE_BYTES_MAX, WATCHES_BYTES_MAX,
};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use wire::encoded_bytes;
use wire::v1::Error;

/// The bytes of all queues, and of those of one connection among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    pub(super) all: Arc<AtomicUsize>,
    pub(super) connection: Arc<Connection>,
}

impl Budget {
    /// Whether the connection has a quarter of what is free. So a few that read nothing leave room
    /// for all others.
    fn is_spent(&self) -> bool {
        let free = WATCHES_BYTES_MAX.saturating_sub(self.all.load(Relaxed));
        self.connection.watch_bytes.load(Relaxed) >= free / 4
    }

    fn add(&self, bytes: usize) {
        self.all.fetch_add(bytes, Relaxed);
        self.connection.watch_bytes.fetch_add(bytes, Relaxed);
    }

    fn sub(&self, bytes: usize) {
        self.all.fetch_sub(bytes, Relaxed);
        self.connection.watch_bytes.fetch_sub(bytes, Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    /// Signals a part, or the end.
    ready: Notify,
    budget: Budget,
}

#[derive(Debug, Default)]
struct Inner {
    parts: VecDeque<(Part, usize)>,
    bytes: usize,
    /// The shards with a state that is not told to its end.
    states: BTreeSet<u32>,
    /// A part found no room.
    full: bool,
    over: Option<Box<Error>>,
}

/// An item that a client takes out of its queue.
#[derive(Debug)]
pub(super) enum Next {
    Part(Part),
    /// All is taken, and the watch is stopped because the queue had been full.
    Resume,
    Over(Box<Error>),
}

impl Queue {
    pub(super) fn new(budget: Budget) -> Queue {
        Queue { inner: Mutex::default(), ready: Notify::new(), budget }
    }

    /// Puts in a part, if there is room.
    pub(super) fn push(&self, part: Part) -> Taken {
        let bytes = bytes_of(&part);
        let mut inner = self.lock();
        if inner.over.is_some() {
            return Taken::Over;
        }
        let telling = part.state.is_some() || inner.states.contains(&part.shard);
        if !inner.parts.is_empty() {
            let spent = self.budget.is_spent();
            let max = match telling {
                true if !spent => WATCH_STATE_BYTES_MAX,
                false if !spent => WATCH_BYTES_MAX,
                _ => WATCH_BYTES_MIN,
            };
            let has_room =
                inner.bytes + bytes <= max && (telling || inner.parts.len() < WATCH_PARTS_MAX);
            if !has_room && telling && !spent {
                inner.over = Some(Box::new(too_large()));
                self.ready.notify_one();
                return Taken::Over;
            }
            if !has_room {
                // The states begin anew when the client has taken the parts in the queue.
                (inner.full, inner.states) = (true, BTreeSet::new());
                return Taken::Full;
            }
        }
        self.put(inner, part, bytes);
        Taken::Yes
    }

    /// Puts in a part however full the queue is. For the few that no node makes.
    pub(super) fn push_always(&self, part: Part) {
        let bytes = bytes_of(&part);
        self.put(self.lock(), part, bytes);
    }

    /// Ends the watch, once the client has taken the parts that are left.
    pub(super) fn end(&self, error: Box<Error>) {
        self.lock().over.get_or_insert(error);
        self.ready.notify_one();
    }

    fn put(&self, mut inner: MutexGuard<'_, Inner>, part: Part, bytes: usize) {
        if let Some(state) = &part.state {
            match state.last {
                true => inner.states.remove(&part.shard),
                false => inner.states.insert(part.shard),
            };
        }
        inner.bytes += bytes;
        self.budget.add(bytes);
        inner.parts.push_back((part, bytes));
        drop(inner);
        self.ready.notify_one();
    }

    /// The next part, if there is one. `fits` looks at it first, with its size.
    pub(super) fn next_if(&self, fits: impl FnOnce(&Part, usize) -> bool) -> Option<(Part, usize)> {
        let mut inner = self.lock();
        if !inner.parts.front().is_some_and(|(part, bytes)| fits(part, *bytes)) {
            return None;
        }
        let (part, bytes) = inner.parts.pop_front()?;
        inner.bytes -= bytes;
        self.budget.sub(bytes);
        Some((part, bytes))
    }

    /// The next item. Dropping the future loses nothing.
    pub(super) async fn next(&self) -> Next {
        loop {
            if let Some((part, _)) = self.next_if(|_, _| true) {
                return Next::Part(part);
            }
            {
                let mut inner = self.lock();
                if let Some(error) = &inner.over {
                    return Next::Over(error.clone());
                }
                if std::mem::take(&mut inner.full) {
                    return Next::Resume;
                }
            }
            self.ready.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.budget.sub(self.lock().bytes);
    }
}

fn bytes_of(part: &Part) -> usize {
    let events: usize = part.events.iter().map(encoded_bytes).sum();
    events + part.state.as_ref().map_or(0, encoded_bytes) + std::mem::size_of::<Part>()
}

fn too_large() -> Error {
    let message = "the state of a shard did not fit, because this client does not read it fast \
        enough: read faster, or watch fewer locks";
    Error::busy(message, 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::{ErrorCode, Event, WatchState};

    fn event(bytes: usize) -> Part {
        let event = Event { resource_name: "n".repeat(bytes), ..Default::default() };
        Part { shard: 1, events: vec![event], ..Part::default() }
    }

    fn state(bytes: usize, last: bool) -> Part {
        let grant = wire::v1::Grant { metadata: "n".repeat(bytes), ..Default::default() };
        let state = WatchState { shard: 1, held: vec![grant], last, ..Default::default() };
        Part { shard: 1, state: Some(state), ..Part::default() }
    }

    async fn taken(queue: &Queue) -> usize {
        let mut parts = 0;
        while let Next::Part(_) = queue.next().await {
            parts += 1;
        }
        parts
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_fills_its_queue_and_nothing_else() {
        let budget = Budget::default();
        let (slow, other) = (Queue::new(budget.clone()), Queue::new(budget.clone()));
        assert_eq!(slow.push(event(2 * WATCH_BYTES_MAX)), Taken::Yes, "the first has room");
        assert_eq!(slow.push(event(1)), Taken::Full);
        assert_eq!(other.push(event(1)), Taken::Yes);
        assert!(matches!(slow.next().await, Next::Part(_)));
        assert!(matches!(slow.next().await, Next::Resume));
        while slow.push(event(1)) == Taken::Yes {}
        assert_eq!(taken(&slow).await, WATCH_PARTS_MAX);
        drop((slow, other));
        assert_eq!(budget.all.load(Relaxed), 0);
        assert_eq!(budget.connection.watch_bytes.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_state_has_more_room_and_ends_the_watch_if_it_does_not_fit() {
        let queue = Queue::new(Budget::default());
        let part = WATCH_BYTES_MAX / 2;
        let fit = (0..).take_while(|_| queue.push(state(part, false)) == Taken::Yes).count();
        assert!((60..=64).contains(&fit), "{fit}");
        for _ in 0..fit {
            assert!(matches!(queue.next().await, Next::Part(_)));
        }
        let Next::Over(error) = queue.next().await else { panic!("not over") };
        assert_eq!(error.code(), ErrorCode::Busy);
    }

    #[test]
    fn above_the_budget_of_all_each_has_a_little_room() {
        let budget = Budget::default();
        budget.all.store(WATCHES_BYTES_MAX, Relaxed);
        let queue = Queue::new(budget.clone());
        assert_eq!(queue.push(state(WATCH_BYTES_MIN / 2, false)), Taken::Yes);
        assert_eq!(queue.push(state(WATCH_BYTES_MIN, false)), Taken::Full, "not over");
        budget.all.store(queue.lock().bytes, Relaxed);
    }

    /// Regression: eight states that one client did not read took the room of all watches.
    #[test]
    fn a_connection_has_at_most_a_quarter_of_the_room_that_is_free() {
        let all = Arc::<AtomicUsize>::default();
        let of_connection = || Budget { all: all.clone(), connection: Arc::default() };
        let (greedy, other) = (of_connection(), of_connection());
        let queues: Vec<Queue> = (0..256).map(|_| Queue::new(greedy.clone())).collect();
        for queue in &queues {
            while queue.push(state(WATCH_BYTES_MAX / 2, false)) == Taken::Yes {}
        }
        let spent = all.load(Relaxed);
        // A fifth, and the first part of each queue.
        assert!(spent <= WATCHES_BYTES_MAX / 5 + 257 * WATCH_BYTES_MAX / 2, "{spent}");
        let queue = Queue::new(other);
        for _ in 0..16 {
            assert_eq!(queue.push(state(WATCH_BYTES_MAX / 2, false)), Taken::Yes);
        }
    }
}
