//! The screen as a function of the state: nothing here changes the state, asks the cluster or reads
//! a clock.

mod cluster;
mod header;
mod help;
mod lock;
mod locks;
mod refusal;
mod text;
mod theme;

use crate::shown::shown;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
pub use theme::Theme;

use super::moment::Moment;
use super::state::{Pane, Top};

/// The smallest screen on which all of this has a place.
const SMALLEST: (u16, u16) = (60, 12);

/// The parts of the screen, from its top to its bottom.
struct Parts {
    header: Rect,
    notices: Rect,
    bar: Rect,
    body: Rect,
    footer: Rect,
}

impl Parts {
    fn of(area: Rect, notices: usize) -> Parts {
        let heights = [
            Constraint::Length(header::HEIGHT),
            Constraint::Length(notices as u16),
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ];
        let [header, notices, bar, body, footer] = Layout::vertical(heights).areas(area);
        Parts { header, notices, bar, body, footer }
    }
}

/// Tells the state how much of its lists fits on the screen. It comes before each [`draw`].
pub fn measure(top: &mut Top, area: Rect, now: Moment, theme: Theme) {
    let notices = header::notices(top, now, area.width.into());
    let body = Parts::of(area, notices.len()).body;
    // The titles of the columns take one line.
    let height = usize::from(body.height).saturating_sub(1);
    let has_sides = top.pane == Pane::Locks && locks::has_sides(body);
    top.resize(height, has_sides, now);
    if let Some(opened) = &mut top.opened {
        let lines = lock::height(opened, body.width, now, theme);
        opened.cursor.scroll(lines, body.height.into());
    }
}

/// Draws the screen.
pub fn draw(frame: &mut Frame<'_>, top: &Top, now: Moment, theme: Theme) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let (width, height) = (area.width, area.height);
        let text = format!(
            "{width}×{height} is too small: make the terminal {}×{} or larger",
            SMALLEST.0, SMALLEST.1
        );
        let lines: Vec<Line<'_>> =
            text::wrapped(&text, width.into()).into_iter().map(Line::from).collect();
        return frame.render_widget(Paragraph::new(lines), area);
    }
    let notices = header::notices(top, now, area.width.into());
    let parts = Parts::of(area, notices.len());
    header::draw(frame, parts.header, top, now, theme);
    let notice = |line: String| {
        let blanks = usize::from(area.width).saturating_sub(crate::shown::width(&line));
        Line::from(Span::styled(format!("{line}{}", " ".repeat(blanks)), theme.notice()))
    };
    let lines: Vec<Line<'_>> = notices.into_iter().map(notice).collect();
    frame.render_widget(Paragraph::new(lines), parts.notices);
    frame.render_widget(bar(top, theme, area.width), parts.bar);
    match (&top.opened, top.pane) {
        _ if top.has_help => help::draw(frame, parts.body, top, theme),
        (Some(opened), _) => lock::draw(frame, parts.body, opened, now, theme),
        (None, Pane::Locks) => locks::draw(frame, parts.body, top, now, theme),
        (None, _) => cluster::draw(frame, parts.body, top, theme),
    }
    frame.render_widget(footer(top, theme, area.width), parts.footer);
}

/// The panes, and a summary of the list. For an open lock, its name.
fn bar(top: &Top, theme: Theme, to: u16) -> Line<'static> {
    if let Some(opened) = top.opened.as_ref().filter(|_| !top.has_help) {
        let name = text::fit(&shown(&opened.name), usize::from(to).saturating_sub(2));
        return Line::from(Span::styled(format!(" {name} "), theme.selected()));
    }
    let title = |pane: Pane| match pane {
        Pane::Locks => " 1 Locks ",
        Pane::Shards => " 2 Shards ",
        Pane::Nodes => " 3 Nodes ",
    };
    let style = |pane: Pane| match pane == top.pane && !top.has_help {
        true => theme.selected(),
        false => theme.plain(),
    };
    let mut spans: Vec<Span<'static>> =
        Pane::ALL.iter().map(|pane| Span::styled(title(*pane), style(*pane))).collect();
    let used: usize = spans.iter().map(Span::width).sum();
    let about = match top.pane {
        _ if top.has_help => String::new(),
        Pane::Locks => locks::about(top),
        _ => cluster::about(top),
    };
    if top.pane == Pane::Locks && !top.has_help && !top.prefix.is_empty() {
        // The whole list depends on it, so that it gives way to nothing.
        let room = usize::from(to).saturating_sub(used) / 3;
        let prefix = text::fit(&shown(&top.prefix), room);
        spans.push(Span::styled(format!("  /{prefix}"), theme.bold()));
    }
    let used: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::raw(text::fit(&format!("  {about}"), usize::from(to).saturating_sub(used))));
    Line::from(spans)
}

/// The keys, or the prefix that is being typed.
fn footer(top: &Top, theme: Theme, to: u16) -> Line<'static> {
    if let Some(typed) = &top.typed {
        let label = "names that begin with: ";
        let next = "   Enter asks, Esc leaves";
        let room = usize::from(to).saturating_sub(label.len() + next.len() + 1);
        return Line::from(vec![
            Span::styled(label, theme.bold()),
            Span::raw(text::fit(&shown(typed), room)),
            Span::styled(" ", theme.selected()),
            Span::styled(next, theme.dim()),
        ]);
    }
    let keys: &[(&str, &str)] = match (top.has_help, &top.opened) {
        (true, _) => &[("any key", "back")],
        (false, Some(_)) => {
            &[("Esc", "back"), ("↑↓", "scroll"), ("r", "ask now"), ("?", "help"), ("q", "quit")]
        }
        (false, None) if top.pane == Pane::Locks => &[
            ("Enter", "open"),
            ("/", "prefix"),
            ("s", "order"),
            ("p", "pause"),
            ("Tab", "pane"),
            ("r", "ask now"),
            ("?", "help"),
            ("q", "quit"),
        ],
        (false, None) => {
            &[("s", "order"), ("Tab", "pane"), ("r", "ask now"), ("?", "help"), ("q", "quit")]
        }
    };
    let mut spans = Vec::new();
    for (key, what) in keys {
        spans.push(Span::styled((*key).to_owned(), theme.bold()));
        spans.push(Span::styled(format!(" {what}  "), Style::new()));
    }
    Line::from(spans)
}

#[cfg(test)]
mod tests;
