//! A gateway's work for many shards at once, for lost clients, at its own end, and for its
//! operators.

use crate::fake::{Fakes, LONG, Reaction, code, granted};
use client::{AcquireOptions, ErrorCode, SessionOptions};
use link::mux::{Failure, Link, LinkOptions, Locks};
use net::dial::Target;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as Answer;
use wire::internal::v1::{Operation, ShardPage};
use wire::v1::*;

#[tokio::test]
async fn a_heartbeat_asks_each_named_shard_once_and_tells_lost_from_failed() {
    let fakes =
        Fakes::start(4, 3, &[], |_, operation| match operation.route.as_ref().unwrap().shard {
            1 => code(ErrorCode::SessionLost),
            2 => code(ErrorCode::NoLeader),
            _ => Reaction::Answer(Answer::Heartbeat(SessionLeaseState::default())),
        })
        .await;
    let client = fakes.client(Duration::from_millis(700));
    let opened = client.open_session_raw(SessionOptions::new()).await.unwrap();
    assert_eq!((opened.session_id.len(), opened.ttl_ms), (32, 30_000));
    let beat = client.heartbeat(&opened.session_id, &[0, 1, 2, 0, 99]).await.unwrap();
    assert_eq!(
        (beat.lost_shards, beat.failed_shards, beat.renewed_shards),
        (vec![99, 1], vec![2], 1)
    );
    let asked = fakes.seen().iter().filter(|(_, o)| o.route.as_ref().unwrap().shard == 0).count();
    assert_eq!(asked, 1, "named twice, asked once");
    assert!(
        fakes.seen().iter().all(|(_, operation)| operation.route.as_ref().unwrap().shard != 3),
        "not named"
    );
}

#[tokio::test]
async fn a_close_adds_up_and_fails_as_a_whole() {
    let broken = std::sync::Arc::new(AtomicBool::new(false));
    let fakes = Fakes::start(3, 3, &[], {
        let broken = broken.clone();
        move |_, operation| match operation.route.as_ref().unwrap().shard {
            2 if broken.load(Ordering::SeqCst) => code(ErrorCode::NoLeader),
            shard => Reaction::Answer(Answer::CloseSession(CloseSessionResponse {
                released: 10 + shard,
            })),
        }
    })
    .await;
    let client = fakes.client(Duration::from_secs(2));
    assert_eq!(client.close_session("s", &[0, 1, 2]).await.unwrap(), 33);
    broken.store(true, Ordering::SeqCst);
    assert!(client.close_session("s", &[0, 1, 2]).await.unwrap_err().is_retryable());
}

#[tokio::test]
async fn lists_are_merged_by_name_and_say_what_is_missing() {
    let fakes = Fakes::start(3, 3, &[], |_, operation| {
        let Some(Op::List(request)) = &operation.op else { panic!() };
        let shard = operation.route.as_ref().unwrap().shard;
        if shard == 1 && request.prefix == "partial" {
            return code(ErrorCode::NoLeader);
        }
        let grant =
            |n: u32| Grant { resource_name: format!("{n:02}"), shard, ..Default::default() };
        let grants = (0..request.limit).map(|n| grant(3 * n + shard)).collect();
        Reaction::Answer(Answer::List(ShardPage { grants, ..Default::default() }))
    })
    .await;
    let client = fakes.client(Duration::from_millis(500));
    let names = |listing: &ListResponse| -> Vec<String> {
        listing.grants.iter().map(|grant| grant.resource_name.clone()).collect()
    };
    let listing = client.list("", 5).await.unwrap();
    assert_eq!(names(&listing), ["00", "01", "02", "03", "04"]);
    assert!(listing.more && listing.missing_shards.is_empty());
    let partial = client.list("partial", 3).await.unwrap();
    assert_eq!(names(&partial), ["00", "02", "03"]);
    assert_eq!(partial.missing_shards, [1]);
}

