//! Text in a width: cut, wrapped, in columns. Numbers in few characters.
//!
//! All widths are terminal columns. Text from other machines is made safe by
//! [`shown`](crate::shown::shown) before it comes here.

use crate::duration::show_ms;
use crate::shown::{char_width, grouped, width};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Stands for text that is left out.
const LEFT_OUT: char = '…';

/// Cuts a text to a width. The middle is left out, because names often differ at their ends.
///
/// ```text
/// fit("orders:2026:invoice:4711", 12) == "orders…:4711"
/// ```
pub fn fit(text: &str, to: usize) -> String {
    if width(text) <= to {
        return text.to_owned();
    }
    let Some(room) = to.checked_sub(1) else { return String::new() };
    let take = |chars: &mut dyn Iterator<Item = char>, room: usize| {
        let (mut taken, mut used) = (Vec::new(), 0);
        for c in chars {
            used += char_width(c);
            if used > room {
                break;
            }
            taken.push(c);
        }
        taken
    };
    let head: String = take(&mut text.chars(), room.div_ceil(2)).into_iter().collect();
    let tail = take(&mut text.chars().rev(), room - width(&head));
    let tail: String = tail.into_iter().rev().collect();
    // A mark without its letter would join the character before it.
    let tail = tail.trim_start_matches(|c| char_width(c) == 0);
    format!("{head}{LEFT_OUT}{tail}")
}

/// Breaks a text into lines of a width, between words where that is possible.
pub fn wrapped(text: &str, to: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let line = lines.last_mut().expect("there is a first line");
        if line.is_empty() {
            line.push_str(&fit(word, to));
        } else if width(line) + 1 + width(word) <= to {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(fit(word, to));
        }
    }
    lines
}

/// A rate in few characters: `0.3`, `812`, `12,345`, `123k`.
pub fn rate(per_second: f64) -> String {
    match per_second {
        n if n >= 99_999.5 => format!("{}k", grouped((n / 1_000.0).round() as u64)),
        n if n >= 9.95 || n == 0.0 => grouped(n.round() as u64),
        n => format!("{n:.1}"),
    }
}

/// A share as a percentage: `14.8%`.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A whole duration without its zeros: `2s`, `1m`, `1.5s`.
pub fn show_interval(ms: u64) -> String {
    show_ms(ms).replace(".0s", "s").replace("m 00s", "m").replace("h 00m", "h")
}

/// The width of a column.
#[derive(Clone, Copy, Debug)]
pub enum Width {
    Fixed(u16),
    /// A share of the width that the fixed columns leave.
    Share(u16),
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub title: &'static str,
    pub width: Width,
    pub is_number: bool,
}

impl Column {
    /// A column for text, at its left.
    pub const fn text(title: &'static str, width: Width) -> Column {
        Column { title, width, is_number: false }
    }

    /// A column for numbers, at its right.
    pub const fn number(title: &'static str, width: u16) -> Column {
        Column { title, width: Width::Fixed(width), is_number: true }
    }
}

/// A cell: its text and style.
pub type Cell = (String, Style);

/// A table of a width. Columns have one blank between them.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(Column, usize)>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[Column], to: u16) -> Table {
        let blanks = columns.len().saturating_sub(1);
        let all_fixed: usize = columns.iter().map(|column| fixed(column.width)).sum();
        let mut shares: usize = columns.iter().map(|column| share(column.width)).sum();
        let mut left = usize::from(to).saturating_sub(all_fixed + blanks);
        let mut width_of = |column: &Column| match share(column.width) {
            0 => fixed(column.width),
            share => {
                let width = left * share / shares;
                (left, shares) = (left - width, shares - share);
                width
            }
        };
        Table { columns: columns.iter().map(|column| (*column, width_of(column))).collect() }
    }

    /// The row of titles. An arrow marks the column with this title.
    pub fn header(&self, ordered_by: &str, style: Style) -> Line<'static> {
        let title = |column: &Column| match column.title == ordered_by {
            true => format!("{}▾", column.title),
            false => column.title.to_owned(),
        };
        let cells = self.columns.iter().map(|(column, _)| (title(column), style)).collect();
        self.row(cells, style)
    }

    /// A row. `style` is that of the blanks.
    pub fn row(&self, cells: Vec<Cell>, style: Style) -> Line<'static> {
        let mut spans = Vec::with_capacity(2 * cells.len());
        for (nth, ((column, to), (text, of_cell))) in self.columns.iter().zip(cells).enumerate() {
            if nth > 0 {
                spans.push(Span::styled(" ", style));
            }
            let text = fit(&text, *to);
            let blanks = " ".repeat(to.saturating_sub(width(&text)));
            let padded = match column.is_number {
                true => format!("{blanks}{text}"),
                false => format!("{text}{blanks}"),
            };
            spans.push(Span::styled(padded, style.patch(of_cell)));
        }
        Line::from(spans)
    }
}

fn fixed(width: Width) -> usize {
    match width {
        Width::Fixed(width) => width.into(),
        Width::Share(_) => 0,
    }
}

fn share(width: Width) -> usize {
    match width {
        Width::Fixed(_) => 0,
        Width::Share(share) => share.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_in_its_middle() {
        for (text, to, is) in [
            ("orders:41", 9, "orders:41"),
            ("orders:2026:invoice:4711", 12, "orders…:4711"),
            ("abcdef", 2, "a…"),
            ("abcdef", 1, "…"),
            ("abcdef", 0, ""),
            ("日本語日本語", 6, "日…語"),
            ("日本語日本語", 5, "日…語"),
            ("ก็ก็ก็ก็", 2, "ก็…"),
        ] {
            assert_eq!(fit(text, to), is, "{text} in {to}");
        }
        for to in 0..30 {
            for text in ["orders:2026:invoice:4711", "日本語日本語日本語日本語", "aก็bก็cก็dก็eก็f"]
            {
                assert!(width(&fit(text, to)) <= to, "{text} in {to}");
            }
        }
    }

    #[test]
    fn words_are_wrapped() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a verylongword b", 6), ["a", "ver…rd", "b"]);
        assert_eq!(wrapped("", 6), [""]);
    }

    #[test]
    fn rates_take_few_characters() {
        let rates = [0.0, 0.04, 0.34, 9.94, 9.96, 812.4, 12_345.0, 123_456.0, 12_345_678.0];
        assert_eq!(
            rates.map(rate),
            ["0", "0.0", "0.3", "9.9", "10", "812", "12,345", "123k", "12,346k"]
        );
        assert_eq!(percent(0.1479), "14.8%");
    }

    #[test]
    fn columns_fill_the_width() {
        let columns = [
            Column::text("NAME", Width::Share(2)),
            Column::text("HOLDER", Width::Share(1)),
            Column::number("QUEUE", 6),
        ];
        let table = Table::new(&columns, 30);
        let text =
            |line: Line<'_>| line.spans.iter().map(|span| &*span.content).collect::<String>();
        assert_eq!(text(table.header("QUEUE", Style::new())), "NAME           HOLDER   QUEUE▾");
        let cell = |text: &str| (text.to_owned(), Style::new());
        let row = table.row(vec![cell("日本"), cell("worker-number-7"), cell("3")], Style::new());
        assert_eq!(text(row), "日本           work…r-7      3");
        let narrow = Table::new(&columns, 5);
        let row = narrow.row(vec![cell("a"), cell("b"), cell("3")], Style::new());
        assert_eq!(text(row), "       3", "columns without room vanish");
    }
}
