//! `palisade top`: the busiest locks, the queues, the shards and the nodes, on a screen that stays
//! up to date. It changes nothing in the cluster.
//!
//! ```text
//! fetch ── news ──► state ──► view ──► terminal
//! keys ───────────►   │
//! fetch ◄── asks ─────┘
//! ```
//!
//! The state and the view are pure. This file joins them with the cluster and the terminal.

mod cluster;
mod counts;
mod cursor;
mod fetch;
mod gateways;
mod locks;
mod moment;
mod news;
mod state;
mod terminal;
mod view;

use crate::args;
use crate::failure::{Exit, Failure};
use crate::output::wall_ms;
use crate::{profiles, verbs};
use fetch::Fetch;
use moment::Moment;
use news::News;
use ratatui::crossterm::event::Event;
use state::{Ask, Setup, Top};
use std::time::{Duration, Instant};
use terminal::Screen;
use tokio::time::MissedTickBehavior;
use view::Theme;

/// Ages on the screen are this old at most.
const DRAWN_EVERY: Duration = Duration::from_millis(500);

/// Runs `palisade top`, until a key or a signal ends it.
///
/// # Errors
/// If there is no terminal, or it is not clear how to reach the cluster. A cluster that does not
/// answer is no error: the screen says so, and it is tried again.
pub async fn run(args: &args::Top) -> Result<(), Failure> {
    terminal::check()?;
    let endpoints = profiles::reach(&args.gateways)?.endpoints;
    let client = verbs::connect(&args.gateways)?;
    let interrupts = verbs::interrupts()?;
    let begun = Instant::now();
    let now = || Moment { unix_ms: wall_ms(), ms: begun.elapsed().as_millis() as u64 };
    let setup = Setup {
        gateways: endpoints.join(","),
        interval_ms: args.interval.as_millis() as u64,
        has_metrics: !args.metrics.is_empty(),
        prefix: args.prefix.clone(),
    };
    let theme = Theme::of_environment();
    let mut top = Top::new(setup, now());
    let (mut fetch, mut news) = Fetch::start(client, args.interval, args.metrics.clone());
    fetch.watch(top.number(), &top.prefix);
    let mut screen = Screen::enter().map_err(|error| terminal::failure(&error))?;
    let mut events = terminal::events();
    let (mut ranks, mut draws) = (every(args.interval), every(DRAWN_EVERY));
    loop {
        let mut is_drawn = true;
        let ask = tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) => top.key(key, now()),
                Some(Ok(Event::Paste(text))) => {
                    top.paste(&text);
                    None
                }
                Some(Ok(_)) => None,
                Some(Err(error)) => return Err(terminal::failure(&error)),
                None => return Ok(()),
            },
            Some(news) = news.recv() => {
                // Thousands of changes may come in a second: they are drawn together.
                is_drawn = !matches!(news, News::Watch { .. });
                top.take(news, now())
            }
            _ = ranks.tick() => {
                top.rank(now());
                None
            }
            _ = draws.tick() => None,
            signal = interrupts.next() => return ended_by(signal),
        };
        match ask {
            None => {}
            Some(Ask::Quit) => return Ok(()),
            Some(Ask::Fail(failure)) => return Err(failure),
            Some(Ask::Suspend) => {
                screen.suspend().map_err(|error| terminal::failure(&error))?;
            }
            Some(ask) => act(ask, &mut top, &mut fetch, now()),
        }
        if is_drawn {
            draw(&mut screen, &mut top, now(), theme).map_err(|error| terminal::failure(&error))?;
        }
    }
}

/// Does the task that the state asks for.
fn act(ask: Ask, top: &mut Top, fetch: &mut Fetch, now: Moment) {
    match ask {
        Ask::Watch => fetch.watch(top.number(), &top.prefix),
        Ask::EndWatch => fetch.end_watch(),
        Ask::Open(name) => fetch.open(&name),
        Ask::Close => fetch.close(),
        Ask::Again => {
            fetch.again();
            if let Some(opened) = &top.opened {
                fetch.open(&opened.name);
            }
            if top.again(now) {
                fetch.watch(top.number(), &top.prefix);
            }
        }
        Ask::Quit | Ask::Suspend | Ask::Fail(_) => unreachable!("the loop does these itself"),
    }
}

fn draw(screen: &mut Screen, top: &mut Top, now: Moment, theme: Theme) -> std::io::Result<()> {
    let terminal = screen.terminal();
    terminal.draw(|frame| {
        view::measure(top, frame.area(), now, theme);
        view::draw(frame, top, now, theme);
    })?;
    Ok(())
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

/// The end by a signal. Ctrl-C sends SIGINT in other modes of a terminal, so it is a usual end.
fn ended_by(signal: i32) -> Result<(), Failure> {
    match signal {
        libc::SIGINT => Ok(()),
        signal => Err(Failure::already_told(Exit::Signal(signal as u8))),
    }
}
