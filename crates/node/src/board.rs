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
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often replicas are looked at that are about to apply what is asked for.
const SETTLE_LOOK_EVERY: Duration = Duration::from_millis(50);

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
    cells: Mutex<BTreeMap<ShardId, Cell>>,
    arriving: Mutex<BTreeMap<ShardId, usize>>,
    /// The topology as META's replica here has applied it.
    pub(crate) topology: TopologyCopy,
    /// The founders of META, once shard 0's replica here has told them.
    founders: watch::Sender<Option<Founders>>,
    /// Why META's replica here has failed, if it has.
    meta_failure: Mutex<Option<String>>,
}

/// What is known of one replica.
#[derive(Debug, Default)]
struct Cell {
    status: Status,
    /// The commit index that the replica was opened with. `None` until it has published a status.
    opened_at: Option<u64>,
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
        let status = Status { shard, ..Status::default() };
        self.lock().insert(shard, Cell { status, opened_at: None });
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
            cell.opened_at.get_or_insert(status.committed_index);
            cell.status = status;
        }
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<Status> {
        self.lock().get(&shard).map(|cell| cell.status.clone())
    }

    /// All statuses, in order of their shards.
    pub(crate) fn all(&self) -> Vec<Status> {
        self.lock().values().map(|cell| cell.status.clone()).collect()
    }

    /// The statuses of the replicas that have applied at least what they knew to be committed when
    /// they were opened, and when this is called. The members of another one may be those of an old
    /// checkpoint, or of the time before entries that it applies step by step.
    ///
    /// Under load a replica is always a little behind, so the call waits for all of them, for this
    /// time at most.
    pub(crate) async fn settled(&self, within: Duration) -> Vec<Status> {
        let committed: BTreeMap<ShardId, u64> = {
            let committed =
                |cell: &Cell| cell.opened_at.map(|at| at.max(cell.status.committed_index));
            let cells = self.lock();
            cells.iter().filter_map(|(shard, cell)| Some((*shard, committed(cell)?))).collect()
        };
        let began = Instant::now();
        loop {
            let applied = |status: &Status| {
                committed.get(&status.shard).is_some_and(|at| status.applied_index >= *at)
            };
            let settled: Vec<Status> = self.all().into_iter().filter(applied).collect();
            if settled.len() >= committed.len() || began.elapsed() >= within {
                return settled;
            }
            tokio::time::sleep(SETTLE_LOOK_EVERY).await;
        }
    }

    /// The shards with a status that is like that.
    pub(crate) fn shards_where(&self, is_like_that: impl Fn(&Status) -> bool) -> Vec<u32> {
        let cells = self.lock();
        let found = cells.iter().filter(|(_, cell)| is_like_that(&cell.status));
        found.map(|(shard, _)| shard.0).collect()
    }

    /// The leader of each shard, without the rest of the status.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = Leader> + use<> {
        let leader = |(shard, Cell { status, .. }): (&ShardId, &Cell)| {
            let is_me = status.role == Role::Leader;
            Leader { shard: *shard, leader: status.leader, term: status.term, is_me }
        };
        self.lock().iter().map(leader).collect::<Vec<_>>().into_iter()
    }

    /// The statuses of the shards that this node leads.
    pub(crate) fn led(&self) -> Vec<Status> {
        let cells = self.lock();
        let statuses = cells.values().map(|cell| &cell.status);
        statuses.filter(|status| status.role == Role::Leader).cloned().collect()
    }

    /// The shards that this node leads, each with the version of the wish that its group has taken.
    /// 0 is a group that never had one.
    pub(crate) fn wishes_taken(&self) -> Vec<(ShardId, u64)> {
        let cells = self.lock();
        let statuses = cells.values().map(|cell| &cell.status);
        let led = statuses.filter(|status| status.role == Role::Leader);
        let taken = |status: &Status| status.wanted.as_ref().map_or(0, shard::Wanted::version);
        led.map(|status| (status.shard, taken(status))).collect()
    }

    /// The shards that this node leads whose groups have not reached a level.
    pub(crate) fn below_level(&self, level: u32) -> Vec<ShardId> {
        let cells = self.lock();
        let statuses = cells.values().map(|cell| &cell.status);
        let below = |status: &&Status| status.role == Role::Leader && status.level < level;
        statuses.filter(below).map(|status| status.shard).collect()
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Cell>> {
        lock(&self.cells)
    }
}

/// Whether a replica on node `me` has a vote, as far as it knows.
fn has_vote(status: &Status, me: NodeId) -> bool {
    let own = Member { node: me, incarnation: status.incarnation, learner: false };
    status.members.contains(&own)
}

/// Whether a replica came back with a re-seeded directory of this incarnation, and has no vote yet.
/// Of a replica that has not published its status nothing is known.
pub(crate) fn is_reseeding(status: &Status, me: NodeId, incarnation: u32) -> bool {
    let is_wanted = status.wanted.as_ref().is_none_or(|wanted| wanted.members().contains_key(&me));
    incarnation > 0 && status.incarnation == incarnation && is_wanted && !has_vote(status, me)
}

/// Whether a replica came to a node that has served without it, or is about to leave. It has no vote,
/// and its group does not count on it.
pub(crate) fn is_on_its_way(status: &Status, me: NodeId, incarnation: u32) -> bool {
    let is_known = !status.members.is_empty();
    is_known && !has_vote(status, me) && !is_reseeding(status, me, incarnation)
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
