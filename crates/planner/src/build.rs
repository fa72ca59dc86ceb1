//! What to build: shards, nodes, gateways and their machines, for the load at the end of the growth that is looked at.
//!
//! The number of shards is frozen once a cluster has started, so it is the one that the last month of the growth table needs,
//! not today's. Machines are this service's, whichever column the number of shards comes from. Everything that is assumed here
//! is a constant of this file, and stands in what is shown.

use crate::figures::Figures;
use crate::growth::GrowthOutlook;
use crate::model::Rates;
use crate::{Calibration, Sizing, Workload};
use serde::Serialize;

/// Gateways that a cluster has at least: one may fail.
pub(crate) const GATEWAYS_MIN: u64 = 2;
/// Clients of one gateway, each with one connection: a quarter of the streams that it takes, so that two gateways which fail do
/// not bring the others to that bound.
pub(crate) const CLIENTS_PER_GATEWAY: f64 = 4_000.0;
/// Share of its cores that a machine may use at the peak: the rest is for a failover, and for flushes and merges.
pub(crate) const CORES_USED: f64 = 0.5;
/// No machine has fewer.
pub(crate) const CORES_MIN: u64 = 2;
/// Operations of an entry, for costs: few, so that they are not too low.
const ENTRY_OPS: f64 = 10.0;
/// Awakenings of the network and of a shard's thread for one entry: when it comes, and when it is acknowledged.
const WAKES_PER_ENTRY: f64 = 2.0;
/// A node's memory without locks: the store's write buffers and caches, connections.
pub(crate) const NODE_BASE_BYTES: f64 = 512e6;
/// A shard's memory without locks: the kept end of its log, and what is queued.
pub(crate) const SHARD_BASE_BYTES: f64 = 16e6;
/// Memory of a session beside its owner.
pub(crate) const SESSION_BYTES: f64 = 512.0;
/// A table's parts double while it grows, and a snapshot is built beside it.
pub(crate) const TABLE_ROOM: f64 = 2.0;
/// History is merged from time to time, and both copies exist until then.
pub(crate) const DISK_ROOM: f64 = 2.0;
/// A node's disk without history: journal, logs, lock tables.
pub(crate) const DISK_BASE_BYTES: f64 = 4e9;
/// A gateway's memory, and that of one client's connection with what is under way on it.
pub(crate) const GATEWAY_BASE_BYTES: f64 = 256e6;
/// See [`GATEWAY_BASE_BYTES`].
pub(crate) const CLIENT_BYTES: f64 = 64e3;
/// Memory is bought in these.
const MEMORY_STEP_BYTES: f64 = 1e9;
/// No machine has less.
const MEMORY_MIN_BYTES: f64 = 2e9;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Cores that are busy at the peak.
    pub busy_cores: f64,
    /// Cores to have.
    pub cores: u64,
    /// Bytes in use at the peak.
    pub used_bytes: u64,
    /// Memory to have.
    pub memory_bytes: u64,
    /// Disk to have; 0: none.
    pub disk_bytes: u64,
}

/// What to build, and for how much load.
///
/// - `shards` is what the growth table says of month `months`, and no less than any month before.
/// - There are two gateways at least, and one more than the load needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Build {
    /// From now on, to the end of the growth that is looked at.
    pub months: u32,
    /// Load then, as a factor of today's.
    pub growth: f64,
    /// Processes that take locks then.
    pub instances: f64,
    /// Writes per second at the peak then, on `shards`.
    pub peak_writes_per_s: f64,
    /// Checks per second at the peak then.
    pub peak_reads_per_s: f64,
    /// Locks held at the peak then.
    pub peak_active_locks: f64,
    /// To have from the start.
    pub shards: u64,
    /// Share of a leader's capacity in use at the peak then.
    pub peak_utilisation: f64,
    /// All nodes.
    pub nodes: u64,
    /// All gateways.
    pub gateways: u64,
    /// Replicas on one node, and those of them that lead.
    pub replicas_per_node: u64,
    /// See `replicas_per_node`.
    pub leaders_per_node: u64,
    /// Each node.
    pub node: Machine,
    /// Each gateway.
    pub gateway: Machine,
}

impl Build {
    pub(crate) fn of(
        workload: &Workload,
        calibration: &Calibration,
        figures: &Figures,
        growth: &GrowthOutlook,
    ) -> Build {
        let needed = |sizing: Sizing| {
            let of_month = |month: &crate::Month| match sizing {
                Sizing::Peak => month.shards_peak,
                Sizing::Average => month.shards_avg,
            };
            growth.months.iter().map(of_month).max().unwrap_or(1)
        };
        let shards = needed(workload.sizing).max(figures.shards);
        let nodes = shards.saturating_mul(u64::from(workload.nodes_per_shard));
        Build::on(workload, calibration, figures, shards, nodes)
    }

