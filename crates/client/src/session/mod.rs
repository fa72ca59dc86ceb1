//! A session: many locks on one heartbeat.

mod lives;
mod lock;

pub use lock::SessionLock;

use crate::client::{Timed, left_until};
use crate::guard::{Holding, pause_after_failure};
use crate::lease::{Lease, LeaseCell, Sent, renew_every};
use crate::letting_go::{Unwanted, is_final};
use crate::{AcquireOptions, Client, Error, ErrorCode, SessionOptions};
use lives::{Answered, Lives, LockCell, Named};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wire::v1::HeartbeatRequest;

/// An open session. Its locks live as long as its heartbeats get through.
///
/// A heartbeat is one RPC that names the shards where the session holds locks. It is sent every
/// third of the TTL, and every
/// [`ClientOptions::renew_interval_max`](crate::ClientOptions::renew_interval_max) at the latest.
///
/// A lock is lost if it was broken, or if another released it by its token. It is also lost if its
/// shard lost the session, or could not be reached for a TTL. The other locks stay.
///
/// Dropping the session closes it in the background, which releases everything.
/// [`close`](Self::close) tells whether the close worked.
///
/// ```no_run
/// # async fn example(client: palisade_client::Client) -> Result<(), palisade_client::Error> {
/// use palisade_client::{Held, SessionOptions};
/// use std::time::Duration;
///
/// let session = client.open_session(SessionOptions::new().ttl(Duration::from_secs(15))).await?;
/// let a = session.acquire("partition/1").await?;
/// let b = session.acquire("partition/2").await?;
/// println!("tokens {} and {}", a.token(), b.token());
/// session.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    inner: Arc<Inner>,
    heartbeat: JoinHandle<()>,
    closed: bool,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    id: String,
    ttl: Duration,
    owner: String,
    metadata: String,
    lives: Mutex<Lives>,
    /// Signals that a lease was started, because it may be due before the next heartbeat.
    started: Notify,
}

/// A session's hold on locks that are to be released. Its heartbeats keep them alive until then.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(Weak<Inner>);

impl Keeper {
    fn of(session: &Arc<Inner>) -> Keeper {
        Keeper(Arc::downgrade(session))
    }

    /// Whether the session may still be alive.
    pub(crate) fn keeps(&self) -> bool {
        self.0.upgrade().is_some_and(|session| !session.lives().is_closed())
    }

    /// Drops a lock that the server no longer holds.
    pub(crate) fn forget(&self, name: &str, token: u64) {
        if let Some(session) = self.0.upgrade() {
            session.lives().forget(name, token);
        }
    }
}

impl Session {
    pub(crate) async fn open(client: Client, options: SessionOptions) -> Result<Session, Error> {
        let owner = options.owner.clone().unwrap_or_else(|| client.options().owner.clone());
        let metadata = options.metadata.clone();
        let opened = client.open_session_raw(options).await?;
        client.letting_go().remember_runtime();
        let ttl = Duration::from_millis(opened.ttl_ms.into());
        let (lives, started) = (Mutex::default(), Notify::new());
        let inner =
            Arc::new(Inner { client, id: opened.session_id, ttl, owner, metadata, lives, started });
        let heartbeat = tokio::spawn(beat(inner.clone()));
        Ok(Session { inner, heartbeat, closed: false })
    }

    /// The session's id, as grants and history show it.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Time to live without a heartbeat.
    pub fn ttl(&self) -> Duration {
        self.inner.ttl
    }

    /// The shards that a heartbeat names at present.
    pub fn shards(&self) -> Vec<u32> {
        self.inner.lives().shards()
    }

