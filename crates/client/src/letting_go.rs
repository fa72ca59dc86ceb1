//! The list of pending releases: locks that no caller holds any more, places in queues, sessions.
//!
//! A release, cancel or close that fails, or whose caller is gone, goes on this list. One task per
//! client retries each until the server has given a final answer, or until the lease has certainly
//! run out. Otherwise the heartbeats of a session would keep a lock alive whose release failed, for
//! as long as the session lives.
//!
//! The list promises nothing past the end of the process or its Tokio runtime: there the TTL ends
//! the locks. It is bounded. An item that finds it full is left to its TTL too, and a session
//! offers its items again.

use crate::options::RequestId;
use crate::session::Keeper;
use crate::{Cancelled, Client, Error, Grant};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
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

/// Something to be released.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unwanted {
    /// A grant, with its `session_life`.
    Lock { name: String, token: u64, session_life: u64 },
    /// An acquire that may be queued, granted, or on its way.
    Wait { name: String, request_id: RequestId },
    /// A session on these shards.
    Session { id: String, shards: Vec<u32> },
}

impl Unwanted {
    pub(crate) fn lock(grant: &Grant) -> Unwanted {
        let (name, token, session_life) =
            (grant.resource_name.clone(), grant.fencing_token, grant.session_life);
        Unwanted::Lock { name, token, session_life }
    }
}

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
    Granted(Grant),
}

/// The list of one client.
#[derive(Debug, Default)]
pub(crate) struct LettingGo {
    state: Mutex<State>,
    /// The runtime for a release whose lock is dropped outside of any runtime.
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

impl Client {
    /// Puts something on the list, unless it is there already. `lives_for` is its life at the
    /// server without renewal.
    pub(crate) fn let_go(&self, unwanted: Unwanted, lives_for: Duration, keeper: Option<Keeper>) {
        let list = self.letting_go();
        let Some(runtime) = Handle::try_current().ok().or_else(|| list.runtime.get().cloned())
        else {
            tracing::debug!(?unwanted, "no runtime to let this go on: it ends with its TTL");
            return;
        };
        let now = Instant::now();
        // A change of leaders starts a lease anew, which adds one TTL.
        let lives_for = 2 * lives_for + self.options().timeout;
        let item = Item {
            offered: now,
            until: now + lives_for,
            lives_for,
            pause: PAUSE.0,
            keeper,
            tried: false,
        };
        let mut state = list.state();
        if state.items.contains_key(&unwanted) {
            return;
        }
        if state.items.len() >= ITEMS_MAX {
            tracing::warn!(
                ?unwanted,
                "{ITEMS_MAX} locks and waits wait to be let go: this one ends with its TTL"
            );
            return;
        }
        state.plan(now, unwanted.clone());
        state.items.insert(unwanted, item);
        list.count.send_replace(state.items.len());
        let start = !std::mem::replace(&mut state.working, true);
        drop(state);
        if start {
            runtime.spawn(work(Working { client: self.clone(), over: false }));
        } else {
            list.more.notify_one();
        }
    }

    async fn try_to_let_go(&self, unwanted: &Unwanted) -> Verdict {
        let outcome = match unwanted {
            Unwanted::Lock { name, token, session_life } => {
                self.release_of(name, *token, *session_life).await.map(|_| Verdict::Done)
            }
            Unwanted::Wait { name, request_id } => {
                self.cancel_wait(name, *request_id).await.map(|cancelled| match cancelled {
                    Cancelled { grant: Some(grant), .. } => Verdict::Granted(grant),
                    Cancelled { cancelled: true, .. } => Verdict::Done,
                    _ => Verdict::NotYetSeen,
                })
            }
            Unwanted::Session { id, shards } => {
                self.close_session(id, shards).await.map(|_| Verdict::Done)
            }
        };
        outcome.unwrap_or_else(|error| {
            if is_final(&error) {
                return Verdict::Done;
            }
            tracing::debug!(?unwanted, %error, "not let go yet: tried again");
            Verdict::Again
        })
    }
}

/// Whether a retry cannot change the answer, because the lock is not held (any more).
pub(crate) fn is_final(error: &Error) -> bool {
    error.is_fenced() || error.is_invalid()
}

/// The task's hold on its client. If the task is ended with its runtime, the next offer starts
/// another task.
struct Working {
    client: Client,
    over: bool,
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut state = self.client.letting_go().state();
        let state = &mut *state;
        state.working = false;
        state.due.clear();
        let now = Instant::now();
        for unwanted in state.items.keys() {
            state.next += 1;
            state.due.insert((now, state.next), unwanted.clone());
        }
    }
}

async fn work(mut working: Working) {
    let client = &working.client.clone();
    let list = client.letting_go();
    let mut running = FuturesUnordered::new();
    loop {
        let mut next_due = None;
        while running.len() < AT_ONCE {
            let (taken, due) = list.take_due(Instant::now());
            next_due = due;
            let Some(unwanted) = taken else { break };
            running.push(async move {
                let verdict = client.try_to_let_go(&unwanted).await;
                (unwanted, verdict)
            });
        }
        if running.is_empty() && next_due.is_none() && list.stop_if_empty() {
            working.over = true;
            return;
        }
        let wake_at = next_due.unwrap_or_else(|| Instant::now() + PAUSE.1);
        tokio::select! {
            Some((unwanted, verdict)) = running.next() => {
                let over = list.tried(&unwanted, &verdict, client.options().timeout);
                let keeper = over.and_then(|item| item.keeper);
                match (verdict, unwanted, keeper) {
                    (Verdict::Granted(grant), _, keeper) => {
                        let lives_for = Duration::from_millis(grant.ttl_ms.into());
                        client.let_go(Unwanted::lock(&grant), lives_for, keeper);
                    }
                    (_, Unwanted::Lock { name, token, .. }, Some(keeper)) => keeper.forget(&name, token),
                    _ => {}
                }
            }
            () = list.more.notified() => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }
}
