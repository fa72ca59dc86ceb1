//! Messages on standard error that never block the process that sends them.
//!
//! Standard error may be a full pipe, a pipe without a reader, or a file on a disk that hangs. A
//! separate thread writes to it and ignores errors. A message that does not fit into the queue is
//! dropped, and counted in the next message that fits. Serving, or ending a job, is worth more than
//! a message.
//!
//! Once [`speak_json`] was called, each message is a line of JSON, from any part of the program.

use crate::shown::{counted, keep_in_json};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Limit of messages that wait for a slow reader.
const QUEUE: usize = 1_024;
/// How often [`last_words`] looks for room in the queue.
const LOOKS_EVERY: Duration = Duration::from_millis(5);

enum Line {
    Say(String),
    Flush(SyncSender<()>),
}

/// Whether each message is a line of JSON.
static JSON: AtomicBool = AtomicBool::new(false);
/// Messages dropped since the last one that fitted.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The queue of the writing thread. The inner `None` means that no thread could be started, so no
/// messages appear.
static LINES: OnceLock<Option<SyncSender<Line>>> = OnceLock::new();

fn lines() -> Option<&'static SyncSender<Line>> {
    let start = || {
        let (sender, receiver) = sync_channel(QUEUE);
        let write = move || {
            for line in receiver {
                match line {
                    // An error means that standard error has no reader, which is no reason to act.
                    Line::Say(text) => drop(io::stderr().write_all(text.as_bytes())),
                    Line::Flush(done) => drop(done.try_send(())),
                }
            }
        };
        std::thread::Builder::new().name("voice".into()).spawn(write).ok().map(|_| sender)
    };
    LINES.get_or_init(start).as_ref()
}

/// Makes each further message a line of JSON.
pub fn speak_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// A text in the form of the log: as it is, or as one line of JSON.
fn formed(text: String) -> String {
    match JSON.load(Ordering::Relaxed) {
        true => as_json(text),
        false => text,
    }
}

/// One line of JSON for a text for people. The level is the text's own `warning: `, or else ERROR.
/// A line of the log is JSON already.
fn as_json(text: String) -> String {
    if text.starts_with("{\"timestamp\":") {
        return text;
    }
    let said = text.trim();
    let (level, message) = match said.strip_prefix("warning: ") {
        Some(warning) => ("WARN", warning),
        None => ("ERROR", said.strip_prefix("error: ").unwrap_or(said)),
    };
    let mut timestamp = String::new();
    // A clock that cannot be shown leaves the line without a time.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let string = |text: &str| serde_json::Value::from(text).to_string();
    let line = format!(
        "{{\"timestamp\":{},\"level\":\"{level}\",\"message\":{}}}",
        string(&timestamp),
        string(message)
    );
    keep_in_json(&line) + "\n"
}

/// Queues a message if there is room, and returns at once.
pub fn say(text: String) {
    if let Some(lines) = lines() {
        say_to(lines, &DROPPED, text);
    }
}

fn say_to(lines: &SyncSender<Line>, dropped: &AtomicU64, text: String) {
    let missing = dropped.swap(0, Ordering::Relaxed);
    let text = formed(text);
    if lines.try_send(Line::Say(after(missing, text))).is_err() {
        dropped.fetch_add(missing + 1, Ordering::Relaxed);
    }
}

fn after(missing: u64, text: String) -> String {
    match missing {
        0 => text,
        _ => {
            let messages = counted(missing, "message");
            formed(format!("warning: {messages} dropped here: standard error took no more\n"))
                + &text
        }
    }
}

/// Queues a message, and waits until all messages are written, but no longer than `within`.
pub fn last_words(text: String, within: Duration) {
    let until = Instant::now() + within;
    if let Some(lines) = lines() {
        send(lines, Line::Say(after(DROPPED.swap(0, Ordering::Relaxed), formed(text))), until);
    }
    flush(until.saturating_duration_since(Instant::now()));
}

/// Waits until all messages are written, but no longer than `within`. Without any earlier message
/// it returns at once.
pub fn flush(within: Duration) {
    let Some(Some(lines)) = LINES.get() else { return };
    let until = Instant::now() + within;
    let (done, is_done) = sync_channel(1);
    if send(lines, Line::Flush(done), until) {
        let _ = is_done.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Waits for room in the queue until `until`. Says whether the line was queued.
fn send(lines: &SyncSender<Line>, mut line: Line, until: Instant) -> bool {
    loop {
        match lines.try_send(line) {
            Ok(()) => return true,
            Err(TrySendError::Full(full)) if Instant::now() < until => line = full,
            Err(_) => return false,
        }
        std::thread::sleep(LOOKS_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_for_people_becomes_one_line_of_json() {
        let told = |text: &str| {
            let line = as_json(text.to_owned());
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert!(json["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
            (json["level"].clone(), json["message"].clone())
        };
        assert_eq!(told("warning: a \"b\"\n"), ("WARN".into(), "a \"b\"".into()));
        assert_eq!(told("error: a\n  next: b\n"), ("ERROR".into(), "a\n  next: b".into()));
        assert_eq!(told("\nthread 'x' panicked\n"), ("ERROR".into(), "thread 'x' panicked".into()));
        let line = "{\"timestamp\":\"t\",\"level\":\"INFO\"}\n";
        assert_eq!(as_json(line.into()), line);
    }

    #[test]
    fn what_does_not_fit_is_counted_in_the_next_message_that_does() {
        let (lines, written) = sync_channel(1);
        let dropped = AtomicU64::new(0);
        let say = |text: &str| say_to(&lines, &dropped, text.into());
        ["first", "second", "third"].into_iter().for_each(say);
        let next = || match written.try_recv() {
            Ok(Line::Say(text)) => text,
            _ => panic!("nothing was said"),
        };
        assert_eq!(next(), "first");
        say("fourth");
        assert_eq!(next(), "warning: 2 messages dropped here: standard error took no more\nfourth");
        say("fifth");
        assert_eq!(next(), "fifth");
        assert!(written.try_recv().is_err());
    }
}
