//! Operators: they start and cancel jobs of the topology, let nodes join, and pause plans. Faults
//! come in the midst of their jobs.
//!
//! A job counts once it is done, so a run in which nothing moves counts none. At the end, all jobs
//! must be done or cancelled, every group must have the members that the topology wants, and every
//! node must know the newest topology (`unsettled`).
//!
//! At most one node is drained or removed at a time, and three nodes stay. Without that, jobs could
//! wait for ever.

use super::clock::SECOND_US;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::Event;
use super::state::meta::{Places, Question};
use super::state::node::Part;
use crate::checker::Invariant;
use routing::{META, NodeId, ShardId};
use topology::{
    Balance, Command, JobKind, JobState, NodeState, Proposal, RequestId, Setting, Shard, Topology,
    Why,
};

/// The fewest nodes that stay.
const NODES_MIN: usize = 3;
/// How long a machine must be silent until its replicas are replaced, if the settings say so.
const REPAIR_AFTER_S: u64 = 60;

impl World {
    /// An operator looks at the cluster, and may do something.
    pub(crate) fn operate(&mut self) {
        let after_us = self.rng.range(2 * SECOND_US, 7 * SECOND_US);
        self.agenda.push(self.now_us + after_us, Event::Jobs);
        let Some(leader) = self.nodes.values().find(|node| node.leads(META)).map(|node| node.id)
        else {
            return;
        };
        let newest = &self.meta.newest;
        if !newest.is_founded() {
            return;
        }
        if newest.cluster().settings.paused {
            if self.ending.silent || self.rng.percent(50) {
                self.order(leader, Command::Set { setting: Setting::Paused { paused: false } });
            }
            return;
        }
        // A drain waits for a node that is drained, and a removal for room that a drained node would
        // have, or one that was to leave by a job that was cancelled. So its operator takes it back.
        let leaves = |node| {
            newest.running().any(|(_, job)| match job.kind {
                JobKind::RemoveNode { node: gone } | JobKind::ReplaceNode { old: gone, .. } => {
                    gone == node
                }
                _ => false,
            })
        };
        let idle = newest.nodes().iter().find(|(id, node)| match node.state {
            NodeState::Draining => true,
            NodeState::Leaving => !leaves(**id),
            NodeState::Serving | NodeState::Removed => false,
        });
        let waits_for = newest.running().find_map(|(_, job)| match (&job.kind, &job.why) {
            (JobKind::Drain { .. }, Some(Why::NotServing { node })) => Some(*node),
            (_, Some(Why::NoRoom { .. })) => idle.map(|(id, _)| *id),
            _ => None,
        });
        if let Some(node) = waits_for.filter(|_| self.ending.silent) {
            let (request, kind) = (RequestId(self.number().into()), JobKind::Undrain { node });
            return self.order(leader, Command::Job { request, kind });
        }
        if !self.chaos.is_on(self.now_us) {
            return;
        }
        let level = self.due_level();
        if newest.level() < level && self.rng.percent(20) {
            return self.order(leader, Command::ActivateLevel { level });
        }
        let newest = &self.meta.newest;
        let running: Vec<_> = newest.running().map(|(id, _)| id).collect();
        // Where silent nodes are replaced by the cluster itself, most operators leave it to that.
        let is_away = self.nodes.values().any(|node| node.absent_until_us > self.now_us);
        let repairs = newest.cluster().settings.repair_after_s.is_some();
        if running.is_empty() && is_away && repairs && self.rng.percent(80) {
            return;
        }
        match (self.rng.below(100), running.first().copied()) {
            (0..2, _) => {
                self.note(FaultKind::PlansPaused, String::new());
                self.order(leader, Command::Set { setting: Setting::Paused { paused: true } });
            }
            (2..10, _) => self.repair_or_be_silent(leader),
            (10..22, _) => self.let_join(leader),
            (22..32, Some(job)) => self.order(leader, Command::Cancel { job }),
            (32..60, Some(_)) => self.hurt_in_job(leader),
            (60..90, Some(_)) => {}
            _ => self.start_job(leader),
        }
    }

