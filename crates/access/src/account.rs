//! The present use of one gateway by each identity, over all its connections.

use crate::policy::Quota;
use crate::principal::Principal;
use crate::rate::Bucket;
use crate::remembered::Remembered;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Most identities that are remembered.
const ACCOUNTS_MAX: usize = 65_536;

/// The purpose of an operation, where operations are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// To keep a lock or a session of the client: a renewal, a heartbeat.
    Keep,
    /// To end a lock, a wait or a session of the client: a release, a cancel, a close.
    End,
    /// All else.
    Other,
}

/// The operations, waits, streams and watches of one identity.
///
/// * Each kind of work has a bucket of its own, so that no flood of acquires and releases costs its
///   identity a lock.
#[derive(Debug, Default)]
pub struct Account {
    keep: Mutex<Bucket>,
    end: Mutex<Bucket>,
    other: Mutex<Bucket>,
    waits: AtomicU32,
    streams: AtomicU32,
    watches: AtomicU32,
    watch_legs: AtomicU32,
}

/// One wait, stream or watch of an account, or the legs of one watch. Dropping it ends it there.
#[derive(Debug)]
pub struct Place {
    account: Arc<Account>,
    count: fn(&Account) -> &AtomicU32,
    size: u32,
}

impl Account {
    /// Counts an operation as `count` of them, because it asks so many shards.
    ///
    /// [`Work::Keep`] needs room for one of them only. Otherwise a heartbeat to more shards than
    /// the burst would empty the bucket each time, and the renewals beside it would be refused.
    ///
    /// # Errors
    /// The milliseconds until there is room for it, if the identity is above its rate.
    pub fn operation(&self, work: Work, count: u32, quota: &Quota, now_ms: u64) -> Result<(), u32> {
        let Some(per_second) = quota.operations_per_second else { return Ok(()) };
        let burst = quota.burst.unwrap_or(per_second);
        let bucket = match work {
            Work::Keep => &self.keep,
            Work::End => &self.end,
            Work::Other => &self.other,
        };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        match work {
            Work::Keep => bucket.take_or_owe(count, per_second.get(), burst.get(), now_ms),
            Work::End | Work::Other => bucket.take(count, per_second.get(), burst.get(), now_ms),
        }
    }

    /// Takes a place for a wait. `None` if the identity has `max` already.
    pub fn wait(self: &Arc<Account>, max: u32) -> Option<Place> {
        self.place(1, max, |account| &account.waits)
    }

    /// Takes a place for a stream. `None` if the identity has `max` already.
    pub fn stream(self: &Arc<Account>, max: u32) -> Option<Place> {
        self.place(1, max, |account| &account.streams)
    }

    /// Takes a place for a watch. `None` if the identity has `max` already.
    pub fn watch(self: &Arc<Account>, max: u32) -> Option<Place> {
        self.place(1, max, |account| &account.watches)
    }

    /// Takes a place for the `legs` of one watch: the shards that it asks. `None` if the identity
    /// would have more than `max` with them.
    pub fn watch_legs(self: &Arc<Account>, legs: u32, max: u32) -> Option<Place> {
        self.place(legs, max, |account| &account.watch_legs)
    }

    fn place(
        self: &Arc<Account>,
        size: u32,
        max: u32,
        count: fn(&Account) -> &AtomicU32,
    ) -> Option<Place> {
        let place = Place { account: self.clone(), count, size };
        let before = count(self).fetch_add(size, Relaxed);
        (before.saturating_add(size) <= max).then_some(place)
    }

    /// Whether a new account would be the same. An account in use is none that can be forgotten.
    fn is_idle(self: &Arc<Account>, now_ms: u64) -> bool {
        // At one operation per second, the slowest rate, a bucket counts as full the latest.
        let is_full = |bucket: &Mutex<Bucket>| {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).is_full(1, now_ms)
        };
        Arc::strong_count(self) == 1
            && [&self.keep, &self.end, &self.other].into_iter().all(is_full)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.count)(&self.account).fetch_sub(self.size, Relaxed);
    }
}

/// The accounts of all identities.
///
/// * A bounded number is remembered. An account is forgotten only if a new one would be the same.
/// * If none can be forgotten, further identities share one account, and so its bounds.
#[derive(Debug)]
pub struct Accounts {
    remembered: Mutex<Remembered<Principal, Arc<Account>>>,
    shared: Arc<Account>,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts::with_room_for(ACCOUNTS_MAX)
    }
}

impl Accounts {
    fn with_room_for(max: usize) -> Accounts {
        Accounts { remembered: Mutex::new(Remembered::new(max)), shared: Arc::default() }
    }

