//! Text from other machines in a form that a terminal may show, and its width; numbers with their
//! nouns; times.
//!
//! Names, owners and metadata come from other people. A terminal obeys control characters in them,
//! lets some characters reorder or hide their neighbours, and shows some pairs of characters alike.
//! Here each such character becomes its number, `\u{202e}`. JSON output has the text as it is.

/// Shows text as a value: two different texts never look the same, with two exceptions.
///
/// * Letters of different alphabets that look alike, and ideographs that Unicode has twice.
/// * Letters of Arabic, Hebrew and Indic scripts that Unicode has both as one character and with a
///   separate mark. The marks are shown, because names in those scripts could not be read without
///   them.
///
/// A backslash before a number in the text is doubled. Otherwise a number written out in a name
/// would look like a number that stands for a character.
pub fn shown(text: &str) -> String {
    let edge = text.len() - text.trim_start_matches(' ').len();
    let end = text.trim_end_matches(' ').len();
    let hidden = |at: usize, c: char| is_hidden(c) || (c == ' ' && (at < edge || at >= end));
    if !text.contains("\\u{") && !text.char_indices().any(|(at, c)| hidden(at, c)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if hidden(at, c) => push_number(&mut out, c),
            c => out.push(c),
        }
    }
    out
}

/// Shows a message on one line of a terminal. The text of the message and the values in it are
/// treated alike. Doing it twice has the same result as once.
pub fn one_line(text: &str) -> String {
    keep(text, |_| false)
}

/// Like [`one_line`], but leaves some of the characters as they are.
pub fn keep(text: &str, kept: impl Fn(char) -> bool) -> String {
    if !text.chars().any(|c| is_hidden(c) && !kept(c)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) && !kept(c) { push_number(&mut out, c) } else { out.push(c) }
    }
    out
}

