//! The end of a replica on a node that goes on without its shard.

use crate::cluster::*;
use palisade_shard::*;

/// Each operation under way gets one reply, and none that may yet be done is told as not done.
#[test]
fn a_retired_replica_answers_all_that_is_under_way() {
    let mut c = Cluster::new(3);
    let leader = c.elect();
    c.acquire(leader, "held", 60_000);
    let request_id = c.request_id();
    let wait = Some(Wait { request_id, wait_ms: 60_000 });
    let waiter = c.submit(leader, &acquire(request_id, "held", 60_000, true), wait);
    c.settle();

    // From here on nothing is committed, so proposals fill the room for entries and then the queue.
    c.isolate(leader);
    let mut proposals = Vec::new();
    for n in 0..10 {
        let request_id = c.request_id();
        let name = format!("n{n}");
        proposals.push(c.submit(leader, &acquire(request_id, &name, 60_000, false), None));
        c.round();
    }
    let read = c.read(leader, "held", true);
    c.round();
    assert!(c.peers[&leader].replies.is_empty(), "{:?}", c.peers[&leader].replies);

    let replica = c.peers.get_mut(&leader).expect("a peer").replica.take().expect("it runs");
    let replies = replica.retire();
    let told = |ticket: Ticket| {
        let mut replies = replies.iter().filter(|(other, _)| *other == ticket);
        let (_, reply) = replies.next().expect("a reply");
        assert_eq!(replies.next(), None, "a second reply");
        reply.clone()
    };
    assert_eq!(told(waiter), Reply::Unknown, "it may be granted by the next leader");
    assert_eq!(told(proposals[0]), Reply::Unknown, "it is on its way");
    assert_eq!(told(proposals[9]), Reply::NoLeader, "it was queued");
    proposals.iter().for_each(|ticket| {
        assert!(matches!(told(*ticket), Reply::Unknown | Reply::NoLeader));
    });
    assert_eq!(told(read), Reply::NoLeader);
    assert_eq!(replies.len(), proposals.len() + 2);
}
