//! The operations of one stream that are not answered yet.
//!
//! * At most [`STREAM_WAITS_MAX`] slots are taken by what may wait for long, and [`STREAM_OPS_MAX`] by all else: however many wait,
//!   what is short gets through.
//! * A slot is free again only once its operation was answered, so no two operations of a stream have the same ticket.

use super::plan::Follow;
use crate::host::Seat;
use crate::limits::{STREAM_OPS_MAX, STREAM_WAITS_MAX};
use crate::metrics::Kind;
use routing::ShardId;
use std::time::Instant;

/// One operation between its receipt and its result.
#[derive(Debug)]
pub(super) struct InFlight {
    /// The sender's name for it.
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) shard: ShardId,
    pub(super) seat: Seat,
    pub(super) received: Instant,
    /// It may wait in a lock's queue.
    pub(super) waits: bool,
    pub(super) follow: Follow,
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    taken: Vec<Option<InFlight>>,
    free: Vec<u32>,
    /// Of those taken, the ones of operations that may wait.
    waits: usize,
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.taken.len() - self.free.len()
    }

    /// Those of operations that do not wait.
    pub(super) fn short(&self) -> usize {
        self.len() - self.waits
    }

    /// Whether there is no slot for an operation that waits, or does not.
    pub(super) fn is_full(&self, waits: bool) -> bool {
        match waits {
            true => self.waits >= STREAM_WAITS_MAX,
            false => self.short() >= STREAM_OPS_MAX,
        }
    }

    /// Panics if full.
    pub(super) fn put(&mut self, operation: InFlight) -> u32 {
        assert!(!self.is_full(operation.waits), "a stream has too many operations in flight");
        self.waits += usize::from(operation.waits);
        if let Some(slot) = self.free.pop() {
            self.taken[slot as usize] = Some(operation);
            return slot;
        }
        self.taken.push(Some(operation));
        (self.taken.len() - 1) as u32
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut InFlight> {
        self.taken.get_mut(slot as usize)?.as_mut()
    }

    /// Frees the slot: its operation was answered.
    pub(super) fn take(&mut self, slot: u32) -> Option<InFlight> {
        let operation = self.taken.get_mut(slot as usize)?.take();
        if let Some(operation) = &operation {
            self.free.push(slot);
            self.waits -= usize::from(operation.waits);
        }
        operation
    }

    /// All that are taken.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &InFlight)> {
        self.taken.iter().enumerate().filter_map(|(slot, op)| Some((slot as u32, op.as_ref()?)))
    }
}
