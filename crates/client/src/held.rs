//! A lock as its holder sees it, with a lease of its own or with a session.

use crate::{Error, Grant, LostReason};
use std::future::Future;
use std::time::Duration;

/// A lock that its caller holds: a [`LockGuard`](crate::LockGuard) with a lease of its own, or a
/// [`SessionLock`](crate::SessionLock).
///
/// ```
/// use palisade_client::{Held, LostReason};
///
/// /// Works in steps until the work is done or the lock is lost.
/// async fn work(lock: &impl Held, steps: u32) -> Result<(), LostReason> {
///     for step in 0..steps {
///         if !lock.is_valid() {
///             return Err(lock.lost().await);
///         }
///         println!("step {step} under token {}", lock.token());
///     }
///     Ok(())
/// }
/// ```
pub trait Held: Send + Sync {
    /// The grant as the server sent it.
    fn grant(&self) -> &Grant;

    /// The fencing token. Hand it to the resource that the lock protects.
    fn token(&self) -> u64 {
        self.grant().fencing_token
    }

    /// The name of the locked resource.
    fn name(&self) -> &str {
        &self.grant().resource_name
    }

    /// Whether the lock is held, as far as can be known.
    ///
    /// When the last acknowledged renewal or heartbeat was sent, the lock was not broken or
    /// released, and a session was in the same life on its shard. The TTL has not run out since,
    /// with sleep of this machine counted.
    fn is_valid(&self) -> bool;

    /// How much longer the lock is held if no renewal or heartbeat gets through. Zero once the lock
    /// is lost.
    fn valid_for(&self) -> Duration;

    /// Resolves with the reason when the lock is lost, alone or with its session. Stop acting on
    /// the lock then.
    fn lost(&self) -> impl Future<Output = LostReason> + Send;

    /// Releases the lock, and returns once the server has answered. A session stays open.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if the lock was lost before. After any other error the release is
    /// retried in the background, until the server answers, the TTL is over or the session ends.
    fn release(self) -> impl Future<Output = Result<(), Error>> + Send
    where
        Self: Sized;
}
