//! Counters and latencies of a measured span.
//!
//! The module knows nothing of connections. Its callers read the clocks.

use crate::Refusal;
use crate::latency::Latencies;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::OperationKind;

/// Counts and latencies of one span of time.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Latencies of answered operations by kind, HELD answers included.
    pub latencies: BTreeMap<OperationKind, Latencies>,
    /// Acquires that were granted or refused as HELD.
    pub acquires: u64,
    /// Acquires that found the lock held by another request.
    pub held: u64,
    /// Locks that heartbeats kept alive.
    pub kept_alive: u64,
    /// Number of errors by kind; HELD is no error.
    pub errors: BTreeMap<&'static str, u64>,
    /// The first message of each kind of error, for people.
    pub examples: BTreeMap<&'static str, String>,
}

/// The outcome of one operation.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// The operation succeeded as requested.
    Done {
        /// The number of locks that it kept alive, if it was a heartbeat.
        kept_alive: u64,
    },
    /// The operation was refused, or failed.
    Refused(&'a Refusal),
}

impl Stats {
    /// Counts one more operation.
    pub fn record(&mut self, kind: OperationKind, latency: Duration, ending: Ending<'_>) {
        match ending {
            Ending::Done { kept_alive } => self.kept_alive += kept_alive,
            Ending::Refused(refusal) if refusal.held => self.held += 1,
            Ending::Refused(refusal) => {
                *self.errors.entry(refusal.kind).or_default() += 1;
                self.examples.entry(refusal.kind).or_insert_with(|| refusal.message.clone());
                return;
            }
        }
        self.acquires += u64::from(kind == OperationKind::Acquire);
        self.latencies.entry(kind).or_default().record(latency);
    }

    /// Number of answered operations.
    pub fn operations(&self) -> u64 {
        self.latencies.values().map(Latencies::count).sum()
    }

    /// Number of answered operations that change state.
    pub fn writes(&self) -> u64 {
        let writes = self.latencies.iter().filter(|(kind, _)| !kind.is_read());
        // A refused acquire changed no state.
        writes.map(|(_, latencies)| latencies.count()).sum::<u64>() - self.held
    }

    /// Acquires refused as HELD divided by all answered acquires, 0 to 1.
    pub fn contention_rate(&self) -> f64 {
        if self.acquires == 0 { 0.0 } else { self.held as f64 / self.acquires as f64 }
    }

    /// The latencies of all kinds together.
    pub fn all(&self) -> Latencies {
        let mut all = Latencies::new();
        self.latencies.values().for_each(|latencies| all.add(latencies));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: &'static str, held: bool) -> Refusal {
        Refusal { kind, held, pause: Duration::ZERO, message: kind.into() }
    }

    #[test]
    fn contention_is_no_error_and_no_write() {
        let mut stats = Stats::default();
        let ms = Duration::from_millis(1);
        let (held, busy) = (refusal("HELD", true), refusal("BUSY", false));
        stats.record(OperationKind::Acquire, ms, Ending::Done { kept_alive: 0 });
        stats.record(OperationKind::Acquire, ms, Ending::Refused(&held));
        stats.record(OperationKind::Acquire, ms, Ending::Refused(&busy));
        stats.record(OperationKind::Release, ms, Ending::Done { kept_alive: 0 });
        stats.record(OperationKind::Check, ms, Ending::Done { kept_alive: 0 });
        stats.record(OperationKind::Heartbeat, ms, Ending::Done { kept_alive: 7 });
        assert_eq!((stats.operations(), stats.writes(), stats.kept_alive), (5, 3, 7));
        assert_eq!(stats.contention_rate(), 0.5);
        assert_eq!(stats.errors, BTreeMap::from([("BUSY", 1)]));
        assert_eq!(stats.all().count(), 5);
    }
}
