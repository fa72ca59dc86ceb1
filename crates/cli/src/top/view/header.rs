//! The first lines: where this is, sums and rates. Below them, notices of figures that are old or
//! missing.

use super::text::{fit, percent, rate, show_interval, wrapped};
use super::theme::Theme;
use crate::duration::show_ms;
use crate::shown::{counted, date_time, grouped, one_line, shown, width};
use crate::status;
use crate::top::counts::Change;
use crate::top::moment::Moment;
use crate::top::state::{Pane, Top, WatchLink};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};
use wire::json::Shard;

/// Lines of the header.
pub const HEIGHT: u16 = 4;
/// From this width on, the rate of grants is drawn, too.
const PLOT_FROM: u16 = 140;
/// A watch that is interrupted for less than this time is no news.
const INTERRUPTED_MS: u64 = 2_000;
/// A shard that has not told its state for this time is named.
const PATIENT_MS: u64 = 3_000;
/// A loss of changes is told for as long as it makes a difference to the counts.
const RESYNC_MS: u64 = 60_000;
/// Shards that one notice names.
const NAMED_MAX: usize = 8;
/// Most lines of notices.
const NOTICE_LINES_MAX: usize = 3;

/// Draws the header.
pub fn draw(frame: &mut Frame<'_>, area: Rect, top: &Top, now: Moment, theme: Theme) {
    let [first, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    draw_first(frame, first, top, now, theme);
    let plot = if area.width >= PLOT_FROM { area.width / 3 } else { 0 };
    let [lines, plot] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(plot)]).areas(rest);
    let text = vec![
        sums(top, theme),
        changes(top, now, theme),
        of_gateways(top, now, theme, usize::from(lines.width)),
    ];
    frame.render_widget(Paragraph::new(text), lines);
    draw_plot(frame, plot, top, now, theme);
}

/// The cluster and its gateways at the left, the connection and the time at the right.
fn draw_first(frame: &mut Frame<'_>, area: Rect, top: &Top, now: Moment, theme: Theme) {
    let (state, style) = match (top.is_cut_off(), &top.watch) {
        (Some(_), _) => ("NOT CONNECTED", theme.bad()),
        (None, WatchLink::Lost(since)) if now.since(*since) >= INTERRUPTED_MS => {
            ("RECONNECTING", theme.bad())
        }
        // Nothing is asked for, so that nothing says whether there is a connection.
        (None, WatchLink::Refused(_)) if top.is_denied_status().is_some() => {
            ("NOT PERMITTED", theme.bad())
        }
        (None, _) if top.cluster.is_none() && top.status_failure.is_none() => {
            ("connecting", theme.plain())
        }
        _ => ("connected", theme.good()),
    };
    let time = date_time(now.unix_ms);
    let right = Line::from(vec![
        Span::styled(state, style),
        Span::raw(format!("  every {}", show_interval(top.setup.interval_ms))),
        Span::raw(format!("  {}", time.split(' ').nth(1).unwrap_or_default())),
    ])
    .right_aligned();
    let cluster =
        top.cluster.as_ref().map(|cluster| format!("  {}", shown(&cluster.status.cluster)));
    let left = Line::from(vec![
        Span::styled("palisade top", theme.bold()),
        Span::styled(cluster.unwrap_or_default(), theme.bold()),
        Span::raw(format!("  {}", shown(&top.setup.gateways))),
    ]);
    let [left_area, right_area] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(right.width() as u16)])
            .areas(area);
    frame.render_widget(left, left_area);
    frame.render_widget(right, right_area);
}

