//! The lists of shards and of nodes.

use super::refusal::refusal;
use super::text::{Cell, Column, Table, Width, rate};
use super::theme::Theme;
use crate::duration::show_ms;
use crate::shown::{grouped, shown};
use crate::status::SLOW_SYNC_MS;
use crate::top::cluster::{Cluster, NodeOrder, NodeRow, ShardOrder, lag};
use crate::top::state::{Pane, Top};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use wire::json::{Node, Shard};

/// From this width on, there are more columns.
const WIDE_FROM: u16 = 120;

/// The title of the column that an order of shards is by.
fn shard_title(order: ShardOrder) -> &'static str {
    match order {
        ShardOrder::Number => "SHARD",
        ShardOrder::Lag => "LAG",
        ShardOrder::Locks => "LOCKS",
        ShardOrder::Waiters => "WAITERS",
        ShardOrder::Grants => "GRANTS/S",
    }
}

/// The title of the column that an order of nodes is by.
fn node_title(order: NodeOrder) -> &'static str {
    match order {
        NodeOrder::File => "NODE",
        NodeOrder::Leads => "LEADS",
        NodeOrder::Sync => "SYNC",
        NodeOrder::Lag => "LAG",
    }
}

/// The line about the list: its order.
pub fn about(top: &Top) -> String {
    let order = match top.pane {
        Pane::Shards => match top.shard_order {
            ShardOrder::Number => "number",
            ShardOrder::Lag => "most lag",
            ShardOrder::Locks => "most locks",
            ShardOrder::Waiters => "most waiters",
            ShardOrder::Grants => "most grants",
        },
        _ => match top.node_order {
            NodeOrder::File => "the cluster file",
            NodeOrder::Leads => "most led shards",
            NodeOrder::Sync => "slowest sync",
            NodeOrder::Lag => "most lag",
        },
    };
    let (shown, len) = (top.cursor().shown(), top.rows());
    match shown.is_empty() {
        true => format!("by {order}"),
        false => format!("by {order}  {}–{} of {len}", shown.start + 1, shown.end),
    }
}

/// Draws the list of shards or of nodes.
pub fn draw(frame: &mut Frame<'_>, area: Rect, top: &Top, theme: Theme) {
    let to = usize::from(area.width);
    let lines = match (&top.cluster, top.is_denied_status()) {
        (_, Some(failure)) => {
            let more = "This is asked for again after a minute. r asks at once.";
            refusal(failure, more, theme, to)
        }
        (None, None) => vec![Line::from("The state of the cluster has not come yet.")],
        (Some(cluster), None) => match top.pane {
            Pane::Shards => shards(top, cluster, theme, area.width),
            _ => nodes(top, cluster, theme, area.width),
        },
    };
    frame.render_widget(Paragraph::new(lines), area);
}

fn row_style(top: &Top, at: usize, theme: Theme) -> Style {
    if at == top.cursor().selected() { theme.selected() } else { theme.plain() }
}

fn shards(top: &Top, cluster: &Cluster, theme: Theme, to: u16) -> Vec<Line<'static>> {
    let is_wide = to >= WIDE_FROM;
    let mut columns = vec![
        Column::number("SHARD", 6),
        Column::text("LEADER", Width::Share(1)),
        Column::number("TERM", 5),
        Column::number("LOCKS", 8),
        Column::number("WAITERS", 8),
        Column::number("SESSIONS", 8),
        Column::number("GRANTS/S", 9),
        Column::number("VOTES", 5),
        Column::number("LAG", 6),
        Column::text("HASHES", Width::Fixed(9)),
    ];
    if is_wide {
        columns.extend([
            Column::number("ENTRIES/S", 9),
            Column::number("APPLIED", 12),
            Column::text("REPLICAS (LAG)", Width::Share(4)),
        ]);
    }
    let table = Table::new(&columns, to);
    let mut lines = vec![table.header(shard_title(top.shard_order), theme.title())];
    let shards = cluster.shards(top.shard_order);
    for at in top.cursor().shown() {
        let Some(shard) = shards.get(at) else { break };
        let mut cells = shard_cells(shard, cluster, theme);
        if is_wide {
            cells.extend(wide_shard_cells(shard, cluster, theme));
        }
        lines.push(table.row(cells, row_style(top, at, theme)));
    }
    lines
}

