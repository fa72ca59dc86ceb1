//! What once broke when it was attacked, by the name of what broke: slow disks, floods, and peers
//! that send nonsense.

use crate::cluster::*;
use locks::{Command, Token};
use palisade_shard::*;
use raft::eraftpb::{Entry, Message, MessageType};
use raft_prost::Message as _;

/// A replica had taken in a snapshot that its disk had not, and its election timeout ran out:
/// raft-rs looked through the entries between what it knew as applied and what was committed, which
/// the snapshot had replaced, and panicked.
#[test]
fn a_campaign_while_a_snapshot_is_not_yet_on_disk_does_not_panic() {
    let mut c = Cluster::new(3);
    c.log_keep_bytes = 4 << 10;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    c.elect();
    c.crash(3);
    for i in 0..1_000 {
        token(&c.acquire(1, &format!("lock:{i}"), 600_000));
    }
    assert!(c.status(1).first_index > 1, "the log was cut");
    c.start(3);
    c.peers.get_mut(&3).unwrap().disk_works = false;
    c.run_ms(1_000);
    assert_eq!(c.status(3).snapshots_installed, 1);
    c.isolate(3);
    c.run_ms(2_000);
    c.peers.get_mut(&3).unwrap().inbox.push(Input::Campaign);
    c.run_ms(500);
    // The disk goes on, and so does the replica.
    c.cut.clear();
    c.peers.get_mut(&3).unwrap().disk_works = true;
    c.run_ms(2_000);
    let leader = c.leader().expect("a leader");
    assert_eq!(c.hash(3), c.hash(leader));
}

/// While a snapshot was on its way, or its receiver's disk was slow, the leader cut its log past
/// it. It was of no use when it had arrived, and so was the next: under load a replica of a large
/// shard came back never.
#[test]
fn the_log_is_not_cut_past_a_snapshot_that_is_on_its_way() {
    let mut c = Cluster::new(3);
    c.log_keep_bytes = 4 << 10;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    c.elect();
    c.crash(3);
    for i in 0..1_000 {
        token(&c.acquire(1, &format!("lock:{i}"), 600_000));
    }
    assert!(c.status(1).first_index > 1, "the log was cut");
    c.start(3);
    c.peers.get_mut(&3).unwrap().disk_works = false;
    c.run_ms(1_000);
    assert_eq!(c.status(3).snapshots_installed, 1);
    // Several checkpoints' worth of log, and less than the snapshot is long.
    let (before, checkpoints) = (c.status(1).applied_index, c.status(1).checkpoint_index);
    for i in 0..400 {
        token(&c.acquire(1, &format!("late:{i}"), 600_000));
    }
    assert!(
        c.status(1).checkpoint_index > checkpoints.max(before),
        "a checkpoint came after the snapshot"
    );
    c.peers.get_mut(&3).unwrap().disk_works = true;
    c.run_ms(2_000);
    assert_eq!(c.status(3).snapshots_installed, 1, "the first one served");
    assert_eq!(c.hash(3), c.hash(1));
    // It is not kept for ever, and the log no longer than it, though nothing happens any more.
    assert!(c.status(1).first_index <= before + 1, "the log is still there");
    c.run_ms(31_000);
    assert!(c.status(1).first_index > before + 1, "the log is cut again");
}

/// A snapshot's receiver is sent history first, and where there is much of it that takes longer
/// than half a minute and than as much log as the snapshot is long: the leader cut its log before,
/// so each snapshot was of no use when it arrived, for as long as the load lasted.
#[test]
fn the_log_is_not_cut_past_a_snapshot_however_long_it_takes() {
    let mut c = Cluster::new(3);
    c.log_keep_bytes = 4 << 10;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    c.elect();
    c.crash(3);
    for i in 0..1_000 {
        token(&c.acquire(1, &format!("lock:{i}"), 600_000));
    }
    assert!(c.status(1).first_index > 1, "the log was cut");
    c.start(3);
    c.holds_snapshots = true;
    c.run_ms(1_000);
    assert_eq!(c.held_snapshots.len(), 1, "one is on its way");
    let built_at = c.status(1).applied_index;
    // Far more log than the snapshot is long, for far longer than a snapshot is kept that nobody is
    // sent.
    for i in 0..20 {
        for j in 0..100 {
            token(&c.acquire(1, &format!("late:{i}:{j}"), 600_000));
        }
        c.run_ms(6_000);
    }
    assert!(c.status(1).checkpoint_index > built_at + 1_900, "checkpoints came after it");
    assert_eq!(c.held_snapshots.len(), 1, "no other was sent meanwhile");
    c.release_snapshots();
    c.run_ms(2_000);
    assert_eq!(c.status(3).snapshots_installed, 1, "the first one served");
    assert_eq!(c.hash(3), c.hash(1));
    c.run_ms(31_000);
    assert!(c.status(1).first_index > built_at + 1, "the log is cut again");
}

/// A shard whose queue was kept full by its clients proposed no expiry: who held a lock in silence
/// held it for ever.
#[test]
fn leases_end_under_a_flood_of_operations() {
    let mut c = Cluster::new(3);
    c.elect();
    token(&c.acquire(1, "a", 500));
    for round in 0..400 {
        if round % 4 == 0 {
            c.now_ms += 10;
            c.peers
                .values_mut()
                .for_each(|peer| peer.inbox.extend((round % 20 == 0).then_some(Input::Tick)));
        }
        for _ in 0..1_500 {
            c.submit(1, &Command::Renew { name: "nobody's", token: Token(1) }, None);
        }
        c.round();
        c.peers.get_mut(&1).unwrap().replies.clear();
    }
    let ticket = c.read(1, "a", false);
    c.round();
    match c.reply(1, ticket) {
        Some(Reply::Read { answer: Answer::Check { holders, .. }, .. }) => {
            assert!(holders.is_empty(), "{holders:?}")
        }
        other => panic!("{other:?}"),
    }
}

