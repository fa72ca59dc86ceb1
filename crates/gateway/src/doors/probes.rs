//! The door for probes and scrapes: HTTP for `/metrics`, `/livez`, `/readyz` and `/healthz`.

use crate::doors::http::probes::{Detail, live, ready};
use crate::error::GatewayError;
use crate::router::Router;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use net::accept::Incoming;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves `/metrics`, `/livez`, `/readyz` and its older name `/healthz`. Returns only if that
/// fails, so that a gateway that drains still answers.
pub(crate) async fn serve(listener: TcpListener, router: Arc<Router>) -> Result<(), GatewayError> {
    let shown = router.clone();
    let metrics = move || {
        let text = shown.metrics_text();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let probe = move |uri: Uri| {
        let answer = ready(&router, &uri, Detail::Reasons);
        async move { answer }
    };
    let routes = axum::Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { live() }))
        .route("/readyz", get(probe.clone()))
        .route("/healthz", get(probe));
    let served = axum::serve(Incoming::for_pages(listener), routes).await;
    served.map_err(|error| GatewayError::Failed { what: "metrics", why: error.to_string() })
}
