//! One lock that keeps itself: renewed in the background, released at the end.

use crate::client::Timed;
use crate::lease::{Lease, LeaseCell, LostReason};
use crate::{AcquireOptions, Client, Error, ErrorCode, Grant};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A held lock with a private lease of its own.
///
/// * Renewed every third of its TTL, as long as the guard lives and the lock is held.
/// * Counts as lost before the service can grant it to another, because validity is counted from the moment each renewal
///   was sent; a process that is suspended together with its monotonic clock (a sleeping laptop) is the exception, and a
///   reason to use the [`token`](Self::token).
/// * Dropping it lets it go in the background; [`release`](Self::release) says whether that worked.
#[derive(Debug)]
pub struct LockGuard {
    client: Client,
    grant: Grant,
    lease: Arc<LeaseCell>,
    renewal: JoinHandle<()>,
    released: bool,
}

impl LockGuard {
    pub(crate) async fn acquire(client: Client, options: AcquireOptions) -> Result<LockGuard, Error> {
        if !options.session_id.is_empty() {
            return Err(Error::invalid("a guard renews a private lease: use Session::acquire for a lock of a session"));
        }
        let timed = client.acquire_timed(options).await?;
        let holding = Holding { client: &client, grant: &timed.grant, armed: true };
        let lease = Arc::new(LeaseCell::new(first_lease(&client, &timed).await?));
        holding.disarm();
        let renewal = tokio::spawn(renew(client.clone(), timed.grant.clone(), lease.clone()));
        Ok(LockGuard { client, grant: timed.grant, lease, renewal, released: false })
    }

    /// The fencing token: hand it to whatever the lock protects.
    pub fn token(&self) -> u64 {
        self.grant.fencing_token
    }

    /// The name of what is locked.
    pub fn name(&self) -> &str {
        &self.grant.resource_name
    }

    /// The grant as it was given.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Held, as far as can be known.
    pub fn is_valid(&self) -> bool {
        self.lease.lost_now().is_none()
    }

    /// How much longer it is held if no renewal gets through. Zero once it is lost.
    pub fn valid_for(&self) -> Duration {
        self.lease.read(|lease| lease.valid_for(Instant::now()))
    }

    /// Resolves when the lock is lost, with the reason: stop acting on it then.
    pub async fn lost(&self) -> LostReason {
        self.lease.lost().await
    }

    /// Lets go.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if it was lost before; [`Error::is_outcome_unknown`] and the like leave it to its TTL.
    pub async fn release(mut self) -> Result<(), Error> {
        self.renewal.abort();
        let outcome = self.client.release(self.name(), self.token()).await;
        // Not before: a dropped future leaves the release to `drop`.
        self.released = true;
        self.lease.lose(LostReason::Released);
        outcome.map(|_| ())
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.renewal.abort();
        let fenced = matches!(self.lease.lost_now(), Some(LostReason::Fenced(_)));
        if !self.released && !fenced {
            release_in_background(&self.client, &self.grant);
        }
    }
}

/// Best effort: without a runtime, or without an answer, the lock ends with its TTL.
pub(crate) fn release_in_background(client: &Client, grant: &Grant) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let (client, name, token) = (client.clone(), grant.resource_name.clone(), grant.fencing_token);
    runtime.spawn(async move {
        if let Err(error) = client.release(&name, token).await {
            tracing::debug!(token, %error, "a dropped lock was not released: it ends with its TTL");
        }
    });
}

/// Held, and not yet in anybody's hands: let go again unless it gets there.
pub(crate) struct Holding<'a> {
    pub(crate) client: &'a Client,
    pub(crate) grant: &'a Grant,
    pub(crate) armed: bool,
}

impl Holding<'_> {
    pub(crate) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if self.armed {
            release_in_background(self.client, self.grant);
        }
    }
}

/// What may be believed of a lock that has just been acquired.
///
/// Its TTL began no earlier than its request id was first sent. For one that waited, or took more than one try, that may be
/// long ago; for an id of the caller's, which may be older than this call, it is not known at all. Such a lock is renewed
/// at once, and counted from there.
async fn first_lease(client: &Client, timed: &Timed) -> Result<Lease, Error> {
    let grant = &timed.grant;
    let ttl = Duration::from_millis(grant.ttl_ms.into());
    let mut lease = Lease::new(timed.first_sent, ttl);
    if timed.fresh_id && grant.waited_ms == 0 && timed.tries == 1 && lease.lost_at(Instant::now()).is_none() {
        return Ok(lease);
    }
    match client.renew_timed(&grant.resource_name, grant.fencing_token, client.options().timeout).await {
        Ok((renewal, sent)) => lease = Lease::new(sent, Duration::from_millis(renewal.ttl_ms.into())),
        Err(error) if error.is_fenced() => return Err(error),
        Err(error) if !timed.fresh_id => return Err(error.after_grant(grant.fencing_token)),
        Err(error) => tracing::debug!(%error, "a fresh lock could not be renewed: counted from its first request"),
    }
    match lease.lost_at(Instant::now()) {
        None => Ok(lease),
        Some(_) => Err(Error::new(
            ErrorCode::Expired,
            "the lock was granted, and by the time that was known its lease may have run out: acquire anew, with a longer TTL",
        )),
    }
}

/// Renews until the lock is lost.
async fn renew(client: Client, grant: Grant, lease: Arc<LeaseCell>) {
    loop {
        let due = lease.read(Lease::renew_at);
        tokio::time::sleep_until(due).await;
        let left = lease.read(|lease| lease.valid_for(Instant::now()));
        if left.is_zero() {
            return;
        }
        // A try that is not answered must leave time for another.
        let timeout = left.min(lease.read(Lease::ttl) / 3).min(client.options().timeout);
        match client.renew_timed(&grant.resource_name, grant.fencing_token, timeout).await {
            Ok((renewal, sent)) => {
                if !lease.renewed(sent, Duration::from_millis(renewal.ttl_ms.into())) {
                    return;
                }
            }
            Err(error) if error.is_fenced() || error.is_invalid() => {
                return lease.lose(LostReason::Fenced(error.message));
            }
            Err(error) => {
                tracing::debug!(token = grant.fencing_token, %error, "a renewal failed: tried again while the lock is valid");
                tokio::time::sleep(lease.read(Lease::ttl) / 20).await;
            }
        }
    }
}
