//! Aligned columns of text.

/// Alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text begins in one column.
    Left,
    /// Text ends in one column, as numbers do.
    Right,
}

/// Rows under headings, with two spaces before each column and none at the end of a line.
pub fn table(aligns: &[Align], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let columns: Vec<usize> = (0..aligns.len())
        .map(|column| rows.iter().map(|row| width(&row[column])).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for ((text, align), column) in row.iter().zip(aligns).zip(&columns) {
            let padding = " ".repeat(column - width(text));
            line.push_str("  ");
            match align {
                Align::Left => line.extend([text.as_str(), &padding]),
                Align::Right => line.extend([padding.as_str(), text]),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Breaks text at spaces, so that no line is longer than `width` unless a word is. Continuation
/// lines begin with `indent`.
pub fn wrap(text: &str, width: usize, indent: &str) -> String {
    let words = text.trim_start();
    let mut out = text[..text.len() - words.len()].to_owned();
    let mut used = 0;
    for word in words.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            out.push('\n');
            out.push_str(indent);
            used = indent.chars().count();
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_and_lines_have_no_tail() {
        let rows = [["a×b", "1"], ["c", "22"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&[Align::Left, Align::Right], &rows), "  a×b   1\n  c    22\n");
        assert_eq!(table(&[Align::Right, Align::Left], &rows), "  a×b  1\n    c  22\n");
    }

    #[test]
    fn long_lines_break_at_spaces() {
        assert_eq!(wrap("one two three", 8, "  "), "one two\n  three");
        assert_eq!(wrap("  unbreakable", 3, ""), "  unbreakable");
    }
}
