//! The screen as text, at the sizes of a small and of a large terminal.

use super::*;
use crate::shown::width;
use crate::top::gateways::Counters;
use crate::top::news::{LockAnswer, News, Watched};
use crate::top::state::Setup;
use client::{
    Checked, ClusterStatus, Error, ErrorCode, Event, EventKind, Grant, GrantState, NodeStatus,
    ShardStatus, Tenure, Told, Waiter, WatchState,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use wire::v1;

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 50);
/// 2026-11-29 23:41:17 UTC.
const START_MS: u64 = 1_795_995_677_000;

const fn at(ms: u64) -> Moment {
    Moment { unix_ms: START_MS + ms, ms }
}

fn grant(name: &str, token: u64, age_ms: u64) -> Grant {
    Grant {
        resource_name: name.into(),
        owner_id: format!("worker@host-{token}:812"),
        fencing_token: token,
        acquired_at_ms: START_MS - age_ms,
        ttl_ms: 30_000,
        remaining_ms: 21_500,
        renewal_count: 14,
        ..Grant::default()
    }
}

fn waiter(name: &str, number: u64, age_ms: u64) -> Waiter {
    Waiter {
        resource_name: name.into(),
        owner_id: format!("waiter-{number}"),
        waiter: number,
        place: number as u32,
        queued_at_ms: START_MS - age_ms,
        ..Waiter::default()
    }
}

fn changed(kind: EventKind, grant: Grant) -> Event {
    let resource_name = grant.resource_name.clone();
    Event { kind: kind.into(), resource_name, grant: Some(grant), ..Event::default() }
}

fn status() -> ClusterStatus {
    let node = |node: u64| NodeStatus {
        node,
        address: format!("10.0.0.{node}:7410"),
        zone: format!("zone-{node}"),
        reachable: node != 3,
    };
    let replica = |shard: u32, node: u64, role: &str, applied_index: u64| ShardStatus {
        shard,
        node,
        role: role.into(),
        term: 4,
        applied_index,
        active_locks: 12_000,
        waiters: 3,
        sessions: 5,
        last_token: 900,
        disk_sync_us: 1_250 * node,
        members: (1..=3).map(|node| v1::Member { node, ..v1::Member::default() }).collect(),
        ..ShardStatus::default()
    };
    ClusterStatus {
        cluster: "prod".into(),
        nodes: (1..=3).map(node).collect(),
        shards: vec![
            replica(0, 1, "leader", 5_000),
            replica(0, 2, "follower", 4_993),
            replica(1, 2, "follower", 70),
        ],
        ..ClusterStatus::default()
    }
}

fn busy() -> Top {
    let setup = Setup {
        gateways: "gateway-1.example:7400".into(),
        interval_ms: 2_000,
        has_metrics: false,
        prefix: String::new(),
    };
    let mut top = Top::new(setup, at(0));
    let held = vec![
        grant("orders:41", 7, 12_000),
        grant("config", 3, 90_000_000),
        grant("evil\u{1b}[2J\u{202e}eman", 9, 500),
        grant("日本語/🔒", 11, 4_000),
        grant(&format!("very/long/{}/name", "x".repeat(300)), 12, 4_000),
    ];
    let queued = vec![waiter("orders:41", 1, 4_200), waiter("orders:41", 2, 1_000)];
    let state = |shard, held, queued| WatchState {
        shard,
        first: true,
        last: true,
        held,
        queued,
        ..Default::default()
    };
    let told = |state, events| Told { state, events, ..Told::default() };
    take(&mut top, told(Some(state(0, held, queued)), vec![]), at(0));
    take(&mut top, told(Some(state(1, vec![], vec![])), vec![]), at(0));
    let events = vec![
        changed(EventKind::Expired, grant("orders:40", 5, 30_000)),
        changed(EventKind::Granted, grant("orders:42", 20, 0)),
        changed(EventKind::Released, grant("orders:42", 20, 0)),
    ];
    take(&mut top, told(None, events), at(1_500));
    top.take(News::Status(Ok(status())), at(1_500));
    top.rank(at(4_000));
    top
}

