//! Rules of releasing and breaking.

use crate::driver::{Driver, ask};
use palisade_locks::*;

#[test]
fn a_release_ends_the_grant_with_a_tenure() {
    let mut d = Driver::new();
    let grant = d.hold(ask(1, "a"));
    d.pass(40);
    assert_eq!(d.release("a", 1), Outcome::Released { already: false });
    let tenure = Tenure {
        grant: grant.clone(),
        ended_wall_ms: d.at.wall_ms,
        end: EndKind::Released,
        broken_by: String::new(),
        break_reason: String::new(),
        broken_by_principal: String::new(),
    };
    assert_eq!(d.effects.ended, [Ended::of(&tenure)]);
    assert_eq!(d.effects.leases, [LeaseEvent::Gone { lease: grant.lease }]);
    assert!(d.holders("a").is_empty());
    assert_eq!(d.table.counts(), Counts::default());
}

#[test]
fn a_retried_release_succeeds_and_takes_nothing_from_the_next_holder() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.release("a", 1);
    d.hold(ask(2, "a"));
    assert_eq!(d.release("a", 1), Outcome::Released { already: true });
    assert_eq!(d.tokens("a"), [2]);
    assert_eq!(d.effects, Effects::default());
}

#[test]
fn a_release_by_a_non_owner_deletes_nothing() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.hold(ask(2, "b"));
    assert_eq!(d.release("a", 2), Outcome::NotOwner { current: Token(1) });
    assert_eq!(d.release("a", 3), Outcome::NotOwner { current: Token(1) });
    d.release("b", 2);
    assert_eq!(
        d.release("a", 2),
        Outcome::NotOwner { current: Token(1) },
        "released, but of another name"
    );
    assert_eq!(d.tokens("a"), [1]);
}

#[test]
fn a_renewal_after_the_release_is_refused() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.release("a", 1);
    assert_eq!(d.renew("a", 1), Outcome::NotOwner { current: Token(0) });
}

#[test]
fn an_acquire_retried_after_its_end_is_told_so() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.release("a", 1);
    d.hold(ask(2, "a"));
    d.expire(LeaseId(2), 0);
    d.hold(ask(3, "a"));
    d.break_hold("a", 3);
    for (id, end) in [(1, EndKind::Released), (2, EndKind::Expired), (3, EndKind::Broken)] {
        let token = Token(id as u64);
        assert_eq!(d.acquire(ask(id, "a").wait()), Outcome::AlreadyEnded { token, end });
    }
    assert!(d.holders("a").is_empty());
}

#[test]
fn a_break_records_breaker_and_reason_and_grants_the_next() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.queue(ask(2, "a"));
    let Outcome::Broken(tenure) = d.break_hold("a", 1) else { panic!("not broken") };
    assert_eq!(
        (tenure.broken_by.as_str(), tenure.break_reason.as_str(), tenure.end),
        ("root", "stuck", EndKind::Broken)
    );
    assert_eq!(d.effects.ended, [Ended::of(&tenure)]);
    assert_eq!(d.handed(), [2]);
    assert_eq!(d.renew("a", 1), Outcome::NotOwner { current: Token(2) });
    assert_eq!(d.release("a", 1), Outcome::NotOwner { current: Token(2) });
}

#[test]
fn a_break_of_a_stale_token_ends_no_grant() {
    let mut d = Driver::new();
    d.hold(ask(1, "a"));
    d.release("a", 1);
    assert_eq!(d.break_hold("a", 1), Outcome::NotOwner { current: Token(0) });
    d.hold(ask(2, "a").owner("bob"));
    assert_eq!(d.break_hold("a", 1), Outcome::Held { token: Token(2), owner: "bob".into() });
    assert_eq!(d.tokens("a"), [2]);
}

#[test]
fn a_list_is_by_name_then_token_and_says_if_there_is_more() {
    let mut d = Driver::new();
    d.hold(ask(1, "b/2"));
    d.hold(ask(2, "b/1").shared());
    d.hold(ask(3, "a/1"));
    d.hold(ask(4, "b/1").shared());
    d.hold(ask(5, "c"));
    let mut list = |prefix: &str, limit| {
        let page = d.table.list_page(
            prefix,
            None,
            Paused::default(),
            limit,
            d.at,
            &mut usize::MAX.clone(),
        );
        let page = page.expect("at once");
        (page.grants.iter().map(|grant| grant.token.0).collect::<Vec<_>>(), page.next.is_some())
    };
    assert_eq!(list("", 10), (vec![3, 2, 4, 1, 5], false));
    assert_eq!(list("b/", 10), (vec![2, 4, 1], false));
    assert_eq!(list("b/", 3), (vec![2, 4, 1], false));
    assert_eq!(list("b/", 2), (vec![2, 4], true));
    assert_eq!(list("b/", 1), (vec![2], true));
    assert_eq!(list("x", 1), (vec![], false));
}
