//! The client: one method per operation, retried where that is safe.

use crate::drive::{Course, Driven};
use crate::mux::{Answer, Failure};
use crate::options::{RequestId, said_owner, ttl_ms, whole_ms};
use crate::retry::{Policy, Try};
use crate::servers::Servers;
use crate::{AcquireOptions, ClientOptions, Error, LockGuard, Session, SessionOptions, unary};
use crate::{Cancelled, Checked, ClusterStatus, Heartbeat, Listing, Opened, Released, Renewal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use wire::OperationKind;
use wire::v1::operation::Op;
use wire::v1::{self, Consistency, Grant, Operation, Tenure};

/// First pause between the cancels of an acquire that may not have arrived; doubled each time.
const CANCEL_AGAIN: Duration = Duration::from_millis(100);

/// A client of one cluster. Cheap to clone; clones share their connections.
///
/// Every operation is tried until it is answered, refused, or its time ([`ClientOptions::timeout`]) is up, on another gateway
/// if one fails. Retries are safe: an acquire keeps its request id, the others name a token.
///
/// ```no_run
/// use palisade_client::{AcquireOptions, Client};
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), palisade_client::Error> {
/// let client = Client::connect(["127.0.0.1:7400"]);
/// let grant = client.acquire(AcquireOptions::new("jobs/nightly").ttl(Duration::from_secs(10))).await?;
/// // Hand the token to whatever the lock protects: it refuses tokens lower than the highest it has seen.
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
    /// Why no operation can work, if the endpoints were given wrongly.
    servers: Result<Servers, Error>,
}

