//! The latency budget of an acquire, component by component, each as a range.
//!
//! It is a budget out of assumed or calibrated parts, for an unloaded service; it is no measurement.

use crate::{Calibration, Workload};
use serde::Serialize;

/// One part of the way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Component {
    /// For people.
    pub name: &'static str,
    /// At best.
    pub low_ms: f64,
    /// At p99.
    pub high_ms: f64,
}

/// All parts of the way, one after the other.
///
/// - `low` and `high` are the sums of the components'.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyBudget {
    /// All at their best.
    pub low: f64,
    /// All at their p99.
    pub high: f64,
    /// In the order of the way.
    pub components: Vec<Component>,
}

/// Round trip within one data centre.
const RTT_MS: (f64, f64) = (1.0, 2.0);
const RESPONSE_MS: (f64, f64) = (1.0, 2.0);

impl LatencyBudget {
    fn of(parts: &[(&'static str, (f64, f64))]) -> LatencyBudget {
        let components: Vec<Component> =
            parts.iter().map(|&(name, (low_ms, high_ms))| Component { name, low_ms, high_ms }).collect();
        let sum = |of: fn(&Component) -> f64| components.iter().map(of).sum();
        LatencyBudget { low: sum(|part| part.low_ms), high: sum(|part| part.high_ms), components }
    }

    /// As published. A round trip between replicas that is longer than the published quorum wait takes its place.
    pub fn published(workload: &Workload) -> LatencyBudget {
        let rtt = workload.network_rtt_ms.unwrap_or(0.0);
        LatencyBudget::of(&[
            ("client to leader", RTT_MS),
            ("leader appends", (1.0, 1.0)),
            ("replication, in parallel", (2.0, 3.0)),
            ("quorum wait", (rtt.max(2.0), rtt.max(3.0))),
            ("response", RESPONSE_MS),
            // The published total is 7–12 ms, its parts sum to 7–11 ms.
            ("not assigned", (0.0, 1.0)),
        ])
    }

    /// As this service works: through a gateway; behind at most one earlier entry; the leader syncs while followers do.
    pub fn palisade(workload: &Workload, calibration: &Calibration) -> LatencyBudget {
        let rtt = workload.network_rtt_ms.map_or(RTT_MS, |rtt| (rtt, rtt));
        let fsync = (calibration.fsync_low_ms, calibration.fsync_high_ms);
        LatencyBudget::of(&[
            ("client to gateway to leader", RTT_MS),
            ("gateway", (0.0, 1.0)),
            ("wait for the entry before", (0.0, fsync.1)),
            ("round trip to a quorum", rtt),
            ("sync, leader and followers in parallel", fsync),
            ("response", RESPONSE_MS),
        ])
    }

    /// Half way between best and p99 of all parts at once: what a p99 target is held against.
    pub fn expected(&self) -> f64 {
        (self.low + self.high) / 2.0
    }
}
