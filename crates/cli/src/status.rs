//! `palisade cluster status`: nodes, shards and how their replicas stand to each other.
//!
//! A replica's row is what it said of itself a moment ago, not all at one moment: under load, followers lag by what is on
//! its way. State hashes are compared only where two replicas stand at the same index.

use crate::args::ClusterStatus;
use crate::failure::{Exit, Failure};
use crate::output::{Paint, emit, print_json, print_table};
use crate::shown::shown;
use crate::verbs;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use wire::v1::{ClusterStatusResponse, Member, ShardStatus};

/// From here on a sync is worth a word: operations wait for it, and elections for two.
const SLOW_SYNC_US: u64 = 100_000;

/// Runs the verb.
///
/// # Errors
/// If no gateway answers, or a shard has no leader.
pub async fn run(args: &ClusterStatus) -> Result<(), Failure> {
    let status = verbs::connect(&args.remote.gateways).cluster_status().await?;
    let shards = summarise(&status);
    if args.remote.json {
        print_json(&StatusJson::new(&status, &shards));
    } else {
        print(&status, &shards);
    }
    let leaderless: Vec<String> =
        shards.iter().filter(|shard| shard.leader.is_none()).map(|shard| shard.shard.to_string()).collect();
    if shards.is_empty() || !leaderless.is_empty() {
        let message = match shards.is_empty() {
            true => "no replica of any shard answered".to_owned(),
            false if leaderless.len() > 1 => format!("no leader for shards {}", leaderless.join(", ")),
            false => format!("no leader for shard {}", leaderless.join(", ")),
        };
        if args.remote.json {
            // The document that was printed says it already: `leader` is null.
            return Err(Failure::already_told(Exit::Error));
        }
        let next =
            "each shard needs a majority of its replicas: start the nodes that are down, or wait for an election";
        return Err(Failure::new(Exit::Error, "NO_LEADER", message, next));
    }
    Ok(())
}

/// One shard, over all its replicas that answered.
#[derive(Debug, Serialize)]
struct ShardSummary {
    shard: u32,
    /// By the highest term: a deposed leader may not know it yet.
    leader: Option<u64>,
    term: u64,
    applied_index: u64,
    active_locks: u64,
    waiters: u64,
    sessions: u64,
    last_token: u64,
    /// `None` where no two replicas stand at the same index.
    hashes_equal: Option<bool>,
    replicas: Vec<ReplicaJson>,
    /// The Raft group as the shown replica knows it. A majority of those with a vote must count, or nothing is served.
    members: Vec<MemberJson>,
}

#[derive(Debug, Serialize)]
struct MemberJson {
    node: u64,
    incarnation: u32,
    has_vote: bool,
    /// It has a vote, and a replica that can cast it answered.
    counts: bool,
    /// Why it does not count; empty if it does.
    reason: &'static str,
}

#[derive(Debug, Serialize)]
struct ReplicaJson {
    node: u64,
    role: String,
    term: u64,
    committed_index: u64,
    applied_index: u64,
    /// Entries behind the furthest replica.
    lag: u64,
    first_index: u64,
    last_index: u64,
    checkpoint_index: u64,
    /// In hex: JSON numbers are not exact beyond 2^53.
    state_hash: String,
    snapshots_installed: u64,
    /// Of the node's data directory: higher after each re-seed.
    incarnation: u32,
    /// By the shown replica's word it has no vote (yet): it was re-seeded, and is catching up.
    reseeding: bool,
}

#[derive(Debug, Serialize)]
struct NodeJson {
    node: u64,
    address: String,
    zone: String,
    reachable: bool,
    leads: usize,
    /// Since when its disk has a write under way; 0: it has none. `None`: it did not answer.
    disk_write_age_ms: Option<u64>,
    /// For longer than elections take: the node neither leads nor votes.
    disk_hangs: bool,
    /// How long a sync usually takes.
    disk_sync_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct StatusJson<'a> {
    cluster: &'a str,
    map_version: u64,
    nodes: Vec<NodeJson>,
    shards: &'a [ShardSummary],
}

