//! A session: many locks on one heartbeat.

use crate::guard::{Holding, release_in_background};
use crate::lease::{Lease, LeaseCell, LostReason};
use crate::{AcquireOptions, Client, Error, ErrorCode, Grant, SessionOptions};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// An open session. Whatever it acquires lives as long as its heartbeats get through: one RPC every third of its TTL, which
/// names the shards where it holds something.
///
/// A lock is lost if its shard lost the session, or could not be reached for a TTL; the others stay. Dropping the session
/// closes it in the background, which releases everything; [`close`](Self::close) says whether that worked.
///
/// ```no_run
/// # async fn example(client: palisade_client::Client) -> Result<(), palisade_client::Error> {
/// use palisade_client::SessionOptions;
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
    shards: Mutex<Shards>,
}

/// * A shard stays here until it loses the session, also when nothing is held there any more: a record of the session
///   that ends there would refuse its next acquire.
/// * A lease here that is lost never comes back: what hangs on it is lost, and a new one begins with the next acquire.
type Shards = BTreeMap<u32, Arc<LeaseCell>>;

impl Session {
    pub(crate) async fn open(client: Client, options: SessionOptions) -> Result<Session, Error> {
        let owner = options.owner.clone().unwrap_or_else(|| client.options().owner.clone());
        let metadata = options.metadata.clone();
        let opened = client.open_session_raw(options).await?;
        let ttl = Duration::from_millis(opened.ttl_ms.into());
        let shards = Mutex::default();
        let inner = Arc::new(Inner { client, id: opened.session_id, ttl, owner, metadata, shards });
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

    /// The shards that a heartbeat names now.
    pub fn shards(&self) -> Vec<u32> {
        self.inner.shards().keys().copied().collect()
    }

    /// Takes a lock that hangs on this session. TTL and session of `options` are the session's.
    ///
    /// # Errors
    /// [`Error::is_held`] if another holds it; [`Error::is_fenced`] if the session is lost where the name lives: open
    /// a new one then.
    pub async fn acquire(&self, options: impl Into<AcquireOptions>) -> Result<SessionLock, Error> {
        let mut options = options.into().session(self.id()).ttl(self.inner.ttl);
        options.owner.get_or_insert_with(|| self.inner.owner.clone());
        if options.metadata.is_empty() {
            options.metadata = self.inner.metadata.clone();
        }
        let client = &self.inner.client;
        let grant = client.acquire_timed(options).await?.grant;
        let holding = Holding { client, grant: &grant, armed: true };
        let lease = self.inner.lease_of(grant.shard).await.map_err(|error| error.after_grant(grant.fencing_token))?;
        holding.disarm();
        Ok(SessionLock { session: self.inner.clone(), grant, lease, released: false })
    }

    /// Releases everything, and says how many locks that were.
    ///
    /// # Errors
    /// Those of [`Client::close_session`]; what could not be released ends with its TTL.
    pub async fn close(mut self) -> Result<u32, Error> {
        self.heartbeat.abort();
        let outcome = self.inner.close().await;
        self.closed = true;
        outcome
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.heartbeat.abort();
        if self.closed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let inner = self.inner.clone();
        runtime.spawn(async move {
            if let Err(error) = inner.close().await {
                tracing::debug!(session = inner.id, %error, "a dropped session was not closed: it ends with its TTL");
            }
        });
    }
}

impl Inner {
    fn shards(&self) -> std::sync::MutexGuard<'_, Shards> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live_lease(&self, shard: u32) -> Option<Arc<LeaseCell>> {
        self.shards().get(&shard).filter(|lease| lease.lost_now().is_none()).cloned()
    }

    /// The session's lease on a shard where it has just been granted something. An acquire does not renew, and does not
    /// tell whether the session was known there before: unless a lease is running, one heartbeat starts it.
    async fn lease_of(&self, shard: u32) -> Result<Arc<LeaseCell>, Error> {
        if let Some(lease) = self.live_lease(shard) {
            return Ok(lease);
        }
        let (answer, sent) = self.client.heartbeat_timed(&self.id, &[shard], self.client.options().timeout).await?;
        if answer.lost_shards.contains(&shard) {
            return Err(Error::new(
                ErrorCode::SessionLost,
                format!("shard {shard} lost this session right after a grant: open a new session"),
            ));
        }
        let fresh = Lease::new(sent, self.ttl);
        if answer.failed_shards.contains(&shard) || fresh.valid_for(Instant::now()).is_zero() {
            return Err(Error::new(
                ErrorCode::OutcomeUnknown,
                format!("granted, but shard {shard} could not confirm the session's lease in time: try again"),
            ));
        }
        let mut shards = self.shards();
        match shards.get(&shard).filter(|lease| lease.lost_now().is_none()) {
            Some(lease) => {
                lease.renewed(sent, self.ttl);
                Ok(lease.clone())
            }
            None => {
                let lease = Arc::new(LeaseCell::new(fresh));
                shards.insert(shard, lease.clone());
                Ok(lease)
            }
        }
    }

