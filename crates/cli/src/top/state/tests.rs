//! Keys and news change the screen's state.

use super::*;
use crate::top::counts::Change;
use client::{Error, ErrorCode, Grant, Told, WatchState};
use wire::v1;

const fn at(ms: u64) -> Moment {
    Moment { unix_ms: 1_000_000 + ms, ms }
}

fn setup(prefix: &str) -> Setup {
    Setup {
        gateways: "127.0.0.1:7400".into(),
        interval_ms: 2_000,
        has_metrics: false,
        prefix: prefix.into(),
    }
}

fn press(top: &mut Top, code: KeyCode) -> Option<Ask> {
    top.key(KeyEvent::new(code, KeyModifiers::NONE), at(0))
}

fn control(top: &mut Top, letter: char) -> Option<Ask> {
    top.key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL), at(0))
}

fn type_text(top: &mut Top, text: &str) {
    for c in text.chars() {
        assert!(press(top, KeyCode::Char(c)).is_none(), "{c} is a part of the text");
    }
}

fn told(names: &[&str]) -> Watched {
    let grant = |(nth, name): (usize, &&str)| Grant {
        resource_name: (*name).into(),
        fencing_token: nth as u64 + 1,
        owner_id: "me".into(),
        ..Grant::default()
    };
    let held = names.iter().enumerate().map(grant).collect();
    let state = WatchState { first: true, last: true, held, ..WatchState::default() };
    Watched::Told(Box::new(Told { state: Some(state), ..Told::default() }))
}

fn watched(top: &mut Top, watched: Watched) -> Option<Ask> {
    let number = top.number();
    top.take(News::Watch { number, watched }, at(0))
}

/// A screen with these names, in order, and ten rows.
fn with_names(names: &[&str]) -> Top {
    let mut top = Top::new(setup(""), at(0));
    assert!(watched(&mut top, told(names)).is_none());
    top.rank(at(0));
    top.resize(10, false, at(0));
    top
}

fn error(code: ErrorCode) -> Error {
    v1::Error::new(code, "the reason").into()
}

#[test]
fn keys_that_leave_leave_from_everywhere() {
    let mut top = with_names(&["a"]);
    assert!(matches!(press(&mut top, KeyCode::Char('q')), Some(Ask::Quit)));
    press(&mut top, KeyCode::Enter);
    assert!(matches!(press(&mut top, KeyCode::Char('q')), Some(Ask::Quit)));
    press(&mut top, KeyCode::Esc);
    press(&mut top, KeyCode::Char('/'));
    assert!(press(&mut top, KeyCode::Char('q')).is_none(), "a letter of the prefix");
    assert_eq!(top.typed.as_deref(), Some("q"));
    assert!(matches!(control(&mut top, 'c'), Some(Ask::Quit)));
    assert!(matches!(control(&mut top, 'z'), Some(Ask::Suspend)));
}

#[test]
fn a_prefix_is_typed_and_asked_for_by_a_new_watch() {
    let mut top = with_names(&["a", "b"]);
    let former = top.number();
    press(&mut top, KeyCode::Char('/'));
    type_text(&mut top, "orders/é42");
    control(&mut top, 'w');
    assert_eq!(top.typed.as_deref(), Some("orders"));
    press(&mut top, KeyCode::Backspace);
    top.paste("s:\n");
    assert_eq!(top.prefix, "", "nothing is asked for before Enter");
    assert!(matches!(press(&mut top, KeyCode::Enter), Some(Ask::Watch)));
    assert_eq!((top.prefix.as_str(), top.rows()), ("orders:", 0));
    let late = News::Watch { number: former, watched: told(&["a"]) };
    assert!(top.take(late, at(0)).is_none());
    top.rank(at(0));
    assert_eq!(top.rows(), 0, "the former watch is not listened to");
    press(&mut top, KeyCode::Char('/'));
    control(&mut top, 'u');
    assert_eq!(top.typed.as_deref(), Some(""));
    press(&mut top, KeyCode::Esc);
    assert_eq!(top.prefix, "orders:", "Esc changes nothing");
    press(&mut top, KeyCode::Char('/'));
    assert!(press(&mut top, KeyCode::Enter).is_none(), "the same prefix is watched already");
}

#[test]
fn a_prefix_is_no_longer_than_a_name() {
    let mut top = with_names(&[]);
    press(&mut top, KeyCode::Char('/'));
    top.paste(&"é".repeat(PREFIX_BYTES_MAX));
    assert_eq!(top.typed.as_ref().map(String::len), Some(PREFIX_BYTES_MAX));
}

#[test]
fn the_selection_follows_its_name_and_opens_it() {
    let mut top = with_names(&["a", "c", "e"]);
    press(&mut top, KeyCode::Down);
    assert_eq!(top.cursor().selected(), 1);
    watched(&mut top, told(&["a", "b", "c", "e"]));
    top.rank(at(0));
    assert_eq!(top.cursor().selected(), 2, "c");
    assert!(matches!(press(&mut top, KeyCode::Enter), Some(Ask::Open(name)) if name == "c"));
    assert!(matches!(press(&mut top, KeyCode::Esc), Some(Ask::Close)));
    press(&mut top, KeyCode::Home);
    watched(&mut top, told(&["0", "a", "c"]));
    top.rank(at(0));
    assert_eq!(top.cursor().selected(), 0, "the first row stays the first");
    assert_eq!(top.ranking.rows[0].name, "0");
}

