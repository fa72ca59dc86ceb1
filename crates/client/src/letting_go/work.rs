//! The work on the list: one task per client sends the requests, as long as there are items.

use super::{AT_ONCE, ITEMS_MAX, Item, PAUSE, Verdict};
use crate::session::Keeper;
use crate::unwanted::Unwanted;
use crate::{Cancelled, Client};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

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
                    Cancelled { grant: Some(grant), .. } => Verdict::Granted(Box::new(grant)),
                    Cancelled { cancelled: true, .. } => Verdict::Done,
                    _ => Verdict::NotYetSeen,
                })
            }
            Unwanted::Session { id, shards } => {
                self.close_session(id, shards).await.map(|_| Verdict::Done)
            }
        };
        outcome.unwrap_or_else(|error| {
            if error.is_final() {
                return Verdict::Done;
            }
            tracing::debug!(?unwanted, %error, "not let go yet: tried again");
            Verdict::Again
        })
    }
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
