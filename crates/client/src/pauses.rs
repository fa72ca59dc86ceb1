//! The pauses of a watch between its tries. The module knows nothing of gateways.
//!
//! * A pause is twice the one before, and has an end. Many clients lose their watches at the same
//!   moment, so each pause is spread at random.
//! * A watch that fails soon after each start keeps its long pauses. Otherwise each start costs a
//!   state, again and again.

use std::ops::Range;
use std::time::Duration;

/// The first pause, before it is spread.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause while no gateway can be reached, before it is spread.
const LONGEST: Duration = Duration::from_secs(2);
/// The longest pause while the gateways have no room, before it is spread. Thousands of clients may
/// be in that state, and each try costs a gateway something.
const BUSY_LONGEST: Duration = Duration::from_secs(300);
/// A watch that ran for so long was well. The pauses after it begin anew.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// The failures of one watch in a row.
///
/// * Refusals for want of room are counted apart. Otherwise the failures while a gateway is lost
///   would make the first refusal afterwards cost minutes.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    failures: u32,
    refusals: u32,
}

impl Pauses {
    /// Notes that the watch, which failed now, ran for this long.
    pub(crate) fn ran_for(&mut self, ran: Duration) {
        if ran >= WELL_AFTER {
            *self = Pauses::default();
        }
    }

    /// The pause after one more failure. `asked` is the least pause that the gateway asked for.
    pub(crate) fn next(&mut self, is_busy: bool, asked: Duration) -> Duration {
        let longest = if is_busy { BUSY_LONGEST } else { LONGEST };
        let (pause, spread) = self.after_failure(is_busy);
        asked.min(longest) + pause.mul_f64(rand::random_range(spread))
    }

    /// The pause after one more failure, and the factors by which it is spread.
    fn after_failure(&mut self, is_busy: bool) -> (Duration, Range<f64>) {
        let (count, longest) = match is_busy {
            true => (&mut self.refusals, BUSY_LONGEST),
            false => (&mut self.failures, LONGEST),
        };
        let failures = *count;
        *count = failures.saturating_add(1);
        let pause = FIRST.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
        // At first all watches of a gateway that ends come to the others.
        let spread = if failures == 0 { 0.0..2.0 } else { 0.5..1.5 };
        (pause.min(longest), spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pauses(count: usize, is_busy: bool) -> Vec<Duration> {
        let mut pauses = Pauses::default();
        (0..count).map(|_| pauses.after_failure(is_busy).0).collect()
    }

    #[test]
    fn pauses_grow_to_minutes_while_the_gateways_are_busy() {
        let busy = pauses(40, true);
        assert_eq!(busy[..4], [100 * MS, 200 * MS, 400 * MS, 800 * MS]);
        assert!(busy.windows(2).all(|two| two[0] <= two[1]), "{busy:?}");
        assert_eq!(busy[11], 204_800 * MS);
        assert_eq!(busy[12..], [BUSY_LONGEST; 28]);
        assert_eq!(pauses(40, false)[5..], [LONGEST; 35], "a lost gateway is missed for less");
    }

    #[test]
    fn a_pause_is_spread_and_is_no_shorter_than_asked() {
        let mut busy = Pauses { refusals: 20, ..Pauses::default() };
        let spread: Vec<Duration> = (0..100).map(|_| busy.next(true, 7 * MS)).collect();
        assert!(spread.iter().all(|pause| (150_000 * MS..451_000 * MS).contains(pause)));
        assert!(spread.iter().min() < spread.iter().max());
        let asked = Pauses::default().next(true, 5_000 * MS);
        assert!((5_000 * MS..=5_200 * MS).contains(&asked), "{asked:?}");
    }

    #[test]
    fn a_watch_that_fails_soon_after_each_start_keeps_its_long_pauses() {
        let mut pauses = Pauses { refusals: 12, ..Pauses::default() };
        pauses.ran_for(1_000 * MS);
        assert_eq!(pauses.after_failure(true).0, BUSY_LONGEST);
        pauses.ran_for(WELL_AFTER);
        assert_eq!(pauses.after_failure(true).0, FIRST);
    }

    /// Regression: one refusal after an outage of 20 s made a watch deaf for minutes.
    #[test]
    fn failures_while_a_gateway_is_lost_do_not_lengthen_the_pause_of_a_refusal() {
        let mut pauses = Pauses::default();
        for _ in 0..12 {
            pauses.after_failure(false);
        }
        assert_eq!(pauses.after_failure(true).0, FIRST);
    }
}
