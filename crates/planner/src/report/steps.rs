//! The rows of the five steps, for today's load: each figure with its formula filled in, for both
//! columns.

use crate::duration::show_s;
use crate::figures::{Figures, ShardCount};
use crate::model::Rates;
use crate::quantity::{bytes, count, counted, decimals, percent, show};
use crate::{Calibration, Plan, RateSource, Sizing, Workload};

/// A figure and its origin: a formula after an equals sign, or a remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The figure, for people.
    pub value: String,
    /// Its origin.
    pub how: String,
}

/// One figure of both columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the figure is.
    pub label: String,
    /// The column of the published model.
    pub specification: Cell,
    /// The column of this service.
    pub palisade: Cell,
}

fn cell(value: impl Into<String>, formula: impl std::fmt::Display) -> Cell {
    Cell { value: value.into(), how: format!("= {formula}") }
}

fn remark(value: impl Into<String>, how: impl Into<String>) -> Cell {
    Cell { value: value.into(), how: how.into() }
}

fn row(label: impl Into<String>, specification: Cell, palisade: Cell) -> Row {
    Row { label: label.into(), specification, palisade }
}

/// A row with the same value in both columns.
fn same(label: &str, value: impl Into<String>, formula: impl std::fmt::Display) -> Row {
    let value = value.into();
    row(label, remark(value.clone(), ""), cell(value, formula))
}

/// A row with the same value in both columns and a remark.
fn same_remark(label: &str, value: impl Into<String>, how: impl Into<String>) -> Row {
    let value = value.into();
    row(label, remark(value.clone(), ""), remark(value, how))
}

/// A range of milliseconds.
fn range(low: f64, high: f64) -> String {
    if low == high {
        decimals(low, 2)
    } else {
        format!("{}–{}", decimals(low, 2), decimals(high, 2))
    }
}

/// Step 1. The components of the columns differ, so they are listed side by side and not by name.
pub(crate) fn latency(plan: &Plan) -> Vec<[String; 4]> {
    let (specification, palisade) =
        (&plan.specification.figures.latency_ms, &plan.palisade.figures.latency_ms);
    let lines = specification.components.len().max(palisade.components.len());
    let part = |components: &[crate::Component], at: usize| {
        components.get(at).map_or(Default::default(), |part| {
            (part.name.to_owned(), range(part.low_ms, part.high_ms))
        })
    };
    let mut rows: Vec<[String; 4]> = (0..lines)
        .map(|at| {
            let (a, b) = part(&specification.components, at);
            let (c, d) = part(&palisade.components, at);
            [c, d, a, b]
        })
        .collect();
    let total = |budget: &crate::LatencyBudget| range(budget.low, budget.high);
    rows.push(["acquire, ms".into(), total(palisade), "acquire, ms".into(), total(specification)]);
    let target = decimals(plan.workload.target_p99_ms, 2);
    rows.push(["target p99, ms".into(), target.clone(), "target p99, ms".into(), target]);
    rows
}