    /// The account of an identity. All its connections share it.
    pub fn of(&self, principal: &Principal, now_ms: u64) -> Arc<Account> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let account = remembered.of(principal, now_ms, |account| account.is_idle(now_ms));
        account.map_or_else(|| self.shared.clone(), |account| account.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn one_per_second() -> Quota {
        Quota { operations_per_second: NonZeroU32::new(1), ..Quota::default() }
    }

    #[test]
    fn all_connections_of_an_identity_share_its_bounds() {
        let (accounts, alice) = (Accounts::default(), "alice".parse().unwrap());
        let (one, other) = (accounts.of(&alice, 0), accounts.of(&alice, 0));
        let place = one.wait(1).expect("the first");
        assert!(other.wait(1).is_none() && other.stream(1).is_some() && other.watch(1).is_some());
        drop(place);
        assert!(other.wait(1).is_some(), "a refused one took no place");
        let quota = one_per_second();
        let counted = |account: &Account| account.operation(Work::Other, 1, &quota, 0);
        assert_eq!((counted(&one), counted(&other)), (Ok(()), Err(1_000)));
        let bob = accounts.of(&"bob".parse().unwrap(), 0);
        assert_eq!(counted(&bob), Ok(()), "another identity has its own rate");
        let unbounded = one.operation(Work::Other, 1, &Quota::default(), 0);
        assert_eq!(unbounded, Ok(()), "without a quota there is no bound");
    }

    /// Regression: a client above its rate could not renew its locks.
    #[test]
    fn each_kind_of_work_takes_nothing_from_the_others() {
        let (account, quota) = (Account::default(), one_per_second());
        let counted = |work, now_ms| account.operation(work, 1, &quota, now_ms);
        for work in [Work::Other, Work::End, Work::Keep] {
            assert!(counted(work, 0).is_ok() && counted(work, 0).is_err(), "{work:?}");
        }
        for work in [Work::Other, Work::End, Work::Keep] {
            assert_eq!(counted(work, 1_000), Ok(()), "{work:?}");
        }
    }

    /// Regression: releases took the rate of renewals, and a heartbeat to more shards than the
    /// burst needed a full bucket.
    #[test]
    fn a_client_within_its_rate_keeps_its_locks_beside_a_flood_of_acquires_and_releases() {
        let (per_second, burst) = (NonZeroU32::new(100), NonZeroU32::new(10));
        let quota = Quota { operations_per_second: per_second, burst, ..Quota::default() };
        let account = Account::default();
        let counted = |work, count, now_ms| account.operation(work, count, &quota, now_ms);
        for now_ms in 0..10_000 {
            // Ten times the rate.
            let _ = (counted(Work::Other, 1, now_ms), counted(Work::End, 1, now_ms));
            if now_ms % 1_000 == 0 {
                assert_eq!(counted(Work::Keep, 1, now_ms), Ok(()), "renewal at {now_ms}");
                assert_eq!(counted(Work::Keep, 64, now_ms), Ok(()), "heartbeat at {now_ms}");
            }
            // Twenty renewals per second, once the debt of the heartbeat is paid.
            if now_ms % 1_000 >= 600 && now_ms % 20 == 0 {
                assert_eq!(counted(Work::Keep, 1, now_ms), Ok(()), "renewal at {now_ms}");
            }
        }
    }

    #[test]
    fn an_account_is_forgotten_only_if_a_new_one_would_be_the_same() {
        for work in [Work::Keep, Work::End, Work::Other] {
            let accounts = Accounts::with_room_for(2);
            let of = |name: &str, now_ms| accounts.of(&name.parse().unwrap(), now_ms);
            let connected = of("alice", 0);
            of("bob", 500).operation(work, 1, &one_per_second(), 500).unwrap();
            let (carol, dave) = (of("carol", 1_000), of("dave", 1_000));
            assert!(Arc::ptr_eq(&carol, &dave), "they share: bob has not regained its rate");
            let carol = of("carol", 2_000);
            assert!(!Arc::ptr_eq(&carol, &dave), "bob is forgotten");
            assert!(Arc::ptr_eq(&connected, &of("alice", 2_000)), "alice is connected");
        }
    }

    /// Regression: the accounts of a burst of identities stayed for ever, as long as they were
    /// fewer than may be remembered.
    #[test]
    fn the_accounts_of_a_burst_are_forgotten() {
        let accounts = Accounts::default();
        let connected = accounts.of(&"alice".parse().unwrap(), 0);
        for n in 0..1_000 {
            accounts.of(&format!("made-up-{n}").parse().unwrap(), 0);
        }
        let remembered = || accounts.remembered.lock().unwrap().len();
        assert_eq!(remembered(), 1_001);
        accounts.of(&"bob".parse().unwrap(), 1_000);
        assert_eq!(remembered(), 2);
        assert!(Arc::ptr_eq(&connected, &accounts.of(&"alice".parse().unwrap(), 1_000)));
    }
}