    async fn close(&self) -> Result<u32, Error> {
        // They stay in the map: should this future be dropped, whoever closes next must know them.
        let leases: Shards = self.shards().clone();
        leases.values().for_each(|lease| lease.lose(LostReason::Released));
        if leases.is_empty() {
            return Ok(0);
        }
        let shards: Vec<u32> = leases.into_keys().collect();
        self.client.close_session(&self.id, &shards).await
    }

    /// One heartbeat for all shards. Says how it went, for the pace.
    async fn beat_once(&self) -> Result<(), Error> {
        let leases: Shards = self.shards().clone();
        if leases.is_empty() {
            return Ok(());
        }
        let shards: Vec<u32> = leases.keys().copied().collect();
        let timeout = self.client.options().timeout.min(self.ttl / 3);
        let (answer, sent) = self.client.heartbeat_timed(&self.id, &shards, timeout).await?;
        for (shard, lease) in &leases {
            if answer.lost_shards.contains(shard) {
                lease.lose(LostReason::Fenced(format!("shard {shard} does not know the session any more")));
                let mut shards = self.shards();
                if shards.get(shard).is_some_and(|current| Arc::ptr_eq(current, lease)) {
                    shards.remove(shard);
                }
            } else if !answer.failed_shards.contains(shard) {
                lease.renewed(sent, self.ttl);
            }
        }
        match answer.failed_shards.first() {
            None => Ok(()),
            Some(shard) => Err(Error::new(ErrorCode::NoLeader, format!("shard {shard} could not be asked in time"))),
        }
    }
}

/// One heartbeat per interval; sooner after one that did not reach every shard.
async fn beat(inner: Arc<Inner>) {
    loop {
        // The lease that is due first sets the pace. Lost ones do not: they are never due again, and only named so that the
        // session stays known there.
        let idle = Instant::now() + inner.ttl / 3;
        let live = |lease: &&Arc<LeaseCell>| lease.lost_now().is_none();
        let due = inner.shards().values().filter(live).map(|lease| lease.read(Lease::renew_at)).min();
        let due = due.unwrap_or(idle).min(idle);
        tokio::time::sleep_until(due).await;
        if let Err(error) = inner.beat_once().await {
            tracing::debug!(session = inner.id, %error, "a heartbeat did not reach every shard: tried again soon");
            tokio::time::sleep(inner.ttl / 20).await;
        }
    }
}

/// A lock that hangs on a [`Session`]. Dropping it lets it go in the background.
#[derive(Debug)]
pub struct SessionLock {
    session: Arc<Inner>,
    grant: Grant,
    lease: Arc<LeaseCell>,
    released: bool,
}

impl SessionLock {
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

    /// Held, as far as can be known. (That somebody broke it shows only in [`release`](Self::release), or by a check.)
    pub fn is_valid(&self) -> bool {
        self.lease.lost_now().is_none()
    }

    /// How much longer it is held if no heartbeat gets through. Zero once it is lost.
    pub fn valid_for(&self) -> Duration {
        self.lease.read(|lease| lease.valid_for(Instant::now()))
    }

    /// Resolves when the session is lost where this lock lives: stop acting on it then.
    pub async fn lost(&self) -> LostReason {
        self.lease.lost().await
    }

    /// Lets go of this lock; the session stays open.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if it was lost before.
    pub async fn release(mut self) -> Result<(), Error> {
        let outcome = self.session.client.release(self.name(), self.token()).await;
        self.released = true;
        outcome.map(|_| ())
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // A closed session has released it, a lost one does not hold it.
        if !self.released && !matches!(self.lease.lost_now(), Some(LostReason::Released | LostReason::Fenced(_))) {
            release_in_background(&self.session.client, &self.grant);
        }
    }
}
