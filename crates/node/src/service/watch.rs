//! The watches of one gateway: it hands each to the task of its shard, and ends them with the call.
//!
//! The module knows nothing of events.

use crate::lifecycle::{Lifecycle, Phase};
use crate::limits::WATCHES_MAX;
use crate::watching::{Handle, Hub};
use routing::ShardId;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Streaming;
use wire::internal::v1::{StartWatch, WatchFrame, WatchRequest, WatchResponse};
use wire::v1::Error;

/// One call.
pub(super) struct WatchCall {
    watching: Arc<Hub>,
    call: Arc<Handle>,
    keeps: BTreeSet<ShardId>,
    /// All shards that have heard of the call.
    shards: BTreeSet<ShardId>,
}

impl WatchCall {
    pub(super) fn new(watching: Arc<Hub>, call: Arc<Handle>) -> WatchCall {
        WatchCall { watching, call, keeps: BTreeSet::new(), shards: BTreeSet::new() }
    }

    /// Runs until the gateway ends the call or does not read it any more, or the node stops.
    pub(super) async fn run(mut self, mut inbound: Streaming<WatchRequest>, lifecycle: &Lifecycle) {
        loop {
            tokio::select! {
                request = inbound.message() => match request {
                    Ok(Some(request)) => self.take(request).await,
                    Ok(None) | Err(_) => return,
                },
                () = self.call.outbound.closed() => return,
                // The tasks of the shards say the last words.
                () = lifecycle.reached(Phase::Draining) => return self.shards.clear(),
            }
        }
    }

    async fn take(&mut self, request: WatchRequest) {
        for watch in request.start {
            self.start(watch).await;
        }
        for id in request.stop {
            let shard = self.call.open().remove(&id);
            if let Some(shard) = shard {
                self.watching.stop(shard, self.call.id, id);
            }
        }
        if let Some(keep) = request.keep {
            self.keep(keep.shards.into_iter().map(ShardId).collect());
        }
    }

    async fn start(&mut self, watch: StartWatch) {
        let id = watch.id;
        let Some(shard) = watch.route.as_ref().map(|route| ShardId(route.shard)) else {
            return self.refuse(id, Error::invalid("a watch needs a route")).await;
        };
        if self.call.open().len() >= WATCHES_MAX {
            let message = format!("this call has {WATCHES_MAX} watches already: stop some");
            return self.refuse(id, Error::busy(message, 1_000)).await;
        }
        self.call.open().insert(id, shard);
        self.shards.insert(shard);
        self.watching.start(shard, &self.call, watch);
    }

    fn keep(&mut self, keeps: BTreeSet<ShardId>) {
        for shard in keeps.difference(&self.keeps) {
            self.watching.keep(*shard, self.call.id);
        }
        for shard in self.keeps.difference(&keeps) {
            self.watching.let_go(*shard, self.call.id);
        }
        self.shards.extend(&keeps);
        self.keeps = keeps;
    }

    /// Waits for the gateway if it does not read. Meanwhile nothing more is taken of it.
    async fn refuse(&self, id: u64, error: Error) {
        let frame = WatchFrame { id, ended: Some(error), ..WatchFrame::default() };
        // A call that is over needs no answer.
        let _ = self.call.outbound.send(Ok(WatchResponse { frames: vec![frame] })).await;
    }
}

impl Drop for WatchCall {
    fn drop(&mut self) {
        for shard in &self.shards {
            self.watching.gone(*shard, self.call.id);
        }
    }
}
