//! When a node begins to take part in its shards, and the progress of data directories, on disk.

use crate::context::Context;
use crate::lifecycle::Phase;
use crate::limits::{AWAITED_EVERY, GREETINGS_MAX, KEEP_EVERY};
use crate::peer_identities::Standing;
use routing::NodeId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Lets the replicas take part once the peers that could know of a newer state have greeted this
/// node: see [`Standing`]. A peer that does know of a newer state ends this node.
pub(crate) async fn take_part(context: Arc<Context>) {
    let identities = &context.identities;
    match identities.standing() {
        Standing::Usual => {
            // The peers judge this node before they listen to it. The wait covers the case that a
            // peer without knowledge is quicker than a peer that knows more.
            if tokio::time::timeout(GREETINGS_MAX, identities.greeted_by_all()).await.is_err() {
                let awaited = identities.awaited();
                tracing::info!("takes part without having heard from node {}", listed(&awaited));
            }
        }
        standing => {
            while tokio::time::timeout(AWAITED_EVERY, identities.greeted_by_all()).await.is_err() {
                let awaited = listed(&identities.awaited());
                if standing == Standing::New {
                    tracing::warn!(
                        "this data directory is new, so this node takes no part before all its peers have confirmed that they \
                         know of no other; still to come: node {awaited}. If this node's data was lost, start it with \
                         --reseed; if the cluster has never run and some of its machines start later, with --new-cluster"
                    );
                } else {
                    tracing::warn!(
                        "this data directory is a copy, so this node takes no part before a majority of its peers, with \
                         directories that are no copies, have confirmed that it is not an older one; still to come: node \
                         {awaited}. If the directories of all nodes were moved or restored together, only you can know: where \
                         anything was acknowledged since the copy was made, it is lost, and fencing tokens are issued again. \
                         To go on with it, start with --accept-copy once"
                    );
                }
            }
        }
    }
    let (identities, standing) = (identities.clone(), identities.standing());
    match tokio::task::spawn_blocking(move || identities.take_part()).await {
        Ok(Ok(())) if standing == Standing::Usual => {}
        Ok(Ok(())) => tracing::info!("the peers have confirmed this data directory"),
        Ok(Err(error)) => return context.lifecycle.fail(error.to_string()),
        Err(error) => return context.lifecycle.fail(error.to_string()),
    }
    context.host.take_part();
}

fn listed(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

/// Writes the progress of the data directories to disk, every few seconds and at the end.
pub(crate) async fn keep_identities(context: Arc<Context>) {
    let mut every = tokio::time::interval(KEEP_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let ends = tokio::select! {
            _ = every.tick() => false,
            () = context.lifecycle.reached(Phase::Stopped) => true,
        };
        if context.lifecycle.failed() {
            return;
        }
        let identities = context.identities.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || identities.keep()).await {
            return context.lifecycle.fail(error.to_string());
        }
        if ends {
            return;
        }
    }
}
