//! META: the shard of the topology. Its founding by shard 0, its proposals, its reads, and what
//! outlives crashes, snapshots and moves of leadership.

use crate::cluster::*;
use palisade_shard::*;
use routing::{META, NodeId, ShardId};
use std::sync::Arc;
use storage::Engine;
use topology::{Command, JobId, Proposal, Refusal, Topology, Version};

/// A wall time, in seconds.
const NOW_S: u64 = 1_700_000_100;

fn propose(c: &mut Cluster, id: u64, command: Command) -> Reply {
    let ticket = c.submit_proposal(id, &Proposal::new(NOW_S, command));
    c.settle();
    c.reply(id, ticket).expect("an answer")
}

fn prefer(shard: u32, node: u64) -> Command {
    Command::Prefer { shard: ShardId(shard), node: NodeId(node) }
}

fn applied(version: u64) -> Reply {
    Reply::Applied(Ok(Version(version)))
}

fn topology(c: &Cluster, id: u64) -> &Topology {
    c.peers[&id].replica.as_ref().expect("runs").topology().expect("of META")
}

/// What the host of a replica knows, if it follows the news.
fn told(c: &Cluster, id: u64) -> Topology {
    let mut copy = Topology::default();
    for news in &c.peers[&id].topology {
        match news {
            TopologyNews::Deltas(deltas) => {
                deltas.iter().for_each(|delta| copy.follow(delta).expect("no change is missing"));
            }
            TopologyNews::All(all) => copy = (**all).clone(),
        }
    }
    copy
}

#[test]
fn its_first_leader_founds_the_cluster_and_no_later_one_does() {
    let mut c = Cluster::meta(3);
    let first = c.elect();
    let founded = topology(&c, first).clone();
    let found = |(id, shard): (&ShardId, &topology::Shard)| {
        (*id, shard.founders.keys().copied().collect::<Vec<_>>())
    };
    let of_seed = seed(3).shards.into_iter();
    let of_seed: Vec<_> =
        of_seed.map(|(id, shard)| (id, shard.members.into_iter().collect::<Vec<_>>())).collect();
    assert_eq!(founded.shards().iter().map(found).collect::<Vec<_>>(), of_seed);
    assert_eq!(founded.cluster().id, seed(3).cluster_id);
    for id in 1..=3 {
        assert_eq!((topology(&c, id), &told(&c, id)), (&founded, &founded), "node {id}");
        assert_eq!(c.status(id).topology_version, Some(Version(1)));
    }
    assert_eq!(c.hash(1), c.hash(2));

    c.crash(first);
    let next = c.elect();
    let again = Command::Bootstrap { seed: seed(3) };
    assert_eq!(propose(&mut c, next, again), Reply::Applied(Err(Refusal::AlreadyFounded)));
    assert_eq!(topology(&c, next), &founded);
}

#[test]
fn nothing_but_the_founding_is_taken_before_it() {
    let mut c = Cluster::of(META, None, 3);
    let leader = c.elect();
    let last = c.status(leader).last_index;
    let refused = Reply::Applied(Err(Refusal::NotFounded));
    assert_eq!(propose(&mut c, leader, prefer(0, 2)), refused);
    assert_eq!(c.status(leader).last_index, last, "it had no place in the log");
    assert_eq!(topology(&c, leader), &Topology::default());
}

#[test]
fn a_proposal_is_answered_with_the_version_after_it_or_a_refusal() {
    let mut c = Cluster::meta(3);
    let leader = c.elect();
    assert_eq!(propose(&mut c, leader, prefer(0, 2)), applied(2));
    assert_eq!(propose(&mut c, leader, prefer(0, 2)), applied(2), "it changes nothing");
    let unknown = Reply::Applied(Err(Refusal::UnknownJob(JobId(9))));
    assert_eq!(propose(&mut c, leader, Command::Cancel { job: JobId(9) }), unknown);
    let follower = 1 + leader % 3;
    assert!(matches!(propose(&mut c, follower, prefer(0, 1)), Reply::NotLeader { .. }));

    // Many in one entry.
    let commands = [prefer(0, 3), prefer(1, 9), prefer(1, 1), prefer(1, 3)];
    let tickets = commands.map(|command| c.submit_proposal(leader, &Proposal::new(NOW_S, command)));
    let entries = c.status(leader).entries_applied;
    c.settle();
    assert_eq!(c.status(leader).entries_applied, entries + 1);
    let replies = tickets.map(|ticket| c.reply(leader, ticket).expect("an answer"));
    let no_node = Reply::Applied(Err(Refusal::UnknownNode(NodeId(9))));
    assert_eq!(replies, [applied(3), no_node, applied(4), applied(5)]);
    c.run_ms(200);
    for id in 1..=3 {
        assert_eq!((topology(&c, id), &told(&c, id)), (topology(&c, leader), topology(&c, leader)));
    }
}

