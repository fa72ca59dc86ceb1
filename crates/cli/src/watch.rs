//! `palisade watch`: the present state of locks, and then each change of them, line by line.

use crate::args;
use crate::duration::show_ms;
use crate::failure::{Exit, Failure};
use crate::output::{Paint, emit, print_json};
use crate::shown::{date_time, padded, shown};
use crate::verbs::{by_identity, connect, interrupts};
use client::{Event, EventKind, Grant, Told, Waiter, WatchOptions};
use wire::json;

/// Width of the first word of a line.
const WORD_WIDTH: usize = 9;

/// Runs `palisade watch`. Ctrl-C ends it.
///
/// # Errors
/// If no gateway answers in time, or the watch is refused.
pub async fn run(args: &args::Watch) -> Result<(), Failure> {
    let client = connect(&args.remote.gateways)?;
    let interrupts = interrupts()?;
    let mut watch = client.watch(options(args));
    let timeout = args.remote.gateways.timeout;
    let opened = tokio::select! {
        opened = tokio::time::timeout(timeout, watch.open()) => opened,
        signal = interrupts.next() => return interrupted(signal, "", args),
    };
    match opened {
        Ok(opened) => opened?,
        Err(_) => {
            let message = format!("no gateway answered within {}", show_ms(millis(timeout)));
            let next = "see that --endpoint names a gateway, and that it runs";
            return Err(Failure::new(Exit::Error, "UNREACHABLE", message, next));
        }
    }
    loop {
        let told = tokio::select! {
            told = watch.next() => told?,
            signal = interrupts.next() => return interrupted(signal, watch.position(), args),
        };
        match args.remote.json {
            true => print_json(&json::Watched::from(&told)),
            false => lines(&told).iter().for_each(|line| emit(line)),
        }
    }
}

fn options(args: &args::Watch) -> WatchOptions {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    WatchOptions::new()
        .name(text(&args.name))
        .prefix(text(&args.prefix))
        .session(text(&args.session))
        .owner(text(&args.owner))
        .kinds(args.kinds.iter().map(|kind| EventKind::from(*kind)))
        .position(&args.position)
}

/// The end by a signal: Ctrl-C is how a watch is meant to end.
fn interrupted(signal: i32, position: &str, args: &args::Watch) -> Result<(), Failure> {
    if !args.remote.json && !position.is_empty() {
        eprintln!("to go on from here: --position {position}");
    }
    match signal {
        libc::SIGINT => Ok(()),
        signal => Err(Failure::already_told(Exit::Signal(signal as u8))),
    }
}

/// An answer of a watch, as lines for people.
fn lines(told: &Told) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(state) = &told.state {
        if state.resync {
            let shard = state.shard;
            lines.push(format!("resync: changes on shard {shard} were lost; its state follows"));
        }
        lines.extend(
            state.held.iter().map(|grant| line(0, "held", &grant.resource_name, &about(grant))),
        );
        let waits = state.queued.iter();
        lines.extend(
            waits.map(|waiter| line(0, "waits", &waiter.resource_name, &about_wait(waiter))),
        );
    }
    lines.extend(told.events.iter().map(change));
    lines
}

/// A line: the time, the kind of change or state, the lock, and more about it.
fn line(at_ms: u64, word: &str, name: &str, about: &[String]) -> String {
    let paint = Paint::stdout();
    let word = padded(word, WORD_WIDTH);
    let word = match word.trim_end() {
        "broken" | "expired" => paint.bad(&word),
        "granted" | "held" => paint.good(&word),
        _ => word.clone(),
    };
    let at = if at_ms == 0 { String::new() } else { format!("{}  ", date_time(at_ms)) };
    format!("{at}{word} {}  {}", paint.bold(&shown(name)), about.join(", ")).trim_end().to_owned()
}

fn change(event: &Event) -> String {
    let word = json::event_word(event.kind());
    let mut about = match (&event.grant, &event.waiter) {
        (Some(grant), _) => self::about(grant),
        (None, Some(waiter)) => about_wait(waiter),
        (None, None) => Vec::new(),
    };
    let by = by_identity(&event.broken_by, &event.broken_by_principal);
    if !by.is_empty() {
        about.push(format!("by {}", shown(&by)));
    }
    if !event.reason.is_empty() {
        about.push(shown(&event.reason));
    }
    line(event.at_ms, word, &event.resource_name, &about)
}

fn about(grant: &Grant) -> Vec<String> {
    let mut about = Vec::new();
    if grant.fencing_token != 0 {
        about.push(format!("token {}", grant.fencing_token));
    }
    let who = by_identity(&grant.owner_id, &grant.principal);
    if !who.is_empty() {
        about.push(shown(&who));
    }
    if grant.waited_ms > 0 {
        about.push(format!("waited {}", show_ms(grant.waited_ms)));
    }
    about
}

fn about_wait(waiter: &Waiter) -> Vec<String> {
    let mut about = Vec::new();
    if waiter.place != 0 {
        about.push(format!("place {}", waiter.place));
    }
    let who = by_identity(&waiter.owner_id, &waiter.principal);
    if !who.is_empty() {
        about.push(shown(&who));
    }
    about
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::WatchState;

    #[test]
    fn each_hold_wait_and_change_has_a_line() {
        let grant = Grant {
            resource_name: "a".into(),
            owner_id: "me\n".into(),
            principal: "alice".into(),
            fencing_token: 7,
            ..Default::default()
        };
        let waiter = Waiter {
            resource_name: "a".into(),
            owner_id: "you".into(),
            place: 2,
            ..Default::default()
        };
        let state = WatchState {
            resync: true,
            held: vec![grant.clone()],
            queued: vec![waiter.clone()],
            ..Default::default()
        };
        let broken = Event {
            kind: EventKind::Broken.into(),
            resource_name: "a".into(),
            at_ms: 1_000,
            grant: Some(grant),
            broken_by: "bob".into(),
            reason: "gone".into(),
            ..Default::default()
        };
        let queued = Event {
            kind: EventKind::Queued.into(),
            resource_name: "a".into(),
            at_ms: 1_000,
            waiter: Some(waiter),
            ..Default::default()
        };
        let told = Told { state: Some(state), events: vec![broken, queued], ..Default::default() };
        assert_eq!(
            lines(&told),
            [
                "resync: changes on shard 0 were lost; its state follows",
                "held      a  token 7, me\\u{a} (alice)",
                "waits     a  place 2, you",
                "1970-01-01 00:00:01Z  broken    a  token 7, me\\u{a} (alice), by bob, gone",
                "1970-01-01 00:00:01Z  queued    a  place 2, you",
            ]
        );
    }
}
