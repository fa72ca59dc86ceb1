//! The last published status of each replica of this node, for placement, metrics, snapshots and
//! shutdown.
//!
//! The shard threads write it every [`STATUS_EVERY_MS`](crate::limits::STATUS_EVERY_MS) and at each
//! change of leadership. Between these times it is a little old, so it decides no operation.

use crate::topology_copy::TopologyCopy;
use routing::{META, NodeId, ShardId};
use shard::{Founders, Member, Role, Status};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

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
    /// The founders of META, once shard 0's replica here has told them.
    founders: watch::Sender<Option<Founders>>,
    /// Why META's replica here has failed, if it has.
    meta_failure: Mutex<Option<String>>,
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
            founders: watch::Sender::default(),
            meta_failure: Mutex::default(),
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
        if shard == META {
            self.topology.forget();
            *lock(&self.meta_failure) = None;
        }
    }

    /// A receiver of META's founders.
    pub(crate) fn founders(&self) -> watch::Receiver<Option<Founders>> {
        self.founders.subscribe()
    }

    /// Notes META's founders, as told by shard 0's replica here.
    pub(crate) fn take_founders(&self, founders: Founders) {
        self.founders.send_replace(Some(founders));
    }

    /// Notes that META's replica here has failed, and why.
    pub(crate) fn meta_failed(&self, why: String) {
        *lock(&self.meta_failure) = Some(why);
    }

    /// Why META's replica here has failed, if it has.
    pub(crate) fn meta_failure(&self) -> Option<String> {
        lock(&self.meta_failure).clone()
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

#[cfg(test)]
mod tests {
    use super::*;
    use routing::ClusterConfig;
    use shard::TopologyNews;
    use topology::{Command, Proposal, Seed, Topology, Version};

    /// Regression: the topology of a replica of META outlived it, and its next one could not tell
    /// the changes from the first on.
    #[test]
    fn the_topology_goes_with_its_replica() {
        let board = Board::new([META]);
        let seed = Seed::of(&ClusterConfig::dev(1, 3, 20_000).unwrap());
        let founding = Proposal::new(7, Command::Bootstrap { seed });
        let delta = Topology::default().apply(&founding).unwrap().unwrap();
        for _ in 0..2 {
            board.admit(META);
            let is_later = board.topology.take(TopologyNews::Deltas(vec![delta.clone()]));
            assert_eq!(is_later, Ok(true));
            assert_eq!(board.topology.now().version(), Version(1));
            board.meta_failed("it parted from the others".to_owned());
            board.retire(META);
            assert_eq!(board.topology.now().version(), Version(0));
            assert_eq!(board.meta_failure(), None);
        }
    }
}
