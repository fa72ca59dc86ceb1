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
    /// End a job. What it did stays done
    Cancel(ClusterCancel),
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
            Cluster::Cancel(args) => args.remote.json,
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

/// How a verb waits for its job.
#[derive(Debug, Args)]
pub struct Change {
    /// Start the job, and do not wait for its end
    #[arg(long)]
    pub detach: bool,
    /// Stop waiting after this time. The job goes on
    #[arg(long, value_parser = duration::parse, value_name = "DURATION", conflicts_with = "detach")]
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
    #[command(flatten)]
    pub change: Change,
}

#[derive(Debug, Args)]
pub struct ClusterCancel {
    /// The number of the job
    pub job: u64,
    #[command(flatten)]
    pub remote: Remote,
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
