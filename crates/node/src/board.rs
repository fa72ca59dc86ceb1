//! The last published status of each replica of this node, for placement, metrics, snapshots and
//! shutdown.
//!
//! The shard threads write it every [`STATUS_EVERY_MS`](crate::limits::STATUS_EVERY_MS) and at each
//! change of leadership. Between these times it is a little old, so it decides no operation.

use crate::topology_copy::TopologyCopy;
use routing::{NodeId, ShardId};
use shard::{Member, Role, Status};
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
///
/// * `arriving` counts the snapshots on their way here, by shard; only counts above 0.
#[derive(Debug)]
pub(crate) struct Board {
    cells: Mutex<BTreeMap<ShardId, Status>>,
    arriving: Mutex<BTreeMap<ShardId, usize>>,
    /// The topology as META's replica here has applied it.
    pub(crate) topology: TopologyCopy,
}

/// Counts a snapshot on its way here, until the value is dropped.
pub(crate) struct Arriving<'a> {
    board: &'a Board,
    shard: ShardId,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        let mut arriving = lock(&self.board.arriving);
        if let Some(count) = arriving.get_mut(&self.shard) {
            *count -= 1;
        }
        arriving.retain(|_, count| *count > 0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(crate) fn new(shards: impl IntoIterator<Item = ShardId>) -> Self {
        let board = Board {
            cells: Mutex::default(),
            arriving: Mutex::default(),
            topology: TopologyCopy::default(),
        };
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

    /// The shards with a status that is like that.
    pub(crate) fn shards_where(&self, is_like_that: impl Fn(&Status) -> bool) -> Vec<u32> {
        let cells = self.lock();
        let found = cells.iter().filter(|(_, status)| is_like_that(status));
        found.map(|(shard, _)| shard.0).collect()
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

    /// The shards that this node leads, each with the version of the wish that its group has taken.
    /// 0 is a group that never had one.
    pub(crate) fn wishes_taken(&self) -> Vec<(ShardId, u64)> {
        let cells = self.lock();
        let led = cells.values().filter(|status| status.role == Role::Leader);
        let taken = |status: &Status| status.wanted.as_ref().map_or(0, shard::Wanted::version);
        led.map(|status| (status.shard, taken(status))).collect()
    }

    /// Notes that a snapshot of a shard is on its way here.
    pub(crate) fn arrives(&self, shard: ShardId) -> Arriving<'_> {
        *lock(&self.arriving).entry(shard).or_default() += 1;
        Arriving { board: self, shard }
    }

    /// The shards of which a snapshot is on its way here.
    pub(crate) fn arriving(&self) -> Vec<ShardId> {
        lock(&self.arriving).keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Status>> {
        lock(&self.cells)
    }
}

/// Whether a replica is not yet a voter under the incarnation of its directory. Of a replica that
/// has not published its status nothing is known.
pub(crate) fn is_reseeding(status: &Status, me: NodeId) -> bool {
    let is_me = |member: &Member| {
        member.node == me && member.incarnation == status.incarnation && !member.learner
    };
    status.incarnation > 0 && !status.members.iter().any(is_me)
}

/// The entries that a replica knows to lack.
pub(crate) fn behind_entries(status: &Status) -> u64 {
    status.told_committed_index.saturating_sub(status.applied_index)
}
