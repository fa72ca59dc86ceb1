//! Lost disks, and nodes that come back without their data. Such a node is a new member under a new
//! incarnation.
//!
//! The module follows the real host. With each connection a node states the incarnation of its data
//! directory. Its peer writes this down before it listens. The peer tells its replicas then, and
//! again at each start.

use super::clock::SECOND_US;
use super::network::Place;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::{Event, Message};
use super::state::following::Following;
use super::state::members::MovedBy;
use super::state::node::{Node, Part};
use routing::{META, NodeId, ShardId};
use shard::lost_directory::{Answer, Answers, Group, Present, Told};
use shard::{Input, Member, Role, Status};
use std::collections::BTreeSet;
use topology::{NodeState, Topology};

/// The number of ticks between two statements of a node's identity.
pub(crate) const HELLO_TICKS: u64 = 10;
/// The wall time that a re-seed would find at the start of the run, in seconds.
const WALL_START_S: u64 = 1_767_225_600;

pub(crate) fn incarnation_of(node: u64, incarnation: u32) -> Input {
    Input::Incarnation { node: NodeId(node), incarnation }
}

impl World {
    pub(crate) fn say_hello(&mut self, id: u64) {
        let hello = Message::Hello { node: id, incarnation: self.nodes[&id].incarnation };
        let others: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.send(Place::Node(id), Place::Node(other), hello.clone());
        }
    }

    pub(crate) fn hear_hello(&mut self, id: u64, from: u64, incarnation: u32) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if !node.is_up() || incarnation <= node.incarnations.get(&from).copied().unwrap_or_default()
        {
            return;
        }
        node.incarnations.insert(from, incarnation);
        let shards: Vec<ShardId> = node.replicas.keys().copied().collect();
        for shard in shards {
            self.tell(id, shard, incarnation_of(from, incarnation));
        }
    }

    /// Whether every shard keeps a majority of voters with their data if this node loses its own,
    /// now and while it comes back. Without such a majority the shard would never serve again, and
    /// the run would show nothing.
    pub(crate) fn may_lose(&self, id: u64) -> bool {
        self.chaos.losses_left > 0 && self.nodes[&id].has_data() && self.keeps_quorums_without(id)
    }

    /// Whether every shard keeps a majority of voters with their data without this node's.
    pub(crate) fn keeps_quorums_without(&self, id: u64) -> bool {
        self.groups().into_iter().all(|shard| {
            let Some(status) = self.leader_status(shard) else {
                return shard == META
                    && !self.nodes.values().any(|it| it.lives.contains_key(&META))
                    && self.meta_outlives(id);
            };
            let voters: Vec<&Member> =
                status.members.iter().filter(|member| !member.learner).collect();
            let kept =
                voters.iter().filter(|member| member.node.0 != id && self.is_whole(shard, member));
            kept.count() > voters.len() / 2 && self.is_settled_or_whole(shard, &status)
        })
    }

    /// The status of the leader in the highest term.
    pub(crate) fn leader_status(&self, shard: ShardId) -> Option<Status> {
        let statuses =
            self.nodes.values().filter_map(|node| Some(node.replicas.get(&shard)?.status()));
        statuses.filter(|status| status.role == Role::Leader).max_by_key(|status| status.term)
    }

    /// Cuts nodes off so that all acknowledged entries stand on a bare majority for a while, and
    /// then on less: see [`lose_witness`](Self::lose_witness).
    pub(crate) fn lose_witness_soon(&mut self, leader: u64) {
        let mut others: Vec<u64> =
            self.nodes.keys().copied().filter(|other| *other != leader).collect();
        self.rng.shuffle(&mut others);
        let (witnesses, absent) = others.split_at(others.len() / 2);
        if !self.may_lose(witnesses[0]) {
            return;
        }
        for absent in absent {
            self.cut_off(*absent);
        }
        let after_us = self.rng.range(SECOND_US / 5, 4 * SECOND_US);
        self.agenda
            .push(self.now_us + after_us, Event::WitnessLost { leader, witness: witnesses[0] });
    }

    /// Reconnects the nodes that were cut off, and kills the leader. A node that acknowledged the
    /// leader's entries loses its disk and comes back soon. Under its old identity this node could
    /// help to elect a leader that lacks all these entries.
    pub(crate) fn lose_witness(&mut self, leader: u64, witness: u64) {
        if self.chaos.calm_since_us.is_some() || !self.may_lose(witness) {
            return;
        }
        self.note(FaultKind::WitnessLost, format!("node {witness}"));
        self.network.cut.clear();
        self.lose_disk(witness, SECOND_US);
        self.kill(leader, FaultKind::PowerCut);
    }

    /// Destroys a node's machine. Within this time another machine takes its place, with an empty
    /// disk.
    pub(crate) fn lose_disk(&mut self, id: u64, within_us: u64) {
        if !self.may_lose(id) {
            return;
        }
        self.chaos.losses_left -= 1;
        self.note(FaultKind::DiskLost, format!("node {id}"));
        self.crash_node(id, true);
        self.nodes.get_mut(&id).expect("a node").awaits_reseed = true;
        let after_us = self.rng.range(50_000, within_us);
        self.agenda.push(self.now_us + after_us, Event::Reseed { node: id });
    }

    pub(crate) fn reseed_node(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        debug_assert!(node.awaits_reseed && !node.is_up());
        let (incarnation, shards) = match self.members.moved_by {
            MovedBy::Topology => match self.ask_peers(id) {
                Some(beginning) => beginning,
                None if self.hears_of_removal(id) => {
                    self.note(FaultKind::RemovedEnded, format!("node {id}"));
                    self.nodes.get_mut(&id).expect("a node").part = Part::Removed;
                    return;
                }
                None => {
                    return self.agenda.push(self.now_us + SECOND_US, Event::Reseed { node: id });
                }
            },
            _ => {
                let later = u64::from(node.incarnation.max(node.last_birth)) + 1;
                let incarnation = (WALL_START_S + self.now_us / SECOND_US).max(later) as u32;
                (incarnation, node.lives.keys().copied().collect())
            }
        };
        let node = self.nodes.get_mut(&id).expect("a node");
        node.awaits_reseed = false;
        node.disk.replace();
        node.incarnations.clear();
        node.lives.clear();
        node.following = Following::default();
        (node.incarnation, node.last_birth) = (incarnation, incarnation.max(node.last_birth));
        for shard in shards {
            assert!(self.begin_life(id, shard, incarnation), "an empty disk allows every birth");
        }
        self.note(FaultKind::Reseeded, format!("node {id}"));
        self.start_node(id);
    }

    /// Whether a peer refuses a node without its data because it was removed. Its operator gives up
    /// then.
    fn hears_of_removal(&self, id: u64) -> bool {
        let is_removed = |topology: &Topology| {
            topology.node(NodeId(id)).is_some_and(|node| node.state == NodeState::Removed)
        };
        let (peers, here) = (self.nodes.values().filter(|peer| peer.is_up()), Place::Node(id));
        let mut reached = peers.filter(|peer| self.network.passes(here, Place::Node(peer.id)));
        reached.any(|peer| is_removed(&peer.following.known))
    }

    /// What a node without its data is told, by the real rule: an incarnation above all with which
    /// its former replicas may have voted, and the shards that want a replica on it. `None`: too
    /// few have answered.
    fn ask_peers(&mut self, id: u64) -> Option<(u32, Vec<ShardId>)> {
        let own = NodeId(id);
        let founders = self.members.founders.iter().copied();
        let others: BTreeSet<NodeId> = founders.filter(|node| *node != own).collect();
        let of_locks = self.map.shards().map(|(shard, _)| shard);
        let is_listed = self.members.founders.contains(&own);
        let listed = of_locks.filter(|_| is_listed).map(|shard| (shard, others.clone()));
        let file = self.meta.seed.nodes.keys().copied().filter(|node| *node != own).collect();
        let mut answers = Answers::new(own, file, listed.collect());
        let peers: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        for peer in peers {
            let (here, there) = (Place::Node(id), Place::Node(peer));
            let passes = self.network.passes(here, there) && self.network.passes(there, here);
            let node = &self.nodes[&peer];
            let is_lost = self.rng.percent(15);
            if passes && !is_lost && node.is_up() && node.paused_until_us <= self.now_us {
                answers.take(NodeId(peer), Answer::Told(told_by_peer(node, own)));
            }
        }
        if !answers.are_enough() {
            return None;
        }
        let wall_s = self.nodes[&id].clock.read(self.now_us).wall_ms / 1_000;
        let incarnation = (answers.highest() + 1).max(wall_s as u32);
        Some((incarnation, answers.begins().into_iter().collect()))
    }
}

/// What a peer knows of the node `lost`.
fn told_by_peer(peer: &Node, lost: NodeId) -> Told {
    let statuses: Vec<Status> = peer.replicas.values().map(|replica| replica.status()).collect();
    let births = statuses.iter().flat_map(|status| {
        let members = status.members.iter().filter(|member| member.node == lost);
        let wanted = status.wanted.as_ref().and_then(|wanted| wanted.members().get(&lost));
        members.map(|member| member.incarnation).chain(wanted.copied())
    });
    let given = peer.following.known.node(lost).map_or(0, |node| node.last_birth.0);
    let stated = peer.incarnations.get(&lost.0).copied().unwrap_or_default();
    let is_settled = |status: &&Status| status.applied_index >= status.committed_index;
    let groups = statuses.iter().filter(is_settled);
    let groups = groups.map(|status| (status.shard, Group::of(status)));
    let known = &peer.following.known;
    let present = Present {
        order: (known.cluster().generation, known.version().0),
        nodes: known.present().map(|(node, _)| node).collect(),
    };
    Told {
        highest: births.fold(given.max(stated), u32::max),
        stands_by: false,
        groups: groups.collect(),
        present: known.is_founded().then_some(present),
    }
}
