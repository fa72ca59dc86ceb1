//! Regressions of the gateway. Each test has the name of the fault.

use crate::fake::{Fakes, LONG, NodeAnswer, NodeOp, Reaction, code, granted, granted_before};
use link::mux::{Failure, Link, LinkOptions, Locks};
use net::dial::Target;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use wire::internal::v1::ShardPage;
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

fn link(fakes: &Fakes) -> Link<Locks> {
    let target = Target::plain(&fakes.gateway.address().to_string()).unwrap();
    Link::start(target, LinkOptions::default())
}

fn wait(name: String) -> Operation {
    Operation::of(Op::Acquire(AcquireRequest { name, wait_ms: 60_000, ..Default::default() }))
}

/// A client with thousands of waits had its renewals refused, and lost its locks.
#[tokio::test]
async fn waits_do_not_take_the_place_of_renewals() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| match operation.op.as_ref().unwrap() {
        NodeOp::Renew(_) => Reaction::Answer(NodeAnswer::Renew(RenewResponse {
            ttl_ms: 1_000,
            ..Default::default()
        })),
        _ => Reaction::Silence,
    })
    .await;
    let link = link(&fakes);
    for n in 0..4_200 {
        let link = link.clone();
        tokio::spawn(async move { link.call(wait(format!("n{n}")), 60_000).await });
    }
    fakes.until(4_096, |_, op| matches!(op, NodeOp::Acquire(_))).await;
    let renewal = Operation::of(Op::Renew(RenewRequest { name: "n".into(), fencing_token: 1 }));
    assert!(matches!(link.call(renewal, 60_000).await, Ok(Answer::Renew(_))));
}

/// The gateway had chosen the id, so no client could ever take the grant up. It was held until its
/// TTL.
#[tokio::test]
async fn a_grant_to_a_lost_client_that_chose_no_request_id_is_let_go() {
    let gone = std::sync::Arc::new(AtomicBool::new(false));
    let fakes = Fakes::start(1, 3, &[], {
        let gone = gone.clone();
        move |_, operation| match operation.op.as_ref().unwrap() {
            NodeOp::Acquire(_) => Reaction::Silence,
            NodeOp::CancelWait(request) => {
                assert!(gone.load(Ordering::SeqCst));
                granted_before(request, 7)
            }
            _ => Reaction::Answer(NodeAnswer::Release(ReleaseResponse::default())),
        }
    })
    .await;
    let link = link(&fakes);
    let waiting = tokio::spawn(async move { link.call(wait("n".into()), 60_000).await });
    fakes.until(1, |_, op| matches!(op, NodeOp::Acquire(_))).await;
    gone.store(true, Ordering::SeqCst);
    waiting.abort(); // the link ends with its last handle
    let let_go = fakes
        .until(1, |_, op| matches!(op, NodeOp::Release(request) if request.fencing_token == 7));
    tokio::time::timeout(Duration::from_secs(10), let_go).await.expect("released");
}

/// Each answer may have megabytes. A client that asked for thousands and took none filled the
/// gateway's memory.
#[tokio::test]
async fn lists_in_flight_are_few_per_stream() {
    let fakes = Fakes::start(1, 3, &[], |_, _| Reaction::Silence).await;
    let link = link(&fakes);
    let (refusals, mut refused) = tokio::sync::mpsc::channel(100);
    for _ in 0..70 {
        let (link, refusals) = (link.clone(), refusals.clone());
        tokio::spawn(async move {
            let list = Operation::of(Op::List(ListRequest { limit: 1_000, ..Default::default() }));
            if let Err(Failure::Refused(error)) = link.call(list, 60_000).await {
                let _ = refusals.send(error).await;
            }
        });
    }
    for _ in 0..6 {
        let error = tokio::time::timeout(Duration::from_secs(10), refused.recv())
            .await
            .expect("refused")
            .unwrap();
        assert_eq!(error.code(), ErrorCode::Busy);
    }
    fakes.until(64, |_, op| matches!(op, NodeOp::List(_))).await;
}