#[tokio::test]
async fn the_cluster_status_shows_every_replica_that_answers_and_the_nodes_that_do_not() {
    let fakes = Fakes::start(2, 3, &[3], |node, operation| {
        let shard = operation.route.as_ref().unwrap().shard;
        Reaction::Answer(Answer::Status(Box::new(ShardStatus {
            shard,
            node,
            role: "follower".into(),
            ..Default::default()
        })))
    })
    .await;
    let client = fakes.client(LONG);
    let status = loop {
        let status = client.cluster_status().await.unwrap();
        if status.shards.len() == 4 {
            break status; // both streams stand
        }
    };
    assert_eq!((status.cluster.as_str(), status.map_version), ("dev", 1));
    let reachable: Vec<(u64, bool)> =
        status.nodes.iter().map(|node| (node.node, node.reachable)).collect();
    assert_eq!(reachable, [(1, true), (2, true), (3, false)]);
    let replicas: Vec<(u32, u64)> =
        status.shards.iter().map(|replica| (replica.shard, replica.node)).collect();
    assert!([(0, 1), (0, 2), (1, 1), (1, 2)].iter().all(|replica| replicas.contains(replica)));
}

fn is_wait(op: &Op) -> bool {
    matches!(op, Op::Acquire(request) if request.wait_ms > 0)
}

fn is_cancel(op: &Op) -> bool {
    matches!(op, Op::CancelWait(_))
}

fn queue(operation: &Operation) -> Reaction {
    match operation.op.as_ref().unwrap() {
        Op::CancelWait(_) => Reaction::Answer(Answer::CancelWait(CancelWaitResponse {
            cancelled: true,
            ..Default::default()
        })),
        _ => Reaction::Silence,
    }
}

/// A client with its own runtime, so that it can be lost with all its open connections.
struct Doomed(Option<tokio::runtime::Runtime>);

impl Doomed {
    fn waits(fakes: &Fakes, unary: bool) -> Doomed {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = fakes.gateway.address().to_string();
        runtime.spawn(async move {
            let options = client::ClientOptions::new().unary(unary);
            let client = client::Client::with_options([address], options);
            client.acquire(AcquireOptions::new("n").wait(LONG).request_id([9; 16])).await
        });
        Doomed(Some(runtime))
    }

    fn die(mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

#[tokio::test]
async fn the_wait_of_a_lost_client_leaves_its_queue_after_the_grace() {
    for unary in [false, true] {
        let fakes = Fakes::start(1, 3, &[], |_, operation| queue(operation)).await;
        let doomed = Doomed::waits(&fakes, unary);
        fakes.until(1, |_, op| is_wait(op)).await;
        assert_eq!(fakes.count(|_, op| is_cancel(op)), 0);
        doomed.die();
        fakes
            .until(1, |_, op| matches!(op, Op::CancelWait(cancel) if cancel.request_id == [9; 16]))
            .await;
        assert_eq!(fakes.count(|_, op| is_wait(op)), 1, "not tried again for nobody");
    }
}

#[tokio::test]
async fn a_wait_that_was_taken_up_elsewhere_is_left_alone() {
    // The second acquire of a request takes the place of the first. The fake ends the first by
    // hanging up, and the gateway does not retry for a client that is gone.
    let fakes = Fakes::start(1, 1, &[], |_, operation| match operation.op.as_ref().unwrap() {
        Op::Acquire(request) if request.wait_ms == 1 => Reaction::Hangup,
        _ => queue(operation),
    })
    .await;
    let doomed = Doomed::waits(&fakes, false);
    fakes.until(1, |_, op| is_wait(op)).await;
    doomed.die();
    let again = AcquireOptions::new("n").wait(Duration::from_millis(1)).request_id([9; 16]);
    let outcome = fakes.client(Duration::from_millis(100)).acquire(again).await;
    assert!(outcome.unwrap_err().is_outcome_unknown());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fakes.count(|_, op| is_cancel(op)), 0, "its place is not ours any more");
}

#[tokio::test]
async fn a_shutdown_ends_streams_and_cancels_nothing() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| queue(operation)).await;
    let client = fakes.client(Duration::from_millis(300));
    let waiting = tokio::spawn(async move {
        client
            .acquire(AcquireOptions::new("n").wait(Duration::from_millis(1)).request_id([9; 16]))
            .await
    });
    fakes.until(1, |_, op| is_wait(op)).await;
    let seen = fakes.shut_down().await;
    assert!(waiting.await.unwrap().unwrap_err().is_outcome_unknown());
    tokio::time::sleep(Duration::from_millis(500)).await; // more than the grace
    let asked = seen.lock().unwrap();
    assert!(!asked.iter().any(|(_, operation)| operation.op.as_ref().is_some_and(is_cancel)));
}

