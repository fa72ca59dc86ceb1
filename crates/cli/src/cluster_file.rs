//! Reads the cluster file from disk, checks it and reports its warnings; `palisade cluster check`.

use crate::args::ClusterCheck;
use crate::failure::{Exit, Failure};
use crate::output::{emit, print_table};
use crate::shown::{counted, one_line, shown};
use crate::voice;
use routing::ClusterConfig;
use std::path::Path;

/// Reads and checks a cluster file. Warnings go to standard error.
///
/// # Errors
/// If the file cannot be read or used.
pub fn load(path: &Path) -> Result<ClusterConfig, Failure> {
    let (config, warnings) = parse(path)?;
    for warning in warnings {
        voice::say(format!("warning: {}\n", one_line(&warning)));
    }
    Ok(config)
}

fn parse(path: &Path) -> Result<(ClusterConfig, Vec<String>), Failure> {
    let file = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        let message = format!("cannot read the cluster file {file}: {error}");
        Failure::new(
            Exit::Usage,
            "CONFIG",
            message,
            "name a readable file with --config; config/ has examples",
        )
    })?;
    let parsed = ClusterConfig::parse_bytes(&bytes).map_err(|error| {
        let next =
            format!("correct {file} and look at it with `palisade cluster check --config {file}`");
        Failure::new(Exit::Usage, "CONFIG", format!("{file} cannot be used: {error}"), next)
    });
    parsed.map(|(mut config, warnings)| {
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        (config, warnings)
    })
}

/// Runs `palisade cluster check`.
///
/// # Errors
/// If the file cannot be used.
pub fn check(args: &ClusterCheck) -> Result<(), Failure> {
    let (config, warnings) = parse(&args.config)?;
    if args.members {
        for node in &config.nodes {
            emit(&format!("node {} {}", node.id, node.address));
        }
        for (number, gateway) in (1..).zip(&config.gateways) {
            emit(&format!("gateway {number} {}", gateway.address));
        }
        return Ok(());
    }
    for warning in warnings {
        eprintln!("warning: {}", one_line(&warning));
    }
    let (nodes, gateways) = (config.nodes.len(), config.gateways.len());
    emit(&format!(
        "{}: {} × {} on {}, {}\n",
        shown(&config.cluster),
        counted(config.shards, "shard"),
        counted(config.replicas, "replica"),
        counted(nodes, "node"),
        counted(gateways, "gateway"),
    ));
    let map = config.shard_map();
    let mut rows = vec![
        ["node", "address", "zone", "metrics", "replicas", "leads"].map(String::from).to_vec(),
    ];
    for node in &config.nodes {
        let leads =
            map.shards().filter(|(_, replicas)| replicas.preferred_leader == node.id).count();
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        rows.push(vec![
            node.id.to_string(),
            node.address.clone(),
            or_dash(&node.zone),
            or_dash(&node.metrics),
            map.hosted_by(node.id).count().to_string(),
            leads.to_string(),
        ]);
    }
    print_table(&rows);
    Ok(())
}
