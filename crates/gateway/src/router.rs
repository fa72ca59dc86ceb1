//! The state that all doors of a gateway share, and the driver of single calls.

use crate::admission::Admission;
use crate::core::{
    Call, Caller, Cleanup, Directory, Env, Outgoing, Step, mismatched_answer, shards_asked,
};
use crate::identities::{self, Identities};
use crate::known::{Known, NotServing};
use crate::leaving::Leaving;
use crate::limits::{COME_BACK_MAX, LED_WITHIN};
use crate::metrics::{Metrics, Present};
use crate::newest_told::NewestTold;
use crate::nodes::{Awaited, Nodes, Outcome};
use crate::notice::Notices;
use crate::permissions::Method;
use crate::sight::Sight;
use crate::visitor::Visitor;
use crate::watching::Watching;
use access::Verb;
use audit::{Audit, Kind};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use link::mux::Answer;
use net::accept::{Accepted, source_of};
use net::tls::Server;
use routing::{ClusterConfig, NodeId, RouteTable, ShardId};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use wire::OperationKind;
use wire::internal::v1::{ClusterIdentity, ClusterResponse};
use wire::limits::REQUEST_ID_BYTES;
use wire::v1::operation::Op;
use wire::v1::{Error, ErrorCode, Operation, WatchFilter};

/// The state that all client streams share.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) cluster: ClusterConfig,
    pub(crate) identity: ClusterIdentity,
    pub(crate) directory: Directory,
    pub(crate) nodes: Nodes,
    pub(crate) known: Known,
    /// Held while a route table is taken into `known`, `nodes` and `directory`.
    taking_routes: Mutex<()>,
    pub(crate) metrics: Metrics,
    pub(crate) leaving: Leaving,
    pub(crate) watching: Watching,
    pub(crate) admission: Admission,
    /// `None` in a cluster without identities.
    pub(crate) identities: Option<Identities>,
    pub(crate) audit: Audit,
    pub(crate) newest_told: NewestTold,
    /// The gateway was told to serve clients without protection.
    pub(crate) insecure: bool,
    /// The last finding about the shards: see [`look`](Router::look).
    looked: Mutex<Option<Result<(), Arc<NotServing>>>>,
    /// The shards that must be served for `grpc.health.v1` to say so. The excess does not count.
    health_shards: AtomicUsize,
    /// The gateway is about to end, so probes must send clients elsewhere.
    draining: AtomicBool,
    pub(crate) notices: Notices,
    /// TLS towards clients.
    pub(crate) tls: Option<Arc<Server>>,
    /// The open connections of clients.
    pub(crate) accepted: Arc<Accepted>,
    /// The start of the clock of all calls.
    started: Instant,
}

/// The gateway's clock, read once for each event, and its dice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtNow {
    now_ms: u64,
}

impl Env for AtNow {
    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn jitter(&mut self) -> f64 {
        rand::random()
    }

    fn request_id(&mut self) -> [u8; REQUEST_ID_BYTES] {
        rand::random()
    }
}

/// An event that comes back to a call.
#[allow(clippy::large_enum_variant)] // moved once, to the call: a box would cost more
enum Event {
    Heard(u32, Outcome),
    Resumed(u32),
}

/// What became of a step.
#[allow(clippy::large_enum_variant)] // moved once: a box would cost more
enum Taken {
    Begun(UnderWay),
    Nothing,
    Answer(Answer),
}

/// A step under way, without what was sent.
enum UnderWay {
    Sent(u32, Awaited),
    Paused(u32, Pin<Box<Sleep>>),
}

impl Future for UnderWay {
    type Output = Event;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Event> {
        match &mut *self {
            UnderWay::Sent(part, outcome) => {
                Pin::new(outcome).poll(context).map(|outcome| Event::Heard(*part, outcome))
            }
            UnderWay::Paused(part, pause) => {
                pause.as_mut().poll(context).map(|()| Event::Resumed(*part))
            }
        }
    }
}

/// The proofs that a gateway asks of its clients, and the audit log for them.
#[derive(Debug)]
pub(crate) struct Security {
    pub(crate) tls: Option<Arc<Server>>,
    pub(crate) identities: Option<Identities>,
    pub(crate) audit: Audit,
    pub(crate) insecure: bool,
}

/// Counts of connections that tell the audit log of each refused certificate.
fn accepted(audit: Audit) -> Accepted {
    Accepted::telling(move |remote, why| {
        let (source, why) = (source_of(remote).to_string(), why.to_owned());
        let event = audit::Event::of(Kind::SignedInFailed);
        audit.record(audit::Event { remote: remote.to_string(), source, why, ..event });
    })
}

