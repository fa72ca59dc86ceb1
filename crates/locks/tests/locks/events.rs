//! Rules of events: each change is told once, to watchers only, and all of them together are the
//! table.

use crate::driver::{Driver, ask};
use palisade_locks::*;
use std::collections::BTreeMap;

/// What a watcher knows of a table from its events alone. Whatever does not fit fails the test.
#[derive(Debug, Default)]
pub struct Seen {
    /// By token: name, owner, session.
    held: BTreeMap<u64, [String; 3]>,
    /// By number: name, owner, session.
    queued: BTreeMap<u64, [String; 3]>,
}

fn of_grant(grant: &Grant) -> [String; 3] {
    assert_eq!(grant.request_id, RequestId(0), "a request id is told");
    [&grant.name, &grant.owner, &grant.session].map(Clone::clone)
}

fn of_waiter(waiter: &Waiter) -> [String; 3] {
    [&waiter.name, &waiter.owner, &waiter.session].map(Clone::clone)
}

impl Seen {
    pub fn take(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Granted { grant, waiter } => {
                    if let Some(waiter) = waiter {
                        let queued = self.queued.remove(&waiter.number);
                        assert_eq!(queued, Some(of_waiter(waiter)), "{event:?}");
                    }
                    let before = self.held.insert(grant.token.0, of_grant(grant));
                    assert_eq!(before, None, "{event:?}");
                }
                Event::Queued(waiter) => {
                    let before = self.queued.insert(waiter.number, of_waiter(waiter));
                    assert_eq!(before, None, "{event:?}");
                }
                Event::Ended { tenure, .. } => {
                    let held = self.held.remove(&tenure.grant.token.0);
                    assert_eq!(held, Some(of_grant(&tenure.grant)), "{event:?}");
                }
                Event::Cancelled { waiter, .. } => {
                    let queued = self.queued.remove(&waiter.number);
                    assert_eq!(queued, Some(of_waiter(waiter)), "{event:?}");
                }
            }
        }
    }

    /// Compares with the picture of the table.
    pub fn compare(&self, table: &mut LockTable, at: Stamp) {
        let page = loop {
            let all = table.picture_page(&PictureOf::default(), None, 1_000, at, &mut 10_000);
            match all {
                Ok(page) => break page,
                Err(_) => continue,
            }
        };
        assert_eq!(page.next, None);
        let blank = |grant: &Grant| Grant { request_id: RequestId(0), ..grant.clone() };
        let held = page.held.iter().map(|grant| (grant.token.0, of_grant(&blank(grant))));
        assert_eq!(held.collect::<BTreeMap<_, _>>(), self.held);
        let queued = page.queued.iter().map(|waiter| (waiter.number, of_waiter(waiter)));
        assert_eq!(queued.collect::<BTreeMap<_, _>>(), self.queued);
    }
}

fn watched() -> Driver {
    let mut d = Driver::new();
    d.watch();
    d
}

/// The kinds of the last command's events, with the token or the waiter's number of each.
fn told(d: &Driver) -> Vec<(EventKind, u64)> {
    let number = |event: &Event| match (event.grant(), event.waiter()) {
        (Some(grant), _) => grant.token.0,
        (None, waiter) => waiter.expect("one of them").number,
    };
    d.effects.events.iter().map(|event| (event.kind(), number(event))).collect()
}

#[test]
fn a_table_that_nobody_watches_makes_no_events() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a"));
    d.release("a", 1);
    assert_eq!(d.effects.events, []);
}