/// Step 2: rates of operations.
pub(crate) fn operations(plan: &Plan) -> Vec<Row> {
    let workload = &plan.workload;
    let (spec, own) = (&plan.specification.figures, &plan.palisade.figures);
    let acquire = show(spec.acquire_per_s);
    let rate = match workload.rate {
        RateSource::LocksPerInstancePerMin(locks) => {
            format!("{} × {}/min ÷ 60", counted(workload.instances, "instance"), show(locks))
        }
        RateSource::AcquirePerS(_) => "as given".to_owned(),
        RateSource::EventsPerDay(events) => format!("{} per day ÷ 86,400 s", show(events)),
    };
    let sum = |figures: &Figures| {
        format!("{acquire} + {} + {}", show(figures.renew_per_s), show(figures.release_per_s))
    };
    let per_lock = workload.hold_s / workload.heartbeat_s;
    let per_lock_formula =
        format!("{} ÷ {}", show_s(workload.hold_s), show_s(workload.heartbeat_s));
    let peak = workload.peak_multiplier;
    let peak_sum = |figures: &Figures| {
        let (acquires, renewals) = (figures.peak_acquire_per_s, figures.peak_renew_per_s);
        format!("{} + {} + {}", show(acquires), show(renewals), show(figures.peak_release_per_s))
    };
    let average = Rates::of(workload);
    let at_peak = average.at_peak(peak);
    vec![
        same("acquire/s", &acquire, rate),
        row(
            "renewals per lock",
            cell(show(per_lock), &per_lock_formula),
            cell(
                show(own.renew_per_s / own.acquire_per_s),
                format!("{} ÷ {acquire}", show(own.renew_per_s)),
            ),
        ),
        row(
            "renew/s",
            cell(show(spec.renew_per_s), format!("{acquire} × {}", show(per_lock))),
            renewals(plan, &average, own.renew_per_s),
        ),
        same_remark("release/s", show(spec.release_per_s), "as many as acquires"),
        row(
            "writes/s",
            cell(show(spec.writes_per_s), sum(spec)),
            cell(show(own.writes_per_s), sum(own)),
        ),
        row(
            "writes per lock",
            cell(show(spec.writes_per_lock), format!("2 + {per_lock_formula}")),
            cell(show(own.writes_per_lock), format!("{} ÷ {acquire}", show(own.writes_per_s))),
        ),
        row(
            "peak acquire/s",
            cell(show(spec.peak_acquire_per_s), format!("{acquire} × {}", show(peak))),
            remark(show(own.peak_acquire_per_s), ""),
        ),
        row(
            "peak renew/s",
            cell(
                show(spec.peak_renew_per_s),
                format!("{} × {}", show(spec.renew_per_s), show(peak)),
            ),
            renewals(plan, &at_peak, own.peak_renew_per_s),
        ),
        row(
            "peak writes/s",
            cell(
                show(spec.peak_writes_per_s),
                format!("{} × {}", show(spec.writes_per_s), show(peak)),
            ),
            cell(show(own.peak_writes_per_s), peak_sum(own)),
        ),
        same(
            "reads/s",
            show(spec.reads_per_s),
            format!("{} × {}", show(spec.writes_per_s), show(workload.reads_per_write)),
        ),
    ]
}

/// Renewals of this service: of leases, which do not multiply at the peak, or of locks where these
/// need fewer.
fn renewals(plan: &Plan, rates: &Rates, renew_per_s: f64) -> Cell {
    let figures = &plan.palisade.figures;
    if figures.leader_capacity.leases_pay(rates, figures.shards) {
        let (leases, heartbeat) =
            (counted(plan.workload.instances, "lease"), show_s(plan.workload.heartbeat_s));
        cell(show(renew_per_s), format!("{leases} × {} ÷ {heartbeat}", shard_word(figures.shards)))
    } else {
        remark(show(renew_per_s), "fewer if each lock is renewed alone")
    }
}

fn shard_word(shards: u64) -> String {
    counted(shards, "shard")
}

