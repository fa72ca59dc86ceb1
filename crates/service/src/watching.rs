//! Events and pictures of a table, as a watch tells them.

use crate::outcome::{grant, waiter};
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

/// A part of a picture: grants and waiters.
pub fn picture(
    shard: ShardId,
    held: Vec<Grant>,
    queued: Vec<Waiter>,
) -> (Vec<v1::Grant>, Vec<v1::Waiter>) {
    let held = held.into_iter().map(|held| grant(shard, held));
    (held.collect(), queued.into_iter().map(|waiting| waiter(shard, waiting)).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use locks::{Command, Effects, LeaseId, LockTable, Mode, RequestId, Stamp, Token};

    const AT: Stamp = Stamp { wall_ms: 1_000, shard_ms: 0 };

    /// Applies commands, and translates the events of the last one.
    fn told(commands: &[Command<'_>]) -> Vec<v1::Event> {
        let mut table = LockTable::new();
        let mut effects = Effects { watched: true, ..Effects::default() };
        for command in commands {
            effects.events.clear();
            table.apply(AT, command, &mut effects);
        }
        let at = |ordinal| (7, ordinal);
        let events = (0..).zip(&effects.events);
        events.map(|(ordinal, told)| event(ShardId(3), at(ordinal), 1_000, told)).collect()
    }

    fn acquire<'a>(id: u128, owner: &'a str, session: &'a str) -> Command<'a> {
        Command::Acquire {
            request_id: RequestId(id),
            name: "orders",
            owner,
            ttl_ms: 5_000,
            mode: Mode::Permits { count: 1, limit: 1 },
            wait: true,
            session,
            metadata: "why",
            claim_ttl_ms: 0,
        }
    }

    fn kinds(told: &[v1::Event]) -> Vec<(v1::EventKind, u32, &str)> {
        told.iter().map(|event| (event.kind(), event.ordinal, &*event.reason)).collect()
    }

    #[test]
    fn a_release_that_hands_over_is_two_events_of_one_entry() {
        let by = Some(LeaseId::NONE);
        let release = Command::Release { name: "orders", token: Token(1), by };
        let told = told(&[acquire(1, "ann", ""), acquire(2, "bob", ""), release]);
        let expected = [(v1::EventKind::Released, 0, ""), (v1::EventKind::Granted, 1, "")];
        assert_eq!(kinds(&told), expected);
        assert!(told.iter().all(|event| (event.index, event.shard, event.at_ms) == (7, 3, 1_000)));
        let (released, granted) =
            (told[0].grant.as_ref().unwrap(), told[1].grant.as_ref().unwrap());
        assert_eq!((released.state(), released.due), (GrantState::Released, false));
        assert_eq!((granted.state(), &*granted.owner_id), (GrantState::Acquired, "bob"));
        let waiter = told[1].waiter.as_ref().unwrap();
        assert_eq!((waiter.waiter, &*waiter.metadata, waiter.permit_limit), (1, "why", 1));
    }

    #[test]
    fn a_break_says_who_and_why_and_a_wait_how_it_ended() {
        let broken =
            Command::Break { name: "orders", token: Token(1), by: "root", reason: "stuck" };
        let told_broken = told(&[acquire(1, "ann", ""), broken]);
        assert_eq!(kinds(&told_broken), [(v1::EventKind::Broken, 0, "stuck")]);
        assert_eq!(told_broken[0].broken_by, "root");
        let cancel =
            Command::CancelWait { name: "orders", request_id: RequestId(2), given_up: false };
        let told_cancelled = told(&[acquire(1, "ann", ""), acquire(2, "bob", ""), cancel]);
        let expected = [(v1::EventKind::Cancelled, 0, "not awaited any more")];
        assert_eq!(kinds(&told_cancelled), expected);
        assert!(told_cancelled[0].grant.is_none());
    }

    #[test]
    fn the_end_of_a_session_is_the_reason_of_the_ends_of_what_it_has() {
        let close = Command::CloseSession { session: "s" };
        let told = told(&[acquire(1, "ann", "s"), acquire(2, "bob", "s"), close]);
        let expected = [
            (v1::EventKind::Released, 0, "session closed"),
            (v1::EventKind::Cancelled, 1, "session ended"),
        ];
        assert_eq!(kinds(&told), expected);
    }
}