impl Client {
    /// A client of these gateways (`host:port` each) with default options. Connects when first used, so an endpoint that is
    /// no endpoint shows as [`Error::is_invalid`] of the first operation.
    pub fn connect(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Client {
        Client::with_options(endpoints, ClientOptions::default())
    }

    /// As [`connect`](Self::connect), with options.
    pub fn with_options(endpoints: impl IntoIterator<Item = impl Into<String>>, options: ClientOptions) -> Client {
        let servers = Servers::new(endpoints.into_iter().map(Into::into).collect(), &options);
        Client { inner: Arc::new(Inner { options, servers }) }
    }

    /// The options it was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// Takes a lock, now or within [`AcquireOptions::wait`]. The caller renews it; see [`lock`](Self::lock) for a guard
    /// that renews itself.
    ///
    /// Dropping the future leaves the queue, and lets a grant go that came too late to be seen, unless the caller chose the
    /// request id.
    ///
    /// # Errors
    /// [`Error::is_held`] if another holds it, also at the end of the wait.
    pub async fn acquire(&self, options: impl Into<AcquireOptions>) -> Result<Grant, Error> {
        self.acquire_timed(options.into()).await.map(|timed| timed.grant)
    }

    /// Another TTL for a private lease.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if the token does not hold the lock any more.
    pub async fn renew(&self, name: &str, token: u64) -> Result<Renewal, Error> {
        self.renew_timed(name, token, self.inner.options.timeout).await.map(|(renewal, _)| renewal)
    }

    /// Lets go. Releasing the same token again succeeds.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if the token does not hold the lock any more; nothing is released then.
    pub async fn release(&self, name: &str, token: u64) -> Result<Released, Error> {
        let op = Op::Release(v1::ReleaseRequest { name: name.into(), fencing_token: token });
        match self.run(op).await?.answer {
            Answer::Release(released) => Ok(released),
            _ => Err(Error::confused("a release")),
        }
    }

    /// Who holds it, and how many wait. `Stale` answers come from any replica and say how old they may be.
    pub async fn check(&self, name: &str, consistency: Consistency) -> Result<Checked, Error> {
        let op = Op::Check(v1::CheckRequest { name: name.into(), consistency: consistency.into() });
        match self.run(op).await?.answer {
            Answer::Check(checked) => Ok(checked),
            _ => Err(Error::confused("a check")),
        }
    }

    /// Takes a waiting acquire out of its queue. If it was granted meanwhile, the answer carries the grant, and the caller
    /// holds it.
    pub async fn cancel_wait(&self, name: &str, request_id: RequestId) -> Result<Cancelled, Error> {
        let op = Op::CancelWait(v1::CancelWaitRequest {
            name: name.into(),
            request_id: request_id.to_vec(),
            ..Default::default()
        });
        match self.run(op).await?.answer {
            Answer::CancelWait(cancelled) => Ok(cancelled),
            _ => Err(Error::confused("a cancel")),
        }
    }

    /// Ends another's hold by force. `token` says whose, so that a retry cannot break the next holder; `reason` and `by` are
    /// kept in the history.
    ///
    /// # Errors
    /// [`Error::is_fenced`] or [`Error::is_held`] if the token does not hold it (any more).
    pub async fn break_lock(&self, name: &str, token: u64, reason: &str, by: &str) -> Result<Tenure, Error> {
        let op = Op::Break(v1::BreakRequest {
            name: name.into(),
            fencing_token: token,
            reason: reason.into(),
            broken_by: by.into(),
        });
        match self.run(op).await?.answer {
            Answer::Break(v1::BreakResponse { tenure: Some(tenure) }) => Ok(tenure),
            _ => Err(Error::confused("a break")),
        }
    }

    /// The name's tenures, newest first, the current ones included. `limit` 0: 20; at most 1,000.
    pub async fn history(&self, name: &str, limit: u32) -> Result<Vec<Tenure>, Error> {
        match self.run(Op::History(v1::HistoryRequest { name: name.into(), limit })).await?.answer {
            Answer::History(history) => Ok(history.tenures),
            _ => Err(Error::confused("a history")),
        }
    }

    /// What is held now, by name. `limit` 0: 100; at most 1,000.
    pub async fn list(&self, prefix: &str, limit: u32) -> Result<Listing, Error> {
        match self.run(Op::List(v1::ListRequest { prefix: prefix.into(), limit })).await?.answer {
            Answer::List(listing) => Ok(listing),
            _ => Err(Error::confused("a list")),
        }
    }

    /// Nodes and replicas, as they answer right now.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        self.rpc(OperationKind::ClusterStatus, |channel, timeout| async move {
            let request = unary::timed(v1::ClusterStatusRequest {}, timeout);
            unary::service(channel).cluster_status(request).await.map(|response| response.into_inner())
        })
        .await
    }

    /// A fresh session id, without heartbeats: see [`open_session`](Self::open_session) for one that keeps itself alive.
    pub async fn open_session_raw(&self, options: SessionOptions) -> Result<Opened, Error> {
        let request = v1::OpenSessionRequest {
            owner: said_owner(options.owner, &self.inner.options.owner)?,
            ttl_ms: ttl_ms(options.ttl)?,
            metadata: options.metadata,
        };
        self.rpc(OperationKind::OpenSession, |channel, timeout| {
            let request = unary::timed(request.clone(), timeout);
            async move { unary::service(channel).open_session(request).await.map(|response| response.into_inner()) }
        })
        .await
    }

    /// Another TTL for what a session holds on these shards.
    pub async fn heartbeat(&self, session_id: &str, shards: &[u32]) -> Result<Heartbeat, Error> {
        self.heartbeat_timed(session_id, shards, self.inner.options.timeout).await.map(|(heartbeat, _)| heartbeat)
    }

    /// Releases what a session holds on these shards, and says how many locks that were.
    pub async fn close_session(&self, session_id: &str, shards: &[u32]) -> Result<u32, Error> {
        let op = Op::CloseSession(v1::CloseSessionRequest { session_id: session_id.into(), shards: shards.to_vec() });
        match self.run(op).await?.answer {
            Answer::CloseSession(closed) => Ok(closed.released),
            _ => Err(Error::confused("a close")),
        }
    }

    /// Takes a lock and keeps it: the guard renews it in the background, knows how long it may be believed in, and lets it
    /// go at the end.
    ///
    /// ```no_run
    /// # async fn example(client: palisade_client::Client) -> Result<(), palisade_client::Error> {
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

    /// Opens a session: one heartbeat keeps alive whatever it holds.
    pub async fn open_session(&self, options: SessionOptions) -> Result<Session, Error> {
        Session::open(self.clone(), options).await
    }

    pub(crate) async fn acquire_timed(&self, options: AcquireOptions) -> Result<Timed, Error> {
        let chosen = options.request_id;
        let request_id = chosen.unwrap_or_else(rand::random);
        let request = options.into_request(&self.inner.options.owner, request_id)?;
        // Under an id of our own nobody else can ever learn of the grant: if we do not either, it is to be let go.
        let mut unseen = Unseen { client: self, name: request.name.clone(), request_id, armed: chosen.is_none() };
        let outcome = self.run(Op::Acquire(request)).await;
        unseen.armed &= matches!(&outcome, Err(error) if error.is_outcome_unknown());
        let driven = outcome?;
        match driven.answer {
            Answer::Grant(grant) => {
                Ok(Timed { grant, first_sent: driven.first_sent, tries: driven.tries, fresh_id: chosen.is_none() })
            }
            _ => Err(Error::confused("an acquire")),
        }
    }

    /// With when the acknowledged try was sent.
    pub(crate) async fn renew_timed(
        &self,
        name: &str,
        token: u64,
        timeout: Duration,
    ) -> Result<(Renewal, Instant), Error> {
        let op = Op::Renew(v1::RenewRequest { name: name.into(), fencing_token: token });
        let driven = self.run_within(op, timeout).await?;
        match driven.answer {
            Answer::Renew(renewal) => Ok((renewal, driven.sent)),
            _ => Err(Error::confused("a renewal")),
        }
    }

    /// With when the acknowledged try was sent.
    pub(crate) async fn heartbeat_timed(
        &self,
        session_id: &str,
        shards: &[u32],
        timeout: Duration,
    ) -> Result<(Heartbeat, Instant), Error> {
        let op = Op::Heartbeat(v1::HeartbeatRequest {
            session_id: session_id.into(),
            shards: shards.to_vec(),
            ..Default::default()
        });
        let driven = self.run_within(op, timeout).await?;
        match driven.answer {
            Answer::Heartbeat(heartbeat) => Ok((heartbeat, driven.sent)),
            _ => Err(Error::confused("a heartbeat")),
        }
    }

    async fn run(&self, op: Op) -> Result<Driven<Answer>, Error> {
        self.run_within(op, self.inner.options.timeout).await
    }

    async fn run_within(&self, op: Op, timeout: Duration) -> Result<Driven<Answer>, Error> {
        let servers = self.inner.servers.as_ref().map_err(Clone::clone)?;
        let operation = Operation::of(op);
        wire::check_operation(&operation)?;
        let op = operation.op.as_ref().ok_or_else(|| Error::invalid("the operation is empty"))?;
        let policy = self.policy(op.kind(), op.wait_ms(), timeout, servers);
        let reach = &Reach::default();
        let send = |next: Try| {
            let mut operation = operation.clone();
            if let Some(Op::Acquire(acquire)) = &mut operation.op {
                acquire.wait_ms = next.wait_ms;
            }
            async move {
                let outcome = if self.inner.options.unary {
                    servers.call_unary(next.target, operation, Duration::from_millis(next.timeout_ms)).await
                } else {
                    servers.call(next.target, operation, next.timeout_ms).await
                };
                servers.heard(next.target, &outcome);
                reach.heard(&outcome);
                outcome
            }
        };
        let driven = Course::new(policy, servers.first()).drive(None, servers.targets(), || false, send).await;
        driven.map_err(|error| reach.explain(*error, servers))
    }

    /// For what is no operation of the stream: a unary RPC, retried like the rest. `kind` must be a read.
    async fn rpc<T, F>(
        &self,
        kind: OperationKind,
        send: impl Fn(tonic::transport::Channel, Duration) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let servers = self.inner.servers.as_ref().map_err(Clone::clone)?;
        let policy = self.policy(kind, 0, self.inner.options.timeout, servers);
        let (send, reach) = (&send, &Reach::default());
        let sent = |next: Try| async move {
            let timeout = Duration::from_millis(next.timeout_ms);
            let outcome = match servers.channel(next.target, timeout).await {
                Ok(channel) => send(channel, timeout).await.map_err(|status| unary::failed(&status)),
                Err(not_sent) => Err(not_sent),
            };
            if matches!(outcome, Err(Failure::Lost(_))) {
                servers.forget_channel(next.target);
            }
            servers.heard(next.target, &outcome);
            reach.heard(&outcome);
            outcome
        };
        let driven = Course::new(policy, servers.first()).drive(None, servers.targets(), || false, sent).await;
        driven.map(|driven| driven.answer).map_err(|error| reach.explain(*error, servers))
    }

    /// With one gateway a try may take all the time there is: the gateway itself tries again. With several, a gateway that
    /// hangs must leave time for the next.
    fn policy(&self, kind: OperationKind, wait_ms: u32, timeout: Duration, servers: &Servers) -> Policy {
        let timeout_ms = u64::from(whole_ms(timeout)).max(1);
        let attempt_timeout_ms = if servers.targets().len() > 1 { timeout_ms.div_ceil(2) } else { timeout_ms };
        Policy { kind, timeout_ms, wait_ms, attempt_timeout_ms, retry_busy: true, relays: true }
    }
}

