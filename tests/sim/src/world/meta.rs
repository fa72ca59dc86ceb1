//! META, the group of the topology: what the world asks it, and the judgement of its answers.
//!
//! The members of shard 0 have a replica from its founding on (`founding.rs`). The world proposes
//! changes now and then, at the leader or elsewhere, and reads. In some runs nodes act on the
//! topology (`following.rs`, `control.rs`, `jobs.rs`), and in others nothing does.
//!
//! What is judged:
//!
//! * Each version has one state, on whichever replica and in whichever reading. So a change that was
//!   acknowledged and lost is found once another one has its version.
//! * No reading is older than what was acknowledged before it was asked for, and at the end no
//!   replica is.
//! * A host that follows the news of its replica has what the replica has.

use super::clock::SECOND_US;
use super::node::OWN_TICKETS;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::Event;
use super::state::members::MovedBy;
use super::state::meta::{Asked, Question, follow};
use crate::checker::Invariant;
use routing::{AddressVersion, META, NodeId, ShardId};
use shard::{Answer, Input, Query, Reply, Ticket, TopologyNews};
use topology::{
    Balance, Command, JobId, JobKind, KNOWN_LEVELS, NodeTold, Progress, Proposal, RequestId, Seed,
    SeedNode, SeedShard, Setting, StoreId, Topology, Version,
};

/// A caller gives an operation up after this time of its node's clock.
pub(crate) const PATIENCE_MS: u64 = 5_000;

/// The first topology of a world with these nodes, groups and founders.
pub(crate) fn seed(map: &routing::ShardMap, nodes: u64, founders: &[NodeId]) -> Seed {
    let listed = |id: u64| {
        (NodeId(id), SeedNode { address: format!("127.0.0.1:{}", 7_000 + id), zone: None })
    };
    let group = |preferred_leader: NodeId| SeedShard {
        members: founders.iter().copied().collect(),
        preferred_leader,
    };
    let of_locks = map.shards().map(|(shard, placed)| (shard, group(placed.preferred_leader)));
    Seed {
        cluster_id: [9; 16],
        nodes: (1..=nodes).map(listed).collect(),
        shards: of_locks.chain([(META, group(founders[0]))]).collect(),
        slots: map.runs(),
    }
}

impl World {
    /// All groups: the shards of locks, and META.
    pub(crate) fn groups(&self) -> Vec<ShardId> {
        self.map.shards().map(|(shard, _)| shard).chain([META]).collect()
    }

    /// Proposes a change, or reads.
    pub(crate) fn ask_meta(&mut self) {
        let after_us = self.rng.range(SECOND_US / 2, 3 * SECOND_US);
        self.agenda.push(self.now_us + after_us, Event::Meta);
        self.look_after_meta();
        self.spread_level();
        let up: Vec<u64> =
            self.nodes.values().filter(|node| node.is_up()).map(|node| node.id).collect();
        if self.ending.silent || up.is_empty() {
            return;
        }
        let leader = up.iter().copied().find(|id| self.nodes[id].leads(META));
        let id = leader.filter(|_| self.rng.percent(75)).unwrap_or(*self.rng.pick(&up));
        if self.rng.percent(30) {
            let ticket = OWN_TICKETS + self.number();
            let known = self.meta.reader.version();
            let acknowledged = self.meta.acknowledged;
            let what = Question::Read { known, acknowledged };
            self.meta.asked.insert(ticket, Asked { node: id, what });
            let query = Query::Topology { known };
            return self.tell(id, META, Input::Read { ticket, query, linearizable: true });
        }
        let now = self.nodes[&id].clock.read(self.now_us);
        let command = match self.members.moved_by {
            MovedBy::Topology => self.harmless_change(id),
            _ => self.change(id),
        };
        let planned_at = self.rng.percent(20).then(|| self.meta.reader.version());
        let proposal = Proposal { wall_s: now.wall_ms / 1_000, planned_at, command };
        self.propose_to(id, &proposal, Question::Change);
    }

    /// A change that some process could propose where the topology is acted on.
    fn harmless_change(&mut self, id: u64) -> Command {
        match self.rng.below(4) {
            0 => Command::Bootstrap { seed: self.meta.seed.clone() },
            1 => {
                let bytes = self.rng.range(1, 64) << 20;
                Command::Set { setting: Setting::SnapshotBytesPerS { bytes } }
            }
            _ => Command::NodeIs { told: self.told_by(id) },
        }
    }

    /// A change that some process could propose, where nothing acts on the topology.
    fn change(&mut self, id: u64) -> Command {
        let (nodes, shards) = (self.nodes.len() as u64, self.map.shards().count() as u64);
        let node = NodeId(1 + self.rng.below(nodes));
        let shard = ShardId(self.rng.below(shards) as u32);
        let shard = if self.rng.percent(20) { META } else { shard };
        let job = JobId(1 + self.rng.below(1 + self.meta.reader.cluster().last_job));
        match self.rng.below(14) {
            0..3 => Command::NodeIs { told: self.told_by(id) },
            3..6 => Command::Prefer { shard, node },
            6 => {
                let mut members: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
                self.rng.shuffle(&mut members);
                members.truncate(3);
                Command::Want { shard, members: members.into_iter().collect() }
            }
            7..9 => {
                let request = RequestId(self.number().into());
                let kind = match self.rng.below(4) {
                    0 => JobKind::Drain { node },
                    1 => JobKind::Undrain { node },
                    2 => JobKind::Replicas { count: 3, shard: Some(shard) },
                    _ => JobKind::Rebalance { what: Balance::Leaders },
                };
                Command::Job { request, kind }
            }
            9..11 => {
                let progress = Progress { done: self.rng.below(9) as u32, total: 9 };
                Command::JobProgress { job, progress, why: None, is_done: self.rng.percent(70) }
            }
            11 => Command::Cancel { job },
            12 => Command::Set { setting: Setting::Paused { paused: self.rng.percent(50) } },
            _ => Command::Bootstrap { seed: self.meta.seed.clone() },
        }
    }

