//! A plan: every figure, as the specification computes it and as this service works.
//!
//! Checked against overflow: a figure that does not fit is an error that names it, never a wrapped or infinite number.

use crate::build::Build;
use crate::contention::Contention;
use crate::growth::GrowthOutlook;
use crate::latency::LatencyBudget;
use crate::model::{LeaderCapacity, Rates, SizeClass, quorum};
use crate::quantity::{count, counted};
use crate::smell::{self, SmellTest, Verdict};
use crate::{Calibration, PlanError, Sizing, Workload, notes};
use serde::Serialize;

const DAY_S: f64 = 86_400.0;
/// Rates above this are no rates of anything; sums and products of them would lose what is added.
const RATE_MAX_PER_S: f64 = 1e15;

/// How many shards carry a load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ShardCount {
    /// The fewest that keep the headroom asked for.
    pub shards: u64,
    /// The fewest that carry it at all.
    pub without_headroom: u64,
    /// Share of a leader's capacity in use with `shards`.
    pub utilisation: f64,
}

impl ShardCount {
    fn of(capacity: &LeaderCapacity, rates: &Rates, headroom: f64) -> Result<ShardCount, PlanError> {
        let overflow = PlanError::Overflow { figure: "shards", check: "leader_capacity and headroom" };
        let shards = capacity.shards(rates, headroom).ok_or_else(|| overflow.clone())?;
        let without_headroom = capacity.shards(rates, 0.0).ok_or(overflow)?;
        Ok(ShardCount { shards, without_headroom, utilisation: capacity.utilisation(rates, shards) })
    }

    /// Share of a leader's capacity that is left.
    pub fn headroom(&self) -> f64 {
        1.0 - self.utilisation
    }
}

/// The figures of one column. Rates are averages unless they say `peak`; all are of the whole cluster unless they say
/// otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Locks taken.
    pub acquire_per_s: f64,
    /// Renewals of locks, or of leases.
    pub renew_per_s: f64,
    /// Locks let go.
    pub release_per_s: f64,
    /// The three together.
    pub writes_per_s: f64,
    /// At the peak.
    pub peak_acquire_per_s: f64,
    /// At the peak.
    pub peak_renew_per_s: f64,
    /// At the peak.
    pub peak_release_per_s: f64,
    /// The three together.
    pub peak_writes_per_s: f64,
    /// Checks.
    pub reads_per_s: f64,
    /// Writes from the taking of a lock to its end.
    pub writes_per_lock: f64,
    /// Renewals among the writes, as a share.
    pub renewal_share: f64,
    /// Locks held at a time (Little's law).
    pub active_locks: f64,
    /// At the peak.
    pub peak_active_locks: f64,
    /// What they take.
    pub active_bytes: u64,
    /// What the peak takes.
    pub peak_active_bytes: u64,
    /// Bytes of one record of history.
    pub history_record_bytes: u64,
    /// Records of history per second.
    pub history_records_per_s: f64,
    /// Written to history.
    pub history_bytes_per_day: u64,
    /// Kept of it.
    pub history_bytes_total: u64,
    /// Active locks and history.
    pub storage_bytes_total: u64,
    /// From all leaders to all replicas.
    pub leader_write_bytes_per_s: f64,
    /// At the peak.
    pub peak_leader_write_bytes_per_s: f64,
    /// Answers to checks, from all followers.
    pub follower_read_bytes_per_s: f64,
    /// What a leader carries.
    pub leader_capacity: LeaderCapacity,
    /// Sized on the average.
    pub shards_avg: ShardCount,
    /// Sized on the peak.
    pub shards_peak: ShardCount,
    /// What is planned: one of the two, as the workload asks.
    pub shards: u64,
    /// Share of a leader's capacity in use at the peak, as planned.
    pub peak_utilisation: f64,
    /// All nodes.
    pub nodes_total: u64,
    /// Votes that commit.
    pub quorum: u32,
    /// Replicas of a shard that may fail.
    pub failures_tolerated: u32,
    /// Of an acquire.
    pub latency_ms: LatencyBudget,
}

/// Whether a plan can be run as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// It can.
    pub fits: bool,
    /// Why not. Empty if it fits.
    pub reasons: Vec<String>,
}

/// One way to compute everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The numbers.
    pub figures: Figures,
    /// What they smell of.
    pub smell_tests: Vec<SmellTest>,
    /// Whether all that must hold does.
    pub fit: Fit,
    /// When the shards of today no longer suffice.
    pub growth: GrowthOutlook,
    /// What to build, for the end of that growth.
    pub build: Build,
}

/// Everything about a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The input, complete.
    pub workload: Workload,
    /// What the palisade column is computed with.
    pub calibration: Calibration,
    /// By average writes.
    pub size_class: SizeClass,
    /// As published.
    pub specification: Column,
    /// As this service works.
    pub palisade: Column,
    /// How often an acquire will find the lock taken.
    pub contention: Contention,
    /// Where published figures differ from these, and other remarks.
    pub notes: Vec<String>,
}

