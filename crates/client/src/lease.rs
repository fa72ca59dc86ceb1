//! How long a holder may count on its lock: pure arithmetic, and a cell to watch it.
//!
//! A lock counts as lost here before the server can end its lease, as long as clocks differ by less
//! than [`margin`]. The reason is that validity is counted from the moment the request was *sent*,
//! and the server's count starts later. This also holds for a machine that was suspended meanwhile:
//! see [`clock`](crate::clock).

use crate::clock::SuspendClock;
use crate::planted_bugs;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The reason why a lock is no longer held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// The lease could not be renewed in time. The server may not have noticed yet.
    NotRenewed,
    /// The server said that the lock expired, was broken, or lost its session.
    Fenced(String),
    /// This machine was suspended for this long since the last renewal was sent. The server's clock
    /// went on.
    Suspended(Duration),
    /// The lock may have ended. Others ended more locks of its session than the server remembers,
    /// so no one can tell.
    InDoubt(String),
    /// The holder released the lock.
    Released,
}

impl std::fmt::Display for LostReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LostReason::NotRenewed => f.write_str("it could not be renewed in time"),
            LostReason::Fenced(why) | LostReason::InDoubt(why) => f.write_str(why),
            LostReason::Suspended(slept) => {
                write!(
                    f,
                    "this machine was suspended for {:.1} s, and the lock was not renewed",
                    slept.as_secs_f64()
                )
            }
            LostReason::Released => f.write_str("it was released"),
        }
    }
}

/// The part of a TTL that is not counted on: 1 % and 2 ms, for clocks that differ and timers that
/// fire late.
pub fn margin(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

/// The end of a lease's validity. The acknowledged grant or renewal was sent at `sent`.
pub fn valid_until(sent: Instant, ttl: Duration) -> Instant {
    sent + planted_bugs::believed(ttl.saturating_sub(margin(ttl)), ttl)
}

/// Longest suspend that does not lose a lease. It only takes its own length off the validity.
pub const SUSPEND_TOLERANCE: Duration = Duration::from_millis(100);

/// Time between renewals: a third of the TTL, so that two tries may fail. At most `interval_max`,
/// because a renewal is how a holder hears that its lock was broken.
pub fn renew_every(ttl: Duration, interval_max: Duration) -> Duration {
    (ttl / 3).min(interval_max.max(INTERVAL_LEAST))
}

/// The pause after a failed renewal: 3/20 of the interval, which is a twentieth of a short TTL. So
/// a few tries fit between two renewals.
pub(crate) fn pause_after_failure(ttl: Duration, interval_max: Duration) -> Duration {
    renew_every(ttl, interval_max) * 3 / 20
}

/// Shortest interval that can be chosen, so that a mistake does not renew without a pause.
const INTERVAL_LEAST: Duration = Duration::from_millis(100);
/// How often a watcher of a lease looks for a suspend.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A lease as its holder may count on it.
///
/// * `valid_until` never goes back.
/// * A lost lease stays lost: a renewal acknowledged after the validity ran out does not revive it.
/// * A doubt ends no lease. It makes the next renewal due at once, and only a renewal that was sent
///   after the doubt settles it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    ttl: Duration,
    sent: Instant,
    valid_until: Instant,
    doubted: Option<Instant>,
    lost: Option<LostReason>,
}

impl Lease {
    /// A lease with an acknowledged request that was sent at `sent`.
    pub fn new(sent: Instant, ttl: Duration) -> Lease {
        Lease { ttl, sent, valid_until: valid_until(sent, ttl), doubted: None, lost: None }
    }

    /// Takes in a renewal that was sent at `sent` and acknowledged by `now`. Returns whether the
    /// lease lives on.
    pub fn renewed(&mut self, now: Instant, sent: Instant, ttl: Duration) -> bool {
        if self.lost_at(now).is_some() {
            return false;
        }
        self.ttl = ttl;
        self.sent = self.sent.max(sent);
        self.valid_until = self.valid_until.max(valid_until(sent, ttl));
        self.doubted = self.doubted.filter(|doubted| sent < *doubted);
        true
    }

    /// Notes a sign at `now` that the server may have ended the lease.
    pub fn doubt(&mut self, now: Instant) {
        self.doubted = Some(now);
    }

