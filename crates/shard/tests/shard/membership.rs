//! A node that lost its data comes back as a new member: by log and by snapshot, through crashes
//! and changes of leader, and never at the cost of what was acknowledged.

use crate::cluster::*;
use palisade_shard::*;
use raft::eraftpb::{ConfState, HardState, Message, MessageType, Snapshot, SnapshotMetadata};
use raft_prost::Message as _;
use routing::NodeId;
use std::collections::BTreeSet;
use storage::Engine;

/// (node, incarnation) of voters, and of learners.
type Members = (Vec<(u64, u32)>, Vec<(u64, u32)>);

fn members(c: &Cluster, id: u64) -> Members {
    let all = c.status(id).members;
    let of = |learner| {
        all.iter().filter(|m| m.learner == learner).map(|m| (m.node.0, m.incarnation)).collect()
    };
    (of(false), of(true))
}

/// Everybody votes with the disk that it has, knows so, and has the same state.
fn assert_whole(c: &mut Cluster, what: &str) {
    let whole: Vec<(u64, u32)> = c.peers.iter().map(|(id, peer)| (*id, peer.incarnation)).collect();
    let ids: Vec<u64> = c.peers.keys().copied().collect();
    for id in &ids {
        assert_eq!(members(c, *id), (whole.clone(), vec![]), "{what}: as node {id} knows it");
    }
    let hashes: Vec<(u64, u64)> = ids.iter().map(|id| c.hash(*id)).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{what}: {hashes:?}");
}

fn held_token(c: &mut Cluster, id: u64, name: &str) -> Option<u64> {
    let ticket = c.read(id, name, true);
    c.settle();
    match c.reply(id, ticket) {
        Some(Reply::Read { answer: Answer::Check { holders, .. }, .. }) => {
            holders.first().map(|grant| grant.token.0)
        }
        other => panic!("no answer to check: {other:?}"),
    }
}

/// Three nodes that keep little log, so that who is far behind needs a snapshot.
fn cluster_that_cuts_its_log() -> Cluster {
    let mut c = Cluster::new(3);
    c.log_keep_bytes = 4 << 10;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    c
}

fn from_peer(from: u64, to: u64, kind: MessageType, term: u64) -> Message {
    let mut message = Message { from, to, term, ..Default::default() };
    message.set_msg_type(kind);
    message
}

#[test]
fn a_replaced_replica_catches_up_by_log_and_becomes_a_voter() {
    let mut c = Cluster::new(3);
    c.elect();
    let held = token(&c.acquire(1, "a", 600_000));
    c.reseed(3);
    assert_eq!(
        members(&c, 3),
        (vec![(1, 0), (2, 0), (3, 0)], vec![]),
        "it is no member before it is told so"
    );
    c.run_ms(2_000);
    assert_whole(&mut c, "after a re-seed");
    assert_eq!(c.status(3).snapshots_installed, 0);
    assert_eq!(c.status(3).incarnation, 1);
    // Its vote counts: without it there is no majority any more.
    c.crash(1);
    let leader = c.elect();
    assert_eq!(held_token(&mut c, leader, "a"), Some(held));
}

#[test]
fn a_replaced_replica_catches_up_by_snapshot_and_becomes_a_voter() {
    let mut c = cluster_that_cuts_its_log();
    c.elect();
    let tokens: Vec<u64> =
        (0..600).map(|i| token(&c.acquire(1, &format!("n{i}"), 600_000))).collect();
    assert!(c.status(1).first_index > 1, "the log was cut");
    c.reseed(3);
    c.run_ms(3_000);
    assert_whole(&mut c, "after a re-seed");
    assert_eq!(c.status(3).snapshots_installed, 1);
    c.crash(1);
    let leader = c.elect();
    assert_eq!(held_token(&mut c, leader, "n17"), Some(tokens[17]));
}

/// A snapshot that was built for another, before the newcomer was a member, would be refused by it
/// for as long as it is kept.
#[test]
fn a_snapshot_from_before_a_change_of_members_is_not_sent_after_it() {
    let mut c = cluster_that_cuts_its_log();
    c.elect();
    c.crash(2);
    for i in 0..600 {
        token(&c.acquire(1, &format!("n{i}"), 600_000));
    }
    c.start(2);
    c.run_ms(1_000);
    assert_eq!(c.status(2).snapshots_installed, 1, "one was built, and is kept for a while");
    c.reseed(3);
    c.run_ms(3_000);
    assert_whole(&mut c, "within the time for which a snapshot is kept");
}

