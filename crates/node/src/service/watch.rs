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
    /// All shards that have heard of the call. They are or were hosted here.
    shards: BTreeSet<ShardId>,
}

impl WatchCall {
    pub(super) fn new(watching: Arc<Hub>, call: Arc<Handle>) -> WatchCall {
        WatchCall { watching, call, keeps: BTreeSet::new(), shards: BTreeSet::new() }
    }

    /// Runs until the gateway ends the call or does not read it any more, or the node stops.
    pub(super) async fn run(mut self, mut inbound: Streaming<WatchRequest>, lifecycle: &Lifecycle) {
        let call = self.call.clone();
        let drains = lifecycle.reached(Phase::Draining);
        tokio::pin!(drains);
        loop {
            let request = tokio::select! {
                request = inbound.message() => match request {
                    Ok(Some(request)) => request,
                    Ok(None) | Err(_) => return,
                },
                () = call.outbound.closed() => return,
                // The tasks of the shards say the last words.
                () = &mut drains => return self.shards.clear(),
            };
            tokio::select! {
                () = self.take(request) => {}
                () = &mut drains => return self.shards.clear(),
            }
        }
    }

    async fn take(&mut self, request: WatchRequest) {
        for watch in request.start {
            self.start(watch).await;
        }
        for id in request.stop {
            self.stop(id).await;
        }
        if let Some(keep) = request.keep {
            self.keep(keep.shards.into_iter().map(ShardId).collect()).await;
        }
    }

    async fn start(&mut self, watch: StartWatch) {
        let id = watch.id;
        let Some(shard) = watch.route.as_ref().map(|route| ShardId(route.shard)) else {
            return self.refuse(id, Error::invalid("a watch needs a route")).await;
        };
        let (is_open, open) = {
            let opened = self.call.opened();
            (opened.contains_key(&id), opened.len())
        };
        if is_open {
            // No frame tells which of the two it is of, so neither goes on.
            self.stop(id).await;
            let message = format!("this call has a watch {id} already: choose another id");
            return self.refuse(id, Error::invalid(message)).await;
        }
        if open >= WATCHES_MAX {
            let message = format!("this call has {WATCHES_MAX} watches already: stop some");
            return self.refuse(id, Error::busy(message, 1_000)).await;
        }
        match self.watching.admit(shard) {
            Ok(permit) => self.call.open(id, shard, permit),
            Err(error) => return self.refuse(id, error).await,
        }
        self.shards.insert(shard);
        self.watching.start(shard, &self.call, watch).await;
    }

    async fn stop(&self, id: u64) {
        let opened = self.call.opened().remove(&id);
        if let Some(opened) = opened {
            self.watching.stop(opened.shard, &self.call, id).await;
        }
    }

    /// The list of shards to keep. Each list is told completely, because a task may have ended or a
    /// shard may have come since the one before.
    async fn keep(&mut self, mut keeps: BTreeSet<ShardId>) {
        keeps.retain(|shard| self.watching.is_hosted(*shard));
        self.shards.extend(&keeps);
        let former = std::mem::replace(&mut self.keeps, keeps);
        for shard in &self.keeps {
            self.watching.keep(*shard, &self.call).await;
        }
        for shard in former.difference(&self.keeps) {
            self.watching.let_go(*shard, &self.call).await;
        }
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
