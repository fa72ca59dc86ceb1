//! From a plan to a cluster file that `palisade node` and `palisade gateway` accept.
//!
//! Placement, zones and validation are `routing`'s; this only says how many of what.

use crate::Calibration;
use crate::figures::{Column, Plan};
use crate::quantity::{count, percent};
use routing::{Addresses, ClusterConfig, ConfigError, NodeLayout};

/// Which column's shards to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitFor {
    /// The published arithmetic.
    Specification,
    /// This service's costs.
    Palisade,
}

impl EmitFor {
    /// Palisade's if its costs were measured.
    pub(crate) fn default_for(calibration: &Calibration) -> EmitFor {
        if calibration.measured { EmitFor::Palisade } else { EmitFor::Specification }
    }
}

/// Gateways for so many shards: two at least, for the case that one fails, unless there is but one shard.
pub(crate) fn gateways_for(shards: u64) -> u64 {
    if shards == 1 { 1 } else { shards.div_ceil(10).max(2) }
}

/// What the plan does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmitOptions {
    /// By default the specification's, unless the calibration was measured.
    pub emit_for: Option<EmitFor>,
    /// Another number of shards than planned, such as for a trial on one machine.
    pub shards: Option<u32>,
    /// Put all shards on this many nodes, instead of each on nodes of its own.
    pub nodes: Option<u32>,
    /// By default 1 for one shard, 2 for more, and one for every ten shards.
    pub gateways: Option<u32>,
    /// Where processes listen.
    pub addresses: Addresses,
}

impl Default for EmitOptions {
    /// As planned, on loopback from port 7400 on.
    fn default() -> Self {
        let addresses = Addresses::Loopback { base_port: 7400 };
        EmitOptions { emit_for: None, shards: None, nodes: None, gateways: None, addresses }
    }
}

/// No cluster file can be made of this.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// More than a cluster can have.
    #[error(
        "{} shards are more than the {} that a cluster has at most: share leases, renew less often, or split the workload",
        count(*.0), count(routing::SHARDS_MAX.into())
    )]
    TooManyShards(u64),
    /// Too many nodes to number.
    #[error("{} nodes are too many for one file: lower `nodes_per_shard`", count(*.0))]
    TooManyNodes(u64),
    /// What `routing` says of it.
    #[error("the plan makes no valid cluster file: {0}")]
    Config(#[from] ConfigError),
}

/// Makes the cluster file: the configuration, and its text with a comment on where it comes from.
///
/// # Errors
/// If the plan has more shards or nodes than a cluster can have, or the options make an impossible cluster.
pub fn emit(plan: &Plan, options: &EmitOptions) -> Result<(ClusterConfig, String), EmitError> {
    let emit_for = options.emit_for.unwrap_or(EmitFor::default_for(&plan.calibration));
    let (column, column_name) = match emit_for {
        EmitFor::Specification => (&plan.specification, "the specification's arithmetic"),
        EmitFor::Palisade => (&plan.palisade, "palisade's costs"),
    };
    let workload = &plan.workload;
    let planned = column.figures.shards;
    let wanted = options.shards.map_or(planned, u64::from);
    let shards = u32::try_from(wanted)
        .ok()
        .filter(|shards| *shards <= routing::SHARDS_MAX)
        .ok_or(EmitError::TooManyShards(wanted))?;
    let dedicated = u64::from(shards) * u64::from(workload.nodes_per_shard);
    // Ids and host names are numbered; what is beyond a million is a mistake, and would take all memory here.
    let nodes = match options.nodes {
        Some(nodes) => u64::from(nodes),
        None => dedicated,
    };
    let nodes = u32::try_from(nodes).ok().filter(|nodes| *nodes <= 1_000_000).ok_or(EmitError::TooManyNodes(nodes))?;
    let gateways = options.gateways.unwrap_or(gateways_for(shards.into()) as u32);
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
    let yaml = format!("{}{}", comment(plan, column, column_name, u64::from(shards)), config.to_yaml());
    Ok((config, yaml))
}

fn comment(plan: &Plan, column: &Column, column_name: &str, shards: u64) -> String {
    let (figures, workload) = (&column.figures, &plan.workload);
    let mut lines =
        vec![format!("Made by `palisade plan` for the workload {}, sized with {column_name}.", workload.name)];
    if shards == figures.shards {
        let used = percent(figures.peak_utilisation);
        lines.push(format!("At the peak, each leader is asked for {used} of its capacity."));
    } else {
        lines.push(format!("The plan has {} shards; {} were asked for here.", count(figures.shards), count(shards)));
    }
    lines.push(format!("Costs: {}.", plan.calibration.source.replace(char::is_control, " ")));
    for reason in &column.fit.reasons {
        lines.push(format!("The plan does not fit: {reason}."));
    }
    lines.iter().map(|line| format!("# {line}\n")).collect()
}