#[test]
fn a_learner_neither_leads_nor_counts_as_caught_up() {
    let mut c = Cluster::new(3);
    c.elect();
    c.reseed(3);
    // It stays a learner while its disk does not work.
    c.peers.get_mut(&3).unwrap().disk_works = false;
    c.run_ms(2_000);
    assert_eq!(members(&c, 1), (vec![(1, 0), (2, 0), (3, 0)], vec![(3, 1)]));
    assert_eq!(c.status(1).caught_up, [1, 2].map(NodeId));
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Transfer { to: NodeId(3) });
    c.peers.get_mut(&3).unwrap().inbox.push(Input::Campaign);
    c.run_ms(2_000);
    assert_eq!((c.leader(), c.status(3).role), (Some(1), Role::Follower));
    // Caught up with the leader it still is none, as long as no quorum agrees to what comes next.
    c.peers.get_mut(&2).unwrap().disk_works = false;
    c.peers.get_mut(&3).unwrap().disk_works = true;
    c.run_ms(200);
    assert_eq!(c.leader(), Some(1));
    assert_eq!(c.status(3).committed_index, c.status(1).committed_index);
    assert_eq!(members(&c, 1), (vec![(1, 0), (2, 0), (3, 0)], vec![(3, 1)]));
    assert!(!c.status(1).caught_up.contains(&NodeId(3)));
    c.peers.get_mut(&2).unwrap().disk_works = true;
    c.run_ms(2_000);
    assert_whole(&mut c, "once all disks work");
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Transfer { to: NodeId(3) });
    c.run_ms(500);
    assert_eq!(c.leader(), Some(3), "leadership goes to who votes there now");
    // And a follower that is no member at all does not campaign either, even if it should lead, all
    // else equal.
    c.reseed(1);
    c.isolate(1);
    c.run_ms(3_000);
    assert_eq!((c.status(1).role, c.status(1).term), (Role::Follower, 0));
    c.cut.clear();
    c.run_ms(3_000);
    assert_whole(&mut c, "after the preferred leader was re-seeded");
}

#[test]
fn what_a_replaced_replica_said_is_dropped() {
    let mut c = Cluster::new(3);
    c.elect();
    let term = c.status(1).term;
    let late = |c: &Cluster| {
        from_peer(3, 1, MessageType::MsgAppendResponse, c.status(1).term + 7).encode_to_vec()
    };
    c.reseed(3);
    c.run_ms(2_000);
    let message = late(&c);
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Peer(message));
    c.run_ms(500);
    assert_eq!(
        (c.leader(), c.status(1).term),
        (Some(1), term),
        "the old incarnation deposed the leader"
    );
    // What was meant for it is not for who came after.
    let heartbeat = from_peer(1, 3, MessageType::MsgHeartbeat, term + 9).encode_to_vec();
    c.peers.get_mut(&3).unwrap().inbox.push(Input::Peer(heartbeat));
    c.run_ms(500);
    assert_eq!(c.status(3).term, term);
    // The same from who is there now is heard.
    let now = from_peer(1 << 32 | 3, 1, MessageType::MsgAppendResponse, term + 7).encode_to_vec();
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Peer(now));
    c.run_ms(2_000);
    assert!(c.status(1).term >= term + 7);
}

/// What the changes went through, as a set of configurations: each of the three must have been met
/// somewhere.
#[derive(Default)]
struct Met(BTreeSet<Members>);

impl Met {
    fn note(&mut self, c: &Cluster) {
        let running: Vec<u64> =
            c.peers.iter().filter(|(_, peer)| peer.replica.is_some()).map(|(id, _)| *id).collect();
        self.0.extend(running.into_iter().map(|id| members(c, id)));
    }

    fn assert_every_change(&self) {
        let before = (vec![(1, 0), (2, 0), (3, 0)], vec![]);
        let learner = (vec![(1, 0), (2, 0), (3, 0)], vec![(3, 1)]);
        let removed = (vec![(1, 0), (2, 0)], vec![(3, 1)]);
        let whole = (vec![(1, 0), (2, 0), (3, 1)], vec![]);
        assert_eq!(self.0, BTreeSet::from([before, learner, removed, whole]));
    }
}

/// A re-seed is interrupted after every possible number of rounds, in which messages travel and
/// disks write.
fn interrupt_everywhere(mut interrupt: impl FnMut(&mut Cluster)) {
    let mut met = Met::default();
    for rounds in 0..80 {
        for cuts_its_log in [false, true] {
            let mut c = if cuts_its_log { cluster_that_cuts_its_log() } else { Cluster::new(3) };
            c.elect();
            let names = if cuts_its_log { 400 } else { 5 };
            let held: Vec<u64> =
                (0..names).map(|i| token(&c.acquire(1, &format!("n{i}"), 600_000))).collect();
            c.reseed(3);
            c.rounds(rounds);
            met.note(&c);
            interrupt(&mut c);
            c.run_ms(6_000);
            let what = format!("interrupted after {rounds} rounds, log cut: {cuts_its_log}");
            assert_whole(&mut c, &what);
            let leader = c.leader().expect("a leader");
            assert_eq!(held_token(&mut c, leader, "n3"), Some(held[3]), "{what}");
        }
    }
    met.assert_every_change();
}

