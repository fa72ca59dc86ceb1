//! A group that reaches a level: by an entry of its own log, on every replica, for good.

use crate::cluster::*;
use palisade_shard::*;
use routing::NodeId;
use storage::Engine as _;

/// The hosts of these replicas have heard of a level.
fn tell(c: &mut Cluster, level: u32, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        c.peers.get_mut(&id).expect("a peer").inbox.push(Input::Level(level));
    }
}

fn levels(c: &Cluster) -> Vec<u32> {
    let running = c.peers.iter().filter(|(_, peer)| peer.replica.is_some());
    running.map(|(id, _)| c.status(*id).level).collect()
}

/// The applied record on the disk of a replica.
fn record(c: &Cluster, id: u64) -> Vec<u8> {
    c.peers[&id].engine.recover(c.shard).expect("recovers").applied.expect("a checkpoint")
}

#[test]
fn a_group_reaches_a_level_at_one_entry_and_keeps_it_over_restarts() {
    let mut c = Cluster::new(3);
    let leader = c.elect();
    token(&c.acquire(leader, "before", 600_000));
    tell(&mut c, 2, (1..=3).filter(|id| *id != leader));
    c.run_ms(1_000);
    assert_eq!(levels(&c), [1, 1, 1], "only the leader proposes it");
    tell(&mut c, 2, [leader]);
    c.run_ms(200);
    assert_eq!(levels(&c), [2, 2, 2]);
    let index = c.status(leader).applied_index;
    tell(&mut c, 2, [leader]);
    tell(&mut c, 1, [leader]);
    c.run_ms(1_000);
    assert_eq!((levels(&c), c.status(leader).applied_index), (vec![2, 2, 2], index), "and once");
    // From the log, and then from a checkpoint.
    for checkpoints in [false, true] {
        if checkpoints {
            token(&c.acquire(c.leader().unwrap(), "after", 600_000));
            c.run_ms(11_000);
            c.peers.values().for_each(|peer| peer.engine.flush());
        }
        for id in 1..=3 {
            c.crash(id);
            c.start(id);
        }
        c.elect();
        c.run_ms(200);
        assert_eq!(levels(&c), [2, 2, 2]);
    }
    let leader = c.elect();
    assert_eq!(c.hash(leader), c.hash(leader % 3 + 1));
}

/// The build before must be able to go on from what a group of the first level has on disk.
#[test]
fn below_the_level_the_record_on_disk_has_no_trace_of_levels() {
    let mut c = Cluster::new(3);
    let leader = c.elect();
    token(&c.acquire(leader, "orders", 600_000));
    c.run_ms(11_000);
    let first = record(&c, leader);
    // A position is a message of Protocol Buffers, whose first field is 1.
    assert_eq!(first[0], 10, "{first:?}");
    tell(&mut c, 2, [leader]);
    token(&c.acquire(leader, "more", 600_000));
    c.run_ms(11_000);
    assert_eq!(record(&c, leader)[0], 5);
}

#[test]
fn a_replica_that_fell_behind_is_sent_the_level_with_the_snapshot() {
    let mut c = Cluster::new(3);
    c.log_keep_bytes = 0;
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    assert_eq!(c.elect(), 1);
    c.crash(3);
    tell(&mut c, 2, [1]);
    for i in 0..200 {
        token(&c.acquire(1, &format!("name-{i}"), 600_000));
    }
    c.run_ms(11_000);
    c.start(3);
    c.run_ms(1_000);
    assert_eq!((c.status(3).snapshots_installed, levels(&c)), (1, vec![2, 2, 2]));
    assert_eq!(c.status(3).conf_index, c.status(1).conf_index);
}

/// At the first level, a replica that was loaded takes the index of its checkpoint for that of the
/// last change of members. So after each restart of a cluster, the topology was told of members that
/// had not changed.
#[test]
fn from_level_2_on_a_restart_is_no_news_of_members() {
    for (level, is_news) in [(1, true), (2, false)] {
        let mut c = Cluster::new(3);
        let leader = c.elect();
        tell(&mut c, level, [leader]);
        token(&c.acquire(leader, "orders", 600_000));
        c.run_ms(200);
        let before = c.status(leader).conf_index;
        token(&c.acquire(leader, "more", 600_000));
        c.run_ms(11_000);
        c.peers[&leader].engine.flush();
        c.crash(leader);
        c.start(leader);
        c.elect();
        let after = c.status(leader).conf_index;
        assert_eq!(after > before, is_news, "level {level}: {before}, {after}");
        // A change of members is news on every level.
        let wanted = Wanted::new(3, [(NodeId(1), 0), (NodeId(2), 0)]).unwrap();
        for _ in 0..100 {
            for id in 1..=3 {
                c.peers.get_mut(&id).unwrap().inbox.push(Input::Want(wanted.clone()));
            }
            c.run_ms(200);
        }
        let leader = c.elect();
        assert_eq!(c.status(leader).members.len(), 2, "level {level}");
        assert!(c.status(leader).conf_index > after, "level {level}");
    }
}

#[test]
fn the_group_of_the_topology_reaches_a_level_too() {
    let mut c = Cluster::meta(3);
    let leader = c.elect();
    tell(&mut c, 2, [leader]);
    c.run_ms(500);
    assert_eq!(levels(&c), [2, 2, 2]);
    for id in 1..=3 {
        c.crash(id);
        c.start(id);
    }
    c.elect();
    assert_eq!(levels(&c), [2, 2, 2]);
}

#[test]
fn a_level_without_a_quorum_raises_nothing() {
    let mut c = Cluster::new(3);
    let first = c.elect();
    c.isolate(first);
    tell(&mut c, 2, [first]);
    c.run_ms(100);
    assert_eq!(levels(&c), [1, 1, 1]);
    c.run_ms(2_000);
    c.cut.clear();
    c.run_ms(2_000);
    let leader = c.elect();
    assert_ne!(leader, first);
    assert_eq!(levels(&c), [1, 1, 1], "the entry of the isolated leader is gone");
    tell(&mut c, 2, [leader]);
    c.run_ms(200);
    assert_eq!(levels(&c), [2, 2, 2]);
}
