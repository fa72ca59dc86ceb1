//! The client: one method per operation, retried where that is safe.

use crate::guard::{Guarded, Holding};
use crate::lease::Sent;
use crate::letting_go::{LettingGo, Unwanted};
use crate::options::{RequestId, said_owner, ttl_ms};
use crate::servers::Servers;
use crate::session::Keeper;
use crate::tries::{self, LEAST_TIME};
use crate::{AcquireOptions, ClientOptions, Error, LockGuard, Session, SessionOptions, unary};
use crate::{Cancelled, Checked, ClusterStatus, Heartbeat, Listing, Opened, Released, Renewal};
use link::drive::Driven;
use link::mux::Answer;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wire::OperationKind;
use wire::limits::DEFAULT_TTL_MS;
use wire::v1::operation::Op;
use wire::v1::{self, AcquireResponse, Consistency, Grant, Tenure};

/// A client of one cluster. Cheap to clone; clones share their connections.
///
/// Every operation is retried until it is answered, refused, or its time
/// ([`ClientOptions::timeout`]) is up. If one gateway fails, the next is tried. Retries are safe,
/// because an acquire keeps its request id and the other operations name a token.
///
/// ```no_run
/// use palisade_client::{AcquireOptions, Client};
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), palisade_client::Error> {
/// let client = Client::connect(["127.0.0.1:7400"]);
/// let grant = client.acquire(AcquireOptions::new("jobs/nightly").ttl(Duration::from_secs(10))).await?;
/// // Hand the token to the protected resource. It refuses tokens below the highest it has seen.
/// println!("token {}", grant.fencing_token);
/// client.release("jobs/nightly", grant.fencing_token).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ClientOptions,
    /// The gateways, or the error of wrong endpoints: every operation then fails with it.
    servers: Result<Servers, Error>,
    letting_go: LettingGo,
    guarded: Guarded,
}

