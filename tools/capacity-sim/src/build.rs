//! Builds worlds: a shard on machines of its own, or all processes on one machine.

use crate::agenda::{Agenda, Ns};
use crate::group::{Bounds, Group, NodeIx};
use crate::host::{Host, ThreadId};
use crate::load::{Load, OpBytes};
use crate::observe::Log;
use crate::random::{Random, SyncTime};
use crate::world::{HostIx, Node, Role, Setting, Thread, World};
use planner::{Calibration, EntryBytes};
use routing::Settings;

/// The machine that the gateway runs on.
pub(crate) const GATEWAY_HOST: HostIx = 0;

/// Operations that a node takes from each gateway before it has answered some.
const STREAM_OPS_MAX: usize = 16_384;

/// The sync times of a machine's disk, from a calibration.
pub(crate) fn sync_time(calibration: &Calibration) -> SyncTime {
    SyncTime {
        p1_ms: calibration.fsync_low_ms,
        p50_ms: calibration.fsync_p50_ms,
        p99_ms: calibration.fsync_high_ms,
    }
}

pub(crate) fn op_bytes(calibration: &Calibration, entry: &EntryBytes) -> OpBytes {
    let overhead = calibration.operation_overhead_bytes as f64;
    OpBytes {
        acquire: entry.total() as f64 + overhead,
        release: entry.name_bytes as f64 + overhead,
        renewal: overhead,
    }
}

/// The shape of a world: its machines, nodes and shards.
pub(crate) struct Shape {
    pub(crate) nodes: usize,
    pub(crate) shards: usize,
    /// If set, all threads share one machine, including the load generator. Otherwise each node has
    /// its own machine, and so has the gateway.
    pub(crate) one_machine: bool,
    pub(crate) link_ns: Ns,
    pub(crate) gateways: usize,
    pub(crate) gateway_share: f64,
    pub(crate) checks_per_s: f64,
}

/// Builds a world. Every node holds a replica of every shard; leaders are spread over the nodes.
pub(crate) fn world(calibration: &Calibration, shape: &Shape, load: Load, seed: u64) -> World {
    let settings = Settings::default();
    let cores = calibration.cores as usize;
    let machines = if shape.one_machine { 1 } else { 1 + shape.nodes };
    let host = || Host::new(cores, calibration.syncs_in_parallel as usize, sync_time(calibration));
    let mut threads = Threads(Vec::new());
    let gateway = threads.start(Role::Gateway, GATEWAY_HOST);
    let client = (load.clients() > 0).then(|| threads.start(Role::Client, GATEWAY_HOST));
    let nodes: Vec<Node> = (0..shape.nodes)
        .map(|node| {
            let host = if shape.one_machine { GATEWAY_HOST } else { 1 + node };
            // `palisade node` splits a machine's cores in the same way between network and shards.
            let half = cores.div_ceil(2);
            Node {
                network: (0..half).map(|_| threads.start(Role::Network(node), host)).collect(),
                shards: (0..half.min(shape.shards))
                    .map(|_| threads.start(Role::Shards(node), host))
                    .collect(),
                writer: threads.start(Role::Writer(node), host),
                background: threads.start(Role::Background(node), host),
                alive: true,
                life: 0,
                background_ns: 0.0,
            }
        })
        .collect();
    let bounds = Bounds {
        entry_bytes_max: settings.entry_bytes_max as f64,
        entries_in_flight_max: settings.entries_in_flight_max,
        queue_ops_max: settings.queue_ops_max,
    };
    let replicas: Vec<NodeIx> = (0..shape.nodes).collect();
    World {
        setting: Setting {
            costs: calibration.costs_with(shape.shards),
            link_ns: shape.link_ns,
            gateway_share: shape.gateway_share,
            tick_ns: settings.tick_ms * 1_000_000,
            election_ticks: settings.election_ticks as f64,
            heartbeat_ticks: settings.heartbeat_ticks as f64,
            unanswered_max: shape.gateways.saturating_mul(STREAM_OPS_MAX),
            checks_per_s: shape.checks_per_s,
        },
        agenda: Agenda::new(),
        random: Random::new(seed ^ 0x5eed),
        hosts: (0..machines).map(|_| host()).collect(),
        threads: threads.0,
        nodes,
        gateway,
        client,
        groups: (0..shape.shards)
            .map(|shard| Group::new(shard % shape.nodes, replicas.clone(), bounds))
            .collect(),
        waiting: vec![Vec::new(); shape.shards],
        unanswered: vec![0; shape.shards],
        load,
        log: Log::default(),
        entries: 0,
        entry_ops: 0.0,
        served_again: vec![None; shape.shards],
    }
}

struct Threads(Vec<Thread>);

impl Threads {
    fn start(&mut self, role: Role, host: HostIx) -> ThreadId {
        self.0.push(Thread::new(role, host));
        self.0.len() - 1
    }
}