    /// Takes a lock that hangs on this session. The session's own TTL and id replace those of
    /// `options`.
    ///
    /// Dropping the future releases a lock that it may be granted. With a request id of the
    /// caller's ([`AcquireOptions::request_id`]) it does not, because the caller may come back with
    /// the id. If the caller never does, the session's heartbeats keep the lock until the session
    /// ends.
    ///
    /// A retry of an acquire with the same id gives the same lock. If one of its objects releases
    /// the lock, the others lose it.
    ///
    /// # Errors
    /// [`Error::is_held`] if another holds the lock. [`Error::is_fenced`] if the session is lost on
    /// the shard of the name: open a new session then.
    pub async fn acquire(&self, options: impl Into<AcquireOptions>) -> Result<SessionLock, Error> {
        let mut options = options.into().session(self.id()).ttl(self.inner.ttl).claimed();
        options.owner.get_or_insert_with(|| self.inner.owner.clone());
        if options.metadata.is_empty() {
            options.metadata = self.inner.metadata.clone();
        }
        let client = &self.inner.client;
        let until = options.until(client.options().timeout);
        let acquiring = Acquiring::begin(&self.inner);
        let timed = match client.acquire_timed(options, Some(Keeper::of(&self.inner))).await {
            Ok(timed) => timed,
            Err(error) => {
                if error.code == ErrorCode::SessionLost {
                    // One shard has lost the session. A heartbeat tells which, before the caller
                    // looks at its other locks.
                    let _ = self.inner.beat_once(left_until(until)).await;
                }
                return Err(error);
            }
        };
        if timed.grant.session_id != self.id() {
            // The life of another session must not be compared with this session's. That would lose
            // the locks of this session.
            let of = if timed.grant.session_id.is_empty() {
                "of no session"
            } else {
                "of another session"
            };
            let message = format!(
                "this request id took a lock {of} before: choose a fresh id for each acquire"
            );
            return Err(Error::invalid(message));
        }
        let holding = Holding::of(client, &timed, Some(Keeper::of(&self.inner)));
        let cell = self.inner.take_up(&timed, &acquiring, until).await;
        let cell = cell.map_err(|error| error.after_grant(timed.grant.fencing_token))?;
        holding.into_iter().for_each(Holding::disarm);
        Ok(SessionLock::new(self.inner.clone(), timed.grant, cell))
    }

    /// Releases all locks of the session, and returns their number.
    ///
    /// # Errors
    /// Those of [`Client::close_session`]. After an error the close is retried in the background,
    /// until the server answers or the TTL is over.
    pub async fn close(mut self) -> Result<u32, Error> {
        self.heartbeat.abort();
        let outcome = self.inner.close().await;
        // After an error, or if this future is dropped, `drop` does the rest.
        self.closed = outcome.as_ref().err().is_none_or(is_final);
        outcome
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.heartbeat.abort();
        if self.closed {
            return;
        }
        let shards = self.inner.end();
        if !shards.is_empty() {
            let session = Unwanted::Session { id: self.inner.id.clone(), shards };
            self.inner.client.let_go(session, self.inner.ttl, None);
        }
    }
}

/// An acquire of a session, in flight.
struct Acquiring<'a> {
    session: &'a Inner,
    doubts: u64,
}

impl Acquiring<'_> {
    fn begin(session: &Inner) -> Acquiring<'_> {
        Acquiring { session, doubts: session.lives().begin_acquire() }
    }
}

impl Drop for Acquiring<'_> {
    fn drop(&mut self) {
        self.session.lives().end_acquire();
    }
}

impl Inner {
    fn lives(&self) -> MutexGuard<'_, Lives> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a lock of a grant.
    async fn take_up(
        &self,
        timed: &Timed,
        acquiring: &Acquiring<'_>,
        until: Instant,
    ) -> Result<Arc<LockCell>, Error> {
        let grant = &timed.grant;
        let lease = self.lease_of(timed, until).await?;
        let mut doubts = acquiring.doubts;
        loop {
            if let Some(cell) = self.lives().take_up(grant, lease.clone(), doubts)? {
                return Ok(cell);
            }
            // Another may have ended the lock while its grant was in flight. A renewal of the lock
            // tells.
            doubts = self.lives().doubts();
            self.client
                .renew_timed(&grant.resource_name, grant.fencing_token, left_until(until))
                .await?;
        }
    }

