//! Rules of pictures: each grant and each waiter once, however many pages there are, and the order
//! of queues.

use crate::driver::{Driver, ask};
use palisade_locks::*;

/// Rows that one call may touch. Few, so that most pages end early.
const ROWS: usize = 7;

/// What is told of a table: (name, token) of grants, and (name, number, place) of waiters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub held: Vec<(String, u64)>,
    pub queued: Vec<(String, u64, u32)>,
}

impl Told {
    fn add(&mut self, page: &PicturePage) {
        self.held.extend(page.held.iter().map(|grant| (grant.name.clone(), grant.token.0)));
        let queued = page.queued.iter();
        self.queued.extend(queued.map(|waiter| (waiter.name.clone(), waiter.number, waiter.place)));
    }
}

fn page(d: &mut Driver, of: &PictureOf, after: Option<&PicturePlace>) -> PicturePage {
    loop {
        if let Ok(page) = d.table.picture_page(of, after, 3, d.at, &mut ROWS.clone()) {
            assert!(page.held.len() + page.queued.len() <= 3);
            return page;
        }
    }
}

/// The whole picture, and how many pages it took.
pub fn picture(d: &mut Driver, of: &PictureOf) -> (Told, usize) {
    let (mut told, mut after, mut pages) = (Told::default(), None, 0);
    loop {
        let page = page(d, of, after.as_ref());
        told.add(&page);
        pages += 1;
        match page.next {
            Some(next) => after = Some(next),
            None => return (told, pages),
        }
    }
}

/// Ten shared holders of "a" with twelve waiters, of which half belong to a session; "b" of bob;
/// and "c" of the session.
fn busy() -> Driver {
    let mut d = Driver::new();
    for id in 1..=10 {
        d.hold(ask(id, "a").shared());
    }
    for id in 11..=22 {
        let ask = ask(id, "a");
        d.queue(if id % 2 == 0 { ask.session("s") } else { ask });
    }
    d.hold(ask(30, "b").owner("bob"));
    d.hold(ask(31, "c").session("s"));
    d
}

fn names<T: Clone>(name: &str, rows: impl IntoIterator<Item = T>) -> Vec<(String, T)> {
    rows.into_iter().map(|row| (name.to_owned(), row)).collect()
}

#[test]
fn waiters_are_told_in_the_order_of_their_turns() {
    let mut d = busy();
    d.leave(13, "a");
    d.pass(40);
    let told = d.table.waiters_of("a", 4, d.at);
    let numbers: Vec<_> = told.iter().map(|waiter| (waiter.place, waiter.number)).collect();
    assert_eq!(numbers, [(1, 1), (2, 2), (3, 4), (4, 5)]);
    assert_eq!((&*told[0].session, &*told[1].session), ("", "s"));
    assert_eq!(told[0].queued_wall_ms, d.at.wall_ms - 40);
    assert_eq!(d.table.waiters_of("a", 100, d.at).len(), 11);
    assert_eq!(d.table.waiters_of("free", 100, d.at), []);
}

#[test]
fn a_picture_tells_each_grant_and_each_waiter_once() {
    let mut d = busy();
    let (told, pages) = picture(&mut d, &PictureOf::default());
    let mut held = names("a", 1..=10);
    held.extend([("b".into(), 11), ("c".into(), 12)]);
    assert_eq!(told.held, held);
    assert_eq!(told.queued, (1..=12).map(|n| ("a".into(), n, n as u32)).collect::<Vec<_>>());
    assert!(pages > 8, "{pages}");
}

#[test]
fn a_picture_of_one_name_needs_no_order_of_all_names() {
    let mut d = busy();
    let of = PictureOf { name: Some("a".into()), ..PictureOf::default() };
    let (told, _) = picture(&mut d, &of);
    assert_eq!((told.held, told.queued.len()), (names("a", 1..=10), 12));
    let of_free = PictureOf { name: Some("free".into()), ..PictureOf::default() };
    assert_eq!(picture(&mut d, &of_free).0, Told::default());
    assert!(!d.table.is_ordered());
    let of_both = PictureOf { prefix: "b".into(), ..of };
    assert_eq!(picture(&mut d, &of_both).0, Told::default(), "all that is given must match");
}

#[test]
fn a_picture_has_the_rows_of_its_session_or_owner_only() {
    let mut d = busy();
    let of = PictureOf { session: "s".into(), ..PictureOf::default() };
    let (told, _) = picture(&mut d, &of);
    assert_eq!(told.held, names("c", [12]));
    let numbers: Vec<_> = told.queued.iter().map(|(_, number, _)| *number).collect();
    assert_eq!(numbers, [2, 4, 6, 8, 10, 12]);
    assert!(!d.table.is_ordered());
    let of = PictureOf { prefix: "c".into(), ..of };
    assert_eq!(picture(&mut d, &of).0, Told { held: names("c", [12]), queued: Vec::new() });

    let of = PictureOf { owner: "bob".into(), ..PictureOf::default() };
    assert_eq!(picture(&mut d, &of).0, Told { held: names("b", [11]), queued: Vec::new() });
}