/// Step 3: shards and nodes.
pub(crate) fn cluster(plan: &Plan) -> Vec<Row> {
    let workload = &plan.workload;
    let (spec, own) = (&plan.specification.figures, &plan.palisade.figures);
    let average = Rates::of(workload);
    let peak = average.at_peak(workload.peak_multiplier);
    let sized = |label: &str, rates: &Rates, of: fn(&Figures) -> ShardCount| {
        let shards = |figures: &Figures| {
            cell(count(of(figures).shards), shards_formula(workload, figures, rates))
        };
        row(label, shards(spec), shards(own))
    };
    let headroom = |label: &str, of: fn(&Figures) -> ShardCount| {
        let left = |figures: &Figures| {
            let sized = of(figures);
            let fewest = match sized.without_headroom {
                fewest if fewest < sized.shards => format!("; {} at 0%", count(fewest)),
                _ => String::new(),
            };
            remark(
                percent(sized.headroom()),
                format!("left on {}{fewest}", shard_word(sized.shards)),
            )
        };
        row(label, left(spec), left(own))
    };
    let planned = match workload.sizing {
        Sizing::Peak => "sized on the peak",
        Sizing::Average => "sized on the average",
    };
    let at_peak =
        |figures: &Figures| remark(percent(figures.peak_utilisation), "of each leader's capacity");
    let nodes = |figures: &Figures| {
        let each = counted(workload.nodes_per_shard.into(), "node");
        cell(count(figures.nodes_total), format!("{} × {each}", shard_word(figures.shards)))
    };
    vec![
        row(
            "writes/s per leader",
            remark(show(spec.leader_capacity.writes_per_s), "published, or given"),
            remark(show(own.leader_capacity.writes_per_s), &plan.calibration.source),
        ),
        sized("shards, average", &average, |figures| figures.shards_avg),
        headroom("  headroom", |figures| figures.shards_avg),
        sized("shards, peak", &peak, |figures| figures.shards_peak),
        headroom("  headroom", |figures| figures.shards_peak),
        row(
            "shards, today",
            remark(count(spec.shards), planned),
            remark(count(own.shards), planned),
        ),
        row("  in use at the peak", at_peak(spec), at_peak(own)),
        same_remark(
            "nodes per shard",
            count(workload.nodes_per_shard.into()),
            plan.size_class.describe(),
        ),
        row("nodes, total", nodes(spec), nodes(own)),
        same("quorum", spec.quorum.to_string(), format!("⌊{} ÷ 2⌋ + 1", workload.replicas)),
        same(
            "failures tolerated",
            spec.failures_tolerated.to_string(),
            format!("{} − {} per shard", workload.replicas, spec.quorum),
        ),
    ]
}

fn shards_formula(workload: &Workload, figures: &Figures, rates: &Rates) -> String {
    let capacity = &figures.leader_capacity;
    let usable = match workload.headroom {
        0.0 => String::new(),
        headroom => format!(" ÷ (1 − {})", percent(headroom)),
    };
    let shards = capacity.shards(rates, workload.headroom).unwrap_or(u64::MAX);
    if !capacity.leases_pay(rates, shards) {
        if capacity.writes_per_s == capacity.renewals_per_s {
            return format!(
                "⌈{} ÷ {}{usable}⌉",
                show(rates.writes_per_s()),
                show(capacity.writes_per_s)
            );
        }
        let writes = show(rates.acquire_per_s + rates.release_per_s);
        let (renewals, of) = (show(rates.renew_each_per_s), show(capacity.renewals_per_s));
        return format!(
            "⌈({writes} ÷ {} + {renewals} ÷ {of}){usable}⌉",
            show(capacity.writes_per_s)
        );
    }
    let writes = show(rates.acquire_per_s + rates.release_per_s);
    let left = decimals(1.0 - workload.headroom, 2);
    let heartbeats = show(rates.heartbeats_per_shard_per_s());
    let (per_writes, per_renewals) = (show(capacity.writes_per_s), show(capacity.renewals_per_s));
    format!("⌈{writes} ÷ {per_writes} ÷ ({left} − {heartbeats} ÷ {per_renewals})⌉")
}

