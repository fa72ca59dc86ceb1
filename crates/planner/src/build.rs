//! The cluster to build: shards, nodes, gateways and their machines, for the load at the end of the
//! growth.
//!
//! The number of shards is frozen once a cluster has started. So it is the number for the last
//! month of the growth table, not for today. Machines are computed with this service's costs,
//! whichever column the number of shards comes from. Every assumption is a constant of this file
//! and is shown in the report.

use crate::figures::Figures;
use crate::growth::GrowthOutlook;
use crate::model::Rates;
use crate::{Calibration, Sizing, Workload};
use serde::Serialize;

/// Fewest gateways of a cluster, so that one may fail.
pub(crate) const GATEWAYS_MIN: u64 = 2;
/// Clients of one gateway, each with one connection. That is a quarter of the streams that a
/// gateway accepts, so that two failed gateways do not bring the others to that bound.
pub(crate) const CLIENTS_PER_GATEWAY: f64 = 4_000.0;
/// Share of its cores that a machine may use at the peak. The rest is for a failover, and for
/// flushes and merges.
pub(crate) const CORES_USED: f64 = 0.5;
/// Fewest cores of a machine.
pub(crate) const CORES_MIN: u64 = 2;
/// Operations in an entry, as assumed for costs. Few, so that costs are not underestimated.
const ENTRY_OPS: f64 = 10.0;
/// Wake-ups of the network and of a shard's thread for one entry: when it arrives, and when it is
/// acknowledged.
const WAKES_PER_ENTRY: f64 = 2.0;
/// Memory of a node without locks: the store's write buffers and caches, and connections.
pub(crate) const NODE_BASE_BYTES: f64 = 512e6;
/// Memory of a shard without locks: the kept end of its log, and queued operations.
pub(crate) const SHARD_BASE_BYTES: f64 = 16e6;
/// Memory of a session beside its owner.
pub(crate) const SESSION_BYTES: f64 = 512.0;
/// Factor for the memory of a lock table: its parts double while it grows, and a snapshot is built
/// beside it.
pub(crate) const TABLE_ROOM: f64 = 2.0;
/// Factor for the disk space of history: it is merged from time to time, and both copies exist
/// until then.
pub(crate) const DISK_ROOM: f64 = 2.0;
/// Disk space of a node without history: journal, logs, lock tables.
pub(crate) const DISK_BASE_BYTES: f64 = 4e9;
/// Memory of a gateway without clients.
pub(crate) const GATEWAY_BASE_BYTES: f64 = 256e6;
/// Memory of one client's connection at a gateway, with the requests that are under way on it.
pub(crate) const CLIENT_BYTES: f64 = 64e3;
/// Step in which memory is bought.
const MEMORY_STEP_BYTES: f64 = 1e9;
/// Least memory of a machine.
const MEMORY_MIN_BYTES: f64 = 2e9;

/// A machine to buy or rent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Cores that are busy at the peak.
    pub busy_cores: f64,
    /// Cores that the machine should have.
    pub cores: u64,
    /// Bytes of memory in use at the peak.
    pub used_bytes: u64,
    /// Bytes of memory that the machine should have.
    pub memory_bytes: u64,
    /// Bytes of disk that the machine should have; 0 for none.
    pub disk_bytes: u64,
}

/// The cluster to build, and the load that it carries.
///
/// - `shards` is the number in the growth table for month `months`, and no less than that of any
///   month before.
/// - There are at least two gateways, and one more than the load needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Build {
    /// Months from now to the end of the growth.
    pub months: u32,
    /// Load at that time, as a factor of today's.
    pub growth: f64,
    /// Processes that take locks at that time.
    pub instances: f64,
    /// Writes per second at the peak of that time, on `shards` shards.
    pub peak_writes_per_s: f64,
    /// Checks per second at the peak of that time.
    pub peak_reads_per_s: f64,
    /// Locks held at the peak of that time.
    pub peak_active_locks: f64,
    /// Number of shards to have from the start.
    pub shards: u64,
    /// Share of a leader's capacity in use at the peak of that time.
    pub peak_utilisation: f64,
    /// Number of all nodes.
    pub nodes: u64,
    /// Number of all gateways.
    pub gateways: u64,
    /// Number of replicas on one node.
    pub replicas_per_node: u64,
    /// Number of those replicas that lead.
    pub leaders_per_node: u64,
    /// The machine of each node.
    pub node: Machine,
    /// The machine of each gateway.
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

    /// Machines for this number of shards and nodes, even if the load needs more.
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
        let replicas_per_node =
            shards.saturating_mul(u64::from(workload.replicas)).div_ceil(nodes).min(shards);
        let leaders_per_node = shards.div_ceil(nodes);
        let per_shard = |value: f64| value / shards as f64;

        let busy_cores = {
            let (writes, reads) = (per_shard(peak_writes_per_s), per_shard(peak_reads_per_s));
            let followed = (replicas_per_node - leaders_per_node.min(replicas_per_node)) as f64;
            let of_writes = leaders_per_node as f64 * leader_us(calibration)
                + followed * follower_us(calibration);
            let checks = replicas_per_node as f64 / f64::from(workload.replicas)
                * calibration.costs.check_us_per_op;
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

        let gateway_cores = (peak_writes_per_s + peak_reads_per_s)
            * calibration.costs.gateway_us_at(ENTRY_OPS)
            / 1e6;
        let by_clients = instances / CLIENTS_PER_GATEWAY;
        let by_cores = gateway_cores / (calibration.cores as f64 * CORES_USED);
        let enough = by_clients.max(by_cores).ceil().max(1.0) as u64;
        let gateways = enough.saturating_add(1).max(GATEWAYS_MIN);
        // One of the gateways has failed.
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

/// Processor time that both have in common: flushes, and an operation's part of its entry.
fn shared_us(calibration: &Calibration) -> f64 {
    let costs = &calibration.costs;
    let roots = costs.network_us_per_entry_root
        + costs.shard_us_per_entry_root
        + costs.writer_us_per_entry_root;
    let wakes = WAKES_PER_ENTRY * (costs.network_us_per_wake + costs.shard_us_per_wake)
        + costs.writer_us_per_sync;
    costs.background_us_per_op + roots / ENTRY_OPS.sqrt() + wakes / ENTRY_OPS
}

/// Memory of a held lock.
pub(crate) fn lock_bytes(workload: &Workload, calibration: &Calibration) -> f64 {
    (workload.entry.total() + calibration.lock_overhead_bytes) as f64
}

fn machine(busy_cores: f64, used_bytes: f64, disk_bytes: f64) -> Machine {
    let memory = (used_bytes / MEMORY_STEP_BYTES).ceil() * MEMORY_STEP_BYTES;
    // A value that does not fit saturates. Such a plan is never shown, because its first figures
    // were refused before.
    Machine {
        busy_cores,
        cores: ((busy_cores / CORES_USED).ceil() as u64).max(CORES_MIN),
        used_bytes: used_bytes as u64,
        memory_bytes: memory.max(MEMORY_MIN_BYTES) as u64,
        disk_bytes: disk_bytes.ceil() as u64,
    }
}
