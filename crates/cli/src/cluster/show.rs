//! `palisade cluster topology`, `nodes` and `jobs`: parts of the one document of the topology.

use super::set::repair_in_words;
use crate::args::Remote;
use crate::failure::{Exit, Failure};
use crate::output::{emit, print_json, print_table};
use crate::shown::shown;
use crate::verbs;
use client::Client;
use wire::json::{self, Group, Job, Planned, Settings, Topology};

async fn fetch(remote: &Remote) -> Result<Topology, Failure> {
    Ok(Topology::from(&verbs::connect(&remote.gateways)?.topology(0).await?))
}

pub(super) async fn topology(remote: &Remote) -> Result<(), Failure> {
    let topology = fetch(remote).await?;
    if remote.json {
        print_json(&topology);
        return Ok(());
    }
    let Topology { version, level, .. } = &topology;
    emit(&format!("topology version {version}, level {level}"));
    settings_in_words(topology.settings).iter().for_each(|line| emit(line));
    groups(&topology);
    let running = topology.jobs.iter().filter(|job| job.state == "running").count();
    if running > 0 {
        emit(&format!("running jobs: {running}; see `palisade cluster jobs`"));
    }
    Ok(())
}

/// Prints the members of all groups.
pub(super) fn groups(topology: &Topology) {
    let header = ["shard", "wanted", "has", "prefers", "state"].map(String::from).to_vec();
    let groups = topology.shards.iter().chain(&topology.meta);
    let rows: Vec<_> = std::iter::once(header).chain(groups.map(group)).collect();
    print_table(&rows);
}

/// The row of a shard, or of the group of the topology.
fn group(group: &Group) -> Vec<String> {
    let list = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let learners = match group.learners.as_slice() {
        [] => String::new(),
        learners => format!(" and learners {}", list(learners)),
    };
    let name = match group.shard == routing::META.0 {
        true => "topology".to_owned(),
        false => group.shard.to_string(),
    };
    vec![
        name,
        list(&group.wanted),
        format!("{}{learners}", list(&group.voters)),
        group.preferred_leader.map_or_else(|| "-".into(), |node| format!("node {node}")),
        if group.settled { "settled" } else { "CHANGING" }.into(),
    ]
}

pub(super) async fn nodes(remote: &Remote) -> Result<(), Failure> {
    let topology = fetch(remote).await?;
    if remote.json {
        print_json(&topology.nodes);
        return Ok(());
    }
    let header = ["node", "address", "zone", "state", "replicas", "preferred by", "version"];
    let header = header.map(String::from).to_vec();
    let row = |node: &Planned| {
        vec![
            node.node.to_string(),
            shown(&node.address),
            or_dash(&node.zone),
            node.state.clone(),
            node.replicas.to_string(),
            node.preferred_by.to_string(),
            or_dash(&node.binary),
        ]
    };
    let rows: Vec<_> = std::iter::once(header).chain(topology.nodes.iter().map(row)).collect();
    print_table(&rows);
    Ok(())
}

pub(super) async fn jobs(remote: &Remote, id: Option<u64>) -> Result<(), Failure> {
    let client = verbs::connect(&remote.gateways)?;
    let Topology { mut jobs, settings, .. } = Topology::from(&client.topology(0).await?);
    jobs.retain(|job| id.is_none_or(|id| job.job == id));
    if let (Some(id), true) = (id, jobs.is_empty()) {
        let message = format!("there is no job {id}, or it ended long ago");
        let next = "see the last jobs with `palisade cluster jobs`";
        return Err(Failure::new(Exit::Usage, "INVALID_ARGUMENT", message, next));
    }
    if remote.json {
        match (id, jobs.first()) {
            (Some(_), Some(job)) => print_json(job),
            _ => print_json(&jobs),
        }
        return Ok(());
    }
    let obstacles = obstacles(&client).await;
    if jobs.is_empty() {
        emit("no job was started yet");
    } else {
        print_jobs(&jobs);
    }
    settings_in_words(settings).iter().for_each(|line| emit(line));
    obstacles.iter().for_each(|obstacle| emit(&format!("waits: {}", shown(obstacle))));
    Ok(())
}

/// What repairs and the group of the topology wait for. Nothing if the nodes cannot be asked now:
/// the jobs are told nevertheless.
async fn obstacles(client: &Client) -> Vec<String> {
    let Ok(status) = client.cluster_status().await else { return Vec::new() };
    json::ClusterStatus::from(&status).topology.map(|group| group.obstacles).unwrap_or_default()
}

/// The settings that are not as in the beginning.
fn settings_in_words(settings: Settings) -> Vec<String> {
    let repair = settings.repair_after_s.map(|after_s| repair_in_words(Some(after_s)));
    let paused = settings
        .paused
        .then(|| "jobs and repairs rest: go on with `palisade cluster resume`".to_owned());
    repair.into_iter().chain(paused).collect()
}

fn print_jobs(jobs: &[Job]) {
    let header = ["job", "what", "state", "shards", "waits for"].map(String::from).to_vec();
    let row = |job: &Job| {
        vec![
            job.job.to_string(),
            in_words(job),
            job.state.clone(),
            format!("{} of {}", job.done, job.total),
            or_dash(&job.why),
        ]
    };
    let rows: Vec<_> = std::iter::once(header).chain(jobs.iter().map(row)).collect();
    print_table(&rows);
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { shown(text) }
}

/// What a job does.
pub(super) fn in_words(job: &Job) -> String {
    let node = job.node.unwrap_or_default();
    match job.kind {
        "DRAIN" => format!("drain node {node}"),
        "UNDRAIN" => format!("undrain node {node}"),
        "REMOVE_NODE" => format!("remove node {node}"),
        "REPLACE_NODE" => {
            format!("replace node {node} by node {}", job.new_node.unwrap_or_default())
        }
        "REPLICAS" => {
            let of = job.shard.map_or_else(String::new, |shard| format!(" of shard {shard}"));
            format!("{} replicas{of}", job.replicas.unwrap_or_default())
        }
        other => other.to_lowercase().replace('_', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_on_its_way_shows_who_comes() {
        let of = |learners: &[u64], shard| Group {
            shard,
            wanted: vec![1, 2, 4],
            voters: vec![1, 2, 3],
            learners: learners.to_vec(),
            preferred_leader: Some(2),
            settled: false,
        };
        let row = group(&of(&[4], 7));
        assert_eq!(row, ["7", "1 2 4", "1 2 3 and learners 4", "node 2", "CHANGING"]);
        assert_eq!(group(&of(&[], routing::META.0))[0], "topology");
    }

    #[test]
    fn what_an_operator_has_set_is_shown() {
        assert_eq!(settings_in_words(Settings::default()), Vec::<String>::new());
        let lines = settings_in_words(Settings { repair_after_s: Some(60), paused: true });
        assert!(lines[0].contains("silent for 1m 00s"), "{lines:?}");
        assert!(lines[1].contains("palisade cluster resume"), "{lines:?}");
    }

    #[test]
    fn each_job_has_words() {
        let job = |kind| Job {
            job: 1,
            kind,
            node: Some(3),
            new_node: Some(9),
            replicas: Some(5),
            shard: Some(2),
            state: "running".into(),
            done: 0,
            total: 0,
            why: String::new(),
        };
        assert_eq!(in_words(&job("DRAIN")), "drain node 3");
        assert_eq!(in_words(&job("REPLACE_NODE")), "replace node 3 by node 9");
        assert_eq!(in_words(&job("REPLICAS")), "5 replicas of shard 2");
        assert_eq!(in_words(&job("REBALANCE_LEADERS")), "rebalance leaders");
    }
}
