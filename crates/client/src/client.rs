//! The client: one method per operation, retried where that is safe.
//!
//! The methods that take locks are in files above this one: `acquiring`, `guard` and `session`. So
//! is the work of `letting_go`. This file only owns the state that all of them share.

use crate::guarded::Guarded;
use crate::hearing::Hearing;
use crate::lease::Sent;
use crate::letting_go::LettingGo;
use crate::options::{RequestId, said_owner, ttl_ms};
use crate::servers::Servers;
use crate::{Cancelled, Checked, ClusterStatus, Heartbeat, Listing, Opened, Released, Renewal};
use crate::{ClientOptions, Error, SessionOptions, tries, unary};
use link::drive::Driven;
use link::mux::Answer;
use std::sync::Arc;
use std::time::Duration;
use wire::OperationKind;
use wire::v1::operation::Op;
use wire::v1::{self, Consistency, Tenure};

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
    hearing: Hearing,
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
                hearing: Hearing::default(),
            }),
        }
    }

    /// The options that the client was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
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

    pub(crate) fn hearing(&self) -> &Hearing {
        &self.inner.hearing
    }

    /// The gateways.
    ///
    /// # Errors
    /// That of wrong endpoints.
    pub(crate) fn servers(&self) -> Result<&Servers, Error> {
        self.inner.servers.as_ref().map_err(Clone::clone)
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
    /// [`Session`](crate::Session), its [`SessionLock`](crate::SessionLock) is lost with the next
    /// heartbeat.
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
            ..v1::CheckRequest::default()
        };
        match self.run(Op::Check(request)).await?.answer {
            Answer::Check(checked) => Ok(checked),
            _ => Err(Error::confused("a check")),
        }
    }

    /// Like [`check`](Self::check), with the first waiters of the queue in the order of their
    /// turns: at most `waiters`, which is at most 1,000. `limit` bounds the holders: 0 means 1,000,
    /// which is also the most.
    pub async fn check_queue(
        &self,
        name: &str,
        consistency: Consistency,
        limit: u32,
        waiters: u32,
    ) -> Result<Checked, Error> {
        let request = v1::CheckRequest {
            name: name.into(),
            consistency: consistency.into(),
            limit,
            waiters_limit: waiters,
            ..v1::CheckRequest::default()
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
        let (prefix, cursor) = (prefix.into(), cursor.into());
        let request = v1::ListRequest { prefix, limit, cursor, ..v1::ListRequest::default() };
        self.list_matching(request).await
    }

    /// One page of the current grants that a request asks for: of an owner, held for some time, or
    /// of names with waiters. A page may have fewer grants than asked for, or none, before the last
    /// one, which has no `next_cursor`.
    pub async fn list_matching(&self, request: v1::ListRequest) -> Result<Listing, Error> {
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

    pub(crate) async fn run_within(
        &self,
        op: Op,
        timeout: Duration,
    ) -> Result<Driven<Answer>, Error> {
        self.tried_within(op, timeout).await.map_err(|(error, _)| error)
    }

    /// Retries one operation within `timeout`. The error tells whether a try is still in doubt.
    pub(crate) async fn tried_within(
        &self,
        op: Op,
        timeout: Duration,
    ) -> Result<Driven<Answer>, (Error, bool)> {
        let servers = self.inner.servers.as_ref().map_err(|error| (error.clone(), false))?;
        tries::operation(servers, self.inner.options.unary, op, timeout).await
    }

    /// Retries a unary RPC that is not an operation of the stream. `kind` tells whether a try
    /// without an answer leaves doubt.
    pub(crate) async fn rpc<T, F>(
        &self,
        kind: OperationKind,
        send: impl Fn(unary::Authorized, Duration) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        self.rpc_within(kind, self.inner.options.timeout, send).await
    }

    /// As [`rpc`](Self::rpc), within this time.
    pub(crate) async fn rpc_within<T, F>(
        &self,
        kind: OperationKind,
        timeout: Duration,
        send: impl Fn(unary::Authorized, Duration) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let servers = self.inner.servers.as_ref().map_err(Clone::clone)?;
        tries::rpc(servers, kind, timeout, send).await
    }
}
