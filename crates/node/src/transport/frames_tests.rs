//! Streams of frames and calls of gRPC, side by side: a node of any build finds the other.

use super::tests::{hello, knock, message, outgoing, serve, usual};
use super::*;
use crate::frames::{DELIVER, OPERATE};
use crate::lifecycle::Phase;
use crate::testing::{FINGERPRINT, context};
use net::dial::Target;
use net::frames::Event;
use routing::NodeId;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use wire::internal::v1::peer_service_server::{PeerService, PeerServiceServer};
use wire::internal::v1::{
    ClusterIdentity, DeliverRequest, DeliverResponse, FramesRequest, FramesStatus, GreetRequest,
    GreetResponse, Hello, InstallSnapshotRequest, InstallSnapshotResponse,
};

/// No step takes this long unless it hangs.
const HANGS: Duration = Duration::from_secs(20);

/// The status with which a node ends a stream that begins with this.
async fn ends_in_frames(
    address: &str,
    method: &str,
    identity: Option<ClusterIdentity>,
    first: Option<DeliverRequest>,
) -> Option<Status> {
    let target = Target::plain(address).unwrap();
    let mut frames = target.connect_frames(HANGS, 64 << 10, HANGS).await.unwrap();
    let opening = FramesRequest { method: method.to_owned(), identity };
    frames.put(|buffer| wire::append(&opening, buffer));
    if let Some(first) = first {
        frames.put(|buffer| wire::append(&first, buffer));
    }
    loop {
        match tokio::time::timeout(HANGS, frames.next(true)).await.expect("it ends") {
            Ok(Event::Last(bytes)) => return Some(FramesStatus::read(bytes)),
            Ok(Event::Ended) | Err(_) => return None,
            Ok(Event::Frame(_) | Event::Written) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_refused_in_frames_as_over_grpc() {
    let (context, _inbox, address) = serve().await;
    let good = hello(0, 11);
    for hello in [
        Some(Hello { fingerprint: vec![8; 16], ..good.clone() }),
        Some(Hello { node: 9, ..good.clone() }),
        Some(Hello { runs: Vec::new(), ..good }),
        None,
    ] {
        let frame = DeliverRequest {
            hello: hello.clone(),
            messages: vec![message(0, 1)],
            ..DeliverRequest::default()
        };
        let ended = ends_in_frames(&address, DELIVER, None, Some(frame)).await.expect("a status");
        let status = knock(&address, hello).await;
        assert_eq!((ended.code(), ended.message()), (status.code(), status.message()));
        assert_eq!(ended.code(), Code::FailedPrecondition);
    }
    context.lifecycle.enter(Phase::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_frames_says_which_node_and_cluster_it_means() {
    let (context, _inbox, address) = serve().await;
    let ours = context.identity.clone();
    let other = ClusterIdentity { fingerprint: vec![8; 16], ..ours.clone() };
    let another_node = ClusterIdentity { node: 7, ..ours };
    for (identity, reason) in [
        (Some(other), "refuses this caller"),
        (Some(another_node), "not node 7"),
        (None, "does not say of which cluster"),
    ] {
        let ended = ends_in_frames(&address, OPERATE, identity, None).await.expect("a status");
        assert_eq!(ended.code(), Code::FailedPrecondition, "{ended}");
        assert!(ended.message().contains(reason), "{ended}");
    }
    let another_node = ClusterIdentity { node: 7, ..context.identity.clone() };
    let ended =
        ends_in_frames(&address, DELIVER, Some(another_node), None).await.expect("a status");
    assert!(ended.message().contains("this is node 2, not node 7"), "{ended}");
    let greet = "/palisade.internal.v1.PeerService/Greet";
    let ended = ends_in_frames(&address, greet, None, None).await.expect("a status");
    assert_eq!(ended.code(), Code::Unimplemented, "{ended}");
    let long = format!("/{}", "x".repeat(5_000));
    assert!(ends_in_frames(&address, &long, None, None).await.is_none(), "it is cut off");
    context.lifecycle.enter(Phase::Stopped);
}

/// A peer of the build before frames.
struct Earlier {
    greeting: Hello,
    told: mpsc::UnboundedSender<DeliverRequest>,
}

#[tonic::async_trait]
impl PeerService for Earlier {
    type InstallSnapshotStream = ReceiverStream<Result<InstallSnapshotResponse, Status>>;

    async fn greet(&self, _: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        let hello = Some(self.greeting.clone());
        Ok(Response::new(GreetResponse { hello, ..GreetResponse::default() }))
    }

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverRequest>>,
    ) -> Result<Response<DeliverResponse>, Status> {
        let mut frames = request.into_inner();
        while let Some(frame) = frames.message().await? {
            let _ = self.told.send(frame);
        }
        Ok(Response::new(DeliverResponse {}))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<InstallSnapshotRequest>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        Err(Status::unimplemented("no snapshots here"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_no_frames_is_reached_over_grpc() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (told, mut heard) = mpsc::unbounded_channel();
    let greeting = Hello { node: 2, takes_frames: false, ..hello(0, 22) };
    assert_eq!(greeting.fingerprint, FINGERPRINT.0);
    let earlier = Earlier { greeting, told };
    let server = tonic::transport::Server::builder().add_service(PeerServiceServer::new(earlier));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let (sender, _inbox) = context(NodeId(1), 10);
    let outboxes = Outboxes::new([NodeId(2)]);
    assert!(outboxes.push(NodeId(2), usual(vec![message(0, 100)])).is_empty());
    let task = tokio::spawn(outgoing(&sender, &outboxes, address).await.run());
    let messages = async {
        loop {
            let frame = heard.recv().await.expect("the server is there");
            if !frame.messages.is_empty() {
                return frame.messages;
            }
        }
    };
    let messages = tokio::time::timeout(HANGS, messages).await.expect("the message arrives");
    assert_eq!(messages, [message(0, 100)]);
    sender.lifecycle.enter(Phase::Stopped);
    task.await.unwrap();
}
