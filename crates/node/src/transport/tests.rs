//! Frames over a loopback socket, between a node without replicas and any caller.

use super::links::take_view;
use super::outbox::Outbox;
use super::outgoing::Outgoing;
use super::*;
use crate::clock::Clock;
use crate::context::Context;
use crate::host::{HostMessage, InboxEnd};
use crate::lifecycle::Phase;
use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_URGENT_BYTES_MAX, PEER_FRAME_BYTES, PROTOCOL};
use crate::mailbox::Received;
use crate::service::Shards;
use crate::testing::{FINGERPRINT, activated, context, context_of, founded};
use routing::{Fingerprint, META, NodeId, ShardId};
use shard::{Input, Member, Status, TopologyNews};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;
use wire::internal::v1::peer_service_client::PeerServiceClient;
use wire::internal::v1::{
    DeliverRequest, GreetRequest, GreetResponse, Hello, PeerMessage, StoreRun,
};

/// Waits for messages; the test wants only the first.
fn first(inbox: &InboxEnd) -> HostMessage {
    let mut messages = Vec::new();
    assert_eq!(inbox.receiver.take_all(&mut messages, None), Received::Some);
    messages.remove(0)
}

pub(super) fn message(shard: u32, bytes: usize) -> PeerMessage {
    PeerMessage { shard, raft: vec![0; bytes].into() }
}

pub(super) fn usual(usual: Vec<PeerMessage>) -> Lanes {
    Lanes { usual, urgent: Vec::new() }
}

/// The stream from this node to node 2, which is at this address by a later view.
pub(super) async fn outgoing(
    sender: &Arc<Context>,
    outboxes: &Outboxes,
    address: String,
) -> Outgoing {
    let mut view = (*sender.view.now()).clone();
    view.version += 1;
    view.nodes.get_mut(&NodeId(2)).unwrap().address = address;
    assert!(take_view(sender, view).await);
    Outgoing {
        context: sender.clone(),
        greeter: Arc::new(Greeter::new(sender.clone())),
        peer: NodeId(2),
        outbox: outboxes.of(NodeId(2)).unwrap(),
        metrics: sender.metrics.peer(NodeId(2)),
    }
}

/// A greeting from node 1, in the first run of its directory.
pub(super) fn hello(incarnation: u32, store: u64) -> Hello {
    let runs = vec![StoreRun { boot: 1, life: store, opened: 0 }];
    Hello {
        node: 1,
        fingerprint: FINGERPRINT.0.to_vec(),
        protocol: PROTOCOL,
        incarnation,
        store,
        runs,
        ..Hello::default()
    }
}

/// A greeting from node 1, in the second run of the same directory, opened with this record.
fn second_hello(opened: u64) -> Hello {
    let mut second = hello(0, 11);
    second.runs.push(StoreRun { boot: 2, life: 99, opened });
    second.record = opened;
    second
}

/// Serves node 2 on a free port.
pub(super) async fn serve() -> (Arc<Context>, InboxEnd, String) {
    let (context, inbox) = context(NodeId(2), 10);
    let address = serve_as(&context, &Arc::new(Outboxes::new([NodeId(1)]))).await;
    (context, inbox, address)
}