/// Reads that were confirmed, and waited for a table that did not get there, were neither counted
/// nor ever given up.
#[test]
fn confirmed_reads_that_a_stalled_disk_holds_up_are_bounded_and_end() {
    let mut c = Cluster::new(3);
    c.elect();
    c.peers.get_mut(&1).unwrap().disk_works = false;
    // The followers' disks commit it, but the leader applies only what its own has.
    let request_id = c.request_id();
    c.submit(1, &acquire(request_id, "a", 600_000, false), None);
    c.settle();
    let mut tickets = Vec::new();
    for _ in 0..50 {
        for _ in 0..100 {
            tickets.push(c.read(1, "a", true));
        }
        c.settle();
    }
    let refused = c.peers[&1].replies.iter().filter(|(_, reply)| *reply == Reply::Busy).count();
    assert!(refused >= 3_000, "of 5,000 reads {refused} were refused, where 1,000 may wait");
    c.run_ms(5_000);
    for ticket in tickets {
        let answers = c.peers[&1].replies.iter().filter(|(t, _)| *t == ticket).count();
        assert_eq!(answers, 1, "answers to read {ticket}");
    }
}

/// A replica that was started again without its data was told a commit index past its log, and
/// panicked each time that it came up, for as long as the same leader led: the documented way to
/// re-seed it did not work. Now it is somebody new, to whom nobody says that.
#[test]
fn a_replica_that_comes_back_empty_is_seeded_again() {
    for log_keep_bytes in [1 << 20, 4 << 10] {
        let mut c = Cluster::new(3);
        c.log_keep_bytes = log_keep_bytes;
        for id in 1..=3 {
            c.crash(id);
            c.start(id);
        }
        c.elect();
        for i in 0..600 {
            token(&c.acquire(1, &format!("n{i}"), 600_000));
        }
        c.run_ms(200);
        c.peers.get_mut(&1).unwrap().inbox.push(Input::Unreachable { node: routing::NodeId(3) });
        c.reseed(3);
        c.run_ms(2_000);
        token(&c.acquire(1, "after", 600_000));
        c.run_ms(2_000);
        assert_eq!(c.hash(3), c.hash(1));
    }
}

fn message(kind: MessageType, from: u64) -> Message {
    let mut message = Message { to: 1, from, ..Default::default() };
    message.set_msg_type(kind);
    message
}

/// raft-rs believes its peers: it panicked on a read without a context, on a commit index past the
/// log, and on entries that do not follow each other.
#[test]
fn a_peers_nonsense_does_not_panic() {
    let kinds: Vec<MessageType> = (0..=18).filter_map(MessageType::from_i32).collect();
    for leads in [true, false] {
        for kind in &kinds {
            for shape in 0..9u64 {
                let mut c = Cluster::new(3);
                c.elect();
                let target = if leads { 1 } else { 2 };
                token(&c.acquire(1, "a", 600_000));
                c.run_ms(100);
                let Status { term, last_index, .. } = c.status(target);
                let mut m = message(*kind, if leads { 2 } else { 1 });
                m.to = target;
                m.term = if shape < 3 { 0 } else { term + shape / 8 };
                m.log_term = term;
                match shape % 3 {
                    0 => {}
                    1 => {
                        m.index = last_index;
                        m.commit = last_index + 1_000;
                        m.commit_term = term;
                        m.entries = vec![Entry { index: 3, term, ..Default::default() }];
                    }
                    _ => {
                        m.index = u64::MAX;
                        m.commit = u64::MAX;
                        m.reject = true;
                        m.reject_hint = u64::MAX;
                        m.entries = vec![
                            Entry::default(),
                            Entry { index: 9_999, term: 99, ..Default::default() },
                        ];
                    }
                }
                let what = format!(
                    "{kind:?}, shape {shape}, to {}",
                    if leads { "a leader" } else { "a follower" }
                );
                // Whoever is told of a commit index past its log must take it that its log is lost,
                // and stops in good order.
                let stops =
                    *kind == MessageType::MsgHeartbeat && m.term >= term && m.commit > last_index;
                let bytes = m.encode_to_vec();
                let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let now = c.now();
                    let replica = c.peers.get_mut(&target).unwrap().replica.as_mut().unwrap();
                    if stops {
                        let fatal = replica.step(now, [Input::Peer(bytes)]).expect_err("stops");
                        return assert!(fatal.what.contains("Re-seed it"), "{fatal}");
                    }
                    c.peers.get_mut(&target).unwrap().inbox.push(Input::Peer(bytes));
                    c.run_ms(100);
                }));
                assert!(lived.is_ok(), "{what}");
            }
        }
    }
}

/// A waiter is answered once even if the flood that it came in filled the queue.
#[test]
fn every_ticket_of_a_flood_is_answered_once() {
    let mut c = Cluster::new(3);
    c.elect();
    let mut tickets = Vec::new();
    for i in 0..3_000 {
        let request_id = c.request_id();
        tickets.push(c.submit(
            1,
            &acquire(request_id, &format!("n{}", i % 50), 200, true),
            Some(Wait { request_id, wait_ms: 1_500 }),
        ));
    }
    c.run_ms(100);
    c.isolate(1);
    c.run_ms(4_000);
    c.cut.clear();
    c.run_ms(4_000);
    let replies = &c.peers[&1].replies;
    for ticket in tickets {
        assert_eq!(replies.iter().filter(|(t, _)| *t == ticket).count(), 1);
    }
}
