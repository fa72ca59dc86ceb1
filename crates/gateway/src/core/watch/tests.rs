//! Watches against nodes that fail at random: every event is told once, in order.

use super::*;
use crate::core::Directory;
use proptest::prelude::*;
use routing::ClusterConfig;
use std::collections::BTreeMap;
use wire::internal::v1::{StartWatch, WatchFrame, WatchPlace, WatchRequest};
use wire::v1::{Error, ErrorCode, Event, WatchFilter, WatchState};

const SHARDS: u32 = 3;
const NODES: u64 = 3;

/// A node's watch of one shard.
#[derive(Clone, Debug)]
struct Served {
    start: StartWatch,
    /// The part of the state that comes next; after the last part, events are told.
    part: usize,
    next: u64,
}

/// Three nodes with the same logs, and a client that checks all that it is told.
struct World {
    hub: Hub,
    directory: Directory,
    now_ms: u64,
    up: BTreeMap<u64, bool>,
    served: BTreeMap<(u64, u64), Served>,
    kept: BTreeMap<u64, Vec<u32>>,
    /// The number of entries of each shard's log; each has one event.
    logs: BTreeMap<u32, u64>,
    /// The knowledge of the client: by shard, the entries that it was told, in its state or as
    /// events.
    told: BTreeMap<u32, Option<u64>>,
    /// Parts that the client's queue takes before it is full.
    room: usize,
    full: bool,
}

const STATE_PARTS: usize = 3;

impl World {
    fn new() -> World {
        let directory = Directory::new(ClusterConfig::dev(SHARDS, 3, 20_000).unwrap().shard_map());
        let mut world = World {
            hub: Hub::default(),
            directory,
            now_ms: 0,
            up: BTreeMap::new(),
            served: BTreeMap::new(),
            kept: BTreeMap::new(),
            logs: (0..SHARDS).map(|shard| (shard, 5)).collect(),
            told: BTreeMap::new(),
            room: usize::MAX,
            full: false,
        };
        world.hub.start(7, WatchFilter::default(), &Position::default(), &world.directory, 0);
        world.flush();
        world
    }

    /// Passes the messages of the hub to the nodes.
    fn flush(&mut self) {
        self.hub.wanted(&self.directory);
        for (node, request) in self.hub.requests() {
            assert!(self.up[&node], "a message goes to a call that is up");
            let WatchRequest { start, stop, keep } = request;
            for id in stop {
                self.served.remove(&(node, id));
            }
            for start in start {
                let shard = start.route.unwrap().shard;
                let next = start.after.map_or(0, |after| after.index + u64::from(after.ordinals));
                let part = if start.after.is_some() { STATE_PARTS } else { 0 };
                assert!(next <= self.logs[&shard] + 1);
                self.served.insert((node, start.id), Served { start, part, next });
            }
            self.kept.extend(keep.map(|keep| (node, keep.shards)));
        }
    }

    fn set(&mut self, node: u64, up: bool) {
        self.served.retain(|(of, _), _| *of != node);
        self.up.insert(node, up);
        let call = if up { Call::Up } else { Call::Down };
        self.hub.on_node(node, call, &self.directory, self.now_ms);
        self.flush();
    }

    /// The client of a watch that has ended comes back with its position.
    fn come_back(&mut self) {
        let over = self.hub.over();
        let [(7, error)] = &over[..] else { return assert!(over.is_empty(), "{over:?}") };
        assert_eq!(error.code(), ErrorCode::NoLeader);
        let mut position = Position::default();
        for (shard, told) in &self.told {
            position.set(*shard, told.map(|index| WatchPlace { index, ordinals: 1 }));
        }
        self.full = false;
        self.hub.start(7, WatchFilter::default(), &position, &self.directory, self.now_ms);
        self.flush();
    }

    /// The nodes that serve a leg.
    fn serving(&self, shard: u32) -> Vec<u64> {
        let of = |(_, served): &(_, &Served)| served.start.route.unwrap().shard == shard;
        self.served.iter().filter(of).map(|((node, _), _)| *node).collect()
    }