impl Client {
    /// A client of these gateways (`host:port` each) with default options. It connects on first
    /// use, so a malformed endpoint shows as [`Error::is_invalid`] of the first operation.
    pub fn connect(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Client {
        Client::with_options(endpoints, ClientOptions::default())
    }

    /// Like [`connect`](Self::connect), with options.
    pub fn with_options(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        options: ClientOptions,
    ) -> Client {
        let servers = Servers::new(endpoints.into_iter().map(Into::into).collect(), &options);
        Client {
            inner: Arc::new(Inner {
                options,
                servers,
                letting_go: LettingGo::default(),
                guarded: Guarded::default(),
            }),
        }
    }

    /// The options that the client was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// Takes a lock, now or within [`AcquireOptions::wait`]. The caller has to renew it: see
    /// [`lock`](Self::lock) for a guard that renews itself.
    ///
    /// Dropping the future leaves the queue, and releases a grant that came too late to be seen.
    /// With a request id of the caller's ([`AcquireOptions::request_id`]) it does neither, because
    /// the caller may come back with the id, here or in another process.
    ///
    /// # Errors
    /// [`Error::is_held`] if another holds the lock, also at the end of the wait. An earlier try
    /// may still be in flight then. It is cancelled, so that it cannot be granted to a caller that
    /// no longer waits: before the answer if the caller chose the id, otherwise in the background.
    ///
    /// [`Error::is_outcome_unknown`] if the cancel does not succeed in time, or if an earlier grant
    /// of the same id is being released.
    pub async fn acquire(&self, options: impl Into<AcquireOptions>) -> Result<Grant, Error> {
        let options = options.into();
        let until = options.until(self.inner.options.timeout);
        let timed = self.acquire_timed(options, None).await?;
        if timed.grant.claim_within_ms == 0 {
            return Ok(timed.grant);
        }
        let holding = Holding::of(self, &timed, None);
        let mut grant = timed.grant;
        let token = grant.fencing_token;
        let claimed = self.renew_timed(&grant.resource_name, token, left_until(until)).await;
        let (renewal, _) = claimed.map_err(|error| error.after_grant(token))?;
        holding.into_iter().for_each(Holding::disarm);
        (grant.expires_at_ms, grant.ttl_ms) = (renewal.expires_at_ms, renewal.ttl_ms);
        (grant.renewal_count, grant.claim_within_ms) = (renewal.renewal_count, 0);
        // The full TTL began with the claim just now.
        grant.remaining_ms = renewal.ttl_ms;
        Ok(grant)
    }

    /// Resolves when all background releases are answered or have run out. Call it before the
    /// process ends.
    ///
    /// Dropped guards and waits, and releases that failed, are retried in the background until the
    /// server answers. The end of the process stops these retries, and the locks last until their
    /// TTL. Give the call a timeout, because it takes as long as the cluster is unreachable.
    ///
    /// ```no_run
    /// # async fn example(client: palisade_client::Client) {
    /// let patience = std::time::Duration::from_secs(2);
    /// if tokio::time::timeout(patience, client.let_go_of_all()).await.is_err() {
    ///     eprintln!("some locks are left to their TTL");
    /// }
    /// # }
    /// ```
    pub async fn let_go_of_all(&self) {
        self.inner.letting_go.emptied().await;
    }

    pub(crate) fn letting_go(&self) -> &LettingGo {
        &self.inner.letting_go
    }

    pub(crate) fn guarded(&self) -> &Guarded {
        &self.inner.guarded
    }

    /// How long this machine has been suspended in all. Read it before the moment that validity is
    /// counted from.
    pub(crate) fn asleep(&self) -> Duration {
        self.inner.options.suspend_clock.total()
    }

    /// Extends a private lease by another TTL.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if the token does not hold the lock any more.
    pub async fn renew(&self, name: &str, token: u64) -> Result<Renewal, Error> {
        self.renew_timed(name, token, self.inner.options.timeout).await.map(|(renewal, _)| renewal)
    }

    /// Releases a lock. Releasing the same token again succeeds. If the lock belongs to a
    /// [`Session`], its [`SessionLock`](crate::SessionLock) is lost with the next heartbeat.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if the token does not hold the lock any more. Nothing is released then.
    pub async fn release(&self, name: &str, token: u64) -> Result<Released, Error> {
        self.release_of(name, token, 0).await
    }

    /// Releases a lock. `session_life` names the life of the session that releases its own lock; 0
    /// if no session does.
    pub(crate) async fn release_of(
        &self,
        name: &str,
        token: u64,
        session_life: u64,
    ) -> Result<Released, Error> {
        let op = Op::Release(v1::ReleaseRequest {
            name: name.into(),
            fencing_token: token,
            session_life,
        });
        match self.run(op).await?.answer {
            Answer::Release(released) => Ok(released),
            _ => Err(Error::confused("a release")),
        }
    }

    /// Shows the holders of a lock and the number of waiters. A `Stale` answer comes from any
    /// replica, and says how old it may be.
    ///
    /// A shared lock may have more holders than fit an answer. The answer has the oldest 1,000,
    /// `more` tells of others, and `holder_count` is the number of all. See
    /// [`check_page`](Self::check_page) for the rest.
    pub async fn check(&self, name: &str, consistency: Consistency) -> Result<Checked, Error> {
        self.check_page(name, consistency, 0, 0).await
    }

    /// Shows the holders with tokens above `after_token`, oldest first. `limit` is at most 1,000,
    /// and 0 means 1,000.
    ///
    /// ```no_run
    /// use palisade_client::{Client, Consistency};
    ///
    /// # async fn example(client: Client) -> Result<(), palisade_client::Error> {
    /// let mut page = client.check("config", Consistency::Linearizable).await?;
    /// let mut holders = page.holders;
    /// while page.more {
    ///     let after = holders.last().map_or(0, |grant| grant.fencing_token);
    ///     page = client.check_page("config", Consistency::Linearizable, after, 0).await?;
    ///     holders.extend(page.holders);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn check_page(
        &self,
        name: &str,
        consistency: Consistency,
        after_token: u64,
        limit: u32,
    ) -> Result<Checked, Error> {
        let request = v1::CheckRequest {
            name: name.into(),
            consistency: consistency.into(),
            after_token,
            limit,
        };
        match self.run(Op::Check(request)).await?.answer {
            Answer::Check(checked) => Ok(checked),
            _ => Err(Error::confused("a check")),
        }
    }

