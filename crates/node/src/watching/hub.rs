//! The watched shards of this node, each with its task.

use super::call::{CallId, Handle};
use super::orders::{Desks, Given, Order};
use super::task::ShardTask;
use crate::context::Context;
use crate::host::news;
use crate::limits::{WATCH_LIMITS, WATCH_NODE_BYTES, WATCHES_OF_NODE_MAX};
use routing::{META, ShardId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use watch::Limits;
use wire::internal::v1::StartWatch;
use wire::v1::Error;

/// The way to the tasks of watched shards, which are begun when they are needed.
pub(crate) struct Hub {
    context: Arc<Context>,
    desks: Arc<Desks>,
    /// Permits for watches.
    watches: Arc<Semaphore>,
    election_timeout: Duration,
}

impl Hub {
    /// A replica that has known no leader for `election_timeout` serves no watch.
    pub(crate) fn new(context: Arc<Context>, election_timeout: Duration) -> Hub {
        let watches = Arc::new(Semaphore::new(WATCHES_OF_NODE_MAX));
        Hub { context, desks: Arc::default(), watches, election_timeout }
    }

    /// Whether a shard with locks to watch is hosted here.
    pub(crate) fn is_hosted(&self, shard: ShardId) -> bool {
        shard != META && self.context.host.seat(shard).is_some()
    }

    /// A permit for one watch.
    ///
    /// # Errors
    /// NO_LEADER, which lets the gateway ask another replica, if the shard is not hosted here. BUSY
    /// if the node has as many watches as it takes.
    pub(crate) fn admit(&self, shard: ShardId) -> Result<OwnedSemaphorePermit, Error> {
        if !self.is_hosted(shard) {
            let message = format!("shard {shard} has no replica here: watch another replica");
            return Err(Error::no_leader(message));
        }
        self.watches.clone().try_acquire_owned().map_err(|_| {
            let most = WATCHES_OF_NODE_MAX;
            Error::busy(format!("this node has {most} watches already: stop some"), 1_000)
        })
    }

    /// Starts a watch of a call. Its end is told as a frame.
    pub(crate) async fn start(&self, shard: ShardId, call: &Arc<Handle>, watch: StartWatch) {
        let order = Order::Start { call: call.clone(), watch: Box::new(watch) };
        self.order(shard, order, call).await;
    }

    /// Ends a watch of a call, without a frame.
    pub(crate) async fn stop(&self, shard: ShardId, call: &Handle, id: u64) {
        let _permit = Some(call.order_permit().await);
        self.desks.tell(shard, Given { order: Order::Stop { call: call.id, id }, _permit });
    }

    /// Keeps the recent events of a shard that is hosted here from now on. Nothing changes if they
    /// are kept for the call already.
    pub(crate) async fn keep(&self, shard: ShardId, call: &Handle) {
        self.order(shard, Order::Keep { call: call.id }, call).await;
    }

    /// The call does not need the recent events of a shard any more.
    pub(crate) async fn let_go(&self, shard: ShardId, call: &Handle) {
        let _permit = Some(call.order_permit().await);
        self.desks.tell(shard, Given { order: Order::LetGo { call: call.id }, _permit });
    }

    /// The call is over.
    pub(crate) fn gone(&self, shard: ShardId, call: CallId) {
        self.desks.tell(shard, Given { order: Order::Gone { call }, _permit: None });
    }

    async fn order(&self, shard: ShardId, order: Order, call: &Handle) {
        let _permit = Some(call.order_permit().await);
        self.desks.order(shard, Given { order, _permit }, |orders| {
            // Each shard has its share of the node's memory for events: a third of it for those
            // that are on their way to the task.
            let share = WATCH_NODE_BYTES / 3 * 2 / self.context.host.shards().max(1);
            let limits = Limits { bytes: share.min(WATCH_LIMITS.bytes), ..WATCH_LIMITS };
            let (port, reader) = news(limits.bytes / 2);
            // A shard that is not hosted here gets no port. So its task ends at once, and says so.
            self.context.host.watch(shard, Some(port));
            let (desks, context) = (self.desks.clone(), self.context.clone());
            let timeout = self.election_timeout;
            let task = ShardTask::new(desks, context, shard, limits, timeout, orders, reader);
            tokio::spawn(task.run());
        });
    }
}
