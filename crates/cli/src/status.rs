//! `palisade cluster status`: nodes, shards, and the state of their replicas relative to each
//! other.
//!
//! It shows the document of [`wire::json::ClusterStatus`] to people or programs, and adds no facts
//! to it.

use crate::args::ClusterStatus;
use crate::failure::{Exit, Failure};
use crate::output::{Paint, emit, print_json, print_table};
use crate::shown::shown;
use crate::verbs;
use wire::json::{self, Member, Node, Replica, Shard, TopologyGroup};

/// From this value on the time of a sync is shown, because operations wait for one sync and
/// elections for two.
pub const SLOW_SYNC_MS: f64 = 100.0;

/// Runs `palisade cluster status`.
///
/// # Errors
/// If no gateway answers, or a shard has no leader.
pub async fn run(args: &ClusterStatus) -> Result<(), Failure> {
    let status =
        json::ClusterStatus::from(&verbs::connect(&args.remote.gateways)?.cluster_status().await?);
    if args.remote.json {
        print_json(&status);
    } else {
        print(&status);
    }
    let shards = &status.shards;
    let leaderless: Vec<String> = shards
        .iter()
        .filter(|shard| shard.leader.is_none())
        .map(|shard| shard.shard.to_string())
        .collect();
    if shards.is_empty() || !leaderless.is_empty() {
        let message = match shards.is_empty() {
            true => "no replica of any shard answered".to_owned(),
            false if leaderless.len() > 1 => {
                format!("no leader for shards {}", leaderless.join(", "))
            }
            false => format!("no leader for shard {}", leaderless.join(", ")),
        };
        if args.remote.json {
            // The printed document already shows this: `leader` is null.
            return Err(Failure::already_told(Exit::Error));
        }
        let next = "each shard needs a majority of its replicas: start the nodes that are down, or wait for an election";
        return Err(Failure::new(Exit::Error, "NO_LEADER", message, next));
    }
    Ok(())
}

fn disk_in_words(node: &Node) -> String {
    match (node.disk_write_age_ms, node.disk_sync_ms) {
        (Some(age_ms), _) if node.disk_hangs => {
            format!("HANGS: write under way for {:.1} s", age_ms as f64 / 1_000.0)
        }
        (_, Some(sync_ms)) if sync_ms >= SLOW_SYNC_MS => {
            format!("slow: a sync takes {} ms", sync_ms as u64)
        }
        (Some(_), _) => "ok".into(),
        (None, _) => "-".into(),
    }
}

/// The members of a shard that do not count, each with the reason.
pub fn missing(shard: &Shard) -> Vec<String> {
    missing_of(&format!("shard {}", shard.shard), &shard.members)
}

/// The same for a group of this name.
fn missing_of(group: &str, members: &[Member]) -> Vec<String> {
    let (counting, votes) = json::votes(members);
    let missing = members.iter().filter(|member| !member.counts);
    let line = |member: &Member| {
        let incarnation = match member.incarnation {
            0 => String::new(),
            incarnation => format!(" (incarnation {incarnation})"),
        };
        let verb = if counting == 1 { "counts" } else { "count" };
        format!(
            "{group}: {counting} of {votes} votes {verb}; node {}{incarnation} does not: {}",
            member.node, member.reason
        )
    };
    missing.map(line).collect()
}

/// The servers that other machines reach without protection.
pub fn warning(status: &json::ClusterStatus) -> Option<String> {
    let gateway = status.insecure.then(|| "this gateway".to_owned());
    let nodes = status.nodes.iter().filter(|node| node.insecure);
    let nodes = nodes.map(|node| format!("node {}", node.node));
    let servers: Vec<String> = gateway.into_iter().chain(nodes).collect();
    let (last, others) = servers.split_last()?;
    let (servers, were) = match others {
        [] => (last.clone(), "was"),
        _ => (format!("{} and {last}", others.join(", ")), "were"),
    };
    Some(format!(
        "{servers} {were} started with --insecure: any process that reaches them can take and \
         break locks"
    ))
}

