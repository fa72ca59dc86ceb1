//! The last published status of each replica of this node, for placement, metrics, snapshots and
//! shutdown.
//!
//! The shard threads write it every [`STATUS_EVERY_MS`](crate::limits::STATUS_EVERY_MS) and at each
//! change of leadership. Between these times it is a little old, so it decides no operation.

use routing::{NodeId, ShardId};
use shard::{Role, Status};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The leader of a shard, as a replica here knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leader {
    pub(crate) shard: ShardId,
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: u64,
    /// Whether the leader is this replica.
    pub(crate) is_me: bool,
}

/// The status of each replica, by shard.
#[derive(Debug)]
pub(crate) struct Board {
    cells: BTreeMap<ShardId, Mutex<Status>>,
}

impl Board {
    pub(crate) fn new(shards: impl IntoIterator<Item = ShardId>) -> Self {
        let cell = |shard| (shard, Mutex::new(Status { shard, ..Status::default() }));
        Board { cells: shards.into_iter().map(cell).collect() }
    }

    /// Replaces the status of `status.shard`. The call is ignored if this node does not host the
    /// shard.
    pub(crate) fn publish(&self, status: Status) {
        if let Some(cell) = self.cells.get(&status.shard) {
            *cell.lock().unwrap_or_else(PoisonError::into_inner) = status;
        }
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<Status> {
        self.cells
            .get(&shard)
            .map(|cell| cell.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// All statuses, in order of their shards.
    pub(crate) fn all(&self) -> Vec<Status> {
        self.cells.keys().filter_map(|shard| self.get(*shard)).collect()
    }

    /// The leader of each shard, without the rest of the status.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = Leader> {
        self.cells.iter().map(|(shard, cell)| {
            let status = cell.lock().unwrap_or_else(PoisonError::into_inner);
            let is_me = status.role == Role::Leader;
            Leader { shard: *shard, leader: status.leader, term: status.term, is_me }
        })
    }

    /// The statuses of the shards that this node leads.
    pub(crate) fn led(&self) -> Vec<Status> {
        self.all().into_iter().filter(|status| status.role == Role::Leader).collect()
    }
}
