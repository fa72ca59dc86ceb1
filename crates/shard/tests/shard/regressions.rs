//! What once broke, by the name of what broke.

use crate::cluster::*;
use palisade_shard::*;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use routing::NodeId;
use std::sync::Arc;
use storage::{Engine, MemoryEngine, ShardWrite};

fn from_peer(message: Message) -> Input {
    Input::Peer(message.encode_to_vec())
}

fn answer(from: u64, term: u64, kind: MessageType, index: u64) -> Message {
    let mut message = Message { to: 1, from, term, index, ..Default::default() };
    message.set_msg_type(kind);
    message
}

/// Found by simulation: `to_commit 3010 is out of range [last_index 3009]`. raft-rs, told to batch,
/// put entries on an empty append that was still to be sent and stood at another index; the
/// receiver took them for later ones than they were, and acknowledged entries that it did not have.
#[test]
fn entries_are_never_put_on_an_append_that_stands_elsewhere() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    c.run_ms(500);
    // Node 3 takes entries in and acknowledges none; node 2 is enough to commit them.
    let request_id = c.request_id();
    c.submit(1, &acquire(request_id, "a", 30_000, false), None);
    let now = c.now();
    let inputs = std::mem::take(&mut c.peers.get_mut(&1).unwrap().inbox);
    let leader = c.peers.get_mut(&1).unwrap().replica.as_mut().unwrap();
    let write = leader.step(now, inputs).expect("steps").write.expect("an entry");
    leader.step(now, [Input::Persisted { number: write.number }]).expect("steps");
    let (term, last) = (leader.status().term, leader.status().last_index);
    // In one step: node 2's acknowledgement commits (an empty append to node 3 tells it so), node
    // 3's entries got lost on the way, and it asks for them again.
    let inputs = [
        from_peer(answer(2, term, MessageType::MsgAppendResponse, last)),
        Input::Unreachable { node: NodeId(3) },
        from_peer(answer(3, term, MessageType::MsgHeartbeatResponse, 0)),
    ];
    let outputs = leader.step(now, inputs).expect("steps");
    let mut carried = 0;
    for message in &outputs.messages {
        let message = Message::decode(message.bytes.as_slice()).expect("a message");
        if let Some(first) = message.entries.first() {
            assert_eq!(first.index, message.index + 1, "entries that do not follow {message:?}");
            carried += 1;
        }
    }
    assert!(carried > 0, "node 3 is sent the entry again: {:?}", outputs.messages.len());
}

/// Found by simulation: a waiting acquire was answered NOT_LEADER, "nothing was done", when its
/// leader was deposed, while it kept its place in the queue and was granted by the next leader.
#[test]
fn a_waiter_of_a_deposed_leader_is_not_told_that_nothing_was_done() {
    let mut c = Cluster::new(3);
    c.elect();
    c.acquire(1, "a", 2_000);
    let request_id = c.request_id();
    let ticket = c.submit(
        1,
        &acquire(request_id, "a", 2_000, true),
        Some(Wait { request_id, wait_ms: 60_000 }),
    );
    c.run_ms(200);
    assert_eq!(c.reply(1, ticket), None, "it waits");
    c.isolate(1);
    c.run_ms(1_000);
    assert_eq!(c.reply(1, ticket), Some(Reply::Unknown));
}

/// Clocks are cut to whole milliseconds. A lease that began at 1,000.9 ms was due at 2,000.0 ms
/// with a TTL of a second: up to a millisecond early.
#[test]
fn a_lease_outlives_the_millisecond_that_its_clock_cut_off() {
    let mut c = Cluster::new(3);
    c.elect();
    token(&c.acquire(1, "a", 1_000));
    let began_ms = c.now_ms;
    let held_at = |c: &mut Cluster, at_ms: u64| {
        c.now_ms = at_ms;
        c.peers.get_mut(&1).expect("a peer").inbox.push(Input::Tick);
        c.settle();
        c.status(1).counts.locks
    };
    assert_eq!(
        held_at(&mut c, began_ms + 1_000),
        1,
        "began in the last microsecond of its millisecond"
    );
    assert_eq!(held_at(&mut c, began_ms + 1_001), 0);
}

