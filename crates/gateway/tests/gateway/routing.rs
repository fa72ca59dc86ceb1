//! The way of one operation through a gateway to small fake nodes: leaders, retries, stale reads,
//! refusals.

use crate::fake::{Fakes, LONG, Reaction, code, error, granted, not_leader};
use client::{AcquireOptions, Client, ClientOptions, Consistency, ErrorCode};
use futures_util::future::join_all;
use routing::{MapVersion, Member, NodeId, Replicas, ShardId, ShardMap};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as Answer;
use wire::internal::v1::{Operation, StaleRoute};
use wire::v1::{CheckResponse, Error, ReleaseResponse};

fn grants(operation: &Operation) -> Reaction {
    match operation.op.as_ref().unwrap() {
        Op::Acquire(request) => granted(request, 7),
        Op::Release(_) => Reaction::Answer(Answer::Release(ReleaseResponse::default())),
        _ => Reaction::Answer(Answer::Check(CheckResponse::default())),
    }
}

fn is_acquire(op: &Op) -> bool {
    matches!(op, Op::Acquire(_))
}

#[tokio::test]
async fn not_leader_answers_lead_to_the_leader_and_the_next_operation_goes_there_at_once() {
    let leads = 2;
    let fakes = Fakes::start(1, 3, &[], move |node, operation| match node == leads {
        true => grants(operation),
        false => not_leader(leads, 5),
    })
    .await;
    let client = fakes.client(LONG);
    let held =
        client.acquire(AcquireOptions::new("jobs/1").ttl(Duration::from_secs(2))).await.unwrap();
    assert_eq!(
        (held.fencing_token, held.owner_id.as_str(), held.ttl_ms),
        (7, "me", 2_000),
        "unchanged"
    );
    fakes.forget();
    client.acquire("jobs/1").await.unwrap();
    client.release("jobs/1", 7).await.unwrap();
    assert_eq!(fakes.seen().iter().map(|(node, _)| *node).collect::<Vec<u64>>(), [leads, leads]);
}

#[tokio::test]
async fn an_operation_carries_its_route_and_its_defaults() {
    let fakes = Fakes::start(4, 3, &[], |_, operation| grants(operation)).await;
    fakes.client(LONG).acquire("jobs/1").await.unwrap();
    let (_, operation) = fakes.seen().pop().unwrap();
    let expected = fakes.config.shard_map().route("jobs/1");
    let route = operation.route.unwrap();
    assert_eq!(
        (route.shard, route.slot, route.map_version),
        (expected.shard.0, expected.slot.index().into(), 1)
    );
    let Some(Op::Acquire(request)) = operation.op else { panic!() };
    assert_eq!((request.ttl_ms, request.request_id.len()), (30_000, 16));
}

/// Two shards exchange their slots by a newer map of the nodes.
#[tokio::test]
async fn a_stale_route_is_followed_by_the_routes_of_its_node() {
    let fakes = Fakes::start(2, 3, &[], |_, operation| {
        match operation.route.expect("a routed operation").map_version {
            2 => grants(operation),
            old => {
                assert_eq!(old, 1);
                let message = "an older map".to_owned();
                Reaction::Answer(Answer::StaleRoute(StaleRoute { message, map_version: 2 }))
            }
        }
    })
    .await;
    let file = routing::RouteTable::of(&fakes.config);
    let shards = file.map().shards().map(|(shard, replicas)| (shard, replicas.clone()));
    let runs = [(8_192, ShardId(1)), (8_192, ShardId(0))];
    let map = ShardMap::of_runs(MapVersion(2), runs, shards).unwrap();
    let newer = file.with_map(map.clone()).unwrap();
    fakes.said.lock().unwrap().routes = Some((&newer).into());
    let client = fakes.client(LONG);
    for name in ["a", "jobs/1", "n"] {
        client.acquire(name).await.unwrap();
        let (_, operation) = fakes.seen().pop().unwrap();
        let route = operation.route.unwrap();
        assert_eq!((route.shard, route.map_version), (map.route(name).shard.0, 2));
        assert_ne!(map.route(name).shard, fakes.config.shard_map().route(name).shard);
    }
    // An older map is not taken back.
    fakes.said.lock().unwrap().routes = Some((&file).into());
    client.acquire("b").await.unwrap();
    assert_eq!(fakes.seen().pop().unwrap().1.route.unwrap().map_version, 2);
}

