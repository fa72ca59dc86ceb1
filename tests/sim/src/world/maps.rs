//! Shard maps that change while a cluster serves, and how processes learn them from each other.
//!
//! A newer map comes up at one node. Every process asks another one now and then for its route table,
//! and takes what is newer by the real rules of `routing`. The maps of a run differ in their version
//! only, so that every shard keeps its names.
//!
//! A process that knows a version never goes back to an older one, except by a restart, because
//! route tables are kept in memory only. While no node that is up knows the newest map, its source
//! gives it to one of them again. Otherwise a gateway could know a map that no node knows, and each
//! node would refuse its routes as too new.

use super::network::Place;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::Event;
use crate::checker::{Invariant, Violation};
use routing::{MapVersion, ShardMap};

/// How often each process asks another one.
const ASK_EVERY_US: u64 = 500_000;
/// How often a newer map comes up while there are faults, in percent of the rounds.
const RENEWALS_PERCENT: u64 = 2;

impl World {
    /// Lets each process ask another one, and brings up a newer map now and then.
    pub(crate) fn exchange_route_tables(&mut self) {
        self.agenda.push(self.now_us + ASK_EVERY_US, Event::RouteTables);
        let nodes: Vec<Place> = (self.nodes.values().filter(|node| node.is_up()))
            .filter(|node| node.paused_until_us <= self.now_us)
            .map(|node| Place::Node(node.id))
            .collect();
        let gateways = self.gateways.iter().filter(|(_, gateway)| gateway.up);
        let gateways = gateways.map(|(id, _)| Place::Gateway(*id));
        let all: Vec<Place> = nodes.iter().copied().chain(gateways).collect();
        if !nodes.is_empty() {
            let at = nodes[self.rng.below(nodes.len() as u64) as usize];
            let newest = self.route_tables.newest;
            let is_known = nodes.iter().any(|node| self.route_tables.version_at(*node) == newest);
            if self.chaos.is_on(self.now_us) && self.rng.percent(RENEWALS_PERCENT) {
                self.route_tables.newest += 1;
                self.give_map(at);
                self.note(FaultKind::MapRenewed, format!("at {at:?}"));
            } else if !is_known {
                self.give_map(at);
            }
        }
        for asker in all {
            let asked = Place::Node(1 + self.rng.below(self.nodes.len() as u64));
            let hears = self.network.passes(asker, asked) && self.network.passes(asked, asker);
            if hears && asker != asked && nodes.contains(&asked) {
                self.take_routes(asker, asked);
            }
        }
    }

    /// Gives a node the newest map.
    fn give_map(&mut self, at: Place) {
        let version = MapVersion(self.route_tables.newest);
        let shards = self.map.shards().map(|(shard, replicas)| (shard, replicas.clone()));
        let map = ShardMap::even(version, shards.collect());
        let newer = self.route_tables.of(at).with_map(map).expect("the same nodes");
        self.route_tables.known.insert(at, newer);
    }

    fn take_routes(&mut self, asker: Place, asked: Place) {
        let (own, theirs) = (self.route_tables.of(asker), self.route_tables.of(asked));
        let before = own.map().version();
        if before == theirs.map().version() {
            return;
        }
        let Some(merged) = own.merged(theirs) else { return };
        let after = merged.map().version();
        if after < before {
            self.violations.push(Violation {
                invariant: Invariant::Topology,
                what: format!("{asker:?} went from version {before} back to {after} of the map"),
                operations: Vec::new(),
            });
        }
        if let Place::Gateway(id) = asker
            && let Some(gateway) = self.gateways.get(&id)
        {
            gateway.take_routes(&merged);
        }
        self.route_tables.known.insert(asker, merged);
    }
}