    /// The node that serves a leg ends it.
    fn end(&mut self, shard: u32, why: Error) {
        let of = |(_, served): &(_, &Served)| served.start.route.unwrap().shard == shard;
        let (node, id) = *self.served.iter().find(of).unwrap().0;
        self.served.remove(&(node, id));
        let frame = WatchFrame { id, ended: Some(why), ..Default::default() };
        self.hub.on_frame(node, frame, &self.directory, self.now_ms, |_, _| unreachable!());
        self.flush();
    }

    /// Lets one of a node's watches tell its next frame, or end.
    fn step(&mut self, pick: usize, ends: bool) {
        if self.served.is_empty() {
            return;
        }
        let key = *self.served.keys().nth(pick % self.served.len()).unwrap();
        let (node, id) = key;
        let served = self.served.get_mut(&key).unwrap();
        let shard = served.start.route.unwrap().shard;
        let end = self.logs[&shard];
        let mut frame = WatchFrame { id, ..Default::default() };
        if ends {
            frame.ended = Some(Error::new(ErrorCode::NoLeader, "behind"));
            self.served.remove(&key);
        } else if served.part < STATE_PARTS {
            let (first, last) = (served.part == 0, served.part + 1 == STATE_PARTS);
            frame.state = Some(WatchState { shard, first, last, ..Default::default() });
            served.part += 1;
            if last {
                frame.place = Some(WatchPlace { index: end, ordinals: 1 });
                served.next = end + 1;
            }
        } else if served.next <= end {
            let index = served.next;
            frame.events = vec![Event { shard, index, ordinal: 0, ..Default::default() }];
            // Half of the frames have no place of their own.
            frame.place = index.is_multiple_of(2).then_some(WatchPlace { index, ordinals: 1 });
            served.next += 1;
        } else {
            return;
        }
        let World { told, room, full, logs, .. } = self;
        let deliver = |watch: WatchId, part: Part| {
            assert_eq!(watch, 7);
            assert!(!*full, "nothing is told to a client that does not read");
            if *room == 0 {
                *full = true;
                return Taken::Full;
            }
            *room -= 1;
            let known = told.entry(part.shard).or_default();
            match &part.state {
                Some(state) if state.last => *known = Some(logs[&part.shard]),
                Some(_) => *known = None,
                None => {}
            }
            for event in &part.events {
                assert_eq!(Some(event.index - 1), *known, "each event once, and none is missing");
                *known = Some(event.index);
                assert_eq!(part.place, Some(WatchPlace { index: event.index, ordinals: 1 }));
            }
            Taken::Yes
        };
        self.hub.on_frame(node, frame, &self.directory, self.now_ms, deliver);
        self.flush();
    }

    fn resume(&mut self, room: usize) {
        self.room = room;
        if std::mem::take(&mut self.full) {
            self.hub.resume(7, &self.directory, self.now_ms);
            self.flush();
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.hub.on_time(&self.directory, self.now_ms);
        self.flush();
    }
}

#[derive(Clone, Debug)]
enum Does {
    Step(usize),
    End(usize),
    Node(u64, bool),
    Append(u32),
    Pass(u64),
    Resume(usize),
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        12 => any::<usize>().prop_map(Does::Step),
        1 => any::<usize>().prop_map(Does::End),
        2 => (1..=NODES, any::<bool>()).prop_map(|(node, up)| Does::Node(node, up)),
        4 => (0..SHARDS).prop_map(Does::Append),
        2 => (0..600u64).prop_map(Does::Pass),
        2 => (0..12usize).prop_map(Does::Resume),
    ]
}

