//! Frames over a loopback socket, between a node without replicas and whoever knocks.

use super::outbox::Outbox;
use super::*;
use crate::context::Context;
use crate::host::{HostMessage, InboxEnd};
use crate::lifecycle::Phase;
use crate::limits::{OUTBOX_BYTES_MAX, PEER_FRAME_BYTES, PROTOCOL};
use crate::mailbox::Received;
use crate::service::Shards;
use crate::testing::{FINGERPRINT, context};
use routing::{Fingerprint, NodeId, ShardId};
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;
use wire::v1::peer_service_client::PeerServiceClient;
use wire::v1::{Hello, PeerFrame, PeerMessage};

/// Waits for the first message.
fn first(inbox: &InboxEnd) -> HostMessage {
    let mut messages = Vec::new();
    assert_eq!(inbox.receiver.take_all(&mut messages, None), Received::Some);
    messages.remove(0)
}

fn message(shard: u32, bytes: usize) -> PeerMessage {
    PeerMessage { shard, raft: vec![0; bytes].into() }
}

/// Serves node 2 on a free port.
async fn serve() -> (Arc<Context>, InboxEnd, String) {
    let (context, inbox) = context(NodeId(2), 10);
    let listener = crate::server::listen(None, "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let greeter = Arc::new(Greeter::new(NodeId(2), FINGERPRINT, [NodeId(1)]));
    let (shards, peers) =
        (Shards::new(context.clone()), Peers::new(context.clone(), greeter, Arc::new(Outboxes::new([NodeId(1)]))));
    tokio::spawn(crate::server::serve(listener, context.clone(), shards, peers));
    (context, inbox, address)
}

async fn knock(address: &str, hello: Option<Hello>) -> tonic::Status {
    let mut client = PeerServiceClient::connect(format!("http://{address}")).await.unwrap();
    let frames = tokio_stream::iter([PeerFrame { hello, messages: vec![message(0, 1)] }]);
    client.deliver(frames).await.expect_err("it was let in")
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_with_a_reason() {
    let (context, inbox, address) = serve().await;
    let hello = Hello { node: 1, fingerprint: FINGERPRINT.0.to_vec(), protocol: PROTOCOL };
    let other_cluster = Hello { fingerprint: vec![8; 16], ..hello.clone() };
    let other_protocol = Hello { protocol: PROTOCOL + 1, ..hello.clone() };
    let unknown = Hello { node: 9, ..hello.clone() };
    let myself = Hello { node: 2, ..hello.clone() };
    for (hello, reason) in [
        (Some(other_cluster), "cluster-frozen settings"),
        (Some(other_protocol), "protocol"),
        (Some(unknown), "shares no shard"),
        (Some(myself), "another process"),
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

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_peer_goes_in_one_frame() {
    let (receiver, inbox, address) = serve().await;
    let (sender, _inbox) = context(NodeId(1), 10);
    let outboxes = Outboxes::new([NodeId(2)]);
    for nth in 0..1_000 {
        assert!(outboxes.push(NodeId(2), vec![message(nth % 2, 100)]).is_empty());
    }
    let outgoing = Outgoing {
        context: sender.clone(),
        greeter: Arc::new(Greeter::new(NodeId(1), FINGERPRINT, [NodeId(2)])),
        peer: NodeId(2),
        address,
        outbox: outboxes.of(NodeId(2)).unwrap(),
        metrics: sender.metrics.peer(NodeId(2)),
    };
    let task = tokio::spawn(outgoing.run());
    let got = tokio::task::spawn_blocking(move || first(&inbox)).await.unwrap();
    let HostMessage::Peers(messages) = got else { panic!("{got:?}") };
    assert_eq!(messages.len(), 1_000);
    assert!(messages.iter().enumerate().all(|(nth, (index, _))| *index == nth % 2), "the order changed");
    assert_eq!(sender.metrics.peer(NodeId(2)).frames_sent.get(), 1);
    for context in [sender, receiver] {
        context.lifecycle.enter(Phase::Stopped);
    }
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_node_reports_its_peer_unreachable_and_keeps_nothing() {
    let (receiver, _inbox, address) = serve().await;
    let (sender, inbox) = context(NodeId(1), 10);
    let outboxes = Outboxes::new([NodeId(2)]);
    let outbox = outboxes.of(NodeId(2)).unwrap();
    let outgoing = Outgoing {
        context: sender.clone(),
        greeter: Arc::new(Greeter::new(NodeId(1), Fingerprint([1; 16]), [NodeId(2)])),
        peer: NodeId(2),
        address,
        outbox: outbox.clone(),
        metrics: sender.metrics.peer(NodeId(2)),
    };
    let task = tokio::spawn(outgoing.run());
    let got = tokio::task::spawn_blocking(move || first(&inbox)).await.unwrap();
    assert!(matches!(got, HostMessage::PeerUnreachable(NodeId(2))), "{got:?}");
    for context in [sender, receiver] {
        context.lifecycle.enter(Phase::Stopped);
    }
    task.await.unwrap();
}

#[tokio::test]
async fn frames_are_full_but_not_fuller() {
    let outbox = Outbox::default();
    outbox.push((0..8).map(|_| message(0, PEER_FRAME_BYTES / 4)).collect());
    outbox.push(vec![message(0, 3 * PEER_FRAME_BYTES), message(0, 1)]);
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
    assert!(outbox.push(vec![message(0, half), message(1, half)]).is_empty());
    assert_eq!(outbox.push(vec![message(2, half), message(3, 1), message(2, half)]), [ShardId(2)]);
    let kept: Vec<u32> = [outbox.next_frame().await, outbox.next_frame().await, outbox.next_frame().await]
        .into_iter()
        .flatten()
        .map(|message| message.shard)
        .collect();
    assert_eq!(kept, [0, 1, 3]);
}