/// Two identities with sessions of the same id.
#[test]
fn a_picture_has_the_sessions_of_all_identities() {
    let mut d = Driver::new();
    for id in 1..=8 {
        d.by(if id % 2 == 0 { "ann" } else { "bob" });
        d.hold(ask(id, &format!("n{id}")).session("s"));
        d.queue(ask(100 + id, "n1").session("s"));
    }
    let (told, _) = picture(&mut d, &PictureOf { session: "s".into(), ..PictureOf::default() });
    let tokens: Vec<_> = told.held.iter().map(|(_, token)| *token).collect();
    let numbers: Vec<_> = told.queued.iter().map(|(_, number, _)| *number).collect();
    assert_eq!((tokens, numbers), ((1..=8).collect(), (1..=8).collect()));
}

/// What comes and goes between two pages is on a later page exactly if its place was not told yet.
#[test]
fn a_place_says_what_was_told_of_a_name() {
    let mut d = busy();
    let mut after: Option<PicturePlace> = None;
    loop {
        let page = page(&mut d, &PictureOf::default(), after.as_ref());
        for grant in &page.held {
            let told = |at: &PicturePlace| at.covers_grant(&grant.name, grant.token);
            assert!(after.as_ref().is_none_or(|before| !told(before)), "{grant:?} at {after:?}");
            assert!(page.next.as_ref().is_none_or(told), "{grant:?} at {:?}", page.next);
        }
        for waiter in &page.queued {
            let told = |at: &PicturePlace| at.covers_waiter(&waiter.name, waiter.number);
            assert!(after.as_ref().is_none_or(|before| !told(before)), "{waiter:?} at {after:?}");
            assert!(page.next.as_ref().is_none_or(told), "{waiter:?} at {:?}", page.next);
        }
        let Some(next) = page.next else { return };
        after = Some(next);
    }
}

/// The rows that match come after many that do not, and pages are short.
#[test]
fn a_picture_of_a_session_has_the_rows_that_match_late() {
    let mut d = Driver::new();
    d.hold(ask(1, "b/0"));
    for id in 10..30 {
        d.hold(ask(id, &format!("a/{id}")).session("s"));
        d.queue(ask(100 + id, "b/0").session("s").owner("ann"));
    }
    for id in 30..35 {
        d.hold(ask(id, &format!("b/{id}")).session("s"));
    }
    d.queue(ask(200, "a/10"));
    d.queue(ask(201, "a/10").session("s"));
    let of = |prefix: &str| PictureOf {
        session: "s".into(),
        prefix: prefix.into(),
        ..PictureOf::default()
    };
    let (told, _) = picture(&mut d, &of("b/"));
    assert_eq!((told.held.len(), told.queued.len()), (5, 20));
    let (told, _) = picture(&mut d, &of("a/"));
    assert_eq!((told.held.len(), told.queued.len()), (20, 1));
    let of_name = PictureOf { name: Some("b/34".into()), ..of("") };
    assert_eq!(picture(&mut d, &of_name).0.held, [("b/34".to_owned(), 26)]);
}

/// Many hold one name, and those that were told last have gone. The search for the next ones is
/// paid for, and a page that cannot pay for all of it goes on with it later.
#[test]
fn a_page_pays_for_the_rows_that_it_passes() {
    let mut d = Driver::new();
    for id in 1..=100 {
        d.hold(ask(id, "a").shared().session("s"));
    }
    for of in [
        PictureOf { name: Some("a".into()), ..PictureOf::default() },
        PictureOf { session: "s".into(), ..PictureOf::default() },
    ] {
        let first = d.table.picture_page(&of, None, 50, d.at, &mut 1_000).unwrap();
        let last = first.held.last().expect("a full page").token;
        d.break_hold("a", last.0);
        let (mut after, mut told, mut pages) = (first.next, first.held.len(), 0);
        let held = |told: usize, page: &PicturePage| told + page.held.len();
        while let Some(place) = after {
            let mut rows = ROWS;
            let page = d.table.picture_page(&of, Some(&place), 50, d.at, &mut rows).unwrap();
            assert!(page.held.len() <= ROWS, "{} rows", page.held.len());
            assert!(pages > 0 || page.held.is_empty(), "it was not paid for");
            (told, pages, after) = (held(told, &page), pages + 1, page.next);
        }
        assert_eq!(told, if of.session.is_empty() { 100 } else { 99 });
        let least = 100 / ROWS;
        assert!((least..least + 5).contains(&pages), "{pages} pages");
    }
}