proptest! {
    #[test]
    fn every_event_is_told_once_whatever_nodes_and_clients_do(
        all in proptest::collection::vec(does(), 0..200),
    ) {
        let mut world = World::new();
        for one in all {
            match one {
                Does::Step(pick) => world.step(pick, false),
                Does::End(pick) => world.step(pick, true),
                Does::Node(node, up) => world.set(node, up),
                Does::Append(shard) => *world.logs.get_mut(&shard).unwrap() += 1,
                Does::Pass(ms) => world.pass(ms),
                Does::Resume(room) => world.resume(room),
            }
            world.come_back();
        }
        // Once all is well, everything is told.
        (1..=NODES).for_each(|node| world.set(node, true));
        world.resume(usize::MAX);
        for _ in 0..2_000 {
            if world.told.len() == SHARDS as usize
                && world.told.iter().all(|(shard, told)| *told == Some(world.logs[shard]))
            {
                break;
            }
            world.pass(100);
            world.come_back();
            (0..world.served.len()).for_each(|pick| world.step(pick, false));
        }
        let told: Vec<_> = world.told.iter().map(|(shard, told)| (*shard, *told)).collect();
        let logs: Vec<_> = world.logs.iter().map(|(shard, end)| (*shard, Some(*end))).collect();
        prop_assert_eq!(told, logs);
        // And nothing is left behind.
        world.hub.stop(7, world.now_ms);
        world.flush();
        prop_assert!(world.served.is_empty(), "{:?}", world.served);
        world.pass(crate::limits::WATCH_KEEP_MS);
        prop_assert!(world.hub.is_empty() && world.hub.due_at_ms().is_none());
        prop_assert!(world.kept.values().all(Vec::is_empty));
    }
}

#[test]
fn a_leg_waits_for_the_leader_and_goes_elsewhere_if_it_cannot_be_called() {
    let mut world = World::new();
    let leader =
        |shard: u32| world.directory.targets(routing::ShardId(shard), false).unwrap().first;
    let leaders: Vec<u64> = (0..SHARDS).map(leader).collect();
    let other = (1..=NODES).find(|node| *node != leaders[0]).unwrap();
    world.set(other, true);
    let serves = |world: &World, shard: u32| {
        let of = |served: &Served| served.start.route.unwrap().shard == shard;
        world.served.iter().find(|(_, served)| of(served)).map(|((node, _), _)| *node)
    };
    assert_eq!(serves(&world, 0), None, "the call to the leader is on its way");
    world.set(leaders[0], false);
    assert_eq!(serves(&world, 0), Some(other));
}

#[test]
fn few_states_are_told_at_a_time() {
    let mut world = World::new();
    (1..=NODES).for_each(|node| world.set(node, true));
    assert_eq!(world.served.len(), crate::limits::WATCH_STATES_AT_ONCE);
}

#[test]
fn a_shard_that_is_gone_from_the_map_is_forgotten() {
    use routing::{MapVersion, RouteTable, ShardId, ShardMap};
    let config = ClusterConfig::dev(2, 3, 20_000).unwrap();
    let directory = Directory::new(config.shard_map());
    let mut hub = Hub::default();
    let name = WatchFilter { name: "jobs/1".into(), ..Default::default() };
    hub.on_map(&directory, 0);
    hub.start(1, name, &Position::default(), &directory, 0);
    let former = directory.route("jobs/1").shard;
    let map = config.shard_map();
    let shards = map.shards().map(|(shard, replicas)| (shard, replicas.clone()));
    let runs = [(8_192, ShardId(1)), (8_192, ShardId(0))];
    let map = ShardMap::of_runs(MapVersion(2), runs, shards).unwrap();
    directory.take(&RouteTable::of(&config).with_map(map).unwrap());
    let forgotten = hub.on_map(&directory, 0);
    let [(1, part)] = &forgotten[..] else { panic!("{forgotten:?}") };
    assert_eq!(part.shard, former.0);
    assert!(part.state.as_ref().is_some_and(|state| state.first && state.last));
    (1..=NODES).for_each(|node| hub.on_node(node, Call::Up, &directory, 0));
    hub.wanted(&directory);
    let started = hub.requests().into_iter().find_map(|(_, mut request)| request.start.pop());
    assert_eq!(started.unwrap().route.unwrap().shard, directory.route("jobs/1").shard.0);
}

/// A world with one shard after another told completely.
fn told() -> World {
    let mut world = World::new();
    (1..=NODES).for_each(|node| world.set(node, true));
    while world.told.len() < SHARDS as usize || world.told.values().any(Option::is_none) {
        (0..world.served.len()).for_each(|pick| world.step(pick, false));
    }
    world
}