impl<'a> StatusJson<'a> {
    fn new(status: &'a ClusterStatusResponse, shards: &'a [ShardSummary]) -> Self {
        let nodes = status.nodes.iter().map(|node| NodeJson {
            node: node.node,
            address: node.address.clone(),
            zone: node.zone.clone(),
            reachable: node.reachable,
            leads: shards.iter().filter(|shard| shard.leader == Some(node.node)).count(),
            disk_write_age_ms: disk_of(status, node.node).map(|told| told.disk_write_age_ms),
            disk_hangs: disk_of(status, node.node).is_some_and(|told| told.disk_hangs),
            disk_sync_ms: disk_of(status, node.node).map(|told| told.disk_sync_us as f64 / 1_000.0),
        });
        StatusJson { cluster: &status.cluster, map_version: status.map_version, nodes: nodes.collect(), shards }
    }
}

/// What a node's replicas say of its disk: the worst of it, since each said it at another moment.
fn disk_of(status: &ClusterStatusResponse, node: u64) -> Option<&ShardStatus> {
    let told = status.shards.iter().filter(|replica| replica.node == node);
    told.max_by_key(|replica| (replica.disk_hangs, replica.disk_write_age_ms))
}

fn disk_in_words(told: Option<&ShardStatus>) -> String {
    match told {
        None => "-".into(),
        Some(told) if told.disk_hangs => {
            format!("HANGS: write under way for {:.1} s", told.disk_write_age_ms as f64 / 1_000.0)
        }
        Some(told) if told.disk_sync_us >= SLOW_SYNC_US => {
            format!("slow: a sync takes {} ms", told.disk_sync_us / 1_000)
        }
        Some(_) => "ok".into(),
    }
}

/// One row per shard that a replica answered for, and for gaps between them.
fn summarise(status: &ClusterStatusResponse) -> Vec<ShardSummary> {
    let mut by_shard: BTreeMap<u32, Vec<&ShardStatus>> = BTreeMap::new();
    for replica in &status.shards {
        by_shard.entry(replica.shard).or_default().push(replica);
    }
    let count = by_shard.keys().last().map_or(0, |last| last + 1);
    (0..count).map(|shard| summary(shard, by_shard.get(&shard).map_or(&[][..], Vec::as_slice))).collect()
}

fn summary(shard: u32, replicas: &[&ShardStatus]) -> ShardSummary {
    let term = replicas.iter().map(|replica| replica.term).max().unwrap_or(0);
    let leader = replicas.iter().filter(|replica| replica.role == "leader").max_by_key(|replica| replica.term);
    let furthest = replicas.iter().max_by_key(|replica| replica.applied_index);
    let shown = leader.or(furthest);
    let head = furthest.map_or(0, |replica| replica.applied_index);
    let mut by_index: HashMap<u64, Vec<u64>> = HashMap::new();
    for replica in replicas {
        by_index.entry(replica.applied_index).or_default().push(replica.state_hash);
    }
    let comparable: Vec<&Vec<u64>> = by_index.values().filter(|hashes| hashes.len() > 1).collect();
    let equal = comparable.iter().all(|hashes| hashes.iter().all(|hash| *hash == hashes[0]));
    let members = shown.map_or(&[][..], |replica| replica.members.as_slice());
    let votes = |replica: &ShardStatus| {
        let is = |member: &Member| (member.node, member.incarnation) == (replica.node, replica.incarnation);
        members.iter().any(|member| is(member) && !member.learner)
    };
    let row = |replica: &&ShardStatus| ReplicaJson {
        node: replica.node,
        role: replica.role.clone(),
        term: replica.term,
        committed_index: replica.committed_index,
        applied_index: replica.applied_index,
        lag: head - replica.applied_index,
        first_index: replica.first_index,
        last_index: replica.last_index,
        checkpoint_index: replica.checkpoint_index,
        state_hash: format!("{:016x}", replica.state_hash),
        snapshots_installed: replica.snapshots_installed,
        incarnation: replica.incarnation,
        reseeding: !members.is_empty() && !votes(replica),
    };
    let mut rows: Vec<ReplicaJson> = replicas.iter().map(row).collect();
    rows.sort_by_key(|replica| replica.node);
    ShardSummary {
        shard,
        leader: leader.map(|replica| replica.node),
        term,
        applied_index: head,
        active_locks: shown.map_or(0, |replica| replica.active_locks),
        waiters: shown.map_or(0, |replica| replica.waiters),
        sessions: shown.map_or(0, |replica| replica.sessions),
        last_token: shown.map_or(0, |replica| replica.last_token),
        hashes_equal: (!comparable.is_empty()).then_some(equal),
        replicas: rows,
        members: members.iter().map(|member| member_json(member, replicas)).collect(),
    }
}

