//! A lock that keeps itself: renewed in the background, and released at the end.

use crate::acquiring::{Holding, Timed, left_until};
use crate::ends::Heard;
use crate::hearing::Subject;
use crate::lease::{Lease, LeaseCell, LostReason, pause_after_failure};
use crate::unwanted::Unwanted;
use crate::{AcquireOptions, Client, Error, ErrorCode, Grant, Held, WatchOptions, ends};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A held lock with a private lease of its own.
///
/// * The guard renews every third of the TTL, and every
///   [`ClientOptions::renew_interval_max`](crate::ClientOptions::renew_interval_max) at the latest,
///   while it lives and the lock is held. So it hears of a break within that time, and at once
///   where it may watch ([`ClientOptions::watch_held`](crate::ClientOptions::watch_held)).
/// * The lock counts as lost before its lease can end, and so before another can get it without a
///   break. Validity is counted from the moment each renewal was sent.
/// * A machine that was suspended meanwhile (a sleeping laptop) loses the lock when it wakes. A
///   virtual machine notices nothing if its host stops all its clocks: use the
///   [`token`](Held::token) for this case.
/// * Dropping the guard releases the lock in the background, with retries until the server answers
///   or the TTL is over. [`release`](Held::release) tells whether the release worked.
#[derive(Debug)]
pub struct LockGuard {
    client: Client,
    grant: Grant,
    lease: Arc<LeaseCell>,
    renewal: JoinHandle<()>,
    /// Hears of the end of the lock.
    hearing: JoinHandle<()>,
    released: bool,
}

impl Client {
    /// Takes a lock and keeps it. The guard renews the lock in the background, knows for how long
    /// it is valid, and releases it at the end.
    ///
    /// ```no_run
    /// # async fn example(client: palisade_client::Client) -> Result<(), palisade_client::Error> {
    /// use palisade_client::Held;
    ///
    /// let guard = client.lock("jobs/nightly").await?;
    /// tokio::select! {
    ///     () = work(guard.token()) => guard.release().await?,
    ///     reason = guard.lost() => eprintln!("stop: the lock is lost: {reason}"),
    /// }
    /// # Ok(())
    /// # }
    /// # async fn work(_token: u64) {}
    /// ```
    pub async fn lock(&self, options: impl Into<AcquireOptions>) -> Result<LockGuard, Error> {
        LockGuard::acquire(self.clone(), options.into()).await
    }
}

impl LockGuard {
    pub(crate) async fn acquire(
        client: Client,
        options: AcquireOptions,
    ) -> Result<LockGuard, Error> {
        if !options.session_id.is_empty() {
            return Err(Error::invalid(
                "a guard renews a private lease: use Session::acquire for a lock of a session",
            ));
        }
        client.letting_go().remember_runtime();
        let asleep = client.asleep();
        let until = options.until(client.options().timeout);
        let timed = client.acquire_timed(options.claimed(), None).await?;
        let holding = Holding::of(&client, &timed, None);
        let first = first_lease(&client, &timed, asleep, until).await;
        if !timed.fresh_id && first.as_ref().is_err_and(|error| error.code == ErrorCode::Expired) {
            // The caller is told to acquire again with another id, so this grant would never be
            // used.
            client.let_go(
                Unwanted::lock(&timed.grant),
                Duration::from_millis(timed.grant.ttl_ms.into()),
                None,
            );
        }
        let (lease, asleep) = first?;
        holding.into_iter().for_each(Holding::disarm);
        let lease = Arc::new(LeaseCell::new(lease, asleep, client.options().suspend_clock.clone()));
        client.guarded().take_up(&timed.grant, &lease);
        let renewal = tokio::spawn(renew(client.clone(), timed.grant.clone(), lease.clone()));
        let hearing = tokio::spawn(hear(client.clone(), timed.grant.clone(), lease.clone()));
        Ok(LockGuard { client, grant: timed.grant, lease, renewal, hearing, released: false })
    }

