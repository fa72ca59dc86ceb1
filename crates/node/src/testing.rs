//! Shared parts of this crate's tests: a node without replicas, with inboxes that the test reads
//! itself.

use crate::board::Board;
use crate::clock::Clock;
use crate::context::Context;
use crate::disk::DiskWatch;
use crate::host::{Host, InboxEnd};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::peer_identities::{Beginning, FirstStart, PeerIdentities};
use crate::routes::KnownRoutes;
use crate::topology_copy::TopologyCopy;
use crate::view::{KnownView, View};
use crate::writer::LogWriter;
use routing::{
    ClusterConfig, Fingerprint, MapVersion, NodeId, Replicas, RouteTable, ShardId, ShardMap,
};
use std::sync::Arc;
use storage::{Engine, Identity, MemoryEngine};
use tokio::sync::Semaphore;
use topology::{Command, Delta, Proposal, Seed};
use wire::internal::v1::ClusterIdentity;

pub(crate) const FINGERPRINT: Fingerprint = Fingerprint([7; 16]);

/// Version 3, two shards on nodes 1 and 2.
pub(crate) fn map() -> ShardMap {
    let replicas = Replicas { nodes: vec![NodeId(1), NodeId(2)], preferred_leader: NodeId(1) };
    let shards = [ShardId(0), ShardId(1)].map(|shard| (shard, replicas.clone()));
    ShardMap::even(MapVersion(3), shards.into())
}

pub(crate) fn disk() -> Arc<DiskWatch> {
    Arc::new(DiskWatch::new(Clock::start()))
}

pub(crate) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new([ShardId(0), ShardId(1)], [NodeId(1), NodeId(2)]).unwrap())
}

/// The topology that a cluster file founds.
pub(crate) fn founded_from(cluster: &ClusterConfig) -> topology::Topology {
    founded_by(Seed::of(cluster))
}

/// The first topology of the cluster of [`context`].
pub(crate) fn founded() -> topology::Topology {
    let seed = Seed::of(&ClusterConfig::dev(2, 2, 20_000).unwrap());
    founded_by(Seed { cluster_id: FINGERPRINT.0, ..seed })
}

fn founded_by(seed: Seed) -> topology::Topology {
    let mut topology = topology::Topology::default();
    topology.apply(&Proposal::new(1_700_000_000, Command::Bootstrap { seed })).unwrap();
    topology
}

/// The topology once all its nodes run a build that knows a level, and the level is active.
pub(crate) fn activated(mut topology: topology::Topology, level: u32) -> topology::Topology {
    for (id, node) in topology.nodes().clone() {
        let told = topology::NodeTold {
            node: id,
            address: node.address,
            zone: node.zone,
            store: topology::StoreId([id.0 as u8; 16]),
            start: routing::AddressVersion { starts: node.start.starts + 1, ..node.start },
            levels: topology::Levels { min: 1, max: level },
            binary: node.binary,
        };
        topology.apply(&Proposal::new(1_700_000_000, Command::NodeIs { told })).unwrap();
    }
    let activate = Command::ActivateLevel { level };
    topology.apply(&Proposal::new(1_700_000_000, activate)).unwrap().expect("a change");
    topology
}

/// The topology, built again as this generation from what all its nodes tell.
pub(crate) fn built_again(topology: &topology::Topology, generation: u64) -> topology::Topology {
    use topology::plan::Report;
    use topology::rebuild::{Told, rebuild};
    let told = topology.nodes().iter().map(|(id, node)| {
        let told = topology::NodeTold {
            node: *id,
            address: node.address.clone(),
            zone: node.zone.clone(),
            store: topology::StoreId([id.0 as u8; 16]),
            start: routing::AddressVersion { starts: node.start.starts + 1, ..node.start },
            levels: topology::Levels { min: 1, max: 1 },
            binary: node.binary.clone(),
        };
        let report =
            Report { heard_ms: 0, told, replicas: Default::default(), behind: Default::default() };
        let (kept, last_birth) = (topology.clone(), topology::Birth(0));
        (*id, Told { report, kept, generation: 1, leader: None, last_birth })
    });
    let rebuilt = rebuild(&told.collect(), &Default::default(), generation, 1_800_000_000);
    rebuilt.expect("all nodes tell").topology
}

/// A change of the topology: the other one of nodes 1 and 2 is to lead shard 0.
pub(crate) fn preferring(topology: &mut topology::Topology) -> Delta {
    let shard = ShardId(0);
    let now = topology.shard(shard).unwrap().preference.unwrap().node;
    let node = if now == NodeId(1) { NodeId(2) } else { NodeId(1) };
    let proposal = Proposal::new(1_700_000_000, Command::Prefer { shard, node });
    topology.apply(&proposal).unwrap().unwrap()
}

/// Node `id` of the map above, or one that its file does not name, with `operations_max` per shard. The inbox of its one shard thread
/// is returned.
pub(crate) fn context(id: NodeId, operations_max: usize) -> (Arc<Context>, InboxEnd) {
    context_of(FINGERPRINT, id, operations_max)
}

/// The same for a cluster with this fingerprint of its settings.
pub(crate) fn context_of(
    fingerprint: Fingerprint,
    id: NodeId,
    operations_max: usize,
) -> (Arc<Context>, InboxEnd) {
    let shards = [ShardId(0), ShardId(1)];
    let (host, mut inboxes) = Host::new(&shards, 1, operations_max);
    let (host, lifecycle, metrics) = (Arc::new(host), Arc::new(Lifecycle::new()), metrics());
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let (writer, _) = LogWriter::start(
        engine.clone(),
        1,
        Box::new(|_, _| {}),
        lifecycle.clone(),
        metrics.clone(),
        disk(),
    )
    .unwrap();
    let peer = NodeId(if id.0 == 1 { 2 } else { 1 });
    let identity = Identity { fingerprint: fingerprint.0, node: id.0 };
    let (identities, _) = PeerIdentities::open(
        engine.clone(),
        &identity,
        &[peer].into(),
        vec![[peer].into()],
        FirstStart::AskPeers,
        &Beginning::default(),
        None,
    )
    .unwrap();
    let cluster = ClusterConfig::dev(2, 2, 20_000).unwrap();
    let routes = RouteTable::of(&cluster).with_map(map()).unwrap();
    let context = Context {
        id,
        fingerprint,
        identity: ClusterIdentity {
            node: id.0,
            ..ClusterIdentity::new(fingerprint.0, String::new(), 0)
        },
        routes: KnownRoutes::new(routes, id, identities.claim().address_version()),
        tls: None,
        audit: Default::default(),
        insecure: false,
        needs_principal: false,
        accepted: Arc::default(),
        cluster: TopologyCopy::default(),
        view: KnownView::new(View::of(&cluster)),
        host,
        writer,
        disk: disk(),
        engine,
        identities: Arc::new(identities),
        lifecycle,
        metrics,
        board: Arc::new(Board::new(shards)),
        clock: Clock::start(),
        moves: crate::moves::Moves::default(),
        controller: Default::default(),
        proposals: Semaphore::new(crate::limits::PROPOSALS_AT_ONCE),
        previews: Arc::new(Semaphore::new(crate::limits::PREVIEWS_AT_ONCE)),
        history_reads: Semaphore::new(1),
        zone: None,
        learning: Default::default(),
        refounding: Default::default(),
        heard_generation: Default::default(),
    };
    (Arc::new(context), inboxes.remove(0))
}
