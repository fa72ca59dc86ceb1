//! Rules of pages: every row once, and never too many at a time.

use crate::driver::{Driver, ask};
use palisade_locks::*;

/// Rows that one call may touch. Few, so that most calls pause.
const ROWS: usize = 7;

/// All grants of names with this prefix, read page by page.
pub fn list_all(table: &mut LockTable, prefix: &str, limit: usize, at: Stamp) -> Vec<Grant> {
    let mut grants = Vec::new();
    let mut after: Option<(String, Token)> = None;
    loop {
        let page = list_page(table, prefix, after.as_ref(), limit, at);
        assert!(page.grants.len() <= limit);
        grants.extend(page.grants);
        match page.next {
            Some(next) => after = Some(next),
            None => return grants,
        }
    }
}

fn list_page(
    table: &mut LockTable,
    prefix: &str,
    after: Option<&(String, Token)>,
    limit: usize,
    at: Stamp,
) -> ListPage {
    let after = after.map(|(name, token)| (name.as_str(), *token));
    let mut paused = Paused::default();
    loop {
        match table.list_page(prefix, after, paused, limit, at, &mut ROWS.clone()) {
            Ok(page) => return page,
            Err(paused_at) => paused = paused_at,
        }
    }
}

fn holders_page(d: &Driver, name: &str, after: Token, limit: usize) -> HoldersPage {
    let mut paused = Paused::default();
    loop {
        match d.table.holders_page(name, after, paused, limit, d.at, &mut ROWS.clone()) {
            Ok(page) => return page,
            Err(at) => paused = at,
        }
    }
}

fn tokens(grants: &[Grant]) -> Vec<u64> {
    grants.iter().map(|grant| grant.token.0).collect()
}

/// Regression: with 6,000 shared holders the answer was cut to the size of a frame, without notice.
#[test]
fn holders_come_in_pages_that_say_how_many_there_are() {
    let mut d = Driver::new();
    for id in 1..=100 {
        d.hold(ask(id, "config").shared());
    }
    let mut seen = Vec::new();
    let mut after = Token(0);
    loop {
        let page = holders_page(&d, "config", after, 9);
        assert_eq!(page.count as usize + seen.len() / 9, 100, "all that hold now");
        after = page.holders.last().expect("a page has holders").token;
        seen.extend(tokens(&page.holders));
        if !page.more {
            break;
        }
        // The next page begins after a grant that ends meanwhile. No holder is missed or listed
        // twice.
        d.release("config", after.0);
    }
    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    let none = holders_page(&d, "config", Token(5_000), 9);
    assert_eq!((none.holders.len(), none.more), (0, false));
    assert_eq!(holders_page(&d, "free", Token(1), 9), HoldersPage::default());
    assert_eq!(
        tokens(&d.table.newest_holders("config", 3, d.at)),
        [100, 98, 97],
        "99 was a page's last"
    );
}

#[test]
fn holders_of_every_mode_are_counted() {
    let mut d = Driver::new();
    let count = |d: &Driver| holders_page(d, "a", Token(0), 1).count;
    d.hold(ask(1, "a"));
    assert_eq!(count(&d), 1);
    d.queue(ask(2, "a").permits(2, 5));
    d.queue(ask(3, "a").permits(3, 5));
    d.release("a", 1);
    assert_eq!(count(&d), 2);
    d.release("a", 2);
    assert_eq!(count(&d), 1);
}

/// The grant before the page has ended, so a walk searches the beginning of the page, in parts.
#[test]
fn the_beginning_of_a_page_after_an_ended_grant_is_searched_in_parts() {
    let mut d = Driver::new();
    for id in 1..=1_000 {
        d.hold(ask(id, "config").shared());
    }
    d.release("config", 900);
    let (mut paused, mut calls) = (Paused::default(), 0);
    let page = loop {
        calls += 1;
        let mut rows = 100;
        match d.table.holders_page("config", Token(900), paused, 10, d.at, &mut rows) {
            Ok(page) => break page,
            Err(at) => {
                assert_eq!(rows, 0);
                assert!(at.seen > paused.seen, "it gets further each time");
                paused = at;
            }
        }
    };
    assert_eq!((tokens(&page.holders), calls), ((901..=910).collect(), 9));
}

#[test]
fn a_listing_reads_few_rows_at_a_time() {
    let mut d = Driver::new();
    for id in 0..10_000 {
        d.hold(ask(id, &format!("user:{id:05}")));
    }
    let mut calls = 0;
    let page = loop {
        calls += 1;
        let mut rows = 400;
        match d.table.list_page("user:0", None, Paused::default(), 3, d.at, &mut rows) {
            Ok(page) => break page,
            Err(_) => assert_eq!(rows, 0),
        }
    };
    assert_eq!(
        (tokens(&page.grants), calls),
        (vec![1, 2, 3], 101),
        "a hundred slices of a hundred names"
    );
    let mut rows = 400;
    d.table
        .list_page("user:0", None, Paused::default(), 3, d.at, &mut rows)
        .expect("names stand in order now");
    assert_eq!(rows, 394);
    d.table.forget_order();
    assert!(!d.table.is_ordered());
}

