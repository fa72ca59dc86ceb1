//! The watched shards of this node, each with its task.

use super::call::{CallId, Handle};
use super::orders::{Desks, Order};
use super::task::ShardTask;
use crate::context::Context;
use crate::host::news;
use routing::ShardId;
use std::sync::Arc;
use std::time::Duration;
use wire::internal::v1::StartWatch;

/// The way to the tasks of watched shards, which are begun when they are needed.
pub(crate) struct Hub {
    context: Arc<Context>,
    desks: Arc<Desks>,
    election_timeout: Duration,
}

impl Hub {
    /// A replica that has known no leader for `election_timeout` serves no watch.
    pub(crate) fn new(context: Arc<Context>, election_timeout: Duration) -> Hub {
        Hub { context, desks: Arc::default(), election_timeout }
    }

    /// Starts a watch of a call. Its end is told as a frame.
    pub(crate) fn start(&self, shard: ShardId, call: &Arc<Handle>, watch: StartWatch) {
        self.order(shard, Order::Start { call: call.clone(), watch: Box::new(watch) });
    }

    /// Ends a watch of a call, without a frame.
    pub(crate) fn stop(&self, shard: ShardId, call: CallId, id: u64) {
        self.desks.tell(shard, Order::Stop { call, id });
    }

    /// Keeps the recent events of a shard from now on, if it is hosted here.
    pub(crate) fn keep(&self, shard: ShardId, call: CallId) {
        if self.context.host.seat(shard).is_some() {
            self.order(shard, Order::Keep { call });
        }
    }

    /// The call does not need the recent events of a shard any more.
    pub(crate) fn let_go(&self, shard: ShardId, call: CallId) {
        self.desks.tell(shard, Order::LetGo { call });
    }

    /// The call is over.
    pub(crate) fn gone(&self, shard: ShardId, call: CallId) {
        self.desks.tell(shard, Order::Gone { call });
    }

    fn order(&self, shard: ShardId, order: Order) {
        self.desks.order(shard, order, |orders| {
            let (port, reader) = news();
            // A shard that is not hosted here gets no port. So its task ends at once, and says so.
            self.context.host.watch(shard, Some(port));
            let (desks, context) = (self.desks.clone(), self.context.clone());
            let task = ShardTask::new(desks, context, shard, self.election_timeout, orders, reader);
            tokio::spawn(task.run());
        });
    }
}