    fn order(&mut self, leader: u64, command: Command) {
        let wall_s = self.nodes[&leader].clock.read(self.now_us).wall_ms / 1_000;
        self.trace.line(self.now_us, || format!("----      an operator orders {command:?}"));
        let is_job = matches!(command, Command::Job { .. });
        self.propose_to(leader, &Proposal::new(wall_s, command), Question::Order { is_job });
    }

    fn start_job(&mut self, leader: u64) {
        if self.rng.percent(8) {
            return self.order_what_cannot_be(leader);
        }
        let Some(kind) = self.next_job() else { return };
        // Two jobs at once that need room could wait for each other's for ever.
        let needs_room = |kind: &JobKind| {
            matches!(
                kind,
                JobKind::ReplaceNode { .. } | JobKind::RemoveNode { .. } | JobKind::Replicas { .. }
            )
        };
        if needs_room(&kind) && self.meta.newest.running().next().is_some() {
            return;
        }
        if let JobKind::ReplaceNode { old, .. } | JobKind::RemoveNode { node: old } = kind
            && self.rng.percent(50)
        {
            let for_us = self.rng.range(8, 40) * SECOND_US;
            self.be_away(old.0, for_us);
        }
        let request = RequestId(self.number().into());
        self.order(leader, Command::Job { request, kind: kind.clone() });
        // The answer may be lost, and the operator tries again.
        if self.rng.percent(20) {
            self.order(leader, Command::Job { request, kind });
        }
    }

    /// An operator errs.
    fn order_what_cannot_be(&mut self, leader: u64) {
        let request = RequestId(self.number().into());
        let nodes: Vec<NodeId> = self.meta.newest.nodes().keys().copied().collect();
        let node = *self.rng.pick(&nodes);
        let kind = match self.rng.percent(50) {
            true => JobKind::ReplaceNode { old: node, new: node },
            false => JobKind::Replicas { count: nodes.len() as u32 + 1, shard: None },
        };
        self.order(leader, Command::Job { request, kind });
    }

