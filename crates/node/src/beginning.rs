//! What a node begins with, before its store is claimed: the incarnation of its directory, if that is
//! re-seeded now, and the replicas that come without the topology.
//!
//! A usual directory begins with the replicas that the cluster file gives the node. A re-seeded one
//! begins with those that the groups want here by then, as its peers say. The module knows nothing of
//! replicas that come later (`hosting.rs`).

use crate::clock::Clock;
use crate::error::NodeError;
use crate::peer_identities::{self, Beginning, FirstStart};
use crate::seeds;
use crate::transport::choose_incarnation;
use crate::view::View;
use net::tls::Inside;
use routing::{Fingerprint, NodeId};
use std::sync::Arc;
use storage::Engine;
use wire::internal::v1::ClusterIdentity;

/// What a node knows of the others before it starts.
pub(crate) struct Around<'a> {
    /// From the cluster file, or from the topology in the data directory.
    pub(crate) view: &'a View,
    /// Addresses of further nodes.
    pub(crate) seeds: &'a [String],
    pub(crate) identity: &'a ClusterIdentity,
}

/// What the directory begins with, or began with. A re-seed asks the peers, and the incarnation counts
/// only then.
///
/// # Errors
/// [`NodeError`]: a directory to be re-seeded is not empty, or peers refuse. Or the disk failed.
pub(crate) async fn beginning(
    engine: &Arc<dyn Engine>,
    first_start: FirstStart,
    node: (NodeId, Fingerprint),
    tls: Option<&Arc<Inside>>,
    around: Around<'_>,
    clock: Clock,
) -> Result<Beginning, NodeError> {
    let engine = engine.clone();
    let is_reseed = matches!(first_start, FirstStart::Reseed { .. });
    let read = tokio::task::spawn_blocking(move || match is_reseed {
        true => peer_identities::check_empty(&*engine).map(|()| None),
        false => Ok(peer_identities::begins(&*engine)?),
    });
    let begun = read
        .await
        .map_err(|error| NodeError::of_task("the start of the data directory", &error))??;
    if let FirstStart::Reseed { force } = first_start {
        // A lost directory leaves the cluster file, and that may have none of the present nodes.
        let told = seeds::ask(tls, around.identity, around.seeds).await.topology;
        let told = told.map(|topology| View::of_topology(&topology));
        let view = told.as_ref().unwrap_or(around.view);
        return choose_incarnation(node, tls, view, clock, force).await;
    }
    let shards = begun.unwrap_or_else(|| around.view.shards_of(node.0).collect());
    Ok(Beginning { incarnation: 0, shards })
}
