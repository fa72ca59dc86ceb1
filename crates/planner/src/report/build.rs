//! The cluster to build, which opens a plan, and the formulas behind it.

use crate::build::{self, Build, Machine};
use crate::quantity::{bytes, count, counted, decimals, percent, show};
use crate::{Plan, Sizing};

/// `2 shards × 5 replicas on 10 nodes, 2 gateways`.
pub(crate) fn summary(plan: &Plan, build: &Build) -> String {
    let (replicas, nodes) =
        (counted(plan.workload.replicas.into(), "replica"), counted(build.nodes, "node"));
    format!(
        "{} × {replicas} on {nodes}, {}",
        counted(build.shards, "shard"),
        counted(build.gateways, "gateway")
    )
}

/// `2 cores, 2 GB of memory, 53.9 GB of disk`.
pub(crate) fn machine(machine: &Machine) -> String {
    let disk = match machine.disk_bytes {
        0 => String::new(),
        disk_bytes => format!(", {} of disk", bytes(disk_bytes as f64)),
    };
    format!(
        "{}, {} of memory{disk}",
        counted(machine.cores, "core"),
        bytes(machine.memory_bytes as f64)
    )
}

/// `the load in 12 months, 3.14 times today's`.
pub(crate) fn horizon(build: &Build) -> String {
    let months = counted(build.months.into(), "month");
    match decimals(build.growth, 2).as_str() {
        "1" => format!("today's load, which does not grow in {months}"),
        growth => format!("the load in {months}, {growth} times today's"),
    }
}

/// For each figure: its label, its value, its formula with the numbers filled in, and its value in
/// the published model.
pub(crate) fn rows(plan: &Plan) -> Vec<[String; 4]> {
    let (spec, own) = (&plan.specification.build, &plan.palisade.build);
    let (workload, calibration) = (&plan.workload, &plan.calibration);
    let both = |label: &str, of: &dyn Fn(&Build) -> (String, String)| {
        let (value, how) = of(own);
        [label.to_owned(), value, how, of(spec).0]
    };
    let last = workload.growth.months;
    let sized = match workload.sizing {
        Sizing::Peak => "peak",
        Sizing::Average => "average",
    };
    let (leader_us, follower_us) = (build::leader_us(calibration), build::follower_us(calibration));
    let lock_bytes = build::lock_bytes(workload, calibration);
    vec![
        both("peak writes/s", &|build| {
            (show(build.peak_writes_per_s), format!("= today's × {}", decimals(build.growth, 2)))
        }),
        both("shards", &|build| {
            (count(build.shards), format!("as the growth table says of month {last}, {sized}"))
        }),
        both("  in use at the peak", &|build| {
            (percent(build.peak_utilisation), "of each leader's capacity".to_owned())
        }),
        both("nodes", &|build| {
            (
                count(build.nodes),
                format!(
                    "= {} × {}",
                    counted(build.shards, "shard"),
                    counted(workload.nodes_per_shard.into(), "node")
                ),
            )
        }),
        both("gateways", &|build| {
            let (clients, busy) = (show(build.instances), busy_gateways(build));
            let by_clients = format!("{clients} clients ÷ {}", show(build::CLIENTS_PER_GATEWAY));
            (
                count(build.gateways),
                format!("= max(2, ⌈{by_clients}⌉ + 1, ⌈{busy} cores ÷ {}⌉ + 1)", usable(plan)),
            )
        }),
        both("cores of a node", &|build| {
            let led = format!(
                "{}/s led × {} µs",
                show(build.peak_writes_per_s / build.shards as f64),
                decimals(leader_us, 0)
            );
            let followed =
                build.replicas_per_node - build.leaders_per_node.min(build.replicas_per_node);
            let more = if followed == 0 {
                String::new()
            } else {
                format!(", {followed} followed × {} µs", decimals(follower_us, 0))
            };
            (
                build.node.cores.to_string(),
                format!(
                    "= {} busy ÷ 50%: {led}{more}, and checks",
                    decimals(build.node.busy_cores, 2)
                ),
            )
        }),
        both("memory of a node", &|build| {
            let locks =
                build.peak_active_locks / build.shards as f64 * build.replicas_per_node as f64;
            let used = bytes(build.node.used_bytes as f64);
            let each = format!("{} locks × {} B", decimals(locks, 0), decimals(lock_bytes, 0));
            (
                bytes(build.node.memory_bytes as f64),
                format!("= ⌈{used}⌉: 512 MB + 16 MB a shard + 2 × ({each} + leases)"),
            )
        }),
        both("disk of a node", &|build| {
            let days = counted(workload.history_days.into(), "day");
            (
                bytes(build.node.disk_bytes as f64),
                format!("= 4 GB + 2 × history of {days} at that rate"),
            )
        }),
        both("cores of a gateway", &|build| {
            (
                build.gateway.cores.to_string(),
                format!(
                    "= {} busy ÷ 50%, with one gateway lost",
                    decimals(build.gateway.busy_cores, 2)
                ),
            )
        }),
        both("memory of a gateway", &|build| {
            let used = bytes(build.gateway.used_bytes as f64);
            (
                bytes(build.gateway.memory_bytes as f64),
                format!("= ⌈{used}⌉: 256 MB + 64 kB a client, with one gateway lost"),
            )
        }),
    ]
}

fn busy_gateways(build: &Build) -> String {
    let enough = (build.gateways - 1).max(1) as f64;
    decimals(build.gateway.busy_cores * enough, 2)
}

/// Cores of a machine that may be used at the peak.
fn usable(plan: &Plan) -> String {
    decimals(plan.calibration.cores as f64 * build::CORES_USED, 1)
}
