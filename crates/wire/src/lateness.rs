//! How late a frame of operations is, by the clock of its sender.
//!
//! The clocks of two machines show unrelated times, but both run at about the same rate. So the
//! fastest frame of a stream sets a measure: the difference between its receipt and its sending. A
//! frame that was held up has a larger difference. It may have waited in a socket, in a proxy or
//! for a paused process.
//!
//! This module reads no clocks: times are arguments.

/// Clocks may drift by one part in this many. NTP corrects by half of that at most.
const DRIFT_PART: u64 = 1_000;
/// Lateness from which on frames count as standing late, if it does not end.
const STANDING_MS: u64 = 500;
/// How long frames must be standing late before their lateness counts as normal. The cause is a
/// sender with a clock that stood still, for example while its machine was suspended. By then the
/// frames that had piled up have passed.
const STANDING_FOR_MS: u64 = 2_000;
/// How often the measure is set anew, by the fastest frame in time since. Otherwise the allowance
/// for drift would grow with the age of the stream, and after some hours hide delays of seconds.
const WINDOW_MS: u64 = 60_000;

/// The lateness of one stream's frames.
///
/// * The reported lateness of a frame is at most its real delay beyond that of the fastest frame,
///   except for drift.
/// * The allowance for drift is at most 120 ms while each window has a frame in time. A stream that
///   was idle for long gets more, because its clocks may really differ by more.
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
    window: Window,
    standing: Option<Standing>,
}

/// A spell in which all frames have been late.
#[derive(Clone, Copy, Debug)]
struct Standing {
    since_ms: u64,
    last: Fastest,
}

/// A part of a stream's time, and the fastest among its frames that were in time.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    since_ms: u64,
    fastest: Option<Fastest>,
}

#[derive(Clone, Copy, Debug)]
struct Fastest {
    /// Time of receipt minus time of sending.
    offset_ms: i64,
    received_ms: u64,
}

impl Lateness {
    /// How many milliseconds later a frame came than the fastest would have. `sent_ms` is the time
    /// in the frame, or 0 if it has none. `received_ms` is from the receiver's own monotonic clock.
    pub fn late_ms(&mut self, sent_ms: u64, received_ms: u64) -> u64 {
        if sent_ms == 0 {
            return 0;
        }
        let offset_ms = (received_ms as i64).wrapping_sub(sent_ms as i64);
        let this = Fastest { offset_ms, received_ms };
        let Some(fastest) = self.fastest else {
            self.begin(this);
            return 0;
        };
        let drift_ms = received_ms.saturating_sub(fastest.received_ms) / DRIFT_PART;
        let late_ms = offset_ms.saturating_sub(fastest.offset_ms).saturating_sub_unsigned(drift_ms);
        if late_ms <= 0 {
            self.standing = None;
            self.in_time(this, fastest);
            return 0;
        }
        let late_ms = late_ms as u64;
        if late_ms < STANDING_MS {
            self.standing = None;
            return late_ms;
        }
        // The measure comes from the last two frames.
        //
        // The fastest frame of the spell would not do. If the receiver's clock runs at twice the
        // rate, that is the oldest frame, and all frames would count as late for ever. This frame
        // alone would not do either. On a stream of few frames it may be the only one that was held
        // up for so long.
        let Standing { since_ms, last } =
            *self.standing.get_or_insert(Standing { since_ms: received_ms, last: this });
        if received_ms.saturating_sub(since_ms) >= STANDING_FOR_MS {
            self.begin(if offset_ms <= last.offset_ms { this } else { last });
            return self.late_ms(sent_ms, received_ms);
        }
        self.standing = Some(Standing { since_ms, last: this });
        late_ms
    }

    /// Makes this frame the measure, and forgets earlier ones.
    fn begin(&mut self, frame: Fastest) {
        self.fastest = Some(frame);
        self.window = Window { since_ms: frame.received_ms, fastest: Some(frame) };
        self.standing = None;
    }