    /// Takes a waiting acquire out of its queue. If it was granted meanwhile, the answer has the
    /// grant, and the caller holds the lock.
    pub async fn cancel_wait(&self, name: &str, request_id: RequestId) -> Result<Cancelled, Error> {
        let op = Op::CancelWait(v1::CancelWaitRequest {
            name: name.into(),
            request_id: request_id.to_vec(),
        });
        match self.run(op).await?.answer {
            Answer::CancelWait(cancelled) => Ok(cancelled),
            _ => Err(Error::confused("a cancel")),
        }
    }

    /// Ends another owner's hold by force. `token` names the hold, so that a retry cannot break the
    /// next holder. `reason` and `by` are kept in history.
    ///
    /// # Errors
    /// [`Error::is_fenced`] or [`Error::is_held`] if the token does not hold the lock (any more).
    pub async fn break_lock(
        &self,
        name: &str,
        token: u64,
        reason: &str,
        by: &str,
    ) -> Result<Tenure, Error> {
        let op = Op::BreakLock(v1::BreakLockRequest {
            name: name.into(),
            fencing_token: token,
            reason: reason.into(),
            broken_by: by.into(),
        });
        match self.run(op).await?.answer {
            Answer::BreakLock(v1::BreakLockResponse { tenure: Some(tenure) }) => Ok(tenure),
            _ => Err(Error::confused("a break")),
        }
    }

    /// The tenures of a name, newest first, with the current ones. `limit` is at most 1,000, and 0
    /// means 20.
    pub async fn history(&self, name: &str, limit: u32) -> Result<Vec<Tenure>, Error> {
        match self.run(Op::History(v1::HistoryRequest { name: name.into(), limit })).await?.answer {
            Answer::History(history) => Ok(history.tenures),
            _ => Err(Error::confused("a history")),
        }
    }

    /// The current grants, by name. `limit` is at most 1,000, and 0 means 100. See
    /// [`list_page`](Self::list_page) for the next pages.
    pub async fn list(&self, prefix: &str, limit: u32) -> Result<Listing, Error> {
        self.list_page(prefix, limit, "").await
    }

    /// One page of the current grants, by name. `cursor` is the `next_cursor` of the page before,
    /// and empty for the first page. The last page has no `next_cursor`.
    ///
    /// A lock that is held from the first page to the last is on exactly one page. Shards that
    /// could not be asked are named in each page's `missing_shards`.
    pub async fn list_page(
        &self,
        prefix: &str,
        limit: u32,
        cursor: &str,
    ) -> Result<Listing, Error> {
        let request = v1::ListRequest { prefix: prefix.into(), limit, cursor: cursor.into() };
        match self.run(Op::List(request)).await?.answer {
            Answer::List(listing) => Ok(listing),
            _ => Err(Error::confused("a list")),
        }
    }