#[test]
fn a_read_gives_what_a_copy_lacks() {
    let mut c = Cluster::meta(3);
    let leader = c.elect();
    propose(&mut c, leader, prefer(0, 2));
    propose(&mut c, leader, prefer(0, 3));
    let mut read = |known: u64| {
        let follower = 1 + leader % 3;
        let ticket = c.ask(follower, Query::Topology { known: Version(known) }, true);
        c.settle();
        match c.reply(follower, ticket) {
            Some(Reply::Read { answer: Answer::Topology(news), .. }) => news,
            other => panic!("no topology: {other:?}"),
        }
    };
    let versions = |news: TopologyNews| match news {
        TopologyNews::Deltas(deltas) => deltas.iter().map(|delta| delta.version.0).collect(),
        TopologyNews::All(all) => vec![0, all.version().0],
    };
    assert_eq!(versions(read(0)), [1, 2, 3]);
    assert_eq!(versions(read(1)), [2, 3]);
    assert_eq!(versions(read(3)), [0; 0]);
    assert_eq!(versions(read(7)), [0, 3], "of another cluster, or of one that was lost");
}

#[test]
fn a_question_for_another_kind_of_shard_is_told_apart() {
    for (mut c, query) in [
        (Cluster::meta(3), Query::check("a")),
        (Cluster::new(3), Query::Topology { known: Version(0) }),
    ] {
        let leader = c.elect();
        let ticket = c.ask(leader, query, true);
        c.settle();
        let reply = c.reply(leader, ticket);
        assert!(matches!(reply, Some(Reply::Read { answer: Answer::Unsuited, .. })), "{reply:?}");
    }
}

#[test]
fn what_was_acknowledged_outlives_a_crash_of_all() {
    let mut c = Cluster::meta(3);
    let leader = c.elect();
    assert_eq!(propose(&mut c, leader, prefer(0, 2)), applied(2));
    // A checkpoint, and an entry after it.
    c.run_ms(11_000);
    assert!(c.status(leader).checkpoint_index > 0);
    assert_eq!(propose(&mut c, leader, prefer(0, 3)), applied(3));
    let before = topology(&c, leader).clone();
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    let leader = c.elect();
    for id in 1..=3 {
        assert_eq!((topology(&c, id), &told(&c, id)), (&before, &before), "node {id}");
    }
    assert_eq!(propose(&mut c, leader, prefer(0, 1)), applied(4));
}

#[test]
fn a_replica_that_lags_gets_a_snapshot() {
    for host_builds in [false, true] {
        let mut c = Cluster::meta(3);
        c.host_builds = host_builds;
        c.log_keep_bytes = 0;
        for id in 1..=3 {
            c.crash(id);
            c.start(id);
        }
        let leader = c.elect();
        let lagging = 1 + leader % 3;
        c.crash(lagging);
        for turn in 0..20 {
            propose(&mut c, leader, prefer(0, 1 + turn % 3));
        }
        c.run_ms(11_000);
        propose(&mut c, leader, prefer(1, 3));
        c.start(lagging);
        c.run_ms(1_000);
        assert_eq!(c.status(lagging).snapshots_installed, 1);
        let now = topology(&c, leader);
        assert_eq!((topology(&c, lagging), &told(&c, lagging)), (now, now));
        assert_eq!(c.hash(lagging), c.hash(leader));

        // It has the snapshot on disk, and follows on from there.
        c.crash(lagging);
        c.start(lagging);
        c.run_ms(200);
        assert_eq!(topology(&c, lagging), topology(&c, leader));
        let leader = c.elect();
        propose(&mut c, leader, prefer(1, 1));
        c.run_ms(200);
        assert_eq!(topology(&c, lagging), topology(&c, leader));
    }
}

/// Shard 0 on nodes 1 to 3. It does not found META yet.
fn shard_0() -> Cluster {
    let mut c = Cluster::new(3);
    c.elect();
    c
}

/// From now on, leaders of shard 0 found META.
fn found_meta(c: &mut Cluster) {
    c.founds_meta = true;
    c.peers.values_mut().for_each(|peer| peer.replica.as_mut().expect("runs").found_meta());
    c.run_ms(500);
}

/// META as its founders begin it.
fn begun_by(founders: &Founders) -> Cluster {
    let mut c = Cluster::meta(3);
    for (node, birth) in founders.lives() {
        c.crash(node.0);
        let peer = c.peers.get_mut(&node.0).expect("a peer");
        (peer.engine, peer.incarnation) = (Arc::default(), *birth);
        peer.engine.write(&[first_write(founders)]).expect("writes");
    }
    founders.lives().keys().for_each(|node| c.start(node.0));
    c
}

fn lives(lives: [(u64, u32); 3]) -> std::collections::BTreeMap<NodeId, u32> {
    lives.map(|(node, birth)| (NodeId(node), birth)).into()
}