#[test]
fn a_pause_keeps_the_rows_and_an_order_ends_it() {
    let mut top = with_names(&["b"]);
    press(&mut top, KeyCode::Char('p'));
    watched(&mut top, told(&["a", "b"]));
    top.rank(at(0));
    assert_eq!(top.rows(), 1);
    press(&mut top, KeyCode::Char('n'));
    assert_eq!((top.rows(), top.lock_order, top.is_paused), (2, LockOrder::Name, false));
}

#[test]
fn each_pane_has_its_orders() {
    let mut top = with_names(&["a"]);
    press(&mut top, KeyCode::Char('s'));
    assert_eq!(top.lock_order, LockOrder::Queue);
    press(&mut top, KeyCode::Tab);
    press(&mut top, KeyCode::Char('s'));
    assert_eq!((top.pane, top.shard_order), (Pane::Shards, ShardOrder::Lag));
    press(&mut top, KeyCode::Char('o'));
    assert_eq!(top.lock_order, LockOrder::Queue, "an order of locks is none of shards");
    press(&mut top, KeyCode::Char('3'));
    for _ in NodeOrder::ALL {
        press(&mut top, KeyCode::Char('s'));
    }
    assert_eq!((top.pane, top.node_order), (Pane::Nodes, NodeOrder::File), "once around");
    press(&mut top, KeyCode::Tab);
    assert_eq!(top.pane, Pane::Locks);
    press(&mut top, KeyCode::BackTab);
    assert_eq!(top.pane, Pane::Nodes);
    assert!(press(&mut top, KeyCode::Enter).is_none(), "a node does not open");
}

#[test]
fn help_is_closed_by_any_key() {
    let mut top = with_names(&["a"]);
    press(&mut top, KeyCode::Char('?'));
    assert!(top.has_help);
    assert!(press(&mut top, KeyCode::Char('q')).is_none());
    assert!(!top.has_help);
}

#[test]
fn a_cluster_that_does_not_answer_is_told_since_its_first_failure() {
    let mut top = with_names(&[]);
    let fail = |code| News::Status(Err(error(code)));
    assert!(top.take(fail(ErrorCode::NoLeader), at(1_000)).is_none());
    assert!(top.take(fail(ErrorCode::NoLeader), at(7_000)).is_none());
    assert_eq!(top.is_cut_off().map(|(since, _)| since), Some(at(1_000)));
    top.take(fail(ErrorCode::PermissionDenied), at(8_000));
    assert!(top.is_cut_off().is_none(), "a refusal is an answer");
    assert!(top.is_denied_status().is_some());
    top.take(News::Status(Ok(Default::default())), at(9_000));
    assert!(top.is_denied_status().is_none() && top.cluster.is_some());
    let ended = top.take(fail(ErrorCode::InvalidArgument), at(9_500));
    assert!(matches!(ended, Some(Ask::Fail(_))), "no later try can succeed");
}

/// Regression: the time without a connection counted as seconds without a grant.
#[test]
fn a_watch_that_was_interrupted_counts_anew() {
    let mut top = with_names(&["a"]);
    let number = top.number();
    let mut tell = |watched, ms| top.take(News::Watch { number, watched }, at(ms));
    tell(Watched::Lost, 5_000);
    tell(Watched::Open, 20_500);
    let granted = |ms| top.locks.rates().per_second(Change::Granted, ms);
    assert_eq!((granted(21_900), granted(22_000)), (None, Some(0.0)));
}

#[test]
fn a_refused_watch_is_asked_for_again_by_the_same_prefix_or_a_key() {
    let mut top = with_names(&["a"]);
    assert!(!top.again(at(0)), "an open watch goes on");
    watched(&mut top, Watched::Refused(error(ErrorCode::PermissionDenied)));
    press(&mut top, KeyCode::Char('/'));
    assert!(matches!(press(&mut top, KeyCode::Enter), Some(Ask::Watch)));
    watched(&mut top, Watched::Refused(error(ErrorCode::PermissionDenied)));
    assert!(matches!(press(&mut top, KeyCode::Char('r')), Some(Ask::Again)));
    assert!(top.again(at(0)));
    assert!(matches!(top.watch, WatchLink::Opening));
}

#[test]
fn more_names_than_are_kept_end_the_watch() {
    let mut top = with_names(&[]);
    let names: Vec<String> = (0..=super::super::locks::NAMES_MAX).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(matches!(watched(&mut top, told(&names)), Some(Ask::EndWatch)));
    assert!(matches!(top.watch, WatchLink::Full));
    top.rank(at(0));
    assert_eq!(top.rows(), 0, "a part of the names would be taken for all");
}

#[test]
fn an_answer_about_another_lock_is_dropped_and_a_failure_keeps_what_is_there() {
    let mut top = with_names(&["a"]);
    press(&mut top, KeyCode::Enter);
    let answer = |name: &str, checked: Result<Checked, Error>| News::Lock {
        name: name.into(),
        answer: Box::new(LockAnswer { history: Ok(Vec::new()), checked }),
    };
    top.take(answer("b", Ok(Checked::default())), at(0));
    assert!(top.opened.as_ref().is_some_and(|opened| opened.checked.is_none()));
    top.take(answer("a", Ok(Checked { waiters: 7, ..Checked::default() })), at(10));
    top.take(answer("a", Err(error(ErrorCode::NoLeader))), at(20));
    let opened = top.opened.as_ref().expect("it is open");
    assert_eq!(
        opened.checked.as_ref().map(|(at, checked)| (*at, checked.waiters)),
        Some((at(10), 7))
    );
    assert!(opened.failure.is_some());
}
