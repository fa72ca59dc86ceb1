//! One lock: its holders, its queue in order, and its history.

use super::refusal::refusal;
use super::text::{Cell, Column, Table, Width};
use super::theme::Theme;
use crate::duration::show_ms;
use crate::shown::{counted, date_time, grouped, shown};
use crate::top::moment::Moment;
use crate::top::state::Opened;
use crate::verbs::by_identity;
use client::{Checked, Grant, GrantState, Tenure, Waiter};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use wire::json::{mode_name, state_name};
use wire::v1::Mode;

/// From this width on, the history is beside the holders and the queue.
const BESIDE_FROM: u16 = 150;

/// The lines, in one column or in two.
type Lines = Vec<Vec<Line<'static>>>;

/// The number of lines of the longer column.
pub fn height(opened: &Opened, to: u16, now: Moment, theme: Theme) -> usize {
    lines(opened, to, now, theme).iter().map(Vec::len).max().unwrap_or(0)
}

/// Draws the lock, from the line on that the user scrolled to.
pub fn draw(frame: &mut Frame<'_>, area: Rect, opened: &Opened, now: Moment, theme: Theme) {
    let columns = lines(opened, area.width, now, theme);
    let areas = match columns.len() {
        1 => vec![area],
        _ => {
            let [left, _, right] = Layout::horizontal([
                Constraint::Fill(1),
                Constraint::Length(3),
                Constraint::Fill(1),
            ])
            .areas(area);
            vec![left, right]
        }
    };
    let first = opened.cursor.first();
    for (lines, area) in columns.into_iter().zip(areas) {
        let shown: Vec<Line<'_>> = lines.into_iter().skip(first).take(area.height.into()).collect();
        frame.render_widget(Paragraph::new(shown), area);
    }
}

fn lines(opened: &Opened, to: u16, now: Moment, theme: Theme) -> Lines {
    let is_beside = to >= BESIDE_FROM;
    let width = if is_beside { (to - 3) / 2 } else { to };
    let mut left = heading(opened, now, theme, usize::from(to));
    if let Some((at, checked)) = &opened.checked {
        left.extend(holders(checked, now.since(*at), now, theme, width));
        left.extend(queue(checked, now, theme, width));
    }
    let right = match &opened.history {
        Some(tenures) => history(tenures, now, theme, width),
        None => Vec::new(),
    };
    if is_beside {
        // The state of the lock is one line, and stands above both columns.
        let right = std::iter::once(Line::default()).chain(right).collect();
        return vec![left, right];
    }
    left.extend(right);
    vec![left]
}

/// The state of the lock, and the failure of the last question.
fn heading(opened: &Opened, now: Moment, theme: Theme, to: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(failure) = &opened.failure {
        let age = opened.checked.as_ref().map(|(at, _)| now.since(*at));
        let more = age.map(|age| format!("What follows is {} old.", show_ms(age)));
        lines.extend(refusal(failure, &more.unwrap_or_default(), theme, to));
        lines.push(Line::default());
    } else if opened.checked.is_none() {
        lines.push(Line::from("The state of this lock has not come yet."));
    }
    let Some((_, checked)) = &opened.checked else { return lines };
    let (state, style) = match checked.holder_count {
        0 => ("free", theme.good()),
        _ => ("held", theme.bold()),
    };
    lines.push(Line::from(vec![
        Span::styled(state, style),
        Span::raw(format!(
            "   shard {}   {}   {}   last token of the shard {}",
            checked.shard,
            counted(u64::from(checked.holder_count), "holder"),
            counted(u64::from(checked.waiters), "waiter"),
            checked.last_token,
        )),
    ]));
    lines
}

/// A heading in the text.
fn section(text: String, theme: Theme) -> [Line<'static>; 2] {
    [Line::default(), Line::from(Span::styled(text, theme.bold()))]
}

fn holders(
    checked: &Checked,
    age_ms: u64,
    now: Moment,
    theme: Theme,
    to: u16,
) -> Vec<Line<'static>> {
    if checked.holders.is_empty() {
        return Vec::new();
    }
    let title = part_of("HOLDERS", checked.holders.len(), checked.holder_count);
    let mut lines = section(title, theme).to_vec();
    let table = Table::new(
        &[
            Column::text("OWNER", Width::Share(1)),
            Column::number("TOKEN", 11),
            Column::number("HELD FOR", 9),
            Column::number("TIME LEFT", 9),
            Column::number("TTL", 8),
            Column::number("RENEWALS", 9),
        ],
        to,
    );
    lines.push(table.header("", theme.title()));
    for grant in &checked.holders {
        lines.push(table.row(holder(grant, age_ms, now, theme), theme.plain()));
        lines.extend(more_about(grant, theme, usize::from(to)));
    }
    lines
}

fn holder(grant: &Grant, age_ms: u64, now: Moment, theme: Theme) -> Vec<Cell> {
    let plain = |text: String| (text, theme.plain());
    let left_ms = u64::from(grant.remaining_ms).saturating_sub(age_ms);
    let left = match grant.due || left_ms == 0 {
        true => ("due".to_owned(), theme.bad()),
        false => plain(show_ms(left_ms)),
    };
    vec![
        plain(shown(&by_identity(&grant.owner_id, &grant.principal))),
        plain(grant.fencing_token.to_string()),
        plain(show_ms(now.since_unix(grant.acquired_at_ms))),
        left,
        plain(show_ms(grant.ttl_ms.into())),
        plain(grouped(grant.renewal_count)),
    ]
}

