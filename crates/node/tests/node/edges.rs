//! Regressions at the edges of a node: gateways of other clusters, waits without end, late frames,
//! nodes that move.

use crate::cluster::*;
use routing::{AccessConfig, NodeId, Settings};
use std::time::Duration;
use tonic::Code;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::shard_service_client::ShardServiceClient;
use wire::internal::v1::{
    CancelWait, ClusterIdentity, ClusterRequest, ClusterResponse, OperateRequest, Operation, Quota,
};
use wire::v1::{self, ErrorCode};

async fn soon<T>(what: &str, of: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, of).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn asked(cluster: &Cluster, id: NodeId) -> ClusterResponse {
    let address = cluster.nodes[&id].address();
    let mut client = ShardServiceClient::connect(format!("http://{address}")).await.unwrap();
    client.cluster(ClusterRequest {}).await.unwrap().into_inner()
}

fn renew(name: &str, fencing_token: u64) -> Op {
    Op::Renew(v1::RenewRequest { name: name.into(), fencing_token })
}

/// A gateway of a staging cluster took a lock in production.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_other_clusters_are_refused() {
    let cluster = Cluster::start(3, 1, Settings::default()).await;
    let ours = cluster.identity(1);
    let address = cluster.nodes[&NodeId(1)].address().to_string();
    let other = |change: fn(&mut ClusterIdentity)| {
        let mut identity = ClusterIdentity { fingerprint: vec![1; 16], ..ours.clone() };
        change(&mut identity);
        identity
    };
    for (identity, words) in [
        (None, "does not say of which cluster"),
        (Some(other(|identity| identity.cluster = "staging".into())), "\"staging\""),
        (Some(other(|identity| identity.shards = 4)), "4 shards"),
        (Some(other(|_| {})), "the same cluster file"),
        (Some(ClusterIdentity { node: 2, ..ours.clone() }), "this is node 1, not node 2"),
        // Regression: a node of before took each numbered caller of a gateway for nobody.
        (Some(ClusterIdentity { protocol: 0, ..ours.clone() }), "run the same version"),
    ] {
        let refused = Caller::connect_as(&address, identity.as_ref()).await.err().expect("refused");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(words), "{refused}");
    }
    for node in [0, 1] {
        Caller::connect_as(&address, Some(&cluster.identity(node))).await.expect("of this cluster");
    }
    let answer = asked(&cluster, NodeId(1)).await;
    assert_eq!(answer.identity, Some(ours));
    cluster.stop_all().await;
}

/// Enough waits filled a stream and kept every renewal and cancel out of it.
#[tokio::test(flavor = "multi_thread")]
async fn waits_take_no_place_of_what_is_short() {
    // So many waits take their time on a slow machine, and leadership is not the subject of this
    // test.
    let cluster =
        Cluster::start(3, 1, Settings { election_ticks: 400, ..Settings::default() }).await;
    let held = granted(cluster.ask_leader(acquire("a", 1)).await);
    granted(cluster.ask_leader(acquire("b", 1)).await);
    let mut caller = cluster.caller(cluster.leader_of("a").await).await;
    let id = |n: u32| [[7; 12].as_slice(), &n.to_be_bytes()].concat();
    let waits = |n: u32| match acquire_waiting(["a", "b"][n as usize % 2], 0) {
        Op::Acquire(acquire) => Op::Acquire(v1::AcquireRequest { request_id: id(n), ..acquire }),
        other => other,
    };
    for first in (0..17_000).step_by(1_000) {
        caller
            .send(
                cluster.route("a"),
                (first..first + 1_000).map(waits).filter(|op| op.name() == Some("a")),
            )
            .await;
        caller
            .send(
                cluster.route("b"),
                (first..first + 1_000).map(waits).filter(|op| op.name() == Some("b")),
            )
            .await;
    }
    let renewed =
        caller.ask(cluster.route("a"), renew("a", held.fencing_token)).await.expect("an answer");
    assert!(matches!(renewed, OpResult::Renew(_)), "{renewed:?}");
    let cancel = Op::CancelWait(CancelWait {
        name: "a".into(),
        request_id: id(16_998),
        ..Default::default()
    });
    let cancelled = caller.ask(cluster.route("a"), cancel).await.expect("an answer");
    assert!(
        matches!(cancelled, OpResult::CancelWait(v1::CancelWaitResponse { cancelled: true, .. })),
        "{cancelled:?}"
    );
    let refused = caller
        .early
        .values()
        .filter(|result| matches!(result, OpResult::Error(e) if e.code() == ErrorCode::Busy));
    assert_eq!(refused.count(), 0, "no wait is refused either");
    cluster.stop_all().await;
}

/// An operation that lay in a socket for longer than its sender waited was proposed when it was
/// read.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_up_longer_than_its_sender_waits_is_not_proposed() {
    let cluster = Cluster::start(3, 1, Settings::default()).await;
    let held = granted(cluster.ask_leader(acquire("a", 1)).await);
    let mut caller = cluster.caller(cluster.leader_of("a").await).await;
    let frame = |id, sent_ms, op| {
        let operation = Operation { id, ..Operation::routed(op, cluster.route("a")) };
        OperateRequest { operations: vec![operation], sent_ms }
    };
    caller.frames.send(frame(900, 60_000, renew("a", held.fencing_token))).await.unwrap();
    assert!(matches!(caller.result(900).await, Some(OpResult::Renew(_))));
    caller.frames.send(frame(901, 1, release("a", held.fencing_token))).await.unwrap();
    assert_eq!(code(caller.result(901).await.unwrap()), ErrorCode::Busy);
    caller.frames.send(frame(902, 70_000, renew("a", held.fencing_token))).await.unwrap();
    assert!(matches!(caller.result(902).await, Some(OpResult::Renew(_))), "it still holds");
    cluster.stop_all().await;
}