impl Router {
    pub(crate) fn new(
        cluster: ClusterConfig,
        identity: ClusterIdentity,
        nodes: Nodes,
        metrics: Metrics,
        leaving: Leaving,
        watching: Watching,
        security: Security,
    ) -> Router {
        let Security { tls, identities, audit, insecure } = security;
        Router {
            directory: Directory::new(cluster.shard_map()),
            known: Known::new(&cluster),
            taking_routes: Mutex::default(),
            cluster,
            identity,
            nodes,
            tls,
            accepted: Arc::new(accepted(audit.clone())),
            metrics,
            leaving,
            watching,
            admission: Admission::default(),
            identities,
            audit,
            newest_told: NewestTold::default(),
            insecure,
            looked: Mutex::new(None),
            health_shards: AtomicUsize::new(usize::MAX),
            draining: AtomicBool::new(false),
            notices: Notices::new(),
            started: Instant::now(),
        }
    }

    /// Milliseconds on the clock of all calls.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The clock and the dice for one event of a call.
    pub(crate) fn env(&self) -> AtNow {
        AtNow { now_ms: self.now_ms() }
    }

    /// Time for which a waiter keeps its place after its client is gone. The client may come back
    /// through another gateway.
    pub(crate) fn waiter_grace(&self) -> Duration {
        Duration::from_millis(self.cluster.settings.waiter_grace_ms).min(COME_BACK_MAX)
    }

    /// Whether locks can be served, as of the last look. So a probe takes no lock that operations
    /// need.
    ///
    /// # Errors
    /// [`NotServing`], with the shards without a leader.
    pub(crate) fn serving(&self) -> Result<(), NotServing> {
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        looked.unwrap_or_else(|| self.look()).map_err(Arc::unwrap_or_clone)
    }

    /// Looks whether locks can be served, for all probes until the next look. A stream counts as up
    /// for a while after it broke.
    ///
    /// # Errors
    /// [`NotServing`], with the shards without a leader.
    pub(crate) fn look(&self) -> Result<(), Arc<NotServing>> {
        let found = self.served_if_down_for(LED_WITHIN).map_err(Arc::new);
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        found
    }

    /// Whether each shard has a leader to which the stream is up now.
    pub(crate) fn serves_now(&self) -> bool {
        self.served_if_down_for(Duration::ZERO).is_ok()
    }

    fn served_if_down_for(&self, down_for_max: Duration) -> Result<(), NotServing> {
        let is_connected = |node| self.nodes.is_connected(node);
        self.known.serving(&self.directory.shards(), is_connected, down_for_max)
    }

    /// Sets how many shards must be served for `grpc.health.v1` to say so.
    pub(crate) fn set_health_shards(&self, shards: usize) {
        self.health_shards.store(shards, Ordering::Relaxed);
    }

    /// Whether `grpc.health.v1` says that this gateway serves, after this look.
    pub(crate) fn is_healthy(&self, looked: &Result<(), Arc<NotServing>>) -> bool {
        let all = self.directory.shards().len();
        let without = looked.as_ref().err().map_or(0, |why| why.without.len());
        all.saturating_sub(without) >= self.health_shards.load(Ordering::Relaxed).min(all)
    }

