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

/// The reason why this node does not serve.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum NotServing {
    #[error("the node has failed: {0}")]
    Failed(String),
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The peers that the node awaits do not decide this, because it may take part without them.
    #[error("the node takes no part yet: {}", awaited(*.0))]
    TakesNoPart(Standing),
    #[error(
        "the disk hangs: a write is under way for {:.1} s, and this node neither leads nor votes",
        *write_age_ms as f64 / 1_000.0
    )]
    DiskHangs { write_age_ms: u64 },
    #[error("{}", leaderless(*count, *first))]
    Leaderless { count: usize, first: ShardId },
}

fn awaited(standing: Standing) -> &'static str {
    match standing {
        Standing::New => {
            "its data directory is new, and not all peers have confirmed that they know of no other"
        }
        Standing::Copied => {
            "its data directory is a copy, and too few peers have confirmed that it is not an older one"
        }
        Standing::Usual => "it has just started, and gives its peers a moment to greet it",
    }
}

fn leaderless(count: usize, first: ShardId) -> String {
    match count {
        1 => format!("shard {first} has no leader with a quorum that this node knows of"),
        _ => format!(
            "{count} shards have no leader with a quorum that this node knows of, shard {first} among them"
        ),
    }
}

/// Whether this node serves.
///
/// # Errors
/// [`NotServing`], with the reason for people.
pub(crate) fn serving(context: &Context) -> Result<(), NotServing> {
    if let Some(failure) = context.lifecycle.failure() {
        return Err(NotServing::Failed(failure.to_string()));
    }
    if context.lifecycle.draining() {
        return Err(NotServing::ShuttingDown);
    }
    if !context.identities.takes_part() {
        return Err(NotServing::TakesNoPart(context.identities.standing()));
    }
    let disk = context.disk.state();
    if disk.hangs {
        return Err(NotServing::DiskHangs { write_age_ms: disk.write_age_ms });
    }
    let mut without = context.board.leaders().filter(|known| known.leader.is_none());
    match without.next() {
        None => Ok(()),
        Some(first) => {
            Err(NotServing::Leaderless { count: 1 + without.count(), first: first.shard })
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
