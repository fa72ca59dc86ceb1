//! What all doors of a gateway share, and the driver of single calls.

use crate::admission::Admission;
use crate::core::{Call, Caller, Directory, Moment, Send, Step, answered_amiss};
use crate::known::Known;
use crate::leaving::Leaving;
use crate::limits::COME_BACK_MAX;
use crate::metrics::{Metrics, Present};
use crate::nodes::{Nodes, Outcome};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use link::mux::Answer;
use net::accept::Accepted;
use net::tls::Server;
use routing::{ClusterConfig, NodeId, ShardId, Topology};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wire::internal::v1::operation::Op as RoutedOp;
use wire::internal::v1::{ClusterIdentity, ClusterResponse};
use wire::limits::REQUEST_ID_BYTES;
use wire::v1::Operation;
use wire::v1::operation::Op;

/// The state that all client streams share.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) cluster: ClusterConfig,
    pub(crate) identity: ClusterIdentity,
    pub(crate) directory: Directory,
    pub(crate) nodes: Nodes,
    pub(crate) known: Known,
    pub(crate) metrics: Metrics,
    pub(crate) leaving: Leaving,
    pub(crate) admission: Admission,
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

impl Moment for AtNow {
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

/// What comes back to a call.
#[allow(clippy::large_enum_variant)] // it is handled at once, and a box for each try would cost more
enum Event {
    Heard(u32, Outcome),
    Resumed(u32),
}

impl Router {
    pub(crate) fn new(
        cluster: ClusterConfig,
        identity: ClusterIdentity,
        nodes: Nodes,
        tls: Option<Arc<Server>>,
        metrics: Metrics,
        leaving: Leaving,
    ) -> Router {
        Router {
            directory: Directory::new(cluster.shard_map()),
            known: Known::new(&cluster),
            cluster,
            identity,
            nodes,
            tls,
            metrics,
            leaving,
            admission: Admission::default(),
            accepted: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Milliseconds on the clock of all calls.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The clock and the dice for one event of a call.
    pub(crate) fn moment(&self) -> AtNow {
        AtNow { now_ms: self.now_ms() }
    }

    /// How long a waiter whose client is gone keeps its place, because the client may come back
    /// through another gateway.
    pub(crate) fn waiter_grace(&self) -> Duration {
        Duration::from_millis(self.cluster.settings.waiter_grace_ms).min(COME_BACK_MAX)
    }

    /// Whether locks can be served.
    ///
    /// # Errors
    /// The shards without a leader, and the nodes that cannot be reached.
    pub(crate) fn serving(&self) -> Result<(), String> {
        self.known.serving(&self.directory.shards())
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn metrics_text(&self) -> String {
        self.metrics.text(&Present {
            is_connected: &|node| self.nodes.is_connected(node),
            waits: self.admission.waits(),
            accepted: &self.accepted,
            inside: self.nodes.inside(),
            clients: self.tls.as_deref(),
        })
    }

    /// Takes in the report of a node that was reached at this address.
    pub(crate) fn heard(&self, node: u64, address: &str, response: &ClusterResponse) {
        self.known.said(node, response);
        self.nodes.found(node, address);
        for hosted in response.shards.iter().filter(|hosted| hosted.leads) {
            self.directory.leads(ShardId(hosted.shard), NodeId(node), hosted.term);
        }
    }

    /// Serves one operation that does not wait, from its receipt to its answer.
    pub(crate) async fn serve(&self, caller: Caller, operation: Operation) -> Answer {
        let (received, kind) = (Instant::now(), operation.op.as_ref().map(Op::kind));
        let _counted = self.metrics.counted();
        let mut steps = Vec::new();
        let call = Call::begin(caller, operation, &self.directory, &mut self.moment(), &mut steps);
        let answer = self.run(call, steps).await;
        self.metrics.answered(kind, &answer, received.elapsed());
        answer
    }

    /// Serves an operation of the gateway itself.
    pub(crate) async fn serve_own(&self, op: RoutedOp, timeout_ms: u64) -> Answer {
        let mut steps = Vec::new();
        let call = Call::begin_own(op, timeout_ms, &self.directory, &mut self.moment(), &mut steps);
        self.run(call, steps).await
    }

    /// Drives one call to its answer.
    async fn run(&self, mut call: Call, mut steps: Vec<Step>) -> Answer {
        // Most calls have one part, whose future needs no allocation.
        let mut parts: Option<FuturesUnordered<_>> = None;
        loop {
            let is_alone = steps.len() == 1 && parts.as_ref().is_none_or(|parts| parts.is_empty());
            let mut alone = None;
            for step in steps.drain(..) {
                match step {
                    Step::Answer(answer) => return answer,
                    Step::Refresh { node, map_version } => self.refresh(node, map_version),
                    step if is_alone => alone = Some(self.take(step)),
                    step => parts.get_or_insert_default().push(self.take(step)),
                }
            }
            let event = match (alone, &mut parts) {
                (Some(alone), _) => Some(alone.await),
                (None, Some(parts)) => parts.next().await,
                (None, None) => None,
            };
            // There is an event, because a call that has not answered has a step under way.
            let Some(event) = event else { return Answer::Error(answered_amiss()) };
            let moment = &mut self.moment();
            match event {
                Event::Heard(part, outcome) => {
                    call.heard(part, outcome, &self.directory, moment, &mut steps);
                }
                Event::Resumed(part) => {
                    call.resumed(part, &self.directory, moment, &mut steps);
                }
            }
        }
    }

    async fn take(&self, step: Step) -> Event {
        match step {
            Step::Send(Send { part, node, timeout_ms, operation, retry_of }) => {
                if let Some(kind) = retry_of {
                    self.metrics.retried(kind);
                }
                Event::Heard(part, self.nodes.call(node, operation, timeout_ms).await)
            }
            Step::Pause { part, ms } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Event::Resumed(part)
            }
            Step::Refresh { .. } | Step::Answer(_) => std::future::pending().await, // never taken
        }
    }

    /// Has the topology of a node fetched, because its map is newer than this gateway's.
    pub(crate) fn refresh(&self, node: u64, map_version: u64) {
        if map_version > self.directory.version().0 {
            tracing::debug!(node, map_version, "a node has a newer map");
            self.known.stale_by(node);
        }
    }

    /// Takes what is newer in a node's topology.
    pub(crate) fn take_topology(&self, topology: &Topology) {
        if let Some(map) = self.known.take(topology) {
            let version = map.version();
            if self.directory.take(map) {
                tracing::info!(%version, "a newer shard map is in use");
            }
        }
    }
}