/// Node 4 comes and takes the place of node 1, and nobody starts the gateway again.
#[tokio::test]
async fn nodes_that_come_and_go_are_followed() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| grants(operation)).await;
    let file = routing::RouteTable::of(&fakes.config);
    let address = fakes.start_node(4).await;
    let (replicas, mut nodes) = (
        Replicas { nodes: [2, 3, 4].map(NodeId).into(), preferred_leader: NodeId(4) },
        file.members().map(|(node, member)| (node, member.clone())).collect::<BTreeMap<_, _>>(),
    );
    let first = nodes.remove(&NodeId(1)).unwrap();
    nodes.insert(NodeId(4), Member { address, ..first });
    let later = file.as_of(7, [(ShardId(0), replicas)], nodes).unwrap().unwrap();
    {
        let mut said = fakes.said.lock().unwrap();
        (said.routes, said.leaders) = (Some((&later).into()), [(0, 4)].into());
    }
    let connected = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains("node_connected{"));
        lines.map(ToOwned::to_owned).collect()
    };
    let of = |node: u64| format!("palisade_gateway_node_connected{{node=\"{node}\"}} 1");
    while connected(&fakes.get("/metrics").await) != [2, 3, 4].map(of) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client = fakes.client(LONG);
    while fakes.seen().last().is_none_or(|(node, _)| *node != 4) {
        client.acquire("n").await.unwrap();
    }
    let (_, operation) = fakes.seen().pop().unwrap();
    assert_eq!(operation.route.unwrap().map_version, 1, "the slots are where they were");
    // The former one is forgotten, and what a node that is behind says is not taken back.
    fakes.said.lock().unwrap().routes = Some((&file).into());
    fakes.forget();
    client.acquire("n").await.unwrap();
    assert_eq!(fakes.seen().last().map(|(node, _)| *node), Some(4));
    let status = client.cluster_status().await.unwrap();
    assert_eq!(status.nodes.iter().map(|node| node.node).collect::<Vec<_>>(), [2, 3, 4]);
}