fn take(top: &mut Top, told: Told, now: Moment) {
    let news = News::Watch { number: top.number(), watched: Watched::Told(Box::new(told)) };
    assert!(top.take(news, now).is_none());
}

fn press(top: &mut Top, code: KeyCode) {
    let _ = top.key(KeyEvent::new(code, KeyModifiers::NONE), at(4_000));
}

/// The lines of the screen, without blanks at their ends.
fn drawn(top: &mut Top, size: (u16, u16), now: Moment) -> Vec<String> {
    let theme = Theme::new(true);
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal
        .draw(|frame| {
            measure(top, frame.area(), now, theme);
            draw(frame, top, now, theme);
        })
        .unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| {
        let mut line = String::new();
        let mut x = 0;
        while x < size.0 {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // The cell after a wide character is a blank that is not drawn.
            x += width(symbol).max(1) as u16;
        }
        line.trim_end().to_owned()
    };
    (0..size.1).map(line).collect()
}

fn line_with<'a>(lines: &'a [String], text: &str) -> &'a str {
    let found = lines.iter().find(|line| line.contains(text));
    found.unwrap_or_else(|| panic!("no line has {text:?}:\n{}", lines.join("\n")))
}

#[test]
fn all_screens_fit_all_sizes() {
    let sizes =
        [(1, 1), (20, 5), (59, 12), (60, 12), SMALL, (100, 30), (149, 40), (150, 20), LARGE];
    for size in sizes {
        let mut top = busy();
        for keys in ["", "2", "3", "?", "/xyz"] {
            for key in keys.chars() {
                press(&mut top, KeyCode::Char(key));
            }
            let lines = drawn(&mut top, size, at(4_000));
            assert!(lines.iter().all(|line| width(line) <= size.0.into()), "{size:?} {keys}");
            press(&mut top, KeyCode::Esc);
            press(&mut top, KeyCode::Char('1'));
        }
        press(&mut top, KeyCode::Enter);
        drawn(&mut top, size, at(4_000));
    }
    let small = drawn(&mut busy(), (20, 5), at(4_000)).join(" ");
    assert!(small.contains("too small"), "{small}");
}

#[test]
fn characters_that_a_terminal_obeys_are_shown_by_number() {
    for size in [SMALL, LARGE] {
        let mut top = busy();
        press(&mut top, KeyCode::Char('n'));
        let lines = drawn(&mut top, size, at(4_000));
        let all = lines.join("");
        assert!(!all.contains(['\u{1b}', '\u{202e}']), "{size:?}");
        assert!(all.contains("evil\\u{1b}"), "{all}");
    }
}

#[test]
fn names_are_ranked_and_cut_in_their_middle() {
    let mut top = busy();
    let lines = drawn(&mut top, SMALL, at(4_000));
    let header = line_with(&lines, "HOLDER");
    assert!(header.contains("CHANGES▾"), "{header}");
    let at_row = lines.iter().position(|line| line == header).expect("its place") + 1;
    assert!(lines[at_row].starts_with("orders:42 "), "{:?}", lines[at_row]);
    assert!(lines[at_row].contains("free"), "{:?}", lines[at_row]);
    let long = line_with(&lines, "very/long");
    assert!(long.contains("x/name "), "the end of the name is there: {long}");
    press(&mut top, KeyCode::Char('w'));
    let lines = drawn(&mut top, SMALL, at(4_000));
    assert!(lines[at_row].starts_with("orders:41 "), "{:?}", lines[at_row]);
    let row: Vec<&str> = lines[at_row].split_whitespace().collect();
    assert_eq!(row[2..], ["16.0s", "2", "8.2s", "0"], "held for, queue, longest, changes");
    press(&mut top, KeyCode::Char('o'));
    let lines = drawn(&mut top, SMALL, at(4_000));
    assert!(lines[at_row].starts_with("config "), "{:?}", lines[at_row]);
    assert!(lines[at_row].contains("1d 01h"), "{:?}", lines[at_row]);
}

#[test]
fn a_large_screen_has_all_three_rankings() {
    let lines = drawn(&mut busy(), LARGE, at(4_000));
    line_with(&lines, "LONGEST QUEUES");
    line_with(&lines, "OLDEST HOLDS");
    assert!(line_with(&lines, "LAST CHANGE").contains("TOKEN"));
    assert!(line_with(&lines, "orders:40").contains("expired 2.5s ago"));
    line_with(&lines, "granted in each of the last");
}

