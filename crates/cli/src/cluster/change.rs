//! Changes of the topology: a job is started, and looked at until it has ended.

use super::plan;
use super::show::in_words;
use crate::args::{Change, ClusterSet};
use crate::failure::{Exit, Failure};
use crate::output::{emit, print_json};
use crate::shown::shown;
use crate::verbs;
use client::{Client, JobSpec, PlanChange};
use std::time::Duration;
use tokio::time::Instant;
use wire::json::{Job, Planned, Topology};

/// How often the job is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Starts a job, and waits for its end unless it shall not. A dry run shows what it would do. A gateway or a leader that is away for
/// a while ends no wait, because the job goes on without them.
///
/// # Errors
/// If it is refused, cancelled meanwhile, or has not ended in time.
pub(super) async fn run(change: &Change, spec: JobSpec) -> Result<(), Failure> {
    if change.planning.dry_run {
        let what = in_words(&Job::from(&wire::v1::Job { spec: Some(spec), ..Default::default() }));
        return plan::show(&change.remote, PlanChange::Job(spec), &what).await;
    }
    let client = verbs::connect(&change.remote.gateways)?;
    let at_version = change.planning.at_version;
    let started = client.start_job(verbs::new_request_id(), spec, at_version).await?;
    let until = change.within.map(|within| Instant::now() + within);
    let (id, json) = (started.job, change.remote.json);
    let mut seen: Option<Job> = None;
    let mut is_told = false;
    loop {
        let is_late = until.is_some_and(|until| Instant::now() >= until);
        match look(&client, id, started.version).await {
            Ok(Seen { job, .. }) => {
                if !json && seen.as_ref() != Some(&job) {
                    say(seen.as_ref(), &job);
                }
                if job.state != "running" || change.detach {
                    if json {
                        print_json(&job);
                    }
                    return ended(&job, json);
                }
                if is_late {
                    return Err(still_runs(&job));
                }
                seen = Some(job);
            }
            Err(unseen) if unseen.passes && !is_late && !change.detach => {
                if !json && !std::mem::replace(&mut is_told, true) {
                    emit(&format!("  job {id} is not seen now; looking on"));
                }
            }
            Err(unseen) => return Err(unseen.failure),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A job, and the topology that it is in.
struct Seen {
    job: Job,
    topology: Topology,
}

/// A look at a job that has failed.
struct Unseen {
    failure: Failure,
    /// A later look may succeed.
    passes: bool,
}

async fn look(client: &Client, id: u64, at_least_version: u64) -> Result<Seen, Unseen> {
    let told = client.topology(at_least_version).await.map_err(|error| unseen(id, error))?;
    let topology = Topology::from(&told);
    let job = topology.jobs.iter().find(|job| job.job == id).cloned();
    let job = job.ok_or_else(|| {
        let message = format!("job {id} has ended, and others have ended since");
        let next = "see what became of it with `palisade cluster topology`";
        let failure = Failure::new(Exit::Error, "JOB_FORGOTTEN", message, next);
        Unseen { failure, passes: false }
    })?;
    Ok(Seen { job: resting(job, &topology), topology })
}

/// The job with the reason that nothing goes on, if all jobs rest.
fn resting(job: Job, topology: &Topology) -> Job {
    let rests = topology.settings.paused && job.state == "running";
    let why = "jobs rest: let them go on with `palisade cluster resume`";
    if rests { Job { why: why.into(), ..job } } else { job }
}

fn unseen(id: u64, error: client::Error) -> Unseen {
    let passes = error.is_retryable() || error.is_unreachable() || error.is_outcome_unknown();
    let failure = Failure::from(error);
    let message = format!("job {id} was not seen, and may go on: {}", failure.message);
    let next = format!("{}; then look at it with `palisade cluster jobs {id}`", failure.next);
    Unseen { failure: Failure { message, next, ..failure }, passes }
}

/// Says how the job stands, if that is news.
fn say(before: Option<&Job>, job: &Job) {
    if before.is_none() {
        emit(&format!("job {}: {}", job.job, in_words(job)));
    }
    if job.state == "running" && (job.total > 0 || !job.why.is_empty()) {
        emit(&format!("  {}", progress(job)));
    }
}

fn progress(job: &Job) -> String {
    let shards = if job.total == 1 { "shard" } else { "shards" };
    let why = match job.why.as_str() {
        "" => String::new(),
        why => format!("; {}", shown(why)),
    };
    format!("{} of {} {shards}{why}", job.done, job.total)
}

/// What follows from the end of a job, or from its start if nobody waits.
fn ended(job: &Job, json: bool) -> Result<(), Failure> {
    match job.state.as_str() {
        "cancelled" => {
            let message = format!("job {} was cancelled: what it did stays done", job.job);
            let next = match (job.kind, job.node) {
                ("DRAIN" | "REMOVE_NODE" | "REPLACE_NODE", Some(node)) => {
                    format!(
                        "take the node back with `palisade cluster undrain {node}`, or start it again"
                    )
                }
                _ => "see how far it came with `palisade cluster topology`".to_owned(),
            };
            Err(Failure::new(Exit::Error, "JOB_CANCELLED", message, next))
        }
        "done" if !json => {
            emit(&format!("done: {}", outcome(job)));
            Ok(())
        }
        _ => Ok(()),
    }
}

fn outcome(job: &Job) -> String {
    let node = job.node.unwrap_or_default();
    match job.kind {
        "DRAIN" => format!(
            "node {node} leads nothing, and each shard keeps a quorum without it: it can be stopped"
        ),
        "UNDRAIN" => format!("node {node} serves again"),
        "REMOVE_NODE" | "REPLACE_NODE" => {
            format!("node {node} is removed for good; never start its data directory again")
        }
        _ => in_words(job),
    }
}

fn still_runs(job: &Job) -> Failure {
    let message = format!("job {} has not ended in time: {}", job.job, progress(job));
    let next = format!(
        "it goes on: look at it with `palisade cluster jobs {0}`, or end it with `palisade cluster \
         cancel {0}`",
        job.job
    );
    Failure::new(Exit::Error, "JOB_RUNNING", message, next)
}

/// Ends a job.
///
/// # Errors
/// If it is not known, or has ended.
pub(super) async fn cancel(set: &ClusterSet, id: u64) -> Result<(), Failure> {
    let remote = &set.remote;
    if set.planning.dry_run {
        return plan::show(remote, PlanChange::CancelJob(id), &format!("cancel job {id}")).await;
    }
    let client = verbs::connect(&remote.gateways)?;
    let version = client.cancel_job(id, set.planning.at_version).await?;
    let Seen { job, topology } =
        look(&client, id, version).await.map_err(|unseen| unseen.failure)?;
    if remote.json {
        print_json(&job);
        return Ok(());
    }
    emit(&format!("job {id} cancelled: {} of {} shards were done", job.done, job.total));
    for node in &topology.nodes {
        if let Some(line) = stays(&job, node) {
            emit(&line);
        }
    }
    Ok(())
}

/// What a cancelled job leaves behind on this node.
fn stays(job: &Job, node: &Planned) -> Option<String> {
    let is_kept = matches!(node.state.as_str(), "draining" | "leaving");
    (job.node == Some(node.node) && is_kept).then(|| {
        format!(
            "node {0} stays {1}, so it gets no replicas and should not lead: take it back with \
             `palisade cluster undrain {0}`",
            node.node, node.state
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1;

    fn job(state: &str, kind: &'static str) -> Job {
        Job {
            job: 12,
            kind,
            node: Some(3),
            new_node: None,
            replicas: None,
            shard: None,
            state: state.into(),
            done: 2,
            total: 3,
            why: "node 3 still leads shard 1: wait".into(),
        }
    }

    #[test]
    fn a_job_says_how_far_it_is_and_what_it_waits_for() {
        let running = job("running", "DRAIN");
        assert_eq!(progress(&running), "2 of 3 shards; node 3 still leads shard 1: wait");
        let failure = still_runs(&running);
        assert_eq!(failure.code, "JOB_RUNNING");
        assert!(failure.next.contains("cluster cancel 12"), "{}", failure.next);
    }

    #[test]
    fn only_a_job_that_is_done_or_detached_is_a_success() {
        assert!(ended(&job("done", "DRAIN"), true).is_ok());
        assert!(ended(&job("running", "DRAIN"), true).is_ok());
        let cancelled = ended(&job("cancelled", "DRAIN"), true).unwrap_err();
        assert_eq!(cancelled.code, "JOB_CANCELLED");
    }

    #[test]
    fn a_cancelled_job_says_that_its_node_stays_as_it_is() {
        let node = |node, state: &str| Planned {
            node,
            address: "three:1".into(),
            zone: String::new(),
            state: state.into(),
            binary: String::new(),
            replicas: 1,
            preferred_by: 0,
        };
        let cancelled = job("cancelled", "REMOVE_NODE");
        let line = stays(&cancelled, &node(3, "leaving")).unwrap();
        assert!(line.contains("stays leaving") && line.contains("undrain 3"), "{line}");
        assert_eq!(stays(&cancelled, &node(3, "serving")), None);
        assert_eq!(stays(&cancelled, &node(4, "leaving")), None);
        let waited = ended(&cancelled, true).unwrap_err();
        assert!(waited.next.contains("undrain 3"), "{}", waited.next);
    }

    /// A wait once ended with its first failed look, and did not say of which job.
    #[test]
    fn a_look_that_fails_for_a_while_ends_no_wait_and_names_the_job() {
        let away = unseen(12, v1::Error::no_leader("no node tells the topology now").into());
        assert!(away.passes);
        assert!(away.failure.message.starts_with("job 12 "), "{}", away.failure.message);
        let denied = v1::Error::new(v1::ErrorCode::PermissionDenied, "you may not see it");
        let denied = unseen(12, denied.into());
        assert!(!denied.passes && denied.failure.message.starts_with("job 12 "));
    }
}
