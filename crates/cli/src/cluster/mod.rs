//! `palisade cluster`: the topology as it is, and changes of it as jobs.
//!
//! A job belongs to the cluster: it goes on if this process ends. So a verb that waits only looks at
//! its job now and then.

mod change;
mod rebuild;
mod show;
mod upgrade;

use crate::args::Cluster;
use crate::failure::Failure;
use crate::{cluster_file, status};
use client::{JobKind, JobSpec};

/// Runs a verb of `palisade cluster`.
///
/// # Errors
/// If no gateway answers, the change is refused, or its job does not end in time.
pub async fn run(verb: &Cluster) -> Result<(), Failure> {
    let on = |kind: JobKind, node| JobSpec { kind: kind.into(), node, ..JobSpec::default() };
    match verb {
        Cluster::Status(args) => status::run(args).await,
        Cluster::Check(args) => cluster_file::check(args),
        Cluster::Topology(args) => show::topology(&args.remote).await,
        Cluster::Nodes(args) => show::nodes(&args.remote).await,
        Cluster::Jobs(args) => show::jobs(&args.remote, args.id).await,
        Cluster::Drain(args) => change::run(&args.change, on(JobKind::Drain, args.node)).await,
        Cluster::Undrain(args) => change::run(&args.change, on(JobKind::Undrain, args.node)).await,
        Cluster::RemoveNode(args) => {
            change::run(&args.change, on(JobKind::RemoveNode, args.node)).await
        }
        Cluster::ReplaceNode(args) => {
            let spec = JobSpec { new_node: args.new, ..on(JobKind::ReplaceNode, args.old) };
            change::run(&args.change, spec).await
        }
        Cluster::Replicas(args) => {
            let spec = JobSpec {
                kind: JobKind::Replicas.into(),
                replicas: args.count,
                shard: args.shard,
                ..JobSpec::default()
            };
            change::run(&args.change, spec).await
        }
        Cluster::Cancel(args) => change::cancel(&args.remote, args.job).await,
        Cluster::Upgrade(args) => upgrade::run(args).await,
        Cluster::RebuildTopology(args) => rebuild::run(args).await,
    }
}
