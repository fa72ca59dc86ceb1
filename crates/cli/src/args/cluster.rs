//! The command lines of the verbs for clusters.

use super::remote::Remote;
use super::upgrade::ClusterUpgrade;
use crate::duration;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Cluster verbs.
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Show nodes and shards. The exit code is 1 if a shard has no leader
    Status(ClusterStatus),
    /// Check a cluster file, and show the cluster that it describes
    Check(ClusterCheck),
    /// Show the members that shards should have, and those that they have
    Topology(ClusterShow),
    /// Show the nodes of the topology, and what each may be used for
    Nodes(ClusterShow),
    /// Show the jobs that run and the last ones that ended, or one of them
    Jobs(ClusterJobs),
    /// Take leaderships away from a node, so that it can be stopped
    Drain(ClusterNode),
    /// Let a node that was drained serve again
    Undrain(ClusterNode),
    /// Put a new node in the place of an old one, and remove the old one for good
    ReplaceNode(ClusterReplace),
    /// Move all replicas of a node elsewhere, and remove it for good
    RemoveNode(ClusterNode),
    /// Change the number of members of shards
    Replicas(ClusterReplicas),
    /// Even out replicas or leaderships over the nodes
    Rebalance(ClusterRebalance),
    /// End a job. What it did stays done
    Cancel(ClusterCancel),
    /// Have the replicas of nodes that are silent for long replaced without a verb, or not
    Repair(ClusterRepair),
    /// Have jobs and repairs rest, until they are resumed
    Pause(ClusterSet),
    /// Have jobs and repairs go on
    Resume(ClusterSet),
    /// Show which builds the nodes run, the active level, and the groups that have reached it
    Upgrade(ClusterUpgrade),
    /// The last resort: build the topology again from what nodes know, after the data of most
    /// members of its group were lost for good
    RebuildTopology(ClusterRebuild),
}

impl Cluster {
    /// Whether the verb prints JSON.
    pub fn json(&self) -> bool {
        match self {
            Cluster::Status(args) => args.remote.json,
            Cluster::Check(_) => false,
            Cluster::Topology(args) | Cluster::Nodes(args) => args.remote.json,
            Cluster::Jobs(args) => args.remote.json,
            Cluster::Drain(args) | Cluster::Undrain(args) | Cluster::RemoveNode(args) => {
                args.change.remote.json
            }
            Cluster::ReplaceNode(args) => args.change.remote.json,
            Cluster::Replicas(args) => args.change.remote.json,
            Cluster::Rebalance(args) => args.change.remote.json,
            Cluster::Cancel(args) => args.set.remote.json,
            Cluster::Repair(args) => args.set.remote.json,
            Cluster::Pause(args) | Cluster::Resume(args) => args.remote.json,
            Cluster::Upgrade(args) => args.json(),
            Cluster::RebuildTopology(args) => args.remote.json,
        }
    }
}

#[derive(Debug, Args)]
pub struct ClusterStatus {
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct ClusterCheck {
    /// The path of the cluster file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print only lines `node N ADDRESS` and `gateway K ADDRESS`, for scripts
    #[arg(long)]
    pub members: bool,
}

#[derive(Debug, Args)]
pub struct ClusterShow {
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct ClusterJobs {
    /// The number of one job
    pub id: Option<u64>,
    #[command(flatten)]
    pub remote: Remote,
}

/// Whether a change is made, or only shown.
#[derive(Debug, Args)]
pub struct Planning {
    /// Show what the change would lead to, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Make the change only if the topology has this version, as --dry-run shows it
    #[arg(
        long,
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "N",
        conflicts_with = "dry_run"
    )]
    pub at_version: Option<u64>,
}

/// How a verb waits for its job.
#[derive(Debug, Args)]
pub struct Change {
    #[command(flatten)]
    pub planning: Planning,
    /// Start the job, and do not wait for its end
    #[arg(long, conflicts_with = "dry_run")]
    pub detach: bool,
    /// Stop waiting after this time. The job goes on
    #[arg(
        long,
        value_parser = duration::parse,
        value_name = "DURATION",
        conflicts_with_all = ["detach", "dry_run"]
    )]
    pub within: Option<Duration>,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct ClusterNode {
    /// The id of the node
    pub node: u64,
    #[command(flatten)]
    pub change: Change,
}

#[derive(Debug, Args)]
pub struct ClusterReplace {
    /// The id of the node that goes
    pub old: u64,
    /// The id of the node that comes
    pub new: u64,
    /// Take a node of another zone. A zone may hold more replicas of a shard than before then
    #[arg(long)]
    pub other_zone: bool,
    #[command(flatten)]
    pub change: Change,
}

#[derive(Debug, Args)]
pub struct ClusterReplicas {
    /// The number of members
    pub count: u32,
    /// Only of this shard
    #[arg(long, value_name = "N")]
    pub shard: Option<u32>,
    /// Begin even if a shard would need every voter that is heard of on its way
    #[arg(long)]
    pub accept_no_spare: bool,
    #[command(flatten)]
    pub change: Change,
}

#[derive(Debug, Args)]
#[group(id = "what", required = true, args = ["members", "leaders"])]
pub struct ClusterRebalance {
    /// Move replicas from the nodes with most to those with fewest, where zones permit it
    #[arg(long)]
    pub members: bool,
    /// Move leaderships from the nodes with most load to those with least
    #[arg(long)]
    pub leaders: bool,
    #[command(flatten)]
    pub change: Change,
}

/// A change without a job.
#[derive(Debug, Args)]
pub struct ClusterSet {
    #[command(flatten)]
    pub planning: Planning,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct ClusterRepair {
    /// The time for which a node is silent before its replicas are replaced, at least 60 s: `30m`
    /// leaves time for restarts. `off`: nodes are not replaced by themselves
    #[arg(long, value_parser = repair_after, value_name = "DURATION|off")]
    pub after: RepairAfter,
    #[command(flatten)]
    pub set: ClusterSet,
}

/// When the replicas of a silent node are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairAfter {
    Off,
    Seconds(u64),
}

fn repair_after(text: &str) -> Result<RepairAfter, String> {
    if text == "off" {
        return Ok(RepairAfter::Off);
    }
    let after = duration::parse(text).map_err(|error| error.to_string())?;
    match after.subsec_nanos() {
        0 if !after.is_zero() => Ok(RepairAfter::Seconds(after.as_secs())),
        _ => Err("it is no time of whole seconds: give 30m, or off".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct ClusterCancel {
    /// The number of the job
    pub job: u64,
    #[command(flatten)]
    pub set: ClusterSet,
}

#[derive(Debug, Args)]
pub struct ClusterRebuild {
    /// Show what would be founded, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The data of this node are gone for good. Name no node that may run somewhere: it could serve
    /// the former topology
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub lost: Vec<u64>,
    #[command(flatten)]
    pub remote: Remote,
}
