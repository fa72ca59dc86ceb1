//! Nodes that act by the topology: each learns it, hosts the replicas that it wants, gives the
//! groups that are led there their wishes, hands leadership to the nodes that it prefers, and
//! reports.
//!
//! The decisions are the real ones (`by_topology.rs` of the shard crate). As a real node, each
//! looks at META's replica on it, and asks another node if that replica has no leader or no vote.
//! What it knows is on its disk, so that a restart goes on from there.

use super::clock::SECOND_US;
use super::network::Place;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::{Event, Message};
use super::state::node::Part;
use routing::{META, NodeId, ShardId};
use shard::{HostingStep, Input, Role, WantedLife, hosting_steps, replica_report, wish_due};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage::Engine;
use topology::plan::Report;
use topology::{NodeState, Topology, Version};

/// The longest time between two reports.
const REPORT_EVERY_US: u64 = 5 * SECOND_US;
/// A preferred leader must be caught up for so long.
const PLACEMENT_PATIENCE_US: u64 = 2 * SECOND_US;

impl World {
    /// A node looks at what it knows of the topology, and acts by it.
    pub(crate) fn look_at_topology(&mut self, id: u64, boot: u64) {
        if self.nodes[&id].boot != boot {
            return;
        }
        let after_us = self.rng.range(4 * SECOND_US / 10, 9 * SECOND_US / 10);
        self.agenda.push(self.now_us + after_us, Event::Follow { node: id, boot });
        let parts = [
            World::follow,
            World::host_by_topology,
            World::give_wishes,
            World::place_leaders,
            World::report_by,
            World::control,
        ];
        for part in parts {
            if self.nodes[&id].boot == boot {
                part(self, id);
            }
        }
    }

    /// Learns what META's replica here has applied, or else asks another node.
    fn follow(&mut self, id: u64) {
        if let Some(applied) = self.meta.copies.get(&id).cloned() {
            self.learn(id, &applied);
        }
        let node = &self.nodes[&id];
        let meta = node.replicas.get(&META);
        if !node.is_up() || meta.is_some_and(|replica| replica.status().hears_its_group()) {
            return;
        }
        let known = &node.following.known;
        let version = known.version();
        // Before it knows any, it has the nodes of the cluster file.
        let others: Vec<u64> = match known.is_founded() {
            true => known.present().map(|(other, _)| other.0).collect(),
            false => self.meta.seed.nodes.keys().map(|other| other.0).collect(),
        };
        let others: Vec<u64> = others.into_iter().filter(|other| *other != id).collect();
        if !others.is_empty() {
            let other = *self.rng.pick(&others);
            let asked = Message::TopologyAsked { node: id, version };
            self.send(Place::Node(id), Place::Node(other), asked);
        }
    }

    /// Answers a node that knows an older topology.
    pub(crate) fn tell_topology(&mut self, id: u64, to: u64, version: Version) {
        let node = &self.nodes[&id];
        if node.is_up() && node.following.known.version() > version {
            let told = Message::Topology(Arc::new(node.following.known.clone()));
            self.send(Place::Node(id), Place::Node(to), told);
        }
    }