/// The client stopped reading. All its answers, however large, were taken from the nodes and kept.
#[tokio::test]
async fn a_client_that_takes_no_results_is_kept_few_of_them() {
    let megabyte = || Grant { metadata: "m".repeat(1 << 20), ..Default::default() };
    let fakes = Fakes::start(1, 3, &[], move |_, operation| match operation.op.as_ref().unwrap() {
        NodeOp::History(_) => Reaction::Answer(NodeAnswer::List(ShardPage {
            grants: vec![megabyte()],
            ..Default::default()
        })),
        _ => Reaction::Silence,
    })
    .await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", fakes.gateway.address()))
            .unwrap();
    let mut raw = lock_service_client::LockServiceClient::connect(endpoint).await.unwrap();
    let (frames, outgoing) = tokio::sync::mpsc::channel(4);
    let stream = raw.stream(tokio_stream::wrappers::ReceiverStream::new(outgoing)).await.unwrap();
    let mut asked = 0;
    for id in 0..200 {
        let history = Op::History(HistoryRequest { name: "n".into(), ..Default::default() });
        frames
            .send(StreamRequest {
                operations: vec![Operation { id, ..Operation::of(history) }],
                ..Default::default()
            })
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        asked = fakes.count(|_, op| matches!(op, NodeOp::History(_)));
    }
    assert!(asked <= 64 + 16, "{asked} answers of a megabyte each for nobody");
    drop(stream);
}

/// The deadline of a unary caller was equal to its wait, which left the operation itself a
/// millisecond.
#[tokio::test]
async fn a_wait_as_long_as_the_callers_deadline_leaves_time_for_the_operation_itself() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| match operation.op.as_ref().unwrap() {
        NodeOp::Acquire(request) => granted(request, 7),
        _ => Reaction::Silence,
    })
    .await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", fakes.gateway.address()))
            .unwrap();
    let mut raw = lock_service_client::LockServiceClient::connect(endpoint).await.unwrap();
    let acquire =
        AcquireRequest { name: "n".into(), wait_ms: LONG.as_millis() as u32, ..Default::default() };
    let mut request = tonic::Request::new(acquire);
    request.set_timeout(LONG);
    raw.acquire(request).await.unwrap();
    let told_ms = fakes.seen()[0].1.timeout_ms;
    assert!(told_ms >= 400, "{told_ms} ms for the node");
}

/// A client took its answers more slowly than they came, so that its heartbeats were never sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_answers_does_not_hold_up_a_heartbeat() {
    const OPEN: usize = 4_000;
    let fakes = Fakes::start(2, 3, &[], |_, operation| match operation.op.as_ref().unwrap() {
        NodeOp::Acquire(request) => {
            let Reaction::Answer(NodeAnswer::Grant(mut grant)) = granted(request, 7) else {
                unreachable!()
            };
            grant.metadata = "m".repeat(2_000);
            Reaction::Answer(NodeAnswer::Grant(grant))
        }
        _ => Reaction::Answer(NodeAnswer::Heartbeat(SessionLeaseState::default())),
    })
    .await;
    let client =
        LockServiceClient::connect(format!("http://{}", fakes.gateway.address())).await.unwrap();
    let (frames, outgoing) = tokio::sync::mpsc::channel(64);
    let mut last_id = 1;
    let mut acquires = |count: usize| {
        let acquire = |_| {
            last_id += 1;
            let acquire = AcquireRequest {
                name: format!("n{last_id}"),
                owner: "me".into(),
                ..Default::default()
            };
            Operation { id: last_id, timeout_ms: 30_000, ..Operation::of(Op::Acquire(acquire)) }
        };
        StreamRequest { operations: (0..count).map(acquire).collect(), ..Default::default() }
    };
    frames.send(acquires(OPEN)).await.unwrap();
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut incoming =
        client.max_decoding_message_size(64 << 20).stream(outgoing).await.unwrap().into_inner();
    fakes.until(OPEN, |_, op| matches!(op, NodeOp::Acquire(_))).await;
    let heartbeat = Op::Heartbeat(HeartbeatRequest {
        session_id: "0".repeat(32),
        leases: vec![SessionLease::default()],
    });
    let heartbeat = Operation { id: 1, timeout_ms: 30_000, ..Operation::of(heartbeat) };
    frames.send(StreamRequest { operations: vec![heartbeat], ..Default::default() }).await.unwrap();
    let mut answered = 0;
    while answered < 10 * OPEN {
        let frame = incoming.message().await.unwrap().unwrap();
        if frame.results.iter().any(|result| result.id == 1) {
            return;
        }
        answered += frame.results.len();
        frames.send(acquires(frame.results.len())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await; // a slow client
    }
    panic!("{answered} acquires were answered, and the heartbeat was not");
}

