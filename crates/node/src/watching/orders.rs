//! The orders of calls to the tasks of watched shards, and the way there.

use super::call::{CallId, Handle};
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedSemaphorePermit;
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

/// An order under way. Its call gives no more than a few at a time: the permit is given back once
/// the order is carried out. Only the last order of a call has none.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) order: Order,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// The tasks of shards.
///
/// * A shard is in the map exactly while its task takes orders.
#[derive(Debug, Default)]
pub(super) struct Desks {
    shards: Mutex<BTreeMap<ShardId, UnboundedSender<Given>>>,
    /// Counts the reads of all tasks, so that no task takes an answer that was meant for the one
    /// before.
    readings: AtomicU32,
}

impl Desks {
    /// Gives an order to the task of a shard. If there is none, `begin` begins one, which takes its
    /// orders from this receiver.
    pub(super) fn order(
        &self,
        shard: ShardId,
        order: Given,
        begin: impl FnOnce(UnboundedReceiver<Given>),
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
        let (orders, receiver) = unbounded_channel(); // bounded by the permits of the calls
        begin(receiver);
        // The task has just begun, and takes the order.
        let _ = orders.send(unsent);
        shards.insert(shard, orders);
    }

    /// Gives an order to the task of a shard. Without a task there is nothing to do.
    pub(super) fn tell(&self, shard: ShardId, order: Given) {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = shards.get(&shard) {
            let _ = orders.send(order);
        }
    }

    /// Takes the task of a shard out, unless an order waits for it: then nothing happens. Does
    /// `last` before another task can begin. Returns whether the task is out.
    pub(super) fn leave(
        &self,
        shard: ShardId,
        orders: &UnboundedReceiver<Given>,
        last: impl FnOnce(),
    ) -> bool {
        // Orders are sent under this lock, so none comes between the look and the end.
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let leaves = orders.is_empty();
        if leaves {
            shards.remove(&shard);
            last();
        }
        leaves
    }

    /// A number for a read, which no other read under way has.
    pub(super) fn next_reading(&self) -> u32 {
        self.readings.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An order that comes while a task is about to end is not lost with it.
    #[test]
    fn a_task_with_an_order_does_not_leave() {
        let desks = Desks::default();
        let keep = || Given { order: Order::Keep { call: CallId(1) }, _permit: None };
        let mut receiver = None;
        desks.order(ShardId(1), keep(), |orders| receiver = Some(orders));
        let mut orders = receiver.take().expect("a task begins");
        assert!(!desks.leave(ShardId(1), &orders, || panic!("it has an order")));
        assert!(orders.try_recv().is_ok());
        let mut has_left = false;
        assert!(desks.leave(ShardId(1), &orders, || has_left = true) && has_left);
        desks.order(ShardId(1), keep(), |orders| receiver = Some(orders));
        assert!(receiver.is_some(), "another task begins");
    }
}
