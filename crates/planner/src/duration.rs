//! Durations as people write them (`200us`, `2.5s`, `1h30m`), and back.
//!
//! Parsing is exact to the nanosecond and never rounds. This module knows nothing of the purpose of
//! a duration. The command line reads its flags with it, too.

use std::time::Duration;

/// Units from large to small: suffix and nanoseconds.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
];

/// The reason why a text is not a duration. The message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is empty, or has only spaces.
    #[error("it is empty; {WRITE}")]
    Empty,
    /// The text begins with a minus sign.
    #[error("it is negative; {WRITE}")]
    Negative,
    /// A part begins with something other than a digit.
    #[error("there is no number before `{0}`; {WRITE}")]
    NoNumber(String),
    /// The digits and dots of a part are not a number, for example `1.2.3`.
    #[error("`{0}` is an invalid number; {WRITE}")]
    InvalidNumber(String),
    /// No unit follows a number. No unit is assumed, because seconds and milliseconds are equally
    /// likely to be meant.
    #[error("`{0}` has no unit; {WRITE}")]
    NoUnit(String),
    /// The unit of a part does not exist.
    #[error("`{0}` is not a unit (use d, h, m, s, ms or us); {WRITE}")]
    UnknownUnit(String),
    /// A unit follows an equal or smaller one, for example in `1m1h`.
    #[error("its units do not go from large to small; {WRITE}")]
    UnitOrder,
    /// The duration is no multiple of the smallest step. It is not rounded, because a TTL of 0 can
    /// come of that.
    #[error("it is finer than a {0}; write a whole number of them")]
    TooFine(&'static str),
    /// The duration is longer than the longest one that is allowed.
    #[error("it is too long; write at most {0}")]
    TooLong(&'static str),
}

/// The end of most messages.
const WRITE: &str = "write a duration such as 100ms, 2.5s, 5m or 1h30m";
/// The smallest step of [`parse_duration`].
const STEP: &str = "nanosecond";
/// The longest duration of [`parse_duration`], in whole days: its nanoseconds fit 64 bits.
const LONGEST: &str = "213503d";

/// Parses one or more `<number><unit>` parts, from large to small units, with or without spaces
/// between them. A bare `0` is allowed.
///
/// ```
/// use palisade_planner::{DurationError, parse_duration};
/// use std::time::Duration;
///
/// assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5_400)));
/// assert_eq!(parse_duration("2.5s"), Ok(Duration::from_millis(2_500)));
/// assert_eq!(parse_duration("90"), Err(DurationError::NoUnit("90".into())));
/// ```
///
/// # Errors
/// The first mistake in `text`.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.starts_with('-') {
        return Err(DurationError::Negative);
    }
    let (mut total_ns, mut larger_than) = (0u64, u64::MAX);
    while !rest.is_empty() {
        let (number, after) = split_while(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split_while(after, char::is_alphabetic);
        if number.is_empty() {
            return Err(DurationError::NoNumber(rest.to_owned()));
        }
        if unit.is_empty() {
            return Err(DurationError::NoUnit(number.to_owned()));
        }
        let Some((_, unit_ns)) = UNITS.iter().find(|(suffix, _)| *suffix == unit) else {
            return Err(DurationError::UnknownUnit(unit.to_owned()));
        };
        if *unit_ns >= larger_than {
            return Err(DurationError::UnitOrder);
        }
        larger_than = *unit_ns;
        let part = part_ns(number, *unit_ns)?;
        total_ns = total_ns.checked_add(part).ok_or(DurationError::TooLong(LONGEST))?;
        rest = after.trim_start();
    }
    Ok(Duration::from_nanos(total_ns))
}

fn split_while(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !wanted(c)).unwrap_or(text.len()))
}

/// `12.5` of a unit, in nanoseconds.
fn part_ns(number: &str, unit_ns: u64) -> Result<u64, DurationError> {
    let too_long = DurationError::TooLong(LONGEST);
    let invalid = || DurationError::InvalidNumber(number.to_owned());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return Err(invalid());
    }
    let whole_ns = whole.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ns));
    let whole_ns = whole_ns.ok_or(too_long.clone())?;
    if fraction.is_empty() {
        return Ok(whole_ns);
    }
    // At most 12 digits. With the largest unit the product is far below 2^128.
    if fraction.len() > 12 {
        return Err(DurationError::TooFine(STEP));
    }
    let scaled = fraction.parse::<u128>().map_err(|_| invalid())? * u128::from(unit_ns);
    let scale = 10u128.pow(fraction.len() as u32);
    if !scaled.is_multiple_of(scale) {
        return Err(DurationError::TooFine(STEP));
    }
    u64::try_from(scaled / scale).ok().and_then(|ns| ns.checked_add(whole_ns)).ok_or(too_long)
}

/// Seconds for people, exact to the microsecond: `200us`, `2.5s`, `5m`, `1h30m`.
pub(crate) fn show_s(seconds: f64) -> String {
    let us = (seconds * 1e6).round() as u64;
    let decimal = |value: f64| {
        let text = format!("{value:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match us {
        0 => "0s".to_owned(),
        1..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}ms", decimal(us as f64 / 1e3)),
        1_000_000..60_000_000 => format!("{}s", decimal(us as f64 / 1e6)),
        _ => {
            let (total_s, rest_us) = (us / 1_000_000, us % 1_000_000);
            let (d, h, m) = (total_s / 86_400, total_s / 3_600 % 24, total_s / 60 % 60);
            let s = (total_s % 60) as f64 + rest_us as f64 / 1e6;
            let part = |count: u64, unit: &str| {
                if count > 0 { format!("{count}{unit}") } else { String::new() }
            };
            let seconds = if s > 0.0 { format!("{}s", decimal(s)) } else { String::new() };
            format!("{}{}{}{seconds}", part(d, "d"), part(h, "h"), part(m, "m"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, ns) in [
            ("0", 0),
            ("200us", 200_000),
            ("200µs", 200_000),
            ("0.2ms", 200_000),
            ("30s", 30_000_000_000),
            ("2.5s", 2_500_000_000),
            ("1h30m", 5_400_000_000_000),
            ("4m 12s", 252_000_000_000),
            ("1d", 86_400_000_000_000),
            (" 5m ", 300_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    #[test]
    fn a_malformed_duration_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("30", "no unit"),
            ("s", "no number"),
            ("-5s", "negative"),
            ("1.s", "invalid number"),
            (".5s", "invalid number"),
            ("1.2.3s", "invalid number"),
            ("5min", "not a unit (use d, h"),
            ("1m1h", "large to small"),
            ("1s1s", "large to small"),
            ("1us1µs", "large to small"),
            ("0.0001us", "finer than a nanosecond"),
            ("0.1234567890123s", "finer than a nanosecond"),
            ("99999999999999999999s", "too long"),
            ("18446744073709551615d", "too long"),
            ("213503d 213503h", "too long"),
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_written() {
        for text in [
            "0s", "200us", "1.5ms", "999ms", "2.5s", "30s", "5m", "1h30m", "1d", "2m0.5s",
            "1d2h3m4s",
        ] {
            let parsed = parse_duration(text).expect("a duration");
            assert_eq!(show_s(parsed.as_secs_f64()), text);
        }
    }
}
