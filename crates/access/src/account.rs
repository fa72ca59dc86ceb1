//! What each identity does at one gateway at present, over all its connections.

use crate::policy::Quota;
use crate::principal::Principal;
use crate::rate::Bucket;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Most identities that are remembered.
const ACCOUNTS_MAX: usize = 65_536;

/// The operations, waits and streams of one identity.
#[derive(Debug, Default)]
pub struct Account {
    bucket: Mutex<Bucket>,
    waits: AtomicU32,
    streams: AtomicU32,
}

/// One wait or stream of an account. Dropping it ends it there.
#[derive(Debug)]
pub struct Place {
    account: Arc<Account>,
    count: fn(&Account) -> &AtomicU32,
}

impl Account {
    /// Counts an operation as `count` of them, because it asks so many shards.
    ///
    /// # Errors
    /// The milliseconds until there is room for it, if the identity is above its rate.
    pub fn operation(&self, count: u32, quota: &Quota, now_ms: u64) -> Result<(), u32> {
        let Some(per_second) = quota.operations_per_second else { return Ok(()) };
        let burst = quota.burst.unwrap_or(per_second);
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(count, per_second.get(), burst.get(), now_ms)
    }

    /// Takes a place for a wait. `None` if the identity has as many as it may.
    pub fn wait(self: &Arc<Account>, quota: &Quota) -> Option<Place> {
        self.place(quota.waits, |account| &account.waits)
    }

    /// Takes a place for a stream. `None` if the identity has as many as it may.
    pub fn stream(self: &Arc<Account>, quota: &Quota) -> Option<Place> {
        self.place(quota.streams, |account| &account.streams)
    }

    fn place(
        self: &Arc<Account>,
        max: Option<NonZeroU32>,
        count: fn(&Account) -> &AtomicU32,
    ) -> Option<Place> {
        let place = Place { account: self.clone(), count };
        let before = count(self).fetch_add(1, Relaxed);
        max.is_none_or(|max| before < max.get()).then_some(place)
    }

    /// Whether a new account would be the same. An account in use is none that can be forgotten.
    fn is_idle(self: &Arc<Account>, now_ms: u64) -> bool {
        // At one operation per second, the slowest rate, a bucket counts as full the latest.
        Arc::strong_count(self) == 1
            && self.bucket.lock().unwrap_or_else(PoisonError::into_inner).is_full(1, now_ms)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.count)(&self.account).fetch_sub(1, Relaxed);
    }
}

/// The accounts of all identities.
///
/// * A bounded number is remembered. An account is forgotten only if a new one would be the same.
/// * If none can be forgotten, further identities share one account, and so its bounds.
#[derive(Debug)]
pub struct Accounts {
    max: usize,
    remembered: Mutex<BTreeMap<Principal, Arc<Account>>>,
    shared: Arc<Account>,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts { max: ACCOUNTS_MAX, remembered: Mutex::default(), shared: Arc::default() }
    }
}

impl Accounts {
    /// The account of an identity. All its connections share it.
    pub fn of(&self, principal: &Principal, now_ms: u64) -> Arc<Account> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = remembered.get(principal) {
            return account.clone();
        }
        if remembered.len() >= self.max {
            remembered.retain(|_, account| !account.is_idle(now_ms));
            if remembered.len() >= self.max {
                return self.shared.clone();
            }
        }
        remembered.entry(principal.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(operations_per_second: u32, waits: u32) -> Quota {
        Quota {
            operations_per_second: NonZeroU32::new(operations_per_second),
            waits: NonZeroU32::new(waits),
            ..Quota::default()
        }
    }

    #[test]
    fn all_connections_of_an_identity_share_its_bounds() {
        let (accounts, alice) = (Accounts::default(), "alice".parse().unwrap());
        let (one, other) = (accounts.of(&alice, 0), accounts.of(&alice, 0));
        let quota = quota(1, 1);
        let place = one.wait(&quota).expect("the first");
        assert!(other.wait(&quota).is_none() && other.stream(&quota).is_some());
        drop(place);
        assert!(other.wait(&quota).is_some(), "a refused one took no place");
        assert_eq!(
            (one.operation(1, &quota, 0), other.operation(1, &quota, 0)),
            (Ok(()), Err(1_000))
        );
        let bob = accounts.of(&"bob".parse().unwrap(), 0);
        assert_eq!(bob.operation(1, &quota, 0), Ok(()), "another identity has its own rate");
        assert_eq!(
            one.operation(1, &Quota::default(), 0),
            Ok(()),
            "without a quota there is no bound"
        );
    }

    #[test]
    fn an_account_is_forgotten_only_if_a_new_one_would_be_the_same() {
        let accounts = Accounts { max: 2, ..Accounts::default() };
        let of = |name: &str, now_ms| accounts.of(&name.parse().unwrap(), now_ms);
        let connected = of("alice", 0);
        of("bob", 0).operation(1, &quota(1, 1), 0).unwrap();
        let (carol, dave) = (of("carol", 1), of("dave", 1));
        assert!(Arc::ptr_eq(&carol, &dave), "they share: bob has not regained its rate");
        let carol = of("carol", 1_000);
        assert!(!Arc::ptr_eq(&carol, &dave), "bob is forgotten");
        assert!(Arc::ptr_eq(&connected, &of("alice", 1_000)), "alice is connected");
    }
}