/// A node without a quorum answered "ok" to its probes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_quorum_knows_no_leader() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    granted(cluster.ask_leader(acquire("a", 1)).await);
    let led = |answer: &ClusterResponse| answer.shards.iter().all(|hosted| hosted.leader != 0);
    soon("leaders are known", async {
        while !led(&asked(&cluster, NodeId(3)).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    cluster.crash(NodeId(1)).await;
    cluster.crash(NodeId(2)).await;
    soon("none is known", async {
        loop {
            let answer = asked(&cluster, NodeId(3)).await;
            if answer.shards.iter().all(|hosted| hosted.leader == 0 && !hosted.leads) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    cluster.stop_all().await;
}

/// The peers of a moved node dialled the addresses in their files, for ever, and no node could tell
/// where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moved_is_found_by_its_peers_and_named_by_them() {
    let mut cluster = Cluster::start(3, 1, Settings::default()).await;
    granted(cluster.ask_leader(acquire("a", 1)).await);
    cluster.stop(NodeId(3)).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let moved_to = listener.local_addr().unwrap().to_string();
    // The node's own file has the new address; the files of the other nodes are unchanged.
    cluster.config.nodes[2].address.clone_from(&moved_to);
    cluster.start_node(NodeId(3), Some(listener)).await;
    for id in [1, 2] {
        soon("its peers know", async {
            while !asked(&cluster, NodeId(id))
                .await
                .nodes
                .iter()
                .any(|node| node.node == 3 && node.address == moved_to)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    // Together with the moved node, the last of the other nodes has a quorum. That takes
    // connections both ways between them.
    cluster.crash(NodeId(1)).await;
    granted(cluster.ask_leader(acquire("b", 1)).await);
    cluster.stop_all().await;
}

/// A gateway with the cluster file of before could have let its clients touch the locks of all
/// identities, because an operation without a principal may.
#[tokio::test(flavor = "multi_thread")]
async fn with_identities_no_operation_comes_without_one() {
    let mut cluster = Cluster::start(3, 1, Settings::default()).await;
    let held = granted(cluster.ask_leader(acquire("a", 1)).await);
    cluster.config.access =
        Some(AccessConfig { policy: "policy.yaml".into(), tokens: None, jwt: None });
    for id in (1..=3).map(NodeId) {
        cluster.crash(id).await;
    }
    for id in (1..=3).map(NodeId) {
        cluster.restart(id).await;
    }
    let route = cluster.route("a");
    let mut caller = cluster.caller(NodeId(1)).await;
    for op in [renew("a", held.fencing_token), release("a", held.fencing_token), acquire("b", 2)] {
        let answer = soon("an answer", caller.ask(route, op)).await.expect("a result");
        assert_eq!(code(answer), ErrorCode::Unauthenticated);
    }
    // The gateway asks for the status itself.
    soon("a status", cluster.status(NodeId(1), 0)).await;
    cluster.stop_all().await;
}

/// Operations of many clients share a frame. One that says the number of its caller is of that
/// caller, with its quota, and never of another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_numbered_caller_is_the_one_that_its_frame_named() {
    let cluster = Cluster::start(3, 1, Settings::default()).await;
    granted(cluster.ask_leader(acquire("before", 1)).await);
    let leader = cluster.leader_of("before").await;
    let mut caller = cluster.caller(leader).await;
    let ask = |id: u64, name: &str| Operation {
        id,
        ..Operation::routed(acquire(name, 1), cluster.route(name))
    };
    let quota = Some(Quota { locks: 1, ..Quota::default() });
    let operations = vec![
        // Its identity is refused, and has a number nevertheless.
        Operation { principal: "a\nb".into(), ..ask(1_000, "refused") },
        Operation { principal: "ann".into(), quota, ..ask(1_001, "first") },
        Operation { principal: "bob".into(), ..ask(1_002, "second") },
        Operation { caller: 3, ..ask(1_003, "third") },
        Operation { caller: 2, ..ask(1_004, "fourth") },
        Operation { caller: 1, ..ask(1_005, "fifth") },
        Operation { caller: 4, ..ask(1_006, "sixth") },
        ask(1_007, "seventh"),
    ];
    let frame = OperateRequest { operations, ..Default::default() };
    caller.frames.send(frame).await.unwrap();
    for (id, principal) in [(1_001, "ann"), (1_002, "bob"), (1_003, "bob"), (1_007, "")] {
        let held = granted(caller.result(id).await.expect("a result"));
        assert_eq!(held.principal, principal, "operation {id}");
    }
    for (id, expected) in [
        (1_000, ErrorCode::InvalidArgument),
        (1_004, ErrorCode::Busy), // over the quota of ann
        (1_005, ErrorCode::InvalidArgument),
        (1_006, ErrorCode::InvalidArgument),
    ] {
        assert_eq!(code(caller.result(id).await.expect("a result")), expected, "operation {id}");
    }
    // Another frame knows nothing of these callers.
    let operations = vec![Operation { caller: 2, ..ask(1_008, "eighth") }];
    caller.frames.send(OperateRequest { operations, ..Default::default() }).await.unwrap();
    let refused = code(caller.result(1_008).await.expect("a result"));
    assert_eq!(refused, ErrorCode::InvalidArgument);
    cluster.stop_all().await;
}
