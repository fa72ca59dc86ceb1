//! From a plan to a cluster file that `palisade node` and `palisade gateway` accept.
//!
//! Placement, zones and validation are left to `routing`. This module only decides the numbers.

use crate::build::Build;
use crate::plan::{Column, Plan};
use crate::quantity::{bytes, count, counted, decimals, percent, show};
use routing::{Addresses, ClusterConfig, ConfigError, NodeLayout};

/// The column that gives the number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitFor {
    /// The published arithmetic.
    Specification,
    /// This service's costs.
    Palisade,
}

/// Choices that the plan leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmitOptions {
    /// The column to use. By default that of this service.
    pub emit_for: Option<EmitFor>,
    /// Number of shards, if it differs from the plan, for example for a trial on one machine.
    pub shards: Option<u32>,
    /// Number of nodes that share all shards. By default each shard has nodes of its own.
    pub nodes: Option<u32>,
    /// Number of gateways. By default the plan's: at least two, and one more than clients and
    /// operations need.
    pub gateways: Option<u32>,
    /// The addresses of the processes.
    pub addresses: Addresses,
}

impl Default for EmitOptions {
    /// The plan for the end of the growth, on loopback from port 7400 on.
    fn default() -> Self {
        let addresses = Addresses::Loopback { base_port: 7400 };
        EmitOptions { emit_for: None, shards: None, nodes: None, gateways: None, addresses }
    }
}

/// The reason why a plan makes no cluster file.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// The plan has more shards than a cluster can have.
    #[error(
        "{} shards are more than the {} that a cluster has at most: share leases, renew less \
         often, or split the workload",
        count(*.0), count(routing::SHARDS_MAX.into())
    )]
    TooManyShards(u64),
    /// The plan has more nodes than can be numbered.
    #[error("{} nodes are too many for one file: lower `nodes_per_shard`", count(*.0))]
    TooManyNodes(u64),
    /// The plan has more gateways than can be numbered.
    #[error("{} gateways are too many for one file: split the workload", count(*.0))]
    TooManyGateways(u64),
    /// The configuration is invalid, as `routing` explains.
    #[error("the plan makes no valid cluster file: {0}")]
    Config(#[from] ConfigError),
}

/// Makes the cluster file: the configuration, and its text with a comment on its origin.
///
/// ```
/// use palisade_planner::{Calibration, EmitOptions, Plan, Workload, emit};
///
/// let workload = Workload::parse("acquire_per_s: 100\nhold: 5s\n", &[]).unwrap();
/// let plan = Plan::new(workload, Calibration::default()).unwrap();
/// let (config, yaml) = emit(&plan, &EmitOptions::default()).unwrap();
/// assert_eq!(u64::from(config.shards), plan.palisade.build.shards);
/// assert!(yaml.starts_with("# Made by `palisade plan`"));
/// ```
///
/// # Errors
/// If the plan has more shards, nodes or gateways than a cluster can have, or if the options make
/// an impossible cluster.
pub fn emit(plan: &Plan, options: &EmitOptions) -> Result<(ClusterConfig, String), EmitError> {
    let emit_for = options.emit_for.unwrap_or(EmitFor::Palisade);
    let (column, column_name) = match emit_for {
        EmitFor::Specification => (&plan.specification, "the specification's arithmetic"),
        EmitFor::Palisade => (&plan.palisade, "palisade's costs"),
    };
    let workload = &plan.workload;
    let wanted = options.shards.map_or(column.build.shards, u64::from);
    let shards = u32::try_from(wanted)
        .ok()
        .filter(|shards| *shards <= routing::SHARDS_MAX)
        .ok_or(EmitError::TooManyShards(wanted))?;
    let dedicated = u64::from(shards) * u64::from(workload.nodes_per_shard);
    let nodes = match options.nodes {
        Some(nodes) => u64::from(nodes),
        None => dedicated,
    };
    let nodes = u32::try_from(nodes)
        .ok()
        .filter(|nodes| *nodes <= NUMBERED_MAX)
        .ok_or(EmitError::TooManyNodes(nodes))?;
    let build = match (options.shards, options.nodes) {
        (None, None) => column.build.clone(),
        _ => Build::on(workload, &plan.calibration, &column.figures, shards.into(), nodes.into()),
    };
    let gateways = options.gateways.map_or(build.gateways, u64::from);
    let gateways = u32::try_from(gateways)
        .ok()
        .filter(|gateways| *gateways <= NUMBERED_MAX)
        .ok_or(EmitError::TooManyGateways(gateways))?;
    let gateways = match (&options.addresses, options.gateways) {
        (Addresses::Loopback { .. }, None) => gateways.min(GATEWAYS_ON_ONE_HOST),
        _ => gateways,
    };
    let mut config = ClusterConfig::generate(
        &workload.name,
        shards,
        workload.replicas,
        NodeLayout::Shared(nodes),
        workload.failure_zones,
        gateways,
        &options.addresses,
    )?;
    config.settings.history_days = workload.history_days;
    config.validate()?;
    let yaml =
        format!("{}{}", comment(plan, column, column_name, &build, gateways), config.to_yaml());
    Ok((config, yaml))
}

/// Number of nodes, and of gateways, at most. Their ids and host names are numbered. More is a
/// mistake, and would take all memory here.
const NUMBERED_MAX: u32 = 1_000_000;
/// Number of ports below those of the nodes, which are for gateways.
const GATEWAYS_ON_ONE_HOST: u32 = 10;

fn comment(
    plan: &Plan,
    column: &Column,
    column_name: &str,
    build: &Build,
    gateways: u32,
) -> String {
    let workload = &plan.workload;
    let name = workload.name.replace(char::is_control, " ");
    let mut lines =
        vec![format!("Made by `palisade plan` for the workload {name}, sized with {column_name}.")];
    let months = counted(build.months.into(), "month");
    lines.push(format!(
        "For the load in {months}, {} times today's: at its peak {} writes/s, and each leader is \
         asked for {} of its capacity.",
        decimals(build.growth, 2),
        show(build.peak_writes_per_s),
        percent(build.peak_utilisation)
    ));
    if build.shards != column.build.shards {
        let (planned, asked) = (counted(column.build.shards, "shard"), count(build.shards));
        let asked = if build.shards == 1 { "1 was".to_owned() } else { format!("{asked} were") };
        lines.push(format!("The plan has {planned}; {asked} asked for here."));
    }
    for (what, machine) in [("node", &build.node), ("gateway", &build.gateway)] {
        let disk = if machine.disk_bytes == 0 {
            String::new()
        } else {
            format!(", {} of disk", bytes(machine.disk_bytes as f64))
        };
        let (cores, memory) = (counted(machine.cores, "core"), bytes(machine.memory_bytes as f64));
        lines.push(format!("Each {what}: {cores}, {memory} of memory{disk}."));
    }
    if u64::from(gateways) != build.gateways {
        let (planned, here) =
            (counted(build.gateways, "gateway"), counted(gateways.into(), "gateway"));
        lines.push(format!(
            "The plan has {planned}; here {} {here}.",
            if gateways == 1 { "is" } else { "are" }
        ));
    }
    lines.push(format!("Costs: {}.", plan.calibration.source.replace(char::is_control, " ")));
    for reason in &column.fit.reasons {
        lines.push(format!("The plan does not fit: {reason}."));
    }
    lines.iter().map(|line| format!("# {line}\n")).collect()
}
