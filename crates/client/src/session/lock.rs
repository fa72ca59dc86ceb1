//! One lock of a session.

use super::lives::LockCell;
use super::{Inner, Keeper};
use crate::letting_go::{Unwanted, is_final};
use crate::{Error, Grant, LostReason};
use std::sync::Arc;
use std::time::Duration;

/// A lock that hangs on a [`Session`](crate::Session).
///
/// Dropping it lets it go in the background, where that is tried until the server answers or the session is over.
#[derive(Debug)]
pub struct SessionLock {
    session: Arc<Inner>,
    grant: Grant,
    cell: Arc<LockCell>,
    released: bool,
}

impl SessionLock {
    pub(super) fn new(session: Arc<Inner>, grant: Grant, cell: Arc<LockCell>) -> SessionLock {
        SessionLock { session, grant, cell, released: false }
    }

    /// The fencing token: hand it to whatever the lock protects.
    pub fn token(&self) -> u64 {
        self.grant.fencing_token
    }

    /// The name of what is locked.
    pub fn name(&self) -> &str {
        &self.grant.resource_name
    }

    /// The shard that it lives on.
    pub fn shard(&self) -> u32 {
        self.grant.shard
    }

    /// The grant as it was given.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Held, as far as can be known: by the time the last acknowledged heartbeat was sent nobody had
    /// broken or released it, and its shard knew the same life of the session. The TTL has not run out
    /// since, sleep of this machine counted.
    pub fn is_valid(&self) -> bool {
        self.cell.lost_now().is_none()
    }

    /// How much longer it is held if no heartbeat gets through. Zero once it is lost.
    pub fn valid_for(&self) -> Duration {
        self.cell.valid_for()
    }

    /// Resolves when this lock is lost, alone or with its session, with the reason: stop acting on it then.
    pub async fn lost(&self) -> LostReason {
        self.cell.lost().await
    }

    /// Lets go of this lock; the session stays open.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if it was lost before. After any other error it is tried again in the background, until the
    /// server answers or the session is over.
    pub async fn release(mut self) -> Result<(), Error> {
        let release = self.session.client.release_of(self.name(), self.token(), self.grant.session_life);
        let outcome = release.await;
        // After any other error the rest is left to `drop`, as it is if this future is dropped.
        self.released = outcome.as_ref().err().is_none_or(is_final);
        outcome.map(|_| ())
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // A closed session has released it, a fenced one is not held.
        let over = matches!(self.cell.lost_now(), Some(LostReason::Released | LostReason::Fenced(_)));
        self.cell.lose(LostReason::Released);
        if self.session.lives().is_taken_up_again(&self.grant, &self.cell) {
            return;
        }
        if self.released || over {
            self.session.lives().forget(self.name(), self.token());
        } else {
            self.session.client.let_go(Unwanted::lock(&self.grant), self.cell.ttl(), Some(Keeper::of(&self.session)));
        }
    }
}
