//! A session: many locks on one heartbeat.

mod inner;
mod lives;
mod lock;

pub(crate) use lives::Keeper;
pub use lock::SessionLock;

use crate::acquiring::{Holding, left_until};
use crate::lease::{pause_after_failure, renew_every};
use crate::unwanted::Unwanted;
use crate::{AcquireOptions, Client, Error, ErrorCode, SessionOptions};
use inner::{Acquiring, Inner};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

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

impl Client {
    /// Opens a session: one heartbeat keeps all its locks alive.
    pub async fn open_session(&self, options: SessionOptions) -> Result<Session, Error> {
        Session::open(self.clone(), options).await
    }
}

impl Session {
    pub(crate) async fn open(client: Client, options: SessionOptions) -> Result<Session, Error> {
        let owner = options.owner.clone().unwrap_or_else(|| client.options().owner.clone());
        let metadata = options.metadata.clone();
        let opened = client.open_session_raw(options).await?;
        client.letting_go().remember_runtime();
        let inner = Arc::new(Inner::new(client, opened, owner, metadata));
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
        let timed = match client.acquire_timed(options, Some(self.inner.keeper())).await {
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
        let holding = Holding::of(client, &timed, Some(self.inner.keeper()));
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
        self.closed = outcome.as_ref().err().is_none_or(Error::is_final);
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

/// Sends one heartbeat per interval, and sooner after a heartbeat that did not reach every shard.
async fn beat(inner: Arc<Inner>) {
    let interval_max = inner.client.options().renew_interval_max;
    loop {
        inner.let_go_of_lost();
        let idle = Instant::now() + renew_every(inner.pace(), interval_max);
        let due = inner.lives().renew_at(interval_max).map_or(idle, |due| due.min(idle));
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = inner.due_changed.notified() => continue,
        }
        if let Err(error) = inner.beat_once(inner.client.options().timeout).await {
            tracing::debug!(session = inner.id, %error, "a heartbeat did not reach every shard: tried again soon");
            tokio::time::sleep(pause_after_failure(inner.pace(), interval_max)).await;
        }
    }
}
