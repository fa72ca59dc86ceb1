//! Spare followers: a leader sends its entries at once to as many followers as a quorum needs, and
//! to the others a little later, many at a time.

use crate::cluster::*;
use palisade_shard::*;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use routing::NodeId;
use std::collections::BTreeMap;

const HOLD_MS: u64 = 10;

/// Nothing is under way, and whoever follows has all of the log.
fn caught_up(size: u64, append_hold_ms: u64) -> Cluster {
    let mut c = Cluster::thrifty(size, append_hold_ms);
    assert_eq!(c.elect(), 1);
    c.run_ms(1_000);
    c.sent = Some(Vec::new());
    c
}

/// How many entries each append since the last look had, by receiver.
fn appends(c: &mut Cluster) -> BTreeMap<u64, Vec<usize>> {
    let mut appends: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (_, sent) in c.sent.replace(Vec::new()).expect("recorded") {
        let message = Message::decode(sent.bytes.as_slice()).expect("a replica's own");
        if message.msg_type() == MessageType::MsgAppend && !message.entries.is_empty() {
            appends.entry(sent.to.0).or_default().push(message.entries.len());
        }
    }
    appends
}

fn submit(c: &mut Cluster, name: &str) -> Ticket {
    let request_id = c.request_id();
    c.submit(1, &acquire(request_id, name, 600_000, false), None)
}

/// One entry, which is committed.
fn entry(c: &mut Cluster, leader: u64, name: &str) {
    token(&c.acquire(leader, name, 600_000));
}

fn all_are_equal(c: &mut Cluster) {
    c.run_ms(1_000);
    let hashes: Vec<_> =
        c.peers.keys().copied().collect::<Vec<_>>().into_iter().map(|id| c.hash(id)).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[test]
fn spare_followers_get_fewer_and_larger_appends() {
    for (size, active, spare) in [(5, [2, 3].as_slice(), [4, 5].as_slice()), (3, &[2], &[3])] {
        let mut c = caught_up(size, HOLD_MS);
        for i in 0..100 {
            entry(&mut c, 1, &format!("lock:{i}"));
            c.pass_ms(2);
        }
        c.pass_ms(HOLD_MS);
        let appends = appends(&mut c);
        for id in active {
            assert_eq!(appends[id], [1; 100], "each entry at once to node {id}");
        }
        for id in spare {
            assert_eq!(appends[id].iter().sum::<usize>(), 100, "all of it to node {id}");
            assert!(appends[id].len() <= 25, "few appends to node {id}: {:?}", appends[id]);
        }
        all_are_equal(&mut c);
    }
}

#[test]
fn with_nothing_to_hold_for_all_followers_get_every_entry_at_once() {
    let mut c = caught_up(5, 0);
    for i in 0..20 {
        entry(&mut c, 1, &format!("lock:{i}"));
    }
    let appends = appends(&mut c);
    assert_eq!(appends.values().map(Vec::as_slice).collect::<Vec<_>>(), [[1; 20]; 4]);
    all_are_equal(&mut c);
}

#[test]
fn leaders_on_different_nodes_lean_on_different_followers() {
    let mut c = caught_up(5, HOLD_MS);
    for (leader, active) in [(1, [2, 3]), (4, [1, 5]), (5, [1, 2])] {
        if leader != 1 {
            let before = c.leader().expect("a leader");
            c.peers.get_mut(&before).unwrap().inbox.push(Input::Transfer { to: NodeId(leader) });
            c.run_ms(1_000);
            assert_eq!(c.leader(), Some(leader));
            appends(&mut c);
        }
        entry(&mut c, leader, &format!("lock:{leader}"));
        let at_once: Vec<u64> = appends(&mut c).into_keys().collect();
        assert_eq!(at_once, active, "of leader {leader}");
    }
}

/// Nobody says that it is gone.
#[test]
fn a_spare_follower_takes_the_place_of_an_active_one_that_hears_nothing() {
    let mut c = caught_up(5, HOLD_MS);
    c.isolate(3);
    let ticket = submit(&mut c, "a");
    c.settle();
    assert_eq!(c.reply(1, ticket), None, "two of five have it");
    c.pass_ms(HOLD_MS.div_ceil(2));
    token(&c.reply(1, ticket).expect("an answer: the spare ones have it, too"));
    // Only once.
    for i in 0..20 {
        entry(&mut c, 1, &format!("lock:{i}"));
        c.pass_ms(60);
    }
    // It comes back, and after a while it is leaned on again.
    c.cut.clear();
    all_are_equal(&mut c);
    c.run_ms(10_000);
    appends(&mut c);
    entry(&mut c, 1, "b");
    assert_eq!(appends(&mut c).into_keys().collect::<Vec<_>>(), [2, 3]);
}

/// The leader's own disk hangs: with both active ones there is no quorum without it.
#[test]
fn a_leaders_slow_disk_is_made_up_for_by_the_spare_followers() {
    let mut c = caught_up(5, HOLD_MS);
    c.peers.get_mut(&1).unwrap().disk_works = false;
    let ticket = submit(&mut c, "a");
    c.settle();
    c.pass_ms(HOLD_MS.div_ceil(2));
    let committed = c.status(1).committed_index;
    assert_eq!(committed, c.status(1).last_index, "four of five have it");
    c.peers.get_mut(&1).unwrap().disk_works = true;
    c.settle();
    token(&c.reply(1, ticket).expect("an answer"));
    entry(&mut c, 1, "b");
    all_are_equal(&mut c);
}

#[test]
fn leadership_moves_under_load_to_a_spare_follower() {
    let mut c = caught_up(5, HOLD_MS);
    // A stream of entries, of which some are always under way.
    for i in 0..200 {
        submit(&mut c, &format!("lock:{i}"));
        if i % 25 == 0 {
            c.now_ms += 50;
            c.peers.values_mut().for_each(|peer| peer.inbox.push(Input::Tick));
        }
        c.now_ms += 1;
        c.round();
        c.round();
        if i % 25 == 24 {
            assert_eq!(
                c.status(1).caught_up,
                [1, 2, 3, 4, 5].map(NodeId),
                "a spare one is no less able to lead"
            );
        }
    }
    assert!(appends(&mut c)[&5].iter().any(|entries| *entries > 1), "node 5 is spare");
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Transfer { to: NodeId(5) });
    for i in 200..250 {
        submit(&mut c, &format!("lock:{i}"));
        c.round();
    }
    c.settle();
    assert_eq!(c.leader(), Some(5), "without a tick");
    entry(&mut c, 5, "last");
    all_are_equal(&mut c);
}

