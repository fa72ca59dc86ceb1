//! The start of a page of a listing, as one opaque word.
//!
//! Only this module writes and reads cursors: clients hand them back unchanged. A cursor holds the
//! last name and token before the page. So it means the same to every shard and gateway, also to
//! those that start later.

use crate::limits::{NAME_BYTES_MAX, TOKEN_END};

/// The form of a cursor. A new form gets a new letter.
const FORM: u8 = b'a';
/// Width of the token in hex digits, enough for all tokens.
const TOKEN_DIGITS: usize = 14;

/// The cursor of the page after this name and token.
pub fn encode_cursor(name: &str, token: u64) -> String {
    let mut cursor = format!("{}{token:0width$x}", char::from(FORM), width = TOKEN_DIGITS);
    for byte in name.bytes() {
        cursor.push(digit(byte >> 4));
        cursor.push(digit(byte & 15));
    }
    cursor
}

/// The name and token of a cursor. `None` if no listing has given this word.
pub fn decode_cursor(cursor: &str) -> Option<(String, u64)> {
    let digits = cursor.as_bytes().strip_prefix(&[FORM])?;
    let (token, name) = digits.split_at_checked(TOKEN_DIGITS)?;
    if name.is_empty() || name.len() % 2 != 0 || name.len() > 2 * NAME_BYTES_MAX {
        return None;
    }
    let mut number = 0;
    for digit in token {
        number = number << 4 | u64::from(value(*digit)?);
    }
    let mut bytes = Vec::with_capacity(name.len() / 2);
    for pair in name.chunks_exact(2) {
        bytes.push(value(pair[0])? << 4 | value(pair[1])?);
    }
    let name = String::from_utf8(bytes).ok()?;
    (number < TOKEN_END).then_some((name, number))
}

fn digit(value: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(value)])
}

/// The value of a digit. Only lower case counts, so that each cursor has one spelling.
fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_nothing_else_is_taken_for_one() {
        for (name, token) in
            [("a", 0), ("payment:user/ü {42}", 7), (&*"n".repeat(NAME_BYTES_MAX), TOKEN_END - 1)]
        {
            let cursor = encode_cursor(name, token);
            assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(decode_cursor(&cursor), Some((name.to_owned(), token)));
        }
        let good = encode_cursor("ü", 7);
        let too_long = encode_cursor(&"n".repeat(NAME_BYTES_MAX + 1), 7);
        let too_high = encode_cursor("n", TOKEN_END);
        let half = &good[..good.len() - 2];
        for bad in [
            "",
            "a",
            "user:5",
            &good[1..],
            &good[..good.len() - 1],
            half,
            &good.to_uppercase(),
            &too_long,
            &too_high,
        ] {
            assert_eq!(decode_cursor(bad), None, "{bad}");
        }
    }
}