/// Whether any try of one operation got through to a gateway.
#[derive(Debug)]
struct Reach {
    since: Instant,
    got_through: AtomicBool,
    /// Why the last try that was not sent was not.
    not_sent: Mutex<Option<Arc<str>>>,
}

impl Default for Reach {
    fn default() -> Self {
        Reach { since: Instant::now(), got_through: AtomicBool::new(false), not_sent: Mutex::default() }
    }
}

impl Reach {
    fn heard<T>(&self, outcome: &Result<T, Failure>) {
        match outcome {
            Err(Failure::NotSent(why)) => {
                *self.not_sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
            }
            _ => self.got_through.store(true, Ordering::Relaxed),
        }
    }

    /// The error of an operation that failed: whoever reached no gateway knows nothing of the cluster behind.
    fn explain(&self, error: v1::Error, servers: &Servers) -> Error {
        let not_sent = self.not_sent.lock().unwrap_or_else(PoisonError::into_inner);
        match not_sent.as_deref() {
            Some(why) if !self.got_through.load(Ordering::Relaxed) && !servers.is_connected() => {
                Error::unreachable(&servers.addresses(), self.since.elapsed().as_millis(), why)
            }
            _ => error.into(),
        }
    }
}

/// A grant, and when it was asked for first.
pub(crate) struct Timed {
    pub(crate) grant: Grant,
    pub(crate) first_sent: Instant,
    pub(crate) tries: u32,
    /// The request id was made for this very call, so nothing was asked by it before `first_sent`.
    pub(crate) fresh_id: bool,
}

/// An acquire whose answer nobody may ever see.
struct Unseen<'a> {
    client: &'a Client,
    name: String,
    request_id: RequestId,
    armed: bool,
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, name, request_id) = (self.client.clone(), std::mem::take(&mut self.name), self.request_id);
        runtime.spawn(async move {
            // A cancel may overtake its acquire, which then is not there yet: asked again while the acquire may be under way.
            let until = Instant::now() + client.options().timeout;
            let mut pause = CANCEL_AGAIN;
            loop {
                match client.cancel_wait(&name, request_id).await {
                    Ok(Cancelled { grant: Some(grant), .. }) => {
                        let _ = client.release(&name, grant.fencing_token).await;
                        return;
                    }
                    Ok(Cancelled { cancelled: true, .. }) => return,
                    _ if Instant::now() >= until => return,
                    _ => tokio::time::sleep(pause).await,
                }
                pause *= 2;
            }
        });
    }
}
