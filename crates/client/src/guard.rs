//! One lock that keeps itself: renewed in the background, released at the end.

use crate::client::{Timed, left_until};
use crate::lease::{Lease, LeaseCell, LostReason, renew_every};
use crate::letting_go::{Unwanted, is_final};
use crate::session::Keeper;
use crate::{AcquireOptions, Client, Error, ErrorCode, Grant};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A held lock with a private lease of its own.
///
/// * Renewed every third of its TTL, and every [`ClientOptions::renew_interval_max`](crate::ClientOptions::renew_interval_max)
///   at the latest, as long as the guard lives and the lock is held. So it hears of a break within that time.
/// * Counts as lost before its lease can end, and so before another can get it without a break, because validity is
///   counted from the moment each renewal was sent. A machine that was suspended meanwhile (a sleeping laptop) loses it when it wakes. A virtual machine whose host
///   stops all its clocks does not notice, and is a reason to use the [`token`](Self::token).
/// * Dropping it lets it go in the background, where that is tried until the server answers or the TTL is over;
///   [`release`](Self::release) says whether that worked.
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
        client.letting_go().remember_runtime();
        let asleep = client.asleep();
        let until = options.until(client.options().timeout);
        let timed = client.acquire_timed(options.claimed(), None).await?;
        let holding = Holding::of(&client, &timed, None);
        let first = first_lease(&client, &timed, asleep, until).await;
        if !timed.fresh_id && first.as_ref().is_err_and(|error| error.code == ErrorCode::Expired) {
            // The caller is told to acquire anew, by another id: nobody comes back for this lock.
            client.let_go(Unwanted::lock(&timed.grant), Duration::from_millis(timed.grant.ttl_ms.into()), None);
        }
        let (lease, asleep) = first?;
        holding.into_iter().for_each(Holding::disarm);
        let lease = Arc::new(LeaseCell::new(lease, asleep, client.options().suspend_clock.clone()));
        client.guarded().take_up(&timed.grant, &lease);
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

    /// Held, as far as can be known: it was not broken by the time the last acknowledged renewal was sent, and its TTL has not run
    /// out since, sleep of this machine counted.
    pub fn is_valid(&self) -> bool {
        self.lease.lost_now().is_none()
    }

    /// How much longer it is held if no renewal gets through. Zero once it is lost.
    pub fn valid_for(&self) -> Duration {
        self.lease.valid_for()
    }

    /// Resolves when the lock is lost, with the reason: stop acting on it then.
    pub async fn lost(&self) -> LostReason {
        self.lease.lost().await
    }

    /// Lets go.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if it was lost before. After any other error it is tried again in the background, until the
    /// server answers or the TTL is over.
    pub async fn release(mut self) -> Result<(), Error> {
        self.renewal.abort();
        let outcome = self.client.release(self.name(), self.token()).await;
        // Not before: a dropped future leaves the release to `drop`, and so does one that got no certain answer.
        self.released = outcome.as_ref().err().is_none_or(is_final);
        outcome.map(|_| ())
    }

    /// Leaves the lock to its TTL: it is neither renewed nor released from now on.
    ///
    /// For a holder that cannot stop what the lock protects. Its successor then gets the lock no earlier
    /// than the TTL allows.
    pub fn abandon(mut self) {
        self.released = true;
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.renewal.abort();
        let fenced = matches!(self.lease.lost_now(), Some(LostReason::Fenced(_)));
        self.lease.lose(LostReason::Released);
        if self.client.guarded().leave(&self.grant, &self.lease) && !self.released && !fenced {
            self.client.let_go(Unwanted::lock(&self.grant), self.lease.ttl(), None);
        }
    }
}

/// The guards of a client.
///
/// A caller can take a lock up again by its request id, in a new guard, while it still has one that lost
/// it. Only the newest guard may let go: the others would end what it holds.
#[derive(Debug, Default)]
pub(crate) struct Guarded(Mutex<BTreeMap<(String, u64), Weak<LeaseCell>>>);

impl Guarded {
    fn newest(&self) -> MutexGuard<'_, BTreeMap<(String, u64), Weak<LeaseCell>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_up(&self, grant: &Grant, lease: &Arc<LeaseCell>) {
        self.newest().insert((grant.resource_name.clone(), grant.fencing_token), Arc::downgrade(lease));
    }

    /// A guard is dropped. Says whether it was the newest of its lock.
    fn leave(&self, grant: &Grant, lease: &Arc<LeaseCell>) -> bool {
        let key = (grant.resource_name.clone(), grant.fencing_token);
        let mut newest = self.newest();
        let is_newest = newest.get(&key).is_some_and(|newest| newest.as_ptr() == Arc::as_ptr(lease));
        if is_newest {
            newest.remove(&key);
        }
        is_newest
    }
}

