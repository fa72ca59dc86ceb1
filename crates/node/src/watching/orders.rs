//! What calls tell the tasks of watched shards, and the way there.

use super::call::{CallId, Handle};
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use wire::internal::v1::StartWatch;

/// An order of a call to the task of one shard.
#[derive(Debug)]
pub(super) enum Order {
    /// Start a watch. Its end is told as a frame.
    Start { call: Arc<Handle>, watch: Box<StartWatch> },
    /// End a watch, without a frame.
    Stop { call: CallId, id: u64 },
    /// Keep the recent events from now on.
    Keep { call: CallId },
    /// The recent events are not needed any more.
    LetGo { call: CallId },
    /// The call is over.
    Gone { call: CallId },
}

/// The tasks of shards.
///
/// * A shard is in the map exactly while its task takes orders.
#[derive(Debug, Default)]
pub(super) struct Desks {
    shards: Mutex<BTreeMap<ShardId, UnboundedSender<Order>>>,
}

impl Desks {
    /// Gives an order to the task of a shard. If there is none, `begin` begins one, which takes its
    /// orders from this receiver.
    pub(super) fn order(
        &self,
        shard: ShardId,
        order: Order,
        begin: impl FnOnce(UnboundedReceiver<Order>),
    ) {
        // The lock is held until the order is sent, so that no second task is begun.
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let unsent = match shards.get(&shard) {
            Some(orders) => match orders.send(order) {
                Ok(()) => return,
                Err(unsent) => unsent.0,
            },
            None => order,
        };
        let (orders, receiver) = unbounded_channel(); // one for each request that the calls take
        begin(receiver);
        // The task has just begun, and takes the order.
        let _ = orders.send(unsent);
        shards.insert(shard, orders);
    }

    /// Gives an order to the task of a shard. Without a task there is nothing to do.
    pub(super) fn tell(&self, shard: ShardId, order: Order) {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = shards.get(&shard) {
            let _ = orders.send(order);
        }
    }

    /// Takes the task of a shard out, unless an order waits for it. Returns whether it is out.
    pub(super) fn leave(&self, shard: ShardId, orders: &UnboundedReceiver<Order>) -> bool {
        // Orders are sent under this lock, so none comes between the look and the end.
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let leaves = orders.is_empty();
        if leaves {
            shards.remove(&shard);
        }
        leaves
    }
}
