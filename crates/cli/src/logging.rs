//! The log of servers and verbs: on standard error, one line for each event, filtered by
//! `PALISADE_LOG`.
//!
//! These lines contain names, owners and messages of peers. No character of such text can move a
//! terminal's cursor, reorder a line or begin a new one. No thread of a server waits for standard
//! error ([`voice`]). Otherwise a blocked pipe would stop even the threads that watch the disk and
//! write to it, because these threads log too.

mod bounds;

use crate::args::{Command, LogFormat};
use crate::end;
use crate::shown::{keep, keep_in_json, one_line};
use crate::voice;
use bounds::{Bounded, Bounds};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The additions of SIGUSR1 to the filter of the start: first the one, then the other.
const MORE: [&str; 2] = ["palisade=debug", "palisade=trace"];

/// The filter of the start, and the way to change the one in use.
static FILTER: OnceLock<(String, reload::Handle<EnvFilter, Registry>)> = OnceLock::new();
/// The bound on the lines of a server.
static BOUNDS: OnceLock<Bounds> = OnceLock::new();

/// Starts logging. `PALISADE_LOG` has the syntax of `RUST_LOG`; the default is `info` for servers
/// and `warn` for all other commands. In `dev` all nodes live and die together, so their messages
/// about each other's absence are noise. An invalid filter is reported, and not used.
pub fn start(command: &Command) {
    let default = match command {
        Command::Node(_) | Command::Gateway(_) => "info",
        Command::Dev(_) => {
            "warn,palisade_node::transport=error,palisade_node::health=error,\
             palisade_gateway::doors::server=error"
        }
        _ => "warn",
    };
    match format_of(command) {
        Some(format) => {
            std::panic::set_hook(Box::new(say_panic));
            let bounds = Bounds::default();
            bounds.start_sums();
            let _ = BOUNDS.set(bounds.clone());
            if format == LogFormat::Json {
                voice::speak_json();
            }
            start_as(format, default, voice::say, Some(bounds));
        }
        // Lines would be written across the screen. `2> FILE` keeps them.
        None if matches!(command, Command::Top(_)) && std::io::stderr().is_terminal() => {
            start_with(default, drop);
        }
        // An unreadable standard error is no reason to stop.
        None => start_with(default, |text| drop(std::io::stderr().write_all(text.as_bytes()))),
    }
}

/// The format of a server's log. `None` for other commands.
fn format_of(command: &Command) -> Option<LogFormat> {
    match command {
        Command::Node(args) => Some(args.log.log_format),
        Command::Gateway(args) => Some(args.log.log_format),
        Command::Dev(args) => Some(args.log.log_format),
        _ => None,
    }
}

/// Logs how many lines the bound left out since the last sums. For the end of a server.
pub fn say_last_sums() {
    if let Some(bounds) = BOUNDS.get() {
        bounds.say_all_sums();
    }
}

/// The signals that change how much is logged. From now on they do not end the process.
#[derive(Debug)]
pub struct Signals {
    more: Signal,
    back: Signal,
}

impl Signals {
    /// Listens for SIGUSR1 and SIGUSR2, within a runtime.
    ///
    /// # Errors
    /// If the system does not take the handlers.
    pub fn listen() -> std::io::Result<Signals> {
        let more = signal(SignalKind::user_defined1())?;
        Ok(Signals { more, back: signal(SignalKind::user_defined2())? })
    }
}

/// The filter after so many SIGUSR1: that of the start, and more of this program.
fn filter_at(start: &str, at: usize) -> String {
    match at.checked_sub(1) {
        None => start.to_owned(),
        Some(nth) => format!("{start},{}", MORE[nth]),
    }
}

/// Changes how much is logged at each SIGUSR1 and SIGUSR2, for ever.
///
/// SIGUSR1 logs more: first `debug`, then `trace`. SIGUSR2 goes back to the filter of the start.
pub async fn follow_signals(signals: Signals) {
    let Signals { mut more, mut back } = signals;
    let mut at = 0;
    loop {
        tokio::select! {
            _ = more.recv() => at = (at + 1).min(MORE.len()),
            _ = back.recv() => at = 0,
        }
        let Some((start, handle)) = FILTER.get() else { continue };
        let text = filter_at(start, at);
        match handle.reload(EnvFilter::new(&text)) {
            Ok(()) => tracing::info!(filter = text, "told by a signal: the log has another filter"),
            Err(error) => tracing::warn!(%error, "the filter of the log cannot be changed"),
        }
    }
}