    /// Marks the lease as lost. The first reason stays.
    pub fn lose(&mut self, reason: LostReason) {
        self.lost.get_or_insert(reason);
    }

    /// The reason why the lease is lost at `now`. `None` if it is valid.
    pub fn lost_at(&mut self, now: Instant) -> Option<&LostReason> {
        if self.lost.is_none() && now >= self.valid_until {
            self.lost = Some(LostReason::NotRenewed);
        }
        self.lost.as_ref()
    }

    /// How much longer the lease is valid without renewal.
    pub fn valid_for(&self, now: Instant) -> Duration {
        match self.lost {
            Some(_) => Duration::ZERO,
            None => self.valid_until.saturating_duration_since(now),
        }
    }

    /// When the next renewal is due: see [`renew_every`]. In the past if the lease is in doubt.
    pub fn renew_at(&self, interval_max: Duration) -> Instant {
        let due = self.sent + renew_every(self.ttl, interval_max);
        self.doubted.map_or(due, |doubted| doubted.min(due))
    }

    /// The time to live of the lease.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

/// The moment when a request that began or renewed a lease was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// When the answered try was sent.
    pub(crate) at: Instant,
    /// How long the machine had been suspended in all, read at `at` or before.
    pub(crate) asleep: Duration,
}

/// A lease, and the total of suspends when its last acknowledged request was sent.
#[derive(Debug)]
struct Watched {
    lease: Lease,
    asleep: Duration,
}

impl Watched {
    /// The reason why the lease is lost, or `None`. A suspend longer than [`SUSPEND_TOLERANCE`]
    /// loses it here.
    fn lost_at(&mut self, now: Instant, asleep: Duration) -> Option<&LostReason> {
        let slept = asleep.saturating_sub(self.asleep);
        let lost = self.lease.lost_at(now + slept.min(SUSPEND_TOLERANCE)).is_some();
        if !lost && slept > SUSPEND_TOLERANCE {
            self.lease.lose(LostReason::Suspended(slept));
        }
        self.lease.lost.as_ref()
    }

    fn valid_for(&self, now: Instant, asleep: Duration) -> Duration {
        let slept = asleep.saturating_sub(self.asleep);
        if slept > SUSPEND_TOLERANCE { Duration::ZERO } else { self.lease.valid_for(now + slept) }
    }
}

/// A lease shared by its holder and the task that renews it.
///
/// * A lost lease stays lost.
/// * Each access looks for a suspend first, because no timer fires while the machine sleeps.
#[derive(Debug)]
pub(crate) struct LeaseCell {
    watched: watch::Sender<Watched>,
    clock: SuspendClock,
}

impl LeaseCell {
    /// Starts a cell. `asleep` is the total of suspends when the request of `lease` was sent.
    pub(crate) fn new(lease: Lease, asleep: Duration, clock: SuspendClock) -> LeaseCell {
        LeaseCell { watched: watch::Sender::new(Watched { lease, asleep }), clock }
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.watched.borrow().lease.ttl()
    }

    pub(crate) fn renew_at(&self, interval_max: Duration) -> Instant {
        self.watched.borrow().lease.renew_at(interval_max)
    }

    /// How much longer the lease is valid without renewal.
    pub(crate) fn valid_for(&self) -> Duration {
        let (now, asleep) = (Instant::now(), self.clock.total());
        self.watched.borrow().valid_for(now, asleep)
    }

    /// Takes in a renewal. Returns whether the lease lives on.
    pub(crate) fn renewed(&self, sent: Sent, ttl: Duration) -> bool {
        let (now, asleep) = (Instant::now(), self.clock.total());
        let mut alive = false;
        self.watched.send_modify(|watched| {
            alive =
                watched.lost_at(now, asleep).is_none() && watched.lease.renewed(now, sent.at, ttl);
            if alive {
                watched.asleep = watched.asleep.max(sent.asleep);
            }
        });
        alive
    }

    pub(crate) fn lose(&self, reason: LostReason) {
        self.watched.send_modify(|watched| watched.lease.lose(reason));
    }

    /// Makes the next renewal due now, because the server may have ended the lease.
    pub(crate) fn doubt(&self) {
        self.watched.send_modify(|watched| watched.lease.doubt(Instant::now()));
    }

