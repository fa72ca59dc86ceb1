//! The knowledge of a gateway about the cluster while it routes: the shard map, and each shard's
//! leader.
//!
//! * The map is replaced by one of a later edition only.
//! * A leader is a hint: the replica that is asked decides by itself whether it leads.

use link::leaders::LeaderCache;
use link::mux::{Failure, Outcome};
use routing::{Edition, MapVersion, NodeId, Route, RouteTable, ShardId, ShardMap};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use wire::OperationKind;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::v1::ErrorCode;

/// The map and the leaders, shared by all calls of a gateway.
#[derive(Debug)]
pub struct Directory {
    view: RwLock<View>,
    leaders: RwLock<LeaderCache>,
    /// Counts stale checks, so that each begins at the next follower.
    turn: AtomicUsize,
}

/// One edition of the map.
#[derive(Debug)]
struct View {
    map: ShardMap,
    /// All nodes, those without replicas too.
    nodes: BTreeSet<u64>,
    /// The replicas of each shard, the preferred leader first.
    replicas: BTreeMap<ShardId, Arc<[u64]>>,
}

impl View {
    fn of(map: ShardMap, nodes: BTreeSet<u64>) -> View {
        let replicas = map.shards().map(|(shard, replicas)| {
            let preferred = replicas.preferred_leader;
            let others = replicas.nodes.iter().filter(|node| **node != preferred);
            (shard, std::iter::once(&preferred).chain(others).map(|node| node.0).collect())
        });
        View { replicas: replicas.collect(), nodes, map }
    }
}

/// The replicas to ask, and the one to ask first.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    pub(super) all: Arc<[u64]>,
    pub(super) first: u64,
}

impl Directory {
    /// A directory with this map, which knows no leader yet. Its nodes are those with replicas.
    pub fn new(map: ShardMap) -> Directory {
        let nodes = map.shards().flat_map(|(_, replicas)| &replicas.nodes).map(|node| node.0);
        let nodes = nodes.collect();
        Directory {
            view: RwLock::new(View::of(map, nodes)),
            leaders: RwLock::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes a route table if its map is of a later edition than the present one, and tells whether
    /// it was.
    pub fn take(&self, routes: &RouteTable) -> bool {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let newer = routes.map().edition() > view.map.edition();
        if newer {
            let nodes = routes.members().map(|(node, _)| node.0).collect();
            *view = View::of(routes.map().clone(), nodes);
        }
        newer
    }

    /// The version of the slots of the present map.
    pub fn version(&self) -> MapVersion {
        self.view().map.version()
    }

    /// The edition of the present map.
    pub fn edition(&self) -> Edition {
        self.view().map.edition()
    }

    /// The slot and shard of a name.
    pub fn route(&self, name: &str) -> Route {
        self.view().map.route(name)
    }

    /// All shards, by id.
    pub fn shards(&self) -> Vec<ShardId> {
        self.view().replicas.keys().copied().collect()
    }

    /// Each replica of each shard, as shard and node.
    pub fn replicas(&self) -> Vec<(ShardId, NodeId)> {
        let view = self.view();
        let of_shard = |(shard, nodes): (&ShardId, &Arc<[u64]>)| {
            nodes.iter().map(|node| (*shard, NodeId(*node))).collect::<Vec<_>>()
        };
        view.replicas.iter().flat_map(of_shard).collect()
    }

    /// Whether there is such a node.
    pub(super) fn has_node(&self, node: NodeId) -> bool {
        self.view().nodes.contains(&node.0)
    }

    /// Whether there is such a shard.
    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.view().replicas.contains_key(&shard)
    }

    /// The replicas to ask for an operation on this shard. `None` if there is no such shard.
    ///
    /// For a stale check the followers take turns, so that they share the reads. The leader comes
    /// last, because it has enough to do.
    pub(super) fn targets(&self, shard: ShardId, stale: bool) -> Option<Targets> {
        let mut all = self.view().replicas.get(&shard)?.clone();
        // The leader may be of an older map or of a newer one. So it counts if it is a node at all.
        let known = self.leader(shard).filter(|node| self.has_node(*node));
        let leader = known.map_or(all[0], |leader| leader.0);
        if !all.contains(&leader) {
            all = with(&all, leader);
        }
        if !stale {
            return Some(Targets { all, first: leader });
        }
        let followers: Vec<u64> = all.iter().copied().filter(|node| *node != leader).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..followers.len()).map(|nth| followers[(turn + nth) % followers.len()]);
        let all: Arc<[u64]> = in_turn.chain([leader]).collect();
        Some(Targets { first: all[0], all })
    }

    /// The leader of a shard, as far as it is known.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leaders.read().unwrap_or_else(PoisonError::into_inner).leader(shard)
    }

    /// Takes a node's report that it leads a shard in this term.
    pub fn leads(&self, shard: ShardId, node: NodeId, term: u64) {
        let known = self.leaders.read().unwrap_or_else(PoisonError::into_inner).term(shard);
        if term > known && self.has(shard) {
            self.leaders_mut().learn(shard, Some(node), term);
        }
    }

    /// Learns about the shard's leader from the outcome of a try.
    pub(super) fn learn(
        &self,
        shard: ShardId,
        kind: OperationKind,
        node: u64,
        outcome: &Outcome<RoutedAnswer>,
    ) {
        let node = NodeId(node);
        match outcome {
            // A read says nothing of leadership, because followers answer reads too.
            Ok(_) if kind.is_read() || self.leader(shard) == Some(node) => {}
            Ok(_) => self.leaders_mut().confirm(shard, node),
            Err(Failure::NotSent(_) | Failure::Lost(_)) => self.leaders_mut().suspect(shard, node),
            Err(Failure::NotLeader { leader, term, .. }) => {
                let mut leaders = self.leaders_mut();
                if !leaders.learn(shard, *leader, *term) {
                    leaders.suspect(shard, node);
                }
            }
            Err(Failure::StaleRoute { .. }) => {}
            Err(Failure::Refused(error)) => match error.code() {
                ErrorCode::NoLeader | ErrorCode::ShuttingDown => {
                    self.leaders_mut().suspect(shard, node);
                }
                _ => {}
            },
        }
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaders_mut(&self) -> RwLockWriteGuard<'_, LeaderCache> {
        self.leaders.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// These targets and one more, which is asked last.
pub(super) fn with(targets: &[u64], node: u64) -> Arc<[u64]> {
    targets.iter().copied().chain([node]).collect()
}
