//! Percentiles of latencies, in microseconds, with three significant digits.
//!
//! The benches of other systems use this module too, so that one piece of code computes all
//! figures. It knows nothing of operations and clocks.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The highest latency in microseconds, ten minutes. Longer latencies count as this one.
const HIGHEST_US: u64 = 600_000_000;

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// A summary of latencies, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Number of recorded latencies.
    pub count: u64,
    /// Half of the latencies were no higher.
    pub p50_ms: f64,
    /// Nine of ten latencies were no higher.
    pub p90_ms: f64,
    /// 99 of 100 latencies were no higher.
    pub p99_ms: f64,
    /// 999 of 1,000 latencies were no higher.
    pub p999_ms: f64,
    /// The highest recorded latency.
    pub max_ms: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies::new()
    }
}

impl Latencies {
    /// An empty set of latencies.
    pub fn new() -> Latencies {
        // The bounds are constants that the histogram accepts.
        Latencies { histogram: Histogram::new_with_max(HIGHEST_US, 3).expect("valid bounds") }
    }

    /// Adds one latency to the set.
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record((latency.as_micros() as u64).min(HIGHEST_US));
    }

    /// Adds all latencies of another set.
    pub fn add(&mut self, other: &Latencies) {
        self.histogram.add(&other.histogram).expect("the same bounds");
    }

    /// Number of latencies so far.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The percentiles; all are zero without any latency.
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile: f64| self.histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Percentiles {
            count: self.histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: self.histogram.max() as f64 / 1_000.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut some = Latencies::new();
        (1..=500).for_each(|ms| some.record(Duration::from_millis(ms)));
        let mut more = Latencies::new();
        (501..=1_000).for_each(|ms| more.record(Duration::from_millis(ms)));
        some.add(&more);
        let shown = some.percentiles();
        assert_eq!(shown.count, 1_000);
        for (value, expected) in [
            (shown.p50_ms, 500.0),
            (shown.p90_ms, 900.0),
            (shown.p99_ms, 990.0),
            (shown.max_ms, 1_000.0),
        ] {
            assert!((value - expected).abs() <= expected / 500.0, "{value} for {expected}");
        }
        assert_eq!(Latencies::new().percentiles(), Percentiles::default());
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(86_400));
        assert_eq!(latencies.count(), 1);
        assert!((latencies.percentiles().max_ms - 600_000.0).abs() < 600.0);
    }
}