#[test]
fn sums_and_rates_are_in_the_header() {
    let lines = drawn(&mut busy(), SMALL, at(4_000));
    assert!(lines[0].starts_with("palisade top  prod  gateway-1.example:7400"), "{}", lines[0]);
    assert!(lines[0].ends_with("connected  every 2s  23:41:21Z"), "{}", lines[0]);
    let sums = "cluster 24,000 locks  6 waiters  10 sessions  1/2 shards  2/3 nodes";
    assert_eq!(lines[1], sums);
    assert!(lines[2].starts_with("per sec 0.3 granted  0.3 released  0.3 expired"), "{}", lines[2]);
    assert!(lines[3].contains("see --metrics"), "{}", lines[3]);
}

#[test]
fn rates_of_gateways_take_the_place_of_the_hint() {
    let mut top = busy();
    let page = |renewed| {
        let counters =
            Counters { renewed, acquires: renewed, contended: renewed / 4.0, ..Default::default() };
        News::Metrics(vec![("a:1".into(), Ok(counters)), ("b:1".into(), Err("refused".into()))])
    };
    top.take(page(0.0), at(2_000));
    top.take(page(2_000.0), at(4_000));
    let lines = drawn(&mut top, SMALL, at(4_000));
    assert!(lines[3].starts_with("per sec 1,000 renewed  0 heartbeats  0 held"), "{}", lines[3]);
    line_with(&lines, "No metrics of b:1: refused.");
    let lines = drawn(&mut top, LARGE, at(4_000));
    assert!(lines[3].contains("25.0% contended   by 1 gateway"), "{}", lines[3]);
}

#[test]
fn shards_and_nodes_say_what_is_wrong() {
    let mut top = busy();
    press(&mut top, KeyCode::Char('2'));
    for size in [SMALL, LARGE] {
        let lines = drawn(&mut top, size, at(4_000));
        line_with(&lines, "NONE");
        line_with(&lines, "shard 0: 2 of 3 votes count; node 3 does not: it does not answer");
    }
    assert!(line_with(&drawn(&mut top, LARGE, at(4_000)), "1(0)").contains("2(7)"));
    press(&mut top, KeyCode::Char('3'));
    let lines = drawn(&mut top, SMALL, at(4_000));
    assert!(line_with(&lines, "10.0.0.3:7410").contains("DOWN"));
    let row: Vec<&str> = line_with(&lines, "10.0.0.2:7410").split_whitespace().collect();
    assert_eq!(row, ["2", "10.0.0.2:7410", "zone-2", "up", "0", "2.5ms", "ok", "7"]);
}

fn open(top: &mut Top, name: &str, answer: LockAnswer) {
    while top.ranking.rows[top.cursor().selected()].name != name {
        press(top, KeyCode::Down);
    }
    press(top, KeyCode::Enter);
    top.take(News::Lock { name: name.into(), answer: Box::new(answer) }, at(4_000));
}

fn answer() -> LockAnswer {
    let tenure = |token, state: GrantState| Tenure {
        fencing_token: token,
        owner_id: "former".into(),
        acquired_at_ms: START_MS - 60_000,
        ended_at_ms: START_MS - 30_000,
        state: state.into(),
        ..Tenure::default()
    };
    let broken = Tenure {
        broken_by: "ops\u{202e}".into(),
        break_reason: "stuck".into(),
        ..tenure(6, GrantState::Broken)
    };
    LockAnswer {
        checked: Ok(Checked {
            holders: vec![Grant { metadata: "nightly".into(), ..grant("orders:41", 7, 12_000) }],
            holder_count: 1,
            queue: (1..=30).map(|n| waiter("orders:41", n, 1_000)).collect(),
            waiters: 350,
            ..Checked::default()
        }),
        history: Ok(vec![broken, tenure(5, GrantState::Released)]),
    }
}

