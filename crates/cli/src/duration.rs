//! Durations on the command line (`100ms`, `30s`, `2.5s`, `1h30m`), and as the program shows them.
//!
//! The parser is the planner's. Flags take whole milliseconds only, because the protocol does. The
//! module does not know the purpose of a duration: limits on TTLs belong to the service.

use planner::DurationError;
use std::time::Duration;

/// Parses a duration of whole milliseconds.
///
/// # Errors
/// The first mistake in `text`, and the right form.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let duration = planner::parse_duration(text)?;
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(DurationError::TooFine("millisecond"));
    }
    Ok(duration)
}

/// Like [`parse`], but refuses a duration above the protocol's 32-bit milliseconds (about 49 days).
/// That limit is far above the 24 h that the service allows for TTLs and waits.
///
/// # Errors
/// The same as those of [`parse`], and an error for a duration that is too long.
pub fn parse_ms(text: &str) -> Result<u32, DurationError> {
    u32::try_from(parse(text)?.as_millis()).map_err(|_| DurationError::TooLong("24h"))
}

/// Shows a duration for people: `420ms`, `29.8s`, `4m 12s`, `2h 05m`, `3d 04h`.
pub fn show_ms(ms: u64) -> String {
    let (s, m, h, d) = (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", s, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{m}m {:02}s", s % 60),
        3_600_000..86_400_000 => format!("{h}h {:02}m", m % 60),
        _ => format!("{d}d {:02}h", h % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms) in [
            ("100ms", 100),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            ("1m500ms", 60_500),
            ("1.5s", 1_500),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("30", "`30` has no unit"),
            ("s", "no number before `s`"),
            ("-5s", "negative"),
            ("5 s", "`5` has no unit"),
            ("5min", "`min` is not a unit"),
            ("1m1h", "large to small"),
            ("1s1s", "large to small"),
            ("99999999999999999999s", "too long"),
            ("18446744073709551615d", "too long"),
            ("1500us", "finer than a millisecond"),
            ("0.0001s", "finer than a millisecond"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert_eq!(parse_ms("50d"), Err(DurationError::TooLong("24h")));
        assert_eq!(parse_ms("49d"), Ok(49 * 86_400_000));
    }

    #[test]
    fn shown_with_two_figures_that_matter() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (29_849, "29.8s"),
            (60_000, "1m 00s"),
            (252_000, "4m 12s"),
            (7_500_000, "2h 05m"),
            (273_600_000, "3d 04h"),
        ] {
            assert_eq!(show_ms(ms), text);
        }
    }
}
