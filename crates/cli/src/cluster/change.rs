//! Changes of the topology: a job is started, and looked at until it has ended.

use super::show::in_words;
use crate::args::{Change, Remote};
use crate::failure::{Exit, Failure};
use crate::output::{emit, print_json};
use crate::shown::shown;
use crate::verbs;
use client::{Client, JobSpec};
use std::time::Duration;
use tokio::time::Instant;
use wire::json::{Job, Topology};

/// How often the job is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Starts a job, and waits for its end unless it shall not.
///
/// # Errors
/// If it is refused, cancelled meanwhile, or has not ended in time.
pub(super) async fn run(change: &Change, spec: JobSpec) -> Result<(), Failure> {
    let client = verbs::connect(&change.remote.gateways)?;
    let started = client.start_job(verbs::new_request_id(), spec).await?;
    let until = change.within.map(|within| Instant::now() + within);
    let (id, json) = (started.job, change.remote.json);
    let mut seen: Option<Job> = None;
    loop {
        let job = look(&client, id, started.version).await?;
        if !json && seen.as_ref() != Some(&job) {
            say(seen.as_ref(), &job);
        }
        let is_over = job.state != "running";
        if is_over || change.detach {
            if json {
                print_json(&job);
            }
            return ended(&job, json);
        }
        seen = Some(job);
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(still_runs(seen.as_ref().expect("just seen")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(client: &Client, id: u64, at_least_version: u64) -> Result<Job, Failure> {
    let topology = Topology::from(&client.topology(at_least_version).await?);
    let job = topology.jobs.into_iter().find(|job| job.job == id);
    job.ok_or_else(|| {
        let message = format!("job {id} has ended, and others have ended since");
        let next = "see what became of it with `palisade cluster topology`";
        Failure::new(Exit::Error, "JOB_FORGOTTEN", message, next)
    })
}

/// Says how the job stands, if that is news.
fn say(before: Option<&Job>, job: &Job) {
    if before.is_none() {
        emit(&format!("job {}: {}", job.job, in_words(job)));
    }
    if job.state == "running" && job.total > 0 {
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
            let next = "see how far it came with `palisade cluster topology`";
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
pub(super) async fn cancel(remote: &Remote, id: u64) -> Result<(), Failure> {
    let client = verbs::connect(&remote.gateways)?;
    let version = client.cancel_job(id).await?;
    let job = look(&client, id, version).await?;
    if remote.json {
        print_json(&job);
    } else {
        emit(&format!("job {id} cancelled: {} of {} shards were done", job.done, job.total));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