#[test]
fn a_power_cut_of_all_in_the_middle_of_each_change_loses_nothing() {
    interrupt_everywhere(|c| {
        for id in 1..=3 {
            c.crash(id);
        }
        for id in 1..=3 {
            c.start(id);
        }
    });
}

#[test]
fn a_power_cut_of_the_newcomer_in_the_middle_of_each_change_loses_nothing() {
    interrupt_everywhere(|c| {
        c.crash(3);
        c.run_ms(300);
        c.start(3);
    });
}

#[test]
fn the_next_leader_finishes_what_the_one_before_began() {
    interrupt_everywhere(|c| {
        let before = c.leader().expect("a leader");
        c.isolate(before);
        c.run_ms(3_000);
        c.cut.clear();
    });
    // The same where the next leader was never told, and has it from the log alone.
    interrupt_everywhere(|c| {
        if members(c, 2).1.is_empty() {
            return;
        }
        c.crash(2);
        let known = std::mem::take(&mut c.peers.get_mut(&3).unwrap().incarnation);
        c.start(2);
        c.peers.get_mut(&3).unwrap().incarnation = known;
        c.peers.get_mut(&1).unwrap().inbox.push(Input::Transfer { to: NodeId(2) });
    });
}

#[test]
fn the_members_outlive_checkpoints_a_cut_log_and_snapshots() {
    let mut c = cluster_that_cuts_its_log();
    c.elect();
    c.reseed(3);
    c.run_ms(2_000);
    assert_whole(&mut c, "first");
    let leader = c.leader().expect("a leader");
    let changes_end = c.status(leader).last_index;
    for i in 0..600 {
        token(&c.acquire(leader, &format!("n{i}"), 600_000));
    }
    c.run_ms(1_000);
    for id in 1..=3 {
        assert!(
            c.status(id).first_index > changes_end,
            "node {id} still has the changes in its log"
        );
        c.crash(id);
    }
    for id in 1..=3 {
        c.start(id);
        assert_eq!(members(&c, id), (vec![(1, 0), (2, 0), (3, 1)], vec![]), "as checkpointed");
    }
    c.elect();
    // Who comes now has never seen those entries, and learns of the members by snapshot.
    c.reseed(2);
    c.run_ms(3_000);
    assert_eq!(c.status(2).snapshots_installed, 1);
    assert_whole(&mut c, "second");
    c.reseed(1);
    c.run_ms(6_000);
    assert_whole(&mut c, "all were replaced, one after the other");
    c.reseed(3);
    c.run_ms(3_000);
    assert_whole(&mut c, "and one again");
}

#[test]
fn who_is_lost_again_before_it_was_a_voter_comes_back_all_the_same() {
    for rounds in 0..60 {
        let mut c = Cluster::new(3);
        c.elect();
        let held = token(&c.acquire(1, "a", 600_000));
        c.reseed(3);
        c.rounds(rounds);
        c.reseed(3);
        c.run_ms(6_000);
        assert_whole(&mut c, &format!("lost again after {rounds} rounds"));
        let leader = c.leader().expect("a leader");
        assert_eq!(held_token(&mut c, leader, "a"), Some(held));
    }
}

#[test]
fn two_of_five_are_replaced_at_once() {
    let mut c = Cluster::new(5);
    c.elect();
    for i in 0..100 {
        token(&c.acquire(1, &format!("n{i}"), 600_000));
    }
    c.reseed(4);
    c.reseed(5);
    c.run_ms(3_000);
    assert_whole(&mut c, "a minority was lost");
}

/// The story that this is all about: an acknowledged entry is on two disks, one of them is lost,
/// and the other is away.
#[test]
fn an_entry_that_a_lost_disk_acknowledged_is_not_outvoted() {
    let mut c = Cluster::new(3);
    c.elect();
    c.isolate(2);
    let held = token(&c.acquire(1, "a", 600_000));
    c.wipe(3);
    c.crash(1);
    c.cut.clear();
    c.start(3);
    c.tell_all(3);
    for _ in 0..10 {
        c.run_ms(1_000);
        assert_eq!(c.leader(), None, "nobody who is left has the entry");
    }
    c.start(1);
    c.run_ms(5_000);
    assert_whole(&mut c, "once who has it is back");
    let leader = c.leader().expect("a leader");
    assert_eq!(held_token(&mut c, leader, "a"), Some(held));
}

