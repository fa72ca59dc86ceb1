//! All watches of a gateway, and which node serves each of their legs.
//!
//! The driver passes in the actions of clients and nodes, and takes out the messages to the nodes:
//!
//! ```text
//!           start, stop, resume ─►┌─────┐─► requests  one message for each node
//! on_node, on_frame, on_time ────►│ Hub │─► deliver   a part for the client of a watch
//!                                 │     │─► wanted    the nodes to have a call to
//!                                 └─────┘─► over      watches that cannot be served
//! ```
//!
//! * A leg is served by the shard's leader if that can be, and by another replica if not.
//! * The place of a leg is that of the last part that its client's queue has taken. So a leg that
//!   was stopped, because the node went or the client did not read, goes on without a gap.
//! * Parts of a leg that was stopped are dropped: its number is not used again.
//! * A leg that a full node refuses is tried again after the time that the node names. A leg that no
//!   node serves for long ends its watch with an error, because its client would wait in silence.
//! * Few states of one watch are told at a time, so that a watch of many shards does not fill the
//!   queue of its client.

use super::leg::{Choice, Leg, choose, route, shards_of, too_old};
use super::node::{Call, Node};
use super::retention::Retention;
use crate::core::Directory;
use crate::core::watch::Position;
use crate::limits::{STARTS_AT_ONCE, STOPS_AT_ONCE, WATCH_PAUSE_MS, WATCH_STATES_AT_ONCE};
use routing::{Edition, NodeId, ShardId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use wire::internal::v1::{KeepRecent, StartWatch, WatchFrame, WatchPlace, WatchRequest};
use wire::v1::{Error, ErrorCode, Event, WatchFilter, WatchState};

/// The number of a client's watch at one gateway.
pub type WatchId = u64;

/// The content of one frame of a node, for one client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// The shard.
    pub shard: u32,
    /// A part of the shard's state.
    pub state: Option<WatchState>,
    /// Changes, in the order of the shard's log.
    pub events: Vec<Event>,
    /// All until here is told. `None` while the state is incomplete.
    pub place: Option<WatchPlace>,
}

/// The outcome of a part at the queue of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the queue of its client.
    Yes,
    /// The queue is full. The watch is stopped until [`Hub::resume`].
    Full,
    /// The watch is over.
    Over,
}

/// One client's watch.
#[derive(Debug)]
struct Watch {
    filter: WatchFilter,
    legs: BTreeMap<u32, Leg>,
    /// Its client does not read.
    full: bool,
}

/// All watches of a gateway.
///
/// * `legs` has each leg that a node serves, by its number there.
/// * `pauses` has each leg that is to be tried again, by the time.
/// * `retention` counts the legs of each shard, served or not. `hosted` has its shards by node, as
///   of the last call of [`wanted`](Hub::wanted), and `changed` says that they changed since.
#[derive(Debug, Default)]
pub struct Hub {
    watches: BTreeMap<WatchId, Watch>,
    nodes: BTreeMap<u64, Node>,
    legs: BTreeMap<u64, (WatchId, u32)>,
    pauses: BTreeSet<(u64, WatchId, u32)>,
    retention: Retention,
    hosted: BTreeMap<u64, BTreeSet<u32>>,
    changed: bool,
    last_leg: u64,
    edition: Option<Edition>,
    /// How often a leg went on at another node.
    moves: u64,
    /// The watches that have ended here, until the driver takes them.
    over: Vec<(WatchId, Box<Error>)>,
    /// The state of the dice for pauses.
    dice: u64,
}

impl Hub {
    /// Without watches. The seed spreads the pauses of many gateways.
    pub fn new(seed: u64) -> Hub {
        Hub { dice: seed, ..Hub::default() }
    }

    /// Begins a watch, with the position that its client has.
    pub fn start(
        &mut self,
        id: WatchId,
        filter: WatchFilter,
        from: &Position,
        directory: &Directory,
        now_ms: u64,
    ) {
        let mut legs = BTreeMap::new();
        for shard in shards_of(&filter, directory) {
            legs.insert(shard, Leg::of(from.place(shard)));
            self.changed |= self.retention.add(shard);
        }
        self.watches.insert(id, Watch { filter, legs, full: false });
        self.go_on(id, directory, now_ms);
    }

    /// Ends a watch. Its parts on their way are dropped.
    pub fn stop(&mut self, id: WatchId, now_ms: u64) {
        self.stop_legs(id);
        let Some(watch) = self.watches.remove(&id) else { return };
        for shard in watch.legs.into_keys() {
            self.retention.remove(shard, now_ms);
        }
    }

