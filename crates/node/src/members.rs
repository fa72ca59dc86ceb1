//! Makes the replicas of this node those that the topology says, and tells groups that are led here
//! which members they shall have.
//!
//! Which replicas come and go, [`shard::hosting_steps`] says. A step that is refused is tried
//! again, and so is what a crash has interrupted.
//!
//! The module knows nothing of how replicas come and go (`hosting.rs`), or how groups change.

use crate::context::Context;
use crate::hosting::{Hosting, HostingError};
use crate::limits::{MEMBERS_PAUSE, WISHES_EVERY};
use routing::{NodeId, ShardId};
use shard::{HostingStep, Input, WantedLife, hosting_steps, wish_due};
use std::collections::BTreeMap;
use std::sync::Arc;
use topology::{Topology, Version};

/// Lets replicas come and go until the future is dropped.
pub(crate) async fn keep_members(context: Arc<Context>, hosting: Arc<Hosting>) {
    let mut refused: BTreeMap<ShardId, String> = BTreeMap::new();
    let mut pause = MEMBERS_PAUSE.0;
    loop {
        let topology = context.cluster.now();
        let engine = context.engine.clone();
        // The lives may be under a lock that a write holds.
        let Ok(lives) = tokio::task::spawn_blocking(move || engine.lives()).await else {
            return; // the runtime ends
        };
        let mut is_done = true;
        for step in hosting_steps(&topology, context.id, &lives) {
            let (shard, outcome) = take(step, &topology, context.id, &hosting).await;
            let Err(error) = outcome else {
                refused.remove(&shard);
                continue;
            };
            is_done = false;
            let reason = error.to_string();
            if refused.get(&shard) != Some(&reason) {
                tracing::info!(
                    %shard, %reason,
                    "a replica that the topology wants here, or wants no more, waits; trying on"
                );
                refused.insert(shard, reason);
            }
        }
        let later = context.cluster.later_than(topology.version());
        if is_done {
            later.await;
            pause = MEMBERS_PAUSE.0;
        } else if tokio::time::timeout(pause, later).await.is_err() {
            pause = (pause * 2).min(MEMBERS_PAUSE.1);
        }
    }
}

async fn take(
    step: HostingStep,
    topology: &Topology,
    own: NodeId,
    hosting: &Arc<Hosting>,
) -> (ShardId, Result<(), HostingError>) {
    match step {
        HostingStep::Host(shard, _) => match WantedLife::of(topology, shard, own) {
            Some(wanted) => (shard, hosting.host(shard, wanted).await),
            None => (shard, Ok(())), // it was planned from a wish of this topology
        },
        HostingStep::Unhost(shard, birth) => (shard, hosting.unhost(shard, birth.0).await),
    }
}

/// Gives the groups that are led here their wishes, until the future is dropped.
pub(crate) async fn give_wishes(context: Arc<Context>) {
    loop {
        let topology = context.cluster.now();
        for (shard, taken) in context.board.wishes_taken() {
            match wish_due(&topology, shard, Version(taken)) {
                Ok(Some(wish)) => context.host.input(shard, Input::Want(wish)),
                Ok(None) => {}
                Err(error) => tracing::error!(%shard, "the wish of the topology: {error}"),
            }
        }
        let later = context.cluster.later_than(topology.version());
        let _ = tokio::time::timeout(WISHES_EVERY, later).await;
    }
}
