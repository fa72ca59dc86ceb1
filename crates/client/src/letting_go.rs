//! The list of pending releases: locks that no caller holds any more, places in queues, sessions.
//!
//! A release, cancel or close goes on this list if it fails, or if its caller is gone. One task per
//! client retries each until the server has given a final answer, or until the lease has certainly
//! run out. Otherwise the heartbeats of a session would keep a lock alive after its release has
//! failed, for as long as the session lives.
//!
//! The list promises nothing past the end of the process or its Tokio runtime: there the TTL ends
//! the locks. It is bounded. An item that finds it full is left to its TTL too, and a session
//! offers its items again.

mod work;

use crate::Grant;
use crate::session::Keeper;
use crate::unwanted::Unwanted;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Most items on the list. The excess is left to its TTL.
const ITEMS_MAX: usize = 16_384;
/// Requests in flight at a time.
const AT_ONCE: usize = 256;
/// First and longest pause before an item is retried. It doubles each time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The state of one item.
///
/// * Past `until` its lease has run out, unless `keeper` keeps it alive.
#[derive(Debug)]
struct Item {
    offered: Instant,
    until: Instant,
    lives_for: Duration,
    pause: Duration,
    keeper: Option<Keeper>,
    /// A request for the item was sent, so it may be done at any time from then on.
    tried: bool,
}

/// How a try ended.
enum Verdict {
    /// The item is released, or was never held. The verdict is final.
    Done,
    /// The acquire is not waiting, but this cancel may have overtaken it.
    NotYetSeen,
    /// There was no certain answer.
    Again,
    /// The acquire was granted meanwhile.
    Granted(Box<Grant>),
}

/// The list of one client.
#[derive(Debug, Default)]
pub(crate) struct LettingGo {
    state: Mutex<State>,
    /// The runtime for a release if its lock is dropped outside of any runtime.
    runtime: OnceLock<Handle>,
    more: Notify,
    /// The number of items.
    count: watch::Sender<usize>,
}

/// * An item in `items` is in `due` too, once, unless its request is in flight.
#[derive(Debug, Default)]
struct State {
    items: BTreeMap<Unwanted, Item>,
    due: BTreeMap<(Instant, u64), Unwanted>,
    next: u64,
    working: bool,
}

impl State {
    fn plan(&mut self, at: Instant, unwanted: Unwanted) {
        self.next += 1;
        self.due.insert((at, self.next), unwanted);
    }
}

impl LettingGo {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the current runtime. Call this when something begins that may be released later,
    /// because a drop may happen on a thread without a runtime.
    pub(crate) fn remember_runtime(&self) {
        if self.runtime.get().is_none()
            && let Ok(handle) = Handle::try_current()
        {
            let _ = self.runtime.set(handle);
        }
    }

    /// Resolves when the list is empty.
    pub(crate) async fn emptied(&self) {
        let mut count = self.count.subscribe();
        // The sender lives as long as `self`.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    /// Takes the next due item, which counts as in flight from now on, and tells when the one after
    /// it is due.
    fn take_due(&self, now: Instant) -> (Option<Unwanted>, Option<Instant>) {
        let mut state = self.state();
        match state.due.first_key_value().map(|((at, _), _)| *at) {
            Some(at) if at <= now => {
                let taken = state.due.pop_first().map(|(_, unwanted)| unwanted);
                if let Some(item) =
                    taken.as_ref().and_then(|unwanted| state.items.get_mut(unwanted))
                {
                    item.tried = true;
                }
                (taken, None)
            }
            later => (None, later),
        }
    }

    /// The tokens of a name's locks that are to be released.
    pub(crate) fn locks_of(&self, name: &str) -> Vec<u64> {
        if *self.count.borrow() == 0 {
            return Vec::new();
        }
        let lock = |token, session_life| Unwanted::Lock { name: name.into(), token, session_life };
        let state = self.state();
        let locks = state.items.range(lock(0, 0)..=lock(u64::MAX, u64::MAX));
        locks
            .filter_map(
                |(lock, _)| {
                    if let Unwanted::Lock { token, .. } = lock { Some(*token) } else { None }
                },
            )
            .collect()
    }

    /// Takes a lock off the list because its caller came back for it. Returns whether no request
    /// can end the lock any more.
    ///
    /// `before` is the result of [`locks_of`](Self::locks_of) before the acquire was sent. A lock
    /// that has left the list since then was released.
    pub(crate) fn take_back(&self, grant: &Grant, before: &[u64]) -> bool {
        let was_here = before.contains(&grant.fencing_token);
        if !was_here && *self.count.borrow() == 0 {
            return true;
        }
        let lock = Unwanted::lock(grant);
        let mut state = self.state();
        match state.items.get(&lock) {
            None => !was_here,
            Some(item) if item.tried => false,
            Some(_) => {
                state.items.remove(&lock);
                state.due.retain(|_, due| *due != lock);
                self.count.send_replace(state.items.len());
                true
            }
        }
    }

    /// Returns whether the work is over. If so, the next offer starts a new task.
    fn stop_if_empty(&self) -> bool {
        let mut state = self.state();
        if state.items.is_empty() {
            state.working = false;
        }
        !state.working
    }

    /// Plans the next try after a verdict. Returns the item if there will be no other try.
    fn tried(&self, unwanted: &Unwanted, verdict: &Verdict, timeout: Duration) -> Option<Item> {
        let now = Instant::now();
        let mut state = self.state();
        let item = state.items.get_mut(unwanted)?;
        let over = match verdict {
            Verdict::Done | Verdict::Granted(_) => true,
            // By then the server refuses the acquire as too old, if it ever arrives.
            Verdict::NotYetSeen => now >= item.offered + timeout,
            Verdict::Again => {
                if item.keeper.as_ref().is_some_and(Keeper::keeps) {
                    item.until = now + item.lives_for;
                }
                now >= item.until
            }
        };
        if over {
            let item = state.items.remove(unwanted);
            self.count.send_replace(state.items.len());
            return item;
        }
        let at = now + item.pause;
        item.pause = (item.pause * 2).min(PAUSE.1);
        state.plan(at, unwanted.clone());
        None
    }
}
