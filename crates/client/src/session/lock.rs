//! A lock of a session, as its holder sees it.

use super::inner::Inner;
use super::lives::LockCell;
use crate::unwanted::Unwanted;
use crate::{Error, Grant, Held, LostReason};
use std::sync::Arc;
use std::time::Duration;

/// A lock that hangs on a [`Session`](crate::Session).
///
/// Dropping the lock releases it in the background, with retries until the server answers or the
/// session is over.
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

    /// The shard of the name.
    pub fn shard(&self) -> u32 {
        self.grant.shard
    }
}

impl Held for SessionLock {
    fn grant(&self) -> &Grant {
        &self.grant
    }

    fn is_valid(&self) -> bool {
        self.cell.lost_now().is_none()
    }

    fn valid_for(&self) -> Duration {
        self.cell.valid_for()
    }

    async fn lost(&self) -> LostReason {
        self.cell.lost().await
    }

    async fn release(mut self) -> Result<(), Error> {
        let release =
            self.session.client.release_of(self.name(), self.token(), self.grant.session_life);
        let outcome = release.await;
        // After another error, or if this future is dropped, `drop` does the rest.
        self.released = outcome.as_ref().err().is_none_or(Error::is_final);
        outcome.map(|_| ())
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // A closed session has released the lock, and a fenced lock is not held.
        let over =
            matches!(self.cell.lost_now(), Some(LostReason::Released | LostReason::Fenced(_)));
        self.cell.lose(LostReason::Released);
        if self.session.lives().is_taken_up_again(&self.grant, &self.cell) {
            return;
        }
        if self.released || over {
            self.session.lives().forget(self.name(), self.token());
        } else {
            self.session.client.let_go(
                Unwanted::lock(&self.grant),
                self.cell.ttl(),
                Some(self.session.keeper()),
            );
        }
    }
}