#[test]
fn a_group_that_lost_its_majority_changes_nothing_and_serves_nothing() {
    for (size, lost) in [(3, vec![2, 3]), (3, vec![1, 3]), (3, vec![1, 2, 3]), (5, vec![1, 2, 3])] {
        let mut c = Cluster::new(size);
        c.elect();
        token(&c.acquire(1, "a", 600_000));
        lost.iter().for_each(|id| c.wipe(*id));
        lost.iter().for_each(|id| c.start(*id));
        lost.iter().for_each(|id| c.tell_all(*id));
        c.run_ms(1_000);
        for _ in 0..20 {
            c.run_ms(1_000);
            for id in 1..=size {
                let status = c.status(id);
                assert_ne!(
                    status.role,
                    Role::Leader,
                    "{lost:?} of {size} were lost, and node {id} leads"
                );
                assert!(
                    status.members.iter().all(|m| m.incarnation == 0 && !m.learner),
                    "{status:?}"
                );
                let reply = c.acquire(id, "b", 600_000);
                assert!(matches!(reply, Reply::NoLeader | Reply::NotLeader { .. }), "{reply:?}");
            }
        }
    }
}

/// A disk that is lost and not known to be: the replica stops before it says a word that could cost
/// an acknowledged entry.
#[test]
fn a_replica_under_its_old_name_without_its_data_stops() {
    let mut c = Cluster::new(3);
    c.elect();
    for i in 0..50 {
        token(&c.acquire(1, &format!("n{i}"), 600_000));
    }
    c.run_ms(500);
    c.wipe(3);
    c.peers.get_mut(&3).unwrap().incarnation = 0;
    c.start(3);
    let (term, commit) = (c.status(1).term, c.status(1).committed_index);
    let heartbeat = Message { commit, ..from_peer(1, 3, MessageType::MsgHeartbeat, term) };
    let stale = Message { commit, ..from_peer(1, 3, MessageType::MsgHeartbeat, 0) };
    let now = c.now();
    let replica = c.peers.get_mut(&3).unwrap().replica.as_mut().expect("runs");
    replica.step(now, [Input::Peer(stale.encode_to_vec())]).expect("nonsense is dropped");
    let fatal = replica.step(now, [Input::Peer(heartbeat.encode_to_vec())]).expect_err("stops");
    assert!(
        fatal.what.contains("its data directory was damaged or replaced. Re-seed it"),
        "{fatal}"
    );
}

/// raft-rs may campaign with a configuration that is one change behind its log, but not with one
/// that is two behind: whoever has an entry must know, after a restart, too, what was committed
/// when the entry was sent.
#[test]
fn who_has_an_entry_on_disk_has_the_commit_index_that_came_with_it() {
    let mut c = Cluster::new(3);
    c.elect();
    for i in 0..20 {
        token(&c.acquire(1, &format!("n{i}"), 600_000));
        c.run_ms(100);
        for id in 1..=3 {
            let recovered = c.peers[&id].engine.recover(SHARD).expect("recovers");
            let hard_state = HardState::decode(recovered.hard_state.expect("written").as_slice())
                .expect("decodes");
            let (last, _) = recovered.entries.last().expect("entries");
            assert!(
                hard_state.commit + 1 >= *last,
                "node {id} has {last} on disk, and commit {}",
                hard_state.commit
            );
        }
    }
}

/// raft-rs panics on configurations that it could not have come to itself.
#[test]
fn a_snapshot_with_an_impossible_configuration_is_dropped() {
    let conf = |voters: &[u64], learners: &[u64], outgoing: &[u64]| ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        voters_outgoing: outgoing.to_vec(),
        ..Default::default()
    };
    let impossible = [
        conf(&[], &[], &[]),
        conf(&[], &[3], &[]),
        conf(&[1, 2, 3, 3], &[], &[]),
        conf(&[1, 2, 3], &[3], &[]),
        conf(&[1, 2, 3], &[], &[1, 2]),
        conf(&[0, 2, 3], &[], &[]),
    ];
    for conf_state in impossible {
        let mut c = Cluster::new(3);
        c.elect();
        c.run_ms(200);
        let term = c.status(1).term;
        let what = format!("{conf_state:?}");
        let metadata = Some(SnapshotMetadata { conf_state: Some(conf_state), index: 1_000, term });
        let snapshot = Some(Snapshot { data: locks::LockTable::new().snapshot(), metadata });
        let message = Message { snapshot, ..from_peer(1, 3, MessageType::MsgSnapshot, term) };
        c.peers.get_mut(&3).unwrap().inbox.push(Input::Peer(message.encode_to_vec()));
        c.run_ms(500);
        assert_eq!(c.status(3).snapshots_installed, 0, "{what}");
        assert_whole(&mut c, &what);
    }
}
