//! META, the group of the topology, begins on this node.
//!
//! Its founders are the members that shard 0 has when its log founds META, which is agreed as
//! everything in that log is. A node begins META when shard 0's replica here has applied the
//! founding, as one of the founders, or as a replica of a re-seeded node that META's leader takes
//! in:
//!
//! ```text
//! shard 0's replica here applies the founding: the founders are 1⁰ 2¹ 3⁰
//!   node 2, incarnation 1                 begins as the founder 2¹
//!   node 2, re-seeded since (2)           the founder 2¹ is lost: begins as 2², without a vote
//!   node 4                                begins nothing
//! ```

use crate::board::is_reseeding;
use crate::context::Context;
use crate::hosting::{Begun, Hosting, HostingError};
use crate::limits::META_RETRY;
use crate::rebuilt;
use routing::META;
use std::sync::Arc;

/// Begins META on this node once shard 0's replica here knows its founders. Returns when that is
/// done, or is not to be done here.
pub(crate) async fn begin_meta(context: Arc<Context>, hosting: Arc<Hosting>) {
    let mut told = context.board.founders();
    let Ok(founders) = told.wait_for(Option::is_some).await.map(|founders| founders.clone()) else {
        return;
    };
    let founders = founders.expect("it was awaited");
    let Some(birth) = founders.lives().get(&context.id).copied() else { return };
    loop {
        let known = context.cluster.now();
        if known.cluster().generation > rebuilt::FIRST {
            return; // these founders are those of a group that was given up
        }
        if context.later_generation().is_some() {
            tokio::time::sleep(META_RETRY).await; // of which these founders are none, either
            continue;
        }
        let meta = known.shard(META);
        if meta.is_some_and(|meta| !meta.wanted.members.contains_key(&context.id)) {
            return; // it has left this node before it began here
        }
        match hosting.begin_meta(&founders, birth).await {
            Ok(Begun::Before | Begun::Founder) => return,
            Ok(Begun::Lost) => break,
            Err(HostingError::StandsBy) => tokio::time::sleep(META_RETRY).await,
            Err(error) => {
                return tracing::warn!(
                    "the topology's group did not begin on this node, and locks are served without it: {error}"
                );
            }
        }
    }
    let incarnation = context.identities.own().incarnation;
    let has_vote = || match context.board.get(META) {
        Some(status) => !is_reseeding(&status, context.id, incarnation),
        None => true, // it has left this node
    };
    while !has_vote() {
        tokio::time::sleep(META_RETRY).await;
    }
    tracing::info!("the replica of the topology's group on this node has its vote again");
}
