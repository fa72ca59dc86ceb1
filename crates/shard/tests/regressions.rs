//! What once broke, by the name of what broke.

mod cluster;

use cluster::*;
use palisade_shard::*;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use routing::NodeId;

fn from_peer(message: Message) -> Input {
    Input::Peer(message.encode_to_vec())
}

fn answer(from: u64, term: u64, kind: MessageType, index: u64) -> Message {
    let mut message = Message { to: 1, from, term, index, ..Default::default() };
    message.set_msg_type(kind);
    message
}

/// Found by simulation: `to_commit 3010 is out of range [last_index 3009]`. raft-rs, told to batch, put entries on an empty
/// append that was still to be sent and stood at another index; the receiver took them for later ones than they were, and
/// acknowledged entries that it did not have.
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
    // In one step: node 2's acknowledgement commits (an empty append to node 3 tells it so), node 3's entries got lost
    // on the way, and it asks for them again.
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

/// Found by simulation: a waiting acquire was answered NOT_LEADER, "nothing was done", when its leader was deposed, while it
/// kept its place in the queue and was granted by the next leader.
#[test]
fn a_waiter_of_a_deposed_leader_is_not_told_that_nothing_was_done() {
    let mut c = Cluster::new(3);
    c.elect();
    c.acquire(1, "a", 2_000);
    let request_id = c.request_id();
    let ticket = c.submit(1, &acquire(request_id, "a", 2_000, true), Some(Wait { request_id, wait_ms: 60_000 }));
    c.run_ms(200);
    assert_eq!(c.reply(1, ticket), None, "it waits");
    c.isolate(1);
    c.run_ms(1_000);
    assert_eq!(c.reply(1, ticket), Some(Reply::Unknown));
}

/// Clocks are cut to whole milliseconds. A lease that began at 1,000.9 ms was due at 2,000.0 ms with a TTL of a second: up to a
/// millisecond early.
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
    assert_eq!(held_at(&mut c, began_ms + 1_000), 1, "began in the last microsecond of its millisecond");
    assert_eq!(held_at(&mut c, began_ms + 1_001), 0);
}