/// The sums over the whole cluster, for any prefix.
fn sums(top: &Top, theme: Theme) -> Line<'static> {
    let Some(cluster) = &top.cluster else {
        let text = match top.is_denied_status() {
            Some(_) => "cluster not told to this client: the panes Shards and Nodes say why",
            None => "cluster …",
        };
        return Line::from(Span::styled(text, theme.dim()));
    };
    let (shards, nodes) = (cluster.status.shards.len(), cluster.status.nodes.len());
    let all = |some: usize, of: usize| match some == of && of > 0 {
        true => theme.bold(),
        false => theme.bad(),
    };
    let sum = |one: &'static str, several: &'static str, of: fn(&Shard) -> u64| {
        let sum = cluster.sum(of);
        (if sum == 1 { one } else { several }, grouped(sum), theme.bold())
    };
    let numbers = [
        sum(" lock", " locks", |shard| shard.active_locks),
        sum(" waiter", " waiters", |shard| shard.waiters),
        sum(" session", " sessions", |shard| shard.sessions),
        (" shards", format!("{}/{shards}", cluster.led()), all(cluster.led(), shards)),
        (" nodes", format!("{}/{nodes}", cluster.up()), all(cluster.up(), nodes)),
    ];
    labelled("cluster", &numbers, theme)
}

/// The rates of changes that the watch told.
fn changes(top: &Top, now: Moment, theme: Theme) -> Line<'static> {
    let rates = top.locks.rates();
    let kinds = [
        (" granted", Change::Granted),
        (" released", Change::Released),
        (" expired", Change::Expired),
        (" broken", Change::Broken),
        (" queued", Change::Queued),
        (" gave up", Change::GaveUp),
    ];
    let number = |(label, change)| {
        // Without an open watch the rate is unknown, which is not zero.
        let per_second =
            rates.per_second(change, now.ms).filter(|_| matches!(top.watch, WatchLink::Open));
        let is_rare = matches!(change, Change::Expired | Change::Broken);
        let style = match per_second {
            Some(n) if is_rare && n > 0.0 => theme.bad(),
            _ => theme.bold(),
        };
        (label, per_second.map_or("…".to_owned(), rate), style)
    };
    labelled("per sec", &kinds.map(number), theme)
}

/// The rates that the metrics of gateways tell. Without them, the contention by the watch.
fn of_gateways(top: &Top, now: Moment, theme: Theme, to: usize) -> Line<'static> {
    let Some(of) = top.gateways.rates() else {
        let waited = top.locks.rates().contention(now.ms);
        let waited = waited.filter(|_| matches!(top.watch, WatchLink::Open));
        let waited = waited.map_or("…".to_owned(), percent);
        let numbers = [(" of grants had queued", waited, theme.bold())];
        let mut line = labelled("waits", &numbers, theme);
        let more = match top.setup.has_metrics {
            true => "   renewals, refusals: …",
            false => "   renewals, refusals: see --metrics",
        };
        line.push_span(Span::styled(more, theme.dim()));
        return line;
    };
    let alarming = |n: f64| if n > 0.0 { theme.bad() } else { theme.bold() };
    let numbers = [
        (" renewed", rate(of.renewed), theme.bold()),
        (" heartbeats", rate(of.heartbeats), theme.bold()),
        (" held", rate(of.held), theme.bold()),
        (" denied", rate(of.denied), alarming(of.denied)),
        (" failed", rate(of.failed), alarming(of.failed)),
    ];
    let mut line = labelled("per sec", &numbers, theme);
    let contended = (of.acquires > 0.0).then(|| percent(of.contended / of.acquires));
    let by = format!("   by {}", counted(top.gateways.counted() as u64, "gateway"));
    let contended = contended.map(|share| format!("   {share} contended"));
    for text in contended.into_iter().chain([by]) {
        if line.width() + width(&text) <= to {
            line.push_span(Span::raw(text));
        }
    }
    line
}

/// `label  12 granted  7 released`.
fn labelled(label: &str, numbers: &[(&str, String, Style)], theme: Theme) -> Line<'static> {
    let mut spans = vec![Span::styled(format!("{label:<8}"), theme.dim())];
    for (nth, (what, number, style)) in numbers.iter().enumerate() {
        spans.push(Span::raw(if nth > 0 { "  " } else { "" }));
        spans.push(Span::styled(number.clone(), *style));
        spans.push(Span::raw((*what).to_owned()));
    }
    Line::from(spans)
}

