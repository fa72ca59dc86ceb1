//! Several byte strings in one input.
//!
//! Each string has its length before it, as two bytes little-endian. A length past the end means
//! "the rest", so that any input has sections.

pub(crate) fn sections(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (section, after) =
            rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        found.push(section);
        bytes = after;
    }
    found
}

pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    for part in parts {
        let length = u16::try_from(part.len()).expect("sections are short");
        joined.extend_from_slice(&length.to_le_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_come_back_and_any_input_has_some() {
        let parts: [&[u8]; 3] = [b"one", b"", b"three"];
        assert_eq!(sections(&join(&parts)), parts);
        assert_eq!(sections(&[9, 0, b'x']), [b"x"]);
        assert!(sections(&[1]).is_empty());
    }
}