/// What a replica has on disk, in another engine, as a copy that is put back. It has no checkpoint.
fn put_back(c: &mut Cluster, id: u64, copy: &storage::Recovered, new_term: Option<u32>) {
    let engine = MemoryEngine::new();
    let (entries, hard_state) = (copy.entries.clone(), copy.hard_state.clone());
    assert!(copy.applied.is_none(), "there is a checkpoint");
    engine
        .write(&[ShardWrite { shard: SHARD, entries, hard_state, ..ShardWrite::default() }])
        .expect("written");
    if let Some(random) = new_term {
        let hard_state = copy.hard_state.as_ref().expect("it has voted");
        engine.write(&[in_a_new_term(SHARD, hard_state, random).expect("sound")]).expect("written");
    }
    c.peers.get_mut(&id).expect("a peer").engine = Arc::new(engine);
}

/// Copies of nodes 1 and 2, and a later one of node 3, which has an entry that was committed in the
/// next term. Nodes 1 and 2 are put back and have a leader, which node 3 has yet to hear.
fn copies_of_two_moments(new_term: Option<u32>) -> Cluster {
    let mut c = Cluster::new(3);
    c.elect();
    token(&c.acquire(1, "before", 600_000));
    let older = [1, 2].map(|id| c.peers[&id].engine.recover(SHARD).expect("recovers"));
    c.crash(1);
    let leader = c.elect();
    token(&c.acquire(leader, "between", 600_000));
    c.run_ms(500);
    (1..=3).for_each(|id| c.crash(id));
    let newer = c.peers[&3].engine.recover(SHARD).expect("recovers");
    for (id, copy) in [(1, &older[0]), (2, &older[1]), (3, &newer)] {
        put_back(&mut c, id, copy, new_term);
    }
    (1..=2).for_each(|id| c.start(id));
    c.elect();
    c
}

/// It was counted for entries that it has not, once the leader's log was as long as what it had
/// committed itself.
#[test]
fn a_replica_stops_when_the_leader_lacks_what_it_has_committed() {
    let mut c = copies_of_two_moments(Some(5));
    let leader = c.leader().expect("elected");
    let term = c.status(leader).term;
    assert!(term > 1 << 20, "a term that no copy has: {term}");
    for round in 0..10 {
        token(&c.acquire(leader, &format!("after-{round}"), 600_000));
    }
    c.start(3);
    let fatal = (0..100).find_map(|_| {
        c.now_ms += 50;
        (1..=2).for_each(|id| c.peers.get_mut(&id).expect("a peer").inbox.push(Input::Tick));
        let now = c.now();
        let third = c.peers.get_mut(&3).expect("a peer");
        let heard = std::mem::take(&mut third.inbox);
        let outputs = match third.replica.as_mut().expect("runs").step(now, heard) {
            Ok(outputs) => outputs,
            Err(fatal) => return Some(fatal),
        };
        third.unwritten.extend(outputs.write);
        for message in outputs.messages {
            c.peers.get_mut(&message.to.0).expect("a peer").inbox.push(Input::Peer(message.bytes));
        }
        c.round();
        None
    });
    let fatal = fatal.expect("it goes on").to_string();
    assert!(fatal.contains("lacks log entry") && fatal.contains("re-seed this node"), "{fatal}");
}

/// A follower that caught up applied all that it had got in one step. It took longer than a heartbeat
/// may, and the other shards of its thread waited.
#[test]
fn a_follower_that_catches_up_applies_a_bounded_part_in_each_step() {
    let mut c = Cluster::new(3);
    c.elect();
    c.isolate(3);
    for entry in 0..40 {
        for operation in 0..100 {
            let (request, name) = (c.request_id(), format!("{entry}/{operation}/{:0>200}", "x"));
            c.submit(1, &acquire(request, &name, 60_000, false), None);
        }
        c.settle();
    }
    let behind = c.status(1).applied_index - c.status(3).applied_index;
    c.cut.clear();
    let mut most = 0;
    for _ in 0..1_000 {
        let before = c.status(3).applied_index;
        c.rounds(1);
        most = most.max(c.status(3).applied_index - before);
    }
    assert_eq!(c.status(3).applied_index, c.status(1).applied_index);
    // All are some 900 KB, and a step applies 384 KiB at most.
    assert!(most < behind / 2, "{most} entries of {behind} in one step");
    c.settle();
    assert_eq!(c.hash(1), c.hash(3));
}