impl Plan {
    /// Computes everything.
    ///
    /// # Errors
    /// If a figure does not fit a number.
    pub fn new(workload: Workload, calibration: Calibration) -> Result<Plan, PlanError> {
        let rates = Rates::of(&workload);
        if rates.at_peak(workload.peak_multiplier).writes_per_s() > RATE_MAX_PER_S
            || rates.heartbeats_per_shard_per_s() > RATE_MAX_PER_S
        {
            return Err(PlanError::Overflow {
                figure: "peak_writes_per_s",
                check: "instances, rate, hold and heartbeat",
            });
        }
        let contention = Contention::of(&workload)?;
        let published = published(&workload, LeaderCapacity::published(workload.leader_capacity_per_s))?;
        let specification = column(&workload, &calibration, published)?;
        let palisade = column(&workload, &calibration, palisade(&workload, &calibration)?)?;
        let size_class = SizeClass::of(rates.writes_per_s());
        let notes = notes::notes(&workload, &specification.figures, &palisade.figures);
        Ok(Plan { workload, calibration, size_class, specification, palisade, contention, notes })
    }
}

/// The column of the specification, with leaders of any capacity.
pub(crate) fn published(workload: &Workload, capacity: LeaderCapacity) -> Result<Figures, PlanError> {
    let entry_bytes = workload.entry.total();
    let figures = Shared::of(workload, capacity)?;
    let write_bytes = |writes_per_s: f64| writes_per_s * (entry_bytes * u64::from(workload.replicas)) as f64;
    figures.complete(Costs {
        lock_bytes: entry_bytes,
        history_record_bytes: entry_bytes,
        history_records_per_s: figures.average.writes(),
        leader_write_bytes_per_s: write_bytes(figures.average.writes()),
        peak_leader_write_bytes_per_s: write_bytes(figures.peak.writes()),
        latency_ms: LatencyBudget::published(workload),
    })
}

/// The column of this service.
pub(crate) fn palisade(workload: &Workload, calibration: &Calibration) -> Result<Figures, PlanError> {
    let entry_bytes = workload.entry.total();
    let figures = Shared::of(workload, LeaderCapacity::palisade(calibration))?;
    let overhead = calibration.operation_overhead_bytes;
    let write_bytes = |writes: &Writes| {
        let acquires = writes.acquire_per_s * (entry_bytes + overhead) as f64;
        let releases = writes.release_per_s * (workload.entry.name_bytes + overhead) as f64;
        (acquires + releases + writes.renew_per_s * overhead as f64) * f64::from(workload.replicas)
    };
    let tenure_bytes = (entry_bytes + calibration.tenure_overhead_bytes) as f64 * calibration.history_stored_ratio;
    figures.complete(Costs {
        lock_bytes: entry_bytes + calibration.lock_overhead_bytes,
        history_record_bytes: to_bytes("history_record_bytes", tenure_bytes.ceil())?,
        history_records_per_s: figures.average.acquire_per_s,
        leader_write_bytes_per_s: write_bytes(&figures.average),
        peak_leader_write_bytes_per_s: write_bytes(&figures.peak),
        latency_ms: LatencyBudget::palisade(workload, calibration),
    })
}

/// Writes per second, by kind.
struct Writes {
    acquire_per_s: f64,
    renew_per_s: f64,
    release_per_s: f64,
}

impl Writes {
    fn of(rates: &Rates, capacity: &LeaderCapacity, shards: u64) -> Writes {
        Writes {
            acquire_per_s: rates.acquire_per_s,
            renew_per_s: capacity.renew_per_s(rates, shards),
            release_per_s: rates.release_per_s,
        }
    }

    fn writes(&self) -> f64 {
        self.acquire_per_s + self.renew_per_s + self.release_per_s
    }
}

/// What both columns compute alike.
struct Shared<'a> {
    workload: &'a Workload,
    capacity: LeaderCapacity,
    shards_avg: ShardCount,
    shards_peak: ShardCount,
    shards: u64,
    average: Writes,
    peak: Writes,
    peak_utilisation: f64,
}

/// What they do not.
struct Costs {
    lock_bytes: u64,
    history_record_bytes: u64,
    history_records_per_s: f64,
    leader_write_bytes_per_s: f64,
    peak_leader_write_bytes_per_s: f64,
    latency_ms: LatencyBudget,
}

