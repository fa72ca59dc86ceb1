//! The figures of a span of a run: rates, latencies, and the use of processors and disks.

use crate::agenda::Ns;
use crate::build::GATEWAY_HOST;
use crate::group::NodeIx;
use crate::observe::Latency;
use crate::world::{Role, World};
use serde::Serialize;

/// The use of a node's resources, as shares of 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct NodeUse {
    /// Share of all cores of the machine.
    pub cpu: f64,
    /// Share of one core that the busiest thread uses. At 1 the node carries no more load, even if
    /// other cores are free.
    pub busiest_thread: f64,
    /// Share of time that the disk is busy.
    pub disk: f64,
    /// Synced writes of the log per second.
    pub syncs_per_s: f64,
}

/// The figures of one span of simulated time. Latencies are of acquires and releases, as clients
/// see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Run {
    /// Acquires and releases that clients sent.
    pub offered_per_s: f64,
    /// Acquires and releases that were answered.
    pub answered_per_s: f64,
    /// Renewals that were answered.
    pub renewals_per_s: f64,
    /// Operations that found a full queue.
    pub refused_per_s: f64,
    /// Operations given up after their timeout.
    pub timed_out_per_s: f64,
    /// Mean latency of these operations.
    pub mean_ms: f64,
    /// Half of these operations were no slower.
    pub p50_ms: f64,
    /// 99 of 100 operations were no slower.
    pub p99_ms: f64,
    /// Operations that shared an entry. Renewals count by their cost.
    pub operations_per_entry: f64,
    /// Entries of the log per second.
    pub entries_per_s: f64,
    /// The use of a node that leads.
    pub leader: NodeUse,
    /// The use of a node that follows. Where each node does both, it is the same.
    pub follower: NodeUse,
    /// Share of the gateway's cores.
    pub gateway_cpu: f64,
}

/// Counters at the beginning of a span.
struct Before {
    at: Ns,
    offered: u64,
    entries: u64,
    entry_ops: f64,
    busy: Vec<Ns>,
    sync_ns: Vec<Ns>,
    syncs: Vec<u64>,
}

impl Before {
    fn of(world: &World) -> Before {
        Before {
            at: world.agenda.now(),
            offered: world.load.offered,
            entries: world.entries,
            entry_ops: world.entry_ops,
            busy: world.threads.iter().map(|thread| thread.busy_ns).collect(),
            sync_ns: world.hosts.iter().map(|host| host.sync_ns).collect(),
            syncs: world.hosts.iter().map(|host| host.syncs).collect(),
        }
    }
}

/// Runs to `end`, and returns the figures of that span. The latencies are returned too, so that
/// several spans can be combined.
pub(crate) fn measure(world: &mut World, end: Ns) -> (Run, Vec<Ns>) {
    let before = Before::of(world);
    world.log.clear();
    world.run(end);
    let seconds = (end - before.at) as f64 / 1e9;
    let latencies: Vec<Ns> = world.log.latencies().collect();
    let latency = Latency::of(latencies.clone());
    let (entries, entry_ops) =
        ((world.entries - before.entries) as f64, world.entry_ops - before.entry_ops);
    let leader = world.groups[0].leader;
    let follower = world.groups[0]
        .replicas
        .iter()
        .copied()
        .find(|node| Some(*node) != leader && world.nodes[*node].alive);
    let node = |node: Option<NodeIx>| {
        node.map_or_else(NodeUse::default, |node| node_use(world, &before, node, seconds))
    };
    let gateway =
        (world.threads[world.gateway].busy_ns - before.busy[world.gateway]) as f64 / seconds / 1e9;
    let run = Run {
        offered_per_s: (world.load.offered - before.offered) as f64 / seconds,
        answered_per_s: world.log.count() as f64 / seconds,
        renewals_per_s: world.log.renewals as f64 / seconds,
        refused_per_s: world.log.refused as f64 / seconds,
        timed_out_per_s: world.log.timed_out as f64 / seconds,
        mean_ms: latency.mean_ms,
        p50_ms: latency.p50_ms,
        p99_ms: latency.p99_ms,
        operations_per_entry: if entries > 0.0 { entry_ops / entries } else { 0.0 },
        entries_per_s: entries / seconds,
        leader: node(leader),
        follower: node(follower),
        gateway_cpu: gateway,
    };
    (run, latencies)
}

/// The use of one node. On one machine, the node's share is its part of all cores, and all nodes
/// share the disk.
fn node_use(world: &World, before: &Before, node: NodeIx, seconds: f64) -> NodeUse {
    let own = |role: Role| role.node() == Some(node);
    let busy: Vec<f64> = (world.threads.iter().zip(&before.busy))
        .filter(|(thread, _)| own(thread.role))
        .map(|(thread, before)| (thread.busy_ns - before) as f64 / 1e9 / seconds)
        .collect();
    let at = world.threads[world.nodes[node].writer].host;
    let host = &world.hosts[at];
    debug_assert!(at != GATEWAY_HOST || world.hosts.len() == 1, "a node on the gateway's machine");
    NodeUse {
        cpu: busy.iter().sum::<f64>() / host.cores() as f64,
        busiest_thread: busy.into_iter().fold(0.0, f64::max),
        disk: (host.sync_ns - before.sync_ns[at]) as f64 / 1e9 / seconds / host.syncs_max() as f64,
        syncs_per_s: (host.syncs - before.syncs[at]) as f64 / seconds,
    }
}

/// Combines several spans of the same kind: means of rates, percentiles of all latencies together.
pub(crate) fn together(spans: Vec<(Run, Vec<Ns>)>) -> Run {
    let count = spans.len() as f64;
    let mean = |of: &dyn Fn(&Run) -> f64| spans.iter().map(|(run, _)| of(run)).sum::<f64>() / count;
    let node = |of: &dyn Fn(&Run) -> NodeUse| NodeUse {
        cpu: mean(&|run| of(run).cpu),
        busiest_thread: mean(&|run| of(run).busiest_thread),
        disk: mean(&|run| of(run).disk),
        syncs_per_s: mean(&|run| of(run).syncs_per_s),
    };
    let latency =
        Latency::of(spans.iter().flat_map(|(_, latencies)| latencies.iter().copied()).collect());
    let entries_per_s = mean(&|run| run.entries_per_s);
    let entry_ops_per_s = mean(&|run| run.operations_per_entry * run.entries_per_s);
    Run {
        offered_per_s: mean(&|run| run.offered_per_s),
        answered_per_s: mean(&|run| run.answered_per_s),
        renewals_per_s: mean(&|run| run.renewals_per_s),
        refused_per_s: mean(&|run| run.refused_per_s),
        timed_out_per_s: mean(&|run| run.timed_out_per_s),
        mean_ms: latency.mean_ms,
        p50_ms: latency.p50_ms,
        p99_ms: latency.p99_ms,
        operations_per_entry: if entries_per_s > 0.0 {
            entry_ops_per_s / entries_per_s
        } else {
            0.0
        },
        entries_per_s,
        leader: node(&|run| run.leader),
        follower: node(&|run| run.follower),
        gateway_cpu: mean(&|run| run.gateway_cpu),
    }
}
