//! Random numbers from a seed, and the distributions that the model draws from.
//!
//! The same seed gives the same numbers on every machine. The numbers are not fit for secrets.

/// SplitMix64: each number is a hash of a counter.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in [low, high).
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// The gap to the next of independent events, which come at this rate per second.
    pub(crate) fn gap_ns(&mut self, per_s: f64) -> u64 {
        (-(1.0 - self.unit()).ln() / per_s * 1e9) as u64
    }

    /// A whole number below `count`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.unit() * count as f64) as usize
    }
}

/// The distribution of sync times: straight lines through its logarithm at p1, p50 and p99, and no
/// values beyond these.
///
/// * p1 ≤ p50 ≤ p99.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SyncTime {
    pub(crate) p1_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl SyncTime {
    pub(crate) fn draw_ns(&self, random: &mut Random) -> u64 {
        let at = random.unit().clamp(0.01, 0.99);
        let (low, high, part) = match at {
            ..0.5 => (self.p1_ms, self.p50_ms, (at - 0.01) / 0.49),
            _ => (self.p50_ms, self.p99_ms, (at - 0.5) / 0.49),
        };
        (low * (high / low).powf(part) * 1e6) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_that_was_asked_for() {
        let mut random = Random::new(7);
        let mean_ns = (0..100_000).map(|_| random.gap_ns(1_000.0)).sum::<u64>() as f64 / 1e5;
        assert!((mean_ns / 1e6 - 1.0).abs() < 0.02, "{mean_ns}");
    }

    #[test]
    fn sync_times_have_their_percentiles() {
        let (sync, mut random) =
            (SyncTime { p1_ms: 0.1, p50_ms: 0.4, p99_ms: 6.4 }, Random::new(7));
        let mut drawn: Vec<u64> = (0..100_000).map(|_| sync.draw_ns(&mut random)).collect();
        drawn.sort_unstable();
        assert!((drawn[50_000] as f64 / 0.4e6 - 1.0).abs() < 0.05, "{}", drawn[50_000]);
        assert!((drawn[99_000] as f64 / 6.4e6 - 1.0).abs() < 0.05, "{}", drawn[99_000]);
        assert!(drawn[0] >= 99_999 && drawn[99_999] <= 6_400_000);
    }
}
