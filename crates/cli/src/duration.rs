//! Durations as people write them (`100ms`, `30s`, `5m`, `1h30m`), and back.
//!
//! Parsing accepts whole milliseconds only and never rounds. The module does not know the purpose
//! of a duration: limits on TTLs belong to the service.

use std::time::Duration;

/// Units from large to small: suffix and milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses one or more `<number><unit>` parts, from large to small units, each unit at most once. A
/// bare `0` is allowed.
///
/// # Errors
/// The mistake in `text`, and an example of a valid duration.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let fail =
        |what: &str| Err(format!("{what}; write a duration such as 100ms, 30s, 5m or 1h30m"));
    let mut rest = text;
    let mut total_ms: u64 = 0;
    let mut larger_than = u64::MAX;
    if rest.is_empty() {
        return fail("it is empty");
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return fail("a number is missing");
        }
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| !c.is_ascii_digit()).len();
        let (unit, after) = after.split_at(letters);
        if unit.is_empty() {
            return fail(&format!("`{number}` has no unit"));
        }
        let Some((_, unit_ms)) = UNITS.iter().find(|(suffix, _)| *suffix == unit) else {
            return fail(&format!("`{unit}` is no unit (d, h, m, s, ms are)"));
        };
        if *unit_ms >= larger_than {
            return fail("its units do not go from large to small");
        }
        larger_than = *unit_ms;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*unit_ms));
        let Some(sum) = part.and_then(|part| total_ms.checked_add(part)) else {
            return fail("it is too long");
        };
        total_ms = sum;
        rest = after;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Like [`parse`], but refuses a duration above the protocol's 32-bit milliseconds (about 49 days).
/// That limit is far above the 24 h that the service allows for TTLs and waits.
///
/// # Errors
/// The same as those of [`parse`], and an error for a duration that is too long.
pub fn parse_ms(text: &str) -> Result<u32, String> {
    let duration = parse(text)?;
    u32::try_from(duration.as_millis()).map_err(|_| "it is too long: at most 24h".to_owned())
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
            ("30", "no unit"),
            ("s", "number is missing"),
            ("-5s", "number is missing"),
            ("1.5s", "`.` is no unit"),
            ("5 s", "` s` is no unit"),
            ("5min", "`min` is no unit"),
            ("1m1h", "large to small"),
            ("1s1s", "large to small"),
            ("99999999999999999999s", "too long"),
            ("18446744073709551615d", "too long"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert!(parse_ms("50d").is_err());
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