/// Step 4: key metrics.
pub(crate) fn key_metrics(plan: &Plan) -> Vec<Row> {
    let workload = &plan.workload;
    let (spec, own) = (&plan.specification.figures, &plan.palisade.figures);
    let hold = show_s(workload.hold_s);
    let share = |figures: &Figures| {
        cell(
            percent(figures.renewal_share),
            format!("{} ÷ {}", show(figures.renew_per_s), show(figures.writes_per_s)),
        )
    };
    let entry = workload.entry.total();
    let rate = |value: f64| format!("{}/s", bytes(value));
    let per_write = |figures: &Figures, bytes_per_s: f64, writes_per_s: f64| {
        let each = bytes_per_s / writes_per_s / f64::from(workload.replicas);
        let each = if figures.leader_capacity.shared_leases {
            format!("{} B on average", show(each))
        } else {
            format!("{} B", show(each))
        };
        format!("{} × {each} × {}", show(writes_per_s), workload.replicas)
    };
    let bandwidth = |label: &str, of: fn(&Figures) -> (f64, f64)| {
        let cell_of = |figures: &Figures| {
            let (bytes_per_s, writes_per_s) = of(figures);
            cell(rate(bytes_per_s), per_write(figures, bytes_per_s, writes_per_s))
        };
        row(label, cell_of(spec), cell_of(own))
    };
    let per_leader = |figures: &Figures| {
        let value = figures.peak_leader_write_bytes_per_s / figures.shards as f64;
        cell(
            rate(value),
            format!(
                "{} ÷ {}",
                rate(figures.peak_leader_write_bytes_per_s),
                shard_word(figures.shards)
            ),
        )
    };
    let per_follower = |figures: &Figures| {
        let followers = figures.shards * u64::from(workload.replicas - 1).max(1);
        let value = figures.follower_read_bytes_per_s / followers as f64;
        remark(rate(value), format!("÷ {}", counted(followers, "follower")))
    };
    vec![
        same(
            "active locks",
            show(spec.active_locks),
            format!("{}/s × {hold}", show(spec.acquire_per_s)),
        ),
        same(
            "  at the peak",
            show(spec.peak_active_locks),
            format!("{}/s × {hold}", show(spec.peak_acquire_per_s)),
        ),
        row("renewals in writes", share(spec), share(own)),
        bandwidth("leaders write", |figures| {
            (figures.leader_write_bytes_per_s, figures.writes_per_s)
        }),
        bandwidth("  at the peak", |figures| {
            (figures.peak_leader_write_bytes_per_s, figures.peak_writes_per_s)
        }),
        row("  each leader", per_leader(spec), per_leader(own)),
        same(
            "followers read",
            rate(spec.follower_read_bytes_per_s),
            format!("{}/s × {entry} B", show(spec.reads_per_s)),
        ),
        row("  each follower", per_follower(spec), per_follower(own)),
    ]
}

/// Step 5: active locks and history.
pub(crate) fn storage(plan: &Plan) -> Vec<Row> {
    let workload = &plan.workload;
    let (spec, own) = (&plan.specification.figures, &plan.palisade.figures);
    let entry = workload.entry;
    let total = entry.total();
    let active = |figures: &Figures, each: u64| {
        cell(
            bytes(figures.active_bytes as f64),
            format!("{} × {} B", show(figures.active_locks), count(each)),
        )
    };
    let day = |figures: &Figures| {
        let formula = format!(
            "{}/s × 86,400 s × {} B",
            show(figures.history_records_per_s),
            count(figures.history_record_bytes)
        );
        cell(bytes(figures.history_bytes_per_day as f64), formula)
    };
    let kept = |figures: &Figures| {
        remark(
            bytes(figures.history_bytes_total as f64),
            format!("× {}", counted(workload.history_days.into(), "day")),
        )
    };
    let all = |figures: &Figures| {
        remark(bytes(figures.storage_bytes_total as f64), "active + history, one copy")
    };
    let calibration = &plan.calibration;
    vec![
        row(
            "record of history",
            cell(
                format!("{total} B"),
                format!(
                    "{} + {} + {}, per write",
                    entry.name_bytes, entry.owner_bytes, entry.metadata_bytes
                ),
            ),
            cell(format!("{} B", count(own.history_record_bytes)), tenure(total, calibration)),
        ),
        row(
            "active locks",
            active(spec, total),
            active(own, total + calibration.lock_overhead_bytes),
        ),
        row("history per day", day(spec), day(own)),
        row("history kept", kept(spec), kept(own)),
        row("total", all(spec), all(own)),
    ]
}

fn tenure(entry_bytes: u64, calibration: &Calibration) -> String {
    let raw = format!("{entry_bytes} + {}", calibration.tenure_overhead_bytes);
    if calibration.history_stored_ratio == 1.0 {
        format!("{raw}, per grant")
    } else {
        format!("({raw}) × {}, per grant", decimals(calibration.history_stored_ratio, 3))
    }
}
