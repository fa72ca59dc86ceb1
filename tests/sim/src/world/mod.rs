//! A whole cluster in one thread: nodes, gateways, clients, network, disks and clocks. One agenda
//! from one seed moves them.
//!
//! The replicas, the lock table, the gateways' core, the translation of operations and replies, the
//! retry machine and the lease arithmetic are the real ones. Equal seeds give equal runs, to the
//! last message. The simulator does not know which results are right: it records them, and the
//! checker judges.

mod actors;
mod agenda;
mod ask;
mod attacks;
mod calls;
mod clock;
mod control;
mod disk;
mod ending;
mod faults;
mod following;
mod founding;
mod gateway;
mod identities;
mod jobs;
mod judging;
mod levels;
mod maps;
mod members;
mod meta;
mod network;
mod node;
mod probes;
mod reseed;
mod route_tables;
mod shape;
mod state;
mod trace;
mod watches;

pub use state::chaos::{FaultCounts, FaultKind};

use crate::checker::{Bounds, History, Sample, Violation};
use crate::rng::Rng;
use agenda::Agenda;
use ask::Shown;
use clock::SECOND_US;
use identities::Identities;
use locks::Mode;
use network::{Fate, Network, Place};
use route_tables::RouteTables;
use routing::{META, MapVersion, NodeId, Replicas, ShardId, ShardMap};
use shape::Shape;
use state::chaos::Chaos;
use state::event::{Event, Message};
use state::gateway::Gateway;
use state::members::{Members, MovedBy};
use state::meta::Meta;
use state::node::{Node, Part, Settings};
use state::{Ending, Name, World};
use std::collections::{BTreeMap, BTreeSet};
use trace::Trace;
use watches::Watches;

/// The number of gateways.
const GATEWAYS: u32 = 2;
/// The result of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// The seed of the run.
    pub seed: u64,
    /// The numbers of nodes, shards and clients.
    pub shape: (u64, u32, u32),
    /// A hash over every event of the run.
    pub trace_hash: u64,
    /// All violations, including the checker's, without those of META alone.
    pub violations: Vec<Violation>,
    /// The violations of META, the group of the topology. A campaign adds them to the others,
    /// unless its bug is one of locks.
    pub of_meta: Vec<Violation>,
    /// The recorded history of the run.
    pub history: History,
    /// The simulated time in microseconds.
    pub simulated_us: u64,
    /// The number of handled events.
    pub events: u64,
    /// The number of faults of each kind.
    pub faults: FaultCounts,
}

/// Runs one seed to its end. `prints` asks for a readable trace.
pub fn run(seed: u64, prints: bool) -> Report {
    let mut world = World::new(seed, prints);
    world.begin();
    while !world.over {
        let Some((at_us, event)) = world.agenda.pop() else { break };
        debug_assert!(at_us >= world.now_us);
        world.now_us = at_us;
        world.events += 1;
        world.happen(event);
    }
    world.report()
}

impl World {
    fn new(seed: u64, prints: bool) -> World {
        let mut rng = Rng::new(seed);
        let Shape { moved_by, listed, nodes, founders } = Shape::choose(&mut rng);
        let shards = rng.range(1, 4) as u32;
        let members = Members::new(moved_by, founders);
        // Gateways try all nodes that there can be.
        let voters: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let replicas = (0..shards).map(|shard| {
            let preferred_leader = members.founders[shard as usize % members.founders.len()];
            (ShardId(shard), Replicas { nodes: voters.clone(), preferred_leader })
        });
        let map = ShardMap::even(MapVersion(1), replicas.collect());
        let base_us = rng.range(100, 600);
        let chaos = Chaos::new(&mut rng);
        let mut world = World {
            now_us: 0,
            network: Network::new(base_us),
            trace: Trace::new(prints),
            agenda: Agenda::new(),
            nodes: BTreeMap::new(),
            gateways: (1..=GATEWAYS).map(|id| (id, Gateway::new(map.clone()))).collect(),
            clients: BTreeMap::new(),
            identities: Identities::default(),
            names: Vec::new(),
            history: History::default(),
            samples: Vec::new(),
            violations: Vec::new(),
            of_meta: Vec::new(),
            given_up: BTreeSet::new(),
            shown: Shown::default(),
            watches: Watches::default(),
            faults: FaultCounts::default(),
            chaos,
            ending: Ending::default(),
            seed,
            next_number: 0,
            over: false,
            events: 0,
            route_tables: RouteTables::new(map.clone(), &voters),
            meta: Meta::new(
                meta::seed(&map, listed, &members.founders),
                founding::founded_from_us(&mut rng, moved_by),
            ),
            members,
            map,
            rng,
        };
        let settings = Settings::choose(&mut world.rng, seed);
        for id in 1..=nodes {
            let rate = 1.0 + (world.rng.unit() - 0.5) * 2e-4;
            let sync_us = world.rng.range(200, 2_500);
            let part = if id > listed { Part::Outside } else { Part::In };
            let node = Node::new(id, settings.clone(), rate, sync_us);
            world.nodes.insert(id, Node { part, ..node });
        }
        for founder in world.members.founders.clone() {
            let shards: Vec<ShardId> = world.map.shards().map(|(shard, _)| shard).collect();
            for shard in shards {
                world.begin_life(founder.0, shard, 0);
            }
        }
        world.name_names();
        world.history.bounds = Bounds {
            server_rate_max: world.chaos.rate_max,
            server_rate_min: world.chaos.rate_min,
            failover_us: 20 * SECOND_US,
            waiter_grace_us: settings.raft.waiter_grace_ms * 1_000 * 2,
            claim_ttl_ms: actors::CLAIM_TTL_MS.start,
            calm: Vec::new(),
        };
        world
    }

