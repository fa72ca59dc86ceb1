//! How late a frame of operations is, by the clock of its sender.
//!
//! The clocks of two machines have nothing in common, but both run at about the same rate. A frame that was held up, in a
//! socket, in a proxy or by a paused process, shows a larger difference between its receipt and its sending than the fastest
//! frame of its stream. It knows nothing of clocks itself: times are arguments.

/// Clocks may run apart by this part: one in a thousand, where NTP corrects by half of that at most.
const DRIFT_PART: u64 = 1_000;
/// Lateness from here on is a standing one if it does not end.
const STANDING_MS: u64 = 500;
/// A standing lateness counts as the normal way after so long. The sender's clock stood still, for example while its machine was
/// suspended; what had piled up is through by then.
const STANDING_FOR_MS: u64 = 2_000;

/// One stream's frames.
///
/// * A frame is never later than it took in truth longer than the fastest frame, but for the drift.
///
/// ```
/// use palisade_wire::Lateness;
/// let mut stream = Lateness::default();
/// assert_eq!(stream.late_ms(1, 70_000), 0); // the first frame sets the measure
/// assert_eq!(stream.late_ms(101, 70_100), 0);
/// assert_eq!(stream.late_ms(201, 78_200), 7_992); // held up for eight seconds
/// assert_eq!(stream.late_ms(0, 90_000), 0); // the sender says nothing
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Lateness {
    fastest: Option<Fastest>,
    standing: Option<Standing>,
}

#[derive(Clone, Copy, Debug)]
struct Fastest {
    /// Received less sent.
    offset_ms: i64,
    received_ms: u64,
}

/// Frames have been late, without an exception.
#[derive(Clone, Copy, Debug)]
struct Standing {
    since_ms: u64,
    least: Fastest,
}

impl Lateness {
    /// How many milliseconds later a frame came than the fastest would have. `sent_ms`: what the frame says (0: nothing);
    /// `received_ms`: the receiver's own monotonic clock.
    pub fn late_ms(&mut self, sent_ms: u64, received_ms: u64) -> u64 {
        if sent_ms == 0 {
            return 0;
        }
        let offset_ms = (received_ms as i64).wrapping_sub(sent_ms as i64);
        let this = Fastest { offset_ms, received_ms };
        let Some(fastest) = self.fastest else {
            self.fastest = Some(this);
            return 0;
        };
        let drift_ms = received_ms.saturating_sub(fastest.received_ms) / DRIFT_PART;
        let late_ms = offset_ms.saturating_sub(fastest.offset_ms).saturating_sub_unsigned(drift_ms);
        if late_ms <= 0 {
            if offset_ms <= fastest.offset_ms {
                self.fastest = Some(this);
            }
            self.standing = None;
            return 0;
        }
        let late_ms = late_ms as u64;
        if late_ms < STANDING_MS {
            self.standing = None;
            return late_ms;
        }
        let standing = self.standing.get_or_insert(Standing { since_ms: received_ms, least: this });
        if offset_ms < standing.least.offset_ms {
            standing.least = this;
        }
        if received_ms.saturating_sub(standing.since_ms) >= STANDING_FOR_MS {
            self.fastest = Some(standing.least);
            self.standing = None;
            return self.late_ms(sent_ms, received_ms);
        }
        late_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_up_is_late_and_what_follows_is_not() {
        let mut stream = Lateness::default();
        for sent_ms in (1..10_000).step_by(100) {
            assert_eq!(stream.late_ms(sent_ms, 5_000_000 + sent_ms), 0);
        }
        // The receiver was paused for a minute: what was sent meanwhile is read at its end.
        for sent_ms in (10_001..70_000).step_by(1_000) {
            let late_ms = stream.late_ms(sent_ms, 5_070_000);
            let in_truth_ms = 70_000 - sent_ms;
            assert!(late_ms <= in_truth_ms && late_ms + 61 >= in_truth_ms, "{late_ms} of {in_truth_ms}");
        }
        assert_eq!(stream.late_ms(70_001, 5_070_001), 0);
    }

    #[test]
    fn clocks_that_drift_apart_make_nothing_late() {
        let mut stream = Lateness::default();
        for sent_ms in (1..86_400_000).step_by(10_000) {
            let received_ms = 1_000 + sent_ms + sent_ms / 2_000; // 500 parts per million
            assert!(stream.late_ms(sent_ms, received_ms) < 10, "after {sent_ms} ms");
        }
    }

    #[test]
    fn a_sender_whose_clock_stood_still_is_late_for_a_moment_only() {
        let mut stream = Lateness::default();
        stream.late_ms(1_000, 1_000);
        assert!(stream.late_ms(2_000, 22_000) >= 19_000);
        assert!(stream.late_ms(3_000, 23_000) >= 19_000);
        assert_eq!(stream.late_ms(4_000, 24_000), 0);
        assert_eq!(stream.late_ms(4_100, 24_100), 0);
        assert!(stream.late_ms(5_000, 30_000) >= 4_000, "and is judged from there on");
    }

    #[test]
    fn no_number_from_outside_is_too_large() {
        let mut stream = Lateness::default();
        for sent_ms in [1, u64::MAX, i64::MAX as u64, i64::MAX as u64 + 1, 0, 5, u64::MAX / 2] {
            for received_ms in [0, 1, i64::MAX as u64] {
                stream.late_ms(sent_ms, received_ms);
            }
        }
    }
}
