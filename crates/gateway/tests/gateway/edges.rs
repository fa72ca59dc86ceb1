//! Regressions at the edges of a gateway: nodes that moved or belong to another cluster, clients
//! that take all capacity or vanish, probes.

use crate::fake::{
    Fakes, LONG, NodeAnswer, NodeOp, NodeOperation, Reaction, code, granted, granted_before,
};
use client::ErrorCode;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

fn grants(operation: &NodeOperation) -> Reaction {
    match operation.op.as_ref().unwrap() {
        NodeOp::Acquire(request) if request.wait_ms > 0 => Reaction::Silence,
        NodeOp::Acquire(request) => granted(request, 7),
        NodeOp::Renew(_) => Reaction::Answer(NodeAnswer::Renew(RenewResponse::default())),
        NodeOp::Release(_) => Reaction::Answer(NodeAnswer::Release(ReleaseResponse::default())),
        NodeOp::CancelWait(_) => Reaction::Answer(NodeAnswer::CancelWait(CancelWaitResponse {
            cancelled: true,
            ..Default::default()
        })),
        _ => code(ErrorCode::Internal),
    }
}

fn is_wait(op: &NodeOp) -> bool {
    matches!(op, NodeOp::Acquire(acquire) if acquire.wait_ms > 0)
}

fn is_cancel(op: &NodeOp) -> bool {
    matches!(op, NodeOp::CancelWait(_))
}

fn wait(name: String) -> AcquireRequest {
    AcquireRequest {
        name,
        wait_ms: 600_000,
        request_id: rand::random::<[u8; 16]>().to_vec(),
        ..Default::default()
    }
}

fn renew() -> Op {
    Op::Renew(RenewRequest { name: "held".into(), fencing_token: 1 })
}

async fn channel(fakes: &Fakes) -> Channel {
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", fakes.gateway.address()))
            .unwrap();
    endpoint.connect().await.unwrap()
}

async fn soon<T>(what: &str, of: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, of).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// A stream to the gateway, without the SDK.
struct Raw {
    frames: mpsc::Sender<StreamRequest>,
    results: Streaming<StreamResponse>,
    next_id: u64,
}