fn shard_cells(shard: &Shard, cluster: &Cluster, theme: Theme) -> Vec<Cell> {
    let plain = |text: String| (text, theme.plain());
    let leader = match shard.leader {
        Some(leader) => plain(format!("node {leader}")),
        None => ("NONE".to_owned(), theme.bad()),
    };
    let (counting, votes) = shard.votes();
    let all_count = if counting == votes { theme.plain() } else { theme.bad() };
    let votes = match votes {
        0 => "?".to_owned(),
        _ => format!("{counting}/{votes}"),
    };
    let hashes = match shard.hashes_equal {
        Some(true) => ("equal".to_owned(), theme.good()),
        Some(false) => ("DIFFERENT".to_owned(), theme.bad()),
        None => ("-".to_owned(), theme.dim()),
    };
    let grants = cluster.rates(shard.shard).map_or("…".to_owned(), |rates| rate(rates.grants));
    vec![
        plain(shard.shard.to_string()),
        leader,
        plain(shard.term.to_string()),
        plain(grouped(shard.active_locks)),
        plain(grouped(shard.waiters)),
        plain(grouped(shard.sessions)),
        plain(grants),
        (votes, all_count),
        plain(grouped(lag(shard))),
        hashes,
    ]
}

fn wide_shard_cells(shard: &Shard, cluster: &Cluster, theme: Theme) -> [Cell; 3] {
    let entries = cluster.rates(shard.shard).map_or("…".to_owned(), |rates| rate(rates.entries));
    let of = |replica: &wire::json::Replica| {
        let reseeding = if replica.reseeding { " re-seeding" } else { "" };
        format!("{}({}{reseeding})", replica.node, replica.lag)
    };
    let replicas: Vec<String> = shard.replicas.iter().map(of).collect();
    [entries, shard.applied_index.to_string(), replicas.join(" ")].map(|text| (text, theme.plain()))
}

fn nodes(top: &Top, cluster: &Cluster, theme: Theme, to: u16) -> Vec<Line<'static>> {
    let is_wide = to >= WIDE_FROM;
    let mut columns = vec![
        Column::number("NODE", 5),
        Column::text("ADDRESS", Width::Share(3)),
        Column::text("ZONE", Width::Share(2)),
        Column::text("STATE", Width::Fixed(5)),
        Column::number("LEADS", 6),
        Column::number("SYNC", 8),
        Column::text("DISK", Width::Fixed(11)),
        Column::number("LAG", 7),
    ];
    if is_wide {
        columns.extend([Column::number("REPLICAS", 8), Column::number("SNAPSHOTS", 9)]);
    }
    let table = Table::new(&columns, to);
    let mut lines = vec![table.header(node_title(top.node_order), theme.title())];
    let nodes = cluster.nodes(top.node_order);
    for at in top.cursor().shown() {
        let Some(row) = nodes.get(at) else { break };
        let mut cells = node_cells(row, theme);
        if is_wide {
            cells.extend(wide_node_cells(row, theme));
        }
        lines.push(table.row(cells, row_style(top, at, theme)));
    }
    lines
}

fn node_cells(row: &NodeRow<'_>, theme: Theme) -> Vec<Cell> {
    let plain = |text: String| (text, theme.plain());
    let state = match row.node.reachable {
        true => ("up".to_owned(), theme.good()),
        false => ("DOWN".to_owned(), theme.bad()),
    };
    let zone = if row.node.zone.is_empty() { "-".to_owned() } else { shown(&row.node.zone) };
    vec![
        plain(row.node.node.to_string()),
        plain(shown(&row.node.address)),
        plain(zone),
        state,
        plain(row.node.leads.to_string()),
        plain(sync(row.node)),
        disk(row.node, theme),
        plain(row.lag.map_or("-".to_owned(), grouped)),
    ]
}

/// The median time of the last syncs.
fn sync(node: &Node) -> String {
    match node.disk_sync_ms {
        None | Some(0.0) => "-".to_owned(),
        Some(ms) if ms < 100.0 => format!("{ms:.1}ms"),
        Some(ms) => show_ms(ms as u64),
    }
}

fn disk(node: &Node, theme: Theme) -> Cell {
    match (node.disk_write_age_ms, node.disk_sync_ms) {
        (Some(age_ms), _) if node.disk_hangs => (format!("HANGS {}", show_ms(age_ms)), theme.bad()),
        (_, Some(ms)) if ms >= SLOW_SYNC_MS => ("slow".to_owned(), theme.bad()),
        (Some(_), _) => ("ok".to_owned(), theme.good()),
        (None, _) => ("-".to_owned(), theme.dim()),
    }
}

fn wide_node_cells(row: &NodeRow<'_>, theme: Theme) -> [Cell; 2] {
    [row.replicas.to_string(), grouped(row.snapshots)].map(|text| (text, theme.plain()))
}