/// The facts of a holder that only some have, in a line of their own.
fn more_about(grant: &Grant, theme: Theme, to: usize) -> Option<Line<'static>> {
    let mut facts = Vec::new();
    match grant.mode() {
        Mode::Unspecified | Mode::Exclusive => {}
        Mode::Semaphore => {
            facts.push(format!("{} of {} permits", grant.permits, grant.permit_limit));
        }
        mode => facts.push(mode_name(mode).to_owned()),
    }
    if grant.waited_ms > 0 {
        facts.push(format!("waited {}", show_ms(grant.waited_ms)));
    }
    if !grant.session_id.is_empty() {
        facts.push(format!("session {}", shown(&grant.session_id)));
    }
    if !grant.metadata.is_empty() {
        facts.push(shown(&grant.metadata));
    }
    let text = super::text::fit(&format!("  {}", facts.join(", ")), to);
    (!facts.is_empty()).then(|| Line::from(Span::styled(text, theme.dim())))
}

fn queue(checked: &Checked, now: Moment, theme: Theme, to: u16) -> Vec<Line<'static>> {
    let title = match checked.queue.is_empty() {
        true => return section("QUEUE: empty".to_owned(), theme).to_vec(),
        false => part_of("QUEUE", checked.queue.len(), checked.waiters),
    };
    let mut lines = section(title, theme).to_vec();
    let usual = |waiter: &Waiter| matches!(waiter.mode(), Mode::Unspecified | Mode::Exclusive);
    let has_modes = !checked.queue.iter().all(usual);
    let mut columns = vec![
        Column::number("PLACE", 5),
        Column::text("OWNER", Width::Share(1)),
        Column::number("WAITS FOR", 9),
    ];
    if has_modes {
        columns.push(Column::text("MODE", Width::Fixed(9)));
    }
    let table = Table::new(&columns, to);
    lines.push(table.header("", theme.title()));
    for waiter in &checked.queue {
        let cells = [
            waiter.place.to_string(),
            shown(&by_identity(&waiter.owner_id, &waiter.principal)),
            show_ms(now.since_unix(waiter.queued_at_ms)),
            mode_name(waiter.mode()).to_owned(),
        ];
        let cells = cells.map(|text| (text, theme.plain())).to_vec();
        lines.push(table.row(cells, theme.plain()));
    }
    lines
}

/// `QUEUE: 3`, or `QUEUE: the first 100 of 350`.
fn part_of(what: &str, shown: usize, all: u32) -> String {
    match shown < all as usize {
        true => format!("{what}: the first {} of {}", grouped(shown as u64), grouped(all.into())),
        false => format!("{what}: {}", grouped(shown as u64)),
    }
}

fn history(tenures: &[Tenure], now: Moment, theme: Theme, to: u16) -> Vec<Line<'static>> {
    if tenures.is_empty() {
        return section("HISTORY: none".to_owned(), theme).to_vec();
    }
    let title = format!("HISTORY: the last {}", counted(tenures.len() as u64, "hold"));
    let mut lines = section(title, theme).to_vec();
    let table = Table::new(
        &[
            Column::number("TOKEN", 11),
            Column::text("OWNER", Width::Share(2)),
            Column::number("HELD FOR", 9),
            Column::text("ENDED", Width::Fixed(9)),
            Column::text("HOW", Width::Share(1)),
        ],
        to,
    );
    lines.push(table.header("", theme.title()));
    for tenure in tenures {
        lines.push(table.row(tenure_cells(tenure, now, theme), theme.plain()));
        lines.extend(reason(tenure, theme, usize::from(to)));
    }
    lines
}

fn tenure_cells(tenure: &Tenure, now: Moment, theme: Theme) -> Vec<Cell> {
    let plain = |text: String| (text, theme.plain());
    let until = if tenure.ended_at_ms == 0 { now.unix_ms } else { tenure.ended_at_ms };
    let (ended, how) = match tenure.ended_at_ms {
        0 => (String::new(), ("holds it".to_owned(), theme.good())),
        at => {
            let style = match tenure.state() {
                GrantState::Broken | GrantState::Expired => theme.bad(),
                _ => theme.plain(),
            };
            let time = date_time(at).split(' ').nth(1).unwrap_or_default().to_owned();
            (time, (state_name(tenure.state()).to_lowercase(), style))
        }
    };
    vec![
        plain(tenure.fencing_token.to_string()),
        plain(shown(&by_identity(&tenure.owner_id, &tenure.principal))),
        plain(show_ms(until.saturating_sub(tenure.acquired_at_ms))),
        plain(ended),
        how,
    ]
}

/// The reason of a break.
fn reason(tenure: &Tenure, theme: Theme, to: usize) -> Option<Line<'static>> {
    let by = by_identity(&tenure.broken_by, &tenure.broken_by_principal);
    let text = match (by.as_str(), tenure.break_reason.as_str()) {
        ("", "") => return None,
        ("", reason) => format!("  {}", shown(reason)),
        (by, reason) => format!("  by {}: {}", shown(by), shown(reason)),
    };
    Some(Line::from(Span::styled(super::text::fit(&text, to), theme.dim())))
}