impl<'a> Shared<'a> {
    fn of(workload: &'a Workload, capacity: LeaderCapacity) -> Result<Shared<'a>, PlanError> {
        let rates = Rates::of(workload);
        let at_peak = rates.at_peak(workload.peak_multiplier);
        let shards_avg = ShardCount::of(&capacity, &rates, workload.headroom)?;
        let shards_peak = ShardCount::of(&capacity, &at_peak, workload.headroom)?;
        let shards = match workload.sizing {
            Sizing::Peak => shards_peak.shards,
            Sizing::Average => shards_avg.shards,
        };
        Ok(Shared {
            workload,
            capacity,
            shards_avg,
            shards_peak,
            shards,
            average: Writes::of(&rates, &capacity, shards),
            peak: Writes::of(&at_peak, &capacity, shards),
            peak_utilisation: capacity.utilisation(&at_peak, shards),
        })
    }

    fn complete(&self, costs: Costs) -> Result<Figures, PlanError> {
        let workload = self.workload;
        let (average, peak) = (&self.average, &self.peak);
        let active_locks = average.acquire_per_s * workload.hold_s;
        let peak_active_locks = peak.acquire_per_s * workload.hold_s;
        let history_per_day = costs.history_records_per_s * DAY_S * costs.history_record_bytes as f64;
        let peak_active_bytes = to_bytes("peak_active_bytes", peak_active_locks * costs.lock_bytes as f64)?;
        let history_bytes_total = to_bytes("history_bytes_total", history_per_day * f64::from(workload.history_days))?;
        let active_bytes = to_bytes("active_bytes", active_locks * costs.lock_bytes as f64)?;
        let too_much = |figure| PlanError::Overflow { figure, check: BYTE_KEYS };
        let storage_bytes_total =
            active_bytes.checked_add(history_bytes_total).ok_or_else(|| too_much("storage_bytes_total"))?;
        let nodes_total = self
            .shards
            .checked_mul(u64::from(workload.nodes_per_shard))
            .ok_or(PlanError::Overflow { figure: "nodes_total", check: "leader_capacity and nodes_per_shard" })?;
        // Fewer writes do not mean fewer checks: both columns answer as many.
        let reads_per_s = Rates::of(workload).writes_per_s() * workload.reads_per_write;
        let follower_read_bytes_per_s = reads_per_s * workload.entry.total() as f64;
        for (figure, value) in [
            ("follower_read_bytes_per_s", follower_read_bytes_per_s),
            ("peak_leader_write_bytes_per_s", costs.peak_leader_write_bytes_per_s),
        ] {
            to_bytes(figure, value)?;
        }
        let quorum = quorum(workload.replicas);
        Ok(Figures {
            acquire_per_s: average.acquire_per_s,
            renew_per_s: average.renew_per_s,
            release_per_s: average.release_per_s,
            writes_per_s: average.writes(),
            peak_acquire_per_s: peak.acquire_per_s,
            peak_renew_per_s: peak.renew_per_s,
            peak_release_per_s: peak.release_per_s,
            peak_writes_per_s: peak.writes(),
            reads_per_s,
            writes_per_lock: average.writes() / average.acquire_per_s,
            renewal_share: average.renew_per_s / average.writes(),
            active_locks,
            peak_active_locks,
            active_bytes,
            peak_active_bytes,
            history_record_bytes: costs.history_record_bytes,
            history_records_per_s: costs.history_records_per_s,
            history_bytes_per_day: to_bytes("history_bytes_per_day", history_per_day)?,
            history_bytes_total,
            storage_bytes_total,
            leader_write_bytes_per_s: costs.leader_write_bytes_per_s,
            peak_leader_write_bytes_per_s: costs.peak_leader_write_bytes_per_s,
            follower_read_bytes_per_s,
            leader_capacity: self.capacity,
            shards_avg: self.shards_avg,
            shards_peak: self.shards_peak,
            shards: self.shards,
            peak_utilisation: self.peak_utilisation,
            nodes_total,
            quorum,
            failures_tolerated: workload.replicas - quorum,
            latency_ms: costs.latency_ms,
        })
    }
}

const BYTE_KEYS: &str = "instances, rate, hold, entry and history_days";

fn to_bytes(figure: &'static str, exact: f64) -> Result<u64, PlanError> {
    // The float nearest to u64::MAX is above it.
    if exact.is_finite() && exact < u64::MAX as f64 {
        Ok(exact.round() as u64)
    } else {
        Err(PlanError::Overflow { figure, check: BYTE_KEYS })
    }
}

fn column(workload: &Workload, calibration: &Calibration, figures: Figures) -> Result<Column, PlanError> {
    let smell_tests = smell::tests(workload, &figures);
    let failed = smell_tests.iter().filter(|test| test.must_hold && test.verdict == Verdict::Fail);
    let mut reasons: Vec<String> = failed.map(|test| test.finding.clone()).collect();
    let growth = GrowthOutlook::of(workload, &figures)?;
    let build = Build::of(workload, calibration, &figures, &growth);
    let most = u64::from(routing::SHARDS_MAX);
    if build.shards > most && figures.shards <= most {
        let (shards, months) = (count(build.shards), counted(build.months.into(), "month"));
        reasons.push(format!(
            "in {months} {shards} shards are needed, more than the {} that a cluster has at most",
            count(most)
        ));
    }
    let fit = Fit { fits: reasons.is_empty(), reasons };
    Ok(Column { figures, smell_tests, fit, growth, build })
}