    /// The watches that have ended since the last time, because no node serves them.
    pub fn over(&mut self) -> Vec<(WatchId, Box<Error>)> {
        std::mem::take(&mut self.over)
    }

    /// Goes on with a watch after its client has read everything in its queue.
    pub fn resume(&mut self, id: WatchId, directory: &Directory, now_ms: u64) {
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.full = false;
            self.go_on(id, directory, now_ms);
        }
    }

    /// The number of watches.
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether there is no watch.
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// How often a leg went on at another node.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// The nodes that host a watched shard, if they changed: each needs a call.
    pub fn wanted(&mut self, directory: &Directory) -> Option<BTreeSet<u64>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.hosted.clear();
        for (shard, node) in directory.replicas() {
            if self.retention.has(shard.0) {
                self.hosted.entry(node.0).or_default().insert(shard.0);
            }
        }
        // Each call that is up is told of it.
        self.nodes.values_mut().for_each(|node| node.is_told = false);
        Some(self.hosted.keys().copied().collect())
    }

    /// The call to a node has changed.
    pub fn on_node(&mut self, node: u64, call: Call, directory: &Directory, now_ms: u64) {
        *self.nodes.entry(node).or_default() = Node { call, ..Node::default() };
        let is_here = |(shard, of): (ShardId, NodeId)| (of.0 == node).then_some(shard.0);
        let hosted: BTreeSet<u32> = directory.replicas().into_iter().filter_map(is_here).collect();
        let up = call == Call::Up;
        let mut concerned = BTreeSet::new();
        for (id, watch) in &mut self.watches {
            for (shard, leg) in &mut watch.legs {
                if let Some((number, of)) = leg.served {
                    if of == node {
                        self.legs.remove(&number);
                        leg.lost(node, None, now_ms);
                        concerned.insert(*id);
                    }
                    continue;
                }
                if !hosted.contains(shard) {
                    continue;
                }
                // It may have waited for this call, or for the end of the first try to make it.
                leg.tried.retain(|tried| !up || *tried != node);
                if up
                    && !leg.is_refused_as_busy()
                    && let Some(at_ms) = leg.again_at_ms.take()
                {
                    self.pauses.remove(&(at_ms, *id, *shard));
                }
                if leg.again_at_ms.is_none() {
                    concerned.insert(*id);
                }
            }
        }
        concerned.into_iter().for_each(|id| self.go_on(id, directory, now_ms));
    }

    /// Takes in a frame of a node. `deliver` puts the part for a client into its queue.
    pub fn on_frame(
        &mut self,
        node: u64,
        frame: WatchFrame,
        directory: &Directory,
        now_ms: u64,
        deliver: impl FnOnce(WatchId, Part) -> Taken,
    ) {
        let WatchFrame { id: number, state, events, place, ended } = frame;
        let Some((id, shard)) = self.legs.get(&number).copied() else { return };
        let Some(leg) = self.leg_mut(id, shard) else { return };
        if leg.served != Some((number, node)) {
            return;
        }
        if state.is_some() || !events.is_empty() || place.is_some() {
            let begins = state.as_ref().is_some_and(|state| state.first);
            // Without a place of its own, a frame of events is told until its last event.
            let place = place.or_else(|| {
                leg.place?;
                events.last().filter(|_| !begins).map(after)
            });
            let part = Part { shard, state, events, place };
            match deliver(id, part) {
                Taken::Over => return self.stop(id, now_ms),
                Taken::Full => {
                    self.stop_legs(id);
                    if let Some(watch) = self.watches.get_mut(&id) {
                        watch.full = true;
                    }
                    return;
                }
                Taken::Yes => {}
            }
            let Some(leg) = self.leg_mut(id, shard) else { return };
            let was_told = leg.place.is_some();
            if begins {
                leg.place = None;
            }
            leg.place = place.or(leg.place);
            leg.told();
            if !was_told && leg.place.is_some() {
                self.go_on(id, directory, now_ms); // the next state
            }
        }
        if let Some(why) = ended {
            tracing::debug!(node, shard, %why, "a node has ended a watch: it goes on elsewhere");
            self.legs.remove(&number);
            let Some(leg) = self.leg_mut(id, shard) else { return };
            // Another replica may have room. It is asked after the pause, too: otherwise the legs of
            // a full node would go around all nodes at once, again and again.
            let busy_ms = (why.code() == ErrorCode::Busy).then_some(why.retry_after_ms);
            leg.lost(node, Some(why), now_ms);
            if let Some(ms) = busy_ms {
                self.pause(id, shard, u64::from(ms).max(WATCH_PAUSE_MS.0), now_ms);
            }
            self.go_on(id, directory, now_ms);
        }
    }

    /// When [`on_time`](Hub::on_time) is due.
    pub fn due_at_ms(&self) -> Option<u64> {
        let pause = self.pauses.first().map(|(at_ms, _, _)| *at_ms);
        pause.into_iter().chain(self.retention.due_at_ms()).min()
    }

    /// Tries each leg again once its pause is over, and lets shards go that no watch asks.
    pub fn on_time(&mut self, directory: &Directory, now_ms: u64) {
        self.changed |= self.retention.on_time(now_ms);
        let mut concerned = BTreeSet::new();
        while let Some((at_ms, id, shard)) = self.pauses.first().copied()
            && at_ms <= now_ms
        {
            self.pauses.pop_first();
            if let Some(leg) = self.leg_mut(id, shard) {
                leg.again_at_ms = None;
                concerned.insert(id);
            }
        }
        concerned.into_iter().for_each(|id| self.go_on(id, directory, now_ms));
    }

    /// Takes in a newer map, if there is one. Returns a part for each shard that a watch does not
    /// concern any more. The part tells the client to forget that shard.
    pub fn on_map(&mut self, directory: &Directory, now_ms: u64) -> Vec<(WatchId, Part)> {
        let edition = directory.edition();
        let former = self.edition.replace(edition);
        if former == Some(edition) {
            return Vec::new();
        }
        self.changed = true;
        let mut forgotten = Vec::new();
        for id in self.watches.keys().copied().collect::<Vec<_>>() {
            let Some(watch) = self.watches.get(&id) else { continue };
            let shards = shards_of(&watch.filter, directory);
            let gone: Vec<u32> =
                watch.legs.keys().filter(|shard| !shards.contains(shard)).copied().collect();
            for shard in gone {
                self.stop_leg(id, shard);
                if let Some(watch) = self.watches.get_mut(&id) {
                    watch.legs.remove(&shard);
                }
                self.retention.remove(shard, now_ms);
                forgotten.push((id, forget(shard)));
            }
            for shard in shards {
                let Some(watch) = self.watches.get_mut(&id) else { continue };
                if let Entry::Vacant(leg) = watch.legs.entry(shard) {
                    leg.insert(Leg::default());
                    self.retention.add(shard);
                }
            }
            self.go_on(id, directory, now_ms);
        }
        forgotten
    }

    /// The messages for the nodes since the last time, after a call of [`wanted`](Hub::wanted).
    /// Each goes to a call that is up.
    pub fn requests(&mut self) -> Vec<(u64, WatchRequest)> {
        let mut requests = Vec::new();
        for (id, node) in self.nodes.iter_mut().filter(|(_, node)| node.call == Call::Up) {
            if !std::mem::replace(&mut node.is_told, true) {
                let shards = self.hosted.get(id).map(|shards| shards.iter().copied().collect());
                node.request.keep = Some(KeepRecent { shards: shards.unwrap_or_default() });
            }
            let request = std::mem::take(&mut node.request);
            if request != WatchRequest::default() {
                requests.extend(in_pieces(request).map(|piece| (*id, piece)));
            }
        }
        requests
    }

    /// Starts each leg of a watch that can be served now, a few of those that begin with the state.
    fn go_on(&mut self, id: WatchId, directory: &Directory, now_ms: u64) {
        let Some(watch) = self.watches.get(&id).filter(|watch| !watch.full) else { return };
        let begins = |leg: &&Leg| leg.served.is_some() && leg.place.is_none();
        let mut states = watch.legs.values().filter(begins).count();
        let idle: Vec<(u32, bool)> = (watch.legs.iter())
            .filter(|(_, leg)| leg.served.is_none() && leg.again_at_ms.is_none())
            .map(|(shard, leg)| (*shard, leg.place.is_none()))
            .collect();
        for (shard, begins) in idle {
            if begins && states >= WATCH_STATES_AT_ONCE {
                continue;
            }
            match self.start_leg(id, shard, directory, now_ms) {
                Ok(is_served) => states += usize::from(is_served && begins),
                Err(error) => {
                    self.stop(id, now_ms);
                    return self.over.push((id, error));
                }
            }
        }
    }

    /// Starts one leg at a node, or lets it pause. Returns whether a node serves it.
    ///
    /// # Errors
    /// The end of its watch.
    fn start_leg(
        &mut self,
        id: WatchId,
        shard: u32,
        directory: &Directory,
        now_ms: u64,
    ) -> Result<bool, Box<Error>> {
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(false) };
        let Some(leg) = watch.legs.get_mut(&shard) else { return Ok(false) };
        let node = match choose(&self.nodes, &leg.tried, shard, directory) {
            Choice::Node(node) => node,
            Choice::Wait => return Ok(false),
            Choice::TooOld => return Err(too_old(shard)),
            Choice::None => {
                if let Some(error) = leg.is_given_up(shard, now_ms) {
                    return Err(error);
                }
                leg.tried = Vec::new();
                let ms = (WATCH_PAUSE_MS.0 << leg.pauses.min(8)).min(WATCH_PAUSE_MS.1);
                self.pause(id, shard, ms, now_ms);
                return Ok(false);
            }
        };
        self.last_leg += 1;
        let number = self.last_leg;
        if !leg.tried.is_empty() {
            self.moves += 1;
        }
        (leg.served, leg.served_at_ms) = (Some((number, node)), now_ms);
        self.legs.insert(number, (id, shard));
        let start = StartWatch {
            id: number,
            route: Some(route(&watch.filter, shard, directory)),
            filter: Some(watch.filter.clone()),
            after: leg.place,
        };
        self.nodes.entry(node).or_default().request.start.push(start);
        Ok(true)
    }

    /// Lets a leg pause for this time and up to half as long again, so that legs which stopped
    /// together do not come back together.
    fn pause(&mut self, id: WatchId, shard: u32, ms: u64, now_ms: u64) {
        let more_ms = self.roll() % (ms / 2 + 1);
        let at_ms = now_ms + ms + more_ms;
        if let Some(leg) = self.leg_mut(id, shard) {
            leg.pauses += 1;
            leg.again_at_ms = Some(at_ms);
            self.pauses.insert((at_ms, id, shard));
        }
    }

    /// The next number of the dice (SplitMix64).
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Stops all legs of a watch. Their places stay.
    fn stop_legs(&mut self, id: WatchId) {
        let shards = self.watches.get(&id).map(|watch| watch.legs.keys().copied().collect());
        let shards: Vec<u32> = shards.unwrap_or_default();
        shards.into_iter().for_each(|shard| self.stop_leg(id, shard));
    }

    fn stop_leg(&mut self, id: WatchId, shard: u32) {
        let Some(leg) = self.leg_mut(id, shard) else { return };
        let (served, again_at_ms) = (leg.served.take(), leg.again_at_ms.take());
        leg.unserved_since_ms = None;
        if let Some(at_ms) = again_at_ms {
            self.pauses.remove(&(at_ms, id, shard));
        }
        let Some((number, node)) = served else { return };
        self.legs.remove(&number);
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let before = node.request.start.len();
        node.request.start.retain(|start| start.id != number);
        if node.request.start.len() == before {
            node.request.stop.push(number);
        }
    }

    fn leg_mut(&mut self, id: WatchId, shard: u32) -> Option<&mut Leg> {
        self.watches.get_mut(&id)?.legs.get_mut(&shard)
    }
}

/// The place after an event.
fn after(event: &Event) -> WatchPlace {
    WatchPlace { index: event.index, ordinals: event.ordinal.saturating_add(1) }
}

/// A part that tells the client to forget a shard.
fn forget(shard: u32) -> Part {
    let state = WatchState { shard, first: true, last: true, ..Default::default() };
    Part { shard, state: Some(state), ..Part::default() }
}

/// A message as several, in the same order, each of which a node can read whatever the filters are.
pub(super) fn in_pieces(mut request: WatchRequest) -> impl Iterator<Item = WatchRequest> {
    let mut starts = std::mem::take(&mut request.start).into_iter().peekable();
    let mut stops = std::mem::take(&mut request.stop).into_iter().peekable();
    let mut rest = Some(request);
    std::iter::from_fn(move || {
        rest.as_ref()?;
        let start: Vec<_> = starts.by_ref().take(STARTS_AT_ONCE).collect();
        if starts.peek().is_some() {
            return Some(WatchRequest { start, ..WatchRequest::default() });
        }
        let stop: Vec<_> = stops.by_ref().take(STOPS_AT_ONCE).collect();
        let keep = if stops.peek().is_none() { rest.take()?.keep } else { None };
        Some(WatchRequest { start, stop, keep })
    })
}