    /// Chooses a few names, so that clients compete for them. Every shard has at least one name.
    fn name_names(&mut self) {
        let shards = self.map.shards().count() as u64;
        let count = shards + self.rng.range(1, 3);
        let mut number = 0;
        for place in 0..count {
            let wanted = ShardId((place % shards) as u32);
            let (name, shard) = loop {
                number += 1;
                let name = format!("name/{number}");
                let shard = self.map.route(&name).shard;
                if shard == wanted {
                    break (name, shard);
                }
            };
            let modes = match (place, self.rng.below(4)) {
                (0, _) | (_, 0 | 1) => vec![Mode::Exclusive],
                (_, 2) => vec![Mode::Exclusive, Mode::Shared, Mode::Shared],
                _ => {
                    vec![Mode::Permits { count: 1, limit: 3 }, Mode::Permits { count: 2, limit: 3 }]
                }
            };
            self.names.push(Name { name, shard, modes });
        }
    }

    fn begin(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for node in ids {
            let at_us = self.rng.range(1, 50_000);
            self.agenda.push(at_us, Event::Start { node });
        }
        self.begin_clients();
        self.begin_chaos();
        self.agenda.push(20 * SECOND_US, Event::Sample);
        self.agenda.push(SECOND_US, Event::RouteTables);
        self.agenda.push(SECOND_US, Event::Meta);
        match self.members.moved_by {
            MovedBy::Nobody => {}
            MovedBy::World => self.agenda.push(20 * SECOND_US, Event::Members),
            MovedBy::Topology => self.agenda.push(10 * SECOND_US, Event::Jobs),
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn happen(&mut self, event: Event) {
        self.trace.mix(self.now_us);
        if let Some(until_us) = self.paused_until(&event) {
            return self.agenda.push(until_us, event);
        }
        match event {
            Event::Tick { node, boot } => self.tick(node, boot),
            Event::Step { node, boot, shard } => {
                if let Some(place) = self.nodes.get_mut(&node).filter(|node| node.boot == boot) {
                    place.step_due.remove(&shard);
                    self.step(node, shard);
                }
            }
            Event::Disk { node, boot } => self.disk_done(node, boot),
            Event::Start { node } => self.start_node(node),
            Event::Reseed { node } => self.reseed_node(node),
            Event::WitnessLost { leader, witness } => self.lose_witness(leader, witness),
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Snapshot { from, boot, to, shard, bytes } => {
                self.carry_snapshot(from, boot, to, shard, bytes)
            }
            Event::SnapshotSent { node, boot, to, shard, ok } => {
                self.snapshot_sent(node, boot, to, shard, ok)
            }
            Event::SnapshotWritten { node, boot, shard, bytes } => {
                self.snapshot_written(node, boot, shard, bytes)
            }
            Event::GatewayTimer { gateway, timer } => self.gateway_timer(gateway, timer),
            Event::ClientTimer { client, call, turn } => self.client_timer(client, call, turn),
            Event::Act { client, act } => self.act(client, act),
            Event::AllDown => self.all_down(),
            Event::Chaos { turn } => self.chaos_turn(turn),
            Event::Sample => self.sample(),
            Event::RouteTables => self.exchange_route_tables(),
            Event::Members => self.look_after_members(),
            Event::Meta => self.ask_meta(),
            Event::Follow { node, boot } => self.look_at_topology(node, boot),
            Event::Jobs => self.operate(),
            Event::Ending { stage } => self.ending_stage(stage),
        }
    }

    /// The time until which the receiver of this event is stopped, if it is stopped. Events that
    /// arrive meanwhile wait, in order.
    fn paused_until(&self, event: &Event) -> Option<u64> {
        let until_us = match event {
            Event::Tick { node, .. }
            | Event::Follow { node, .. }
            | Event::Step { node, .. }
            | Event::Disk { node, .. }
            | Event::SnapshotSent { node, .. }
            | Event::SnapshotWritten { node, .. }
            | Event::Snapshot { from: node, .. }
            | Event::Deliver { to: Place::Node(node), .. } => self.nodes[node].paused_until_us,
            Event::GatewayTimer { gateway, .. }
            | Event::Deliver { to: Place::Gateway(gateway), .. } => {
                self.gateways[gateway].paused_until_us
            }
            Event::ClientTimer { client, .. } | Event::Act { client, .. } => {
                self.clients[client].paused_until_us
            }
            Event::Deliver { to: Place::Client(client), .. } => {
                self.clients[client].paused_until_us
            }
            Event::Start { .. }
            | Event::Reseed { .. }
            | Event::WitnessLost { .. }
            | Event::AllDown
            | Event::Chaos { .. }
            | Event::Sample
            | Event::RouteTables
            | Event::Members
            | Event::Meta
            | Event::Jobs
            | Event::Ending { .. } => 0,
        };
        (until_us > self.now_us).then_some(until_us)
    }

    /// Sends one message, which may not arrive.
    pub(crate) fn send(&mut self, from: Place, to: Place, message: Message) {
        let datagram = matches!(
            message,
            Message::Raft { .. }
                | Message::Hello { .. }
                | Message::TopologyAsked { .. }
                | Message::Topology(_)
                | Message::Report(_)
        );
        let fate = self.network.send(&mut self.rng, self.now_us, from, to, datagram);
        self.trace.mix(from.number() << 32 | to.number());
        match fate {
            Fate::Cut => self.faults.add(FaultKind::MessageCut),
            Fate::Lost => {
                self.faults.add(FaultKind::MessageLost);
                self.trace.line(self.now_us, || format!("lost      {from:?} -> {to:?}"));
            }
            Fate::Arrives { at_us, again_at_us, late, overtakes } => {
                if late {
                    self.faults.add(FaultKind::MessageDelayed);
                }
                if overtakes {
                    self.faults.add(FaultKind::MessageReordered);
                }
                if let Some(again_at_us) = again_at_us {
                    self.faults.add(FaultKind::MessageDuplicated);
                    self.agenda
                        .push(again_at_us, Event::Deliver { from, to, message: message.clone() });
                }
                self.agenda.push(at_us, Event::Deliver { from, to, message });
            }
        }
    }

    fn deliver(&mut self, from: Place, to: Place, message: Message) {
        self.trace.mix(to.number());
        match (to, message) {
            (Place::Node(node), Message::Raft { shard, bytes, speaker }) => {
                self.hear_peer(node, shard, bytes, &speaker)
            }
            (Place::Node(to), Message::Hello { node, incarnation }) => {
                self.hear_hello(to, node, incarnation)
            }
            (Place::Node(to), Message::TopologyAsked { node, version }) => {
                self.tell_topology(to, node, version)
            }
            (Place::Node(node), Message::Topology(topology)) => self.learn(node, &topology),
            (Place::Node(node), Message::Report(report)) => self.take_report(node, &report),
            (Place::Node(node), Message::Request { sent_ms, operation }) => {
                self.take_request(node, from, sent_ms, *operation);
            }
            (Place::Gateway(gateway), Message::Reply { ticket, result }) => {
                self.gateway_reply(gateway, ticket, *result);
            }
            (Place::Gateway(gateway), Message::Broken { ticket, sent }) => {
                self.gateway_broken(gateway, ticket, sent)
            }
            (Place::Gateway(gateway), Message::ClientRequest { operation }) => {
                let Place::Client(client) = from else { unreachable!("{from:?} is no client") };
                self.gateway_request(gateway, client, *operation);
            }
            (Place::Gateway(gateway), Message::ClientGone { call }) => {
                self.gateway_abandon(gateway, call)
            }
            (Place::Client(client), Message::ClientReply { call, result, tries }) => {
                self.client_reply(client, call, *result, tries);
            }
            (Place::Client(client), Message::ClientBroken { call, sent }) => {
                self.client_broken(client, call, sent)
            }
            (to, message) => unreachable!("{message:?} for {to:?}"),
        }
    }

    fn report(mut self) -> Report {
        let verdict = crate::checker::check(&self.history);
        self.violations.extend(verdict.violations);
        self.violations.extend(self.watches.violations());
        let watches = [
            (FaultKind::WatchMoved, self.watches.moves),
            (FaultKind::WatchResynced, self.watches.resyncs),
        ];
        for (kind, count) in watches {
            (0..count).for_each(|_| self.faults.add(kind));
        }
        let (of_meta, of_locks): (Vec<Sample>, Vec<Sample>) =
            self.samples.iter().cloned().partition(|sample| sample.shard == META.0);
        self.violations.extend(crate::checker::check_convergence(&of_locks));
        self.of_meta.extend(crate::checker::check_convergence(&of_meta));
        self.faults.undecided_names += verdict.undecided_names.len() as u64;
        Report {
            seed: self.seed,
            shape: (
                self.nodes.len() as u64,
                self.map.shards().count() as u32,
                self.clients.len() as u32 - 1,
            ),
            trace_hash: self.trace.hash(),
            violations: self.violations,
            of_meta: self.of_meta,
            simulated_us: self.now_us,
            events: self.events,
            faults: self.faults,
            history: self.history,
        }
    }
}
