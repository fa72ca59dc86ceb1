//! `palisade cluster`: the topology as it is, and changes of it as jobs.
//!
//! A job belongs to the cluster: it goes on if this process ends. So a verb that waits only looks at
//! its job now and then.

mod change;
mod plan;
mod rebuild;
mod set;
mod show;
mod upgrade;

use crate::args::{Cluster, RepairAfter};
use crate::failure::{CORRECT_THE_VALUE, Failure};
use crate::{cluster_file, status};
use client::{JobKind, JobSpec, Setting};

/// Runs a verb of `palisade cluster`.
///
/// # Errors
/// If no gateway answers, the change is refused, or its job does not end in time.
pub async fn run(verb: &Cluster) -> Result<(), Failure> {
    // What a server refuses here is seldom a wrong value: the cluster is not in the state for it.
    run_verb(verb).await.map_err(|failure| match failure.next.as_str() {
        CORRECT_THE_VALUE => Failure { next: "nothing was changed".into(), ..failure },
        _ => failure,
    })
}

async fn run_verb(verb: &Cluster) -> Result<(), Failure> {
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
            let spec = JobSpec {
                new_node: args.new,
                accept_other_zone: args.other_zone,
                ..on(JobKind::ReplaceNode, args.old)
            };
            change::run(&args.change, spec).await
        }
        Cluster::Replicas(args) => {
            let spec = JobSpec {
                kind: JobKind::Replicas.into(),
                replicas: args.count,
                shard: args.shard,
                accept_no_spare: args.accept_no_spare,
                ..JobSpec::default()
            };
            change::run(&args.change, spec).await
        }
        Cluster::Rebalance(args) => {
            let kind = match args.members {
                true => JobKind::RebalanceMembers,
                false => JobKind::RebalanceLeaders,
            };
            change::run(&args.change, JobSpec { kind: kind.into(), ..JobSpec::default() }).await
        }
        Cluster::Cancel(args) => change::cancel(&args.set, args.job).await,
        Cluster::Repair(args) => {
            let seconds = match args.after {
                RepairAfter::Off => 0,
                RepairAfter::Seconds(seconds) => seconds,
            };
            set::run(&args.set, Setting::RepairAfterS(seconds)).await
        }
        Cluster::Pause(args) => set::run(args, Setting::Paused(true)).await,
        Cluster::Resume(args) => set::run(args, Setting::Paused(false)).await,
        Cluster::Upgrade(args) => upgrade::run(args).await,
        Cluster::RebuildTopology(args) => rebuild::run(args).await,
    }
}
