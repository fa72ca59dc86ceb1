//! The answers to probes, at `/livez` and `/readyz` and by `grpc.health.v1`: whether this node
//! takes part in serving its shards.
//!
//! A node that answers "not ready" may be well itself: its shards may lack a quorum, for example.
//! So the answer is for readiness and for alarms. It is no reason to restart the process.

use crate::board::{Board, is_on_its_way, is_reseeding};
use crate::context::Context;
use crate::limits::{BEHIND_ENTRIES_MAX, DISK_FREE_BYTES_MIN, HEALTH_EVERY, THREAD_STUCK_AFTER};
use crate::peer_identities::Standing;
use routing::{META, NodeId, ShardId};
use shard::Status;
use std::sync::Arc;
use std::time::Instant;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wire::json::{Liveness, Missing, Readiness};

/// The services that the health service knows beside the whole server, which has no name.
const SERVICES: [&str; 2] = ["", "palisade.internal.v1.ShardService"];

fn awaited(standing: Standing) -> &'static str {
    match standing {
        Standing::New => {
            "its data directory is new, and not all peers have confirmed that they know of no other"
        }
        Standing::Copied => {
            "its data directory is a copy, and too few peers have confirmed that it is not an older one"
        }
        Standing::Usual => "it has just started, and gives its peers a moment to greet it",
    }
}

/// Whether this node lives.
pub(crate) fn liveness(context: &Context) -> Liveness {
    let failure = context.lifecycle.failure().map(|failure| failure.to_string());
    Liveness::new(failure.or_else(|| {
        let stuck = context.moves.stuck(&context.host.rounds(), Instant::now());
        (!stuck.is_empty()).then(|| {
            let s = THREAD_STUCK_AFTER.as_secs();
            format!("shard threads {stuck:?} have not moved for {s} s: start the node again")
        })
    }))
}

/// Whether this node is ready, with all that is missing.
pub(crate) fn readiness(context: &Context) -> Readiness {
    let mut missing = Vec::new();
    if let Some(failure) = context.lifecycle.failure() {
        missing.push(Missing::new("FAILED", format!("the node has failed: {failure}")));
    }
    if context.lifecycle.leaving() {
        missing.push(Missing::new("DRAINING", "the node is shutting down"));
    }
    // The peers that the node awaits do not decide this, because it may take part without them.
    if !context.identities.takes_part() {
        let why = awaited(context.identities.standing());
        missing.push(Missing::new("STANDS_BY", format!("the node takes no part yet: {why}")));
    }
    missing.extend(missing_disk(context));
    let incarnation = context.identities.own().incarnation;
    missing.extend(missing_replicas(&context.board, context.id, incarnation));
    Readiness::new(missing)
}

fn missing_disk(context: &Context) -> Option<Missing> {
    let disk = context.disk.state();
    if disk.hangs {
        let s = disk.write_age_ms as f64 / 1_000.0;
        let message = format!(
            "the disk hangs: a write is under way for {s:.1} s, and this node neither leads nor votes"
        );
        return Some(Missing::new("DISK_HANGS", message));
    }
    let sizes = context.disk.sizes()?;
    if sizes.read_only {
        let message = "the disk is read-only now: see why (dmesg), and start the node again";
        return Some(Missing::new("DISK_READ_ONLY", message));
    }
    // A size of 0 means that the system does not tell.
    if sizes.disk_bytes > 0 && sizes.free_bytes < DISK_FREE_BYTES_MIN {
        let (mib, min_mib) = (sizes.free_bytes >> 20, DISK_FREE_BYTES_MIN >> 20);
        let message = format!(
            "the disk has {mib} MiB left, and less than {min_mib} MiB is too little: free some room"
        );
        return Some(Missing::new("DISK_FULL", message));
    }
    None
}