    /// For so many shards on so many nodes, whatever is needed.
    pub(crate) fn on(
        workload: &Workload,
        calibration: &Calibration,
        figures: &Figures,
        shards: u64,
        nodes: u64,
    ) -> Build {
        let (shards, nodes) = (shards.max(1), nodes.max(1));
        let months = workload.growth.months;
        let growth = (1.0 + workload.growth.per_month).powi(months as i32);
        let capacity = &figures.leader_capacity;
        let peak = Rates::of(workload).grown(growth).at_peak(workload.peak_multiplier);
        let renewals = capacity.renew_per_s(&peak, shards);
        let peak_writes_per_s = peak.acquire_per_s + renewals + peak.release_per_s;
        let peak_reads_per_s = figures.reads_per_s * workload.peak_multiplier * growth;
        let peak_active_locks = figures.peak_active_locks * growth;
        let instances = peak.instances.ceil();
        let replicas_per_node = shards.saturating_mul(u64::from(workload.replicas)).div_ceil(nodes).min(shards);
        let leaders_per_node = shards.div_ceil(nodes);
        let per_shard = |value: f64| value / shards as f64;

        let busy_cores = {
            let (writes, reads) = (per_shard(peak_writes_per_s), per_shard(peak_reads_per_s));
            let followed = (replicas_per_node - leaders_per_node.min(replicas_per_node)) as f64;
            let of_writes = leaders_per_node as f64 * leader_us(calibration) + followed * follower_us(calibration);
            let checks = replicas_per_node as f64 / f64::from(workload.replicas) * calibration.costs.check_us_per_op;
            (writes * of_writes + reads * checks) / 1e6
        };
        let here = replicas_per_node as f64;
        let tables = per_shard(peak_active_locks) * here * lock_bytes(workload, calibration)
            + instances * here * (SESSION_BYTES + workload.entry.owner_bytes as f64);
        let history = figures.acquire_per_s
            * growth
            * 86_400.0
            * (workload.entry.total() + calibration.tenure_overhead_bytes) as f64
            * calibration.history_stored_ratio
            * f64::from(workload.history_days);
        let disk = DISK_BASE_BYTES + DISK_ROOM * per_shard(history) * here;
        let used = NODE_BASE_BYTES + here * SHARD_BASE_BYTES + TABLE_ROOM * tables;

        let gateway_cores = (peak_writes_per_s + peak_reads_per_s) * calibration.costs.gateway_us_at(ENTRY_OPS) / 1e6;
        let by_clients = instances / CLIENTS_PER_GATEWAY;
        let by_cores = gateway_cores / (calibration.cores as f64 * CORES_USED);
        let enough = by_clients.max(by_cores).ceil().max(1.0) as u64;
        let gateways = enough.saturating_add(1).max(GATEWAYS_MIN);
        // One of them has failed.
        let gateway_used = GATEWAY_BASE_BYTES + CLIENT_BYTES * instances / enough as f64;
        Build {
            months,
            growth,
            instances,
            peak_writes_per_s,
            peak_reads_per_s,
            peak_active_locks,
            shards,
            peak_utilisation: capacity.utilisation(&peak, shards),
            nodes,
            gateways,
            replicas_per_node,
            leaders_per_node,
            node: machine(busy_cores, used, disk),
            gateway: machine(gateway_cores / enough as f64, gateway_used, 0.0),
        }
    }
}

/// Processor time of one operation on a node that leads its shard.
pub(crate) fn leader_us(calibration: &Calibration) -> f64 {
    let costs = &calibration.costs;
    costs.leader_network_us_per_op
        + costs.leader_shard_us_per_op
        + costs.leader_writer_us_per_op
        + shared_us(calibration)
}

/// Processor time of one operation on a node that follows.
pub(crate) fn follower_us(calibration: &Calibration) -> f64 {
    let costs = &calibration.costs;
    costs.follower_network_us_per_op
        + costs.follower_shard_us_per_op
        + costs.follower_writer_us_per_op
        + shared_us(calibration)
}

/// What both do alike: flushes, and an operation's part of its entry.
fn shared_us(calibration: &Calibration) -> f64 {
    let costs = &calibration.costs;
    let roots = costs.network_us_per_entry_root + costs.shard_us_per_entry_root + costs.writer_us_per_entry_root;
    let wakes = WAKES_PER_ENTRY * (costs.network_us_per_wake + costs.shard_us_per_wake) + costs.writer_us_per_sync;
    costs.background_us_per_op + roots / ENTRY_OPS.sqrt() + wakes / ENTRY_OPS
}

/// Memory of a held lock.
pub(crate) fn lock_bytes(workload: &Workload, calibration: &Calibration) -> f64 {
    (workload.entry.total() + calibration.lock_overhead_bytes) as f64
}

fn machine(busy_cores: f64, used_bytes: f64, disk_bytes: f64) -> Machine {
    let memory = (used_bytes / MEMORY_STEP_BYTES).ceil() * MEMORY_STEP_BYTES;
    // What does not fit saturates: the figures that such a plan begins with are refused before.
    Machine {
        busy_cores,
        cores: ((busy_cores / CORES_USED).ceil() as u64).max(CORES_MIN),
        used_bytes: used_bytes as u64,
        memory_bytes: memory.max(MEMORY_MIN_BYTES) as u64,
        disk_bytes: disk_bytes.ceil() as u64,
    }
}
