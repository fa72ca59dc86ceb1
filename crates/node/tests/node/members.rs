//! Nodes follow the topology: replicas come and go as it says, wherever META is, and whether it has
//! a quorum or not.

use crate::cluster::*;
use palisade_node::{Node, NodeHandle};
use routing::{META, NodeId, Settings, ShardId};
use shard::{Role, Status};
use std::collections::BTreeSet;
use std::time::Duration;
use storage::Engine;
use topology::{Birth, Command, Life, Members, NodeState, Topology, Version};
use wire::internal::v1::operation_result::Result as OpResult;
use wire::v1::Consistency;

const SHARD: ShardId = ShardId(0);

fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

/// Nodes 1 to `count`, with one shard and META on nodes 1, 2 and 3.
async fn start(count: u64) -> Cluster {
    let settings = Settings { election_ticks: 20, ..Settings::default() };
    let cluster = Cluster::start(count, 1, settings).await;
    let founders: BTreeSet<NodeId> =
        cluster.map.replicas(SHARD).unwrap().nodes.iter().copied().collect();
    assert_eq!(founders, nodes(1..=3));
    granted(cluster.ask_leader(acquire("orders", 1)).await);
    cluster
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANGS, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Makes a change through META's leader, wherever it is.
async fn propose(cluster: &Cluster, command: Command) -> Version {
    let proposed = async {
        loop {
            for node in cluster.nodes.values() {
                if let Ok(version) = node.propose(command.clone()).await {
                    return version;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let proposed = tokio::time::timeout(HANGS, proposed).await;
    proposed.unwrap_or_else(|_| panic!("META's leader does not take {command:?}"))
}

/// The replica of a shard on a node.
fn status(cluster: &Cluster, node: NodeId, shard: ShardId) -> Option<Status> {
    let node = cluster.nodes.get(&node)?;
    if shard == META {
        return node.meta_status();
    }
    node.statuses().into_iter().find(|status| status.shard == shard)
}

fn leader(cluster: &Cluster, shard: ShardId) -> Option<Status> {
    let statuses = cluster.nodes.keys().filter_map(|node| status(cluster, *node, shard));
    statuses.filter(|status| status.role == Role::Leader).max_by_key(|status| status.term)
}

/// The members of a group as its leader tells them, if there is one.
fn members(cluster: &Cluster, shard: ShardId) -> Option<Members> {
    let status = leader(cluster, shard)?;
    let life =
        |member: &shard::Member| Life { node: member.node, birth: Birth(member.incarnation) };
    let of = |learner| move |member: &&shard::Member| member.learner == learner;
    Some(Members {
        conf_index: status.conf_index,
        taken: Version(status.wanted.as_ref().map_or(0, shard::Wanted::version)),
        voters: status.members.iter().filter(of(false)).map(life).collect(),
        learners: status.members.iter().filter(of(true)).map(life).collect(),
    })
}

/// Waits until the group of a shard has the members that META wants, and tells META so.
async fn settle(cluster: &Cluster, shard: ShardId, version: Version) {
    let known = |node: &NodeHandle| node.known_topology().version() >= version;
    until("a node knows the wish", || cluster.nodes.values().any(known)).await;
    let topology = cluster.nodes.values().map(NodeHandle::known_topology);
    let topology = topology.max_by_key(|topology| topology.version()).unwrap();
    let wanted = &topology.shard(shard).unwrap().wanted;
    let is_settled = |members: Members| {
        members.taken >= wanted.version
            && members.learners.is_empty()
            && wanted.lives().eq(members.voters.iter().copied())
    };
    until("the group has its members", || members(cluster, shard).is_some_and(is_settled)).await;
    let members = members(cluster, shard).expect("it has a leader");
    propose(cluster, Command::Is { shard, members }).await;
}

/// Moves a shard to these nodes, and waits until only they have a replica.
async fn move_to(cluster: &Cluster, shard: ShardId, members: &BTreeSet<NodeId>) {
    let version = propose(cluster, Command::Want { shard, members: members.clone() }).await;
    settle(cluster, shard, version).await;
    until("the members have a replica, and no other node that runs", || {
        cluster.nodes.keys().all(|node| {
            let lives = cluster.engines[node].lives();
            let has = lives.get(&shard).is_some_and(|lives| lives.hosted.is_some());
            has == members.contains(node)
        })
    })
    .await;
}

/// Some change that does nothing but count.
async fn count_up(cluster: &Cluster) -> Version {
    let topology = cluster.nodes.values().map(NodeHandle::known_topology);
    let topology = topology.max_by_key(|topology| topology.version()).unwrap();
    let bytes = topology.cluster().settings.snapshot_bytes_per_s + 1;
    let setting = topology::Setting::SnapshotBytesPerS { bytes };
    propose(cluster, Command::Set { setting }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wanted_replica_comes_serves_and_goes_again() {
    let cluster = start(4).await;
    let outsider = NodeId(4);
    until("a node without META hears of the founding", || {
        cluster.nodes[&outsider].known_topology().is_founded()
    })
    .await;
    assert!(status(&cluster, outsider, SHARD).is_none());
    let leads = leader(&cluster, SHARD).expect("it has granted").node;
    let leaves = nodes(1..=3).into_iter().find(|node| *node != leads).unwrap();
    let moved: BTreeSet<NodeId> = nodes(1..=4).into_iter().filter(|id| *id != leaves).collect();
    move_to(&cluster, SHARD, &moved).await;

    let mut caller = cluster.caller(outsider).await;
    let read = check("orders", Consistency::Linearizable);
    let Some(OpResult::Check(check)) = caller.ask(cluster.route("orders"), read).await else {
        panic!("it does not serve")
    };
    assert_eq!(check.answered_by, outsider.0);
    assert_eq!(cluster.engines[&leaves].lives()[&SHARD].destroyed, Some(0));
    assert!(status(&cluster, leaves, SHARD).is_none());

    // It comes back as another life, and the outsider goes.
    move_to(&cluster, SHARD, &nodes(1..=3)).await;
    let birth = status(&cluster, leaves, SHARD).unwrap().incarnation;
    assert!(birth > 0);
    assert!(cluster.engines[&outsider].lives()[&SHARD].destroyed > Some(0));
    let released = cluster.ask_leader(release("orders", check.holders[0].fencing_token)).await;
    assert!(matches!(released, OpResult::Release(_)), "{released:?}");
    cluster.stop_all().await;
}

/// A cluster that nobody changes has the wishes that it always had: none.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_nobody_changes_writes_no_wish() {
    let cluster = start(4).await;
    until("all know the topology", || {
        cluster.nodes.values().all(|node| node.known_topology().is_founded())
    })
    .await;
    // A change that does not concern members. All nodes have looked at their groups by then.
    let version = count_up(&cluster).await;
    until("all know the change", || {
        cluster.nodes.values().all(|node| node.known_topology().version() >= version)
    })
    .await;
    granted(cluster.ask_leader(acquire("bills", 2)).await);
    for shard in [SHARD, META] {
        let status = leader(&cluster, shard).expect("it has a leader");
        assert_eq!((status.wanted, status.members.len()), (None, 3));
    }
    cluster.stop_all().await;
}

/// META is on nodes 1, 2 and 3, of which two are down. The shard was moved before.
#[tokio::test(flavor = "multi_thread")]
async fn moved_members_serve_and_restart_while_meta_has_no_quorum() {
    let mut cluster = start(5).await;
    let moved = nodes([1, 4, 5]);
    move_to(&cluster, SHARD, &moved).await;
    let births: Vec<u32> =
        [4, 5].map(|id| status(&cluster, NodeId(id), SHARD).unwrap().incarnation).to_vec();
    for id in [2, 3].map(NodeId) {
        cluster.crash(id).await;
    }
    granted(cluster.ask_leader(acquire("without META", 2)).await);
    let leads = leader(&cluster, SHARD).expect("it has granted").node;
    cluster.crash(leads).await;
    granted(cluster.ask_leader(acquire("after a failover", 3)).await);
    cluster.restart(leads).await;
    // All at once: what each node has, and as which life, its own disk tells.
    for id in &moved {
        cluster.crash(*id).await;
    }
    for id in &moved {
        cluster.restart(*id).await;
    }
    granted(cluster.ask_leader(acquire("after a restart", 4)).await);
    let after: Vec<u32> =
        [4, 5].map(|id| status(&cluster, NodeId(id), SHARD).unwrap().incarnation).to_vec();
    assert_eq!(after, births);
    for id in [2, 3].map(NodeId) {
        cluster.restart(id).await;
        assert!(status(&cluster, id, SHARD).is_none(), "the file names it there no more");
    }
    move_to(&cluster, SHARD, &nodes([2, 4, 5])).await;
    granted(cluster.ask_leader(acquire("after all", 5)).await);
    cluster.stop_all().await;
}

/// META's own members move by the same steps, and a node that META has left goes on to learn.
#[tokio::test(flavor = "multi_thread")]
async fn meta_itself_moves_and_is_followed_from_everywhere() {
    let mut cluster = start(4).await;
    let leads = leader(&cluster, META).map(|status| status.node);
    let leaves = nodes(1..=3).into_iter().find(|id| Some(*id) != leads).unwrap();
    let moved: BTreeSet<NodeId> = nodes(1..=4).into_iter().filter(|id| *id != leaves).collect();
    move_to(&cluster, META, &moved).await;
    let version = count_up(&cluster).await;
    until("the node that META has left learns", || {
        cluster.nodes[&leaves].known_topology().version() >= version
    })
    .await;
    // The node that it watches goes down. It goes on with the next one.
    let watched = *moved.first().unwrap();
    cluster.crash(watched).await;
    let version = count_up(&cluster).await;
    until("it learns from another node", || {
        cluster.nodes[&leaves].known_topology().version() >= version
    })
    .await;
    cluster.restart(watched).await;
    until("a node that was away learns", || {
        cluster.nodes[&watched].known_topology().version() >= version
    })
    .await;
    granted(cluster.ask_leader(acquire("bills", 2)).await);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_says_so_and_does_not_start_again() {
    let mut cluster = start(4).await;
    let removed = NodeId(4);
    let state = NodeState::Removed;
    let version = propose(&cluster, Command::SetNodeState { node: removed, state }).await;
    let told = cluster.nodes[&removed].wait_removed();
    let told = tokio::time::timeout(HANGS, told).await.expect("it is not told").to_string();
    let sentence = format!("node 4 was removed from this cluster, as version {version} of");
    assert!(told.contains(&sentence) && told.contains("join under a new id"), "{told}");
    cluster.stop(removed).await;
    let options = cluster.options(removed, cluster.engines[&removed].clone());
    let refused = Node::start(options).await.err().expect("it must not run").to_string();
    assert_eq!(refused, told);
    granted(cluster.ask_leader(acquire("bills", 2)).await);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_of_the_topology_is_told_with_what_to_do() {
    let mut cluster = start(4).await;
    let id = NodeId(4);
    until("it knows the topology", || cluster.nodes[&id].known_topology().is_founded()).await;
    cluster.stop(id).await;
    let engine = cluster.engines[&id].clone();
    let mut bytes = engine.node_record(b"topology").unwrap().expect("it was kept");
    Topology::decode(&bytes).expect("what was kept");
    *bytes.last_mut().unwrap() ^= 1;
    engine.put_node_records(&[(b"topology".to_vec(), bytes)]).unwrap();
    let refused = Node::start(cluster.options(id, engine)).await.err().expect("it must not guess");
    let refused = refused.to_string();
    assert!(refused.contains("topology") && refused.contains("re-seed"), "{refused}");
    cluster.stop_all().await;
}
