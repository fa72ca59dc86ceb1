//! Three nodes with two shards each, in one process, over loopback gRPC.

use crate::cluster::*;
use palisade_node::{Node, NodeError, NodeOptions};
use routing::{NodeId, Settings};
use std::sync::Arc;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::{CancelWait, Route};
use wire::v1::{self, Consistency, ErrorCode, GrantState};

/// Names of both shards.
const NAMES: [&str; 4] = ["orders", "users", "a", "jobs/nightly"];

/// Settings that allow elections only where a node is gone, because a busy machine must not look
/// like a lost node.
fn calm() -> Settings {
    Settings { election_ticks: 20, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_taken_refused_and_released() {
    let cluster = Cluster::start(3, 2, calm()).await;
    let shards: std::collections::BTreeSet<u32> =
        NAMES.iter().map(|name| cluster.route(name).shard).collect();
    assert_eq!(shards.len(), 2, "the names are of one shard");
    for name in NAMES {
        let first = granted(cluster.ask_leader(acquire(name, 1)).await);
        assert_eq!((first.resource_name.as_str(), first.owner_id.as_str()), (name, "owner-1"));
        let retried = granted(cluster.ask_leader(acquire(name, 1)).await);
        assert_eq!(retried.fencing_token, first.fencing_token);
        let OpResult::Error(error) = cluster.ask_leader(acquire(name, 2)).await else {
            panic!("granted twice")
        };
        assert_eq!((error.code(), error.current_token), (ErrorCode::Held, first.fencing_token));
        assert_eq!(error.holder, "owner-1");

        assert_eq!(
            code(cluster.ask_leader(release(name, first.fencing_token + 1)).await),
            ErrorCode::NotOwner
        );
        let OpResult::Release(released) =
            cluster.ask_leader(release(name, first.fencing_token)).await
        else {
            panic!()
        };
        assert!(!released.already_released);
        let OpResult::Release(again) = cluster.ask_leader(release(name, first.fencing_token)).await
        else {
            panic!()
        };
        assert!(again.already_released);

        let second = granted(cluster.ask_leader(acquire(name, 2)).await);
        assert!(second.fencing_token > first.fencing_token);
        assert_eq!(
            code(cluster.ask_leader(acquire(name, 1)).await),
            ErrorCode::Expired,
            "a retry after the release"
        );

        let OpResult::History(history) = cluster.ask_leader(history(name)).await else { panic!() };
        let shown: Vec<_> =
            history.tenures.iter().map(|tenure| (tenure.fencing_token, tenure.state())).collect();
        assert_eq!(
            shown,
            [
                (second.fencing_token, GrantState::Acquired),
                (first.fencing_token, GrantState::Released)
            ]
        );
    }
    cluster.assert_replicas_agree().await;
    let text = cluster.nodes[&cluster.leader_of("orders").await].metrics_text();
    assert!(text.contains(r#"palisade_operations_total{kind="acquire",outcome="held"}"#), "{text}");
    assert!(!text.contains("orders"), "a resource's name is in the metrics");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_answer_checks() {
    let cluster = Cluster::start(3, 2, calm()).await;
    let held = granted(cluster.ask_leader(acquire("orders", 1)).await);
    for id in cluster.nodes.keys() {
        let mut caller = cluster.caller(*id).await;
        let asked = caller
            .ask(cluster.route("orders"), check("orders", Consistency::Linearizable))
            .await
            .unwrap();
        let OpResult::Check(check) = asked else { panic!("{asked:?}") };
        assert_eq!((check.answered_by, check.holders[0].fencing_token), (id.0, held.fencing_token));
    }
    cluster.stop_all().await;
}

/// Regression: a node that was told to stop refused operations while it still led, so that its
/// shards served nothing until another node led them.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_stop_serves_until_another_one_leads() {
    let mut cluster = Cluster::start(3, 2, calm()).await;
    let leader = cluster.leader_of("orders").await;
    let (route, mut caller) = (cluster.route("orders"), cluster.caller(leader).await);
    granted(caller.ask(route, acquire("orders", 1)).await.unwrap());
    let stopped = tokio::spawn(cluster.nodes.remove(&leader).unwrap().shutdown());
    let (mut granted_again, mut next) = (0, None);
    while let Some(answer) = caller.ask(route, acquire("orders", 1)).await {
        match answer {
            OpResult::Grant(_) if next.is_none() => granted_again += 1,
            OpResult::NotLeader(it) => next = Some(it.leader),
            OpResult::Error(error) if error.code() == ErrorCode::ShuttingDown && next.is_some() => {
            }
            other => panic!("{other:?} after {granted_again} grants, next leader {next:?}"),
        }
    }
    let next = next.expect("it said which node leads");
    assert!(next != 0 && next != leader.0, "node {next}");
    stopped.await.unwrap().unwrap();
    granted(cluster.ask_leader(acquire("orders", 1)).await);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_takes_writes_and_the_others_say_who() {
    let cluster = Cluster::start(3, 2, calm()).await;
    let held = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let agreed = async {
        loop {
            let (mut leaders, mut hints) = (Vec::new(), Vec::new());
            for id in cluster.nodes.keys() {
                match cluster
                    .caller(*id)
                    .await
                    .ask(cluster.route("orders"), acquire("orders", 1))
                    .await
                    .unwrap()
                {
                    OpResult::Grant(again) => {
                        assert_eq!(again.fencing_token, held.fencing_token);
                        leaders.push(id.0);
                    }
                    OpResult::NotLeader(not_leader) => hints.push(not_leader.leader),
                    OpResult::Error(error) => assert!(error.is_retryable(), "{error}"),
                    other => panic!("{other:?}"),
                }
            }
            if leaders.len() == 1 && hints == [leaders[0]; 2] {
                return;
            }
        }
    };
    tokio::time::timeout(HANGS, agreed).await.expect("the nodes do not agree on a leader");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_and_comes_back() {
    let mut cluster = Cluster::start(3, 2, calm()).await;
    let held = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    cluster.stop(leader).await;
    for (request, name) in (2..).zip(["x", "y", "z"]) {
        granted(cluster.ask_leader(acquire(name, request)).await);
    }
    let still = granted(cluster.ask_leader(acquire("orders", 1)).await);
    assert_eq!(still.fencing_token, held.fencing_token, "the lock outlives its leader");
    cluster.restart(leader).await;
    cluster.assert_replicas_agree().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lock_is_lost_when_all_nodes_lose_power() {
    let mut cluster = Cluster::start(3, 2, calm()).await;
    let mut held = Vec::new();
    for (request, name) in (1..).zip(NAMES) {
        held.push((name, request, granted(cluster.ask_leader(acquire(name, request)).await)));
    }
    let gone = granted(cluster.ask_leader(acquire("gone", 99)).await);
    cluster.ask_leader(release("gone", gone.fencing_token)).await;
    let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    for id in &ids {
        cluster.crash(*id).await;
    }
    for id in &ids {
        cluster.restart(*id).await;
    }
    for (name, request, grant) in held {
        assert_eq!(
            granted(cluster.ask_leader(acquire(name, request)).await).fencing_token,
            grant.fencing_token
        );
        assert_eq!(code(cluster.ask_leader(acquire(name, 77)).await), ErrorCode::Held);
    }
    let OpResult::History(history) = cluster.ask_leader(history("gone")).await else { panic!() };
    let shown: Vec<_> =
        history.tenures.iter().map(|tenure| (tenure.fencing_token, tenure.state())).collect();
    assert_eq!(shown, [(gone.fencing_token, GrantState::Released)]);
    assert!(
        granted(cluster.ask_leader(acquire("gone", 98)).await).fencing_token > gone.fencing_token
    );
    cluster.assert_replicas_agree().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_the_log_comes_back_by_snapshot() {
    let settings = Settings { checkpoint_log_bytes: 4 << 10, log_keep_bytes: 4 << 10, ..calm() };
    let mut cluster = Cluster::start(3, 2, settings).await;
    granted(cluster.ask_leader(acquire("kept", 1)).await);
    let leader = cluster.leader_of("kept").await;
    let away = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    cluster.stop(away).await;
    let leader = cluster.leader_of("kept").await;
    let (route, mut caller) = (cluster.route("kept"), cluster.caller(leader).await);
    let mut tokens = Vec::new();
    for round in 0..400_u32 {
        let Op::Acquire(acquire) = acquire("{kept}/churn", 0) else { unreachable!() };
        let request_id = [&round.to_be_bytes()[..], &[1; 12]].concat();
        let op = Op::Acquire(v1::AcquireRequest { request_id, ..acquire });
        let token = granted(caller.ask(route, op).await.unwrap()).fencing_token;
        caller.ask(route, release("{kept}/churn", token)).await.unwrap();
        tokens.push(token);
    }
    let truncated = cluster.status(leader, route.shard).await;
    assert!(truncated.first_index > 1, "the log was not truncated: {truncated:?}");
    cluster.restart(away).await;
    cluster.assert_replicas_agree().await;
    let status = cluster.status(away, route.shard).await;
    assert!(status.snapshots_installed >= 1, "{status:?}");

    // The node's history is whole, including the grants that ended while it was away.
    let op = Op::History(v1::HistoryRequest { name: "{kept}/churn".into(), limit: 1_000 });
    let OpResult::History(history) = cluster.caller(away).await.ask(route, op).await.unwrap()
    else {
        panic!()
    };
    let shown: Vec<u64> = history.tenures.iter().rev().map(|tenure| tenure.fencing_token).collect();
    assert_eq!(shown, tokens);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_granted_in_order_and_can_be_cancelled() {
    let cluster = Cluster::start(3, 2, calm()).await;
    let first = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let (route, mut caller) = (cluster.route("orders"), cluster.caller(leader).await);
    let waiting =
        caller.send(route, (2..=5).map(|request| acquire_waiting("orders", request))).await;
    let cancel = |request: u8| {
        Op::CancelWait(CancelWait {
            name: "orders".into(),
            request_id: request_id("orders", request),
            ..Default::default()
        })
    };
    let OpResult::CancelWait(cancelled) = caller.ask(route, cancel(3)).await.unwrap() else {
        panic!()
    };
    assert!(cancelled.cancelled);
    assert_eq!(code(caller.result(waiting[1]).await.unwrap()), ErrorCode::WaitCancelled);

    let mut last = first.fencing_token;
    for (nth, request) in [(0, 2_u8), (2, 4)] {
        caller.ask(route, release("orders", last)).await.unwrap();
        let grant = granted(caller.result(waiting[nth]).await.unwrap());
        assert_eq!(grant.owner_id, format!("owner-{request}"));
        assert!(grant.fencing_token > last);
        last = grant.fencing_token;
        let OpResult::CancelWait(late) = caller.ask(route, cancel(request)).await.unwrap() else {
            panic!()
        };
        assert_eq!(
            (late.cancelled, late.grant.map(|grant| grant.fencing_token)),
            (false, Some(last))
        );
    }
    let OpResult::CancelWait(unknown) = caller.ask(route, cancel(99)).await.unwrap() else {
        panic!()
    };
    assert_eq!((unknown.cancelled, unknown.grant), (false, None));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_stream_is_gone_leaves_the_queue() {
    let cluster = Cluster::start(3, 2, Settings { waiter_grace_ms: 50, ..calm() }).await;
    let first = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let (route, mut gone) = (cluster.route("orders"), cluster.caller(leader).await);
    gone.send(route, [acquire_waiting("orders", 2)]).await;
    let mut caller = cluster.caller(leader).await;
    let waiters = async |caller: &mut Caller| match caller
        .ask(route, check("orders", Consistency::Linearizable))
        .await
        .unwrap()
    {
        OpResult::Check(check) => check.waiters,
        other => panic!("{other:?}"),
    };
    while waiters(&mut caller).await != 1 {}
    drop(gone);
    let left = async { while waiters(&mut caller).await != 0 {} };
    tokio::time::timeout(HANGS, left).await.expect("it still waits");
    caller.ask(route, release("orders", first.fencing_token)).await.unwrap();
    granted(caller.ask(route, acquire("orders", 3)).await.unwrap());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_fails_stops_answering_and_says_why() {
    let mut cluster = Cluster::start(3, 2, calm()).await;
    let held = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let mut caller = cluster.caller(leader).await;
    cluster.engines[&leader].fail_next_write();
    let answer = caller.ask(cluster.route("orders"), release("orders", held.fencing_token)).await;
    // The two other nodes may have committed the release before this disk failed. No other answer
    // can be true.
    assert!(matches!(answer, None | Some(OpResult::Release(_))), "{answer:?}");
    let failed = cluster.nodes[&leader].wait_failed().await;
    let late = caller.ask(cluster.route("orders"), check("orders", Consistency::Stale)).await;
    assert_eq!(late, None, "a node answered after its disk had failed");
    assert!(failed.to_string().contains("storage failed"), "{failed}");
    let stopped = cluster.nodes.remove(&leader).unwrap().shutdown().await;
    assert!(stopped.is_err(), "a failed node shut down as if nothing had happened");

    let OpResult::Release(_) = cluster.ask_leader(release("orders", held.fencing_token)).await
    else {
        panic!()
    };
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_granted() {
    let mut cluster = Cluster::start(3, 2, calm()).await;
    granted(cluster.ask_leader(acquire("orders", 1)).await);
    for id in [1, 2] {
        cluster.crash(NodeId(id)).await;
    }
    let mut caller = cluster.caller(NodeId(3)).await;
    let refused = async {
        loop {
            match caller.ask(cluster.route("users"), acquire("users", 1)).await.unwrap() {
                OpResult::Error(error) if error.code() == ErrorCode::NoLeader => return,
                OpResult::Error(error) if error.is_retryable() => {}
                // Its hint is of before the others ended.
                OpResult::NotLeader(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(HANGS, refused).await.expect("it does not notice");
    cluster.restart(NodeId(1)).await;
    granted(cluster.ask_leader(acquire("jobs/nightly", 2)).await);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_are_refused_and_the_node_goes_on() {
    let cluster = Cluster::start(3, 2, calm()).await;
    granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let route = cluster.route("orders");

    let mut caller = cluster.caller(leader).await;
    let elsewhere = Route { shard: 1 - route.shard, ..route };
    let stale = caller.ask(elsewhere, acquire("orders", 2)).await.unwrap();
    assert!(matches!(stale, OpResult::StaleRoute(_)), "{stale:?}");
    assert_eq!(code(caller.ask(route, acquire("", 2)).await.unwrap()), ErrorCode::InvalidArgument);
    let Op::Acquire(too_brief) = acquire("orders", 2) else { unreachable!() };
    let too_brief = Op::Acquire(v1::AcquireRequest { ttl_ms: 1, ..too_brief });
    assert_eq!(code(caller.ask(route, too_brief).await.unwrap()), ErrorCode::InvalidArgument);
    assert_eq!(
        code(caller.ask(route, acquire("orders", 2)).await.unwrap()),
        ErrorCode::Held,
        "the stream goes on"
    );

    let Op::Acquire(fat) = acquire("orders", 2) else { unreachable!() };
    let fat = Op::Acquire(v1::AcquireRequest { metadata: "m".repeat(2 << 20), ..fat });
    assert_eq!(caller.ask(route, fat).await, None, "an oversized frame ends its stream");
    let mut caller = cluster.caller(leader).await;
    let many = caller.send(route, (0..20_000).map(|_| check("orders", Consistency::Stale))).await;
    assert_eq!(caller.result(many[0]).await, None, "too many operations in a frame end its stream");
    let mut caller = cluster.caller(leader).await;
    assert_eq!(
        code(caller.ask(route, acquire("orders", 2)).await.unwrap()),
        ErrorCode::Held,
        "the node goes on"
    );
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_operations_in_flight_are_each_answered_once() {
    let cluster = Cluster::start(3, 2, calm()).await;
    granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let (route, mut caller) = (cluster.route("orders"), cluster.caller(leader).await);
    let mut ids = Vec::new();
    for batch in 0..8_u32 {
        let ops = (0..1_000_u32).map(|nth| {
            let request_id = [&(batch * 1_000 + nth).to_be_bytes()[..], &[1; 12]].concat();
            let name = format!("{{orders}}/{batch}/{nth}");
            Op::Acquire(v1::AcquireRequest { name, request_id, ..Default::default() })
        });
        ids.extend(caller.send(route, ops).await);
    }
    let mut tokens = std::collections::BTreeSet::new();
    for id in ids {
        assert!(
            tokens.insert(granted(caller.result(id).await.unwrap()).fencing_token),
            "a token was issued twice"
        );
    }
    assert_eq!(tokens.len(), 8_000);
    assert!(caller.early.is_empty());
    cluster.assert_replicas_agree().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shuts_down_answers_what_it_has() {
    let mut cluster = Cluster::start(3, 2, calm()).await;
    let first = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let (route, mut caller) = (cluster.route("orders"), cluster.caller(leader).await);
    let waiting = caller.send(route, [acquire_waiting("orders", 2)]).await;
    let idle = cluster.caller(leader).await; // an open stream does not hold it up
    cluster.stop(leader).await;
    let Some(OpResult::Error(error)) = caller.result(waiting[0]).await else {
        panic!("it was left without an answer")
    };
    assert!(error.is_retryable(), "{error}");
    drop(idle);

    // The same request continues on another node, and is granted in its turn.
    let again = async { granted(cluster.ask_leader(acquire_waiting("orders", 2)).await) };
    let release = async { cluster.ask_leader(release("orders", first.fencing_token)).await };
    let (granted, _) = tokio::join!(again, release);
    assert!(granted.fencing_token > first.fencing_token);
    cluster.stop_all().await;
}

/// On one thread nothing else has run when the start returns.
#[tokio::test(flavor = "current_thread")]
async fn no_first_scrape_shows_a_disk_of_no_bytes() {
    let mut cluster = Cluster::start(3, 1, calm()).await;
    let id = NodeId(1);
    cluster.stop(id).await;
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(storage::RocksEngine::open(dir.path()).unwrap());
    let node = Node::start(cluster.options(id, engine)).await.unwrap();
    let text = node.metrics_text();
    for metric in ["palisade_disk_free_bytes", "palisade_disk_size_bytes", "palisade_journal_bytes"]
    {
        let value = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        assert!(value.is_some_and(|bytes| bytes != "0"), "{metric} is {value:?} in\n{text}");
    }
    // Its peers may have refused the new directory of a node that they know.
    let _ = node.shutdown().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_over_http() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut cluster = Cluster::start(3, 2, calm()).await;
    let id = NodeId(1);
    cluster.stop(id).await;
    let metrics_listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = metrics_listener.local_addr().unwrap();
    let engine = cluster.engines[&id].clone();
    let options =
        NodeOptions { metrics_listener: Some(metrics_listener), ..cluster.options(id, engine) };
    cluster.nodes.insert(id, Node::start(options).await.unwrap());
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for metric in [
        "palisade_raft_term{shard=\"1\"}",
        "palisade_fsync_seconds_count",
        "palisade_peer_connected{peer=\"2\"}",
    ] {
        assert!(answer.contains(metric), "{metric} is missing in\n{answer}");
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_node_is_refused() {
    let cluster = Cluster::start(3, 2, calm()).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = cluster.engines[&NodeId(1)].clone();
    let options =
        NodeOptions { listener: Some(listener), ..cluster.options(NodeId(2), engine.clone()) };
    assert!(matches!(Node::start(options).await, Err(NodeError::Storage(_))));
    assert!(matches!(
        Node::start(cluster.options(NodeId(9), engine)).await,
        Err(NodeError::Config(_))
    ));
    cluster.stop_all().await;
}
