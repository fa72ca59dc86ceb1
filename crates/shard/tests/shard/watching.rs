//! Events of replicas: the same on all of them, none before it is committed, and none missing
//! without notice.

use crate::cluster::*;
use locks::{Command, Event, EventKind, LeaseId, PictureOf, Token};
use palisade_shard::*;
use std::collections::BTreeMap;

/// The events that a replica told, by index. No entry may be told twice.
fn told(cluster: &Cluster, id: u64) -> BTreeMap<u64, Vec<Event>> {
    let mut told = BTreeMap::new();
    for entry in cluster.peers[&id].watched.iter().flat_map(|watched| &watched.entries) {
        assert_eq!(told.insert(entry.index, entry.events.clone()), None, "told twice");
    }
    told
}

fn kinds(cluster: &Cluster, id: u64) -> Vec<EventKind> {
    told(cluster, id).values().flatten().map(Event::kind).collect()
}

fn watch(cluster: &mut Cluster, id: u64) {
    cluster.peers.get_mut(&id).expect("a peer").inbox.push(Input::Watch { on: true });
}

fn watched_cluster() -> (Cluster, u64) {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    (1..=3).for_each(|id| watch(&mut cluster, id));
    cluster.run_ms(50);
    (cluster, leader)
}

fn release(cluster: &mut Cluster, id: u64, name: &str, token: u64) -> Ticket {
    let by = Some(LeaseId::NONE);
    cluster.submit(id, &Command::Release { name, token: Token(token), by }, None)
}

/// A grant, a wait, a release that hands over, and an expiry.
fn some_work(cluster: &mut Cluster, leader: u64, name: &str) {
    let held = token(&cluster.acquire(leader, name, 60_000));
    let request_id = cluster.request_id();
    let wait = Some(Wait { request_id, wait_ms: 5_000 });
    cluster.submit(leader, &acquire(request_id, name, 60_000, true), wait);
    cluster.settle();
    release(cluster, leader, name, held);
    cluster.acquire(leader, "brief", 100);
    cluster.run_ms(500);
}

const SOME_WORK: [EventKind; 6] = [
    EventKind::Granted,
    EventKind::Queued,
    EventKind::Released,
    EventKind::Granted,
    EventKind::Granted,
    EventKind::Expired,
];

#[test]
fn all_replicas_tell_the_same_events() {
    let (mut cluster, leader) = watched_cluster();
    some_work(&mut cluster, leader, "a");
    cluster.run_ms(500);
    assert_eq!(kinds(&cluster, leader), SOME_WORK);
    for id in 1..=3 {
        assert_eq!(told(&cluster, id), told(&cluster, leader), "replica {id}");
        let last = cluster.peers[&id].watched.last().expect("it was told to watch");
        assert_eq!(last.applied_index, cluster.status(id).applied_index);
    }
}

#[test]
fn a_replica_that_is_not_watched_tells_nothing() {
    let (mut cluster, leader) = watched_cluster();
    let other = leader % 3 + 1;
    cluster.peers.get_mut(&other).expect("a peer").inbox.push(Input::Watch { on: false });
    cluster.settle();
    let before = cluster.peers[&other].watched.len();
    some_work(&mut cluster, leader, "a");
    assert_eq!(cluster.peers[&other].watched.len(), before);
    watch(&mut cluster, other);
    cluster.run_ms(50);
    let again = &cluster.peers[&other].watched[before];
    assert_eq!(again.begins_after, Some(cluster.status(other).applied_index));
}

#[test]
fn nothing_is_told_before_it_is_committed() {
    let (mut cluster, leader) = watched_cluster();
    cluster.isolate(leader);
    let request_id = cluster.request_id();
    cluster.submit(leader, &acquire(request_id, "a", 5_000, false), None);
    cluster.settle();
    let log = cluster.status(leader);
    assert!(log.last_index > log.committed_index, "it is in the leader's log");
    (1..=3).for_each(|id| assert_eq!(kinds(&cluster, id), [], "replica {id}"));
}

/// What the followers told before their leader died, and what they tell under the next one, is one
/// sequence. The leader that comes back tells the same entries as before.
#[test]
fn events_go_on_over_the_death_of_a_leader() {
    let (mut cluster, first) = watched_cluster();
    some_work(&mut cluster, first, "a");
    cluster.run_ms(500);
    let before = told(&cluster, first);
    cluster.crash(first);
    let second = cluster.elect();
    assert_ne!(first, second);
    some_work(&mut cluster, second, "b");
    cluster.start(first);
    watch(&mut cluster, first);
    cluster.run_ms(1_000);
    let others: Vec<u64> = (1..=3).filter(|id| *id != first).collect();
    let all = told(&cluster, others[0]);
    assert_eq!(all, told(&cluster, others[1]));
    assert_eq!(kinds(&cluster, others[0]), [SOME_WORK, SOME_WORK].concat());
    assert!(before.iter().all(|(index, events)| all.get(index) == Some(events)));

    let again = told(&cluster, first);
    let begins_after = cluster.peers[&first].watched[0].begins_after.expect("it begins anew");
    assert!(again.iter().all(|(index, events)| all.get(index) == Some(events)));
    let missing = all.keys().filter(|index| !again.contains_key(index));
    assert!(missing.into_iter().all(|index| *index <= begins_after), "a gap");
    assert!(again.keys().next_back() == all.keys().next_back());
}

#[test]
fn a_snapshot_is_told_as_a_gap() {
    let mut cluster = Cluster::new(3);
    cluster.log_keep_bytes = 0;
    (1..=3).for_each(|id| {
        cluster.crash(id);
        cluster.start(id);
    });
    let leader = cluster.elect();
    let behind = leader % 3 + 1;
    watch(&mut cluster, behind);
    cluster.run_ms(50);
    cluster.isolate(behind);
    let mut names = 0..;
    while cluster.status(leader).first_index <= cluster.status(behind).last_index + 1 {
        for name in names.by_ref().take(50) {
            cluster.acquire(leader, &format!("n{name:0100}"), 60_000);
        }
        cluster.run_ms(50);
    }
    cluster.cut.clear();
    cluster.run_ms(2_000);
    let status = cluster.status(behind);
    assert_eq!(status.snapshots_installed, 1);
    let watched = &cluster.peers[&behind].watched;
    let gaps: Vec<u64> = watched.iter().filter_map(|watched| watched.begins_after).collect();
    assert_eq!(gaps.len(), 2, "the beginning, and the snapshot");
    assert!(told(&cluster, behind).keys().all(|index| *index > gaps[1]), "events before it");
    assert_eq!(watched.last().map(|last| last.applied_index), Some(status.applied_index));
}

#[test]
fn a_picture_is_told_after_the_events_before_it() {
    let (mut cluster, leader) = watched_cluster();
    let follower = leader % 3 + 1;
    cluster.acquire(leader, "a", 60_000);
    let ticket = cluster.ticket();
    let query = Query::Picture { of: PictureOf::default(), after: None, limit: 10 };
    let peer = cluster.peers.get_mut(&follower).expect("a peer");
    peer.inbox.push(Input::Read { ticket, query, linearizable: true });
    cluster.settle();
    let Some(Reply::Read { answer: Answer::Picture(page), applied_index, .. }) =
        cluster.reply(follower, ticket)
    else {
        panic!("no picture");
    };
    assert_eq!((page.held.len(), page.next), (1, None));
    let told_to = cluster.peers[&follower].watched.last().map(|last| last.applied_index);
    assert_eq!(told_to, Some(applied_index));
    assert_eq!(kinds(&cluster, follower), [EventKind::Granted]);
}
