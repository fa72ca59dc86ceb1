//! The arithmetic: rates of operations, the load on a leader, and the number of shards that carry
//! it.
//!
//! Both columns use the same functions. The published model is the case without shared leases.
//! Floats hold rates (per second) and seconds. This module knows nothing of workloads, files,
//! reports or advice.

use crate::Calibration;
use serde::Serialize;

/// Relative error below which a quotient counts as whole. 110,000 writes/s on leaders of 10,000/s
/// are 11 shards, however the sum was rounded on the way.
const ROUNDING: f64 = 1e-9;

/// Average operations per second of a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Acquires per second.
    pub acquire_per_s: f64,
    /// Renewals per second, if each lock is renewed alone.
    pub renew_each_per_s: f64,
    /// Releases per second.
    pub release_per_s: f64,
    /// Number of processes that hold locks, each with one session.
    pub instances: f64,
    /// Time between heartbeats, in seconds.
    pub heartbeat_s: f64,
}

impl Rates {
    /// The rates at the peak. The same processes acquire and release more locks, and hold more of
    /// them.
    pub fn at_peak(self, multiplier: f64) -> Rates {
        Rates {
            acquire_per_s: self.acquire_per_s * multiplier,
            renew_each_per_s: self.renew_each_per_s * multiplier,
            release_per_s: self.release_per_s * multiplier,
            ..self
        }
    }

    /// The rates after growth. There are more processes, each as busy as before.
    pub fn grown(self, factor: f64) -> Rates {
        Rates { instances: self.instances * factor, ..self.at_peak(factor) }
    }

    /// All writes per second, if each lock is renewed alone.
    pub fn writes_per_s(&self) -> f64 {
        self.acquire_per_s + self.renew_each_per_s + self.release_per_s
    }

    /// Heartbeats per second that reach one shard, if every instance keeps a lease on it.
    pub fn heartbeats_per_shard_per_s(&self) -> f64 {
        self.instances / self.heartbeat_s
    }
}

/// The load that one leader carries, and the way in which leases are renewed.
///
/// - Rates are above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeaderCapacity {
    /// Acquires and releases per second, if the leader does nothing else.
    pub writes_per_s: f64,
    /// Renewals per second, if the leader does nothing else.
    pub renewals_per_s: f64,
    /// Whether one lease keeps all locks that an instance holds on a shard.
    pub shared_leases: bool,
}

impl LeaderCapacity {
    /// The published model: a renewal is a write, and each lock is renewed alone.
    pub fn published(writes_per_s: f64) -> LeaderCapacity {
        LeaderCapacity { writes_per_s, renewals_per_s: writes_per_s, shared_leases: false }
    }

    /// This service, with the costs of a calibration.
    pub fn palisade(calibration: &Calibration) -> LeaderCapacity {
        LeaderCapacity {
            writes_per_s: calibration.writes_per_s_per_leader,
            renewals_per_s: calibration.renewals_per_s_per_leader,
            shared_leases: true,
        }
    }

    /// Renewals per second on `shards` shards. Leases are renewed if they are shared and need fewer
    /// renewals, otherwise each lock.
    pub fn renew_per_s(&self, rates: &Rates, shards: u64) -> f64 {
        if self.leases_pay(rates, shards) {
            rates.heartbeats_per_shard_per_s() * shards as f64
        } else {
            rates.renew_each_per_s
        }
    }

    /// Whether leases are shared and need fewer renewals than the locks would.
    pub fn leases_pay(&self, rates: &Rates, shards: u64) -> bool {
        self.shared_leases
            && rates.heartbeats_per_shard_per_s() * (shards as f64) < rates.renew_each_per_s
    }

    /// Share of its capacity that each of `shards` leaders is asked for. Above 1 it cannot carry
    /// the load.
    pub fn utilisation(&self, rates: &Rates, shards: u64) -> f64 {
        let writes = rates.acquire_per_s + rates.release_per_s;
        (writes / self.writes_per_s + self.renew_per_s(rates, shards) / self.renewals_per_s)
            / shards as f64
    }

    /// The fewest shards that leave `headroom` free at their leaders, at least one. `None` if that
    /// is past 2^53.
    ///
    /// Utilisation never rises with the number of shards: leases cost each shard the same, and all
    /// other load is divided. So the fewest shards follow directly for either way to renew, and the
    /// better way wins.
    ///
    /// ```
    /// use palisade_planner::{LeaderCapacity, Rates};
    ///
    /// let rates = Rates {
    ///     acquire_per_s: 6_000.0,
    ///     renew_each_per_s: 12_000.0,
    ///     release_per_s: 6_000.0,
    ///     instances: 2_000.0,
    ///     heartbeat_s: 15.0,
    /// };
    /// let published = LeaderCapacity::published(10_000.0);
    /// assert_eq!(published.shards(&rates, 0.0), Some(3)); // 24,000 writes/s
    /// assert_eq!(published.shards(&rates, 0.2), Some(3));
    /// assert_eq!(published.shards(&rates, 0.5), Some(5));
    /// ```
    pub fn shards(&self, rates: &Rates, headroom: f64) -> Option<u64> {
        let usable = 1.0 - headroom;
        let writes = (rates.acquire_per_s + rates.release_per_s) / self.writes_per_s;
        let each = (writes + rates.renew_each_per_s / self.renewals_per_s) / usable;
        let heartbeats = rates.heartbeats_per_shard_per_s() / self.renewals_per_s;
        let shared = if self.shared_leases && heartbeats < usable {
            writes / (usable - heartbeats)
        } else {
            f64::INFINITY
        };
        ceil(each.min(shared))
    }
}

/// Rounds up, but ignores the error that earlier rounding may have added.
fn ceil(exact: f64) -> Option<u64> {
    let whole = (exact * (1.0 - ROUNDING)).ceil().max(1.0);
    (whole <= (1u64 << 53) as f64).then_some(whole as u64)
}

/// Number of votes that commit an entry: more than half. The other replicas may fail.
pub fn quorum(replicas: u32) -> u32 {
    replicas / 2 + 1
}

/// The specification's size classes, by average writes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeClass {
    /// Below 1,000 writes/s.
    Small,
    /// From 1,000 to 10,000 writes/s.
    Medium,
    /// Above 10,000 writes/s.
    Large,
}

impl SizeClass {
    /// The class of an average load.
    pub fn of(writes_per_s: f64) -> SizeClass {
        match writes_per_s {
            ..1_000.0 => SizeClass::Small,
            ..=10_000.0 => SizeClass::Medium,
            _ => SizeClass::Large,
        }
    }

    /// Number of replicas of each shard.
    pub fn replicas(self) -> u32 {
        if self == SizeClass::Small { 3 } else { 5 }
    }

    /// The class in words, for people.
    pub fn describe(self) -> &'static str {
        match self {
            SizeClass::Small => "< 1K writes/s: 3 nodes",
            SizeClass::Medium => "1K–10K writes/s: 5 nodes",
            SizeClass::Large => "> 10K writes/s: 5 nodes × N shards",
        }
    }
}
