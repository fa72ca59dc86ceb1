//! Events and pictures of a table, as a watch tells them.

use crate::outcome::{grant, mode};
use locks::{EndKind, Event, EventKind, Grant, Tenure, WaitEnd, Waiter};
use routing::ShardId;
use wire::v1::{self, GrantState};

/// The event at this place: the index of its entry, and its ordinal among the events of the entry.
/// `wall_ms` is when the entry was proposed.
pub fn event(
    shard: ShardId,
    (index, ordinal): (u64, u32),
    wall_ms: u64,
    event: &Event,
) -> v1::Event {
    let told = v1::Event {
        kind: kind(event.kind()).into(),
        resource_name: event.name().to_owned(),
        shard: shard.0,
        index,
        ordinal,
        at_ms: wall_ms,
        grant: event.grant().map(|held| grant(shard, held.clone())),
        waiter: event.waiter().map(|waiting| waiter(shard, waiting.clone())),
        ..v1::Event::default()
    };
    match event {
        Event::Granted { .. } | Event::Queued(_) => told,
        Event::Ended { tenure, with_session } => ended(told, tenure, *with_session),
        Event::Cancelled { why, .. } => {
            let reason = match why {
                WaitEnd::Cancelled => "cancelled",
                WaitEnd::NotAwaited => "not awaited any more",
                WaitEnd::SessionEnded => "session ended",
            };
            v1::Event { reason: reason.into(), ..told }
        }
    }
}

/// A part of a picture: what is held, and who waits.
pub fn picture(
    shard: ShardId,
    held: Vec<Grant>,
    queued: Vec<Waiter>,
) -> (Vec<v1::Grant>, Vec<v1::Waiter>) {
    let held = held.into_iter().map(|held| grant(shard, held));
    (held.collect(), queued.into_iter().map(|waiting| waiter(shard, waiting)).collect())
}

/// A waiter as clients are told of it.
pub fn waiter(shard: ShardId, waiter: Waiter) -> v1::Waiter {
    let (mode, permits, permit_limit) = mode(waiter.mode);
    v1::Waiter {
        resource_name: waiter.name,
        owner_id: waiter.owner,
        waiter: waiter.number,
        place: waiter.place,
        queued_at_ms: waiter.queued_wall_ms,
        mode: mode.into(),
        permits,
        permit_limit,
        session_id: waiter.session,
        metadata: waiter.metadata,
        principal: waiter.principal,
        shard: shard.0,
    }
}

/// The kind of an event as clients name it.
pub fn kind(kind: EventKind) -> v1::EventKind {
    match kind {
        EventKind::Granted => v1::EventKind::Granted,
        EventKind::Queued => v1::EventKind::Queued,
        EventKind::Released => v1::EventKind::Released,
        EventKind::Expired => v1::EventKind::Expired,
        EventKind::Broken => v1::EventKind::Broken,
        EventKind::Cancelled => v1::EventKind::Cancelled,
    }
}

fn ended(told: v1::Event, tenure: &Tenure, with_session: bool) -> v1::Event {
    let (state, reason) = match (tenure.end, with_session) {
        (EndKind::Broken, _) => (GrantState::Broken, tenure.break_reason.clone()),
        (EndKind::Released, true) => (GrantState::Released, "session closed".into()),
        (EndKind::Released, false) => (GrantState::Released, String::new()),
        (EndKind::Expired, true) => (GrantState::Expired, "session expired".into()),
        (EndKind::Expired, false) => (GrantState::Expired, String::new()),
    };
    let grant = told.grant.map(|held| v1::Grant { state: state.into(), due: false, ..held });
    v1::Event {
        grant,
        reason,
        broken_by: tenure.broken_by.clone(),
        broken_by_principal: tenure.broken_by_principal.clone(),
        ..told
    }
}
