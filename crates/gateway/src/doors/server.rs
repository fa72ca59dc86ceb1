//! The socket for clients and probes: gRPC, and HTTP with JSON. All limits of the transport are set
//! here.
//!
//! A connection of HTTP/2 begins with a preface, by which both protocols are told apart.

use crate::connection::Connection;
use crate::doors::doorman::DoormanLayer;
use crate::doors::grpc::{Clusters, Locks};
use crate::doors::http;
use crate::doors::single::Single;
use crate::error::GatewayError;
use crate::limits::{DESCRIPTORS_RESERVED, HEADER_BYTES_MAX, HTTP2_STREAMS_MAX};
use crate::router::Router;
use net::accept::{Incoming, connections_max};
use net::tls::{Server, ServerSide};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wire::limits::{FRAME_BYTES_MAX, HTTP2_FRAME_BYTES_MAX};
use wire::v1::cluster_service_server::ClusterServiceServer;
use wire::v1::lock_service_server::LockServiceServer;

const RESETS_MAX: usize = 256;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The services that `grpc.health.v1` knows beside the whole server, which has no name.
const HEALTH_SERVICES: [&str; 2] = ["", "palisade.v1.LockService"];
/// How often the answers of `grpc.health.v1` are updated.
const HEALTH_EVERY: Duration = Duration::from_millis(100);

/// Serves clients until the gateway ends, and then until their streams have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Server>>,
    router: Arc<Router>,
    single: Single,
    reflection: bool,
    mut ending: watch::Receiver<bool>,
) -> Result<(), GatewayError> {
    let ended = async move {
        let _ = ending.wait_for(|ending| *ending).await;
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflected =
        |error: tonic_reflection::server::Error| GatewayError::Config(error.to_string());
    // Both versions are served, because tools ask for either.
    let v1 = reflection.then(|| described().build_v1()).transpose().map_err(reflected)?;
    let v1alpha = reflection.then(|| described().build_v1alpha()).transpose().map_err(reflected)?;
    // Without identities, every user of this machine may do everything.
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let local = is_local && router.identities.is_none();
    let reserve = DESCRIPTORS_RESERVED + 4 * router.cluster.nodes.len();
    let tls = tls.map(|tls| tls as Arc<dyn ServerSide>);
    let incoming =
        Incoming::new(listener, router.accepted.clone(), connections_max(reserve), tls, |_| {
            Arc::<Connection>::default()
        });
    let serving = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .accept_http1(true)
        .layer(DoormanLayer(router.clone()))
        .add_routes(Routes::from(http::routes(&single, local)))
        .add_service(ClusterServiceServer::new(Clusters(single.clone())))
        .add_service(
            LockServiceServer::new(Locks(single)).max_decoding_message_size(FRAME_BYTES_MAX),
        )
        .add_service(health)
        .add_optional_service(v1)
        .add_optional_service(v1alpha)
        .serve_with_incoming_shutdown(incoming, ended);
    let served = tokio::select! {
        served = serving => served,
        () = report_health(&router, reporter) => Ok(()), // never
    };
    served.map_err(|error| GatewayError::Failed { what: "gRPC", why: error.to_string() })
}

/// Keeps the answers of `grpc.health.v1` up to date, and logs each change. Never returns.
async fn report_health(router: &Router, reporter: HealthReporter) {
    let mut told = None;
    loop {
        let looked = router.look();
        let serves = !router.is_draining() && router.is_healthy(&looked);
        if told != Some(serves) {
            match looked {
                _ if router.is_draining() => tracing::info!("not ready any more: draining"),
                Ok(()) => tracing::info!("ready: every shard has a leader that can be reached"),
                Err(why) if serves => tracing::info!(but = %why, "ready: enough shards are served"),
                // At the start no node has answered yet.
                Err(_) if told.is_none() => {}
                Err(why) => tracing::warn!(reason = %why, "not ready"),
            }
            let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in HEALTH_SERVICES {
                reporter.set_service_status(service, status).await;
            }
            told = Some(serves);
        }
        tokio::time::sleep(HEALTH_EVERY).await;
    }
}
