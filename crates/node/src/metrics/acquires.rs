//! How long acquires wait, how long they take apart from that, and how long grants are held.
//!
//! Times are collected without atomics, by each stream and each shard thread for itself, and added
//! to the shared histograms once for many of them.

use super::registrar::Registrar;
use locks::EndKind;
use prometheus::local::LocalHistogram;
use prometheus::{Error, Histogram, IntCounter};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::v1::ErrorCode;

/// The histograms of acquires and of what came of them.
#[derive(Debug)]
pub(crate) struct AcquireMetrics {
    waits: [Histogram; 3],
    service: Histogram,
    holds: [Histogram; 3],
    ended: [IntCounter; 3],
}

impl AcquireMetrics {
    pub(super) fn new(r: &Registrar) -> Result<AcquireMetrics, Error> {
        let wait_buckets = prometheus::exponential_buckets(0.001, 2.0, 22)?; // 1 ms to 35 min
        let hold_buckets = prometheus::exponential_buckets(0.01, 2.0, 24)?; // 10 ms to 23 h
        let service_buckets = prometheus::exponential_buckets(0.000_25, 2.0, 18)?; // 250 us to 33 s
        let waits = r.histograms(
            "palisade_acquire_wait_seconds",
            "Time that acquires spent in the lock's queue, by how the wait ended. 0 for those granted at once.",
            &["end"],
            wait_buckets,
        )?;
        let holds = r.histograms(
            "palisade_hold_seconds",
            "Time from grants to their ends by wall clocks, as seen by the leader.",
            &["how"],
            hold_buckets,
        )?;
        let ended = r.counters(
            "palisade_grants_ended_total",
            "Grants that ended, as seen by the leader.",
            &["how"],
        )?;
        let hows = ["released", "expired", "broken"];
        Ok(AcquireMetrics {
            waits: ["granted", "timed_out", "cancelled"].map(|end| waits.with_label_values(&[end])),
            service: r.histogram(
                "palisade_acquire_service_seconds",
                "From the receipt of an acquire to its answer, without the time in the lock's queue.",
                service_buckets,
            )?,
            holds: hows.map(|how| holds.with_label_values(&[how])),
            ended: hows.map(|how| ended.with_label_values(&[how])),
        })
    }

    /// The times of acquires that one stream collects.
    pub(crate) fn of_stream(&self) -> AcquireTimes {
        let waits = self.waits.each_ref().map(Histogram::local);
        AcquireTimes(Mutex::new(Times { waits, service: self.service.local() }))
    }

    /// The holds that one shard thread collects.
    pub(crate) fn of_thread(&self) -> EndedHolds {
        EndedHolds {
            holds: self.holds.each_ref().map(Histogram::local),
            ended: self.ended.clone(),
            counts: [0; 3],
        }
    }
}

/// Times of acquires that are not in the shared histograms yet. A drop adds them, too.
///
/// The mutex makes it shareable between threads, as a task must be. It is never locked.
#[derive(Debug)]
pub(crate) struct AcquireTimes(Mutex<Times>);

#[derive(Debug)]
struct Times {
    waits: [LocalHistogram; 3],
    service: LocalHistogram,
}

impl AcquireTimes {
    /// Adds what was collected to the shared histograms.
    pub(crate) fn flush(&mut self) {
        let times = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        times.waits.iter().for_each(LocalHistogram::flush);
        times.service.flush();
    }

    /// Counts an acquire that was answered. Of one whose wait ended without a grant, all of its
    /// time counts as waiting.
    pub(crate) fn answered(&mut self, result: &OpResult, took: Duration) {
        let times = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let waited = match result {
            OpResult::Grant(grant) => {
                let waited = Duration::from_millis(grant.waited_ms);
                times.waits[0].observe(waited.as_secs_f64());
                waited
            }
            OpResult::Error(error) => match error.code() {
                ErrorCode::WaitTimeout => return times.waits[1].observe(took.as_secs_f64()),
                ErrorCode::WaitCancelled => return times.waits[2].observe(took.as_secs_f64()),
                ErrorCode::Held => Duration::ZERO,
                _ => return,
            },
            _ => return,
        };
        times.service.observe(took.saturating_sub(waited).as_secs_f64());
    }
}

/// Grants that ended and are not in the shared metrics yet. A drop adds the holds.
pub(crate) struct EndedHolds {
    holds: [LocalHistogram; 3],
    ended: [IntCounter; 3],
    counts: [u64; 3],
}

impl EndedHolds {
    /// Adds what was collected to the shared metrics.
    pub(crate) fn flush(&mut self) {
        self.holds.iter().for_each(LocalHistogram::flush);
        for (ended, count) in self.ended.iter().zip(&mut self.counts) {
            if *count > 0 {
                ended.inc_by(std::mem::take(count));
            }
        }
    }

    /// Counts the grants that ended in a step, each with the time that it was held, in
    /// milliseconds.
    pub(crate) fn ended(&mut self, ended: &[(EndKind, u64)]) {
        for (kind, held_ms) in ended {
            let nth = match kind {
                EndKind::Released => 0,
                EndKind::Expired => 1,
                EndKind::Broken => 2,
            };
            self.counts[nth] += 1;
            self.holds[nth].observe(*held_ms as f64 / 1_000.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder, TextEncoder};
    use wire::v1::{Error, Grant};

    #[test]
    fn waits_are_told_from_the_time_that_the_service_takes() {
        let r = Registrar::default();
        let metrics = AcquireMetrics::new(&r).unwrap();
        let (mut times, mut holds) = (metrics.of_stream(), metrics.of_thread());
        let took = Duration::from_secs(5);
        let grant = |waited_ms| OpResult::Grant(Grant { waited_ms, ..Grant::default() });
        let error = |code| OpResult::Error(Error::new(code, "no"));
        times.answered(&grant(4_000), took);
        times.answered(&grant(0), Duration::from_secs(2));
        times.answered(&error(ErrorCode::Held), Duration::from_secs(3));
        times.answered(&error(ErrorCode::WaitTimeout), took);
        times.answered(&error(ErrorCode::WaitCancelled), took);
        times.answered(&error(ErrorCode::NoLeader), took);
        holds.ended(&[(EndKind::Released, 1_500), (EndKind::Broken, 250)]);
        times.flush();
        holds.flush();
        let mut text = Vec::new();
        TextEncoder::new().encode(&r.done().gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            r#"palisade_acquire_wait_seconds_sum{end="granted"} 4"#,
            r#"palisade_acquire_wait_seconds_count{end="granted"} 2"#,
            r#"palisade_acquire_wait_seconds_sum{end="timed_out"} 5"#,
            r#"palisade_acquire_wait_seconds_sum{end="cancelled"} 5"#,
            "palisade_acquire_service_seconds_sum 6",
            "palisade_acquire_service_seconds_count 3",
            r#"palisade_hold_seconds_sum{how="released"} 1.5"#,
            r#"palisade_hold_seconds_sum{how="broken"} 0.25"#,
            r#"palisade_grants_ended_total{how="released"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