#[test]
fn a_lock_has_its_holder_queue_and_history() {
    let mut top = busy();
    open(&mut top, "orders:41", answer());
    let lines = drawn(&mut top, SMALL, at(5_000));
    line_with(&lines, " orders:41");
    let row: Vec<&str> = line_with(&lines, "worker@host-7:812").split_whitespace().collect();
    assert_eq!(row[1..], ["7", "17.0s", "20.5s", "30.0s", "14"], "the time left goes on");
    line_with(&lines, "nightly");
    line_with(&lines, "QUEUE: the first 30 of 350");
    assert!(!lines.join("").contains("HISTORY"), "there is no room for it yet");
    press(&mut top, KeyCode::End);
    let lines = drawn(&mut top, SMALL, at(5_000));
    line_with(&lines, "HISTORY: the last 2 holds");
    assert!(line_with(&lines, "former").contains("broken"));
    line_with(&lines, "by ops\\u{202e}: stuck");
    press(&mut top, KeyCode::Home);
    let lines = drawn(&mut top, LARGE, at(5_000));
    assert!(line_with(&lines, "HOLDERS").contains("HISTORY"), "side by side");
}

#[test]
fn what_may_not_be_seen_is_said_with_the_next_step() {
    let denied =
        |message: &str| -> Error { v1::Error::new(ErrorCode::PermissionDenied, message).into() };
    let mut top = busy();
    let refused = Watched::Refused(denied("bob may not watch all names: ask for the permission"));
    press(&mut top, KeyCode::Char('/'));
    press(&mut top, KeyCode::Char('x'));
    press(&mut top, KeyCode::Enter);
    top.take(News::Watch { number: top.number(), watched: refused }, at(4_000));
    top.take(News::Status(Err(denied("bob may not observe"))), at(4_000));
    let lines = drawn(&mut top, SMALL, at(4_000));
    line_with(&lines, "bob may not watch all names");
    line_with(&lines, "next: ask for the permission, or use a name that you may use");
    assert!(lines[0].contains("NOT PERMITTED"), "{}", lines[0]);
    // Regression: rates of zero, although nothing was told.
    assert!(lines[2].starts_with("per sec … granted  … released"), "{}", lines[2]);
    assert!(!lines[4].contains("0 held"), "{}", lines[4]);
    press(&mut top, KeyCode::Char('2'));
    line_with(&drawn(&mut top, SMALL, at(4_000)), "bob may not observe");
}

#[test]
fn a_cluster_that_does_not_answer_is_said_with_the_age_of_what_is_shown() {
    let mut top = busy();
    let lost = v1::Error::new(ErrorCode::NoLeader, "the gateway could not be reached");
    top.take(News::Status(Err(lost.into())), at(6_000));
    for size in [SMALL, LARGE] {
        let lines = drawn(&mut top, size, at(18_000));
        assert!(lines[0].contains("NOT CONNECTED"), "{}", lines[0]);
        let all = lines.join(" ");
        assert!(all.contains("No answer for 12.0s"), "{all}");
        assert!(all.contains("What follows is 16.5s old."), "{all}");
        line_with(&lines, "orders:41");
    }
}

#[test]
fn lost_changes_and_late_shards_are_named() {
    let mut top = busy();
    let state = WatchState { shard: 1, first: true, resync: true, ..WatchState::default() };
    take(&mut top, Told { state: Some(state), ..Told::default() }, at(4_000));
    let all = drawn(&mut top, SMALL, at(5_000)).join(" ");
    assert!(all.contains("Changes were lost 1.0s ago"), "{all}");
    assert!(all.contains("The locks of shard 1 have not come yet."), "{all}");
    let lines = drawn(&mut top, SMALL, at(70_000));
    assert!(!lines.join(" ").contains("Changes were lost"));
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let mut top = busy();
    let colours = |top: &mut Top, theme| {
        let mut terminal = Terminal::new(TestBackend::new(SMALL.0, SMALL.1)).unwrap();
        terminal
            .draw(|frame| {
                measure(top, frame.area(), at(0), theme);
                draw(frame, top, at(0), theme);
            })
            .unwrap();
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|cell| cell.fg != ratatui::style::Color::Reset).count()
    };
    assert!(colours(&mut top, Theme::new(true)) > 0);
    assert_eq!(colours(&mut top, Theme::new(false)), 0);
}
