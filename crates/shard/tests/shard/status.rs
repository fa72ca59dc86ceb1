//! What a replica tells of itself.

use crate::cluster::*;
use locks::{Command, Token};
use palisade_shard::Input;
use routing::NodeId;

#[test]
fn a_status_tells_the_oldest_grant_and_what_a_replica_lacks() {
    let mut c = Cluster::new(3);
    c.elect();
    assert_eq!(c.status(1).oldest_grant_ms, None);
    let old = token(&c.acquire(1, "old", 600_000));
    let made_ms = c.now().wall_ms;
    c.run_ms(5_000);
    c.acquire(1, "new", 600_000);
    c.run_ms(2_000);
    let oldest_ms = c.status(1).oldest_grant_ms.expect("one is held");
    assert!(oldest_ms <= made_ms && made_ms - oldest_ms < 1_000, "{oldest_ms} and {made_ms}");
    let release = Command::Release { name: "old", token: Token(old), by: None };
    let ticket = c.submit(1, &release, None);
    c.run_ms(2_000);
    assert!(c.reply(1, ticket).is_some());
    let next_ms = c.status(1).oldest_grant_ms.expect("one is held");
    assert!(next_ms >= made_ms + 4_000, "the old one is gone: {next_ms}");
    assert_eq!(c.status(2).oldest_grant_ms, None, "a follower does not look");
    let lacks = |c: &Cluster, id: u64| {
        let status = c.status(id);
        status.told_committed_index - status.applied_index
    };
    assert_eq!([1, 2, 3].map(|id| lacks(&c, id)), [0, 0, 0]);
    c.isolate(3);
    for nth in 0..20 {
        c.acquire(1, &format!("n{nth}"), 600_000);
    }
    assert_eq!(lacks(&c, 3), 0, "it was told nothing");
    // The next leader does not know yet which entries replica 3 has. So its first append tells of
    // the commit index, and brings nothing that fits.
    c.peers.get_mut(&1).unwrap().inbox.push(Input::Transfer { to: NodeId(2) });
    c.run_ms(1_000);
    assert_eq!(c.leader(), Some(2));
    c.cut.clear();
    let (mut most, mut beyond_its_log) = (0, false);
    for _ in 0..400 {
        c.rounds(1);
        let status = c.status(3);
        most = most.max(lacks(&c, 3));
        beyond_its_log |= status.told_committed_index > status.last_index;
    }
    c.run_ms(2_000);
    assert!(beyond_its_log && most >= 20, "it lacked {most}, beyond its log: {beyond_its_log}");
    assert_eq!(lacks(&c, 3), 0, "it caught up");
}
