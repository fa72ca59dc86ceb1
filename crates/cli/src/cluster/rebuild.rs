//! `palisade cluster rebuild-topology`: the last resort after the group of the topology was lost.

use super::show;
use crate::args::ClusterRebuild;
use crate::failure::{Exit, Failure};
use crate::output::{emit, print_json};
use crate::shown::shown;
use crate::verbs;
use client::Client;
use std::time::{Duration, Instant};
use wire::json::{ClusterStatus, Rebuilt};

/// The longest time until the new group has a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Builds the topology again, or shows what would be founded.
///
/// # Errors
/// If no gateway answers, or the nodes tell that it must not be.
pub(super) async fn run(args: &ClusterRebuild) -> Result<(), Failure> {
    let client = verbs::connect(&args.remote.gateways)?;
    let answer = client.rebuild_topology(&args.lost, args.dry_run).await?;
    let rebuilt = Rebuilt::new(&answer, args.dry_run);
    if args.remote.json {
        print_json(&rebuilt);
    } else {
        lines(&rebuilt).iter().for_each(|line| emit(line));
        show::groups(&rebuilt.topology);
    }
    if args.dry_run {
        return Ok(());
    }
    let leader = leader_of(&client, rebuilt.topology.version).await?;
    if !args.remote.json {
        emit(&format!("node {leader} leads it: nodes and members can change again"));
    }
    Ok(())
}

/// The leader of the new group, once it has one.
///
/// # Errors
/// If it has none within [`LEADER_WITHIN`].
async fn leader_of(client: &Client, version: u64) -> Result<u64, Failure> {
    let began = Instant::now();
    while began.elapsed() < LEADER_WITHIN {
        if let Ok(status) = client.cluster_status().await {
            let group = ClusterStatus::from(&status).topology;
            let leader = group.filter(|group| group.version >= version).and_then(|it| it.leader);
            if let Some(leader) = leader {
                return Ok(leader);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let message = format!("its group has no leader after {} s", LEADER_WITHIN.as_secs());
    let next =
        "start the nodes that it was founded on, and see `palisade cluster status` and their logs";
    Err(Failure::new(Exit::Error, "NO_LEADER", message, next))
}

fn lines(rebuilt: &Rebuilt) -> Vec<String> {
    let list = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let founders =
        rebuilt.topology.meta.as_ref().map_or_else(String::new, |meta| list(&meta.wanted));
    let (verb, generation) = (if rebuilt.dry_run { "would be" } else { "was" }, rebuilt.generation);
    let version = rebuilt.topology.version;
    let mut lines = vec![format!(
        "generation {generation} of the topology {verb} founded with version {version}, on nodes \
         {founders}; built from what nodes {} tell",
        list(&rebuilt.answering_nodes)
    )];
    if !rebuilt.losses.is_empty() {
        lines.push("lost:".to_owned());
        lines.extend(rebuilt.losses.iter().map(|loss| format!("  {}", shown(loss))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1;

    #[test]
    fn what_would_be_founded_is_told_with_what_is_lost() {
        let meta = v1::TopologyShard { wanted: vec![4, 5, 6], ..Default::default() };
        let topology = v1::ClusterTopology { version: 77, meta: Some(meta), ..Default::default() };
        let answer = v1::RebuildTopologyResponse {
            generation: 2,
            topology: Some(topology),
            losses: vec!["changes after version 12".into()],
            answering_nodes: vec![4, 5, 6, 7],
        };
        let told = lines(&Rebuilt::new(&answer, true)).join("\n");
        assert_eq!(
            told,
            "generation 2 of the topology would be founded with version 77, on nodes 4 5 6; built from \
             what nodes 4 5 6 7 tell\nlost:\n  changes after version 12"
        );
        let done = lines(&Rebuilt::new(&answer, false)).join("\n");
        assert!(done.contains("was founded"), "{done}");
    }
}