#[test]
fn a_grant_a_wait_and_a_release_are_told_once() {
    use EventKind::*;
    let mut d = watched();
    d.hold(ask(1, "a"));
    assert_eq!(told(&d), [(Granted, 1)]);
    d.queue(ask(2, "a").owner("bob"));
    assert_eq!(told(&d), [(Queued, 1)]);
    let Event::Queued(waiter) = &d.effects.events[0] else { panic!() };
    assert_eq!((waiter.place, waiter.queued_wall_ms), (1, d.at.wall_ms));
    d.acquire(ask(1, "a"));
    assert_eq!(told(&d), [], "a retry of what is held");
    d.acquire(ask(2, "a").wait());
    assert_eq!(told(&d), [], "a retry of what is queued");
    d.renew("a", 1);
    assert_eq!(told(&d), [], "a renewal");
    d.pass(70);
    d.release("a", 1);
    assert_eq!(told(&d), [(Released, 1), (Granted, 2)]);
    let Event::Granted { grant, waiter: Some(waiter) } = &d.effects.events[1] else { panic!() };
    assert_eq!((&*grant.owner, grant.waited_ms, waiter.number), ("bob", 70, 1));
    assert_eq!(waiter.queued_wall_ms, d.at.wall_ms - 70);
    d.release("a", 1);
    assert_eq!(told(&d), [], "a retry of the release");
    d.acquire(ask(3, "a"));
    assert_eq!(told(&d), [], "a refusal");
}

#[test]
fn an_expiry_and_a_break_say_what_they_are() {
    use EventKind::*;
    let mut d = watched();
    d.hold(ask(1, "a"));
    d.renew("a", 1);
    d.expire(LeaseId(1), 0);
    assert_eq!(told(&d), [], "it was renewed since");
    d.expire(LeaseId(1), 1);
    assert_eq!(told(&d), [(Expired, 1)]);
    d.hold(ask(2, "a"));
    d.break_hold("a", 2);
    assert_eq!(told(&d), [(Broken, 2)]);
    let Event::Ended { tenure, with_session: false } = &d.effects.events[0] else { panic!() };
    assert_eq!((&*tenure.broken_by, &*tenure.break_reason), ("root", "stuck"));
    d.break_hold("a", 2);
    assert_eq!(told(&d), [], "nothing was broken");
}

#[test]
fn the_end_of_a_session_tells_each_of_its_grants_and_waits() {
    use EventKind::*;
    for closes in [true, false] {
        let mut d = watched();
        d.hold(ask(1, "a").session("s"));
        d.hold(ask(2, "b").session("s"));
        d.hold(ask(3, "c"));
        d.queue(ask(4, "a"));
        d.queue(ask(5, "c").session("s"));
        if closes {
            d.close("s")
        } else {
            d.expire(LeaseId(1), 0)
        };
        let end = if closes { Released } else { Expired };
        assert_eq!(told(&d), [(end, 1), (end, 2), (Cancelled, 2), (Granted, 4)]);
        let events = &d.effects.events;
        assert!(matches!(events[1], Event::Ended { with_session: true, .. }));
        let Event::Cancelled { waiter, why: WaitEnd::SessionEnded } = &events[2] else { panic!() };
        assert_eq!((&*waiter.session, &*waiter.name), ("s", "c"));
    }
}

#[test]
fn a_wait_that_ends_tells_why() {
    let mut d = watched();
    d.hold(ask(1, "a"));
    let why = |d: &Driver| match &d.effects.events[..] {
        [Event::Cancelled { waiter, why }] => (waiter.number, *why),
        other => panic!("{other:?}"),
    };
    d.queue(ask(2, "a"));
    d.cancel(2, "a");
    assert_eq!(why(&d), (1, WaitEnd::Cancelled));
    d.cancel(2, "a");
    assert_eq!(told(&d), []);
    d.queue(ask(3, "a").session("s"));
    d.leave(3, "a");
    assert_eq!(why(&d), (2, WaitEnd::NotAwaited));
    d.queue(ask(4, "a"));
    d.acquire(ask(4, "a"));
    assert_eq!(why(&d), (3, WaitEnd::Cancelled));
}

#[test]
fn several_heads_are_told_in_the_order_of_their_grants() {
    let mut d = watched();
    d.hold(ask(1, "a"));
    for id in 2..=4 {
        d.queue(ask(id, "a").shared());
    }
    d.release("a", 1);
    let granted = |token| (EventKind::Granted, token);
    let expected = [(EventKind::Released, 1), granted(2), granted(3), granted(4)];
    assert_eq!(told(&d), expected);
}
