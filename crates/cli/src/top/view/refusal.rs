//! A refusal in full: its reason, and the next step.

use super::text::wrapped;
use super::theme::Theme;
use crate::failure::Failure;
use crate::shown::one_line;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// The lines of a refusal in a width. `more` comes last.
pub fn refusal(failure: &Failure, more: &str, theme: Theme, to: usize) -> Vec<Line<'static>> {
    let lines = |text: &str, style: Style| -> Vec<Line<'static>> {
        let wrapped = wrapped(&one_line(text), to);
        wrapped.into_iter().map(|line| Line::from(Span::styled(line, style))).collect()
    };
    let mut all = lines(&failure.message, theme.bad());
    if !failure.next.is_empty() {
        all.extend(lines(&format!("next: {}", failure.next), theme.plain()));
    }
    if !more.is_empty() {
        all.extend(lines(more, theme.dim()));
    }
    all
}