    /// The nodes and replicas that answer now.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        self.rpc(OperationKind::ClusterStatus, |channel, timeout| async move {
            let request = unary::timed(v1::ClusterStatusRequest {}, timeout);
            unary::service(channel)
                .cluster_status(request)
                .await
                .map(|response| response.into_inner())
        })
        .await
    }

    /// Makes a new session id, without heartbeats. See [`open_session`](Self::open_session) for a
    /// session that keeps itself alive.
    pub async fn open_session_raw(&self, options: SessionOptions) -> Result<Opened, Error> {
        let request = v1::OpenSessionRequest {
            owner: said_owner(options.owner, &self.inner.options.owner)?,
            ttl_ms: ttl_ms(options.ttl)?,
            metadata: options.metadata,
        };
        self.rpc(OperationKind::OpenSession, |channel, timeout| {
            let request = unary::timed(request.clone(), timeout);
            async move {
                unary::service(channel)
                    .open_session(request)
                    .await
                    .map(|response| response.into_inner())
            }
        })
        .await
    }

    /// Extends a session's leases on these shards by another TTL, whichever life the session has
    /// there.
    pub async fn heartbeat(&self, session_id: &str, shards: &[u32]) -> Result<Heartbeat, Error> {
        let lease = |shard: &u32| v1::SessionLease { shard: *shard, ..Default::default() };
        let leases = shards.iter().map(lease).collect();
        let request = v1::HeartbeatRequest { session_id: session_id.into(), leases };
        self.heartbeat_timed(request, self.inner.options.timeout)
            .await
            .map(|(heartbeat, _)| heartbeat)
    }

    /// Releases all locks of a session on these shards, and returns their number.
    pub async fn close_session(&self, session_id: &str, shards: &[u32]) -> Result<u32, Error> {
        let op = Op::CloseSession(v1::CloseSessionRequest {
            session_id: session_id.into(),
            shards: shards.to_vec(),
        });
        match self.run(op).await?.answer {
            Answer::CloseSession(closed) => Ok(closed.released),
            _ => Err(Error::confused("a close")),
        }
    }

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

    /// Opens a session: one heartbeat keeps all its locks alive.
    pub async fn open_session(&self, options: SessionOptions) -> Result<Session, Error> {
        Session::open(self.clone(), options).await
    }

    /// Acquires, and tells when the request was first sent. `keeper` is the session that would keep
    /// an unseen grant alive.
    pub(crate) async fn acquire_timed(
        &self,
        options: AcquireOptions,
        keeper: Option<Keeper>,
    ) -> Result<Timed, Error> {
        let chosen = options.request_id;
        let request_id = chosen.unwrap_or_else(rand::random);
        let until = options.until(self.inner.options.timeout);
        let request = options.into_request(&self.inner.options.owner, request_id)?;
        let ttl_ms = if request.ttl_ms == 0 { DEFAULT_TTL_MS } else { request.ttl_ms };
        let (name, lives_for_ms) =
            (request.name.clone(), u64::from(ttl_ms) + u64::from(request.wait_ms));
        // Only this call knows an id of our own. If the call does not see the grant, the grant must
        // be released.
        let mut unseen = Unseen {
            client: self,
            name,
            request_id,
            lives_for_ms,
            keeper,
            armed: chosen.is_none(),
        };
        // A fresh id cannot meet a lock that is being released. Only an id of the caller's can.
        let going =
            chosen.map(|_| self.inner.letting_go.locks_of(&unseen.name)).unwrap_or_default();
        let began = Instant::now();
        let outcome = self.tried_within(Op::Acquire(request), self.inner.options.timeout).await;
        unseen.armed = match &outcome {
            Ok(_) => false,
            Err((error, in_doubt)) => chosen.is_none() && (*in_doubt || error.is_outcome_unknown()),
        };
        let (grant, first_sent, tries) = match outcome {
            Ok(Driven {
                answer: Answer::Acquire(AcquireResponse { grant: Some(grant) }),
                first_sent,
                tries,
                ..
            }) => (grant, first_sent, tries),
            Ok(_) => return Err(Error::confused("an acquire")),
            // The acquire was refused, but an earlier try may still arrive and be granted.
            Err((error, true)) if chosen.is_some() && !error.is_outcome_unknown() => {
                (self.cancel_first(&unseen.name, request_id, error, until).await?, began, 2)
            }
            Err((error, _)) => return Err(error),
        };
        if chosen.is_some() && !self.inner.letting_go.take_back(&grant, &going) {
            return Err(Error::being_released(grant.fencing_token));
        }
        Ok(Timed { grant, first_sent, tries, fresh_id: chosen.is_none() })
    }

    /// Ends the try that is in doubt before the caller is told that its acquire was refused.
    /// Without this:
    ///
    /// 1. The caller is told HELD, and this client goes on to cancel and release in the background.
    /// 2. The caller asks again with its id, through another client, and is granted the lock.
    /// 3. The cancel finds that grant, and its release ends a lock that the caller holds.
    ///
    /// So a grant of the id becomes the answer, and no release is ever sent for it.
    async fn cancel_first(
        &self,
        name: &str,
        request_id: RequestId,
        refused: Error,
        until: Instant,
    ) -> Result<Grant, Error> {
        let request_id = request_id.to_vec();
        let op = Op::CancelWait(v1::CancelWaitRequest { name: name.into(), request_id });
        match self.run_within(op, left_until(until)).await.map(|driven| driven.answer) {
            Ok(Answer::CancelWait(Cancelled { grant: Some(grant), .. })) => Ok(grant),
            Ok(Answer::CancelWait(_)) => Err(refused),
            Ok(_) => Err(Error::confused("a cancel")),
            Err(why) => Err(refused.in_doubt(&why)),
        }
    }

    /// Renews, and tells when the acknowledged try was sent.
    pub(crate) async fn renew_timed(
        &self,
        name: &str,
        token: u64,
        timeout: Duration,
    ) -> Result<(Renewal, Sent), Error> {
        let asleep = self.asleep();
        let op = Op::Renew(v1::RenewRequest { name: name.into(), fencing_token: token });
        let driven = self.run_within(op, timeout).await?;
        match driven.answer {
            Answer::Renew(renewal) => Ok((renewal, Sent { at: driven.sent, asleep })),
            _ => Err(Error::confused("a renewal")),
        }
    }

    /// Sends a heartbeat, and tells when the acknowledged try was sent.
    pub(crate) async fn heartbeat_timed(
        &self,
        request: v1::HeartbeatRequest,
        timeout: Duration,
    ) -> Result<(Heartbeat, Sent), Error> {
        let asleep = self.asleep();
        let driven = self.run_within(Op::Heartbeat(request), timeout).await?;
        match driven.answer {
            Answer::Heartbeat(heartbeat) => Ok((heartbeat, Sent { at: driven.sent, asleep })),
            _ => Err(Error::confused("a heartbeat")),
        }
    }

    async fn run(&self, op: Op) -> Result<Driven<Answer>, Error> {
        self.run_within(op, self.inner.options.timeout).await
    }

    async fn run_within(&self, op: Op, timeout: Duration) -> Result<Driven<Answer>, Error> {
        self.tried_within(op, timeout).await.map_err(|(error, _)| error)
    }

    /// Retries one operation within `timeout`. The error tells whether a try is still in doubt.
    async fn tried_within(
        &self,
        op: Op,
        timeout: Duration,
    ) -> Result<Driven<Answer>, (Error, bool)> {
        let servers = self.inner.servers.as_ref().map_err(|error| (error.clone(), false))?;
        tries::operation(servers, self.inner.options.unary, op, timeout).await
    }

    /// Retries a unary RPC that is not an operation of the stream. `kind` must be a read.
    async fn rpc<T, F>(
        &self,
        kind: OperationKind,
        send: impl Fn(unary::Authorized, Duration) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let servers = self.inner.servers.as_ref().map_err(Clone::clone)?;
        tries::rpc(servers, kind, self.inner.options.timeout, send).await
    }
}

/// A grant, and when it was first asked for.
pub(crate) struct Timed {
    pub(crate) grant: Grant,
    pub(crate) first_sent: Instant,
    pub(crate) tries: u32,
    /// The request id was made for this call, so no request carried it before `first_sent`.
    pub(crate) fresh_id: bool,
}

/// The time left until then, for a part of a longer operation.
pub(crate) fn left_until(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(LEAST_TIME)
}

/// An acquire whose grant no caller may ever see. On drop it is cancelled, and its grant released.
struct Unseen<'a> {
    client: &'a Client,
    name: String,
    request_id: RequestId,
    lives_for_ms: u64,
    keeper: Option<Keeper>,
    armed: bool,
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        if self.armed {
            let wait = Unwanted::Wait {
                name: std::mem::take(&mut self.name),
                request_id: self.request_id,
            };
            self.client.let_go(wait, Duration::from_millis(self.lives_for_ms), self.keeper.take());
        }
    }
}
