//! The state that all tasks of one node share: its identity, and the handles to its threads.

use crate::board::Board;
use crate::clock::Clock;
use crate::controller::Controller;
use crate::disk::DiskWatch;
use crate::host::Host;
use crate::lifecycle::Lifecycle;
use crate::limits::GENERATIONS_MAX;
use crate::metrics::Metrics;
use crate::moves::Moves;
use crate::peer_identities::PeerIdentities;
use crate::rebuilt;
use crate::routes::KnownRoutes;
use crate::topology_copy::TopologyCopy;
use crate::view::KnownView;
use crate::writer::LogWriter;
use audit::Audit;
use net::accept::Accepted;
use net::tls::Inside;
use routing::{Fingerprint, NodeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use storage::Engine;
use tokio::sync::{Mutex, Semaphore};
use wire::internal::v1::ClusterIdentity;

/// The shared state of one node.
pub(crate) struct Context {
    pub(crate) id: NodeId,
    pub(crate) fingerprint: Fingerprint,
    /// The identity that this node shows to gateways.
    pub(crate) identity: ClusterIdentity,
    /// The shard map and the present addresses of all nodes.
    pub(crate) routes: KnownRoutes,
    /// The topology of the cluster as this node knows it, and has it on disk.
    pub(crate) cluster: TopologyCopy,
    /// The nodes of the cluster and the groups of its shards. Each other node is a peer.
    pub(crate) view: KnownView,
    pub(crate) host: Arc<Host>,
    /// When the shard threads moved on, for probes.
    pub(crate) moves: Moves,
    pub(crate) writer: LogWriter,
    pub(crate) disk: Arc<DiskWatch>,
    pub(crate) engine: Arc<dyn Engine>,
    /// Shared with the threads that wait for the disk.
    pub(crate) identities: Arc<PeerIdentities>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Arc<Board>,
    pub(crate) clock: Clock,
    /// TLS inside the cluster, with this node's certificate.
    pub(crate) tls: Option<Arc<Inside>>,
    pub(crate) audit: Audit,
    /// Whether the node was started with `--insecure`. Its status tells it.
    pub(crate) insecure: bool,
    /// Whether each operation of a client must say which identity asks, because the cluster file has
    /// `access`.
    pub(crate) needs_principal: bool,
    /// Counts of accepted connections.
    pub(crate) accepted: Arc<Accepted>,
    /// What nodes report while META is led here, and the plans that follow.
    pub(crate) controller: Controller,
    /// Permits for changes of the topology that other processes propose.
    pub(crate) proposals: Semaphore,
    /// Permits for previews of changes.
    pub(crate) previews: Arc<Semaphore>,
    /// The failure zone of this node.
    pub(crate) zone: Option<String>,
    /// Held while this node learns of a later topology.
    pub(crate) learning: Mutex<()>,
    /// Held while META is given up or founded again here.
    pub(crate) refounding: Mutex<()>,
    /// The highest generation of the topology that a peer has said it knows.
    pub(crate) heard_generation: AtomicU64,
    /// Permits for history reads on the disk.
    pub(crate) history_reads: Semaphore,
}

impl Context {
    /// The generation of the topology that this node knows.
    pub(crate) fn generation(&self) -> u64 {
        self.cluster.now().cluster().generation.max(rebuilt::FIRST)
    }

    /// Takes note of the generation that a peer says it knows, unless that cannot be.
    pub(crate) fn hear_of_generation(&self, its: u64) {
        if its <= self.generation().saturating_add(GENERATIONS_MAX) {
            self.heard_generation.fetch_max(its, Ordering::Relaxed);
        }
    }

    /// A later generation than the one that is known here, if a peer has said it knows one.
    pub(crate) fn later_generation(&self) -> Option<u64> {
        let heard = self.heard_generation.load(Ordering::Relaxed);
        (heard > self.generation()).then_some(heard)
    }

    /// The addresses at which a node may be found, the likeliest first: the one that it announced,
    /// then those of the topology, of the cluster file and of seeds.
    pub(crate) fn addresses(&self, node: NodeId) -> Vec<String> {
        self.routes.addresses(node, self.view.addresses(node))
    }
}
