//! The gatekeeper: a command is checked here, and changes all it has to or nothing.
//!
//! A command is first *decided*: its new rows are worked out without touching the state. Rows that
//! are there already count as no change. So a refused command leaves nothing half done, a repeated
//! one changes nothing, and the version rises exactly with what changes. The facts that nodes and
//! leaders tell are decided in [`facts`](crate::facts). This module knows nothing of reports and
//! plans.

use crate::command::{Command, Proposal, Setting};
use crate::delta::{Delta, Row};
use crate::levels::FIRST_LEVEL;
use crate::refusal::Refusal;
use crate::seed::Seed;
use crate::state::*;
use routing::{META, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// How many jobs that ended are remembered.
pub const JOBS_KEPT: usize = 64;
/// How many jobs run at a time.
pub const JOBS_MAX: usize = 64;
/// The shortest time of silence after which a node is replaced.
const REPAIR_AFTER_S_MIN: u64 = 60;
/// The lowest rate of snapshots. A lower one would hardly ever bring a replica up to date.
const SNAPSHOT_BYTES_PER_S_MIN: u64 = 1 << 20;

impl Topology {
    /// Applies a command of the log. Returns what it changed, or `None` if it changed nothing.
    ///
    /// # Errors
    /// [`Refusal`], with what to do next. Then nothing has changed.
    pub fn apply(&mut self, proposal: &Proposal) -> Result<Option<Delta>, Refusal> {
        if let Command::Refound { topology } = &proposal.command {
            return self.refound(topology);
        }
        let mut rows = self.decide(proposal.wall_s, &proposal.command)?;
        rows.retain(|row| !self.has(row));
        if rows.is_empty() {
            return Ok(None);
        }
        if let Some(planned) = proposal.planned_at.filter(|planned| *planned != self.version) {
            return Err(Refusal::VersionMoved { planned, now: self.version });
        }
        self.check_wishes(&rows)?;
        let delta = Delta { version: self.version.next(), rows };
        self.follow(&delta).expect("the delta follows the version");
        debug_assert_eq!(self.check(), Ok(()), "after {proposal:?}");
        Ok(Some(delta))
    }

    /// Refuses rows with a wish that no copy would take. Once committed, it would stop every replica.
    fn check_wishes(&self, rows: &[Row]) -> Result<(), Refusal> {
        let changed: BTreeMap<NodeId, &Node> = rows
            .iter()
            .filter_map(|row| match row {
                Row::Node { id, node } => Some((*id, node)),
                _ => None,
            })
            .collect();
        for row in rows {
            let Row::Shard { id, shard } = row else { continue };
            for life in shard.wanted.lives() {
                let node = changed.get(&life.node).copied().or_else(|| self.nodes.get(&life.node));
                let is_sound = node.is_some_and(|node| {
                    node.state != NodeState::Removed
                        && life.birth <= node.last_birth
                        && u64::from(life.birth.0) >= node.start.incarnation
                });
                if !is_sound {
                    let why = "it would have a life that cannot be".into();
                    return Err(Refusal::NoGroup { shard: *id, why });
                }
            }
        }
        Ok(())
    }

    /// The rows that the command leads to.
    fn decide(&self, wall_s: u64, command: &Command) -> Result<Vec<Row>, Refusal> {
        if let Command::Bootstrap { seed } = command {
            return self.found(wall_s, seed);
        }
        if !self.is_founded() {
            return Err(Refusal::NotFounded);
        }
        match command {
            Command::Bootstrap { .. } | Command::Refound { .. } => unreachable!("decided above"),
            Command::NodeIs { told } => self.node_is(wall_s, told),
            Command::SetNodeState { node, state } => self.set_node_state(*node, *state),
            Command::Want { shard, members } => self.want(wall_s, *shard, members),
            Command::Is { shard, members } => self.shard_is(*shard, members),
            Command::Prefer { shard, node } => self.prefer(wall_s, *shard, *node),
            Command::Job { request, kind } => self.start_job(*request, kind),
            Command::JobProgress { job, progress, why, is_done } => {
                let state = if *is_done { JobState::Done } else { JobState::Running };
                self.change_job(*job, |job| Job {
                    state,
                    progress: *progress,
                    why: why.clone(),
                    ..job
                })
            }
            Command::Cancel { job } => {
                self.change_job(*job, |job| Job { state: JobState::Cancelled, why: None, ..job })
            }
            Command::ActivateLevel { level } => self.activate_level(*level),
            Command::Set { setting } => self.set(setting),
        }
    }

    fn found(&self, wall_s: u64, seed: &Seed) -> Result<Vec<Row>, Refusal> {
        if self.is_founded() {
            return Err(Refusal::AlreadyFounded);
        }
        let cluster = Cluster {
            id: seed.cluster_id,
            generation: 1,
            level: FIRST_LEVEL,
            ..Cluster::default()
        };
        let node = |listed: &crate::seed::SeedNode| {
            Node::untold(listed.address.clone(), listed.zone.clone(), NodeState::Serving)
        };
        let mut rows = vec![Row::Cluster { cluster }, Row::Slots { runs: seed.slots.clone() }];
        rows.extend(
            seed.nodes.iter().map(|(id, listed)| Row::Node { id: *id, node: node(listed) }),
        );
        let version = self.version.next();
        for (id, listed) in &seed.shards {
            // The members of the cluster file have birth 0: their Raft ids are those of their nodes.
            let founders: BTreeMap<NodeId, Birth> =
                listed.members.iter().map(|node| (*node, Birth(0))).collect();
            let voters = founders.iter().map(|(node, birth)| Life { node: *node, birth: *birth });
            let is = Members { voters: voters.collect(), ..Members::default() };
            let preference = Preference { node: listed.preferred_leader, from: None, at_s: wall_s };
            let shard = Shard {
                wanted: Wanted { version, members: founders.clone() },
                founders,
                is,
                leaving: BTreeMap::new(),
                preference: Some(preference),
            };
            rows.push(Row::Shard { id: *id, shard });
        }
        // A seed comes from a file that somebody edited, perhaps for another build.
        let mut founded = Topology::default();
        let delta = Delta { version, rows };
        founded.follow(&delta).expect("version 1 follows version 0");
        founded.check().map_err(|rule| Refusal::Seed(rule.into()))?;
        Ok(delta.rows)
    }

    /// Takes a topology that was built again as the first one of its group. It begins with a version
    /// far above 1, so it comes as a whole and has no delta.
    fn refound(&mut self, rebuilt: &Topology) -> Result<Option<Delta>, Refusal> {
        if self == rebuilt {
            return Ok(None);
        }
        if self.is_founded() {
            return Err(Refusal::AlreadyFounded);
        }
        rebuilt.check().map_err(|rule| Refusal::Seed(rule.into()))?;
        *self = rebuilt.clone();
        Ok(None)
    }

    fn set_node_state(&self, id: NodeId, state: NodeState) -> Result<Vec<Row>, Refusal> {
        let known = self.nodes.get(&id).ok_or(Refusal::UnknownNode(id))?;
        if known.state == state {
            return Ok(Vec::new());
        }
        self.present_node(id)?;
        if state == NodeState::Removed
            && let Some((shard, _)) = self.shards.iter().find(|(_, shard)| shard.concerns(id))
        {
            return Err(Refusal::StillMember { node: id, shard: *shard });
        }
        let mut rows = vec![Row::Node { id, node: Node { state, ..known.clone() } }];
        if state != NodeState::Serving {
            let preferred = |shard: &Shard| shard.preference.is_some_and(|is| is.node == id);
            let shards = self.shards.iter().filter(|(_, shard)| preferred(shard));
            rows.extend(shards.map(|(id, shard)| Row::Shard {
                id: *id,
                shard: Shard { preference: None, ..shard.clone() },
            }));
        }
        Ok(rows)
    }

    /// Changes the wanted members. A member that stays keeps its life, and so does one that comes back
    /// before its life is out. Any other gets a birth that its node never had. So a life that is out
    /// is never wanted again.
    fn want(
        &self,
        wall_s: u64,
        id: ShardId,
        members: &BTreeSet<NodeId>,
    ) -> Result<Vec<Row>, Refusal> {
        let known = self.known_shard(id)?;
        if members.is_empty() {
            return Err(Refusal::NoMembers(id));
        }
        let mut rows = Vec::new();
        let mut shard = known.clone();
        shard.wanted = Wanted { version: self.version.next(), members: BTreeMap::new() };
        for member in members {
            let mut node = self.present_node(*member)?.clone();
            let is_wanted = known.wanted.members.contains_key(member);
            if !is_wanted && node.state != NodeState::Serving {
                return Err(Refusal::NotServing(*member));
            }
            let birth = match known.life_on(*member, &node) {
                Some(birth) => birth,
                None => {
                    let birth = node.give_birth(wall_s).ok_or(Refusal::NoBirths(*member))?;
                    rows.push(Row::Node { id: *member, node });
                    birth
                }
            };
            shard.leaving.remove(&Life { node: *member, birth });
            shard.wanted.members.insert(*member, birth);
        }
        if shard.wanted.members == known.wanted.members {
            return Ok(Vec::new());
        }
        let dropped = known.wanted.lives().filter(|life| !shard.wanted.has(life));
        shard.leaving.extend(dropped.map(|life| (life, shard.wanted.version)));
        shard.preference = known.preference.filter(|leader| members.contains(&leader.node));
        rows.push(Row::Shard { id, shard });
        Ok(rows)
    }

    fn prefer(&self, wall_s: u64, id: ShardId, node: NodeId) -> Result<Vec<Row>, Refusal> {
        let known = self.known_shard(id)?;
        if self.present_node(node)?.state != NodeState::Serving {
            return Err(Refusal::NotServing(node));
        }
        if !known.wanted.members.contains_key(&node) {
            return Err(Refusal::NoMember { shard: id, node });
        }
        let from = known.preference.map(|leader| leader.node);
        if from == Some(node) {
            return Ok(Vec::new());
        }
        let preference = Some(Preference { node, from, at_s: wall_s });
        Ok(vec![Row::Shard { id, shard: Shard { preference, ..known.clone() } }])
    }

    fn start_job(&self, request: RequestId, kind: &JobKind) -> Result<Vec<Row>, Refusal> {
        if self.job_of(request).is_some() {
            return Ok(Vec::new());
        }
        self.check_job(kind)?;
        if let Some((id, _)) = self.running().find(|(_, job)| collide(&job.kind, kind)) {
            return Err(Refusal::Busy(id));
        }
        if self.running().count() >= JOBS_MAX {
            return Err(Refusal::TooManyJobs(JOBS_MAX as u32));
        }
        let last_job = self.cluster.last_job + 1;
        let job = Job {
            request,
            kind: kind.clone(),
            state: JobState::Running,
            progress: Progress::default(),
            why: None,
        };
        let ended = self.jobs.iter().filter(|(_, job)| job.state != JobState::Running);
        let ended: Vec<JobId> = ended.map(|(id, _)| *id).collect();
        let forgotten = &ended[..ended.len().saturating_sub(JOBS_KEPT - 1)];
        let mut rows = vec![
            Row::Cluster { cluster: Cluster { last_job, ..self.cluster.clone() } },
            Row::Job { id: JobId(last_job), job },
        ];
        rows.extend(forgotten.iter().map(|id| Row::NoJob { id: *id }));
        Ok(rows)
    }

    fn check_job(&self, kind: &JobKind) -> Result<(), Refusal> {
        for node in kind.nodes() {
            self.present_node(node)?;
        }
        match *kind {
            JobKind::ReplaceNode { old, new } => {
                if old == new {
                    return Err(no_job("a node cannot replace itself: name another one"));
                }
                if self.present_node(new)?.state != NodeState::Serving {
                    return Err(Refusal::NotServing(new));
                }
                self.check_room_without(old)?;
            }
            JobKind::RemoveNode { node } => self.check_room_without(node)?,
            JobKind::Replicas { count, shard } => {
                if let Some(shard) = shard {
                    self.known_shard(shard)?;
                }
                if shard == Some(META) {
                    return Err(no_job(
                        "the shard of the topology follows the number of nodes: leave it out",
                    ));
                }
                if count == 0 || count as usize > self.present().count() {
                    return Err(no_job(
                        "the replica count is 0 or more than there are nodes: choose 3 or 5",
                    ));
                }
            }
            JobKind::Drain { .. } | JobKind::Undrain { .. } | JobKind::Rebalance { .. } => {}
        }
        Ok(())
    }

    /// Checks that each replica of a node could go to another node. META may have fewer members
    /// without the node, so it needs no room.
    fn check_room_without(&self, id: NodeId) -> Result<(), Refusal> {
        let is_free = |shard: &Shard, node: NodeId, known: &Node| {
            known.state == NodeState::Serving && !shard.wanted.members.contains_key(&node)
        };
        for (shard, known) in &self.shards {
            if *shard == META || !known.wanted.members.contains_key(&id) {
                continue;
            }
            if !self.present().any(|(node, other)| is_free(known, node, other)) {
                return Err(Refusal::NoRoom { node: id, shard: *shard });
            }
        }
        Ok(())
    }

    /// Changes a job that runs. A job that has ended as the change says is left alone.
    fn change_job(&self, id: JobId, change: impl FnOnce(Job) -> Job) -> Result<Vec<Row>, Refusal> {
        let known = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        let job = change(known.clone());
        if known.state != JobState::Running && known.state != job.state {
            return Err(Refusal::Ended(id));
        }
        if known.state != JobState::Running {
            return Ok(Vec::new());
        }
        Ok(vec![Row::Job { id, job }])
    }

    fn activate_level(&self, level: u32) -> Result<Vec<Row>, Refusal> {
        let active = self.cluster.level;
        if level < active {
            return Err(Refusal::LevelFalls { active, level });
        }
        let nodes = self.without_level(level);
        if level > active && !nodes.is_empty() {
            return Err(Refusal::LevelUnknown { level, nodes });
        }
        Ok(vec![Row::Cluster { cluster: Cluster { level, ..self.cluster.clone() } }])
    }

    fn set(&self, setting: &Setting) -> Result<Vec<Row>, Refusal> {
        let mut cluster = self.cluster.clone();
        let settings = &mut cluster.settings;
        match *setting {
            Setting::RepairAfter { seconds } => {
                if seconds.is_some_and(|seconds| seconds < REPAIR_AFTER_S_MIN) {
                    return Err(no_setting(
                        "a repair after less than 60 s would replace nodes that restart: choose 30m",
                    ));
                }
                settings.repair_after_s = seconds;
            }
            Setting::SnapshotBytesPerS { bytes } => {
                if bytes < SNAPSHOT_BYTES_PER_S_MIN {
                    return Err(no_setting(
                        "snapshots need 1 MiB per second at least to come to an end",
                    ));
                }
                settings.snapshot_bytes_per_s = bytes;
            }
            Setting::Paused { paused } => settings.paused = paused,
        }
        Ok(vec![Row::Cluster { cluster }])
    }

    pub(crate) fn known_shard(&self, id: ShardId) -> Result<&Shard, Refusal> {
        self.shards.get(&id).ok_or(Refusal::UnknownShard(id))
    }

    /// The node, if it is not removed.
    pub(crate) fn present_node(&self, id: NodeId) -> Result<&Node, Refusal> {
        let node = self.nodes.get(&id).ok_or(Refusal::UnknownNode(id))?;
        if node.state == NodeState::Removed { Err(Refusal::Removed(id)) } else { Ok(node) }
    }
}

fn no_job(why: &'static str) -> Refusal {
    Refusal::Job(why.into())
}

fn no_setting(why: &'static str) -> Refusal {
    Refusal::Setting(why.into())
}

/// Whether two jobs would change the same.
fn collide(one: &JobKind, other: &JobKind) -> bool {
    let nodes = other.nodes();
    match (one, other) {
        (JobKind::Replicas { shard: one, .. }, JobKind::Replicas { shard: other, .. }) => {
            one.is_none() || other.is_none() || one == other
        }
        (JobKind::Rebalance { what: one }, JobKind::Rebalance { what: other }) => one == other,
        _ => one.nodes().iter().any(|node| nodes.contains(node)),
    }
}
