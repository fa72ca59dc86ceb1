//! What a node begins with, before its store is claimed: the incarnation of its directory, if that is
//! re-seeded now, and the replicas that come without the topology.
//!
//! A usual directory begins with the replicas that the cluster file gives the node. A re-seeded one
//! begins with those that the groups want here by then, as its peers say. The module knows nothing of
//! replicas that come later (`hosting.rs`).

use crate::clock::Clock;
use crate::error::NodeError;
use crate::peer_identities::{self, Beginning, FirstStart};
use crate::transport::choose_incarnation;
use crate::view::View;
use net::tls::Inside;
use routing::{Fingerprint, NodeId};
use std::sync::Arc;
use storage::Engine;

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
    view: &View,
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
        return choose_incarnation(node, tls, view, clock, force).await;
    }
    let shards = begun.unwrap_or_else(|| view.shards_of(node.0).collect());
    Ok(Beginning { incarnation: 0, shards })
}