    /// The session's lease on the shard of a new grant.
    ///
    /// An acquire does not renew, and does not tell how long ago the session began there. So one
    /// heartbeat starts the lease, unless a lease of the life is running. The heartbeat also claims
    /// a grant that must be claimed.
    async fn lease_of(&self, timed: &Timed, until: Instant) -> Result<Arc<LeaseCell>, Error> {
        let (grant, shard) = (&timed.grant, timed.grant.shard);
        let named = {
            let mut lives = self.lives();
            let running = lives.lease_of(grant)?;
            if let Some(lease) = running
                && grant.claim_within_ms == 0
            {
                return Ok(lease);
            }
            lives.named_for(grant)
        };
        let (answered, sent) =
            self.heartbeat(std::slice::from_ref(&named), left_until(until)).await?;
        let (said, broken_count) = match answered.first() {
            Some(Answered::Renewed { ttl, broken_count }) => (*ttl, *broken_count),
            Some(Answered::Lost) => {
                return Err(Error::new(
                    ErrorCode::SessionLost,
                    format!(
                        "shard {shard} lost this session right after a grant: open a new session"
                    ),
                ));
            }
            _ => return Err(unconfirmed(shard)),
        };
        // The server's TTL counts if it is shorter, because another acquire may have begun the
        // session there with its own.
        let ttl = self.ttl.min(said.unwrap_or(self.ttl));
        let fresh = Lease::new(sent.at, ttl);
        if fresh.valid_for(Instant::now()).is_zero() {
            return Err(unconfirmed(shard));
        }
        let clock = self.client.options().suspend_clock.clone();
        let lease =
            self.lives().start(grant, LeaseCell::new(fresh, sent.asleep, clock), broken_count)?;
        self.started.notify_one();
        Ok(lease)
    }

    /// Ends all leases. Returns the shards where the server may still hold locks.
    fn end(&self) -> Vec<u32> {
        let mut lives = self.lives();
        lives.close();
        lives.shards()
    }

    async fn close(&self) -> Result<u32, Error> {
        // The shards stay known. If this future is dropped, the next close must name them.
        let shards = self.end();
        if shards.is_empty() {
            return Ok(0);
        }
        self.client.close_session(&self.id, &shards).await
    }

    /// Sends one heartbeat of these lives. Returns each shard's answer.
    async fn heartbeat(
        &self,
        named: &[Named],
        timeout: Duration,
    ) -> Result<(Vec<Answered>, Sent), Error> {
        let request = HeartbeatRequest {
            session_id: self.id.clone(),
            leases: named.iter().map(|named| named.lease).collect(),
        };
        let (answer, sent) = self.client.heartbeat_timed(request, timeout).await?;
        Ok((self.lives().answered(named, &answer, sent, self.ttl), sent))
    }

    /// Sends one heartbeat for all shards. The result sets the time of the next.
    async fn beat_once(&self, within: Duration) -> Result<(), Error> {
        let named = self.lives().named();
        if named.is_empty() {
            return Ok(());
        }
        let timeout = within.min(self.pace() / 3);
        let (answered, _) = self.heartbeat(&named, timeout).await?;
        match answered.iter().zip(&named).find(|(answered, _)| **answered == Answered::Failed) {
            None => Ok(()),
            Some((_, Named { lease, .. })) => {
                let message = format!("shard {} could not be asked in time", lease.shard);
                Err(Error::new(ErrorCode::NoLeader, message))
            }
        }
    }

    /// The TTL that sets the time between heartbeats.
    fn pace(&self) -> Duration {
        self.lives().ttl().map_or(self.ttl, |ttl| ttl.min(self.ttl))
    }

    /// Releases locks that no caller can count on any more, because the heartbeats would keep them.
    fn let_go_of_lost(self: &Arc<Self>) {
        let unwanted = self.lives().unwanted(Instant::now());
        for lock in unwanted {
            self.client.let_go(lock, self.ttl, Some(Keeper::of(self)));
        }
    }
}

fn unconfirmed(shard: u32) -> Error {
    Error::new(
        ErrorCode::OutcomeUnknown,
        format!(
            "granted, but shard {shard} could not confirm the session's lease in time: try again"
        ),
    )
}

/// Sends one heartbeat per interval, and sooner after a heartbeat that did not reach every shard.
async fn beat(inner: Arc<Inner>) {
    let interval_max = inner.client.options().renew_interval_max;
    loop {
        inner.let_go_of_lost();
        let idle = Instant::now() + renew_every(inner.pace(), interval_max);
        let due = inner.lives().renew_at(interval_max).map_or(idle, |due| due.min(idle));
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = inner.started.notified() => continue,
        }
        if let Err(error) = inner.beat_once(inner.client.options().timeout).await {
            tracing::debug!(session = inner.id, %error, "a heartbeat did not reach every shard: tried again soon");
            tokio::time::sleep(pause_after_failure(inner.pace(), interval_max)).await;
        }
    }
}
