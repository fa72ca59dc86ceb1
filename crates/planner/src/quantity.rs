//! Numbers as people write and read them: `2_000`, `10k`, `8%`; `7,333.3`, `126.7 GB`.
//!
//! Showing rounds, because it is for people only. Programs get the exact figures.

/// Reads a number: underscores or commas between digits, a suffix `k`, `M` or `G`, or a `%`.
pub fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    let (digits, scale) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1e3),
        (at, 'M') => (&text[..at], 1e6),
        (at, 'G') => (&text[..at], 1e9),
        (at, '%') => (&text[..at], 1e-2),
        _ => (text, 1.0),
    };
    let digits: String = digits.trim_end().chars().filter(|c| !matches!(c, '_' | ',')).collect();
    // `parse` would also accept "inf" and "nan".
    if !digits.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number: f64 = digits.parse().ok()?;
    // Divide by 100, because 1e-2 is not exact while 8 / 100 is rounded only once.
    let number = if scale < 1.0 { number / 100.0 } else { number * scale };
    number.is_finite().then_some(number)
}

/// With thousands separators and at most one decimal: `7,333.3`, `22,000`. Below a tenth, with two
/// significant figures: `0.000012`.
pub fn show(value: f64) -> String {
    if value > 0.0 && value < 0.1 {
        let zeros = (-value.log10().floor()) as usize;
        // A value below 1e-12 is shown as 0.
        return decimals(value, (zeros + 1).min(12));
    }
    decimals(value, 1)
}

/// With thousands separators and at most `places` decimals, without trailing zeros.
pub fn decimals(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |text| ("-", text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut grouped = String::with_capacity(text.len() + whole.len() / 3);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        format!("{sign}{grouped}")
    } else {
        format!("{sign}{grouped}.{fraction}")
    }
}

/// A whole number with thousands separators.
pub fn count(value: u64) -> String {
    decimals(value as f64, 0)
}

/// A whole number and its noun, which forms its plural with `s`: `1 shard`, `22,000 shards`.
pub fn counted(value: u64, noun: &str) -> String {
    if value == 1 { format!("1 {noun}") } else { format!("{} {noun}s", count(value)) }
}

/// A share of one: `90.9%`.
pub fn percent(share: f64) -> String {
    format!("{}%", decimals(share * 100.0, 1))
}

/// In powers of 1,000, as capacity is sold: `20 MB`, `126.7 GB`, `3.8 TB`.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (value, 0);
    // A value that would be shown as 1,000.0 takes the next unit.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{} {}", decimals(value, 1), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        for (text, number) in [
            ("2000", 2e3),
            ("2_000", 2e3),
            ("2,000", 2e3),
            ("10k", 1e4),
            ("1.5M", 1.5e6),
            ("8%", 0.08),
            ("-3", -3.0),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "k", "nan", "inf", "ten", "1e999", "5s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!(show(7_333.333), "7,333.3");
        assert_eq!(show(22_000.000_000_1), "22,000");
        assert_eq!(show(999.96), "1,000");
        assert_eq!(show(-1_234.5), "-1,234.5");
        assert_eq!(show(1.0 / 86_400.0), "0.000012");
        assert_eq!(show(0.049), "0.049");
        assert_eq!(show(1e-300), "0");
        assert_eq!(percent(0.909_09), "90.9%");
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(20e6), "20 MB");
        assert_eq!(bytes(126_720_000_000.0), "126.7 GB");
        assert_eq!(bytes(3.8016e12), "3.8 TB");
        assert_eq!(bytes(999_999.0), "1 MB");
    }
}