/// Like [`one_line`], for a line of JSON: it stays the same JSON.
pub fn keep_in_json(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        if is_hidden(c) {
            // Such characters are only in its strings.
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn push_number(out: &mut String, c: char) {
    out.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
}

/// Whether a terminal obeys the character, shows it as nothing or a blank, or merges it with its
/// neighbour.
fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || c.is_whitespace()
        || matches!(u32::from(c),
            0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb
            // Blank letters, and braille without a dot.
            | 0x34f | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x2800 | 0x3164 | 0xffa0
            // Marks over other letters, where the marked letter also exists as one character:
            // otherwise ü and u with dots would look the same.
            | 0x300..=0x36f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x20d0..=0x20ff | 0xfe20..=0xfe2f
            // Likewise the marks of voiced kana, and the vowels and last consonants of Hangul
            // syllables.
            | 0x3099 | 0x309a | 0x1161..=0x11ff | 0xd7b0..=0xd7ff
            // Selectors of variants, tags, musical and shorthand controls.
            | 0x180b..=0x180f | 0xfe00..=0xfe0f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff
            // Private use and noncharacters, because their look depends on the font.
            | 0xe000..=0xf8ff | 0xfdd0..=0xfdef | 0xf0000..=0x10ffff)
        || u32::from(c) & 0xfffe == 0xfffe
}

/// Terminal columns of a text that went through [`shown`].
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Width of a character: East Asian wide and full-width characters and emoji take two columns, and
/// marks that join a letter take none (UAX #11, coarsely).
pub fn char_width(c: char) -> usize {
    match u32::from(c) {
        0..=0x2ff => 1,
        // Vowel signs and other marks of scripts that do not have each marked letter as one
        // character.
        0x483..=0x489
        | 0x591..=0x5bd
        | 0x610..=0x61a
        | 0x64b..=0x65f
        | 0x900..=0x902
        | 0x93c
        | 0x941..=0x948
        | 0x94d
        | 0xe31
        | 0xe34..=0xe3a
        | 0xe47..=0xe4e => 0,
        0x1100..=0x115f
        | 0x231a
        | 0x231b
        | 0x2329
        | 0x232a
        | 0x23e9..=0x23ec
        | 0x23f0
        | 0x23f3
        | 0x25fd
        | 0x25fe
        | 0x2614
        | 0x2615
        | 0x2648..=0x2653
        | 0x267f
        | 0x2693
        | 0x26a1
        | 0x26aa
        | 0x26ab
        | 0x26bd
        | 0x26be
        | 0x26c4
        | 0x26c5
        | 0x26ce
        | 0x26d4
        | 0x26ea
        | 0x26f2
        | 0x26f3
        | 0x26f5
        | 0x26fa
        | 0x26fd
        | 0x2705
        | 0x270a
        | 0x270b
        | 0x2728
        | 0x274c
        | 0x274e
        | 0x2753..=0x2755
        | 0x2757
        | 0x2795..=0x2797
        | 0x27b0
        | 0x27bf
        | 0x2b1b
        | 0x2b1c
        | 0x2b50
        | 0x2b55
        | 0x2e80..=0x303e
        | 0x3041..=0x33ff
        | 0x3400..=0x4dbf
        | 0x4e00..=0xa4cf
        | 0xa960..=0xa97f
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff01..=0xff60
        | 0xffe0..=0xffe6
        | 0x16fe0..=0x18dff
        | 0x1aff0..=0x1b2ff
        | 0x1f004
        | 0x1f0cf
        | 0x1f18e
        | 0x1f191..=0x1f19a
        | 0x1f200..=0x1f320
        | 0x1f32d..=0x1f335
        | 0x1f337..=0x1f37c
        | 0x1f37e..=0x1f393
        | 0x1f3a0..=0x1f3ca
        | 0x1f3cf..=0x1f3d3
        | 0x1f3e0..=0x1f3f0
        | 0x1f3f4
        | 0x1f3f8..=0x1f43e
        | 0x1f440
        | 0x1f442..=0x1f4fc
        | 0x1f4ff..=0x1f53d
        | 0x1f54b..=0x1f54e
        | 0x1f550..=0x1f567
        | 0x1f57a
        | 0x1f595
        | 0x1f596
        | 0x1f5a4
        | 0x1f5fb..=0x1f64f
        | 0x1f680..=0x1f6c5
        | 0x1f6cc
        | 0x1f6d0..=0x1f6d2
        | 0x1f6d5..=0x1f6d7
        | 0x1f6dc..=0x1f6df
        | 0x1f6eb
        | 0x1f6ec
        | 0x1f6f4..=0x1f6fc
        | 0x1f7e0..=0x1f7eb
        | 0x1f7f0
        | 0x1f90c..=0x1f93a
        | 0x1f93c..=0x1f945
        | 0x1f947..=0x1f9ff
        | 0x1fa70..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Pads `text` with blanks at its end, up to a width.
pub fn padded(text: &str, to: usize) -> String {
    format!("{text}{}", " ".repeat(to.saturating_sub(width(text))))
}

/// `1 shard`, `2 shards`: a number and its noun, for nouns with a plural in `s`.
pub fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    match count.try_into() {
        Ok(1) => format!("1 {noun}"),
        Ok(count) => format!("{count} {noun}s"),
        Err(_) => format!("many {noun}s"),
    }
}

/// Shows a number with a comma between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Shows Unix milliseconds as `2026-11-29 23:41:17Z`. The time is in UTC, so that it is the same on
/// every machine and in the logs.
pub fn date_time(unix_ms: u64) -> String {
    let s = unix_ms / 1_000;
    let (days, of_day) = (s / 86_400, s % 86_400);
    // Days count from 0000-03-01, in eras of 400 years with equal numbers of days. Leap days then
    // come at the end of a year.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (date, month) =
        (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (h, m, s) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{date:02} {h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_a_terminal_obeys_hides_or_reorders_is_shown_by_its_number() {
        for (text, is) in [
            ("orders:42", "orders:42"),
            ("日本語 🔒 ü", "日本語 🔒 ü"),
            ("a\\b", "a\\b"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("\u{202e}eci\u{2066}la\u{200b}", "\\u{202e}eci\\u{2066}la\\u{200b}"),
            ("\u{feff}x\u{2028}", "\\u{feff}x\\u{2028}"),
            (" a b ", "\\u{20}a b\\u{20}"),
            ("a\u{a0}b\u{3000}", "a\\u{a0}b\\u{3000}"),
            ("u\u{308}", "u\\u{308}"),
            ("か\u{3099}ハ\u{309a}", "か\\u{3099}ハ\\u{309a}"),
            ("\u{1100}\u{1161}\u{11a8}\u{d7b0}", "\u{1100}\\u{1161}\\u{11a8}\\u{d7b0}"),
            ("が각", "が각"),
            ("\\u{202e}", "\\\\u{202e}"),
            ("a\\\n", "a\\\\\\u{a}"),
            ("\u{e000}\u{10ffff}\u{1fffe}\u{e0041}", "\\u{e000}\\u{10ffff}\\u{1fffe}\\u{e0041}"),
        ] {
            assert_eq!(shown(text), is);
        }
        assert_eq!(one_line(" a\r\n\\b "), " a\\u{d}\\u{a}\\b ");
        assert_eq!(one_line(&one_line("\u{202e}\\")), one_line("\u{202e}\\"));
        assert_eq!(keep("\x1b[1ma\n", |c| c == '\x1b'), "\x1b[1ma\\u{a}");
    }

    #[test]
    fn different_values_look_different() {
        let parts = [
            "", " ", "a", "\\", "u{a}", "\\u{a}", "\n", "\u{202e}", "u{202e}", "\u{200b}",
            "\u{308}",
        ];
        let mut texts = BTreeSet::new();
        for a in parts {
            for b in parts {
                for c in parts {
                    texts.insert([a, b, c].concat());
                }
            }
        }
        let images: BTreeSet<String> = texts.iter().map(|text| shown(text)).collect();
        assert_eq!(images.len(), texts.len());
        assert!(
            images
                .iter()
                .all(|image| image.chars().all(|c| !is_hidden(c)) && *image == image.trim())
        );
    }

    #[test]
    fn wide_characters_take_two_columns() {
        for (text, columns) in [
            ("abc", 3),
            ("日本語", 6),
            ("🔒", 2),
            ("ü", 1),
            ("кот", 3),
            ("ﾃｽﾄ", 3),
            ("한글", 4),
            ("ก็", 1),
        ] {
            assert_eq!(width(text), columns, "{text}");
        }
        assert_eq!(padded("日", 4), "日  ");
        assert_eq!(padded("日本", 3), "日本");
    }

    #[test]
    fn numbers_agree_with_their_nouns() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "shard")), ["0 shards", "1 shard", "2 shards"]);
        assert_eq!(counted(usize::MAX, "lock"), format!("{} locks", usize::MAX));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn dates_in_utc() {
        for (unix_s, is) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (951_868_800, "2000-03-01 00:00:00Z"),
            (1_795_995_677, "2026-11-29 23:41:17Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
            (1_735_689_599, "2024-12-31 23:59:59Z"),
        ] {
            assert_eq!(date_time(unix_s * 1_000 + 999), is, "{unix_s}");
        }
    }
}
