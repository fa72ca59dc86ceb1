//! The state of a cluster as one document: nodes, shards, and how each shard's replicas compare.
//!
//! A replica's row is its own report of a moment ago, and the reports are not of one moment: under
//! load, followers lag by the entries on their way. State hashes are compared only between
//! replicas that stand at the same index.

use crate::v1::{self, ClusterStatusResponse, ShardStatus};
use serde::Serialize;
use std::collections::BTreeMap;

/// A cluster, by all reports that one gateway could get.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterStatus {
    /// The name of the cluster.
    pub cluster: String,
    /// The version of the map of shards that the gateway uses.
    pub map_version: u64,
    /// In the order of the cluster file.
    pub nodes: Vec<Node>,
    /// The shards, by number and without gaps. A shard without an answer from any replica has no
    /// leader.
    pub shards: Vec<Shard>,
    /// The group that keeps the topology of the cluster. `null` if none of its replicas answered.
    pub topology: Option<TopologyGroup>,
    /// Whether the gateway that answered serves other machines without TLS or identities, because it
    /// was started with `--insecure`.
    pub insecure: bool,
}

/// One node of a cluster.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    /// The id of the node.
    pub node: u64,
    /// The address that its peers use.
    pub address: String,
    /// The zone of the cluster file; empty if it names none.
    pub zone: String,
    /// Whether the node answered the gateway.
    pub reachable: bool,
    /// The number of shards that the node leads.
    pub leads: usize,
    /// Age of the write that the node's disk is busy with. 0 without one, `null` if the age is
    /// unknown.
    pub disk_write_age_ms: Option<u64>,
    /// Whether that write is older than elections take, so that the node neither leads nor votes.
    pub disk_hangs: bool,
    /// Median time of the last syncs; `null` if it is unknown.
    pub disk_sync_ms: Option<f64>,
    /// Size of the journal's files, those kept for reuse included; `null` if it is unknown.
    pub journal_bytes: Option<u64>,
    /// Size of the database's files; `null` if it is unknown.
    pub database_bytes: Option<u64>,
    /// Free room on the file system of the data directory; `null` if it is unknown.
    pub disk_free_bytes: Option<u64>,
    /// Size of that file system; `null` if it is unknown.
    pub disk_bytes: Option<u64>,
    /// Whether other machines reach the node without TLS, because it was started with `--insecure`.
    pub insecure: bool,
}

/// One shard, over all its replicas that answered.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Shard {
    /// The number of the shard.
    pub shard: u32,
    /// The leader of the highest term: a deposed leader may not know yet that it is deposed.
    pub leader: Option<u64>,
    /// The highest term of any replica.
    pub term: u64,
    /// The highest applied index of any replica.
    pub applied_index: u64,
    /// Locks that are held.
    pub active_locks: u64,
    /// Acquires that wait in queues.
    pub waiters: u64,
    /// Sessions that are alive on this shard.
    pub sessions: u64,
    /// The highest token that the shard has issued.
    pub last_token: u64,
    /// Whether the state hashes agree. `null` if no two replicas stand at the same index.
    pub hashes_equal: Option<bool>,
    /// The replicas that answered, by node.
    pub replicas: Vec<Replica>,
    /// The Raft group as the leader knows it. A shard serves while a majority of the members with a
    /// vote counts.
    pub members: Vec<Member>,
}

/// The group that keeps the topology of the cluster, over all its replicas that answered.
///
/// Locks are served without it. While it has no leader, the topology cannot change.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TopologyGroup {
    /// The highest version of the topology of any replica. 0: nothing was founded yet.
    pub version: u64,
    /// The leader of the highest term.
    pub leader: Option<u64>,
    /// The highest term of any replica.
    pub term: u64,
    /// The highest applied index of any replica.
    pub applied_index: u64,
    /// Whether the state hashes agree. `null` if no two replicas stand at the same index.
    pub hashes_equal: Option<bool>,
    /// The replicas that answered, by node.
    pub replicas: Vec<Replica>,
    /// The Raft group as the leader knows it.
    pub members: Vec<Member>,
    /// What stands in the way of planned changes, in words. Empty if nothing does.
    pub obstacles: Vec<String>,
}

