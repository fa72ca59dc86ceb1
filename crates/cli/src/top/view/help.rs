//! The keys, the meaning of the columns, and the cost of the screen.

use super::text::{show_interval, wrapped};
use super::theme::Theme;
use crate::top::state::Top;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

const KEYS: [(&str, &str); 13] = [
    ("1 2 3, Tab", "locks, shards, nodes"),
    ("↑ ↓, PgUp PgDn", "move; also j k, Space, g G"),
    ("Enter, Esc", "open a lock, and back"),
    ("/", "names that begin with a text"),
    ("c", "by changes in the last minute"),
    ("w", "by the length of the queue"),
    ("o", "by the oldest hold"),
    ("n", "by name"),
    ("s", "the next order of this pane"),
    ("p", "pause the order of the locks"),
    ("r", "ask for all at once"),
    ("?", "this help"),
    ("q, Ctrl-C", "quit; Ctrl-Z suspends"),
];

/// Draws the help.
pub fn draw(frame: &mut Frame<'_>, area: Rect, top: &Top, theme: Theme) {
    let [keys, _, rest] =
        Layout::horizontal([Constraint::Length(46), Constraint::Length(2), Constraint::Fill(1)])
            .areas(area);
    let key = |(key, what): &(&str, &str)| {
        Line::from(vec![
            Span::styled(format!("{key:<15}"), theme.bold()),
            Span::raw((*what).to_owned()),
        ])
    };
    let mut lines = vec![Line::from(Span::styled("KEYS", theme.title())), Line::default()];
    lines.extend(KEYS.iter().map(key));
    frame.render_widget(Paragraph::new(lines), keys);
    let mut lines = vec![Line::from(Span::styled("MEANING", theme.title())), Line::default()];
    for text in meaning(top) {
        lines.extend(wrapped(&text, usize::from(rest.width)).into_iter().map(Line::from));
    }
    frame.render_widget(Paragraph::new(lines), rest);
}

fn meaning(top: &Top) -> Vec<String> {
    let every = show_interval(top.setup.interval_ms);
    vec![
        "CHANGES: of the last minute, as a watch told them.".into(),
        "LONGEST: the longest wait in the queue.".into(),
        "per sec: averages over 10 s.".into(),
        "LAG: log entries behind the furthest replica.".into(),
        "SYNC: median of the last disk syncs.".into(),
        "Ages are by the clock here.".into(),
        format!("Asked: one watch; every {every} the cluster, and twice for an open lock."),
    ]
}