fn member_json(member: &Member, replicas: &[&ShardStatus]) -> MemberJson {
    let replica = replicas.iter().find(|replica| replica.node == member.node);
    let reason = match replica {
        _ if member.learner => "it is being re-seeded, and has no vote before it has caught up",
        None => "it does not answer",
        Some(replica) if replica.incarnation > member.incarnation => {
            "its data directory was replaced by a re-seed, and its vote stays until the new one has caught up"
        }
        Some(replica) if replica.stands_by => {
            "it takes no part before its peers have confirmed its data directory; its log says who is missing"
        }
        Some(_) => "",
    };
    let (node, incarnation) = (member.node, member.incarnation);
    MemberJson { node, incarnation, has_vote: !member.learner, counts: reason.is_empty(), reason }
}

impl ShardSummary {
    /// How many votes count, and how many there are.
    fn votes(&self) -> (usize, usize) {
        let count = |counts: &dyn Fn(&MemberJson) -> bool| self.members.iter().filter(|member| counts(member)).count();
        (count(&|member| member.counts), count(&|member| member.has_vote))
    }

    /// For people: the members that do not count, and why.
    fn missing(&self) -> Vec<String> {
        let (counting, votes) = self.votes();
        let missing = self.members.iter().filter(|member| !member.counts);
        let line = |member: &MemberJson| {
            let incarnation = match member.incarnation {
                0 => String::new(),
                incarnation => format!(" (incarnation {incarnation})"),
            };
            let verb = if counting == 1 { "counts" } else { "count" };
            format!(
                "shard {}: {counting} of {votes} votes {verb}; node {}{incarnation} does not: {}",
                self.shard, member.node, member.reason
            )
        };
        missing.map(line).collect()
    }
}