/// The conditions that the replicas of this node lack, the worst first. A replica that lacks
/// several conditions is listed with each of them. `incarnation` is that of the data directory.
fn missing_replicas(board: &Board, me: NodeId, incarnation: u32) -> Vec<Missing> {
    let arriving = board.arriving();
    // Locks are served without the topology's shard. A replica that comes to this node or leaves it
    // takes nothing from what the node serves.
    let counts = |status: &Status| status.shard != META && !is_on_its_way(status, me, incarnation);
    let counted = |is_like_that: &dyn Fn(&Status) -> bool| {
        board.shards_where(|status| counts(status) && is_like_that(status))
    };
    let leaderless = counted(&|status| status.leader.is_none());
    let reseeding = counted(&|status| is_reseeding(status, me, incarnation));
    let behind = counted(&|status| {
        let entries = status.behind_entries();
        entries > BEHIND_ENTRIES_MAX || entries > 0 && arriving.contains(&status.shard)
    });
    [
        ("LEADER", "has no leader with a quorum that this node knows of", leaderless),
        ("RESEEDING", "is being re-seeded here, and has no vote yet", reseeding),
        ("BEHIND", "is behind here, and gets the log or a snapshot from its leader", behind),
    ]
    .into_iter()
    .filter(|(_, _, shards)| !shards.is_empty())
    .map(|(code, what, shards)| {
        let message = match shards.as_slice() {
            [shard] => format!("shard {} {what}", ShardId(*shard)),
            [first, ..] => {
                format!("each of {} shards {what}, shard {first} among them", shards.len())
            }
            [] => String::new(),
        };
        Missing { shards, ..Missing::new(code, message) }
    })
    .collect()
}