/// Serves a node on a free port, and returns its address.
pub(super) async fn serve_as(context: &Arc<Context>, outboxes: &Arc<Outboxes>) -> String {
    let listener = crate::server::listen(None, "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let greeter = Arc::new(Greeter::new(context.clone()));
    let (shards, peers) = (
        Shards::new(context.clone(), Duration::from_secs(1)),
        Peers::new(context.clone(), greeter, outboxes.clone()),
    );
    tokio::spawn(crate::server::serve(
        listener,
        context.clone(),
        Arc::new(shards),
        Arc::new(peers),
    ));
    address
}

pub(super) async fn knock(address: &str, hello: Option<Hello>) -> tonic::Status {
    let mut client = PeerServiceClient::connect(format!("http://{address}")).await.unwrap();
    let frames = tokio_stream::iter([DeliverRequest {
        hello,
        messages: vec![message(0, 1)],
        ..DeliverRequest::default()
    }]);
    client.deliver(frames).await.expect_err("it was let in")
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_with_a_reason() {
    let (context, inbox, address) = serve().await;
    let hello = hello(0, 11);
    let other_cluster = Hello { fingerprint: vec![8; 16], ..hello.clone() };
    let other_protocol = Hello { protocol: PROTOCOL + 1, ..hello.clone() };
    let unknown = Hello { node: 9, ..hello.clone() };
    let myself = Hello { node: 2, ..hello.clone() };
    let without_runs = Hello { runs: Vec::new(), ..hello.clone() };
    let lost = Hello { is_lost: true, ..hello.clone() };
    for (hello, reason) in [
        (Some(other_cluster), "settings that are fixed at creation"),
        (Some(other_protocol), "protocol"),
        (Some(unknown), "is no node of the cluster"),
        (Some(myself), "another process"),
        (Some(without_runs), "does not say which data directory"),
        (Some(lost), "does not say which data directory"),
        (None, "hello"),
    ] {
        let status = knock(&address, hello).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
    let mut messages = Vec::new();
    let got = inbox.receiver.take_all(&mut messages, Some(Duration::ZERO));
    assert_eq!(got, Received::Nothing, "a stranger's message got in: {messages:?}");
    context.lifecycle.enter(Phase::Stopped);
}

async fn greet(address: &str, hello: Hello) -> GreetResponse {
    let mut client = PeerServiceClient::connect(format!("http://{address}")).await.unwrap();
    client
        .greet(GreetRequest { hello: Some(hello) })
        .await
        .expect("a peer of this cluster")
        .into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_with_another_store_is_told_to_stop() {
    let (context, inbox, address) = serve().await;
    let accepted = greet(&address, hello(0, 11)).await;
    assert_eq!((accepted.refused_store.as_str(), accepted.hello.unwrap().node), ("", 2));
    let told = first(&inbox);
    assert!(
        matches!(told, HostMessage::All(Input::Incarnation { node: NodeId(1), incarnation: 0 })),
        "{told:?}"
    );
    let wiped = greet(&address, hello(0, 12)).await;
    assert!(
        wiped.refused_store.contains("start it with --reseed") && wiped.hello.is_none(),
        "{wiped:?}"
    );
    let status = knock(&address, Some(hello(0, 12))).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");

    assert_eq!(greet(&address, Hello { force: true, ..hello(7, 13) }).await.refused_store, "");
    let told = first(&inbox);
    assert!(
        matches!(told, HostMessage::All(Input::Incarnation { incarnation: 7, .. })),
        "{told:?}"
    );
    let old = greet(&address, hello(0, 11)).await;
    assert!(old.refused_store.contains("has been replaced"), "{old:?}");
    context.lifecycle.enter(Phase::Stopped);
}

/// The messages of a frame are delivered before the record that they acknowledge is counted. A run
/// is ignored once there is a later one.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_the_last_frame_is_refused() {
    let (context, inbox, address) = serve().await;
    let mut client = PeerServiceClient::connect(format!("http://{address}")).await.unwrap();
    let (frames, stream) = tokio::sync::mpsc::channel(4);
    let first = DeliverRequest { hello: Some(hello(0, 11)), ..DeliverRequest::default() };
    frames.send(first).await.unwrap();
    frames
        .send(DeliverRequest {
            messages: vec![message(0, 1)],
            record: 700,
            ..DeliverRequest::default()
        })
        .await
        .unwrap();
    let call = tokio::spawn(async move {
        client.deliver(tokio_stream::wrappers::ReceiverStream::new(stream)).await
    });
    let heard = tokio::task::spawn_blocking(move || {
        let mut told = Vec::new();
        while !told.iter().any(|message| matches!(message, HostMessage::Peers(_))) {
            assert_eq!(inbox.receiver.take_all(&mut told, None), Received::Some);
        }
        inbox
    });
    let inbox = heard.await.unwrap();

    let older = greet(&address, second_hello(699)).await.refused_store;
    assert!(older.contains("older copy") && older.contains("record 700"), "{older}");
    assert_eq!(greet(&address, second_hello(700)).await.refused_store, "");
    frames
        .send(DeliverRequest {
            messages: vec![message(0, 1)],
            record: 701,
            ..DeliverRequest::default()
        })
        .await
        .unwrap();
    let status = call.await.unwrap().expect_err("the former run is still listened to");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let mut messages = Vec::new();
    inbox.receiver.take_all(&mut messages, Some(Duration::ZERO));
    assert!(
        !messages.iter().any(|message| matches!(message, HostMessage::Peers(_))),
        "{messages:?}"
    );
    context.lifecycle.enter(Phase::Stopped);
}

/// A copy that another peer refuses must not keep its original out.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_by_is_remembered_from_its_first_message_on() {
    let (context, _inbox, address) = serve().await;
    assert_eq!(greet(&address, hello(0, 11)).await.refused_store, "");
    let copy = Hello { record_with_messages: true, ..second_hello(0) };
    assert_eq!(greet(&address, copy.clone()).await.refused_store, "");
    let mut original = second_hello(5);
    original.runs[1].life = 100;
    assert_eq!(
        greet(&address, Hello { record_with_messages: true, ..original.clone() })
            .await
            .refused_store,
        ""
    );

    let mut client = PeerServiceClient::connect(format!("http://{address}")).await.unwrap();
    let silent = DeliverRequest {
        hello: Some(Hello { record_with_messages: true, ..original }),
        record: 5,
        ..DeliverRequest::default()
    };
    let speaks =
        DeliverRequest { messages: vec![message(0, 1)], record: 6, ..DeliverRequest::default() };
    client.deliver(tokio_stream::iter([silent, speaks])).await.expect("it is fit");
    let other = greet(&address, copy).await.refused_store;
    assert!(other.contains("another process has run"), "{other}");
    // A new name is remembered at once, because a re-seed sends nothing before the leader speaks to
    // it.
    assert_eq!(
        greet(&address, Hello { record_with_messages: true, force: true, ..hello(3, 12) })
            .await
            .refused_store,
        ""
    );
    assert_eq!(context.identities.known()[&NodeId(1)].incarnation, 3);
    context.lifecycle.enter(Phase::Stopped);
}

/// What a replica on node 2 knows of a group of nodes 1 and 2, with this birth of the one on node 1.
fn of_two(shard: ShardId, birth: u32) -> Status {
    let member = |node, incarnation| Member { node: NodeId(node), incarnation, learner: false };
    let members = vec![member(1, birth), member(2, 0)];
    Status { shard, node: NodeId(2), members, ..Status::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_directory_learns_the_next_incarnation() {
    let (context, _inbox, address) = serve().await;
    let shards = [ShardId(0), ShardId(1), META];
    context.board.admit(META);
    shards.iter().for_each(|shard| context.board.publish(of_two(*shard, 0)));
    let mut file = (*context.view.now()).clone();
    file.nodes.get_mut(&NodeId(2)).unwrap().address = address.clone();
    let (file, began) = (file, Clock::start());
    let choose =
        async |force| choose_incarnation((NodeId(1), FINGERPRINT), None, &file, began, force).await;
    let now = || u32::try_from(began.now().wall_ms / 1_000).unwrap();
    let stands_by = tokio::time::timeout(Duration::from_secs(1), choose(false)).await;
    assert!(stands_by.is_err(), "node 2 may have forgotten something itself: {stands_by:?}");
    context.identities.take_part().unwrap();
    let before = now();
    let chosen = choose(false).await.expect("nobody knows it");
    assert!((before..=now()).contains(&chosen.incarnation), "the second of wall time: {chosen:?}");
    assert_eq!(chosen.shards, shards.into());

    greet(&address, hello(u32::MAX - 99, 11)).await;
    assert_eq!(choose(true).await.expect("forced").incarnation, u32::MAX - 98);
    let ask =
        Hello { is_lost: true, ..super::hello::hello_without_directory(NodeId(1), FINGERPRINT) };
    let alive = greet(&address, ask).await;
    assert!(alive.refused_store.contains("is running with its former data directory"), "{alive:?}");
    // The former directory falls silent, so the answer changes by itself.
    let chosen = choose(false).await.expect("it was silent for a while");
    assert_eq!(chosen.incarnation, u32::MAX - 98);
    context.board.publish(of_two(ShardId(1), u32::MAX - 9));
    let chosen = choose(false).await.expect("as before");
    assert_eq!(chosen.incarnation, u32::MAX - 8, "above the birth of a member");
    context.lifecycle.enter(Phase::Stopped);
}

/// The members that an old checkpoint has are not told before the log after it was applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_tells_of_its_group_once_it_has_applied_what_it_knew_as_committed() {
    let (context, _inbox, address) = serve().await;
    let told = async || {
        let lost = super::hello::hello_without_directory(NodeId(1), FINGERPRINT);
        let greeting = greet(&address, Hello { is_lost: true, ..lost }).await;
        greeting.groups.iter().map(|group| group.shard).collect::<Vec<_>>()
    };
    assert_eq!(told().await, [0; 0], "they have published nothing");
    context.board.publish(Status { committed_index: 9, applied_index: 5, ..of_two(ShardId(0), 0) });
    context.board.publish(of_two(ShardId(1), 0));
    assert_eq!(told().await, [1]);
    let at = |committed_index, applied_index| {
        context.board.publish(Status { committed_index, applied_index, ..of_two(ShardId(0), 0) });
    };
    at(12, 9);
    // Regression: entries are applied step by step, and members were told of the time before them.
    assert_eq!(told().await, [1], "it has not applied what it knew when it was asked");
    let (groups, ()) = tokio::join!(told(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        at(15, 12);
    });
    assert_eq!(groups, [0, 1], "under load it is always a little behind");
    // Regression: the highest birth was looked up before the members that were told with it.
    let lost = super::hello::hello_without_directory(NodeId(1), FINGERPRINT);
    let ask = greet(&address, Hello { is_lost: true, ..lost });
    let (greeting, ()) = tokio::join!(ask, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let reborn = of_two(ShardId(0), 70_000);
        context.board.publish(Status { committed_index: 20, applied_index: 20, ..reborn });
    });
    assert_eq!((greeting.groups.len(), greeting.incarnation), (2, 70_000));
    context.lifecycle.enter(Phase::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_store_is_refused_stops_and_says_why() {
    let (receiver, _inbox, address) = serve().await;
    assert_eq!(greet(&address, hello(0, 11)).await.refused_store, "");
    let (sender, _inbox) = context(NodeId(1), 10);
    let task = tokio::spawn(outgoing(&sender, &Outboxes::new([NodeId(2)]), address).await.run());
    sender.lifecycle.reached(Phase::Failed).await;
    let failure = sender.lifecycle.failure().unwrap().to_string();
    assert!(failure.contains("refused by node 2") && failure.contains("--reseed"), "{failure}");
    assert_eq!(
        sender.identities.awaited(),
        BTreeSet::from([NodeId(2)]),
        "a refusal is no confirmation"
    );
    receiver.lifecycle.enter(Phase::Stopped);
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_confirms_both_ways() {
    let (receiver, _inbox, address) = serve().await;
    let (sender, _inbox) = context(NodeId(1), 10);
    let task = tokio::spawn(outgoing(&sender, &Outboxes::new([NodeId(2)]), address).await.run());
    sender.identities.greeted_by_all().await;
    assert!(sender.identities.awaited().is_empty());
    assert_eq!(sender.identities.known()[&NodeId(2)], receiver.identities.own());
    assert_eq!(receiver.identities.known()[&NodeId(1)], sender.identities.own());
    assert_eq!(receiver.identities.awaited(), BTreeSet::from([NodeId(1)]), "it has not asked");
    for context in [sender, receiver] {
        context.lifecycle.enter(Phase::Stopped);
    }
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_peer_goes_in_one_frame() {
    let (receiver, inbox, address) = serve().await;
    let (sender, _inbox) = context(NodeId(1), 10);
    let outboxes = Outboxes::new([NodeId(2)]);
    for nth in 0..1_000 {
        assert!(outboxes.push(NodeId(2), usual(vec![message(nth % 2, 100)])).is_empty());
    }
    let task = tokio::spawn(outgoing(&sender, &outboxes, address).await.run());
    let frame = |message| match message {
        HostMessage::Peers(messages) => Some(messages),
        _ => None, // the sender's incarnation
    };
    let messages = tokio::task::spawn_blocking(move || {
        let mut told = Vec::new();
        loop {
            assert_eq!(inbox.receiver.take_all(&mut told, None), Received::Some);
            if let Some(messages) = told.drain(..).find_map(frame) {
                return messages;
            }
        }
    });
    let messages = messages.await.unwrap();
    assert_eq!(messages.len(), 1_000);
    assert!(
        messages.iter().enumerate().all(|(nth, (index, _))| *index == nth % 2),
        "the order changed"
    );
    assert_eq!(sender.metrics.peer(NodeId(2)).frames_sent.get(), 1);
    for context in [sender, receiver] {
        context.lifecycle.enter(Phase::Stopped);
    }
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_node_reports_its_peer_unreachable_and_keeps_nothing() {
    let (receiver, _inbox, address) = serve().await;
    let (sender, inbox) = context_of(Fingerprint([1; 16]), NodeId(1), 10);
    let outboxes = Outboxes::new([NodeId(2)]);
    let task = tokio::spawn(outgoing(&sender, &outboxes, address).await.run());
    let got = tokio::task::spawn_blocking(move || first(&inbox)).await.unwrap();
    assert!(matches!(got, HostMessage::All(Input::Unreachable { node: NodeId(2) })), "{got:?}");
    for context in [sender, receiver] {
        context.lifecycle.enter(Phase::Stopped);
    }
    task.await.unwrap();
}

#[tokio::test]
async fn frames_are_full_but_not_fuller() {
    let outbox = Outbox::default();
    outbox.push(usual((0..8).map(|_| message(0, PEER_FRAME_BYTES / 4)).collect()));
    outbox.push(usual(vec![message(0, 3 * PEER_FRAME_BYTES), message(0, 1)]));
    let mut frames = Vec::new();
    while frames.iter().sum::<usize>() < 10 {
        frames.push(outbox.next_frame().await.len());
    }
    assert_eq!(frames, [3, 3, 2, 1, 1], "a message that is larger than a frame goes alone");
    let empty = tokio::time::timeout(Duration::from_millis(1), outbox.next_frame()).await;
    assert!(empty.is_err(), "an empty outbox gave a frame");
}

#[tokio::test]
async fn a_full_outbox_loses_the_newest_and_says_whose() {
    let outbox = Outbox::default();
    let half = OUTBOX_BYTES_MAX / 2 - 100;
    assert!(outbox.push(usual(vec![message(0, half), message(1, half)])).is_empty());
    assert_eq!(
        outbox.push(usual(vec![message(2, half), message(3, 1), message(2, half)])),
        [ShardId(2)]
    );
    let kept: Vec<u32> =
        [outbox.next_frame().await, outbox.next_frame().await, outbox.next_frame().await]
            .into_iter()
            .flatten()
            .map(|message| message.shard)
            .collect();
    assert_eq!(kept, [0, 1, 3]);
}

#[tokio::test]
async fn a_heartbeat_does_not_queue_behind_appends() {
    let outbox = Outbox::default();
    let appends = (0..40).map(|_| message(0, PEER_FRAME_BYTES)).collect();
    assert_eq!(outbox.push(usual(appends)), [ShardId(0)], "the outbox is full of them");
    assert_eq!(
        outbox.push(Lanes { urgent: vec![message(1, 40)], usual: Vec::new() }),
        [],
        "there is room for it"
    );
    let frame = outbox.next_frame().await;
    assert_eq!((frame[0].shard, frame.len()), (1, 2), "it goes first, and appends go on with it");
    assert_eq!(outbox.next_frame().await[0].shard, 0);
}

#[tokio::test]
async fn urgent_messages_are_bounded_too_and_keep_their_order() {
    let outbox = Outbox::default();
    let quarter = OUTBOX_URGENT_BYTES_MAX / 4 - 16;
    let urgent = (0..6).map(|shard| message(shard, quarter)).collect();
    assert_eq!(outbox.push(Lanes { urgent, usual: Vec::new() }), [ShardId(4), ShardId(5)]);
    let shards: Vec<u32> = outbox.next_frame().await.iter().map(|message| message.shard).collect();
    assert_eq!(shards, [0, 1, 2, 3]);
}

/// A build of the time before levels says none, and ends with the sentence because it takes the
/// refusal for one of its directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_build_does_not_know_the_active_level_is_told_to_stop() {
    let (context, _inbox, address) = serve().await;
    let former = hello(0, 11);
    let accepted = greet(&address, former.clone()).await;
    let known = accepted.hello.map(|hello| (hello.level_min, hello.level_max));
    assert_eq!((accepted.refused_store.as_str(), known), ("", Some((1, 2))));
    let all = TopologyNews::All(Box::new(activated(founded(), 2)));
    assert!(context.cluster.take(all).unwrap());
    let refused = "level 2 is active, this build knows 1: start the newer one";
    assert_eq!(greet(&address, former.clone()).await.refused_store, refused);
    let lost = Hello { is_lost: true, ..former.clone() };
    assert_eq!(greet(&address, lost).await.refused_store, refused);
    for (level_min, level_max) in [(1, 2), (2, 2), (2, 3)] {
        let newer = Hello { level_min, level_max, ..former.clone() };
        assert_eq!(greet(&address, newer).await.refused_store, "", "{level_min} to {level_max}");
    }
    let too_new = Hello { level_min: 3, level_max: 4, ..former };
    let refused = greet(&address, too_new).await.refused_store;
    assert!(refused.contains("one release at a time"), "{refused}");
    context.lifecycle.enter(Phase::Stopped);
}