#[tokio::test]
async fn a_connection_that_dies_is_followed_by_the_same_request_id() {
    let deaths = AtomicU64::new(0);
    let fakes =
        Fakes::start(1, 3, &[], move |_, operation| match deaths.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Reaction::Hangup,
            _ => grants(operation),
        })
        .await;
    fakes.client(LONG).acquire("n").await.unwrap();
    let ids: Vec<Vec<u8>> = fakes
        .seen()
        .into_iter()
        .filter_map(|(_, operation)| match operation.op {
            Some(Op::Acquire(request)) => Some(request.request_id),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[tokio::test]
async fn a_dead_node_is_passed_over() {
    let fakes = Fakes::start(1, 3, &[1], |_, operation| grants(operation)).await;
    let client = fakes.client(LONG);
    for _ in 0..5 {
        client.acquire("n").await.unwrap();
    }
    assert_eq!(fakes.count(|node, op| node != 1 && is_acquire(op)), 5);
}

#[tokio::test]
async fn without_a_quorum_it_says_so_before_the_client_gives_up() {
    let fakes = Fakes::start(1, 3, &[], |_, _| code(ErrorCode::NoLeader)).await;
    let refused = fakes.client(Duration::from_millis(1_000)).acquire("n").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoLeader);
    assert!(refused.message.contains("says the fake"), "{refused}");
    assert!(fakes.count(|_, op| is_acquire(op)) > 3, "tried more than once around");
}

#[tokio::test]
async fn a_leader_that_falls_silent_leaves_doubt() {
    let fakes = Fakes::start(1, 3, &[], |_, _| Reaction::Silence).await;
    let unknown = fakes.client(Duration::from_millis(500)).acquire("n").await.unwrap_err();
    assert!(unknown.is_outcome_unknown(), "{unknown}");
}

#[tokio::test]
async fn stale_checks_are_spread_over_the_followers() {
    let answer = |node| {
        Reaction::Answer(Answer::Check(CheckResponse { answered_by: node, ..Default::default() }))
    };
    let fakes = Fakes::start(1, 5, &[], move |node, _| answer(node)).await;
    let leader = fakes.leader(0).0;
    let client = fakes.client(LONG);
    for _ in 0..40 {
        let checked = client.check("n", Consistency::Stale).await.unwrap();
        assert_ne!(checked.answered_by, leader);
    }
    for node in (1..=5).filter(|node| *node != leader) {
        assert_eq!(fakes.count(|asked, _| asked == node), 10, "node {node}");
    }
    fakes.forget();
    assert_eq!(client.check("n", Consistency::Linearizable).await.unwrap().answered_by, leader);
}

#[tokio::test]
async fn a_stale_check_does_not_wait_for_a_replica_that_is_silent() {
    let fakes = Fakes::start(1, 3, &[], |node, _| match node {
        3 => Reaction::Answer(Answer::Check(CheckResponse {
            answered_by: node,
            ..Default::default()
        })),
        _ => Reaction::Silence,
    })
    .await;
    let client = fakes.client(LONG);
    for _ in 0..3 {
        assert_eq!(client.check("n", Consistency::Stale).await.unwrap().answered_by, 3);
    }
}

#[tokio::test]
async fn bad_input_is_refused_before_any_node_is_asked() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| grants(operation)).await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", fakes.gateway.address()))
            .unwrap();
    let mut raw = wire::v1::lock_service_client::LockServiceClient::connect(channel).await.unwrap();
    let long = "n".repeat(513);
    for name in ["", "a\nb", &long] {
        let request = wire::v1::AcquireRequest { name: name.into(), ..Default::default() };
        let status = raw.acquire(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(Error::from_status(&status).unwrap().code(), ErrorCode::InvalidArgument);
    }
    let request = wire::v1::AcquireRequest { name: "n".into(), ttl_ms: 99, ..Default::default() };
    assert_eq!(raw.acquire(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let request = wire::v1::OpenSessionRequest { ttl_ms: 1, ..Default::default() };
    assert_eq!(raw.open_session(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(fakes.seen().len(), 0);

    let request = wire::v1::AcquireRequest { name: "n".into(), ..Default::default() };
    assert_eq!(
        raw.acquire(request).await.unwrap().into_inner().grant.unwrap().fencing_token,
        7,
        "the connection goes on"
    );
}

#[tokio::test]
async fn unary_calls_carry_typed_errors() {
    let fakes = Fakes::start(1, 3, &[], |_, _| error(Error::held("bob has it", 41, "bob"))).await;
    let options = ClientOptions::new().timeout(LONG).unary(true);
    let client = Client::with_options([fakes.gateway.address().to_string()], options);
    let held = client.acquire("n").await.unwrap_err();
    assert_eq!(
        (held.code, held.current_token, held.holder.as_deref()),
        (ErrorCode::Held, Some(41), Some("bob"))
    );
    assert!(held.is_held());
}

#[tokio::test]
async fn many_operations_share_frames_towards_the_nodes() {
    let fakes = Fakes::start(4, 3, &[], |_, operation| grants(operation)).await;
    let client = fakes.client(LONG);
    let outcomes = join_all((0..3_000).map(|n| client.acquire(format!("name-{n}")))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let frames = fakes.frames();
    assert_eq!(frames.iter().sum::<usize>(), fakes.seen().len());
    assert!(frames.len() < 1_000, "{} frames for 3,000 operations", frames.len());
}

#[tokio::test]
async fn a_stream_with_too_many_operations_in_flight_is_refused_as_busy() {
    use link::mux::{Failure, Link, LinkOptions, Locks};
    let fakes = Fakes::start(1, 3, &[], |_, _| Reaction::Silence).await;
    let target = net::dial::Target::plain(&fakes.gateway.address().to_string()).unwrap();
    let link = Link::<Locks>::start(target, LinkOptions::default());
    let acquire = |n: u32| {
        let request = wire::v1::AcquireRequest {
            name: format!("n{n}"),
            wait_ms: 60_000,
            ..Default::default()
        };
        wire::v1::Operation::of(wire::v1::operation::Op::Acquire(request))
    };
    let (refusals, mut refused) = tokio::sync::mpsc::channel(5_000);
    for n in 0..4_100 {
        let (link, refusals) = (link.clone(), refusals.clone());
        tokio::spawn(async move {
            if let Err(Failure::Refused(error)) = link.call(acquire(n), 60_000).await {
                refusals.send(error).await.unwrap();
            }
        });
    }
    for _ in 0..4 {
        assert_eq!(refused.recv().await.unwrap().code(), ErrorCode::Busy);
    }
    assert!(refused.try_recv().is_err(), "the others are in flight");
}