/// Reports a panic in the format of std, but within a time limit. A panicking thread of a server
/// ends the server only after this message.
fn say_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (name, backtrace) = (thread.name().unwrap_or("<unnamed>"), Backtrace::capture());
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => backtrace.to_string(),
        _ => "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace"
            .to_owned(),
    };
    voice::last_words(format!("\nthread '{name}' {panic}\n{backtrace}\n"), end::WORDS_WITHIN);
}

/// Starts logging for a process that writes to standard error in its own way.
pub fn start_with(default: &'static str, write: fn(String)) {
    start_as(LogFormat::Text, default, write, None);
}

fn start_as(format: LogFormat, default: &str, write: fn(String), bounds: Option<Bounds>) {
    let (text, filter) = filter(default, write);
    let (filter, handle) = reload::Layer::new(filter);
    let _ = FILTER.set((text, handle));
    let registry = tracing_subscriber::registry().with(filter);
    let terminal = std::io::stderr().is_terminal();
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && terminal;
    match format {
        LogFormat::Text => {
            let writer = move || Lines { kind: Kind::Text { colours }, write };
            let lines = fmt::layer().with_ansi(colours).with_writer(writer);
            registry.with(Bounded { layer: lines, bounds }).init();
        }
        LogFormat::Json => {
            let writer = move || Lines { kind: Kind::Json, write };
            let lines = fmt::layer().json().flatten_event(true).with_writer(writer);
            registry.with(Bounded { layer: lines, bounds }).init();
        }
    }
}

/// The filter of the start, and its text.
fn filter(default: &str, write: fn(String)) -> (String, EnvFilter) {
    let given = std::env::var_os("PALISADE_LOG").filter(|text| !text.is_empty());
    let parsed = given.and_then(|text| {
        let parsed = match text.to_str() {
            Some(text) => EnvFilter::try_new(text).map_err(|error| error.to_string()),
            None => Err("it is not UTF-8".to_owned()),
        };
        let text = text.to_string_lossy().into_owned();
        let told = |why: String| {
            let (text, why) = (one_line(&text), one_line(&why));
            write(format!("warning: PALISADE_LOG={text} is no filter ({why}); using {default}\n"));
        };
        let filter = parsed.map_err(told).ok()?;
        Some((text, filter))
    });
    parsed.unwrap_or_else(|| (default.to_owned(), EnvFilter::new(default)))
}

/// The form of the lines.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Text {
        /// Keeps escape sequences. They are the logger's own, because it escapes those of other
        /// text.
        colours: bool,
    },
    Json,
}

/// A writer to standard error, for one event at a time.
struct Lines {
    kind: Kind,
    write: fn(String),
}

impl Lines {
    fn clean(&self, event: &[u8]) -> String {
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        let clean = match self.kind {
            Kind::Text { colours } => keep(line, |c| colours && c == '\x1b'),
            Kind::Json => keep_in_json(line),
        };
        clean + end
    }
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        (self.write)(self.clean(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_added_to_the_filter_of_the_start() {
        let start = "warn,tonic=error";
        assert_eq!(filter_at(start, 0), start);
        assert_eq!(filter_at(start, 1), "warn,tonic=error,palisade=debug");
        assert_eq!(filter_at(start, MORE.len()), "warn,tonic=error,palisade=trace");
    }

    #[test]
    fn an_event_stays_on_its_line_whatever_names_are_in_it() {
        let event = "WARN refused name=a\u{202e}b\r\nERROR forged \x1b[2J\n".as_bytes();
        let plain = Lines { kind: Kind::Text { colours: false }, write: |_| {} }.clean(event);
        assert_eq!(plain, "WARN refused name=a\\u{202e}b\\u{d}\\u{a}ERROR forged \\u{1b}[2J\n");
        let coloured = Lines { kind: Kind::Text { colours: true }, write: |_| {} }
            .clean(b"\x1b[33mWARN\x1b[0m a\nb\n");
        assert_eq!(coloured, "\x1b[33mWARN\x1b[0m a\\u{a}b\n");
    }

    #[test]
    fn a_line_of_json_stays_json_whatever_names_are_in_it() {
        let event = "{\"name\":\"a\u{202e}b\u{e0001}\"}\n";
        let clean = Lines { kind: Kind::Json, write: |_| {} }.clean(event.as_bytes());
        assert_eq!(clean, "{\"name\":\"a\\u202eb\\udb40\\udc01\"}\n");
        let parsed: serde_json::Value = serde_json::from_str(&clean).expect("JSON");
        assert_eq!(parsed["name"], "a\u{202e}b\u{e0001}");
    }
}