/// The grants of each of the last seconds.
fn draw_plot(frame: &mut Frame<'_>, area: Rect, top: &Top, now: Moment, theme: Theme) {
    if area.width == 0 {
        return;
    }
    let [title, bars] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let grants = top.locks.rates().last(Change::Granted, area.width.into(), now.ms);
    let most = grants.iter().max().copied().unwrap_or(0);
    let text = format!(
        "granted in each of the last {}, at most {}",
        counted(area.width, "second"),
        grouped(most.into())
    );
    frame.render_widget(Span::styled(text, theme.dim()), title);
    let blanks = usize::from(area.width).saturating_sub(grants.len());
    let data: Vec<u64> =
        std::iter::repeat_n(0, blanks).chain(grants.into_iter().map(u64::from)).collect();
    frame.render_widget(Sparkline::default().data(data).style(theme.good()), bars);
}

/// The reasons not to rely on the screen, as lines of a width.
pub fn notices(top: &Top, now: Moment, to: usize) -> Vec<String> {
    let mut notices = Vec::new();
    if let Some((since, failure)) = top.is_cut_off() {
        let old = match &top.cluster {
            Some(cluster) => format!(" What follows is {} old.", show_ms(now.since(cluster.at))),
            None => String::new(),
        };
        let ago = show_ms(now.since(since));
        let message = one_line(&failure.message);
        notices.push(format!("No answer for {ago}; it is tried again.{old} Last: {message}"));
    } else if let WatchLink::Lost(since) = &top.watch
        && now.since(*since) >= INTERRUPTED_MS
    {
        let ago = show_ms(now.since(*since));
        notices.push(format!(
            "The watch was interrupted {ago} ago, and is tried again: locks and rates are of then."
        ));
    }
    if let Some(at) = top.locks.resync().filter(|at| now.since(*at) < RESYNC_MS) {
        let ago = show_ms(now.since(at));
        notices.push(format!(
            "Changes were lost {ago} ago, so that counts of the last minute are too low."
        ));
    }
    notices.extend(missing(top, now));
    notices.extend(top.gateways.failures().iter().map(|why| format!("No metrics of {why}.")));
    if top.pane != Pane::Locks
        && top.opened.is_none()
        && let Some(cluster) = &top.cluster
    {
        notices.extend(status::warning(&cluster.status));
        notices.extend(cluster.status.shards.iter().flat_map(status::missing));
    }
    let mut lines: Vec<String> =
        notices.iter().flat_map(|notice| short(&one_line(notice), to)).collect();
    if lines.len() > NOTICE_LINES_MAX {
        let more = lines.len() - (NOTICE_LINES_MAX - 1);
        lines.truncate(NOTICE_LINES_MAX - 1);
        lines.push(format!("… and {}", counted(more as u64, "more line")));
    }
    lines
}

/// A notice in at most two lines.
fn short(notice: &str, to: usize) -> Vec<String> {
    let mut lines = wrapped(notice, to);
    if lines.len() > 2 {
        let rest = lines.split_off(1).join(" ");
        lines.push(fit(&rest, to));
    }
    lines
}

/// The shards with locks that are not here yet.
fn missing(top: &Top, now: Moment) -> Option<String> {
    let shards = top.cluster.as_ref()?.status.shards.len();
    let is_watching = matches!(top.watch, WatchLink::Open);
    if !is_watching || now.since(top.locks.begun()) < PATIENT_MS {
        return None;
    }
    let missing = top.locks.missing(shards as u32);
    let named: Vec<String> = missing.iter().take(NAMED_MAX).map(u32::to_string).collect();
    let more = if missing.len() > NAMED_MAX { ", …" } else { "" };
    let these = if missing.len() == 1 { "shard" } else { "shards" };
    (!missing.is_empty())
        .then(|| format!("The locks of {these} {}{more} have not come yet.", named.join(", ")))
}