    /// A job that can be done, unless something goes wrong.
    fn next_job(&mut self) -> Option<JobKind> {
        let topology = &self.meta.newest;
        let of_state = |state: NodeState| {
            let nodes = topology.nodes().iter().filter(move |(_, node)| node.state == state);
            nodes.map(|(id, _)| *id).collect::<Vec<NodeId>>()
        };
        let serving = of_state(NodeState::Serving);
        let unused = [of_state(NodeState::Draining), of_state(NodeState::Leaving)].concat();
        let hosts = |node: &NodeId| {
            let mut shards = topology.shards().iter().filter(|(id, _)| **id != META);
            shards.any(|(_, shard)| shard.wanted.members.contains_key(node))
        };
        let spare = serving.iter().copied().find(|node| !hosts(node));
        let locks = topology.shards().iter().filter(|(id, _)| **id != META);
        let replicas = locks.map(|(_, shard)| shard.wanted.members.len()).max().unwrap_or(0);
        let shards = self.map.shards().count() as u64;
        let mut hosting: Vec<NodeId> = serving.iter().copied().filter(hosts).collect();
        hosting.extend(&unused);
        let may_go = serving.len() > NODES_MIN.max(replicas) && unused.len() < 2;
        self.rng.shuffle(&mut hosting);
        // Nodes that are down go first, most of the time.
        if self.rng.percent(70) {
            hosting.sort_by_key(|id| self.nodes[&id.0].is_up());
        }
        let shard = self.rng.percent(30).then(|| ShardId(self.rng.below(shards) as u32));
        let mut able = vec![(1, JobKind::Rebalance { what: Balance::Leaders })];
        able.push((2, JobKind::Rebalance { what: Balance::Members }));
        if let Some(node) = hosting.first().copied().filter(|_| may_go) {
            able.push((2, JobKind::RemoveNode { node }));
            able.extend(spare.map(|new| (6, JobKind::ReplaceNode { old: node, new })));
        }
        match unused.first().copied() {
            Some(node) => able.push((6, JobKind::Undrain { node })),
            None => able.extend(hosting.first().map(|node| (2, JobKind::Drain { node: *node }))),
        }
        match replicas {
            5.. => able.push((5, JobKind::Replicas { count: 3, shard })),
            _ if serving.len() >= 5 => able.push((5, JobKind::Replicas { count: 5, shard })),
            _ => {}
        }
        let mut at = self.rng.below(able.iter().map(|(weight, _)| weight).sum());
        let chosen = able.into_iter().find(|(weight, _)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        chosen.map(|(_, kind)| kind)
    }

    /// A node that the cluster file does not have asks to be taken.
    fn let_join(&mut self, leader: u64) {
        let outside = self.nodes.values().find(|node| node.part == Part::Outside);
        let Some(id) = outside.map(|node| node.id) else { return };
        let wall_s = self.nodes[&leader].clock.read(self.now_us).wall_ms / 1_000;
        let command = Command::NodeIs { told: self.told_by(id) };
        self.propose_to(leader, &Proposal::new(wall_s, command), Question::Join { node: id });
    }

    /// A node was taken by the leader of META, which tells it the topology.
    pub(crate) fn joined(&mut self, id: u64, leader: u64) {
        let meta = self.nodes[&leader].replicas.get(&META);
        let topology = meta.and_then(|replica| replica.topology()).cloned();
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(topology) = topology.filter(|_| node.part == Part::Outside) else { return };
        (node.part, node.following.known) = (Part::In, topology);
        self.note(FaultKind::NodeJoined, format!("node {id}"));
        self.start_node(id);
    }

    /// Nodes that are silent for long are to be replaced, or one is silent for so long.
    fn repair_or_be_silent(&mut self, leader: u64) {
        let newest = &self.meta.newest;
        if newest.cluster().settings.repair_after_s.is_none() {
            let setting = Setting::RepairAfter { seconds: Some(REPAIR_AFTER_S) };
            return self.order(leader, Command::Set { setting });
        }
        let present: Vec<u64> = newest.present().map(|(node, _)| node.0).collect();
        let id = *self.rng.pick(&present);
        let for_us = self.rng.range(100, 170) * SECOND_US;
        self.be_away(id, for_us);
    }

    /// A machine is away for a while, with all its data.
    fn be_away(&mut self, id: u64, for_us: u64) {
        let is_one = self.nodes.values().all(|node| node.absent_until_us <= self.now_us);
        if !is_one || !self.nodes[&id].has_data() || !self.keeps_quorums_without(id) {
            return;
        }
        self.note(FaultKind::PowerCut, format!("node {id} is away for {for_us} us"));
        self.crash_node(id, true);
        let back_us = self.now_us + for_us;
        self.nodes.get_mut(&id).expect("a node").absent_until_us = back_us;
        self.agenda.push(back_us, Event::Start { node: id });
    }

    /// Something happens within a job.
    fn hurt_in_job(&mut self, leader: u64) {
        match self.rng.below(3) {
            0 => {
                let for_us = self.rng.range(3, 25) * SECOND_US;
                self.note(FaultKind::MetaSilenced, format!("for {for_us} us"));
                self.meta.silent_until_us = self.now_us + for_us;
            }
            1 => self.kill(leader, FaultKind::MetaLeaderKilled),
            _ => {
                let topology = &self.meta.newest;
                let unsettled = topology.shards().values().filter(|shard| !shard.is_settled());
                let lives =
                    unsettled.flat_map(|shard| shard.wanted.lives().chain(shard.is.lives()));
                let nodes: Vec<u64> = lives.map(|life| life.node.0).collect();
                if nodes.is_empty() {
                    return;
                }
                let id = *self.rng.pick(&nodes);
                if self.may_lose(id) {
                    self.note(FaultKind::LostInMove, format!("node {id}"));
                    self.lose_disk(id, 12 * SECOND_US);
                }
            }
        }
    }

    /// Some replica has applied a topology that is later than all before.
    pub(crate) fn take_newest(&mut self, topology: Topology) {
        for what in self.meta.lives.follow(&topology) {
            self.violated_in(META, Invariant::OneLife, what);
        }
        let places = places(&topology);
        let before = std::mem::replace(&mut self.meta.newest, topology);
        let mut ended = Vec::new();
        for (id, job) in self.meta.newest.jobs() {
            let known = before.jobs().get(id);
            if known.is_some_and(|known| known.state != JobState::Running) {
                continue;
            }
            // One that nothing follows from counts none.
            let at_start = self.meta.places.entry(*id).or_insert_with(|| places.clone());
            if let Some(kind) = ended_as(&job.kind, job.state)
                && (!matches!(job.kind, JobKind::Rebalance { .. }) || *at_start != places)
            {
                ended.push((kind, *id));
            }
        }
        ended.into_iter().for_each(|(kind, id)| self.note(kind, format!("job {id}")));
    }

    /// The machines that are away come back, because the end of the run has begun.
    pub(crate) fn all_come_back(&mut self) {
        let now_us = self.now_us;
        self.meta.silent_until_us = now_us;
        for node in self.nodes.values_mut().filter(|node| node.absent_until_us > now_us) {
            node.absent_until_us = now_us;
            self.agenda.push(now_us, Event::Start { node: node.id });
        }
    }

    /// What is not as the topology says, for people.
    pub(crate) fn unsettled(&self) -> Vec<(ShardId, String)> {
        let newest = &self.meta.newest;
        let mut found = Vec::new();
        for (id, job) in newest.running() {
            let why = job.why.as_ref().map(ToString::to_string);
            found.push((META, format!("job {id} ({:?}) is not done: {why:?}", job.kind)));
        }
        let unsettled = newest.shards().iter().filter(|(_, shard)| !shard.is_settled());
        found.extend(unsettled.map(|(id, shard)| (*id, format!("shard {id}: {shard:?}"))));
        for node in self.nodes.values().filter(|node| node.is_up()) {
            let known = node.following.known.version();
            if known < newest.version() {
                let what = format!("node {} knows topology {known}", node.id);
                found.push((META, format!("{what}, and the newest is {}", newest.version())));
            }
        }
        found
    }
}

/// The members that all shards shall have, and the leaders that they should have.
fn places(topology: &Topology) -> Places {
    let place = |(id, shard): (&ShardId, &Shard)| {
        let members = shard.wanted.members.keys().copied().collect();
        (*id, (members, shard.preference.map(|leader| leader.node)))
    };
    topology.shards().iter().map(place).collect()
}

/// The kind of a job that has ended.
fn ended_as(kind: &JobKind, state: JobState) -> Option<FaultKind> {
    match state {
        JobState::Running => return None,
        JobState::Cancelled => return Some(FaultKind::JobCancelled),
        JobState::Done => {}
    }
    Some(match kind {
        JobKind::ReplaceNode { .. } => FaultKind::NodeReplaced,
        JobKind::RemoveNode { .. } => FaultKind::NodeRemoved,
        JobKind::Drain { .. } => FaultKind::NodeDrained,
        JobKind::Undrain { .. } => FaultKind::NodeTakenBack,
        JobKind::Replicas { count: 5.., .. } => FaultKind::ReplicasRaised,
        JobKind::Replicas { .. } => FaultKind::ReplicasLowered,
        JobKind::Rebalance { what: Balance::Members } => FaultKind::MembersEvened,
        JobKind::Rebalance { what: Balance::Leaders } => FaultKind::LeadersEvened,
    })
}