/// Regression: streams of a gateway that stops end one by one, and the waits of the first ones were
/// taken out of their queues while the last ones went.
#[tokio::test]
async fn a_shutdown_of_many_streams_cancels_no_wait() {
    const CLIENTS: usize = 120;
    let fakes = Fakes::start(1, 3, &[], |_, operation| queue(operation)).await;
    for number in 0..CLIENTS {
        let client = fakes.client(Duration::from_millis(50));
        let request_id = [number as u8 + 1; 16];
        let options = AcquireOptions::new("n").wait(Duration::from_secs(60));
        tokio::spawn(async move { client.acquire(options.request_id(request_id)).await });
    }
    fakes.until(CLIENTS, |_, op| is_wait(op)).await;
    let seen = fakes.shut_down().await;
    tokio::time::sleep(Duration::from_millis(500)).await; // more than the grace
    let asked = seen.lock().unwrap();
    assert!(!asked.iter().any(|(_, operation)| operation.op.as_ref().is_some_and(is_cancel)));
}

/// Regression: an operation that was on its way when its gateway began to end was left without an
/// answer, and its client could not know whether it was done.
#[tokio::test]
async fn an_operation_that_comes_while_its_gateway_ends_is_refused_as_not_done() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| match &operation.op {
        Some(Op::Renew(request)) if request.name == "first" => Reaction::Silence,
        _ => code(ErrorCode::NotOwner),
    })
    .await;
    let target = Target::plain(&fakes.gateway.address().to_string()).unwrap();
    let link = Link::<Locks>::start(target, LinkOptions::default());
    let renew = |name: &str| {
        let request = RenewRequest { name: name.into(), fencing_token: 1 };
        wire::v1::Operation::of(wire::v1::operation::Op::Renew(request))
    };
    // Without an answer to the first, the stream stays open for a while.
    let first = link.begin(renew("first"), 60_000);
    fakes.until(1, |_, op| matches!(op, Op::Renew(_))).await;
    let ends = tokio::spawn(fakes.shut_down());
    // Each stream ends at a time of its own. Until then its operations go to their nodes.
    let mut answered = 0;
    loop {
        let next = link.call(renew("next"), 60_000).await;
        let Err(Failure::Refused(error)) = &next else { panic!("{next:?}") };
        match error.code() {
            ErrorCode::NotOwner => answered += 1,
            code => break assert_eq!(code, ErrorCode::ShuttingDown),
        }
    }
    assert!(matches!(first.await, Err(Failure::Lost(_))), "it may have been done");
    let seen = ends.await.unwrap();
    let seen = seen.lock().unwrap().iter().filter(|(_, op)| op.op.is_some()).count();
    assert_eq!(seen, 1 + answered, "what was refused went to no node");
}

#[tokio::test]
async fn metrics_count_operations_and_contention_and_name_no_resource() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| match operation.op.as_ref().unwrap() {
        Op::Acquire(request) if request.name == "secret/free" => granted(request, 1),
        _ => code(ErrorCode::Held),
    })
    .await;
    let client = fakes.client(LONG);
    client.acquire("secret/free").await.unwrap();
    assert!(client.acquire("secret/held").await.unwrap_err().is_held());
    let text = fakes.get("/metrics").await;
    for line in [
        "palisade_gateway_operations_total{kind=\"acquire\",outcome=\"ok\"} 1",
        "palisade_gateway_operations_total{kind=\"acquire\",outcome=\"held\"} 1",
        "palisade_gateway_acquires_total 2",
        "palisade_gateway_acquires_contended_total 1",
        "palisade_gateway_acquire_wait_seconds_count{end=\"granted\"} 1",
        "palisade_gateway_acquire_service_seconds_count 2",
        concat!("palisade_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "palisade_gateway_operation_seconds_count{kind=\"acquire\"} 2",
        "palisade_gateway_client_streams 1",
        "palisade_gateway_operations_in_flight 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("palisade_gateway_node_connected{node=\"3\"}"));
    assert!(!text.contains("secret"));
    while !fakes.get("/healthz").await.starts_with("HTTP/1.1 200") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_gateway_without_nodes_is_not_healthy() {
    let fakes = Fakes::start(1, 3, &[1, 2, 3], |_, _| Reaction::Silence).await;
    assert!(fakes.get("/healthz").await.starts_with("HTTP/1.1 503"));
}