    /// Leaves the lock to its TTL: from now on it is neither renewed nor released.
    ///
    /// This is for a holder that cannot stop the work under the lock. Its successor then gets the
    /// lock no earlier than the TTL allows.
    pub fn abandon(mut self) {
        self.released = true;
    }
}

impl Held for LockGuard {
    fn grant(&self) -> &Grant {
        &self.grant
    }

    fn is_valid(&self) -> bool {
        self.lease.lost_now().is_none()
    }

    fn valid_for(&self) -> Duration {
        self.lease.valid_for()
    }

    async fn lost(&self) -> LostReason {
        self.lease.lost().await
    }

    async fn release(mut self) -> Result<(), Error> {
        self.renewal.abort();
        self.hearing.abort();
        let outcome = self.client.release(self.name(), self.token()).await;
        // Set only after the answer. If the future is dropped, or the answer is not certain, `drop`
        // does the release.
        self.released = outcome.as_ref().err().is_none_or(Error::is_final);
        outcome.map(|_| ())
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.renewal.abort();
        self.hearing.abort();
        let fenced = matches!(self.lease.lost_now(), Some(LostReason::Fenced(_)));
        self.lease.lose(LostReason::Released);
        if self.client.guarded().leave(&self.grant, &self.lease) && !self.released && !fenced {
            self.client.let_go(Unwanted::lock(&self.grant), self.lease.ttl(), None);
        }
    }
}

/// The first lease of a lock that was just acquired, and the sleep of the machine that it counts
/// from.
///
/// The TTL began no earlier than the request id was first sent. If the acquire waited or took
/// several tries, that may be long ago. If the caller chose the id, it may be older than this call,
/// and the time is unknown. Such a lock is renewed at once, and its validity is counted from the
/// renewal.
///
/// A lock that must be claimed is renewed too, because it is held only once the claim is
/// acknowledged.
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
        Err(error) => {
            tracing::debug!(%error, "a fresh lock could not be renewed: counted from its first request")
        }
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

/// Loses the lock as soon as the service says that its token ended.
///
/// The watch asks for the locks of its own owner. Otherwise each of the holders of a shared lock
/// would be told of each change by another, and of the whole queue.
async fn hear(client: Client, grant: Grant, lease: Arc<LeaseCell>) {
    let (name, token) = (grant.resource_name, grant.fencing_token);
    let options = WatchOptions::new().name(&name).owner(grant.owner_id);
    ends::hear(&client, Subject::Name(name.clone()), options, |heard| {
        match heard {
            Heard::Event(event) => {
                let ended = event.grant.as_ref().map(|ended| ended.fencing_token);
                let ours = ended == Some(token) && event.resource_name == name;
                if let Some(why) = ends::reason(event).filter(|_| ours) {
                    lease.lose(LostReason::Fenced(why));
                    return ControlFlow::Break(());
                }
            }
            Heard::State { tokens, .. } if !tokens.contains(&token) => lease.doubt(),
            Heard::State { .. } => {}
        }
        ControlFlow::Continue(())
    })
    .await;
}

/// Renews until the lock is lost.
async fn renew(client: Client, grant: Grant, lease: Arc<LeaseCell>) {
    let interval_max = client.options().renew_interval_max;
    loop {
        lease.due(interval_max).await;
        let (left, ttl) = (lease.valid_for(), lease.ttl());
        if left.is_zero() {
            return;
        }
        // An unanswered try must leave time for another.
        let timeout = left.min(ttl / 3).min(client.options().timeout);
        match client.renew_timed(&grant.resource_name, grant.fencing_token, timeout).await {
            Ok((renewal, sent)) => {
                if !lease.renewed(sent, Duration::from_millis(renewal.ttl_ms.into())) {
                    return;
                }
            }
            Err(error) if error.is_final() => return lease.lose(LostReason::Fenced(error.message)),
            Err(error) => {
                tracing::debug!(token = grant.fencing_token, %error, "a renewal failed: tried again while the lock is valid");
                tokio::time::sleep(pause_after_failure(ttl, interval_max)).await;
            }
        }
    }
}