    /// Makes all probes answer that this gateway is not ready.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the gateway is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn metrics_text(&self) -> String {
        let leaderless = self.serving().err().map_or_else(Vec::new, |why| why.without);
        self.metrics.text(&Present {
            connected: self.nodes.connected(),
            leaderless: &leaderless,
            ready: leaderless.is_empty() && !self.is_draining(),
            waits: self.admission.waits(),
            watches: self.admission.watches(),
            watch_legs: self.admission.watch_legs(),
            accepted: &self.accepted,
            inside: self.nodes.inside(),
            clients: self.tls.as_deref(),
        })
    }

    /// Takes in the report of a node that was reached at this address.
    pub(crate) fn heard(&self, node: u64, address: &str, response: &ClusterResponse) {
        for shard in self.known.said(node, response) {
            tracing::info!(%shard, leader = node, "route learned: this node leads the shard");
        }
        self.nodes.found(node, address);
        for hosted in response.shards.iter().filter(|hosted| hosted.leads) {
            self.directory.leads(ShardId(hosted.shard), NodeId(node), hosted.term);
        }
    }

    /// Counts an operation of a visitor, by the number of shards that it asks. All operations of a
    /// frame can share one look at the clock.
    ///
    /// # Errors
    /// BUSY if its identity is above its rate.
    pub(crate) fn within_rate(
        &self,
        visitor: &Visitor,
        op: Option<&Op>,
        now_ms: impl FnOnce() -> u64,
    ) -> Result<(), Box<Error>> {
        let count = || op.map_or(1, |op| shards_asked(op, &self.directory));
        identities::within_rate(visitor, op.map(Op::kind), count, now_ms)
    }

    /// Like [`within_rate`](Router::within_rate), for an operation that counts as `count`.
    pub(crate) fn within_rate_of(
        &self,
        visitor: &Visitor,
        kind: Option<OperationKind>,
        count: impl FnOnce() -> u32,
    ) -> Result<(), Box<Error>> {
        identities::within_rate(visitor, kind, count, || self.now_ms())
    }

    /// Proves the identity of a visitor, if its method needs one. The other needs of an operation
    /// are checked with its name.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it has none, and PERMISSION_DENIED for a method that is not for clients.
    pub(crate) fn enter(&self, visitor: &mut Visitor, of: Method) -> Result<(), Box<Error>> {
        if self.identities.is_none() || of == Method::Open {
            return Ok(());
        }
        if of == Method::Inside {
            return Err(Box::new(Error::new(
                ErrorCode::PermissionDenied,
                "this method is for the processes of a cluster: dial a node with their certificates",
            )));
        }
        self.prove_again(visitor)?;
        match (of, visitor.caller.identity()) {
            (Method::Known, Some(identity)) if identity.principal.is_anonymous() => {
                Err(identities::no_identity())
            }
            _ => Ok(()),
        }
    }

    /// Whether a visitor may do an operation. Binds the owner of an acquire to its identity.
    ///
    /// # Errors
    /// PERMISSION_DENIED, or UNAUTHENTICATED if it has shown no identity.
    pub(crate) fn permit(&self, visitor: &Visitor, op: &mut Op) -> Result<(), Box<Error>> {
        let name = match &*op {
            Op::List(list) => &list.prefix,
            op => op.name().unwrap_or_default(),
        };
        self.permit_kind(visitor, op.kind(), name)?;
        match op {
            Op::Acquire(acquire) => identities::bind_owner(visitor, &mut acquire.owner),
            _ => Ok(()),
        }
    }

    /// Like [`permit`](Router::permit), by the operation's kind and its name, if it has one.
    pub(crate) fn permit_kind(
        &self,
        visitor: &Visitor,
        kind: OperationKind,
        name: &str,
    ) -> Result<(), Box<Error>> {
        let Some(identities) = &self.identities else { return Ok(()) };
        identities.permit(visitor, kind, name, &self.audit, &self.metrics)
    }

    /// Whether a visitor may make a call about the cluster as a whole.
    ///
    /// # Errors
    /// As of [`permit`](Router::permit).
    pub(crate) fn permit_cluster(
        &self,
        visitor: &Visitor,
        verb: Verb,
        operation: &'static str,
    ) -> Result<(), Box<Error>> {
        let Some(identities) = &self.identities else { return Ok(()) };
        identities.permit_cluster(visitor, verb, operation, &self.audit, &self.metrics)
    }

    /// Whether a visitor may open a stream.
    ///
    /// # Errors
    /// As of [`permit`](Router::permit).
    pub(crate) fn permit_stream(&self, visitor: &Visitor) -> Result<(), Box<Error>> {
        let Some(identities) = &self.identities else { return Ok(()) };
        identities.permit_stream(visitor, &self.audit, &self.metrics)
    }

    /// The sight of a visitor in a watch with this filter.
    ///
    /// # Errors
    /// As of [`permit`](Router::permit).
    pub(crate) fn permit_watch(
        &self,
        visitor: &Visitor,
        filter: &WatchFilter,
    ) -> Result<Sight, Box<Error>> {
        let Some(identities) = &self.identities else { return Ok(Sight::default()) };
        identities.permit_watch(visitor, filter, &self.audit, &self.metrics)
    }

    /// Whether the answer to an operation on this name must tell nothing of others, because the
    /// visitor may not read the name.
    pub(crate) fn is_redacted(&self, visitor: &Visitor, name: &str) -> bool {
        let identity = visitor.caller.identity();
        identity.is_some_and(|identity| !identity.rights.permits(Verb::Read, name))
    }

    /// Proves the identity of a visitor, if that was not done or does not hold any more.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it proves none.
    pub(crate) fn prove_again(&self, visitor: &mut Visitor) -> Result<(), Box<Error>> {
        let Some(identities) = &self.identities else { return Ok(()) };
        identities.prove_again(visitor, self.now_ms(), &self.audit, &self.metrics)
    }

    /// Serves one operation that does not wait, from its receipt to its answer. The operation is
    /// begun at once. So the future does not hold it, and is small enough to be moved cheaply.
    pub(crate) fn serve(
        &self,
        caller: Caller,
        operation: Operation,
    ) -> impl Future<Output = Answer> + Send {
        let (received, kind) = (Instant::now(), operation.op.as_ref().map(Op::kind));
        let counted = self.metrics.counted();
        let mut steps = Vec::new();
        let call = Call::begin(caller, operation, &self.directory, &mut self.env(), &mut steps);
        async move {
            let _counted = counted;
            let answer = self.run(call, steps).await;
            self.metrics.answered(kind, &answer, received.elapsed());
            answer
        }
    }

    /// Makes one try of a cleanup, in the name of the client that is gone.
    pub(crate) async fn serve_own(&self, cleanup: &Cleanup, timeout_ms: u64) -> Answer {
        let (mut steps, env) = (Vec::new(), &mut self.env());
        let (caller, op) = (cleanup.caller().clone(), cleanup.operation());
        let call = Call::begin_own(caller, op, timeout_ms, &self.directory, env, &mut steps);
        self.run(call, steps).await
    }

    /// Drives one call to its answer.
    async fn run(&self, mut call: Call, mut steps: Vec<Step>) -> Answer {
        // Most calls have one part, and the future of one part needs no allocation.
        let mut parts: Option<FuturesUnordered<UnderWay>> = None;
        loop {
            let is_alone = steps.len() == 1 && parts.as_ref().is_none_or(|parts| parts.is_empty());
            let mut alone = None;
            for step in steps.drain(..) {
                match self.take(step) {
                    Taken::Answer(answer) => return answer,
                    Taken::Nothing => {}
                    Taken::Begun(step) if is_alone => alone = Some(step),
                    Taken::Begun(step) => parts.get_or_insert_default().push(step),
                }
            }
            let event = match (alone, &mut parts) {
                (Some(alone), _) => Some(alone.await),
                (None, Some(parts)) => parts.next().await,
                (None, None) => None,
            };
            // There is an event, because a call that has not answered has a step under way.
            let Some(event) = event else { return Answer::Error(mismatched_answer()) };
            let env = &mut self.env();
            match event {
                Event::Heard(part, outcome) => {
                    call.on_outcome(part, outcome, &self.directory, env, &mut steps);
                }
                Event::Resumed(part) => {
                    call.on_pause_over(part, &self.directory, env, &mut steps);
                }
            }
        }
    }

    fn take(&self, step: Step) -> Taken {
        match step {
            Step::Send(Outgoing { part, node, timeout_ms, operation, retry_of }) => {
                if let Some(kind) = retry_of {
                    self.metrics.retried(kind);
                }
                Taken::Begun(UnderWay::Sent(part, self.nodes.call(node, operation, timeout_ms)))
            }
            Step::Pause { part, ms } => {
                let pause = tokio::time::sleep(Duration::from_millis(ms));
                Taken::Begun(UnderWay::Paused(part, Box::pin(pause)))
            }
            Step::Refresh { node, map_version } => {
                self.refresh(node, map_version);
                Taken::Nothing
            }
            Step::Answer(answer) => Taken::Answer(answer),
        }
    }

    /// Has the route table of a node fetched, because its map is newer than this gateway's.
    pub(crate) fn refresh(&self, node: u64, map_version: u64) {
        if map_version > self.directory.version().0 {
            tracing::debug!(node, map_version, "a node has a newer map");
            self.known.stale_by(node);
        }
    }

    /// Takes the newer parts of a node's route table.
    pub(crate) fn take_routes(&self, routes: &RouteTable) {
        // Two nodes may tell two editions at once, and the streams must be those of the later one.
        let _in_turn = self.taking_routes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = self.known.take(routes) else { return };
        let before = self.directory.edition();
        // The streams to new nodes come first, because the map sends operations to them.
        self.nodes.follow(&known);
        if self.directory.take(&known) {
            let edition = known.map().edition();
            tracing::info!(%edition, %before, nodes = known.members().count(), "a newer shard map is in use");
        }
    }
}