/// Keeps the answers of the health service up to date, and logs each change. Never returns.
pub(crate) async fn report(context: Arc<Context>, reporter: HealthReporter) {
    let mut told = None;
    loop {
        context.moves.stuck(&context.host.rounds(), Instant::now());
        let Readiness { ready: now, missing } = readiness(&context);
        if told != Some(now) {
            // The codes only: each cause has a line of its own already.
            let why: Vec<&str> = missing.into_iter().map(|one| one.code).collect();
            match now {
                true => tracing::info!(node = %context.id, "ready"),
                // At the start no replica knows a leader yet.
                false if told.is_none() => {}
                false if context.lifecycle.leaving() => {
                    tracing::info!(node = %context.id, "not ready any more: shutting down");
                }
                false => tracing::warn!(node = %context.id, missing = why.join(", "), "not ready"),
            }
            let status = if now { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in SERVICES {
                reporter.set_service_status(service, status).await;
            }
            told = Some(now);
        }
        tokio::time::sleep(HEALTH_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard::{Member, Wanted};
    use storage::Sizes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const ME: NodeId = NodeId(1);
    /// The incarnation of this node's directory.
    const OWN: u32 = 2;

    fn missing(board: &Board) -> Vec<(&'static str, Vec<u32>)> {
        codes(&missing_replicas(board, ME, OWN))
    }

    fn codes(missing: &[Missing]) -> Vec<(&'static str, Vec<u32>)> {
        missing.iter().map(|one| (one.code, one.shards.clone())).collect()
    }

    fn well(shard: u32) -> Status {
        let member = Member { node: ME, incarnation: OWN, learner: false };
        Status {
            shard: ShardId(shard),
            node: ME,
            leader: Some(NodeId(2)),
            incarnation: OWN,
            members: vec![member],
            ..Status::default()
        }
    }

    #[test]
    fn a_replica_must_have_a_leader_a_vote_and_the_log() {
        let board = Board::new([ShardId(0), ShardId(1)]);
        assert_eq!(missing(&board), [("LEADER", vec![0, 1])]);
        board.publish(well(0));
        board.publish(well(1));
        assert_eq!(missing(&board), []);
        let learner = Member { node: ME, incarnation: OWN, learner: true };
        let former = Member { node: ME, incarnation: 1, learner: false };
        board.publish(Status { members: vec![former, learner], ..well(1) });
        assert_eq!(missing(&board), [("RESEEDING", vec![1])]);
        let told_committed_index = BEHIND_ENTRIES_MAX + 1;
        board.publish(Status { told_committed_index, ..well(1) });
        assert_eq!(missing(&board), [("BEHIND", vec![1])]);
        board.publish(Status { told_committed_index, applied_index: 1, ..well(1) });
        assert_eq!(missing(&board), []);
        let arriving = (board.arrives(ShardId(0)), board.arrives(ShardId(0)));
        drop(arriving.0);
        assert_eq!(missing(&board), [], "it lacks nothing");
        board.publish(Status { told_committed_index: 1, ..well(0) });
        assert_eq!(missing(&board), [("BEHIND", vec![0])]);
        drop(arriving.1);
        assert_eq!(missing(&board), []);
    }

    /// A replica that came to a running node as a learner made that node "being re-seeded", and not
    /// ready. So did one that had left its group.
    #[test]
    fn a_replica_that_comes_or_leaves_makes_no_node_unready() {
        let board = Board::new([ShardId(0), ShardId(1)]);
        board.publish(well(0));
        let [founder, other] =
            [2, 3].map(|node| Member { node: NodeId(node), incarnation: 0, learner: false });
        let learner = Member { node: ME, incarnation: 900, learner: true };
        let comes = Status {
            incarnation: 900,
            leader: None,
            told_committed_index: 1 + BEHIND_ENTRIES_MAX,
            members: vec![founder, other],
            ..well(1)
        };
        board.publish(comes.clone());
        assert_eq!(missing(&board), [], "its group has not taken it in");
        board.publish(Status { members: vec![founder, other, learner], ..comes.clone() });
        assert_eq!(missing(&board), [], "it has no vote yet");
        let voter = Member { learner: false, ..learner };
        board.publish(Status { members: vec![founder, other, voter], ..comes.clone() });
        assert_eq!(missing(&board), [("LEADER", vec![1]), ("BEHIND", vec![1])]);
        // A re-seeded replica that is wanted elsewhere will never get its vote back.
        let members = vec![founder, other];
        let reseeded = Status { members, leader: Some(NodeId(2)), ..well(1) };
        board.publish(reseeded.clone());
        assert_eq!(missing(&board), [("RESEEDING", vec![1])]);
        let wanted = Wanted::new(5, [(NodeId(2), 0), (NodeId(3), 0)]).unwrap();
        board.publish(Status { wanted: Some(wanted), ..reseeded });
        assert_eq!(missing(&board), [], "it is to leave");
    }

    /// Locks are served without META, and so are they while it is re-seeded.
    #[test]
    fn no_replica_of_the_topology_makes_a_node_unready() {
        let board = Board::new([ShardId(0), META]);
        board.publish(well(0));
        assert_eq!(codes(&missing_replicas(&board, ME, OWN)), [], "it knows no leader");
        let learner = Member { node: ME, incarnation: 2, learner: true };
        let told_committed_index = BEHIND_ENTRIES_MAX + 1;
        board.publish(Status { members: vec![learner], told_committed_index, ..well(META.0) });
        assert_eq!(codes(&missing_replicas(&board, ME, OWN)), [], "it is re-seeded, and behind");
    }

    /// Asks the page of a node for this path.
    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let asked = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_node_that_leaves_lives_and_one_that_failed_does_not() {
        let (context, _inbox) = crate::testing::context(NodeId(1), 10);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(crate::server::serve_metrics(listener, context.clone()));
        assert!(!get(address, "/readyz").await.contains("DRAINING"));
        context.lifecycle.enter(crate::lifecycle::Phase::Leaving);
        let ready = get(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("DRAINING"), "{ready}");
        assert!(ready.contains("STANDS_BY") && ready.contains("LEADER"), "all of it: {ready}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(liveness(&context).live);
        context.lifecycle.fail("a write failed");
        assert!(!liveness(&context).live);
        served.await.expect("it ends with the node");
    }

    #[tokio::test]
    async fn a_disk_must_take_writes() {
        let (context, _inbox) = crate::testing::context(NodeId(1), 10);
        let code = |sizes: Sizes| {
            context.disk.take_sizes(sizes);
            missing_disk(&context).map(|missing| missing.code)
        };
        let fine =
            Sizes { free_bytes: DISK_FREE_BYTES_MIN, disk_bytes: 1 << 40, ..Sizes::default() };
        assert_eq!(code(Sizes::default()), None, "the system does not tell");
        assert_eq!(code(fine), None);
        assert_eq!(code(Sizes { free_bytes: 0, ..fine }), Some("DISK_FULL"));
        assert_eq!(code(Sizes { read_only: true, ..fine }), Some("DISK_READ_ONLY"));
    }
}