fn print(status: &ClusterStatusResponse, shards: &[ShardSummary]) {
    let paint = Paint::stdout();
    emit(&format!("{} {} (map version {})\n", paint.dim("cluster"), shown(&status.cluster), status.map_version));
    let mut rows = vec![["node", "address", "zone", "state", "leads", "disk"].map(String::from).to_vec()];
    for node in &status.nodes {
        rows.push(vec![
            node.node.to_string(),
            node.address.clone(),
            if node.zone.is_empty() { "-".into() } else { node.zone.clone() },
            if node.reachable { "up" } else { "DOWN" }.into(),
            shards.iter().filter(|shard| shard.leader == Some(node.node)).count().to_string(),
            disk_in_words(disk_of(status, node.node)),
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
    for shard in shards {
        let reseeding = |replica: &ReplicaJson| if replica.reseeding { " re-seeding" } else { "" };
        let replicas: Vec<String> =
            shard.replicas.iter().map(|r| format!("{}({}{})", r.node, r.lag, reseeding(r))).collect();
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
            replicas.join(" "),
            hashes.into(),
        ]);
    }
    print_table(&rows);
    let missing: Vec<String> = shards.iter().flat_map(ShardSummary::missing).collect();
    if !missing.is_empty() {
        emit("");
        missing.iter().for_each(|line| emit(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: u64, role: &str, term: u64, applied_index: u64, state_hash: u64) -> ShardStatus {
        ShardStatus { node, role: role.into(), term, applied_index, state_hash, ..Default::default() }
    }

    fn summary_of(replicas: &[ShardStatus]) -> ShardSummary {
        summary(0, &replicas.iter().collect::<Vec<_>>())
    }

    #[test]
    fn the_leader_of_the_highest_term_leads() {
        let deposed = replica(1, "leader", 3, 10, 0);
        let leads = summary_of(&[deposed, replica(2, "leader", 4, 12, 0), replica(3, "follower", 4, 12, 0)]);
        assert_eq!((leads.leader, leads.term, leads.replicas[0].lag), (Some(2), 4, 2));
    }

    #[test]
    fn hashes_are_compared_at_the_same_index_only() {
        assert_eq!(summary_of(&[replica(1, "leader", 1, 10, 7), replica(2, "follower", 1, 9, 8)]).hashes_equal, None);
        let equal = [replica(1, "leader", 1, 10, 7), replica(2, "follower", 1, 10, 7), replica(3, "follower", 1, 9, 1)];
        assert_eq!(summary_of(&equal).hashes_equal, Some(true));
        let parted = [replica(1, "leader", 1, 10, 7), replica(2, "follower", 1, 10, 8)];
        assert_eq!(summary_of(&parted).hashes_equal, Some(false));
    }

    #[test]
    fn a_replica_without_a_vote_is_being_re_seeded() {
        let member = |node, incarnation, learner| Member { node, incarnation, learner };
        let mut leader = replica(1, "leader", 1, 10, 7);
        let mut reseeded = replica(3, "follower", 1, 4, 8);
        reseeded.incarnation = 5;
        let reseeding = |replicas: &[ShardStatus]| -> Vec<u64> {
            let summary = summary_of(replicas);
            summary.replicas.iter().filter(|replica| replica.reseeding).map(|replica| replica.node).collect()
        };
        assert_eq!(reseeding(&[leader.clone(), reseeded.clone()]), [0; 0], "nobody says who the members are");
        leader.members = vec![member(1, 0, false), member(2, 0, false), member(3, 0, false)];
        assert_eq!(reseeding(&[leader.clone(), reseeded.clone()]), [3], "its former self is still a member");
        leader.members[2] = member(3, 5, true);
        assert_eq!(reseeding(&[leader.clone(), reseeded.clone()]), [3], "it has no vote yet");
        leader.members[2].learner = false;
        assert_eq!(reseeding(&[leader, reseeded]), [0; 0]);
    }

    #[test]
    fn a_disk_that_hangs_is_shown_beside_its_node() {
        let mut told = replica(2, "follower", 1, 10, 7);
        assert_eq!(disk_in_words(Some(&told)), "ok");
        told.disk_sync_us = 350_000;
        assert_eq!(disk_in_words(Some(&told)), "slow: a sync takes 350 ms");
        (told.disk_write_age_ms, told.disk_hangs) = (3_240, true);
        assert_eq!(disk_in_words(Some(&told)), "HANGS: write under way for 3.2 s");
        let status =
            ClusterStatusResponse { shards: vec![replica(2, "follower", 1, 10, 7), told], ..Default::default() };
        assert!(disk_of(&status, 2).expect("it answered").disk_hangs, "one replica of it said so");
        assert_eq!(disk_in_words(disk_of(&status, 1)), "-");
    }

    #[test]
    fn members_that_do_not_count_are_named() {
        let member = |node, incarnation, learner| Member { node, incarnation, learner };
        let mut leader = replica(1, "leader", 1, 10, 7);
        leader.members = vec![member(1, 0, false), member(2, 0, false), member(3, 0, false), member(3, 5, true)];
        let mut reseeded = replica(3, "follower", 1, 4, 8);
        reseeded.incarnation = 5;
        let summary = summary_of(&[leader.clone(), reseeded]);
        assert_eq!(summary.votes(), (1, 3));
        let missing = summary.missing();
        let begin = "shard 0: 1 of 3 votes counts; node ";
        let ends =
            ["2 does not: it does not answer", "3 does not: its data", "3 (incarnation 5) does not: it is being"];
        assert_eq!(missing.len(), ends.len(), "{missing:?}");
        for (line, end) in missing.iter().zip(ends) {
            assert!(line.starts_with(&format!("{begin}{end}")), "{line}");
        }

        let mut copy = replica(2, "follower", 0, 9, 8);
        copy.stands_by = true;
        let summary = summary_of(&[leader.clone(), copy, replica(3, "follower", 1, 10, 7)]);
        assert_eq!(summary.votes(), (2, 3));
        assert!(summary.missing()[0].contains("node 2 does not: it takes no part"), "{:?}", summary.missing());
        leader.members.truncate(3);
        let all = summary_of(&[leader, replica(2, "follower", 1, 10, 7), replica(3, "follower", 1, 10, 7)]);
        assert_eq!((all.votes(), all.missing()), ((3, 3), Vec::new()));
    }

    #[test]
    fn a_shard_that_nobody_answered_for_is_shown_without_a_leader() {
        let mut only = replica(1, "leader", 1, 1, 0);
        only.shard = 1;
        let status = ClusterStatusResponse { shards: vec![only], ..Default::default() };
        let leaders: Vec<Option<u64>> = summarise(&status).iter().map(|shard| shard.leader).collect();
        assert_eq!(leaders, vec![None, Some(1)]);
    }
}
