//! Shard time: how old a lease is, as every replica knows it without a word.
//!
//! Each entry is stamped with shard time by the leader that proposed it. The table never goes back: a stamp below an earlier one counts
//! as that one. A lease keeps the shard time of its last renewal, R. Each replica remembers its **last observation**: the table's
//! shard time S after the last stamped entry it applied, and its own monotonic time t when it applied that entry. Now the lease
//! is (S + (now - t)) - R old. A new leader gives each lease its TTL less that age, so that an abandoned lock ends in time
//! however often leadership moves.
//!
//! No lease is ever counted as older than it is. Let T be the true time at which a stamp was taken:
//!
//! 1. A replica applies an entry after it was stamped: t >= T. So now - t is at most the time since the stamp.
//! 2. It remains to show that between two entries shard time never ran ahead of true time: for every entry j and every earlier
//!    entry R, S_j - S_R <= T_j - T_R. This is so by induction over the log's index.
//! 3. Both are of one leadership: its clock is its monotonic clock and an offset, so the two differences are the same.
//! 4. j is the first stamped entry of its leadership, or a later one, and R is of an earlier leadership: the leader's clock goes on from its
//!    last observation (S_i, t_i) at the moment when it has applied the first entry of its own term. By then it has applied
//!    all entries of earlier terms, so i is at or after R, and S_i - S_R <= T_i - T_R holds. It adds now - t_i, which is at most
//!    T_j - T_i by step 1.
//!
//! So before that moment a leader proposes nothing. It has no clock yet, and what its table shows is no substitute: say a shard is idle
//! for a minute, and a new leader stamps an acquire with the time of the last entry. Its clock, once started, is a minute ahead
//! of that stamp. The next leader counts the lease, which is seconds old, as a minute older, and ends it early.
//!
//! What goes wrong without step 4: leader B applied an entry soon, and follows it with a clock that is right. An entry R, stamped by
//! leader C which had applied late and whose clock is behind, is not yet applied by B when B takes over. Going on from its old
//! observation, B's clock is ahead of C's by that delay, and R seems older than it is.
//!
//! Late it may be: a follower hears with the next heartbeat what is committed, so each move of leadership can cost a heartbeat.
//!
//! For the same reason only the last observation counts, and never the largest of several. A replica that restarts has no
//! observation: its table counts as applied at the moment when it was loaded, which is late.
//!
//! Clocks are cut to whole milliseconds, so that a difference of two readings may be up to 1 ms too long. A leader's clock
//! therefore starts 1 ms behind, so that the error does not add up over leaderships; and a new leader adds
//! [`TAKE_OVER_MARGIN_MS`] to what is left of a lease.

use crate::api::Now;
use locks::planted::{self, Bug};
use locks::{LiveLease, Stamp};

/// What a new leader adds to the rest of a lease: 1 ms for the readings that the lease's age is made of, 1 ms for those of its own wait.
const TAKE_OVER_MARGIN_MS: u64 = 2;

/// The last observation of shard time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    shard_ms: u64,
    mono_ms: u64,
}

impl Observation {
    /// The table shows this shard time, `now` that a stamped entry was applied or the table was loaded.
    pub(crate) fn new(shard_ms: u64, now: Now) -> Observation {
        Observation { shard_ms, mono_ms: now.mono_ms }
    }

    pub(crate) fn observe(&mut self, shard_ms: u64, now: Now) {
        if planted::is(Bug::EarlyRest) {
            // planted: the shard time of the last entry, at the moment of the first
            self.shard_ms = shard_ms;
            return;
        }
        *self = Observation::new(shard_ms, now);
    }

    /// Shard time now: true time or behind it.
    pub(crate) fn shard_ms(&self, mono_ms: u64) -> u64 {
        self.shard_ms + mono_ms.saturating_sub(self.mono_ms)
    }

    /// The moment now, for showing what is left of leases.
    pub(crate) fn stamp(&self, now: Now) -> Stamp {
        Stamp { wall_ms: now.wall_ms, shard_ms: self.shard_ms(now.mono_ms) }
    }

    /// When a lease is over, on the monotonic clock of a leader that takes over now.
    pub(crate) fn deadline_ms(&self, live: &LiveLease, mono_ms: u64) -> u64 {
        let ttl_ms = u64::from(live.ttl_ms);
        if planted::is(Bug::RestartsFullTtl) {
            return mono_ms + ttl_ms; // planted: as if it had just been renewed
        }
        let age_ms = self.shard_ms(mono_ms).saturating_sub(live.renewed_ms);
        mono_ms + ttl_ms.saturating_sub(age_ms) + TAKE_OVER_MARGIN_MS
    }
}

/// A leader's clock, from when it has applied the first entry of its own term.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeaderClock {
    from: Option<Observation>,
}

impl LeaderClock {
    /// The first entry of its own term is applied. Later calls change nothing.
    pub(crate) fn start(&mut self, observation: Observation) {
        self.from.get_or_insert(observation);
    }

    /// What to stamp an entry with, now that the table shows `table_ms`. `None`: nothing may be proposed yet.
    pub(crate) fn shard_ms(&self, table_ms: u64, mono_ms: u64) -> Option<u64> {
        let from = match self.from {
            // planted: with the time of the last entry, as if that was now
            None if planted::is(Bug::StampBeforeClock) => return Some(table_ms),
            from => from?,
        };
        Some(from.shard_ms(mono_ms).saturating_sub(1).max(table_ms))
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
        assert_eq!(observation.deadline_ms(&live(10_000, 47_000), 4_000), 4_000 + 4_000 + TAKE_OVER_MARGIN_MS);
        assert_eq!(observation.deadline_ms(&live(10_000, 10_000), 4_000), 4_000 + TAKE_OVER_MARGIN_MS);
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
