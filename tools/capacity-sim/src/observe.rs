//! The log of a run: latencies in the order in which operations ended, and their percentiles.

use crate::agenda::Ns;

/// Operations that were answered, refused and given up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// The time of each answer to an acquire or release, and its latency.
    answered: Vec<(Ns, Ns)>,
    /// Number of renewals that were answered.
    pub(crate) renewals: u64,
    /// Operations that found no room in a queue.
    pub(crate) refused: u64,
    /// Operations given up after the timeout.
    pub(crate) timed_out: u64,
}

/// Percentiles in milliseconds; all zero without any latency.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Latency {
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Log {
    pub(crate) fn answered(&mut self, now: Ns, sent: Ns) {
        self.answered.push((now, now - sent));
    }

    pub(crate) fn count(&self) -> usize {
        self.answered.len()
    }

    /// Forgets all operations so far.
    pub(crate) fn clear(&mut self) {
        *self = Log::default();
    }

    /// The latencies of all answered acquires and releases.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = Ns> {
        self.answered.iter().map(|(_, latency)| *latency)
    }

    /// The end of the last window with a p99 above `limit_ms`, counted from `from`. `None` means
    /// that no window was so slow.
    pub(crate) fn last_slow_window(&self, from: Ns, window: Ns, limit_ms: f64) -> Option<Ns> {
        let mut windows: Vec<Vec<Ns>> = Vec::new();
        for (at, latency) in self.answered.iter().filter(|(at, _)| *at >= from) {
            let window = ((at - from) / window) as usize;
            if windows.len() <= window {
                windows.resize_with(window + 1, Vec::new);
            }
            windows[window].push(*latency);
        }
        let last =
            windows.into_iter().rposition(|latencies| Latency::of(latencies).p99_ms > limit_ms)?;
        Some((last as Ns + 1) * window)
    }
}

impl Latency {
    pub(crate) fn of(mut latencies: Vec<Ns>) -> Latency {
        if latencies.is_empty() {
            return Latency::default();
        }
        latencies.sort_unstable();
        // The smallest latency that at least this share of latencies does not exceed.
        let at = |share: f64| {
            latencies[((latencies.len() as f64 * share).ceil() as usize).max(1) - 1] as f64 / 1e6
        };
        let mean_ms =
            latencies.iter().map(|ns| *ns as f64).sum::<f64>() / latencies.len() as f64 / 1e6;
        Latency { mean_ms, p50_ms: at(0.5), p99_ms: at(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_answered() {
        let latency = Latency::of((1..=100).map(|ms| ms * 1_000_000).collect());
        assert_eq!(latency, Latency { mean_ms: 50.5, p50_ms: 50.0, p99_ms: 99.0 });
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }

    #[test]
    fn slow_windows_are_found_from_the_end() {
        let mut log = Log::default();
        for (at, latency) in [(1, 9), (12, 1), (15, 8), (25, 1), (31, 2)] {
            log.answered(at * 1_000_000, (at - latency.min(at)) * 1_000_000);
        }
        assert_eq!(log.last_slow_window(10_000_000, 10_000_000, 5.0), Some(10_000_000));
        assert_eq!(log.last_slow_window(20_000_000, 10_000_000, 5.0), None);
    }
}