/// A member of a shard's Raft group.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Member {
    /// The node of the member.
    pub node: u64,
    /// The incarnation of the data directory that the member stands for.
    pub incarnation: u32,
    /// Whether the member votes. A learner does not.
    pub has_vote: bool,
    /// Whether the member counts: it has a vote, and a replica that can cast it answered.
    pub counts: bool,
    /// The reason why the member does not count. Empty if it does.
    pub reason: &'static str,
}

/// A replica that answered.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Replica {
    /// The node of the replica.
    pub node: u64,
    /// `leader`, `follower` or `candidate`.
    pub role: String,
    /// The replica's Raft term.
    pub term: u64,
    /// The last entry that the replica knows to be committed.
    pub committed_index: u64,
    /// The last entry that the replica has applied.
    pub applied_index: u64,
    /// Entries behind the furthest replica.
    pub lag: u64,
    /// The first entry of the replica's log.
    pub first_index: u64,
    /// The last entry of the replica's log.
    pub last_index: u64,
    /// The entry at which the last checkpoint stands.
    pub checkpoint_index: u64,
    /// The hash in hex, because JSON numbers are not exact beyond 2^53.
    pub state_hash: String,
    /// Snapshots installed since the node's process started.
    pub snapshots_installed: u64,
    /// The incarnation of the node's data directory. It is higher after each re-seed.
    pub incarnation: u32,
    /// Whether the replica is catching up after a re-seed. The group does not count it as a voter
    /// yet.
    pub reseeding: bool,
}

impl From<&ClusterStatusResponse> for ClusterStatus {
    fn from(status: &ClusterStatusResponse) -> ClusterStatus {
        let shards = shards(status);
        let node = |node: &v1::NodeStatus| {
            let disk = disk_of(status, node.node);
            let sizes = disk.and_then(|told| told.disk_sizes);
            // Every file system has a size, and a full one has no free room.
            let whole = sizes.filter(|sizes| sizes.disk_bytes > 0);
            Node {
                node: node.node,
                address: node.address.clone(),
                zone: node.zone.clone(),
                reachable: node.reachable,
                leads: shards.iter().filter(|shard| shard.leader == Some(node.node)).count(),
                disk_write_age_ms: disk.map(|told| told.disk_write_age_ms),
                disk_hangs: disk.is_some_and(|told| told.disk_hangs),
                disk_sync_ms: disk.map(|told| told.disk_sync_us as f64 / 1_000.0),
                journal_bytes: sizes.map(|sizes| sizes.journal_bytes),
                database_bytes: sizes.map(|sizes| sizes.database_bytes),
                disk_free_bytes: whole.map(|sizes| sizes.free_bytes),
                disk_bytes: whole.map(|sizes| sizes.disk_bytes),
                insecure: disk.is_some_and(|told| told.insecure),
            }
        };
        let nodes = status.nodes.iter().map(node).collect();
        ClusterStatus {
            cluster: status.cluster.clone(),
            map_version: status.map_version,
            nodes,
            shards,
            topology: topology(&status.topology),
            insecure: status.insecure,
        }
    }
}

impl Shard {
    /// The number of votes that count, and of all votes.
    pub fn votes(&self) -> (usize, usize) {
        votes(&self.members)
    }
}

/// The number of a group's votes that count, and of all its votes.
pub fn votes(members: &[Member]) -> (usize, usize) {
    let of =
        |counts: &dyn Fn(&Member) -> bool| members.iter().filter(|member| counts(member)).count();
    (of(&|member| member.counts), of(&|member| member.has_vote))
}

/// The worst report on a node's disk. Each replica of the node reports at another moment, so their
/// reports differ.
fn disk_of(status: &ClusterStatusResponse, node: u64) -> Option<&ShardStatus> {
    let told = status.shards.iter().filter(|replica| replica.node == node);
    told.max_by_key(|replica| (replica.disk_hangs, replica.disk_write_age_ms))
}

/// One row for each shard with an answer, and for the gaps between them.
fn shards(status: &ClusterStatusResponse) -> Vec<Shard> {
    let mut by_shard: BTreeMap<u32, Vec<&ShardStatus>> = BTreeMap::new();
    for replica in &status.shards {
        by_shard.entry(replica.shard).or_default().push(replica);
    }
    let count = by_shard.keys().last().map_or(0, |last| last + 1);
    (0..count)
        .map(|shard| summary(shard, by_shard.get(&shard).map_or(&[][..], Vec::as_slice)))
        .collect()
}