/// Regression: META's founders were the first lives of the nodes, which end with a re-seed.
#[test]
fn meta_begins_where_most_nodes_were_reseeded_before() {
    let mut c = shard_0();
    for id in [2, 3] {
        c.reseed(id);
        c.run_ms(3_000);
    }
    assert!((1..=3).all(|id| c.peers[&id].founders.is_empty()), "none are chosen");
    found_meta(&mut c);
    let founders = c.peers[&1].founders[0].clone();
    assert_eq!(founders.lives(), &lives([(1, 0), (2, 1), (3, 1)]));
    for id in 1..=3 {
        assert_eq!(c.peers[&id].founders, std::slice::from_ref(&founders), "node {id}");
    }

    let mut meta = begun_by(&founders);
    meta.elect();
    for id in 1..=3 {
        assert_eq!(meta.status(id).topology_version, Some(Version(1)), "node {id}");
        let members = meta.status(id).members;
        assert!(members.iter().all(|member| !member.learner), "{members:?}");
    }

    // As it was: by the nodes of the cluster file.
    let mut meta = Cluster::meta(3);
    meta.reseed(2);
    meta.reseed(3);
    meta.run_ms(5_000);
    assert_eq!(meta.leader(), None, "no majority of the first lives is left");
}

#[test]
fn the_first_choice_of_founders_stays() {
    let mut c = shard_0();
    // The log is cut at each checkpoint.
    c.log_keep_bytes = 0;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    c.elect();
    found_meta(&mut c);
    let founders = c.peers[&1].founders[0].clone();
    assert_eq!(founders.lives(), &lives([(1, 0), (2, 0), (3, 0)]));

    // Other members, another leader, and a replica that has to be sent a snapshot.
    c.run_ms(11_000);
    c.reseed(3);
    c.run_ms(11_000);
    assert!(c.status(3).snapshots_installed > 0);
    let leader = c.leader().expect("a leader");
    c.crash(leader);
    c.elect();
    c.start(leader);
    c.run_ms(11_000);
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    c.elect();
    assert!(c.status(3).first_index > 3, "it has the entry no more: {:?}", c.status(3));
    for id in 1..=3 {
        assert_eq!(c.peers[&id].founders, std::slice::from_ref(&founders), "node {id}");
    }
}

#[test]
fn a_founding_that_was_lost_with_its_leader_is_proposed_again() {
    let mut c = shard_0();
    let leader = c.leader().expect("a leader");
    let before = c.status(leader).last_index;
    c.isolate(leader);
    c.peers.get_mut(&leader).expect("a peer").replica.as_mut().expect("runs").found_meta();
    c.run_ms(150);
    assert_eq!(c.status(leader).last_index, before + 1, "it is proposed once");
    assert!(c.peers[&leader].founders.is_empty(), "and not committed");
    found_meta(&mut c);
    c.run_ms(3_000);
    c.cut.clear();
    c.elect();
    let founders = c.peers[&leader].founders.clone();
    assert_eq!(founders.len(), 1);
    for id in 1..=3 {
        assert_eq!(c.peers[&id].founders, founders, "node {id}");
    }
}

/// Such a replica may know nothing of the founders.
#[test]
fn a_replica_that_comes_later_gets_the_members_with_a_snapshot() {
    let founders = Founders::new(9, [(NodeId(1), 0), (NodeId(2), 1), (NodeId(3), 4)])
        .expect("founders that can be");
    let mut c = begun_by(&founders);
    c.elect();
    c.add(4, 100);
    let members = [(NodeId(1), 0), (NodeId(2), 1), (NodeId(4), 100)];
    let wanted = Wanted::new(2, members).expect("a wish that can be");
    let is_done = |c: &Cluster| {
        let members: Vec<_> =
            c.status(4).members.iter().map(|it| (it.node, it.incarnation, it.learner)).collect();
        members == [(NodeId(1), 0, false), (NodeId(2), 1, false), (NodeId(4), 100, false)]
    };
    for _ in 0..100 {
        if let Some(leader) = c.leader() {
            c.peers.get_mut(&leader).expect("a peer").inbox.push(Input::Want(wanted.clone()));
        }
        c.run_ms(100);
        if is_done(&c) {
            break;
        }
    }
    assert!(is_done(&c), "{:?}", c.status(4).members);
    assert_eq!(c.status(4).snapshots_installed, 1);
    let leader = c.elect();
    assert_eq!(topology(&c, 4), topology(&c, leader));
}

#[test]
fn the_topology_has_its_own_group_where_its_members_are() {
    let mut seed = seed(3);
    seed.nodes.insert(NodeId(4), seed.nodes[&NodeId(1)].clone());
    let founders = Founders::new(9, [(NodeId(2), 1), (NodeId(3), 4), (NodeId(4), 7)])
        .expect("founders that can be");
    let mut c = Cluster::of(META, Some(seed), 3);
    c.crash(1);
    c.peers.remove(&1);
    c.add(4, 7);
    for (node, birth) in founders.lives() {
        c.crash(node.0);
        let peer = c.peers.get_mut(&node.0).expect("a peer");
        (peer.engine, peer.incarnation) = (Arc::default(), *birth);
        peer.engine.write(&[first_write(&founders)]).expect("writes");
    }
    founders.lives().keys().for_each(|node| c.start(node.0));
    let leader = c.elect();
    c.run_ms(2_000);
    let shard = topology(&c, leader).shard(META).expect("it is there").clone();
    assert_eq!(shard.wanted.members.keys().copied().collect::<Vec<_>>(), [2, 3, 4].map(NodeId));
    assert_eq!(c.status(leader).members.len(), 3, "nobody wants node 1 of the cluster file");
}
