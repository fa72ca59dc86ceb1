//! Replicas whose disk hangs, or is slow.

use crate::cluster::*;
use locks::RequestId;
use palisade_shard::*;
use routing::NodeId;

/// The disk of this node finishes no write, and its host has noticed.
fn hang(c: &mut Cluster, id: u64) {
    let peer = c.peers.get_mut(&id).expect("a peer");
    peer.disk_works = false;
    peer.inbox.push(Input::Disk { hangs: true, stretch: 1 });
}

fn works_again(c: &mut Cluster, id: u64) {
    let peer = c.peers.get_mut(&id).expect("a peer");
    peer.disk_works = true;
    peer.inbox.push(Input::Disk { hangs: false, stretch: 1 });
}

#[test]
fn a_leader_whose_disk_hangs_hands_leadership_on_without_it() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    let held = token(&c.acquire(1, "held", 30_000));
    c.peers.get_mut(&1).unwrap().disk_works = false;
    let request_id = c.request_id();
    let in_flight = c.submit(1, &acquire(request_id, "in flight", 30_000, false), None);
    c.settle();
    assert_eq!(c.reply(1, in_flight), None, "it is on two disks, and not on the leader's");
    hang(&mut c, 1);
    c.settle();
    let leader = c.leader().expect("one of the others, at once");
    assert_ne!(leader, 1);
    assert_eq!(c.reply(1, in_flight), Some(Reply::Unknown), "it may have been done");
    let again = c.submit(leader, &acquire(request_id, "in flight", 30_000, false), None);
    c.settle();
    let first = token(&c.reply(leader, again).expect("an answer"));
    assert!(first > held);
    assert!(token(&c.acquire(leader, "new", 30_000)) > first, "names are served");
    works_again(&mut c, 1);
    c.run_ms(500);
    assert_eq!(c.hash(1), c.hash(leader));
}

#[test]
fn a_leader_whose_disk_hangs_steps_down_if_no_other_takes_over() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    [2, 3, 1].iter().for_each(|id| hang(&mut c, *id));
    // Eight ticks: the election timeout, and one for those who are asked first.
    c.run_ms(9 * 50);
    assert_eq!(c.leader(), None);
    let refused = c.submit(1, &acquire(RequestId(99), "a", 30_000, false), None);
    c.settle();
    assert_eq!(c.reply(1, refused), Some(Reply::NoLeader));
    c.run_ms(3_000);
    assert_eq!(c.leader(), None, "nobody campaigns without a disk");
    [1, 2, 3].iter().for_each(|id| works_again(&mut c, *id));
    let leader = c.elect();
    token(&c.acquire(leader, "a", 30_000));
}

#[test]
fn a_leader_whose_disk_hangs_refuses_at_once_and_says_that_nothing_was_done() {
    let mut c = Cluster::new(1);
    assert_eq!(c.elect(), 1);
    c.peers.get_mut(&1).unwrap().disk_works = false;
    let first = c.request_id();
    let in_flight = c.submit(1, &acquire(first, "a", 30_000, false), None);
    c.settle();
    let second = c.request_id();
    let queued = c.submit(1, &acquire(second, "b", 30_000, false), None);
    c.settle();
    hang(&mut c, 1);
    let third = c.request_id();
    let late = c.submit(1, &acquire(third, "c", 30_000, false), None);
    let read = c.read(1, "a", true);
    c.run_ms(2_000);
    assert_eq!(c.reply(1, queued), Some(Reply::NoLeader));
    assert_eq!(c.reply(1, late), Some(Reply::NoLeader));
    assert_eq!(c.reply(1, read), Some(Reply::NoLeader));
    assert_eq!(c.leader(), Some(1), "nobody else could lead");
    assert_eq!(c.reply(1, in_flight), None, "it is in the log");
    works_again(&mut c, 1);
    c.settle();
    token(&c.reply(1, in_flight).expect("an answer"));
}

#[test]
fn a_follower_whose_disk_hangs_has_no_part_in_elections() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    hang(&mut c, 3);
    c.settle();
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Transfer { to: NodeId(3) });
    c.run_ms(200);
    assert_ne!(c.leader(), Some(3), "leadership is not taken");
    c.crash(1);
    c.run_ms(5_000);
    assert_eq!(c.leader(), None, "no vote is given that cannot be written");
    assert_eq!(c.status(3).role, Role::Follower, "nor asked for");
    works_again(&mut c, 3);
    c.elect();
}

#[test]
fn an_idle_follower_whose_disk_hangs_does_not_count_as_caught_up() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    c.run_ms(500);
    hang(&mut c, 3);
    c.run_ms(1_000);
    for _ in 0..40 {
        c.run_ms(50);
        assert!(!c.status(1).caught_up.contains(&NodeId(3)), "leadership would be offered to it");
    }
    assert_eq!(c.leader(), Some(1));
}

/// Ticks until a node campaigns after its leader is gone.
fn ticks_to_campaign(stretch: u32) -> u32 {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    c.crash(3);
    c.peers.get_mut(&2).unwrap().inbox.push(Input::Disk { hangs: false, stretch });
    c.settle();
    c.crash(1);
    let term = c.status(2).term;
    for tick in 1..1_000 {
        c.run_ms(50);
        if c.status(2).role == Role::Candidate || c.status(2).term > term {
            return tick;
        }
    }
    panic!("it never campaigns");
}

#[test]
fn elections_take_longer_where_syncs_do() {
    let usual = ticks_to_campaign(1);
    assert!((8..=16).contains(&usual), "{usual}");
    let stretched = ticks_to_campaign(4);
    assert!(
        (4 * (usual - 1)..=4 * (usual + 1)).contains(&stretched),
        "{stretched} ticks with four times {usual}"
    );
}

#[test]
fn a_leader_on_a_slow_disk_is_patient_with_its_followers_and_keeps_its_heartbeats() {
    let mut c = Cluster::new(3);
    assert_eq!(c.elect(), 1);
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Disk { hangs: false, stretch: 4 });
    c.settle();
    // They hear their leader, and their answers do not reach it.
    c.cut = vec![(2, 1), (3, 1)];
    c.run_ms(20 * 50);
    assert_eq!(c.leader(), Some(1), "two and a half election timeouts");
    assert_eq!((c.status(2).role, c.status(3).role), (Role::Follower, Role::Follower));
    c.run_ms(64 * 50);
    assert_ne!(c.status(1).role, Role::Leader, "no majority has answered for long");
}