    pub(crate) fn told_by(&self, id: u64) -> NodeTold {
        let node = &self.nodes[&id];
        let incarnation = u64::from(node.incarnation);
        NodeTold {
            node: NodeId(id),
            address: format!("127.0.0.1:{}", 7_000 + id),
            zone: None,
            store: StoreId((u128::from(id) << 64 | u128::from(incarnation)).to_le_bytes()),
            start: AddressVersion { incarnation, starts: node.boot },
            levels: KNOWN_LEVELS,
            binary: "simulated".to_owned(),
        }
    }

    /// Takes the answer to a question of the world.
    pub(crate) fn take_meta_answer(&mut self, ticket: Ticket, reply: &Reply) {
        let Some(Asked { node, what }) = self.meta.asked.remove(&ticket) else { return };
        if let Reply::Applied(Ok(version)) = reply {
            self.meta.acknowledged = self.meta.acknowledged.max(*version);
        }
        match (what, reply) {
            (Question::Planned, Reply::Applied(Ok(version))) => self.planned(node, Some(*version)),
            (Question::Planned, _) => self.planned(node, None),
            (Question::Join { node: joiner }, Reply::Applied(Ok(_))) => self.joined(joiner, node),
            (Question::Order { is_job: true }, Reply::Applied(Err(refusal))) => {
                self.note(FaultKind::JobRefused, refusal.to_string());
            }
            (Question::Change, Reply::Applied(Ok(_))) => {
                self.faults.add(FaultKind::TopologyChanged);
            }
            (Question::Change, Reply::Applied(Err(_))) => {
                self.faults.add(FaultKind::TopologyRefused);
            }
            (
                Question::Read { known, acknowledged },
                Reply::Read { answer: Answer::Topology(news), .. },
            ) => {
                self.faults.add(FaultKind::TopologyRead);
                self.judge_reading(node, known, acknowledged, news.clone());
            }
            _ => {}
        }
    }

    /// Judges what a reader has once it has followed an answer.
    fn judge_reading(
        &mut self,
        id: u64,
        known: Version,
        acknowledged: Version,
        news: TopologyNews,
    ) {
        let told = match &news {
            TopologyNews::Deltas(deltas) => deltas.last().map_or(known, |delta| delta.version),
            TopologyNews::All(all) => all.version(),
        };
        if told < acknowledged {
            let what =
                format!("node {id} told version {told} after {acknowledged} was acknowledged");
            self.meta_violated(Invariant::Linearizability, what);
        }
        // Another answer may have come before this one, which is older.
        let mut read = self.meta.reader.clone();
        if let Err(gap) = follow(&mut read, news) {
            return self
                .meta_violated(Invariant::Topology, format!("a reading at node {id}: {gap}"));
        }
        self.judge_state(id, &read);
        if read.version() > self.meta.reader.version() {
            self.meta.reader = read;
        }
    }

    /// Follows the news of a replica, as its host does.
    pub(crate) fn take_topology_news(&mut self, id: u64, news: TopologyNews) {
        if let Err(gap) = follow(self.meta.copies.entry(id).or_default(), news) {
            self.meta_violated(Invariant::Topology, format!("the host of node {id}: {gap}"));
        }
    }

    /// Judges the topology of a replica that has just applied something.
    pub(crate) fn judge_topology(&mut self, id: u64) {
        let replica = self.nodes[&id].replicas.get(&META);
        let Some(topology) = replica.and_then(|replica| replica.topology()).cloned() else {
            return;
        };
        if self.meta.copies.get(&id).is_some_and(|copy| *copy != topology)
            || topology.is_founded() && !self.meta.copies.contains_key(&id)
        {
            let what = format!("the host of node {id} does not have what its replica has");
            self.meta_violated(Invariant::Convergence, what);
        }
        self.judge_state(id, &topology);
    }

    /// Judges a topology that this node has, or was told.
    pub(crate) fn judge_state(&mut self, id: u64, topology: &Topology) {
        if topology.version() > self.meta.newest.version() {
            self.take_newest(topology.clone());
        }
        if self.meta.differs(topology) {
            let version = topology.version();
            let what =
                format!("the topology has two states of version {version}, one by node {id}");
            self.meta_violated(Invariant::Convergence, what);
        }
    }

    /// Judges the replicas at the end, when they stand level.
    pub(crate) fn judge_last_topologies(&mut self) {
        let acknowledged = self.meta.acknowledged.max(Version(1));
        let versions = self.nodes.values().filter_map(|node| {
            let topology = node.replicas.get(&META)?.topology()?;
            Some((node.id, topology.version()))
        });
        let late: Vec<(u64, Version)> =
            versions.filter(|(_, version)| *version < acknowledged).collect();
        for (id, version) in late {
            let what = format!(
                "the topology at node {id} ends with version {version}, and {acknowledged} was acknowledged"
            );
            self.meta_violated(Invariant::Durability, what);
        }
    }

    fn meta_violated(&mut self, invariant: Invariant, what: String) {
        self.violated_in(META, invariant, what);
    }
}