    /// Takes a topology, unless a later one is known.
    pub(crate) fn learn(&mut self, id: u64, topology: &Topology) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let version = topology.version();
        if !node.is_up() || version <= node.following.known.version() {
            return;
        }
        node.following.known = topology.clone();
        self.trace.mix(version.0);
        self.trace.line(self.now_us, || format!("node {id}    learns topology {version}"));
        self.judge_state(id, topology);
        let own = topology.node(NodeId(id));
        if own.is_some_and(|own| own.state == NodeState::Removed) {
            self.note(FaultKind::RemovedEnded, format!("node {id}"));
            self.nodes.get_mut(&id).expect("a node").part = Part::Removed;
            self.crash_node(id, false);
        }
    }

    /// Begins the replicas that the topology wants here, and destroys those that are out.
    fn host_by_topology(&mut self, id: u64) {
        let node = &self.nodes[&id];
        if node.disk.full {
            return;
        }
        let (boot, known) = (node.boot, node.following.known.clone());
        for step in hosting_steps(&known, NodeId(id), &node.disk.engine.lives()) {
            if self.nodes[&id].boot != boot {
                return; // the disk has failed
            }
            match step {
                HostingStep::Unhost(shard, _) => self.destroy_replica(id, shard),
                HostingStep::Host(shard, _) => self.host_wanted(id, shard, &known),
            }
        }
    }

    fn host_wanted(&mut self, id: u64, shard: ShardId, known: &Topology) {
        let wanted = WantedLife::of(known, shard, NodeId(id)).expect("a step of this topology");
        let (store, node) = (self.told_by(id).store, &self.nodes[&id]);
        // The former life there may not be destroyed yet.
        if wanted.check(store, node.incarnation).is_err() || node.lives.contains_key(&shard) {
            return;
        }
        let birth = wanted.birth;
        let lived = (shard, id, 0)..=(shard, id, u32::MAX);
        let has_lived = self.members.had_log.range(lived).next().is_some();
        if !self.begin_life(id, shard, birth) {
            return;
        }
        self.open_replica(id, shard);
        if has_lived {
            self.note(FaultKind::LifeReturned, format!("shard {shard}: node {id} as {birth}"));
        }
        self.trace.line(self.now_us, || format!("node {id}    shard {shard}: hosts life {birth}"));
    }

    fn give_wishes(&mut self, id: u64) {
        let node = &self.nodes[&id];
        let mut wishes = Vec::new();
        for (shard, replica) in &node.replicas {
            let status = replica.status();
            if status.role == Role::Leader {
                let taken = Version(status.wanted.as_ref().map_or(0, shard::Wanted::version));
                let wish = wish_due(&node.following.known, *shard, taken);
                wishes.extend(wish.expect("members that can be").map(|wish| (*shard, wish)));
            }
        }
        wishes.into_iter().for_each(|(shard, wish)| self.tell(id, shard, Input::Want(wish)));
    }

    /// Hands one shard at a time to the node that the topology prefers, once that is caught up for
    /// a while.
    fn place_leaders(&mut self, id: u64) {
        let (now_us, node) = (self.now_us, &self.nodes[&id]);
        let mut ripe: BTreeMap<ShardId, u64> = BTreeMap::new();
        let mut due = None;
        for (shard, replica) in &node.replicas {
            let preferred = node.following.known.shard(*shard).and_then(|known| known.preference);
            let Some(to) = preferred.map(|leader| leader.node).filter(|to| to.0 != id) else {
                continue;
            };
            let status = replica.status();
            if status.role != Role::Leader || !status.caught_up.contains(&to) {
                continue;
            }
            let since_us = node.following.ripe.get(shard).copied().unwrap_or(now_us);
            if due.is_none() && now_us >= since_us + PLACEMENT_PATIENCE_US {
                due = Some((*shard, to)); // a shard that does not move must ripen again
            } else {
                ripe.insert(*shard, since_us);
            }
        }
        self.nodes.get_mut(&id).expect("a node").following.ripe = ripe;
        if let Some((shard, to)) = due {
            self.tell(id, shard, Input::Transfer { to });
        }
    }

    /// Reports to the leader of META, if there is news or the last report is old. The node does not
    /// search for the leader: it sends the report to each member of META that it knows of.
    fn report_by(&mut self, id: u64) {
        let node = &self.nodes[&id];
        let replicas = node.replicas.iter();
        let replicas =
            replicas.map(|(shard, replica)| (*shard, replica_report(&replica.status(), 0)));
        let behind = node.replicas.iter().flat_map(|(shard, replica)| {
            let status = replica.status();
            status.behind_voters().map(|voter| (*shard, voter)).collect::<Vec<_>>()
        });
        let (replicas, behind) = (replicas.collect(), behind.collect());
        let report = Report { heard_ms: 0, told: self.told_by(id), replicas, behind };
        let is_due = node.following.reported.as_ref().is_none_or(|(at_us, before)| {
            self.now_us >= at_us + REPORT_EVERY_US || report.is_news_after(before)
        });
        let Some(meta) = node.following.known.shard(META).filter(|_| is_due) else { return };
        let members = meta.wanted.lives().chain(meta.is.lives());
        let members: BTreeSet<u64> = members.map(|life| life.node.0).collect();
        let shared = Arc::new(report.clone());
        for to in members {
            if to == id {
                self.take_report(id, &shared);
            } else {
                let report = Message::Report(shared.clone());
                self.send(Place::Node(id), Place::Node(to), report);
            }
        }
        let reported = Some((self.now_us, report));
        self.nodes.get_mut(&id).expect("a node").following.reported = reported;
    }
}
