//! One shard of a watch, and the choice of its node.

use super::node::{Call, Node};
use crate::core::Directory;
use crate::limits::WATCH_UNSERVED_MS_MAX;
use routing::ShardId;
use std::collections::{BTreeMap, BTreeSet};
use wire::internal::v1::{Route, WatchPlace};
use wire::v1::{Error, ErrorCode, WatchFilter};

/// One shard of a watch.
#[derive(Debug, Default)]
pub(super) struct Leg {
    /// The number of the watch at the node, and the node, while one serves it.
    pub(super) served: Option<(u64, u64)>,
    /// When that began.
    pub(super) served_at_ms: u64,
    /// How far the client was told.
    pub(super) place: Option<WatchPlace>,
    /// The nodes that have ended it since the last part.
    pub(super) tried: Vec<u64>,
    /// The pauses since the last part.
    pub(super) pauses: u32,
    /// When it is to be tried again.
    pub(super) again_at_ms: Option<u64>,
    /// Since when no node has served it for long.
    pub(super) unserved_since_ms: Option<u64>,
    /// The last word of a node that has ended it, since the last part.
    refusal: Option<Box<Error>>,
}

impl Leg {
    pub(super) fn of(place: Option<WatchPlace>) -> Leg {
        Leg { place, ..Leg::default() }
    }

    /// The client was told a part.
    pub(super) fn told(&mut self) {
        (self.pauses, self.tried, self.unserved_since_ms) = (0, Vec::new(), None);
        self.refusal = None;
    }

    /// Its node does not serve it any more, and has said why.
    pub(super) fn lost(&mut self, node: u64, why: Option<Error>, now_ms: u64) {
        self.served = None;
        self.tried.push(node);
        self.refusal = why.map(Box::new).or(self.refusal.take());
        // A quiet shard tells nothing, so that time counts as well as parts.
        let served_ms = now_ms.saturating_sub(self.served_at_ms);
        if self.unserved_since_ms.is_none() || served_ms >= WATCH_UNSERVED_MS_MAX / 2 {
            self.unserved_since_ms = Some(now_ms);
        }
    }

    /// Whether a node that ended it is full. Its pause then has nothing to do with calls.
    pub(super) fn is_refused_as_busy(&self) -> bool {
        self.refusal.as_ref().is_some_and(|why| why.code() == ErrorCode::Busy)
    }

    /// The error that ends the watch, if no node has served the leg for too long.
    pub(super) fn is_given_up(&mut self, shard: u32, now_ms: u64) -> Option<Box<Error>> {
        let since_ms = *self.unserved_since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) < WATCH_UNSERVED_MS_MAX {
            return None;
        }
        let seconds = WATCH_UNSERVED_MS_MAX / 1_000;
        let why = self.refusal.as_ref().map_or("none can be reached", |why| &why.message);
        let message = format!(
            "no replica of shard {shard} has served this watch for {seconds} s ({why}): go on with \
             the last position, through another gateway if there is one"
        );
        Some(Box::new(match &self.refusal {
            Some(why) if why.code() == ErrorCode::Busy => Error::busy(message, why.retry_after_ms),
            _ => Error::no_leader(message),
        }))
    }
}

/// The end of a watch on a shard with nodes that know no watches.
pub(super) fn too_old(shard: u32) -> Box<Error> {
    Box::new(Error::no_leader(format!(
        "the nodes with replicas of shard {shard} are of a version without watches: upgrade them"
    )))
}

/// The node for a leg.
pub(super) enum Choice {
    Node(u64),
    /// The call to a node is being made for the first time.
    Wait,
    None,
    /// No replica's node knows watches.
    TooOld,
}

/// Chooses the leader, or else another replica, of those that did not end the leg.
pub(super) fn choose(
    nodes: &BTreeMap<u64, Node>,
    tried: &[u64],
    shard: u32,
    directory: &Directory,
) -> Choice {
    let Some(targets) = directory.targets(ShardId(shard), false) else { return Choice::None };
    let call = |node: &u64| nodes.get(node).map_or(Call::Unknown, |node| node.call);
    if targets.all.iter().all(|node| call(node) == Call::TooOld) {
        return Choice::TooOld;
    }
    let others = targets.all.iter().copied().filter(|node| *node != targets.first);
    let untried: Vec<u64> =
        std::iter::once(targets.first).chain(others).filter(|node| !tried.contains(node)).collect();
    if untried.first().is_some_and(|first| call(first) == Call::Unknown) {
        return Choice::Wait;
    }
    if let Some(node) = untried.iter().find(|node| call(node) == Call::Up) {
        return Choice::Node(*node);
    }
    match untried.iter().any(|node| call(node) == Call::Unknown) {
        true => Choice::Wait,
        false => Choice::None,
    }
}

/// The number of legs of a watch with this filter: the shards that it asks.
pub fn legs(filter: &WatchFilter, directory: &Directory) -> usize {
    if filter.name.is_empty() { directory.shards().len() } else { 1 }
}

/// The shards that a filter concerns.
pub(super) fn shards_of(filter: &WatchFilter, directory: &Directory) -> BTreeSet<u32> {
    match filter.name.as_str() {
        "" => directory.shards().into_iter().map(|shard| shard.0).collect(),
        name => [directory.route(name).shard.0].into(),
    }
}

pub(super) fn route(filter: &WatchFilter, shard: u32, directory: &Directory) -> Route {
    match filter.name.as_str() {
        "" => Route { shard, slot: 0, map_version: directory.version().0 },
        name => {
            let route = directory.route(name);
            Route { shard, slot: route.slot.index().into(), map_version: route.version.0 }
        }
    }
}