/// The replicas of a group that answered, each with its lag.
fn replicas_in_words(replicas: &[Replica]) -> String {
    let reseeding = |replica: &Replica| if replica.reseeding { " re-seeding" } else { "" };
    let word =
        |replica: &Replica| format!("{}({}{})", replica.node, replica.lag, reseeding(replica));
    replicas.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// The group that keeps the topology of the cluster.
fn topology_in_words(group: &TopologyGroup) -> String {
    let TopologyGroup { version, term, .. } = group;
    let led = match group.leader {
        Some(leader) => format!("led by node {leader} in term {term}"),
        None => "WITHOUT A LEADER: it cannot change now, and locks are served".to_owned(),
    };
    let hashes = match group.hashes_equal {
        Some(true) => "equal",
        Some(false) => "DIFFERENT",
        None => "not comparable now",
    };
    let replicas = replicas_in_words(&group.replicas);
    format!("topology version {version}, {led}; replicas (lag) {replicas}, state hashes {hashes}")
}

fn print(status: &json::ClusterStatus) {
    let paint = Paint::stdout();
    emit(&format!(
        "{} {} (map version {})\n",
        paint.dim("cluster"),
        shown(&status.cluster),
        status.map_version
    ));
    if let Some(warning) = warning(status) {
        emit(&paint.bad(&warning));
    }
    let mut rows =
        vec![["node", "address", "zone", "state", "leads", "disk"].map(String::from).to_vec()];
    for node in &status.nodes {
        rows.push(vec![
            node.node.to_string(),
            node.address.clone(),
            if node.zone.is_empty() { "-".into() } else { node.zone.clone() },
            if node.reachable { "up" } else { "DOWN" }.into(),
            node.leads.to_string(),
            disk_in_words(node),
        ]);
    }
    print_table(&rows);
    emit("");
    let header = [
        "shard",
        "leader",
        "term",
        "applied",
        "locks",
        "waiters",
        "sessions",
        "last token",
        "replicas (lag)",
        "state hashes",
    ];
    let mut rows = vec![header.map(String::from).to_vec()];
    for shard in &status.shards {
        let hashes = match shard.hashes_equal {
            Some(true) => "equal",
            Some(false) => "DIFFERENT",
            None => "not comparable now",
        };
        rows.push(vec![
            shard.shard.to_string(),
            shard.leader.map_or_else(|| "NONE".into(), |leader| format!("node {leader}")),
            shard.term.to_string(),
            shard.applied_index.to_string(),
            shard.active_locks.to_string(),
            shard.waiters.to_string(),
            shard.sessions.to_string(),
            shard.last_token.to_string(),
            replicas_in_words(&shard.replicas),
            hashes.into(),
        ]);
    }
    print_table(&rows);
    emit("");
    if status.topology.is_none() {
        emit(
            "topology: no replica of its group answers, so nodes and members stay as they are, and locks \
             are served; if its data are lost, see `palisade cluster rebuild-topology --help`",
        );
    }
    if let Some(group) = &status.topology {
        emit(&topology_in_words(group));
        for obstacle in &group.obstacles {
            emit(&format!("the topology does not change as planned: {}", shown(obstacle)));
        }
    }
    let of_topology = status.topology.iter().flat_map(|it| missing_of("topology", &it.members));
    let missing: Vec<String> = status.shards.iter().flat_map(missing).chain(of_topology).collect();
    if !missing.is_empty() {
        emit("");
        missing.iter().for_each(|line| emit(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::{self, ClusterStatusResponse, ShardStatus};

    #[test]
    fn a_disk_that_hangs_is_shown_beside_its_node() {
        let node = |told: Option<ShardStatus>| {
            let nodes = vec![v1::NodeStatus { node: 2, ..Default::default() }];
            let shards = told.into_iter().map(|told| ShardStatus { node: 2, ..told }).collect();
            json::ClusterStatus::from(&ClusterStatusResponse {
                nodes,
                shards,
                ..Default::default()
            })
            .nodes
            .remove(0)
        };
        let mut told = ShardStatus::default();
        assert_eq!(disk_in_words(&node(Some(told.clone()))), "ok");
        told.disk_sync_us = 350_999;
        assert_eq!(disk_in_words(&node(Some(told.clone()))), "slow: a sync takes 350 ms");
        (told.disk_write_age_ms, told.disk_hangs) = (3_240, true);
        assert_eq!(disk_in_words(&node(Some(told))), "HANGS: write under way for 3.2 s");
        assert_eq!(disk_in_words(&node(None)), "-");
    }

    #[test]
    fn servers_without_protection_are_named() {
        let told = |insecure, nodes: &[(u64, bool)]| {
            let replica =
                |&(node, insecure): &_| ShardStatus { node, insecure, ..Default::default() };
            let status = ClusterStatusResponse {
                insecure,
                nodes: (1..4).map(|node| v1::NodeStatus { node, ..Default::default() }).collect(),
                shards: nodes.iter().map(replica).collect(),
                ..Default::default()
            };
            let warning = warning(&json::ClusterStatus::from(&status));
            warning.map(|text| text.split(" started").next().unwrap_or_default().to_owned())
        };
        assert_eq!(told(false, &[(1, false)]), None);
        assert_eq!(told(true, &[]).as_deref(), Some("this gateway was"));
        let all = told(true, &[(1, true), (2, false), (3, true)]);
        assert_eq!(all.as_deref(), Some("this gateway, node 1 and node 3 were"));
    }

    fn replica(
        node: u64,
        role: &str,
        term: u64,
        applied_index: u64,
        state_hash: u64,
    ) -> ShardStatus {
        ShardStatus {
            node,
            role: role.into(),
            term,
            applied_index,
            state_hash,
            ..Default::default()
        }
    }

    fn summary_of(replicas: &[ShardStatus]) -> Shard {
        let status = ClusterStatusResponse { shards: replicas.to_vec(), ..Default::default() };
        json::ClusterStatus::from(&status).shards.remove(0)
    }

    #[test]
    fn the_group_of_the_topology_has_a_line() {
        let replica =
            |node, role: &str| ShardStatus { topology_version: 3, ..replica(node, role, 4, 9, 7) };
        let of = |topology: Vec<ShardStatus>| {
            let told = ClusterStatusResponse { topology, ..Default::default() };
            topology_in_words(&json::ClusterStatus::from(&told).topology.expect("it answered"))
        };
        assert_eq!(
            of(vec![replica(1, "follower"), replica(2, "leader")]),
            "topology version 3, led by node 2 in term 4; replicas (lag) 1(0) 2(0), state hashes equal"
        );
        let member = |node, incarnation, learner| v1::Member { node, incarnation, learner };
        let members = vec![member(1, 5, true), member(2, 0, false), member(3, 0, false)];
        let reseeded = ShardStatus { incarnation: 5, ..replica(1, "follower") };
        let leader = ShardStatus { members, ..replica(2, "leader") };
        let told = ClusterStatusResponse { topology: vec![reseeded, leader], ..Default::default() };
        let group = json::ClusterStatus::from(&told).topology.expect("it answered");
        let words = topology_in_words(&group);
        assert!(words.contains("1(0 re-seeding) 2(0)"), "{words}");
        let missing = missing_of("topology", &group.members);
        assert!(missing[0].contains("node 1 (incarnation 5) does not: it is being re-seeded"));
        assert_eq!(
            missing[1],
            "topology: 1 of 2 votes counts; node 3 does not: it does not answer"
        );
        let leaderless = of(vec![replica(1, "candidate")]);
        assert!(leaderless.contains("WITHOUT A LEADER"), "{leaderless}");
    }

    #[test]
    fn members_that_do_not_count_are_named() {
        let member = |node, incarnation, learner| v1::Member { node, incarnation, learner };
        let mut leader = replica(1, "leader", 1, 10, 7);
        leader.members =
            vec![member(1, 0, false), member(2, 0, false), member(3, 0, false), member(3, 5, true)];
        let mut reseeded = replica(3, "follower", 1, 4, 8);
        reseeded.incarnation = 5;
        let summary = summary_of(&[leader.clone(), reseeded]);
        assert_eq!(summary.votes(), (1, 3));
        let missing_here = missing(&summary);
        let begin = "shard 0: 1 of 3 votes counts; node ";
        let ends = [
            "2 does not: it does not answer",
            "3 does not: its data",
            "3 (incarnation 5) does not: it is being",
        ];
        assert_eq!(missing_here.len(), ends.len(), "{missing_here:?}");
        for (line, end) in missing_here.iter().zip(ends) {
            assert!(line.starts_with(&format!("{begin}{end}")), "{line}");
        }

        let mut copy = replica(2, "follower", 0, 9, 8);
        copy.stands_by = true;
        let summary = summary_of(&[leader.clone(), copy, replica(3, "follower", 1, 10, 7)]);
        assert_eq!(summary.votes(), (2, 3));
        assert!(
            missing(&summary)[0].contains("node 2 does not: it takes no part"),
            "{:?}",
            missing(&summary)
        );
        leader.members.truncate(3);
        let all = summary_of(&[
            leader,
            replica(2, "follower", 1, 10, 7),
            replica(3, "follower", 1, 10, 7),
        ]);
        assert_eq!((all.votes(), missing(&all)), ((3, 3), Vec::new()));
    }
}
