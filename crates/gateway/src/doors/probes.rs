//! The door for probes and scrapes: HTTP for `/metrics` and `/healthz`.

use crate::error::GatewayError;
use crate::router::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use net::accept::Incoming;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Serves `/metrics` and `/healthz` until the gateway ends.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Arc<Router>,
    mut ending: watch::Receiver<bool>,
) -> Result<(), GatewayError> {
    let shown = router.clone();
    let metrics = move || {
        let text = shown.metrics_text();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let health = move || {
        let answer = match router.serving() {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        };
        async move { answer }
    };
    let routes = axum::Router::new().route("/metrics", get(metrics)).route("/healthz", get(health));
    tokio::select! {
        _ = ending.wait_for(|ending| *ending) => Ok(()),
        served = axum::serve(Incoming::for_pages(listener), routes) => {
            served.map_err(|error| GatewayError::Failed { what: "metrics", why: error.to_string() })
        }
    }
}