impl Raw {
    async fn open(channel: &Channel) -> Raw {
        let (frames, outgoing) = mpsc::channel(16);
        let mut client = LockServiceClient::new(channel.clone());
        let results = client.stream(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Raw { frames, results, next_id: 1 }
    }

    async fn send(&mut self, sent_ms: u64, ops: impl IntoIterator<Item = Op>) {
        let mut operations = Vec::new();
        for op in ops {
            operations.push(Operation { id: self.next_id, ..Operation::of(op) });
            self.next_id += 1;
        }
        self.frames.send(StreamRequest { operations, sent_ms }).await.unwrap();
    }

    async fn results(&mut self, count: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        while answers.len() < count {
            let frame =
                soon("results", self.results.message()).await.unwrap().expect("the stream goes on");
            answers.extend(frame.results.into_iter().map(|result| result.result.unwrap()));
        }
        answers
    }
}

fn is_busy(answer: &Answer) -> bool {
    matches!(answer, Answer::Error(error) if error.code() == ErrorCode::Busy)
}

/// A gateway of a staging cluster had a production node in its file, and took a lock there.
#[tokio::test]
async fn a_gateway_of_another_cluster_speaks_to_no_node() {
    let changes: [fn(&mut routing::ClusterConfig); 2] =
        [|config| config.cluster = "staging".into(), |config| config.shards = 2];
    for (change, words) in changes.into_iter().zip(["is of cluster \"dev\"", "1 shard"]) {
        let fakes = Fakes::start_with(1, 3, &[], change, |_, operation| grants(operation)).await;
        let client = fakes.client(Duration::from_secs(2));
        let error = soon("refused", client.acquire("n")).await.unwrap_err();
        assert!(error.is_retryable() && error.message.contains(words), "{error}");
        assert!(fakes.seen().is_empty(), "{:?}", fakes.seen());
        let health = fakes.get("/healthz").await;
        let told = health.replace('\\', ""); // of the string in JSON
        assert!(told.starts_with("HTTP/1.1 503") && told.contains(words), "{health}");
    }
}

/// A gateway with a node's old address lost its shards until it was restarted.
#[tokio::test]
async fn a_node_that_moved_is_found_by_asking_the_others() {
    let moved =
        |config: &mut routing::ClusterConfig| config.nodes[1].address = "127.0.0.1:1".into();
    let fakes = Fakes::start_with(3, 3, &[], moved, |_, operation| grants(operation)).await;
    let client = fakes.client(LONG);
    soon("all are found", async {
        while !fakes.get("/metrics").await.contains("node_connected{node=\"2\"} 1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for n in 0..9 {
        client.acquire(format!("n{n}")).await.unwrap();
    }
    let asked: BTreeSet<u64> = fakes.seen().iter().map(|(node, _)| *node).collect();
    assert_eq!(asked, BTreeSet::from([1, 2, 3]));
}

/// Two nodes changed places, and each was asked for the shards of the other.
#[tokio::test]
async fn a_node_that_answers_at_anothers_address_is_not_taken_for_it() {
    let swapped = |config: &mut routing::ClusterConfig| {
        let first = config.nodes[0].address.clone();
        config.nodes[0].address = std::mem::replace(&mut config.nodes[1].address, first);
    };
    let fakes = Fakes::start_with(1, 3, &[], swapped, |node, operation| match node {
        1 => grants(operation),
        _ => code(ErrorCode::NoLeader),
    })
    .await;
    soon("the leader is found", async {
        while !fakes.get("/metrics").await.contains("node_connected{node=\"1\"} 1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    fakes.forget();
    fakes.client(LONG).acquire("n").await.unwrap();
    assert_eq!(fakes.seen().iter().map(|(node, _)| *node).collect::<Vec<_>>(), [1]);
}

/// No message named the node that could not be reached, and the advice was to look at the cluster's
/// status.
#[tokio::test]
async fn an_error_says_which_node_cannot_be_reached_and_where() {
    let fakes = Fakes::start(1, 1, &[1], |_, _| Reaction::Silence).await;
    let address = fakes.config.nodes[0].address.clone();
    let error = fakes.client(Duration::from_secs(1)).acquire("n").await.unwrap_err();
    assert!(error.message.contains(&format!("node 1 at {address}")), "{error}");
    let health = fakes.get("/healthz").await;
    assert!(health.contains(&format!("node 1 at {address}")), "{health}");
}

/// Waits as calls of their own took all HTTP/2 streams of a connection, and its renewals hung
/// behind them.
#[tokio::test]
async fn waits_of_a_connection_leave_room_for_its_short_calls() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| grants(operation)).await;
    let channel = channel(&fakes).await;
    let (refusals, mut refused) = mpsc::channel(1_000);
    for n in 0..600 {
        let (mut client, refusals) = (LockServiceClient::new(channel.clone()), refusals.clone());
        tokio::spawn(async move {
            if let Err(status) = client.acquire(wait(format!("n{n}"))).await {
                let _ = refusals.send(status).await;
            }
        });
    }
    for _ in 0..600 - 512 {
        let status = soon("refused", refused.recv()).await.unwrap();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    }
    soon("the others wait", fakes.until(512, |_, op| is_wait(op))).await;
    let mut client = LockServiceClient::new(channel);
    let renewal = client.renew(RenewRequest { name: "held".into(), fencing_token: 1 });
    soon("renewed beside its waits", renewal).await.unwrap();
}

/// Sixteen thousand waits of one client, over several streams, took all the places of the gateway.
#[tokio::test]
async fn waits_are_bounded_over_all_streams_of_a_connection() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| grants(operation)).await;
    let channel = channel(&fakes).await;
    let mut streams = Vec::new();
    let mut refused = 0;
    for s in 0..3 {
        let mut stream = Raw::open(&channel).await;
        stream.send(0, (0..2_000).map(|n| Op::Acquire(wait(format!("{s}/{n}"))))).await;
        let expected = if s == 2 { 6_000 - 4_096 } else { 0 };
        refused += stream.results(expected).await.iter().filter(|answer| is_busy(answer)).count();
        streams.push(stream);
    }
    assert_eq!(refused, 6_000 - 4_096);
    soon("the others wait", fakes.until(4_096, |_, op| is_wait(op))).await;
    streams[2].send(0, [renew()]).await;
    assert!(
        matches!(streams[2].results(1).await[0], Answer::Renew(_)),
        "what is short gets through"
    );
    let mut other = Raw::open(&self::channel(&fakes).await).await;
    other.send(0, [Op::Acquire(wait("other".into())), renew()]).await;
    assert!(matches!(other.results(1).await[0], Answer::Renew(_)));
    soon("another client waits", fakes.until(4_097, |_, op| is_wait(op))).await;
    drop(streams);
    drop(channel);
    soon("nothing survives its client", fakes.until(4_096, |_, op| is_cancel(op))).await;
    soon("the places are free", async {
        while !fakes.get("/metrics").await.contains("palisade_gateway_waits 1\n") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// After one refused cancel, a dead client stayed in its queue for its whole wait.
#[tokio::test]
async fn a_cancel_for_a_lost_client_is_tried_until_it_is_answered() {
    let cancels = AtomicUsize::new(0);
    let fakes = Fakes::start(1, 3, &[], move |_, operation| match operation.op.as_ref().unwrap() {
        NodeOp::CancelWait(_) if cancels.fetch_add(1, Ordering::SeqCst) < 5 => {
            code(ErrorCode::Busy)
        }
        _ => grants(operation),
    })
    .await;
    let mut stream = Raw::open(&channel(&fakes).await).await;
    stream.send(0, [Op::Acquire(wait("n".into()))]).await;
    soon("it waits", fakes.until(1, |_, op| is_wait(op))).await;
    drop(stream);
    soon("tried again", fakes.until(6, |_, op| is_cancel(op))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fakes.count(|_, op| is_cancel(op)), 6, "and no more once it is answered");
}

fn cancelled_names(fakes: &Fakes) -> BTreeSet<String> {
    let name = |(_, operation): (u64, NodeOperation)| match operation.op {
        Some(NodeOp::CancelWait(cancel)) => Some(cancel.name),
        _ => None,
    };
    fakes.seen().into_iter().filter_map(name).collect()
}

/// A shard without a leader kept the places of dead clients for as long as their waits, and live
/// clients got none. A later version kept each place until its first cancel, which for the last of
/// many was minutes away.
#[tokio::test]
async fn places_of_lost_waits_are_free_though_their_queues_cannot_be_left() {
    const WAITS: usize = 2_000;
    let fakes = Fakes::start(1, 3, &[], |_, operation| match operation.op.as_ref().unwrap() {
        NodeOp::CancelWait(_) => code(ErrorCode::NoLeader),
        _ => grants(operation),
    })
    .await;
    let mut stream = Raw::open(&channel(&fakes).await).await;
    stream.send(0, (0..WAITS).map(|n| Op::Acquire(wait(format!("n{n}"))))).await;
    soon("they wait", fakes.until(WAITS, |_, op| is_wait(op))).await;
    drop(stream);
    soon("the places are free", async {
        while !fakes.get("/metrics").await.contains("palisade_gateway_waits 0\n") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let tried = cancelled_names(&fakes).len();
    assert!(tried < WAITS, "all {tried} were tried before");
    let before = fakes.count(|_, op| is_cancel(op));
    soon("and the queues are left still", fakes.until(before + 1, |_, op| is_cancel(op))).await;
}

/// Cancels that waited for a leader took all the slots, and those of other shards came minutes
/// later.
#[tokio::test]
async fn a_shard_without_a_leader_does_not_hold_up_the_leaves_of_others() {
    let names: Vec<String> = (0..3_000).map(|n| format!("n{n}")).collect();
    let map = routing::ClusterConfig::dev(2, 3, 20_000).unwrap().shard_map();
    let on_first = move |name: &str| map.route(name).shard.0 == map.shards().next().unwrap().0.0;
    let (stuck, sound): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| on_first(name));
    let is_stuck = {
        let stuck: BTreeSet<String> = stuck.iter().cloned().collect();
        move |name: &str| stuck.contains(name)
    };
    let fakes = Fakes::start(2, 3, &[], move |_, operation| match operation.op.as_ref().unwrap() {
        NodeOp::CancelWait(cancel) if is_stuck(&cancel.name) => code(ErrorCode::NoLeader),
        _ => grants(operation),
    })
    .await;
    let mut stream = Raw::open(&channel(&fakes).await).await;
    let (stuck, sound) = (&stuck[..1_000], &sound[..10]);
    stream.send(0, stuck.iter().chain(sound).map(|name| Op::Acquire(wait(name.clone())))).await;
    soon("they wait", fakes.until(1_010, |_, op| is_wait(op))).await;
    drop(stream);
    soon("the sound shard's are left", async {
        while !sound.iter().all(|name| cancelled_names(&fakes).contains(name)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let before = cancelled_names(&fakes).into_iter().filter(|name| stuck.contains(name)).count();
    assert!(before < 500, "{before} of the other shard came first");
}

/// A caller without a request id hung up before its answer, and its grant was held for the whole
/// TTL.
#[tokio::test]
async fn an_acquire_whose_client_vanished_before_the_answer_is_let_go() {
    for over_stream in [false, true] {
        let fakes = Fakes::start(1, 3, &[], |_, operation| match operation.op.as_ref().unwrap() {
            NodeOp::Acquire(_) => Reaction::Silence,
            NodeOp::CancelWait(cancel) => granted_before(cancel, 7),
            _ => grants(operation),
        })
        .await;
        let channel = channel(&fakes).await;
        let acquire = AcquireRequest { name: "n".into(), ..Default::default() };
        if over_stream {
            let mut stream = Raw::open(&channel).await;
            stream.send(0, [Op::Acquire(acquire)]).await;
            soon("asked", fakes.until(1, |_, op| matches!(op, NodeOp::Acquire(_)))).await;
        } else {
            let mut client = LockServiceClient::new(channel.clone());
            let call = tokio::spawn(async move { client.acquire(acquire).await });
            soon("asked", fakes.until(1, |_, op| matches!(op, NodeOp::Acquire(_)))).await;
            call.abort();
        }
        let released = fakes
            .until(1, |_, op| matches!(op, NodeOp::Release(release) if release.fencing_token == 7));
        soon("let go", released).await;
    }
}

/// Copies of acquires lay in a socket for long, and were carried out when they came out of it.
#[tokio::test]
async fn what_was_held_up_longer_than_its_sender_waits_is_not_done() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| grants(operation)).await;
    let mut stream = Raw::open(&channel(&fakes).await).await;
    stream.send(100_000, [renew()]).await;
    assert!(matches!(stream.results(1).await[0], Answer::Renew(_)));
    let acquire = AcquireRequest { name: "late".into(), ..Default::default() };
    stream.send(1, [Op::Acquire(acquire), renew()]).await;
    assert!(stream.results(2).await.iter().all(is_busy));
    assert_eq!(fakes.seen().len(), 1, "nothing went on to a node");
    stream.send(1, [Op::Acquire(wait("waits".into()))]).await;
    soon("a wait goes on", fakes.until(1, |_, op| is_wait(op))).await;
    let left =
        fakes.count(|_, op| matches!(op, NodeOp::Acquire(acquire) if acquire.wait_ms <= 500_001));
    assert_eq!(left, 1, "with what is left of it");
    stream.send(110_000, [renew()]).await;
    assert!(matches!(stream.results(1).await[0], Answer::Renew(_)), "what is in time is done");
}

async fn health(fakes: &Fakes) -> (bool, ServingStatus, ServingStatus) {
    let mut client = HealthClient::new(channel(fakes).await);
    let mut check = async |service: &str| {
        client
            .check(HealthCheckRequest { service: service.into() })
            .await
            .unwrap()
            .into_inner()
            .status()
    };
    let (all, locks) = (check("").await, check("palisade.v1.LockService").await);
    (fakes.get("/healthz").await.starts_with("HTTP/1.1 200"), all, locks)
}

/// `/healthz` said ok without a quorum, and `grpc.health.v1` was not served.
#[tokio::test]
async fn probes_are_told_whether_every_shard_has_a_leader() {
    let fakes = Fakes::start(2, 3, &[], |_, operation| grants(operation)).await;
    let becomes = async |serving: bool| {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        while health(&fakes).await != (serving, status, status) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("serves", becomes(true)).await;
    let leader = fakes.said.lock().unwrap().leaders.insert(1, 0).unwrap();
    soon("a quorum is lost", becomes(false)).await;
    assert!(fakes.get("/healthz").await.contains("shard 1 has no leader"));
    fakes.said.lock().unwrap().leaders.insert(1, leader);
    soon("it is back", becomes(true)).await;
    // An operator may want the shards that are left to be served.
    fakes.gateway.healthy_with(1);
    fakes.said.lock().unwrap().leaders.insert(1, 0);
    let partly = async {
        let serving = ServingStatus::Serving;
        while health(&fakes).await != (false, serving, serving) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the other shard is served", partly).await;
    fakes.gateway.healthy_with(2);
    soon("both are asked for", becomes(false)).await;
    let unknown = HealthClient::new(channel(&fakes).await)
        .check(HealthCheckRequest { service: "x".into() })
        .await;
    assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound);
}

/// The internal protocol is only for gateways and nodes to call.
#[tokio::test]
async fn reflection_shows_what_clients_use_and_nothing_else() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let fakes = Fakes::start(1, 3, &[], |_, operation| grants(operation)).await;
    let mut client = ServerReflectionClient::new(channel(&fakes).await);
    let mut ask = async |message_request: MessageRequest| {
        let request = ServerReflectionRequest {
            message_request: Some(message_request),
            ..Default::default()
        };
        let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
        answers
            .into_inner()
            .message()
            .await
            .map(|answer| answer.and_then(|answer| answer.message_response))
    };
    let listed = ask(MessageRequest::ListServices(String::new())).await.unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("{listed:?}") };
    let services: BTreeSet<&str> =
        listed.service.iter().map(|service| service.name.as_str()).collect();
    let public = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "palisade.v1.ClusterService",
        "palisade.v1.LockService",
    ];
    assert_eq!(services, BTreeSet::from(public));
    let symbol = |symbol: &str| MessageRequest::FileContainingSymbol(symbol.to_owned());
    let found = ask(symbol("palisade.v1.AcquireRequest")).await.unwrap();
    assert!(matches!(found, Some(MessageResponse::FileDescriptorResponse(_))), "{found:?}");
    let hidden = ask(symbol("palisade.internal.v1.ShardService")).await.unwrap_err();
    assert_eq!(hidden.code(), tonic::Code::NotFound);
}
