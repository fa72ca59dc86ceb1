//! Shard time: how old a lease is, known to every replica without traffic.
//!
//! Each entry is stamped with shard time by the leader that proposed it. The table's shard time
//! never goes back: a stamp below an earlier one counts as that one. A lease keeps the shard time R
//! of its last renewal. Each replica remembers its **last observation**: the table's shard time S
//! after the last stamped entry that it applied, and its own monotonic time t at that moment. Now
//! the lease is (S + (now - t)) - R old. A new leader gives each lease its TTL less that age, so
//! that an abandoned lock ends in time however often leadership moves.
//!
//! # No lease is ever counted as older than it is
//!
//! Let T be the true time at which a stamp was taken.
//!
//! 1. A replica applies an entry after it was stamped: t >= T. So now - t is at most the time since
//!    the stamp.
//! 2. It remains to show that between two entries shard time never ran ahead of true time: for
//!    every entry j and every earlier entry R, S_j - S_R <= T_j - T_R. The proof is by induction
//!    over the log's index.
//! 3. Let both be of one leadership. Its clock is its monotonic clock and an offset, so the two
//!    differences are equal.
//! 4. Let j be of a later leadership than R. The leader's clock goes on from its last observation
//!    (S_i, t_i) at the moment when it has applied the first entry of its own term. By then it has
//!    applied all entries of earlier terms, so i is at or after R, and S_i - S_R <= T_i - T_R
//!    holds. The clock adds now - t_i, which is at most T_j - T_i by step 1.
//!
//! # A leader proposes nothing before that moment
//!
//! How it goes wrong if a new leader stamps entries with its table's shard time until its clock
//! runs:
//!
//! 1. A shard is idle for a minute. Then a new leader stamps an acquire with the time of the last
//!    entry.
//! 2. Its clock starts, a minute ahead of that stamp.
//! 3. The next leader counts the lease as a minute old. It is seconds old, and ends early.
//!
//! How it goes wrong if the clock starts from an older observation (without step 4):
//!
//! 1. Leader C applied late, so its clock is behind. It stamps entry R.
//! 2. B applied the entries before R soon, and its observation is right. It has not applied R when
//!    it takes over, and its clock goes on from the old observation.
//! 3. B's clock is ahead of C's by C's delay, and R seems older than it is.
//!
//! For the same reason only the last observation counts, and never the largest of several. A
//! replica that restarts has no observation. Its table counts as applied at the moment when it was
//! loaded, which is late.
//!
//! # Shard time may be late
//!
//! A follower hears with the next heartbeat which entries are committed. So each move of leadership
//! can cost a heartbeat.
//!
//! Clocks are cut to whole milliseconds, so that a difference of two readings may be up to 1 ms too
//! long. A leader's clock therefore starts 1 ms behind, so that the error does not add up over
//! leaderships. A new leader adds [`TAKE_OVER_MARGIN_MS`] to the rest of a lease.

use crate::api::Now;
use crate::planted_bugs;
use locks::{LiveLease, Stamp};

/// A new leader adds this to the rest of a lease: 1 ms for the two readings that the lease's age is
/// made of, and 1 ms for the two of the leader's own wait.
const TAKE_OVER_MARGIN_MS: u64 = 2;

/// The last observation of shard time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    shard_ms: u64,
    mono_ms: u64,
}

impl Observation {
    /// The table has this shard time `now`, after a stamped entry was applied or the table was
    /// loaded.
    pub(crate) fn new(shard_ms: u64, now: Now) -> Observation {
        Observation { shard_ms, mono_ms: now.mono_ms }
    }

    /// A stamped entry was applied.
    pub(crate) fn observe(&mut self, shard_ms: u64, now: Now) {
        let mono_ms = planted_bugs::observed_ms(now.mono_ms, self.mono_ms);
        *self = Observation { shard_ms, mono_ms };
    }

    /// Shard time now. It is at or behind true time.
    pub(crate) fn shard_ms(&self, mono_ms: u64) -> u64 {
        self.shard_ms + mono_ms.saturating_sub(self.mono_ms)
    }

    /// The moment now, to show the rest of leases.
    pub(crate) fn stamp(&self, now: Now) -> Stamp {
        Stamp { wall_ms: now.wall_ms, shard_ms: self.shard_ms(now.mono_ms) }
    }

    /// The end of a lease, on the monotonic clock of a leader that takes over now.
    pub(crate) fn deadline_ms(&self, live: &LiveLease, mono_ms: u64) -> u64 {
        let ttl_ms = u64::from(live.ttl_ms);
        let age_ms = self.shard_ms(mono_ms).saturating_sub(live.renewed_ms);
        let rest_ms = ttl_ms.saturating_sub(age_ms) + TAKE_OVER_MARGIN_MS;
        planted_bugs::rest_ends_ms(mono_ms + rest_ms, mono_ms + ttl_ms)
    }
}

/// A leader's clock of shard time. It runs once the leader has applied the first entry of its own
/// term.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeaderClock {
    from: Option<Observation>,
}

impl LeaderClock {
    /// The first entry of the leader's own term is applied. Later calls change nothing.
    pub(crate) fn start(&mut self, observation: Observation) {
        self.from.get_or_insert(observation);
    }

    /// The stamp of an entry that is proposed now, while the table's shard time is `table_ms`.
    /// `None`: the clock does not run, and nothing may be proposed.
    pub(crate) fn shard_ms(&self, table_ms: u64, mono_ms: u64) -> Option<u64> {
        let now_ms = self.from.map(|from| from.shard_ms(mono_ms).saturating_sub(1).max(table_ms));
        planted_bugs::stamp_ms(now_ms, table_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use locks::LeaseId;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, wall_ms: 0 }
    }

    fn live(ttl_ms: u32, renewed_ms: u64) -> LiveLease {
        LiveLease { lease: LeaseId(1), ttl_ms, renewal_seq: 0, renewed_ms }
    }

    #[test]
    fn a_lease_has_its_ttl_less_its_age_and_none_is_left_of_an_old_one() {
        let observation = Observation::new(50_000, at(1_000));
        assert_eq!(
            observation.deadline_ms(&live(10_000, 47_000), 4_000),
            4_000 + 4_000 + TAKE_OVER_MARGIN_MS
        );
        assert_eq!(
            observation.deadline_ms(&live(10_000, 10_000), 4_000),
            4_000 + TAKE_OVER_MARGIN_MS
        );
    }

    #[test]
    fn only_the_last_observation_counts() {
        let mut observation = Observation::new(50_000, at(1_000));
        // The leader of the next entry is behind: it applied that one late.
        observation.observe(50_500, at(4_000));
        assert_eq!(observation.shard_ms(4_000), 50_500);
    }

    #[test]
    fn a_leader_stamps_nothing_until_its_own_term_has_an_entry_applied() {
        let mut clock = LeaderClock::default();
        assert_eq!(clock.shard_ms(50_000, 9_000), None);
        clock.start(Observation::new(50_000, at(1_000)));
        clock.start(Observation::new(60_000, at(1_000)));
        assert_eq!(clock.shard_ms(50_000, 1_000), Some(50_000), "never behind the table");
        assert_eq!(clock.shard_ms(50_000, 3_000), Some(51_999));
    }
}