fn topology(replicas: &[ShardStatus]) -> Option<TopologyGroup> {
    let version = replicas.iter().map(|replica| replica.topology_version).max()?;
    let of = summary(replicas[0].shard, &replicas.iter().collect::<Vec<_>>());
    let Shard { leader, term, applied_index, hashes_equal, members, .. } = of;
    let leads = |replica: &&ShardStatus| Some(replica.node) == leader;
    let obstacles = replicas.iter().find(leads).map(|replica| replica.obstacles.clone());
    Some(TopologyGroup {
        version,
        leader,
        term,
        applied_index,
        hashes_equal,
        replicas: of.replicas,
        members,
        obstacles: obstacles.unwrap_or_default(),
    })
}

fn summary(shard: u32, replicas: &[&ShardStatus]) -> Shard {
    let term = replicas.iter().map(|replica| replica.term).max().unwrap_or(0);
    let leader = replicas
        .iter()
        .filter(|replica| replica.role == "leader")
        .max_by_key(|replica| replica.term);
    let furthest = replicas.iter().max_by_key(|replica| replica.applied_index);
    let shown = leader.or(furthest);
    let head = furthest.map_or(0, |replica| replica.applied_index);
    let mut by_index: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for replica in replicas {
        by_index.entry(replica.applied_index).or_default().push(replica.state_hash);
    }
    let comparable: Vec<&Vec<u64>> = by_index.values().filter(|hashes| hashes.len() > 1).collect();
    let equal = comparable.iter().all(|hashes| hashes.iter().all(|hash| *hash == hashes[0]));
    let members = shown.map_or(&[][..], |replica| replica.members.as_slice());
    let votes = |replica: &ShardStatus| {
        let is = |member: &v1::Member| {
            (member.node, member.incarnation) == (replica.node, replica.incarnation)
        };
        members.iter().any(|member| is(member) && !member.learner)
    };
    let row = |replica: &&ShardStatus| Replica {
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
    let mut rows: Vec<Replica> = replicas.iter().map(row).collect();
    rows.sort_by_key(|replica| replica.node);
    Shard {
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
        members: members.iter().map(|member| member_row(member, replicas)).collect(),
    }
}

fn member_row(member: &v1::Member, replicas: &[&ShardStatus]) -> Member {
    let replica = replicas.iter().find(|replica| replica.node == member.node);
    let reason = match replica {
        _ if member.learner => "it is being re-seeded, and has no vote before it has caught up",
        None => "it does not answer",
        Some(replica) if replica.incarnation > member.incarnation => {
            "its data directory was replaced by a re-seed, and its vote stays until the new one \
             has caught up"
        }
        Some(replica) if replica.stands_by => {
            "it takes no part before its peers have confirmed its data directory; its log says who \
             is missing"
        }
        Some(_) => "",
    };
    let (node, incarnation) = (member.node, member.incarnation);
    Member { node, incarnation, has_vote: !member.learner, counts: reason.is_empty(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        summary(0, &replicas.iter().collect::<Vec<_>>())
    }

    #[test]
    fn the_leader_of_the_highest_term_leads() {
        let deposed = replica(1, "leader", 3, 10, 0);
        let leads = summary_of(&[
            deposed,
            replica(2, "leader", 4, 12, 0),
            replica(3, "follower", 4, 12, 0),
        ]);
        assert_eq!((leads.leader, leads.term, leads.replicas[0].lag), (Some(2), 4, 2));
    }

    #[test]
    fn the_group_of_the_topology_stands_beside_the_shards() {
        let of_meta = |node, role: &str, topology_version| ShardStatus {
            shard: u32::MAX - 1,
            topology_version,
            ..replica(node, role, 4, 12, 7)
        };
        let mut topology = vec![of_meta(1, "leader", 3), of_meta(2, "follower", 2)];
        topology[0].obstacles = vec!["node 3 is not heard of".into()];
        topology[1].obstacles = vec!["what a former leader saw".into()];
        let shards = vec![replica(1, "leader", 1, 10, 7)];
        let told = ClusterStatusResponse { shards, topology, ..Default::default() };
        let status = ClusterStatus::from(&told);
        assert_eq!(status.shards.len(), 1);
        let group = status.topology.expect("two replicas answered");
        assert_eq!((group.version, group.leader, group.hashes_equal), (3, Some(1), Some(true)));
        assert_eq!(group.obstacles, ["node 3 is not heard of"]);
        let older = ClusterStatusResponse { topology: Vec::new(), ..told };
        assert!(ClusterStatus::from(&older).topology.is_none(), "nodes of an earlier build");
    }

    #[test]
    fn hashes_are_compared_at_the_same_index_only() {
        assert_eq!(
            summary_of(&[replica(1, "leader", 1, 10, 7), replica(2, "follower", 1, 9, 8)])
                .hashes_equal,
            None
        );
        let equal = [
            replica(1, "leader", 1, 10, 7),
            replica(2, "follower", 1, 10, 7),
            replica(3, "follower", 1, 9, 1),
        ];
        assert_eq!(summary_of(&equal).hashes_equal, Some(true));
        let parted = [replica(1, "leader", 1, 10, 7), replica(2, "follower", 1, 10, 8)];
        assert_eq!(summary_of(&parted).hashes_equal, Some(false));
    }

    #[test]
    fn a_replica_without_a_vote_is_being_re_seeded() {
        let member = |node, incarnation, learner| v1::Member { node, incarnation, learner };
        let mut leader = replica(1, "leader", 1, 10, 7);
        let mut reseeded = replica(3, "follower", 1, 4, 8);
        reseeded.incarnation = 5;
        let reseeding = |replicas: &[ShardStatus]| -> Vec<u64> {
            let summary = summary_of(replicas);
            summary
                .replicas
                .iter()
                .filter(|replica| replica.reseeding)
                .map(|replica| replica.node)
                .collect()
        };
        assert_eq!(
            reseeding(&[leader.clone(), reseeded.clone()]),
            [0; 0],
            "nobody says who the members are"
        );
        leader.members = vec![member(1, 0, false), member(2, 0, false), member(3, 0, false)];
        assert_eq!(
            reseeding(&[leader.clone(), reseeded.clone()]),
            [3],
            "its former self is still a member"
        );
        leader.members[2] = member(3, 5, true);
        assert_eq!(reseeding(&[leader.clone(), reseeded.clone()]), [3], "it has no vote yet");
        leader.members[2].learner = false;
        assert_eq!(reseeding(&[leader, reseeded]), [0; 0]);
    }

    #[test]
    fn the_worst_report_on_a_disk_is_the_nodes() {
        let mut hangs = replica(2, "follower", 1, 10, 7);
        (hangs.disk_write_age_ms, hangs.disk_hangs) = (3_240, true);
        let nodes = [1, 2].map(|node| v1::NodeStatus { node, ..Default::default() }).to_vec();
        let shards = vec![replica(2, "follower", 1, 10, 7), hangs];
        let status =
            ClusterStatus::from(&ClusterStatusResponse { nodes, shards, ..Default::default() });
        assert_eq!(
            (status.nodes[1].disk_hangs, status.nodes[1].disk_write_age_ms),
            (true, Some(3_240))
        );
        assert_eq!((status.nodes[0].disk_hangs, status.nodes[0].disk_write_age_ms), (false, None));
    }

    #[test]
    fn sizes_of_a_disk_are_told_only_if_they_are_known() {
        let sizes = |journal_bytes, disk_bytes| {
            let sizes = v1::DiskSizes { journal_bytes, disk_bytes, ..Default::default() };
            ShardStatus { disk_sizes: Some(sizes), ..replica(1, "follower", 1, 10, 7) }
        };
        let of = |told: ShardStatus| {
            let nodes = vec![v1::NodeStatus { node: 1, ..Default::default() }];
            let told = ClusterStatusResponse { nodes, shards: vec![told], ..Default::default() };
            let status = ClusterStatus::from(&told);
            let node = &status.nodes[0];
            (node.journal_bytes, node.disk_free_bytes, node.disk_bytes)
        };
        assert_eq!(of(replica(1, "follower", 1, 10, 7)), (None, None, None));
        assert_eq!(of(sizes(5, 0)), (Some(5), None, None), "the system does not tell");
        assert_eq!(of(sizes(5, 9)), (Some(5), Some(0), Some(9)), "the disk is full");
    }

    #[test]
    fn a_shard_that_no_replica_answered_for_is_shown_without_a_leader() {
        let mut only = replica(1, "leader", 1, 1, 0);
        only.shard = 1;
        let status = ClusterStatusResponse { shards: vec![only], ..Default::default() };
        let leaders: Vec<Option<u64>> = shards(&status).iter().map(|shard| shard.leader).collect();
        assert_eq!(leaders, vec![None, Some(1)]);
    }
}
