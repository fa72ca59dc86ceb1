//! Results on standard output: aligned `key: value` lines and tables for people, one JSON document
//! for programs.
//!
//! The module knows the wire's types and a wall clock for relative times. It sends no requests.

use crate::duration::show_ms;
use crate::shown::{date_time, keep, padded, shown, width};
use clap::ValueEnum;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};
use wire::json::mode_name;
use wire::v1::{Grant, Mode};

/// How a moment is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Times {
    /// The time until it, or since it
    Relative,
    /// The date and the time, in UTC, by the clock of a server
    Absolute,
}

/// The current time in Unix milliseconds, for display.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Prints a line. Ends the process quietly if the pipe has no reader any more, as in
/// `palisade ls | head`.
pub fn emit(line: &str) {
    let mut stdout = std::io::stdout().lock();
    if writeln!(stdout, "{line}").is_err() {
        // The exit code that a shell reports for a command that SIGPIPE ended.
        std::process::exit(141);
    }
}

/// Prints a line for a server, which continues even if standard output has no reader.
pub fn emit_if_heard(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a value as one line of JSON.
pub fn print_json(value: &impl Serialize) {
    // Structs of strings and numbers always serialise.
    emit(&serde_json::to_string(value).expect("serialise to JSON"));
}

/// Shows the time left as the answering replica counts it, independent of wall clocks: `in 29.8s`,
/// or `due`.
pub fn expiry(grant: &Grant) -> String {
    if grant.due { "due".to_owned() } else { format!("in {}", show_ms(grant.remaining_ms.into())) }
}

/// Like [`expiry`], or as a moment by the clock of the node that answered.
pub fn expires(grant: &Grant, times: Times) -> String {
    match times {
        Times::Absolute if !grant.due => date_time(grant.expires_at_ms),
        _ => expiry(grant),
    }
}

/// Shows the time since an event: `2.1s ago`.
pub fn ago(at_ms: u64, now_ms: u64) -> String {
    format!("{} ago", show_ms(now_ms.saturating_sub(at_ms)))
}

/// Colours for a terminal, unless `NO_COLOR` is set.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    pub fn stdout() -> Paint {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Paint(wanted && std::io::stdout().is_terminal())
    }

    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints `key: value` lines with the values in one column.
pub fn print_pairs(pairs: &[(&str, String)]) {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in pairs {
        emit(&format!(
            "  {:<width$}  {}",
            format!("{key}:"),
            one_line_keep_colour(value),
            width = width + 1
        ));
    }
}

/// Escapes all control characters but ESC, because our own colours need ESC. Text from other
/// machines is escaped before it gets its colour.
fn one_line_keep_colour(value: &str) -> String {
    keep(value, |c| c == '\x1b')
}

/// Lines of a table with left-aligned columns two spaces apart; the first row is the header. Cells
/// may come from other machines, so characters that a terminal would obey or hide are shown by
/// number ([`shown`]).
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let widest = |i: usize| {
        rows.iter().filter_map(|row| row.get(i)).map(|cell| width(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| padded(cell, *width)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Prints a [`table`] with a dim header.
pub fn print_table(rows: &[Vec<String>]) {
    let paint = Paint::stdout();
    for (i, line) in table(rows).iter().enumerate() {
        emit(&if i == 0 { paint.dim(line) } else { line.clone() });
    }
}

/// Prints the facts of a grant for people, and the lines that the verb adds.
pub fn print_grant(heading: &str, grant: &Grant, times: Times, more: Vec<(&'static str, String)>) {
    let paint = Paint::stdout();
    let due =
        if grant.due { ": it ends as soon as the shard's leader has that committed" } else { "" };
    emit(&format!("{} {}", paint.good(heading), paint.bold(&shown(&grant.resource_name))));
    let mut pairs = vec![(
        "owner",
        if grant.owner_id.is_empty() { "(not said)".into() } else { shown(&grant.owner_id) },
    )];
    if !grant.principal.is_empty() {
        pairs.push(("identity", shown(&grant.principal)));
    }
    pairs.extend([
        ("token", paint.bold(&grant.fencing_token.to_string())),
        (
            "expires",
            format!("{}{due} (TTL {})", expires(grant, times), show_ms(grant.ttl_ms.into())),
        ),
        ("renewals", grant.renewal_count.to_string()),
        ("shard", grant.shard.to_string()),
    ]);
    if !matches!(grant.mode(), Mode::Exclusive | Mode::Unspecified) {
        pairs.push(("mode", mode_name(grant.mode()).to_owned()));
    }
    if grant.waited_ms > 0 {
        pairs.push(("waited", show_ms(grant.waited_ms)));
    }
    if !grant.session_id.is_empty() {
        pairs.push(("session", shown(&grant.session_id)));
    }
    if !grant.metadata.is_empty() {
        pairs.push(("metadata", shown(&grant.metadata)));
    }
    pairs.extend(more);
    print_pairs(&pairs);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_clean_what_came_from_afar() {
        let rows = ["a", "b", "long\x1b[2J", "x", "日本", "\u{202e}y"].map(String::from);
        let rows: Vec<Vec<String>> = rows.chunks(2).map(<[String]>::to_vec).collect();
        let lines = ["a              b", "long\\u{1b}[2J  x", "日本           \\u{202e}y"];
        assert_eq!(table(&rows), lines);
    }

    #[test]
    fn times_are_relative() {
        let grant = Grant { remaining_ms: 29_800, expires_at_ms: 1, ..Default::default() };
        assert_eq!(expiry(&grant), "in 29.8s", "no clock of this machine is asked");
        assert_eq!(expiry(&Grant { remaining_ms: 0, due: true, ..grant }), "due");
        let grant = Grant { remaining_ms: 1, expires_at_ms: 1_000, ..Default::default() };
        assert_eq!(expires(&grant, Times::Absolute), "1970-01-01 00:00:01Z");
        assert_eq!(ago(1_000, 3_100), "2.1s ago");
    }
}