/// What a deposed leader still held for its followers never leaves.
#[test]
fn what_is_held_ends_with_the_leadership() {
    // Longer than it takes the others to elect another.
    let mut c = caught_up(5, 60_000);
    c.isolate(1);
    let ticket = submit(&mut c, "a");
    c.settle();
    let others: Vec<u64> = appends(&mut c).into_keys().collect();
    assert_eq!(others, [2, 3], "the rest is held");
    c.run_ms(3_000);
    assert!(c.leader().is_some_and(|leader| leader != 1));
    c.cut.clear();
    c.run_ms(1_000);
    assert_eq!(c.reply(1, ticket), Some(Reply::Unknown));
    c.sent.as_mut().unwrap().retain(|(from, _)| *from == 1);
    assert!(appends(&mut c).is_empty(), "of the old leader");
    all_are_equal(&mut c);
}

/// A member that is re-seeded gets in under load.
#[test]
fn a_learner_is_no_spare_follower() {
    let mut c = caught_up(5, HOLD_MS);
    c.reseed(5);
    for i in 0..300 {
        submit(&mut c, &format!("lock:{i}"));
        c.now_ms += 3;
        if i % 16 == 0 {
            c.peers.values_mut().for_each(|peer| peer.inbox.push(Input::Tick));
        }
        c.round();
        c.round();
    }
    let members = c.status(1).members;
    assert!(
        members.iter().any(|m| m.node == NodeId(5) && m.incarnation == 1 && !m.learner),
        "{members:?}"
    );
    all_are_equal(&mut c);
}