/// Regression: a leg that a full node refused was tried at all replicas at once, and anew 50 ms
/// later or when any call came up.
#[test]
fn a_leg_that_a_full_node_refuses_pauses_for_the_time_that_the_node_names() {
    let mut world = told();
    let mut asked = Vec::new();
    for _ in 0..NODES {
        asked.extend(world.serving(0));
        world.end(0, Error::busy("full", 700));
        world.pass(699);
        let other = (1..=NODES).find(|node| !asked.contains(node)).unwrap_or(1);
        world.set(other, true);
        assert_eq!(world.serving(0), Vec::<u64>::new(), "it pauses");
        world.pass(351);
    }
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 3], "each has been asked once");
}

/// Regression: a watch that no node served was silent for ever.
#[test]
fn a_leg_that_no_node_serves_for_long_ends_its_watch() {
    let mut world = told();
    // A quiet leg is served, although it tells nothing.
    world.pass(1_000_000);
    assert!(world.hub.over().is_empty());
    (1..=NODES).for_each(|node| world.set(node, false));
    world.pass(20_000);
    assert!(world.hub.over().is_empty());
    (0..20).for_each(|_| world.pass(1_000));
    let [(7, error)] = &world.hub.over()[..] else { panic!("it goes on in silence") };
    assert_eq!(error.code(), ErrorCode::NoLeader);
    assert!(world.hub.is_empty());

    let mut world = told();
    for _ in 0..100 {
        if !world.serving(0).is_empty() {
            world.end(0, Error::busy("full", 700));
        }
        world.pass(1_050);
    }
    let [(7, error)] = &world.hub.over()[..] else { panic!("it goes on in silence") };
    assert_eq!((error.code(), error.retry_after_ms), (ErrorCode::Busy, 700));
}

/// Regression: with nodes of a version without watches, a watch was silent for ever.
#[test]
fn nodes_without_watches_end_a_watch_at_once() {
    let mut world = World::new();
    for node in 1..=NODES {
        assert!(world.hub.over().is_empty(), "another may know watches");
        world.hub.on_node(node, Call::TooOld, &world.directory, 0);
    }
    let [(7, error)] = &world.hub.over()[..] else { panic!("it goes on in silence") };
    assert_eq!(error.code(), ErrorCode::NoLeader);
    assert!(error.message.contains("upgrade"), "{error}");
}

/// Regression: after the loss of a node, all its watches went to the next one in one message, which
/// was above the bound of a frame.
#[test]
fn a_message_to_a_node_is_cut_so_that_the_node_can_read_it() {
    use super::hub::in_pieces;
    use prost::Message;
    use wire::internal::v1::{KeepRecent, Route};
    let filter = WatchFilter {
        name: "n".repeat(512),
        session_id: "s".repeat(64),
        owner: "o".repeat(256),
        kinds: vec![1; 16],
        ..Default::default()
    };
    let route = Route { shard: 4_095, slot: 16_383, map_version: u64::MAX };
    let after = WatchPlace { index: u64::MAX, ordinals: u32::MAX };
    let start = |id| StartWatch {
        id: u64::MAX - id,
        route: Some(route),
        filter: Some(filter.clone()),
        after: Some(after),
    };
    let keep = Some(KeepRecent { shards: (0..4_096).collect() });
    let stop: Vec<u64> = (0..100_000).map(|id| u64::MAX - id).collect();
    let whole = WatchRequest { start: (0..1_201).map(start).collect(), stop, keep };
    let mut joined = WatchRequest::default();
    for piece in in_pieces(whole.clone()) {
        assert!(piece.encoded_len() < wire::limits::FRAME_BYTES_MAX, "{}", piece.encoded_len());
        assert!(joined.keep.is_none(), "nothing comes after the last");
        joined.start.extend(piece.start);
        joined.stop.extend(piece.stop);
        joined.keep = piece.keep;
    }
    assert!(joined == whole);
    let few = WatchRequest { stop: vec![1], ..Default::default() };
    assert_eq!(in_pieces(few.clone()).collect::<Vec<_>>(), [few]);
}