/// Locks come and go all the time, also while names are being sorted. A lock that is held
/// throughout is listed once, by name.
#[test]
fn a_lock_held_throughout_a_listing_is_listed_once() {
    let mut d = Driver::new();
    let held = |n: u64| format!("n{:03}", n * 37 % 500);
    for n in 0..500 {
        d.hold(ask(n.into(), &held(n)));
    }
    let mut brief: Vec<(String, u64)> = Vec::new();
    let mut next_id = 1_000;
    let (mut listed, mut after): (Vec<Grant>, Option<(String, Token)>) = Default::default();
    let mut pages = 0;
    loop {
        let mut paused = Paused::default();
        let page = loop {
            for n in 0..5 {
                next_id += 1;
                let name = format!("n{:03}-{}", next_id * 53 % 500, n);
                let token = d.hold(ask(next_id, &name)).token.0;
                brief.push((name, token));
                if brief.len() > 40 {
                    let (name, token) = brief.swap_remove(next_id as usize * 7 % 40);
                    d.release(&name, token);
                }
            }
            let from = after.as_ref().map(|(name, token)| (name.as_str(), *token));
            match d.table.list_page("", from, paused, 20, d.at, &mut 50) {
                Ok(page) => break page,
                Err(at) => paused = at,
            }
        };
        pages += 1;
        listed.extend(page.grants);
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    assert!(pages > 25);
    assert!(
        listed.is_sorted_by(|a, b| (&a.name, a.token) < (&b.name, b.token)),
        "in order, each once"
    );
    let all_along = listed.iter().filter(|grant| grant.token.0 <= 500).count();
    assert_eq!(all_along, 500);
}

/// All grants that `of` asks for, read page by page with few rows each.
fn list_all_of(d: &mut Driver, of: &ListOf) -> Vec<(String, u64)> {
    let (mut listed, mut after): (Vec<_>, Option<(String, Token)>) = Default::default();
    let mut paused = Paused::default();
    loop {
        let from = after.as_ref().map(|(name, token)| (name.as_str(), *token));
        let mut rows = ROWS;
        match d.table.list_page_of(of, from, paused, 3, d.at, &mut rows) {
            Ok(page) => {
                listed.extend(page.grants.into_iter().map(|grant| (grant.name, grant.token.0)));
                match page.next {
                    Some(next) => (after, paused) = (Some(next), Paused::default()),
                    None => return listed,
                }
            }
            Err(paused_at) => paused = paused_at,
        }
    }
}

#[test]
fn a_listing_has_what_is_asked_for_and_looks_at_few_rows_at_a_time() {
    let mut d = Driver::new();
    for id in 0..100 {
        let owner = if id % 10 == 0 { "bob" } else { "ann" };
        d.hold(ask(id, "config").shared().owner(owner));
    }
    d.pass(1_000);
    for id in 100..150 {
        let name = format!("user:{id}");
        d.hold(ask(id, &name).owner(if id % 25 == 0 { "bob" } else { "ann" }));
    }
    d.apply(ask(900, "user:125").wait().command());
    d.apply(ask(901, "user:130").wait().command());
    let all = ListOf::default();
    let of_bob = ListOf { owner: "bob".into(), ..all.clone() };
    let tokens: Vec<u64> =
        list_all_of(&mut d, &of_bob).into_iter().map(|(_, token)| token).collect();
    let shared = (0..10).map(|n| n * 10 + 1);
    assert_eq!(tokens, shared.chain([101, 126]).collect::<Vec<u64>>());
    let old = ListOf { older_than_ms: 1_000, ..all.clone() };
    assert_eq!(list_all_of(&mut d, &old).len(), 100);
    let waiting = ListOf { waiting: true, ..all.clone() };
    let names = [("user:125".to_owned(), 126), ("user:130".to_owned(), 131)];
    assert_eq!(list_all_of(&mut d, &waiting), names);
    let both = ListOf { owner: "bob".into(), prefix: "user:".into(), ..waiting };
    assert_eq!(list_all_of(&mut d, &both), names[..1]);
    assert_eq!(list_all_of(&mut d, &all).len(), 150);
    let no_ones = ListOf { owner: "eve".into(), ..all };
    assert_eq!(list_all_of(&mut d, &no_ones), []);
    // One call stops when its rows are used up, with a place to go on from.
    let mut rows = ROWS;
    let page = d.table.list_page_of(&no_ones, None, Paused::default(), 3, d.at, &mut rows).unwrap();
    assert_eq!((page.grants.len(), rows), (0, 0));
    assert_eq!(page.next, Some(("config".to_owned(), Token(ROWS as u64))));
}
