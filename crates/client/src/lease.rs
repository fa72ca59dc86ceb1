//! How long a holder may believe that it holds: pure arithmetic, and a cell to watch it.
//!
//! It promises that a lock counts as lost here before the server can give it to another, as long as clocks run apart by
//! less than [`margin`]: validity is counted from the moment the request was *sent*, and the server's count starts later.

use crate::planted::{self, Bug};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Why a lock is not held any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// It could not be renewed in time. The server may not have noticed yet.
    NotRenewed,
    /// The server said so: it expired, was broken, or its session is lost.
    Fenced(String),
    /// It was let go.
    Released,
}

impl std::fmt::Display for LostReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LostReason::NotRenewed => f.write_str("it could not be renewed in time"),
            LostReason::Fenced(why) => f.write_str(why),
            LostReason::Released => f.write_str("it was released"),
        }
    }
}

/// What is taken off a TTL for clocks that run apart and timers that fire late: 1 % and 2 ms.
pub fn margin(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

/// Until when a lease may be believed in whose grant or renewal was sent at `sent` and has been acknowledged.
pub fn valid_until(sent: Instant, ttl: Duration) -> Instant {
    if planted::is(Bug::ValidityTooLong) {
        return sent + ttl + ttl / 2; // planted: believed in for longer than it lives
    }
    sent + ttl.saturating_sub(margin(ttl))
}

/// When a lease renewed at `sent` is to be renewed next: after a third of its TTL, so that two tries may fail.
pub fn renew_at(sent: Instant, ttl: Duration) -> Instant {
    sent + ttl / 3
}

/// A lease as its holder may believe in it.
///
/// * `valid_until` never goes back.
/// * Once lost it stays lost: a renewal acknowledged after the validity ran out does not revive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    ttl: Duration,
    sent: Instant,
    valid_until: Instant,
    lost: Option<LostReason>,
}

impl Lease {
    /// Acknowledged; asked for at `sent`.
    pub fn new(sent: Instant, ttl: Duration) -> Lease {
        Lease { ttl, sent, valid_until: valid_until(sent, ttl), lost: None }
    }

    /// A renewal that was sent at `sent` has been acknowledged by `now`. Says whether the lease lives on.
    pub fn renewed(&mut self, now: Instant, sent: Instant, ttl: Duration) -> bool {
        if self.lost_at(now).is_some() {
            return false;
        }
        self.ttl = ttl;
        self.sent = self.sent.max(sent);
        self.valid_until = self.valid_until.max(valid_until(sent, ttl));
        true
    }

    /// It is lost. The first reason stays.
    pub fn lose(&mut self, reason: LostReason) {
        self.lost.get_or_insert(reason);
    }

    /// Why it is lost at `now`; `None`: it holds.
    pub fn lost_at(&mut self, now: Instant) -> Option<&LostReason> {
        if self.lost.is_none() && now >= self.valid_until {
            self.lost = Some(LostReason::NotRenewed);
        }
        self.lost.as_ref()
    }

    /// How much longer it holds without renewal.
    pub fn valid_for(&self, now: Instant) -> Duration {
        match self.lost {
            Some(_) => Duration::ZERO,
            None => self.valid_until.saturating_duration_since(now),
        }
    }

    /// When to renew.
    pub fn renew_at(&self) -> Instant {
        renew_at(self.sent, self.ttl)
    }

    /// Its time to live.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

/// A lease shared by its holder and whoever renews it.
#[derive(Debug)]
pub(crate) struct LeaseCell(watch::Sender<Lease>);

impl LeaseCell {
    pub(crate) fn new(lease: Lease) -> LeaseCell {
        LeaseCell(watch::Sender::new(lease))
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Lease) -> T) -> T {
        read(&self.0.borrow())
    }

    /// Says whether the lease lives on.
    pub(crate) fn renewed(&self, sent: Instant, ttl: Duration) -> bool {
        let mut alive = false;
        self.0.send_modify(|lease| alive = lease.renewed(Instant::now(), sent, ttl));
        alive
    }

    pub(crate) fn lose(&self, reason: LostReason) {
        self.0.send_modify(|lease| lease.lose(reason));
    }

    /// Why it is lost by now; `None`: it holds.
    pub(crate) fn lost_now(&self) -> Option<LostReason> {
        let now = Instant::now();
        if self.0.borrow().valid_for(now) > Duration::ZERO {
            return None;
        }
        let mut reason = None;
        self.0.send_modify(|lease| reason = lease.lost_at(now).cloned());
        reason
    }

    /// Resolves when it is lost.
    pub(crate) async fn lost(&self) -> LostReason {
        let mut changes = self.0.subscribe();
        loop {
            if let Some(reason) = self.lost_now() {
                return reason;
            }
            let valid_until = changes.borrow_and_update().valid_until;
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(valid_until) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn validity_counts_from_the_send_and_stops_before_the_ttl() {
        let sent = Instant::now();
        let mut lease = Lease::new(sent, 10_000 * MS);
        assert_eq!(lease.valid_for(sent), 9_898 * MS);
        assert_eq!(lease.renew_at(), sent + 10_000 * MS / 3);
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
    fn the_first_reason_stays() {
        let mut lease = Lease::new(Instant::now(), 1_000 * MS);
        lease.lose(LostReason::Released);
        lease.lose(LostReason::NotRenewed);
        assert_eq!(lease.lost_at(Instant::now()), Some(&LostReason::Released));
    }

    proptest! {
        /// The server's count starts at the earliest when the request was sent, so its lease ends at `sent + ttl` at the
        /// earliest by a clock that may run 1 % faster than ours. The holder always gives up before.
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

    #[tokio::test]
    async fn lost_resolves_when_the_validity_ends_or_the_server_says_so() {
        let sent = Instant::now();
        let cell = LeaseCell::new(Lease::new(sent, 100 * MS));
        assert_eq!(cell.lost().await, LostReason::NotRenewed);
        assert!(sent.elapsed() >= 97 * MS);

        let cell = std::sync::Arc::new(LeaseCell::new(Lease::new(Instant::now(), 3_600_000 * MS)));
        assert_eq!(cell.lost_now(), None);
        let watcher = tokio::spawn({
            let cell = cell.clone();
            async move { cell.lost().await }
        });
        tokio::task::yield_now().await;
        cell.lose(LostReason::Fenced("broken".into()));
        assert_eq!(watcher.await.unwrap(), LostReason::Fenced("broken".into()));
        assert!(!cell.renewed(Instant::now(), 1_000 * MS));
    }
}
