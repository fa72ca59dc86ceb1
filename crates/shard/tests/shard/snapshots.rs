//! Snapshots that are built by the host, off the replica's thread.

use crate::cluster::*;
use palisade_shard::*;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;

/// Three replicas whose host builds their snapshots; node 3 was away while the log was cut above
/// what it has.
fn node_3_is_behind() -> Cluster {
    let mut c = Cluster::new(3);
    c.log_keep_bytes = 0;
    c.host_builds = true;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    assert_eq!(c.elect(), 1);
    token(&c.acquire(1, "before", 600_000));
    c.crash(3);
    for i in 0..200 {
        token(&c.acquire(1, &format!("name-{i}"), 600_000));
    }
    c.run_ms(11_000);
    assert!(c.status(1).first_index > 100, "{:?}", c.status(1));
    c
}

#[test]
fn a_replica_that_fell_behind_is_sent_what_its_leaders_host_built() {
    let mut c = node_3_is_behind();
    c.start(3);
    c.run_ms(1_000);
    assert_eq!(c.status(3).snapshots_installed, 1);
    assert_eq!(c.hash(3), c.hash(1));
    let leader = c.elect();
    token(&c.acquire(leader, "after", 600_000));
    c.run_ms(200);
    assert_eq!(c.hash(3), c.hash(leader));
}

#[test]
fn the_log_is_kept_while_a_snapshot_is_built_and_the_leader_goes_on() {
    let mut c = node_3_is_behind();
    c.holds_builds = true;
    c.start(3);
    c.run_ms(500);
    assert_eq!(c.held_builds, [1], "asked for once");
    let built_after = c.status(1).applied_index;
    // More than a checkpoint's worth of log, and longer than a snapshot is kept for nobody.
    for i in 0..200 {
        token(&c.acquire(1, &format!("meanwhile-{i}"), 600_000));
    }
    c.run_ms(40_000);
    assert_eq!(c.held_builds, [1], "and not again");
    assert!(c.status(1).first_index <= built_after + 1, "the snapshot would be of no use");
    c.release_builds();
    c.run_ms(1_000);
    assert_eq!(c.status(3).snapshots_installed, 1);
    assert_eq!(c.hash(3), c.hash(1));
}

#[test]
fn a_snapshot_that_could_not_be_built_is_asked_for_again() {
    let mut c = node_3_is_behind();
    c.holds_builds = true;
    c.start(3);
    c.run_ms(500);
    c.holds_builds = false;
    c.held_builds.clear();
    c.peers.get_mut(&1).expect("a peer").inbox.push(Input::SnapshotBuilt(None));
    c.run_ms(1_000);
    assert_eq!(c.status(3).snapshots_installed, 1);
    assert_eq!(c.hash(3), c.hash(1));
}

fn answers_a_heartbeat(input: &Input, from: u64) -> bool {
    let Input::Peer(bytes) = input else { return false };
    let message = Message::decode(bytes.as_slice()).expect("a message");
    message.from == from && message.msg_type() == MessageType::MsgHeartbeatResponse
}

/// The leader took the snapshot for sent, and sent that member nothing more: the answer was that of
/// a snapshot on its way.
#[test]
fn a_snapshot_that_is_replaced_as_it_leaves_is_sent_anew() {
    let mut c = node_3_is_behind();
    c.holds_builds = true;
    c.start(3);
    c.run_ms(500);
    assert_eq!(c.held_builds, [1]);
    c.isolate(3);
    c.release_builds();
    for i in 0..200 {
        token(&c.acquire(1, &format!("meanwhile-{i}"), 600_000));
    }
    c.run_ms(11_000);
    c.cut.clear();
    for round in 0.. {
        assert!(round < 1_000, "node 3 answers no heartbeat");
        c.rounds(1);
        if c.peers[&1].inbox.iter().any(|input| answers_a_heartbeat(input, 3)) {
            break;
        }
    }
    // In one step: what node 3 lacks leaves as a snapshot, and a newer one takes its place.
    c.peers.get_mut(&1).expect("a peer").build_snapshot();
    c.round();
    assert_eq!(c.status(3).snapshots_installed, 0);
    c.run_ms(2_000);
    assert_eq!(c.status(3).snapshots_installed, 1);
    assert_eq!(c.hash(3), c.hash(1));
}

/// Asked for by one member while another's was being built, it was built twice.
#[test]
fn no_snapshot_is_built_while_there_is_one() {
    let mut c = node_3_is_behind();
    c.holds_builds = true;
    c.start(3);
    c.run_ms(500);
    assert_eq!(c.held_builds, [1]);
    for round in 0.. {
        assert!(round < 1_000, "node 3 answers no heartbeat");
        c.rounds(1);
        if c.peers[&1].inbox.iter().any(|input| answers_a_heartbeat(input, 3)) {
            break;
        }
    }
    c.held_builds.clear();
    c.peers.get_mut(&1).expect("a peer").build_snapshot();
    c.run_ms(1_000);
    assert!(c.held_builds.is_empty(), "and asked for again");
    assert_eq!(c.status(3).snapshots_installed, 1);
}

/// It may lack the member that it is for.
#[test]
fn a_snapshot_of_other_members_is_not_sent() {
    let mut c = node_3_is_behind();
    c.holds_builds = true;
    c.start(3);
    c.run_ms(500);
    let old = build_snapshot(SHARD, &*c.peers[&1].engine).expect("sound");
    // Node 3 loses its disk meanwhile: it comes back as another member.
    c.reseed(3);
    c.run_ms(1_000);
    c.peers.get_mut(&1).expect("a peer").inbox.push(Input::SnapshotBuilt(old));
    c.release_builds();
    c.run_ms(3_000);
    assert_eq!(c.hash(3), c.hash(1));
    assert!(
        c.status(1)
            .members
            .iter()
            .any(|member| member.node.0 == 3 && member.incarnation == 1 && !member.learner)
    );
}
