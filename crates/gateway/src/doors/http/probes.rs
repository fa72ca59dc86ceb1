//! The answers to probes: whether this gateway lives, and whether it is ready for clients.
//!
//! * A probe needs no identity, and causes no request to a node.
//! * On the port for clients an answer tells numbers of shards and nodes, and nothing else of the
//!   cluster. On the port for metrics it also tells why a node is lost, with its address.

use super::problem::Problem;
use crate::router::Router;
use axum::Json;
use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use routing::ShardId;
use serde::Deserialize;
use wire::json::{Liveness, Missing, Readiness};
use wire::v1::Error;

/// Whether an answer tells why nodes are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Only numbers.
    Numbers,
    /// Addresses and errors, too.
    Reasons,
}

/// The query of a probe for readiness.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The least number of shards with a leader. `None`: all.
    shards: Option<u32>,
}

/// The answer to `/livez`: a gateway that answers lives.
pub(crate) fn live() -> Response {
    Json(Liveness::new(None)).into_response()
}

/// The answer to `/readyz`: 200, or 503 with all that is missing.
pub(crate) fn ready(router: &Router, uri: &Uri, detail: Detail) -> Response {
    match needed(router, uri) {
        Ok(needed) => {
            let readiness = Readiness::new(missing(router, needed, detail));
            let status = match readiness.ready {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, Json(readiness)).into_response()
        }
        Err(error) => Problem::from(*error).into_response(),
    }
}

/// The number of shards that must have a leader.
///
/// # Errors
/// INVALID_ARGUMENT if the query is no number of shards of this cluster.
fn needed(router: &Router, uri: &Uri) -> Result<usize, Box<Error>> {
    let all = router.directory.shards().len();
    let asked = Query::<Asked>::try_from_uri(uri).map_err(|rejection| {
        Box::new(Error::invalid(format!("{}: ask for ?shards=N", rejection.body_text())))
    })?;
    match asked.shards {
        None => Ok(all),
        Some(shards) if (1..=all).contains(&(shards as usize)) => Ok(shards as usize),
        Some(shards) => Err(Box::new(Error::invalid(format!(
            "?shards={shards}: this cluster has {all}, so ask for 1 to {all}"
        )))),
    }
}

/// All that this gateway lacks to serve clients on so many shards.
fn missing(router: &Router, needed: usize, detail: Detail) -> Vec<Missing> {
    let mut missing = Vec::new();
    if router.is_draining() {
        missing.push(Missing::new("DRAINING", "this gateway is shutting down"));
    }
    let Err(why) = router.serving() else { return missing };
    if router.directory.shards().len() - why.without.len() >= needed {
        return missing;
    }
    let shards = why.without.iter().map(|ShardId(shard)| *shard).collect();
    missing.push(Missing { shards, ..Missing::new("LEADER", why.to_string()) });
    for (node, lost) in why.lost {
        let message = match detail {
            Detail::Numbers => format!("node {node} cannot be used"),
            Detail::Reasons => lost,
        };
        missing.push(Missing { nodes: vec![node], ..Missing::new("NODE", message) });
    }
    missing
}
