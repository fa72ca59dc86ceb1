//! The last published status of each replica of this node, for placement, metrics, snapshots and
//! shutdown.
//!
//! The shard threads write it every [`STATUS_EVERY_MS`](crate::limits::STATUS_EVERY_MS) and at each
//! change of leadership. Between these times it is a little old, so it decides no operation.

use routing::{NodeId, ShardId};
use shard::{Role, Status};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    cells: Mutex<BTreeMap<ShardId, Status>>,
}

impl Board {
    pub(crate) fn new(shards: impl IntoIterator<Item = ShardId>) -> Self {
        let board = Board { cells: Mutex::default() };
        shards.into_iter().for_each(|shard| board.admit(shard));
        board
    }

    /// Adds a shard, of which nothing is known yet.
    pub(crate) fn admit(&self, shard: ShardId) {
        self.lock().insert(shard, Status { shard, ..Status::default() });
    }

    /// Removes a shard that this node hosts no longer.
    pub(crate) fn retire(&self, shard: ShardId) {
        self.lock().remove(&shard);
    }

    /// Replaces the status of `status.shard`. The call is ignored if this node does not host the
    /// shard.
    pub(crate) fn publish(&self, status: Status) {
        if let Some(cell) = self.lock().get_mut(&status.shard) {
            *cell = status;
        }
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<Status> {
        self.lock().get(&shard).cloned()
    }

    /// All statuses, in order of their shards.
    pub(crate) fn all(&self) -> Vec<Status> {
        self.lock().values().cloned().collect()
    }

    /// The leader of each shard, without the rest of the status.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = Leader> + use<> {
        let leader = |(shard, status): (&ShardId, &Status)| {
            let is_me = status.role == Role::Leader;
            Leader { shard: *shard, leader: status.leader, term: status.term, is_me }
        };
        self.lock().iter().map(leader).collect::<Vec<_>>().into_iter()
    }

    /// The statuses of the shards that this node leads.
    pub(crate) fn led(&self) -> Vec<Status> {
        let cells = self.lock();
        cells.values().filter(|status| status.role == Role::Leader).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Status>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
