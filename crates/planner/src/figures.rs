//! The figures of one column: the demand of a load on a cluster, by its rates and the costs.
//!
//! A figure that overflows is an error that names it, never a wrapped or infinite number. The module
//! knows nothing of growth, of the cluster to build, or of advice: see `plan`.

use crate::latency::LatencyBudget;
use crate::model::{LeaderCapacity, Rates, quorum};
use crate::{Calibration, PlanError, Sizing, Workload};
use serde::Serialize;

const DAY_S: f64 = 86_400.0;

/// Number of shards that carry a load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ShardCount {
    /// The fewest shards that keep the wanted headroom.
    pub shards: u64,
    /// The fewest shards that carry the load at all.
    pub without_headroom: u64,
    /// Share of a leader's capacity in use with `shards` shards.
    pub utilisation: f64,
}

impl ShardCount {
    fn of(
        capacity: &LeaderCapacity,
        rates: &Rates,
        headroom: f64,
    ) -> Result<ShardCount, PlanError> {
        let overflow =
            PlanError::Overflow { figure: "shards", check: "leader_capacity and headroom" };
        let shards = capacity.shards(rates, headroom).ok_or_else(|| overflow.clone())?;
        let without_headroom = capacity.shards(rates, 0.0).ok_or(overflow)?;
        Ok(ShardCount {
            shards,
            without_headroom,
            utilisation: capacity.utilisation(rates, shards),
        })
    }

    /// Share of a leader's capacity that is left.
    pub fn headroom(&self) -> f64 {
        1.0 - self.utilisation
    }
}

/// The figures of one column. They are averages unless their name says `peak`, and are of the whole
/// cluster unless their doc says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Acquires per second.
    pub acquire_per_s: f64,
    /// Renewals per second, of locks or of leases.
    pub renew_per_s: f64,
    /// Releases per second.
    pub release_per_s: f64,
    /// Acquires, renewals and releases per second.
    pub writes_per_s: f64,
    /// Acquires per second at the peak.
    pub peak_acquire_per_s: f64,
    /// Renewals per second at the peak.
    pub peak_renew_per_s: f64,
    /// Releases per second at the peak.
    pub peak_release_per_s: f64,
    /// Acquires, renewals and releases per second at the peak.
    pub peak_writes_per_s: f64,
    /// Checks per second.
    pub reads_per_s: f64,
    /// Writes from the acquire of a lock to its end.
    pub writes_per_lock: f64,
    /// Share of renewals among the writes.
    pub renewal_share: f64,
    /// Locks that are held at a time (Little's law).
    pub active_locks: f64,
    /// Locks that are held at a time at the peak.
    pub peak_active_locks: f64,
    /// Memory of the held locks.
    pub active_bytes: u64,
    /// Memory of the held locks at the peak.
    pub peak_active_bytes: u64,
    /// Size of one record of history.
    pub history_record_bytes: u64,
    /// Records that are added to history per second.
    pub history_records_per_s: f64,
    /// Bytes that are added to history per day.
    pub history_bytes_per_day: u64,
    /// Bytes of all history that is kept.
    pub history_bytes_total: u64,
    /// Bytes of held locks and of history.
    pub storage_bytes_total: u64,
    /// Bytes per second from all leaders to all replicas.
    pub leader_write_bytes_per_s: f64,
    /// Bytes per second from all leaders to all replicas at the peak.
    pub peak_leader_write_bytes_per_s: f64,
    /// Bytes per second of answers to checks, from all followers.
    pub follower_read_bytes_per_s: f64,
    /// The load that a leader carries.
    pub leader_capacity: LeaderCapacity,
    /// Shards if sized on the average.
    pub shards_avg: ShardCount,
    /// Shards if sized on the peak.
    pub shards_peak: ShardCount,
    /// Planned shards: one of these two, as the workload asks.
    pub shards: u64,
    /// Share of a leader's capacity in use at the peak, with the planned shards.
    pub peak_utilisation: f64,
    /// Number of all nodes.
    pub nodes_total: u64,
    /// Number of votes that commit an entry.
    pub quorum: u32,
    /// Number of a shard's replicas that may fail.
    pub failures_tolerated: u32,
    /// Latency budget of an acquire.
    pub latency_ms: LatencyBudget,
}

/// The figures of the published model, with leaders of this capacity.
pub(crate) fn published(
    workload: &Workload,
    capacity: LeaderCapacity,
) -> Result<Figures, PlanError> {
    let entry_bytes = workload.entry.total();
    let figures = Shared::of(workload, capacity)?;
    let write_bytes =
        |writes_per_s: f64| writes_per_s * (entry_bytes * u64::from(workload.replicas)) as f64;
    figures.complete(Costs {
        lock_bytes: entry_bytes,
        history_record_bytes: entry_bytes,
        history_records_per_s: figures.average.writes(),
        leader_write_bytes_per_s: write_bytes(figures.average.writes()),
        peak_leader_write_bytes_per_s: write_bytes(figures.peak.writes()),
        latency_ms: LatencyBudget::published(workload),
    })
}

/// The figures of this service.
pub(crate) fn palisade(
    workload: &Workload,
    calibration: &Calibration,
) -> Result<Figures, PlanError> {
    let entry_bytes = workload.entry.total();
    let figures = Shared::of(workload, LeaderCapacity::palisade(calibration))?;
    let overhead = calibration.operation_overhead_bytes;
    let write_bytes = |writes: &Writes| {
        let acquires = writes.acquire_per_s * (entry_bytes + overhead) as f64;
        let releases = writes.release_per_s * (workload.entry.name_bytes + overhead) as f64;
        (acquires + releases + writes.renew_per_s * overhead as f64) * f64::from(workload.replicas)
    };
    let tenure_bytes =
        (entry_bytes + calibration.tenure_overhead_bytes) as f64 * calibration.history_stored_ratio;
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

/// The part of the computation that both columns share.
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

/// The inputs in which the columns differ.
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
        let history_per_day =
            costs.history_records_per_s * DAY_S * costs.history_record_bytes as f64;
        let peak_active_bytes =
            to_bytes("peak_active_bytes", peak_active_locks * costs.lock_bytes as f64)?;
        let history_bytes_total =
            to_bytes("history_bytes_total", history_per_day * f64::from(workload.history_days))?;
        let active_bytes = to_bytes("active_bytes", active_locks * costs.lock_bytes as f64)?;
        let too_much = |figure| PlanError::Overflow { figure, check: BYTE_KEYS };
        let storage_bytes_total = active_bytes
            .checked_add(history_bytes_total)
            .ok_or_else(|| too_much("storage_bytes_total"))?;
        let nodes_total = self.shards.checked_mul(u64::from(workload.nodes_per_shard)).ok_or(
            PlanError::Overflow {
                figure: "nodes_total",
                check: "leader_capacity and nodes_per_shard",
            },
        )?;
        // Fewer writes do not mean fewer checks, so both columns answer equally many.
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
