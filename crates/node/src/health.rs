//! The answers to probes, at `/healthz` and by `grpc.health.v1`: whether this node takes part in
//! serving its shards.
//!
//! A node that answers "not serving" may be well itself: its shards may lack a quorum, for example.
//! So the answer is for readiness and for alarms. It is no reason to restart the process.

use crate::context::Context;
use crate::limits::HEALTH_EVERY;
use crate::peer_identities::Standing;
use routing::ShardId;
use std::sync::Arc;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The services that the health service knows beside the whole server, which has no name.
const SERVICES: [&str; 2] = ["", "palisade.internal.v1.ShardService"];

/// Whether this node serves.
///
/// # Errors
/// The reason why this node does not serve, for people.
pub(crate) fn serving(context: &Context) -> Result<(), String> {
    if let Some(failure) = context.lifecycle.failure() {
        return Err(format!("the node has failed: {failure}"));
    }
    if context.lifecycle.draining() {
        return Err("the node is shutting down".into());
    }
    if !context.identities.takes_part() {
        // The peers that the node awaits do not decide this, because it may take part without them.
        let why = match context.identities.standing() {
            Standing::New => {
                "its data directory is new, and not all peers have confirmed that they know of no other"
            }
            Standing::Copied => {
                "its data directory is a copy, and too few peers have confirmed that it is not an older one"
            }
            Standing::Usual => "it has just started, and gives its peers a moment to greet it",
        };
        return Err(format!("the node takes no part yet: {why}"));
    }
    let disk = context.disk.state();
    if disk.hangs {
        let s = disk.write_age_ms as f64 / 1_000.0;
        return Err(format!(
            "the disk hangs: a write is under way for {s:.1} s, and this node neither leads nor votes"
        ));
    }
    let without: Vec<ShardId> = context
        .board
        .leaders()
        .filter(|known| known.leader.is_none())
        .map(|known| known.shard)
        .collect();
    match without.as_slice() {
        [] => Ok(()),
        [shard] => {
            Err(format!("shard {shard} has no leader with a quorum that this node knows of"))
        }
        [shard, ..] => {
            let count = without.len();
            Err(format!(
                "{count} shards have no leader with a quorum that this node knows of, shard {shard} among them"
            ))
        }
    }
}

/// Keeps the answers of the health service up to date. Never returns.
pub(crate) async fn report(context: Arc<Context>, reporter: HealthReporter) {
    let mut told = None;
    loop {
        let now = serving(&context);
        if told.as_ref() != Some(&now) {
            let status =
                if now.is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in SERVICES {
                reporter.set_service_status(service, status).await;
            }
            told = Some(now);
        }
        tokio::time::sleep(HEALTH_EVERY).await;
    }
}
