//! The tasks of watched shards, and the way to them.

use super::call::{CallId, Handle};
use super::task::{Order, ShardTask};
use crate::context::Context;
use crate::host::news;
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use wire::internal::v1::StartWatch;

/// The watched shards of this node.
///
/// * A shard is in the map exactly while its task takes orders.
pub(crate) struct Hub {
    context: Arc<Context>,
    /// A replica that has known no leader for this long serves no watch.
    pub(super) election_timeout: Duration,
    shards: Mutex<BTreeMap<ShardId, UnboundedSender<Order>>>,
}

impl Hub {
    pub(crate) fn new(context: Arc<Context>, election_timeout: Duration) -> Arc<Hub> {
        Arc::new(Hub { context, election_timeout, shards: Mutex::default() })
    }

    /// Starts a watch of a call. Its end is told as a frame.
    pub(crate) fn start(self: &Arc<Self>, shard: ShardId, call: &Arc<Handle>, watch: StartWatch) {
        self.order(shard, Order::Start { call: call.clone(), watch: Box::new(watch) });
    }

    /// Ends a watch of a call, without a frame.
    pub(crate) fn stop(&self, shard: ShardId, call: CallId, id: u64) {
        self.tell(shard, Order::Stop { call, id });
    }

    /// Keeps the recent events of a shard from now on.
    pub(crate) fn keep(self: &Arc<Self>, shard: ShardId, call: CallId) {
        if self.context.host.seat(shard).is_some() {
            self.order(shard, Order::Keep { call });
        }
    }

    /// The call does not need the recent events of a shard any more.
    pub(crate) fn let_go(&self, shard: ShardId, call: CallId) {
        self.tell(shard, Order::LetGo { call });
    }

    /// The call is over.
    pub(crate) fn gone(&self, shard: ShardId, call: CallId) {
        self.tell(shard, Order::Gone { call });
    }

    /// Ends the task of a shard, unless an order waits for it. Returns whether it ends.
    pub(super) fn ends(&self, shard: ShardId, orders: &UnboundedReceiver<Order>) -> bool {
        // Orders are sent under this lock, so none can come between the look and the end.
        let mut shards = self.shards();
        let ends = orders.is_empty();
        if ends {
            shards.remove(&shard);
        }
        ends
    }

    /// Gives an order to a shard's task, which is begun if there is none.
    fn order(self: &Arc<Self>, shard: ShardId, order: Order) {
        let mut shards = self.shards();
        let Err(unsent) = send(&shards, shard, order) else { return };
        let (orders, receiver) = unbounded_channel(); // a call gives one order for each it was given
        let (port, reader) = news();
        // A shard that is not hosted here gets no port. So its task ends at once, and says so.
        self.context.host.watch(shard, Some(port));
        let task = ShardTask::new(self.clone(), self.context.clone(), shard, receiver, reader);
        tokio::spawn(task.run());
        let _ = orders.send(unsent);
        shards.insert(shard, orders);
    }

    fn tell(&self, shard: ShardId, order: Order) {
        let _ = send(&self.shards(), shard, order); // without a task there is nothing to end
    }

    fn shards(&self) -> MutexGuard<'_, BTreeMap<ShardId, UnboundedSender<Order>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends an order to a task that runs. Otherwise gives it back.
fn send(
    shards: &BTreeMap<ShardId, UnboundedSender<Order>>,
    shard: ShardId,
    order: Order,
) -> Result<(), Order> {
    match shards.get(&shard) {
        Some(orders) => orders.send(order).map_err(|error| error.0),
        None => Err(order),
    }
}