/// A grant that no caller has yet: let go again unless it gets there.
pub(crate) struct Holding<'a> {
    client: &'a Client,
    unwanted: Option<Unwanted>,
    ttl: Duration,
    keeper: Option<Keeper>,
}

impl Holding<'_> {
    /// `keeper`: the session that keeps it alive. `None` for an id of the caller's, because the caller is
    /// told to try again with it: a release in the background would then end the lock that it gets.
    pub(crate) fn of<'a>(client: &'a Client, timed: &Timed, keeper: Option<Keeper>) -> Option<Holding<'a>> {
        let ttl = Duration::from_millis(timed.grant.ttl_ms.into());
        timed.fresh_id.then(|| Holding { client, unwanted: Some(Unwanted::lock(&timed.grant)), ttl, keeper })
    }

    pub(crate) fn disarm(mut self) {
        self.unwanted = None;
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if let Some(unwanted) = self.unwanted.take() {
            self.client.let_go(unwanted, self.ttl, self.keeper.take());
        }
    }
}

/// What may be believed of a lock that has just been acquired, and the sleep that counts with it.
///
/// Its TTL began no earlier than its request id was first sent. For one that waited, or took more than one try, that may be
/// long ago; for an id of the caller's, which may be older than this call, it is not known at all. Such a lock is renewed
/// at once, and counted from there. So is one that must be claimed: it is held only once the claim is acknowledged.
async fn first_lease(
    client: &Client,
    timed: &Timed,
    asleep: Duration,
    until: Instant,
) -> Result<(Lease, Duration), Error> {
    let grant = &timed.grant;
    let token = grant.fencing_token;
    let mut lease = Lease::new(timed.first_sent, Duration::from_millis(grant.ttl_ms.into()));
    let claimed = grant.claim_within_ms == 0;
    let began_now = timed.fresh_id && grant.waited_ms == 0 && timed.tries == 1;
    if claimed && began_now && lease.lost_at(Instant::now()).is_none() {
        return Ok((lease, asleep));
    }
    match client.renew_timed(&grant.resource_name, token, left_until(until)).await {
        Ok((renewal, sent)) => {
            let lease = Lease::new(sent.at, Duration::from_millis(renewal.ttl_ms.into()));
            return still_valid(lease, sent.asleep);
        }
        Err(error) if error.is_fenced() => return Err(error),
        Err(error) if !timed.fresh_id || !claimed => return Err(error.after_grant(token)),
        Err(error) => tracing::debug!(%error, "a fresh lock could not be renewed: counted from its first request"),
    }
    still_valid(lease, asleep)
}

fn still_valid(mut lease: Lease, asleep: Duration) -> Result<(Lease, Duration), Error> {
    match lease.lost_at(Instant::now()) {
        None => Ok((lease, asleep)),
        Some(_) => Err(Error::new(
            ErrorCode::Expired,
            "the lock was granted, and by the time that was known its lease may have run out: acquire anew, with a longer TTL",
        )),
    }
}

/// Renews until the lock is lost.
async fn renew(client: Client, grant: Grant, lease: Arc<LeaseCell>) {
    let interval_max = client.options().renew_interval_max;
    loop {
        tokio::time::sleep_until(lease.renew_at(interval_max)).await;
        let (left, ttl) = (lease.valid_for(), lease.ttl());
        if left.is_zero() {
            return;
        }
        // A try that is not answered must leave time for another.
        let timeout = left.min(ttl / 3).min(client.options().timeout);
        match client.renew_timed(&grant.resource_name, grant.fencing_token, timeout).await {
            Ok((renewal, sent)) => {
                if !lease.renewed(sent, Duration::from_millis(renewal.ttl_ms.into())) {
                    return;
                }
            }
            Err(error) if is_final(&error) => return lease.lose(LostReason::Fenced(error.message)),
            Err(error) => {
                tracing::debug!(token = grant.fencing_token, %error, "a renewal failed: tried again while the lock is valid");
                tokio::time::sleep(pause_after_failure(ttl, interval_max)).await;
            }
        }
    }
}

/// A twentieth of a short TTL; a few of them between two renewals of a long one.
pub(crate) fn pause_after_failure(ttl: Duration, interval_max: Duration) -> Duration {
    renew_every(ttl, interval_max) * 3 / 20
}
