//! The newest guard of each lock of a client. The module knows nothing of the work of guards.

use crate::Grant;
use crate::lease::LeaseCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The guards of a client.
///
/// A caller can take a lock up again by its request id, in a new guard, while it still has a guard
/// that lost it. Only the newest guard may release the lock. A release by an older one would end
/// the lock of the newest.
#[derive(Debug, Default)]
pub(crate) struct Guarded(Mutex<BTreeMap<(String, u64), Weak<LeaseCell>>>);

impl Guarded {
    fn newest(&self) -> MutexGuard<'_, BTreeMap<(String, u64), Weak<LeaseCell>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_up(&self, grant: &Grant, lease: &Arc<LeaseCell>) {
        self.newest()
            .insert((grant.resource_name.clone(), grant.fencing_token), Arc::downgrade(lease));
    }

    /// Removes a dropped guard. Returns whether it was the newest of its lock.
    pub(crate) fn leave(&self, grant: &Grant, lease: &Arc<LeaseCell>) -> bool {
        let key = (grant.resource_name.clone(), grant.fencing_token);
        let mut newest = self.newest();
        let is_newest =
            newest.get(&key).is_some_and(|newest| newest.as_ptr() == Arc::as_ptr(lease));
        if is_newest {
            newest.remove(&key);
        }
        is_newest
    }
}