    /// Waits until the next renewal is due.
    pub(crate) async fn due(&self, interval_max: Duration) {
        let mut changes = self.watched.subscribe();
        loop {
            let due = changes.borrow_and_update().lease.renew_at(interval_max);
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                // The sender lives as long as `self`.
                _ = changes.changed() => {}
            }
        }
    }

    /// The reason why the lease is lost by now. `None` if it is valid.
    pub(crate) fn lost_now(&self) -> Option<LostReason> {
        let (now, asleep) = (Instant::now(), self.clock.total());
        if !self.watched.borrow().valid_for(now, asleep).is_zero() {
            return None;
        }
        let mut reason = None;
        self.watched.send_modify(|watched| reason = watched.lost_at(now, asleep).cloned());
        reason
    }

    /// Resolves with the reason when the lease is lost.
    pub(crate) async fn lost(&self) -> LostReason {
        let mut changes = self.watched.subscribe();
        loop {
            if let Some(reason) = self.lost_now() {
                return reason;
            }
            let valid_until = changes.borrow_and_update().lease.valid_until;
            // Timers do not count sleep, so this one is short.
            let look_again = valid_until.min(Instant::now() + LOOK_AGAIN);
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn validity_counts_from_the_send_and_stops_before_the_ttl() {
        let sent = Instant::now();
        let mut lease = Lease::new(sent, 10_000 * MS);
        assert_eq!(lease.valid_for(sent), 9_898 * MS);
        assert_eq!(lease.renew_at(10_000 * MS), sent + 10_000 * MS / 3);
        assert_eq!(
            Lease::new(sent, 86_400_000 * MS).renew_at(10_000 * MS),
            sent + 10_000 * MS,
            "a break is heard of"
        );
        assert_eq!(lease.lost_at(sent + 9_897 * MS), None);
        assert_eq!(lease.lost_at(sent + 9_898 * MS), Some(&LostReason::NotRenewed));
        assert_eq!(lease.valid_for(sent), Duration::ZERO, "and stays lost");
    }

    #[test]
    fn a_renewal_acknowledged_too_late_revives_nothing() {
        let sent = Instant::now();
        let mut lease = Lease::new(sent, 1_000 * MS);
        assert!(lease.renewed(sent + 400 * MS, sent + 300 * MS, 1_000 * MS));
        assert_eq!(lease.valid_for(sent + 400 * MS), 888 * MS);
        assert!(!lease.renewed(sent + 1_288 * MS, sent + 700 * MS, 1_000 * MS));
        assert_eq!(lease.lost_at(sent + 1_288 * MS), Some(&LostReason::NotRenewed));
    }

    #[test]
    fn acknowledgements_out_of_order_do_not_shorten_it() {
        let sent = Instant::now();
        let mut lease = Lease::new(sent, 1_000 * MS);
        assert!(lease.renewed(sent + 500 * MS, sent + 400 * MS, 1_000 * MS));
        assert!(lease.renewed(sent + 510 * MS, sent + 300 * MS, 1_000 * MS));
        assert_eq!(lease.valid_for(sent + 400 * MS), 988 * MS);
    }

    #[test]
    fn only_a_renewal_that_was_sent_after_a_doubt_settles_it() {
        let sent = Instant::now();
        let mut lease = Lease::new(sent, 10_000 * MS);
        lease.doubt(sent + 200 * MS);
        assert_eq!(lease.lost_at(sent + 200 * MS), None, "a doubt ends nothing");
        assert_eq!(lease.renew_at(10_000 * MS), sent + 200 * MS);
        // This renewal was on its way, so the server may have ended the lease after it.
        assert!(lease.renewed(sent + 300 * MS, sent + 100 * MS, 10_000 * MS));
        assert_eq!(lease.renew_at(10_000 * MS), sent + 200 * MS);
        assert!(lease.renewed(sent + 400 * MS, sent + 310 * MS, 10_000 * MS));
        assert_eq!(lease.renew_at(10_000 * MS), sent + 310 * MS + 10_000 * MS / 3);
    }

    #[test]
    fn the_first_reason_stays() {
        let mut lease = Lease::new(Instant::now(), 1_000 * MS);
        lease.lose(LostReason::Released);
        lease.lose(LostReason::NotRenewed);
        assert_eq!(lease.lost_at(Instant::now()), Some(&LostReason::Released));
    }

    proptest! {
        /// The server's count starts no earlier than the request was sent. Its clock may run 1 %
        /// faster than ours, so its lease ends at `sent + ttl` of that clock at the earliest. The
        /// holder always gives up before.
        #[test]
        fn the_holder_gives_up_before_the_server_can(
            ttl_ms in 100..86_400_000u32,
            renewals in prop::collection::vec((1..120u32, 0..500u32), 0..20),
        ) {
            let ttl = ttl_ms * MS;
            let start = Instant::now();
            let mut lease = Lease::new(start, ttl);
            let mut last_acknowledged = start;
            for (percent, answer_ms) in renewals {
                let sent = last_acknowledged + ttl * percent / 100;
                if lease.renewed(sent + answer_ms * MS, sent, ttl) {
                    last_acknowledged = sent;
                }
            }
            let server_ends = last_acknowledged + ttl * 99 / 100;
            prop_assert!(lease.lost_at(server_ends - 2 * MS).is_some());
        }
    }

    fn cell(ttl: Duration) -> LeaseCell {
        LeaseCell::new(
            Lease::new(Instant::now(), ttl),
            Duration::ZERO,
            SuspendClock::from_fn(|| Duration::ZERO),
        )
    }

    fn sent(asleep: Duration) -> Sent {
        Sent { at: Instant::now(), asleep }
    }

    #[tokio::test]
    async fn lost_resolves_when_the_validity_ends_or_the_server_says_so() {
        let began = Instant::now();
        assert_eq!(cell(100 * MS).lost().await, LostReason::NotRenewed);
        assert!(began.elapsed() >= 97 * MS);

        let cell = Arc::new(cell(3_600_000 * MS));
        assert_eq!(cell.lost_now(), None);
        let watcher = tokio::spawn({
            let cell = cell.clone();
            async move { cell.lost().await }
        });
        tokio::task::yield_now().await;
        cell.lose(LostReason::Fenced("broken".into()));
        assert_eq!(watcher.await.unwrap(), LostReason::Fenced("broken".into()));
        assert!(!cell.renewed(sent(Duration::ZERO), 1_000 * MS));
    }

    /// A lease of an hour on a machine that can be put to sleep.
    fn sleeper() -> (LeaseCell, Arc<Mutex<Duration>>) {
        let asleep = Arc::new(Mutex::new(Duration::from_secs(50)));
        let clock = SuspendClock::from_fn({
            let asleep = asleep.clone();
            move || *asleep.lock().unwrap()
        });
        let lease = Lease::new(Instant::now(), 3_600_000 * MS);
        (LeaseCell::new(lease, Duration::from_secs(50), clock), asleep)
    }

    #[test]
    fn a_suspend_loses_the_lease_though_its_timer_did_not_run_out() {
        let (cell, asleep) = sleeper();
        assert!(
            cell.lost_now().is_none() && !cell.valid_for().is_zero(),
            "sleep before the request is no loss"
        );
        *asleep.lock().unwrap() += 2_000 * MS;
        assert_eq!(cell.valid_for(), Duration::ZERO);
        assert!(!cell.renewed(sent(52_000 * MS), 3_600_000 * MS), "a renewal does not revive it");
        assert_eq!(cell.lost_now(), Some(LostReason::Suspended(2_000 * MS)));
        *asleep.lock().unwrap() -= 2_000 * MS;
        assert!(cell.lost_now().is_some(), "and it stays lost");
    }

    #[test]
    fn a_short_suspend_is_taken_off_the_validity() {
        let (cell, asleep) = sleeper();
        let before = cell.valid_for();
        *asleep.lock().unwrap() += 60 * MS;
        assert!(cell.lost_now().is_none());
        assert!(cell.valid_for() <= before - 60 * MS);
        assert!(cell.renewed(sent(50_060 * MS), 3_600_000 * MS));
        *asleep.lock().unwrap() += 60 * MS;
        assert!(cell.lost_now().is_none(), "counted from the last acknowledged request");
    }

    #[tokio::test]
    async fn a_watcher_notices_a_suspend_without_any_answer() {
        let (cell, asleep) = sleeper();
        let (reason, ()) = tokio::join!(cell.lost(), async {
            tokio::task::yield_now().await;
            *asleep.lock().unwrap() += 5_000 * MS;
        });
        assert_eq!(reason, LostReason::Suspended(5_000 * MS));
    }
}
