//! The list of locks, and the rankings beside it.

use super::refusal::refusal;
use super::text::{Cell, Column, Table, Width, fit};
use super::theme::Theme;
use crate::duration::show_ms;
use crate::failure::{Exit, Failure};
use crate::shown::{grouped, shown};
use crate::top::locks::{Holder, LockOrder, NAMES_MAX, Ranking, Row};
use crate::top::moment::Moment;
use crate::top::state::{Top, WatchLink};
use crate::verbs::by_identity;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use wire::json::{event_word, mode_name};
use wire::v1::{EventKind, Mode};

/// From this size of the list on, there are rankings beside it.
const SIDES_FROM: (u16, u16) = (150, 16);
/// A column that only wide screens have, and the width from which on they do.
type Wide = (u16, Column);

const SHARD: Wide = (100, Column::number("SHARD", 5));
const TOKEN: Wide = (110, Column::number("TOKEN", 11));
const MODE: Wide = (120, Column::text("MODE", Width::Fixed(9)));
const LAST: Wide = (120, Column::text("LAST CHANGE", Width::Fixed(20)));

/// Whether there is room for rankings beside the list.
pub fn has_sides(body: Rect) -> bool {
    body.width >= SIDES_FROM.0 && body.height >= SIDES_FROM.1
}

/// The title of the column that an order is by.
fn title(order: LockOrder) -> &'static str {
    match order {
        LockOrder::Changes => "CHANGES",
        LockOrder::Queue => "QUEUE",
        LockOrder::Hold => "HELD FOR",
        LockOrder::Name => "NAME",
    }
}

/// The heading of a ranking beside the list.
fn heading(order: LockOrder) -> &'static str {
    match order {
        LockOrder::Changes => "MOST CHANGES IN THE LAST MINUTE",
        LockOrder::Queue => "LONGEST QUEUES",
        LockOrder::Hold => "OLDEST HOLDS",
        LockOrder::Name => "NAMES",
    }
}

/// Draws the list, with the rankings if there is room.
pub fn draw(frame: &mut Frame<'_>, body: Rect, top: &Top, now: Moment, theme: Theme) {
    if !has_sides(body) {
        return draw_list(frame, body, top, now, theme);
    }
    let [list, _, sides] = Layout::horizontal([
        Constraint::Fill(1),
        Constraint::Length(3),
        Constraint::Length(body.width * 3 / 10),
    ])
    .areas(body);
    draw_list(frame, list, top, now, theme);
    let [upper, lower] = Layout::vertical([Constraint::Fill(1); 2]).areas(sides);
    for ((order, ranking), area) in top.sides.iter().zip([upper, lower]) {
        draw_side(frame, area, *order, ranking, now, theme);
    }
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, top: &Top, now: Moment, theme: Theme) {
    if top.ranking.rows.is_empty() {
        let lines = nothing(top, theme, usize::from(area.width));
        return frame.render_widget(Paragraph::new(lines), area);
    }
    let wide: Vec<Column> = [SHARD, TOKEN, MODE, LAST]
        .iter()
        .filter(|(from, _)| area.width >= *from)
        .map(|(_, column)| *column)
        .collect();
    let usual = [
        Column::text("NAME", Width::Share(5)),
        Column::text("HOLDER", Width::Share(4)),
        Column::number("HELD FOR", 9),
        Column::number("QUEUE", 6),
        Column::number("LONGEST", 8),
        Column::number("CHANGES", 8),
    ];
    let table = Table::new(&[&usual[..], &wide].concat(), area.width);
    let mut lines = vec![table.header(title(top.lock_order), theme.title())];
    let cursor = top.cursor();
    for at in cursor.shown() {
        let Some(row) = top.ranking.rows.get(at) else { break };
        let style = if at == cursor.selected() { theme.selected() } else { theme.plain() };
        let mut cells = usual_cells(row, now, theme);
        cells.extend(wide.iter().map(|column| wide_cell(column.title, row, now, theme)));
        lines.push(table.row(cells, style));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn usual_cells(row: &Row, now: Moment, theme: Theme) -> Vec<Cell> {
    let held_for = match &row.holder {
        Holder::Known { since_ms, .. } => show_ms(now.since_unix(*since_ms)),
        Holder::Free | Holder::Hidden => String::new(),
    };
    let queue = if row.waiters > 0 { theme.bold() } else { theme.dim() };
    let changes = if row.changes > 0 { theme.plain() } else { theme.dim() };
    vec![
        (shown(&row.name), theme.plain()),
        holder(row, theme),
        (held_for, theme.plain()),
        (grouped(row.waiters.into()), queue),
        (longest(row, now), theme.plain()),
        (grouped(row.changes.into()), changes),
    ]
}

fn longest(row: &Row, now: Moment) -> String {
    row.queued_since_ms.map(|since| show_ms(now.since_unix(since))).unwrap_or_default()
}

fn holder(row: &Row, theme: Theme) -> Cell {
    let others = match row.holders.saturating_sub(1) {
        0 => String::new(),
        others => format!(" +{}", grouped(others.into())),
    };
    match &row.holder {
        Holder::Free => ("free".to_owned(), theme.dim()),
        Holder::Hidden => (format!("(not permitted){others}"), theme.dim()),
        Holder::Known { owner, principal, .. } => {
            let by = shown(&by_identity(owner, principal));
            let by = if by.is_empty() { "(not said)".to_owned() } else { by };
            (format!("{by}{others}"), theme.plain())
        }
    }
}

fn wide_cell(title: &str, row: &Row, now: Moment, theme: Theme) -> Cell {
    let (token, mode) = match &row.holder {
        Holder::Known { token, mode, .. } => (token.to_string(), mode_of(*mode).to_owned()),
        Holder::Free | Holder::Hidden => Default::default(),
    };
    match title {
        "SHARD" => (row.shard.to_string(), theme.plain()),
        "TOKEN" => (token, theme.plain()),
        "MODE" => (mode, theme.plain()),
        _ => last_change(row, now, theme),
    }
}

/// The mode, unless it is the usual one.
fn mode_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Unspecified | Mode::Exclusive => "",
        mode => mode_name(mode),
    }
}

