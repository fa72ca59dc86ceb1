//! The sockets of a node: gRPC for gateways, peers and probes, HTTP for `/metrics` and probes.
//! Every limit of the transport is set here.

use crate::context::Context;
use crate::error::NodeError;
use crate::health;
use crate::lifecycle::Phase;
use crate::limits::{DESCRIPTORS_RESERVED, PEER_FRAME_BYTES_MAX, TOPOLOGY_BYTES_MAX};
use crate::metrics::Present;
use crate::roles::OnlyPermitted;
use crate::service::{Shards, Topologies};
use crate::sorting::sort;
use crate::transport::Peers;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::{Json, Router};
use futures_util::StreamExt;
use net::accept::{Incoming, connections_max};
use net::tls::ServerSide;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use wire::internal::v1::peer_service_server::PeerServiceServer;
use wire::internal::v1::shard_service_server::ShardServiceServer;
use wire::internal::v1::topology_service_server::TopologyServiceServer;
use wire::limits::{FRAME_BYTES_MAX, HTTP2_FRAME_BYTES_MAX};

const STREAMS_PER_CONNECTION_MAX: u32 = 128;
const RESETS_MAX: usize = 256;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Takes over a bound socket, or binds `address`.
pub(crate) async fn listen(
    bound: Option<std::net::TcpListener>,
    address: &str,
) -> Result<TcpListener, NodeError> {
    let listener = match bound {
        Some(listener) => {
            listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener))
        }
        None => TcpListener::bind(address).await,
    };
    listener.map_err(|error| NodeError::Listen {
        address: address.to_owned(),
        reason: error.to_string(),
    })
}

/// The address that the listener is bound to.
pub(crate) fn local_address(
    listener: &TcpListener,
    address: &str,
) -> Result<SocketAddr, NodeError> {
    let listen = |error: std::io::Error| NodeError::Listen {
        address: address.to_owned(),
        reason: error.to_string(),
    };
    listener.local_addr().map_err(listen)
}

/// Serves gateways and peers until the node drains, and then until the open streams have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    context: Arc<Context>,
    shards: Arc<Shards>,
    peers: Arc<Peers>,
) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    let incoming = Incoming::new(
        listener,
        context.accepted.clone(),
        connections_max(DESCRIPTORS_RESERVED),
        context.tls.clone().map(|tls| tls as Arc<dyn ServerSide>),
        |_| (),
    );
    // Connections of frames are told from the others before these go to their server.
    let (http, connections) = mpsc::channel(1);
    let mut streams = JoinSet::new();
    let sorting = async {
        let mut incoming = incoming;
        loop {
            let connection = tokio::select! {
                connection = incoming.next() => connection,
                Some(_) = streams.join_next() => continue,
                () = context.lifecycle.reached(Phase::Draining) => break,
            };
            let Some(Ok(connection)) = connection else { continue };
            let (http, context) = (http.clone(), context.clone());
            let (shards, peers) = (shards.clone(), peers.clone());
            streams.spawn(sort(connection, http, context, shards, peers));
        }
        // Whoever dials from here on is refused at once.
        drop(incoming);
        while streams.join_next().await.is_some() {}
        Ok(())
    };
    let serving = Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .layer(OnlyPermitted { with_tls: context.tls.is_some(), audit: context.audit.clone() })
        .add_service(
            ShardServiceServer::from_arc(shards.clone()).max_decoding_message_size(FRAME_BYTES_MAX),
        )
        .add_service(
            PeerServiceServer::from_arc(peers.clone())
                .max_decoding_message_size(PEER_FRAME_BYTES_MAX),
        )
        .add_service(
            TopologyServiceServer::new(Topologies::new(context.clone()))
                .max_decoding_message_size(TOPOLOGY_BYTES_MAX),
        )
        .add_service(health)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(connections),
            context.lifecycle.reached(Phase::Draining),
        );
    let served = tokio::select! {
        served = futures_util::future::try_join(serving, sorting) => served.map(drop),
        () = health::report(context.clone(), reporter) => Ok(()), // never
    };
    if let Err(error) = served {
        context.lifecycle.fail(format!("the gRPC server ended: {error}"));
    }
}

/// Serves `/metrics`, `/livez`, `/readyz` and its older name `/healthz` until the node stops.
pub(crate) async fn serve_metrics(listener: TcpListener, context: Arc<Context>) {
    let shown = context.clone();
    let show = move || {
        let text = metrics_text(&shown);
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let (living, probed) = (context.clone(), context.clone());
    let live = move || {
        let liveness = health::liveness(&living);
        async move { (status(liveness.live), Json(liveness)) }
    };
    let ready = move || {
        let readiness = health::readiness(&probed);
        async move { (status(readiness.ready), Json(readiness)) }
    };
    let stopped = context.lifecycle.reached(Phase::Stopped);
    let routes = Router::new()
        .route("/metrics", get(show))
        .route("/livez", get(live))
        .route("/readyz", get(ready.clone()))
        .route("/healthz", get(ready));
    tokio::select! {
        () = stopped => {}
        served = axum::serve(Incoming::for_pages(listener), routes) => {
            if let Err(error) = served {
                tracing::error!(%error, "the metrics endpoint ended");
            }
        }
    }
}

/// All metrics of a node, in Prometheus' text format.
pub(crate) fn metrics_text(context: &Context) -> String {
    context.metrics.text(&Present {
        node: context.id,
        incarnation: context.identities.own().incarnation,
        board: &context.board,
        queued_operations: context.host.queued_operations(),
        accepted: &context.accepted,
        tls: context.tls.as_deref(),
        takes_part: context.identities.takes_part(),
        sizes: context.disk.sizes(),
        ready: health::readiness(context).ready,
        now_ms: context.clock.now().wall_ms,
    })
}

fn status(is_well: bool) -> StatusCode {
    if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
