//! The log of servers and verbs: on standard error, one line for each event, filtered by
//! `PALISADE_LOG`.
//!
//! These lines contain names, owners and messages of peers. No character of such text can move a
//! terminal's cursor, reorder a line or begin a new one. No thread of a server waits for standard
//! error ([`voice`]). Otherwise a blocked pipe would stop even the threads that watch the disk and
//! write to it, because these threads log too.

use crate::args::Command;
use crate::end;
use crate::shown::{keep, one_line};
use crate::voice;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Starts logging. `PALISADE_LOG` has the syntax of `RUST_LOG`; the default is `info` for servers
/// and `warn` for all other commands. In `dev` all nodes live and die together, so their messages
/// about each other's absence are noise. An invalid filter is reported, and not used.
pub fn start(command: &Command) {
    let default = match command {
        Command::Node(_) | Command::Gateway(_) => "info",
        Command::Dev(_) => "warn,palisade_node::transport=error",
        _ => "warn",
    };
    match command {
        Command::Node(_) | Command::Gateway(_) | Command::Dev(_) => {
            std::panic::set_hook(Box::new(say_panic));
            start_with(default, voice::say);
        }
        // An unreadable standard error is no reason to stop.
        _ => start_with(default, |text| drop(std::io::stderr().write_all(text.as_bytes()))),
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
    let given = std::env::var_os("PALISADE_LOG").filter(|text| !text.is_empty());
    let filter = given.and_then(|text| {
        let parsed = match text.to_str() {
            Some(text) => EnvFilter::try_new(text).map_err(|error| error.to_string()),
            None => Err("it is not UTF-8".to_owned()),
        };
        let told = |why: String| {
            let text = text.to_string_lossy();
            let (text, why) = (one_line(&text), one_line(&why));
            write(format!("warning: PALISADE_LOG={text} is no filter ({why}); using {default}\n"));
        };
        parsed.map_err(told).ok()
    });
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal();
    let writer = move || Lines { colours, write };
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(writer).init();
}

/// A writer to standard error, for one event at a time.
struct Lines {
    /// Keeps escape sequences. They are the logger's own, because it escapes those of other text.
    colours: bool,
    write: fn(String),
}

impl Lines {
    fn clean(&self, event: &[u8]) -> String {
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        keep(line, |c| self.colours && c == '\x1b') + end
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
    fn an_event_stays_on_its_line_whatever_names_are_in_it() {
        let event = "WARN refused name=a\u{202e}b\r\nERROR forged \x1b[2J\n".as_bytes();
        let plain = Lines { colours: false, write: |_| {} }.clean(event);
        assert_eq!(plain, "WARN refused name=a\\u{202e}b\\u{d}\\u{a}ERROR forged \\u{1b}[2J\n");
        let coloured = Lines { colours: true, write: |_| {} }.clean(b"\x1b[33mWARN\x1b[0m a\nb\n");
        assert_eq!(coloured, "\x1b[33mWARN\x1b[0m a\\u{a}b\n");
    }
}
