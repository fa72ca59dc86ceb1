//! The latency budget of an acquire, component by component, each as a range.
//!
//! It is a budget of assumed or calibrated parts, for a service without load. It is not a
//! measurement.

use crate::{Calibration, Workload};
use serde::Serialize;

/// One component of the latency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Component {
    /// Name of the component, for people.
    pub name: &'static str,
    /// Its time at best, in milliseconds.
    pub low_ms: f64,
    /// Its time at p99, in milliseconds.
    pub high_ms: f64,
}

/// All components of the latency, one after the other.
///
/// - `low` and `high` are the sums of the components' values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyBudget {
    /// All components at their best, in milliseconds.
    pub low: f64,
    /// All components at their p99, in milliseconds.
    pub high: f64,
    /// The components, in the order of the way.
    pub components: Vec<Component>,
}

/// Round trip within one data centre, in milliseconds.
const RTT_MS: (f64, f64) = (1.0, 2.0);
const RESPONSE_MS: (f64, f64) = (1.0, 2.0);

impl LatencyBudget {
    fn of(parts: &[(&'static str, (f64, f64))]) -> LatencyBudget {
        let components: Vec<Component> = parts
            .iter()
            .map(|&(name, (low_ms, high_ms))| Component { name, low_ms, high_ms })
            .collect();
        let sum = |of: fn(&Component) -> f64| components.iter().map(of).sum();
        LatencyBudget { low: sum(|part| part.low_ms), high: sum(|part| part.high_ms), components }
    }

    /// The published budget. If the round trip between replicas is longer than the published quorum
    /// wait, it replaces that.
    pub fn published(workload: &Workload) -> LatencyBudget {
        let rtt = workload.network_rtt_ms.unwrap_or(0.0);
        LatencyBudget::of(&[
            ("client to leader", RTT_MS),
            ("leader appends", (1.0, 1.0)),
            ("replication, in parallel", (2.0, 3.0)),
            ("quorum wait", (rtt.max(2.0), rtt.max(3.0))),
            ("response", RESPONSE_MS),
            // The published total is 7–12 ms, but its parts sum to 7–11 ms.
            ("not assigned", (0.0, 1.0)),
        ])
    }

    /// The budget of this service. The acquire goes through a gateway and waits for at most one
    /// earlier entry; the leader syncs while followers do.
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

    /// The middle between best and p99 of all components at once. A p99 target is compared with
    /// this.
    pub fn expected(&self) -> f64 {
        (self.low + self.high) / 2.0
    }
}
