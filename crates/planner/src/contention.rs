//! How often an acquire finds its lock taken, as far as the workload tells.
//!
//! A name is taken for the share of time in which it is held. With equally likely names that share
//! is active locks ÷ names. For one name it is its acquires × hold. Real names are not equally
//! likely, so the real contention is higher.

use crate::{PlanError, Workload};
use serde::Serialize;

/// The specification's levels of contention, by failed acquires per attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentionLevel {
    /// Below 5 % of attempts.
    Low,
    /// 5 to 20 % of attempts.
    Medium,
    /// Above 20 % of attempts: use finer locks.
    High,
}

impl ContentionLevel {
    /// The level of a share of failed attempts.
    pub fn of(rate: f64) -> ContentionLevel {
        match rate {
            ..0.05 => ContentionLevel::Low,
            ..=0.20 => ContentionLevel::Medium,
            _ => ContentionLevel::High,
        }
    }

    /// The level in words, for people.
    pub fn name(self) -> &'static str {
        match self {
            ContentionLevel::Low => "low",
            ContentionLevel::Medium => "medium",
            ContentionLevel::High => "high",
        }
    }
}

/// The contention at the peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Contention {
    /// Share of acquires that find the lock taken, at most 1. `None` if the number of names is not
    /// known.
    pub rate: Option<f64>,
    /// The level of that share.
    pub level: Option<ContentionLevel>,
    /// Number of names from which contention is low (below 5 %).
    pub resources_for_low: u64,
    /// Number of names below which contention is high (above 20 %).
    pub resources_for_high: u64,
    /// Most grants of one name per second.
    pub grants_per_name_per_s: f64,
    /// Share of time for which the hottest name would have to be held. Above 1 that is impossible.
    /// `None` if not known.
    pub hottest_busy: Option<f64>,
}

impl Contention {
    pub(crate) fn of(workload: &Workload) -> Result<Contention, PlanError> {
        let acquire_per_s = workload.acquire_per_s() * workload.peak_multiplier;
        let held = acquire_per_s * workload.hold_s;
        if held > (1u64 << 53) as f64 {
            return Err(PlanError::Overflow {
                figure: "active_locks",
                check: "instances, rate and hold",
            });
        }
        let rate = workload.resources.map(|names| (held / names as f64).min(1.0));
        Ok(Contention {
            rate,
            level: rate.map(ContentionLevel::of),
            resources_for_low: (held / 0.05).ceil() as u64,
            resources_for_high: (held / 0.20).ceil() as u64,
            grants_per_name_per_s: 1.0 / workload.hold_s,
            hottest_busy: hottest_busy(workload),
        })
    }
}

/// Share of time for which the hottest name would have to be held at the peak.
pub(crate) fn hottest_busy(workload: &Workload) -> Option<f64> {
    let acquire_per_s = workload.acquire_per_s() * workload.peak_multiplier;
    workload.hottest_share.map(|share| share * acquire_per_s * workload.hold_s)
}
