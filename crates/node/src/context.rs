//! What the tasks of one node share: who it is, and the ways to its threads.

use crate::addresses::Addresses;
use crate::board::Board;
use crate::clock::Clock;
use crate::disk::DiskWatch;
use crate::host::Host;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::stores::Stores;
use crate::writer::LogWriter;
use routing::{Fingerprint, NodeId, ShardMap};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::Engine;
use tokio::sync::Semaphore;
use wire::accept::Accepted;
use wire::internal::v1::ClusterIdentity;

/// See the module.
pub(crate) struct Context {
    pub(crate) id: NodeId,
    pub(crate) fingerprint: Fingerprint,
    /// As this node says it to gateways.
    pub(crate) identity: ClusterIdentity,
    pub(crate) addresses: Addresses,
    pub(crate) map: ShardMap,
    /// Where the other nodes that share a shard with this one listen by the cluster file, as `host:port`.
    pub(crate) peers: BTreeMap<NodeId, String>,
    pub(crate) host: Arc<Host>,
    pub(crate) writer: LogWriter,
    pub(crate) disk: Arc<DiskWatch>,
    pub(crate) engine: Arc<dyn Engine>,
    /// Shared with the threads that wait for the disk.
    pub(crate) stores: Arc<Stores>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Arc<Board>,
    pub(crate) clock: Clock,
    /// Connections.
    pub(crate) accepted: Arc<Accepted>,
    /// History reads on the disk.
    pub(crate) history_reads: Semaphore,
}
