//! A token bucket: how many operations per second.

/// How far below full a bucket is. A new one is full.
///
/// * After [`take_or_owe`](Bucket::take_or_owe) it can be below empty, and pays that back first.
/// * Time is milliseconds on any one monotonic clock. A time before the last one counts as the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Thousandths of operations that are missing until it is full.
    missing_milli: u64,
    at_ms: u64,
}

impl Bucket {
    /// Takes `count` operations at once, or the burst if that is less.
    ///
    /// # Errors
    /// The milliseconds until there is room for them, if there is none now. Nothing is taken then.
    ///
    /// ```
    /// use palisade_access::Bucket;
    /// let mut bucket = Bucket::default();
    /// assert_eq!(bucket.take(1, 10, 2, 0), Ok(()));
    /// assert_eq!(bucket.take(1, 10, 2, 0), Ok(()));
    /// assert_eq!(bucket.take(1, 10, 2, 0), Err(100));
    /// assert_eq!(bucket.take(1, 10, 2, 100), Ok(()));
    /// assert_eq!(bucket.take(50, 10, 2, 100), Err(200));
    /// ```
    pub fn take(
        &mut self,
        count: u32,
        per_second: u32,
        burst: u32,
        now_ms: u64,
    ) -> Result<(), u32> {
        self.refill(per_second, now_ms);
        let full_milli = u64::from(burst.max(1)) * 1_000;
        let after = self.missing_milli.saturating_add((u64::from(count) * 1_000).min(full_milli));
        let over = after.saturating_sub(full_milli);
        if over > 0 {
            return Err(wait_ms(over, per_second));
        }
        self.missing_milli = after;
        Ok(())
    }

    /// Takes `count` operations if there is any room, and owes the excess. So an operation that
    /// comes seldom and counts much passes at any burst, and the rate holds over time.
    ///
    /// # Errors
    /// The milliseconds until there is any room. Nothing is taken then.
    ///
    /// ```
    /// use palisade_access::Bucket;
    /// let mut bucket = Bucket::default();
    /// assert_eq!(bucket.take_or_owe(5, 10, 2, 0), Ok(()));
    /// assert_eq!(bucket.take_or_owe(1, 10, 2, 0), Err(301));
    /// assert_eq!(bucket.take_or_owe(1, 10, 2, 301), Ok(()));
    /// ```
    pub fn take_or_owe(
        &mut self,
        count: u32,
        per_second: u32,
        burst: u32,
        now_ms: u64,
    ) -> Result<(), u32> {
        self.refill(per_second, now_ms);
        let full_milli = u64::from(burst.max(1)) * 1_000;
        if self.missing_milli >= full_milli {
            return Err(wait_ms(self.missing_milli - full_milli + 1, per_second));
        }
        self.missing_milli += u64::from(count) * 1_000;
        Ok(())
    }

    /// Whether the bucket is full by now.
    pub fn is_full(&self, per_second: u32, now_ms: u64) -> bool {
        let mut then = *self;
        then.refill(per_second, now_ms);
        then.missing_milli == 0
    }

    fn refill(&mut self, per_second: u32, now_ms: u64) {
        // One operation per second is one thousandth per millisecond.
        let refilled = now_ms.saturating_sub(self.at_ms).saturating_mul(per_second.into());
        self.missing_milli = self.missing_milli.saturating_sub(refilled);
        self.at_ms = self.at_ms.max(now_ms);
    }
}

/// The milliseconds until so many thousandths of operations are refilled.
fn wait_ms(over_milli: u64, per_second: u32) -> u32 {
    let wait_ms = over_milli.div_ceil(u64::from(per_second.max(1)));
    u32::try_from(wait_ms).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In no span are there more operations than the burst and the rate give in it. A refusal
        /// names a time after which there is room.
        #[test]
        fn a_bucket_keeps_its_rate(
            per_second in 1..5_000u32,
            burst in 1..500u32,
            pauses_ms_and_counts in prop::collection::vec((0..50u64, 1..8u32), 1..500),
        ) {
            let (mut bucket, mut now_ms, mut taken) = (Bucket::default(), 0, 0u64);
            for (pause_ms, count) in pauses_ms_and_counts {
                now_ms += pause_ms;
                match bucket.take(count, per_second, burst, now_ms) {
                    Ok(()) => taken += u64::from(count.min(burst)),
                    Err(wait_ms) => {
                        let mut later = bucket;
                        prop_assert!(wait_ms > 0);
                        prop_assert_eq!(
                            later.take(count, per_second, burst, now_ms + u64::from(wait_ms)), Ok(())
                        );
                    }
                }
                let most = u64::from(burst) + now_ms * u64::from(per_second) / 1_000 + 1;
                prop_assert!(taken <= most, "{taken} of {most} in {now_ms} ms");
            }
        }
    }
}