fn last_change(row: &Row, now: Moment, theme: Theme) -> Cell {
    let Some((kind, at)) = row.last else { return Cell::default() };
    let style = match kind {
        EventKind::Expired | EventKind::Broken => theme.bad(),
        _ => theme.plain(),
    };
    (format!("{} {} ago", event_word(kind), show_ms(now.since(at))), style)
}

/// The reason why the list is empty.
fn nothing(top: &Top, theme: Theme, to: usize) -> Vec<Line<'static>> {
    let names = match top.prefix.as_str() {
        "" => String::new(),
        prefix => format!(" with a name that begins with {}", shown(prefix)),
    };
    match &top.watch {
        WatchLink::Opening | WatchLink::Lost(_) => {
            vec![Line::from(format!("The locks{names} have not come yet."))]
        }
        WatchLink::Open => vec![Line::from(format!("No lock{names} is held or waited for."))],
        WatchLink::Full => {
            let many = grouped(NAMES_MAX as u64);
            let text = format!("There are more than {many} names{names}, which are not kept here.");
            let next = "press / and type how the names begin";
            refusal(&Failure::new(Exit::Error, "", text, next), "", theme, to)
        }
        WatchLink::Refused(failure) => {
            let again = "This is asked for again after a minute. r asks at once, and / asks for \
                         names with another beginning.";
            refusal(failure, again, theme, to)
        }
    }
}

/// Draws the first names in another order.
fn draw_side(
    frame: &mut Frame<'_>,
    area: Rect,
    order: LockOrder,
    ranking: &Ranking,
    now: Moment,
    theme: Theme,
) {
    let name = Column::text("NAME", Width::Share(3));
    let holder_column = Column::text("HOLDER", Width::Share(2));
    let columns = match order {
        LockOrder::Changes | LockOrder::Name => vec![name, Column::number("CHANGES", 8)],
        LockOrder::Queue => {
            vec![name, Column::number("QUEUE", 6), Column::number("LONGEST", 8)]
        }
        LockOrder::Hold => vec![name, holder_column, Column::number("HELD FOR", 9)],
    };
    let table = Table::new(&columns, area.width);
    let heading = fit(heading(order), area.width.into());
    let mut lines = vec![
        Line::from(Span::styled(heading, theme.bold())),
        table.header(title(order), theme.title()),
    ];
    let is_ranked = |row: &&Row| match order {
        LockOrder::Changes => row.changes > 0,
        LockOrder::Queue => row.waiters > 0,
        LockOrder::Hold => matches!(row.holder, Holder::Known { .. }),
        LockOrder::Name => true,
    };
    let room = usize::from(area.height).saturating_sub(lines.len() + 1);
    for row in ranking.rows.iter().filter(is_ranked).take(room) {
        let [_, by, held_for, queue, longest, changes]: [Cell; 6] =
            usual_cells(row, now, theme).try_into().expect("six usual cells");
        let mut cells = vec![(shown(&row.name), theme.plain())];
        cells.extend(match order {
            LockOrder::Changes | LockOrder::Name => vec![changes],
            LockOrder::Queue => vec![queue, longest],
            LockOrder::Hold => vec![by, held_for],
        });
        lines.push(table.row(cells, theme.plain()));
    }
    if lines.len() == 2 {
        lines.push(Line::from(Span::styled("none", theme.dim())));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// The line about the list: its order, the part of it that is shown, and sums over all of it.
pub fn about(top: &Top) -> String {
    let order = match top.lock_order {
        LockOrder::Changes => "changes",
        LockOrder::Queue => "queue",
        LockOrder::Hold => "oldest hold",
        LockOrder::Name => "name",
    };
    let rows = top.cursor().shown();
    let Ranking { names, held, waiters, .. } = &top.ranking;
    let range = match rows.is_empty() {
        true => String::new(),
        false => format!("  {}–{} of {}", rows.start + 1, rows.end, grouped(*names as u64)),
    };
    let sums = match top.is_told_locks() {
        true => format!("  {} held  {} waiting", grouped(*held as u64), grouped(*waiters)),
        false => String::new(),
    };
    let paused = if top.is_paused { "  PAUSED" } else { "" };
    format!("by {order}{paused}{range}{sums}")
}
