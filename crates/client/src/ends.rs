//! Hears at once that a lock which is held here has ended: by a break, an expiry, or a release.
//!
//! * A watch only makes a lock lost. It keeps none, and delays no renewal.
//! * An event is final: a token that has ended never begins again, however late the event comes. An
//!   event about another token changes nothing.
//! * A complete state without the token ends nothing. It makes a renewal due at once, and the
//!   answer to the renewal decides.
//! * If the gateways know no watches, or the client may not watch, a holder hears of an end with
//!   its next renewal.
//!
//! The rule about states has two sides. A state without the token must not be ignored:
//!
//! 1. A lock is granted, and is broken before its watch begins, or while a watch that was too slow
//!    is told anew.
//! 2. Its break is no event after the state. The only sign of it is that the state lacks the token.
//!
//! It must not be believed either:
//!
//! 1. A replica that lags may tell a state of an index before that of the grant. The lock is held.
//! 2. The client cannot compare the two, because neither a grant nor a state tells its index.
//!
//! A renewal that is sent after the state was told passes through the log after both the grant and
//! the break, so its answer is right. The answer to a renewal that was sent earlier may be older
//! than the break, and settles nothing ([`Lease::doubt`](crate::lease::Lease::doubt)).

use crate::hearing::Subject;
use crate::{Client, Error, ErrorCode, Watch, WatchOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::Instant;
use wire::v1::{Event, EventKind, WatchState};

/// How long a lock is held before it is watched, so that a short hold costs no watch.
const HELD_FOR: Duration = Duration::from_millis(250);
/// The kinds of events that end a hold.
const KINDS: [EventKind; 3] = [EventKind::Released, EventKind::Expired, EventKind::Broken];
/// Longest delay of a try after a refusal is forgotten, so that the tries do not come all at once.
const SPREAD: Duration = Duration::from_secs(60);

/// What a watch tells about holds.
pub(crate) enum Heard<'a> {
    /// Perhaps the end of a hold: see [`reason`].
    Event(&'a Event),
    /// The tokens of all holds on one shard.
    State { shard: u32, tokens: BTreeSet<u64> },
}

/// Watches a hold once it is worth it, and passes on what is heard until `on` breaks. A watch that
/// is refused is tried again after some minutes. It never returns before, unless the client does
/// not watch what it holds.
pub(crate) async fn hear(
    client: &Client,
    subject: Subject,
    options: WatchOptions,
    mut on: impl FnMut(Heard<'_>) -> ControlFlow<()>,
) {
    if !client.options().watch_held {
        return;
    }
    tokio::time::sleep(HELD_FOR).await;
    let hearing = client.hearing();
    let options = options.kinds(KINDS);
    let (mut watch, mut states) = (client.watch(options.clone()), States::default());
    loop {
        let Some(place) = hearing.place(&subject).await else { return };
        // Another may have been refused while this one waited for its place.
        if let Some(until) = hearing.refused_until(&subject) {
            drop(place);
            let spread = SPREAD.mul_f64(rand::random_range(0.0..1.0));
            tokio::time::sleep_until(until.max(Instant::now()) + spread).await;
            continue;
        }
        let Err(why) = follow(&mut watch, &mut states, &mut on).await else { return };
        tracing::debug!(%why, "held locks are not watched: an end shows with a renewal");
        if why.code == ErrorCode::Unauthenticated {
            // The token may be good again once its file is written anew.
            watch.back_off();
            continue;
        }
        // No gateway knows watches, or this one is refused.
        let is_unknown = why.code == ErrorCode::Internal;
        hearing.refused(if is_unknown { Subject::Any } else { subject.clone() });
        // Its position may have been the reason.
        (watch, states) = (client.watch(options.clone()), States::default());
    }
}

/// Passes on what a watch tells, until `on` breaks or the watch is refused.
async fn follow(
    watch: &mut Watch,
    states: &mut States,
    on: &mut impl FnMut(Heard<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    loop {
        let told = watch.next().await?;
        let complete = told.state.as_ref().and_then(|part| states.take(part));
        let state = complete.map(|(shard, tokens)| Heard::State { shard, tokens });
        let events = told.events.iter().map(Heard::Event);
        if state.into_iter().chain(events).any(|heard| on(heard).is_break()) {
            return Ok(());
        }
    }
}

/// The states that are told in parts: the tokens so far, by shard.
#[derive(Debug, Default)]
struct States(BTreeMap<u32, BTreeSet<u64>>);

impl States {
    /// Takes in a part. Returns the shard and its tokens with the last part.
    fn take(&mut self, part: &WatchState) -> Option<(u32, BTreeSet<u64>)> {
        let tokens = self.0.entry(part.shard).or_default();
        if part.first {
            tokens.clear();
        }
        tokens.extend(part.held.iter().map(|grant| grant.fencing_token));
        if part.last { self.0.remove_entry(&part.shard) } else { None }
    }
}

/// Why the hold of an event has ended, in words. `None` if the event ends none.
pub(crate) fn reason(event: &Event) -> Option<String> {
    let by = match (event.broken_by.as_str(), event.broken_by_principal.as_str()) {
        ("", "") => String::new(),
        ("", by) | (by, _) => format!(" by {by}"),
    };
    match event.kind() {
        EventKind::Broken if event.reason.is_empty() => Some(format!("it was broken{by}")),
        EventKind::Broken => Some(format!("it was broken{by}: {}", event.reason)),
        EventKind::Expired => Some("its lease expired".into()),
        EventKind::Released => Some("it was released by its token, or with its session".into()),
        _ => None,
    }
}
