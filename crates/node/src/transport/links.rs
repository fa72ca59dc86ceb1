//! The streams to all peers, which come and go with the view.
//!
//! * A node is a peer of others only after what this node's disk knows of its data directory was
//!   read. Otherwise any directory would be accepted as its first one.
//! * What is known of a node's directory is not forgotten when the node leaves the view.

use super::hello::Greeter;
use super::outbox::Outboxes;
use super::outgoing::Outgoing;
use crate::context::Context;
use crate::lifecycle::Phase;
use crate::view::View;
use routing::NodeId;
use shard::Input;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::{AbortHandle, JoinSet};

/// Replaces the view of this node if this one has a higher version, and tells whether it has.
pub(crate) async fn take_view(context: &Arc<Context>, view: View) -> bool {
    let (identities, id) = (context.identities.clone(), context.id);
    let peers: Vec<NodeId> = view.peers(id).collect();
    match tokio::task::spawn_blocking(move || identities.admit(peers)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            context.lifecycle.fail(error.to_string());
            return false;
        }
        Err(_) => return false, // the node is stopping
    }
    if !context.view.replace(view) {
        return false;
    }
    context.routes.follow(&context.view.now());
    true
}

/// Keeps a stream to each peer until the node stops.
pub(crate) async fn keep_links(
    context: Arc<Context>,
    greeter: Arc<Greeter>,
    outboxes: Arc<Outboxes>,
) {
    let mut views = context.view.watch();
    let mut tasks = JoinSet::new();
    let mut links: BTreeMap<NodeId, AbortHandle> = BTreeMap::new();
    let mut stopped = std::pin::pin!(context.lifecycle.reached(Phase::Stopped));
    loop {
        tokio::select! {
            () = &mut stopped => break,
            // The sender lives in the context, so this is a change.
            _ = views.changed() => {}
        }
        let view = views.borrow_and_update().clone();
        links.retain(|peer, link| {
            let stays = view.nodes.contains_key(peer);
            if !stays {
                link.abort();
                leave(&context, &outboxes, *peer);
            }
            stays
        });
        for peer in view.peers(context.id) {
            links.entry(peer).or_insert_with(|| {
                let outgoing = Outgoing {
                    context: context.clone(),
                    greeter: greeter.clone(),
                    peer,
                    outbox: outboxes.admit(peer),
                    metrics: context.metrics.peer(peer),
                };
                tasks.spawn(outgoing.run())
            });
        }
        while tasks.try_join_next().is_some() {} // those that were aborted before
    }
    while tasks.join_next().await.is_some() {}
}

/// Drops what there is for a node that is no peer any more.
fn leave(context: &Context, outboxes: &Outboxes, peer: NodeId) {
    tracing::info!(%peer, "peer has left the cluster");
    outboxes.dismiss(peer);
    context.metrics.forget_peer(peer);
    context.host.input_all(&Input::Unreachable { node: peer });
}