/// A first try was still in flight when another node answered HELD. The try was then granted, and
/// held until its TTL without a holder. The next version of the gateway cancelled it after its
/// answer. That released the grant which the client had got with its id elsewhere.
#[tokio::test]
async fn a_refusal_while_a_try_is_in_doubt_is_cancelled_first_and_its_grant_is_the_answer() {
    let tries = AtomicU32::new(0);
    let fakes = Fakes::start(1, 3, &[], move |_, operation| match operation.op.as_ref().unwrap() {
        NodeOp::Acquire(_) if tries.fetch_add(1, Ordering::SeqCst) == 0 => Reaction::Hangup,
        NodeOp::Acquire(_) => code(ErrorCode::Held),
        NodeOp::CancelWait(request) => granted_before(request, 7),
        _ => Reaction::Answer(NodeAnswer::Release(ReleaseResponse::default())),
    })
    .await;
    let acquire =
        AcquireRequest { name: "n".into(), request_id: vec![3; 16], ..Default::default() };
    let answer = link(&fakes).call(Operation::of(Op::Acquire(acquire)), 60_000).await;
    assert!(
        matches!(&answer, Ok(answer) if answer.grant().is_some_and(|grant| grant.fencing_token == 7)),
        "{answer:?}"
    );
    let cancelled = |_, op: &NodeOp| matches!(op, NodeOp::CancelWait(request) if request.request_id == [3; 16] && !request.abandoned);
    assert_eq!(fakes.count(cancelled), 1);
    assert_eq!(
        fakes.count(|_, op| matches!(op, NodeOp::Release(_))),
        0,
        "no gateway ends a lock of its client's id"
    );
}

/// The cancel fails. A client with an id is told of the doubt, and without an id the gateway goes
/// on cancelling.
#[tokio::test]
async fn a_refusal_in_doubt_that_cannot_be_cancelled_is_told_as_doubt() {
    for chosen in [true, false] {
        let (tries, cancels) = (AtomicU32::new(0), AtomicU32::new(0));
        let fakes =
            Fakes::start(1, 3, &[], move |_, operation| match operation.op.as_ref().unwrap() {
                NodeOp::Acquire(_) if tries.fetch_add(1, Ordering::SeqCst) == 0 => Reaction::Hangup,
                NodeOp::Acquire(_) => code(ErrorCode::Held),
                NodeOp::CancelWait(_) if cancels.fetch_add(1, Ordering::SeqCst) == 0 => {
                    code(ErrorCode::Internal)
                }
                NodeOp::CancelWait(request) => granted_before(request, 7),
                _ => Reaction::Answer(NodeAnswer::Release(ReleaseResponse::default())),
            })
            .await;
        let request_id = if chosen { vec![3; 16] } else { Vec::new() };
        let acquire = AcquireRequest { name: "n".into(), request_id, ..Default::default() };
        let answer = link(&fakes).call(Operation::of(Op::Acquire(acquire)), 60_000).await;
        let told = matches!(&answer, Err(Failure::Refused(error)) if error.code() == ErrorCode::OutcomeUnknown);
        assert!(told, "{answer:?}");
        let released =
            |_, op: &NodeOp| matches!(op, NodeOp::Release(request) if request.fencing_token == 7);
        if chosen {
            assert_eq!(fakes.count(released), 0);
        } else {
            let let_go = fakes.until(1, released);
            tokio::time::timeout(Duration::from_secs(10), let_go).await.expect("released");
        }
    }
}