    fn in_time(&mut self, frame: Fastest, fastest: Fastest) {
        if frame.offset_ms <= fastest.offset_ms {
            return self.begin(frame);
        }
        if frame.received_ms.saturating_sub(self.window.since_ms) >= WINDOW_MS {
            // A window has only frames in time, so the measure never rises faster than the drift.
            self.fastest = self.window.fastest.or(self.fastest);
            self.window = Window { since_ms: frame.received_ms, fastest: None };
        }
        let least = self.window.fastest.get_or_insert(frame);
        if frame.offset_ms <= least.offset_ms {
            *least = frame;
        }
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
        // The receiver was paused for a minute, and reads the frames of that time at its end.
        for sent_ms in (10_001..70_000).step_by(1_000) {
            let late_ms = stream.late_ms(sent_ms, 5_070_000);
            let in_truth_ms = 70_000 - sent_ms;
            assert!(
                late_ms <= in_truth_ms && late_ms + 61 >= in_truth_ms,
                "{late_ms} of {in_truth_ms}"
            );
        }
        assert_eq!(stream.late_ms(70_001, 5_070_001), 0);
    }

    /// All frames but the first counted as later than a second, so a node with a clock that ran
    /// fast served nothing.
    #[test]
    fn a_clock_at_twice_the_rate_leaves_most_frames_in_time() {
        let mut stream = Lateness::default();
        let frames = (1..60_000).step_by(50);
        let late =
            frames.clone().filter(|sent_ms| stream.late_ms(*sent_ms, 2 * sent_ms) >= 1_000).count();
        assert!(2 * late < frames.count(), "{late} frames were a second late or more");
    }

    #[test]
    fn clocks_that_drift_apart_make_nothing_late() {
        let mut stream = Lateness::default();
        for sent_ms in (1..86_400_000).step_by(10_000) {
            let received_ms = 1_000 + sent_ms + sent_ms / 2_000; // 500 parts per million
            assert!(stream.late_ms(sent_ms, received_ms) < 10, "after {sent_ms} ms");
        }
    }

    /// The allowance grew by a millisecond each second, without end.
    #[test]
    fn a_frame_held_up_on_an_old_stream_is_as_late_as_on_a_young_one() {
        for (drift_ppm, stream_s) in [(0, 60 * 90), (400, 60 * 90), (0, 86_400), (400, 86_400)] {
            let mut stream = Lateness::default();
            let received = |sent_ms: u64| 7_000 + sent_ms + sent_ms * drift_ppm / 1_000_000;
            for sent_ms in (1..stream_s * 1_000).step_by(3_000) {
                // Every other frame takes a little longer.
                assert_eq!(
                    stream.late_ms(sent_ms, received(sent_ms) + sent_ms / 3_000 % 2),
                    0,
                    "{sent_ms}"
                );
            }
            let sent_ms = stream_s * 1_000;
            let late_ms = stream.late_ms(sent_ms, received(sent_ms) + 5_000);
            assert!(
                (4_870..=5_002).contains(&late_ms),
                "{late_ms} ms at {drift_ppm} ppm after {stream_s} s"
            );
            assert_eq!(
                stream.late_ms(sent_ms + 1, received(sent_ms + 1)),
                0,
                "the next one is in time"
            );
        }
    }

    #[test]
    fn frames_that_are_all_held_up_do_not_become_the_measure_of_their_window() {
        let mut stream = Lateness::default();
        stream.late_ms(1, 1_001);
        // The delay stays below that of standing lateness, for four minutes.
        for sent_ms in (1_000..240_000).step_by(1_000) {
            stream.late_ms(sent_ms, 1_000 + sent_ms + 450);
        }
        assert!(stream.late_ms(240_000, 1_000 + 240_450) >= 200);
    }

    #[test]
    fn clocks_that_drifted_apart_during_an_idle_hour_make_nothing_late() {
        let mut stream = Lateness::default();
        for hour in 0..5 {
            let sent_ms = 1 + hour * 3_600_000;
            assert_eq!(stream.late_ms(sent_ms, 500 + sent_ms + sent_ms / 2_000), 0);
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

    /// One late frame was enough to make the next late frame the measure, so that it counted as in
    /// time.
    #[test]
    fn a_frame_that_is_held_up_after_a_late_one_is_still_late() {
        let mut stream = Lateness::default();
        assert_eq!(stream.late_ms(1, 1_001), 0);
        assert_eq!(stream.late_ms(10_000, 14_000), 2_988);
        let late_ms = stream.late_ms(20_000, 81_000);
        assert!((56_900..=57_000).contains(&late_ms), "{late_ms} later than the frame before it");
        assert_eq!(
            stream.late_ms(30_000, 31_000 + 60_000),
            0,
            "two of the same lateness are a standing one"
        );
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
