//! The operations of one stream that are not answered yet.
//!
//! * At most [`STREAM_WAITS_MAX`] operations may wait for long, and at most [`STREAM_OPS_MAX`]
//!   others are in flight. So short operations get through, however many wait.
//! * An index is free again only once its operation was answered, so no two operations of a stream
//!   have the same ticket.

use crate::host::Seat;
use crate::limits::{STREAM_OPS_MAX, STREAM_WAITS_MAX};
use routing::ShardId;
use service::Follow;
use std::time::Instant;
use traces::Span;
use wire::OperationKind;

/// One operation between its receipt and its result.
#[derive(Debug)]
pub(super) struct InFlight {
    /// The id that the sender gave to the operation.
    pub(super) id: u64,
    pub(super) kind: OperationKind,
    pub(super) shard: ShardId,
    pub(super) seat: Seat,
    pub(super) received: Instant,
    /// Whether the operation may wait in a lock's queue.
    pub(super) waits: bool,
    pub(super) follow: Follow,
    /// Its span, if it is traced.
    pub(super) span: Option<Box<Span>>,
}

/// Operations by index.
#[derive(Debug, Default)]
pub(super) struct OpTable {
    taken: Vec<Option<InFlight>>,
    free: Vec<u32>,
    /// The number of operations that may wait.
    waits: usize,
}

impl OpTable {
    pub(super) fn len(&self) -> usize {
        self.taken.len() - self.free.len()
    }

    /// The number of operations that do not wait.
    pub(super) fn short(&self) -> usize {
        self.len() - self.waits
    }

    /// Whether there is no room for an operation of this kind, either one that may wait or one that
    /// does not.
    pub(super) fn is_full(&self, waits: bool) -> bool {
        match waits {
            true => self.waits >= STREAM_WAITS_MAX,
            false => self.short() >= STREAM_OPS_MAX,
        }
    }

    /// Adds an operation and returns its index. Panics if there is no room.
    pub(super) fn put(&mut self, operation: InFlight) -> u32 {
        assert!(!self.is_full(operation.waits), "a stream has too many operations in flight");
        self.waits += usize::from(operation.waits);
        if let Some(op_index) = self.free.pop() {
            self.taken[op_index as usize] = Some(operation);
            return op_index;
        }
        self.taken.push(Some(operation));
        (self.taken.len() - 1) as u32
    }

    pub(super) fn get_mut(&mut self, op_index: u32) -> Option<&mut InFlight> {
        self.taken.get_mut(op_index as usize)?.as_mut()
    }

    /// Removes an operation, because it was answered.
    pub(super) fn take(&mut self, op_index: u32) -> Option<InFlight> {
        let operation = self.taken.get_mut(op_index as usize)?.take();
        if let Some(operation) = &operation {
            self.free.push(op_index);
            self.waits -= usize::from(operation.waits);
        }
        operation
    }

    /// All operations, with their indexes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &InFlight)> {
        self.taken
            .iter()
            .enumerate()
            .filter_map(|(op_index, op)| Some((op_index as u32, op.as_ref()?)))
    }
}
