//! The sockets of a gateway: gRPC for clients, HTTP for `/metrics` and `/healthz`. Every limit of the transport is set here.

use crate::error::GatewayError;
use crate::router::Router;
use crate::service::Locks;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use wire::limits::{FRAME_BYTES_MAX, HTTP2_FRAME_BYTES_MAX};
use wire::v1::lock_service_server::LockServiceServer;

const STREAMS_PER_CONNECTION_MAX: u32 = 128;
const RESETS_MAX: usize = 256;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Serves clients until the gateway ends, and then until their streams have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    locks: Locks,
    mut ending: watch::Receiver<bool>,
) -> Result<(), GatewayError> {
    let ended = async move {
        let _ = ending.wait_for(|ending| *ending).await;
    };
    Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(LockServiceServer::new(locks).max_decoding_message_size(FRAME_BYTES_MAX))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), ended)
        .await
        .map_err(|error| GatewayError::Failed { what: "gRPC", why: error.to_string() })
}

/// Serves `/metrics` and `/healthz` until the gateway ends.
pub(crate) async fn serve_metrics(
    listener: TcpListener,
    router: Arc<Router>,
    mut ending: watch::Receiver<bool>,
) -> Result<(), GatewayError> {
    let shown = router.clone();
    let metrics = move || {
        let text = shown.metrics.text(&shown.nodes);
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let health = move || {
        let answer = match router.nodes.any_connected() {
            true => (StatusCode::OK, "ok\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "no node is connected\n"),
        };
        async move { answer }
    };
    let routes = axum::Router::new().route("/metrics", get(metrics)).route("/healthz", get(health));
    tokio::select! {
        _ = ending.wait_for(|ending| *ending) => Ok(()),
        served = axum::serve(listener, routes) => {
            served.map_err(|error| GatewayError::Failed { what: "metrics", why: error.to_string() })
        }
    }
}
