//! Results on standard output: aligned `key: value` lines and tables for people, one JSON document for programs.
//!
//! It knows the wire's types and a wall clock for relative times; it asks nobody anything.

use crate::duration::show_ms;
use crate::shown::{keep, padded, shown, width};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};
use wire::v1::{CheckResponse, Grant, GrantState, Mode, Tenure};

/// Unix milliseconds, for display.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Prints a line. Ends the process quietly if nobody reads any more (`palisade ls | head`).
pub fn emit(line: &str) {
    let mut stdout = std::io::stdout().lock();
    if writeln!(stdout, "{line}").is_err() {
        // What a shell reports for a command that SIGPIPE ended.
        std::process::exit(141);
    }
}

/// Prints a line, for a server: it goes on when nobody reads what it says.
pub fn emit_if_heard(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a value as one line of JSON.
pub fn print_json(value: &impl Serialize) {
    // Our own structs of strings and numbers always serialise.
    emit(&serde_json::to_string(value).expect("serialise to JSON"));
}

/// A grant, as programs see it.
#[derive(Debug, Serialize)]
pub struct GrantJson {
    pub resource_name: String,
    pub owner_id: String,
    pub fencing_token: u64,
    pub acquired_at_ms: u64,
    pub expires_at_ms: u64,
    /// What is left of the lease by the answering replica's count: 0 if it is due.
    pub remaining_ms: u32,
    pub ttl_ms: u32,
    pub renewal_count: u64,
    pub state: &'static str,
    pub shard: u32,
    pub mode: &'static str,
    pub waited_ms: u64,
    pub session_id: String,
    pub metadata: String,
}

impl From<&Grant> for GrantJson {
    fn from(grant: &Grant) -> GrantJson {
        GrantJson {
            resource_name: grant.resource_name.clone(),
            owner_id: grant.owner_id.clone(),
            fencing_token: grant.fencing_token,
            acquired_at_ms: grant.acquired_at_ms,
            expires_at_ms: grant.expires_at_ms,
            remaining_ms: grant.remaining_ms,
            ttl_ms: grant.ttl_ms,
            renewal_count: grant.renewal_count,
            state: state_name(grant.state()),
            shard: grant.shard,
            mode: mode_name(grant.mode()),
            waited_ms: grant.waited_ms,
            session_id: grant.session_id.clone(),
            metadata: grant.metadata.clone(),
        }
    }
}

/// One tenure, as programs see it.
#[derive(Debug, Serialize)]
pub struct TenureJson {
    pub resource_name: String,
    pub owner_id: String,
    pub fencing_token: u64,
    pub acquired_at_ms: u64,
    /// `null` while it holds.
    pub ended_at_ms: Option<u64>,
    pub state: &'static str,
    pub renewal_count: u64,
    pub waited_ms: u64,
    pub session_id: String,
    pub mode: &'static str,
    pub broken_by: String,
    pub break_reason: String,
    pub shard: u32,
}

impl From<&Tenure> for TenureJson {
    fn from(tenure: &Tenure) -> TenureJson {
        TenureJson {
            resource_name: tenure.resource_name.clone(),
            owner_id: tenure.owner_id.clone(),
            fencing_token: tenure.fencing_token,
            acquired_at_ms: tenure.acquired_at_ms,
            ended_at_ms: (tenure.ended_at_ms != 0).then_some(tenure.ended_at_ms),
            state: state_name(tenure.state()),
            renewal_count: tenure.renewal_count,
            waited_ms: tenure.waited_ms,
            session_id: tenure.session_id.clone(),
            mode: mode_name(tenure.mode()),
            broken_by: tenure.broken_by.clone(),
            break_reason: tenure.break_reason.clone(),
            shard: tenure.shard,
        }
    }
}

/// The answer to `check`, as programs see it. The oldest holder's fields stand at the top, so that the common, exclusive
/// case needs no list; the holders that are shown stand in `holders`.
#[derive(Debug, Serialize)]
pub struct CheckJson {
    pub resource_name: String,
    /// `ACQUIRED` or `FREE`.
    pub state: &'static str,
    pub owner_id: Option<String>,
    pub fencing_token: Option<u64>,
    pub acquired_at_ms: Option<u64>,
    pub expires_at_ms: Option<u64>,
    pub ttl_ms: Option<u32>,
    pub renewal_count: Option<u64>,
    pub shard: u32,
    pub waiters: u32,
    pub last_token: u64,
    pub answered_by: u64,
    pub applied_index: u64,
    pub stale_by_ms: u64,
    pub holders: Vec<GrantJson>,
    /// Of the name, shown or not.
    pub holder_count: u32,
    /// There are holders after the last that is shown.
    pub more: bool,
}

impl CheckJson {
    pub fn new(name: &str, answer: &CheckResponse) -> CheckJson {
        let first = answer.holders.first();
        CheckJson {
            resource_name: name.to_owned(),
            state: if first.is_some() { "ACQUIRED" } else { "FREE" },
            owner_id: first.map(|grant| grant.owner_id.clone()),
            fencing_token: first.map(|grant| grant.fencing_token),
            acquired_at_ms: first.map(|grant| grant.acquired_at_ms),
            expires_at_ms: first.map(|grant| grant.expires_at_ms),
            ttl_ms: first.map(|grant| grant.ttl_ms),
            renewal_count: first.map(|grant| grant.renewal_count),
            shard: answer.shard,
            waiters: answer.waiters,
            last_token: answer.last_token,
            answered_by: answer.answered_by,
            applied_index: answer.applied_index,
            stale_by_ms: answer.stale_by_ms,
            holders: answer.holders.iter().map(GrantJson::from).collect(),
            holder_count: answer.holder_count,
            more: answer.more,
        }
    }
}

/// As in the protocol, without its prefixes.
pub fn state_name(state: GrantState) -> &'static str {
    match state {
        GrantState::Unspecified => "UNKNOWN",
        GrantState::Acquired => "ACQUIRED",
        GrantState::ExpiredState => "EXPIRED",
        GrantState::Released => "RELEASED",
        GrantState::Broken => "BROKEN",
    }
}

pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "exclusive",
        Mode::Shared => "shared",
        Mode::Semaphore => "semaphore",
    }
}

/// `in 29.8s` as the answering replica counts, whatever the wall clocks show; or `due`.
pub fn expiry(grant: &Grant) -> String {
    if grant.due { "due".to_owned() } else { format!("in {}", show_ms(grant.remaining_ms.into())) }
}

/// `2.1s ago`.
pub fn ago(at_ms: u64, now_ms: u64) -> String {
    format!("{} ago", show_ms(now_ms.saturating_sub(at_ms)))
}

/// Colours, on a terminal and without `NO_COLOR` only.
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
        emit(&format!("  {:<width$}  {}", format!("{key}:"), one_line_keep_colour(value), width = width + 1));
    }
}

/// Values may be coloured by us; what came from afar is cleaned before it gets its colour, so only ESC may remain.
fn one_line_keep_colour(value: &str) -> String {
    keep(value, |c| c == '\x1b')
}

/// Lines of a table with left-aligned columns two spaces apart; the first row is the header. What a terminal would obey or hide
/// in cells from afar is shown by its number ([`shown`]).
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let widest = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| width(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| padded(cell, *width)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Prints [`table`] with a dim header.
pub fn print_table(rows: &[Vec<String>]) {
    let paint = Paint::stdout();
    for (i, line) in table(rows).iter().enumerate() {
        emit(&if i == 0 { paint.dim(line) } else { line.clone() });
    }
}

/// What people want to know of a grant, and what the verb adds to it.
pub fn print_grant(heading: &str, grant: &Grant, more: Vec<(&'static str, String)>) {
    let paint = Paint::stdout();
    let due = if grant.due { ": it ends as soon as the shard's leader has that committed" } else { "" };
    emit(&format!("{} {}", paint.good(heading), paint.bold(&shown(&grant.resource_name))));
    let mut pairs = vec![
        ("owner", if grant.owner_id.is_empty() { "(not said)".into() } else { shown(&grant.owner_id) }),
        ("token", paint.bold(&grant.fencing_token.to_string())),
        ("expires", format!("{}{due} (TTL {})", expiry(grant), show_ms(grant.ttl_ms.into()))),
        ("renewals", grant.renewal_count.to_string()),
        ("shard", grant.shard.to_string()),
    ];
    if grant.mode() != Mode::Exclusive {
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
    fn a_free_lock_says_so_and_names_no_holder() {
        let json =
            serde_json::to_value(CheckJson::new("a", &CheckResponse { shard: 3, ..Default::default() })).unwrap();
        assert_eq!(json["state"], "FREE");
        assert_eq!(json["fencing_token"], serde_json::Value::Null);
        assert_eq!(json["shard"], 3);
    }

    #[test]
    fn a_grant_has_the_agreed_field_names() {
        let grant = Grant {
            resource_name: "a".into(),
            fencing_token: 9,
            state: GrantState::Acquired.into(),
            ..Default::default()
        };
        let json = serde_json::to_value(GrantJson::from(&grant)).unwrap();
        for field in [
            "resource_name",
            "owner_id",
            "fencing_token",
            "acquired_at_ms",
            "expires_at_ms",
            "ttl_ms",
            "renewal_count",
            "state",
            "shard",
        ] {
            assert!(json.get(field).is_some(), "{field} is missing in {json}");
        }
        assert_eq!(json["state"], "ACQUIRED");
    }

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
        assert_eq!(ago(1_000, 3_100), "2.1s ago");
    }
}
