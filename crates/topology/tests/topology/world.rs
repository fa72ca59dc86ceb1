//! A model of a cluster: nodes that die, groups that change one member at a time, a controller.
//!
//! Groups here have rules of their own, written apart from those of the plans. Every command goes
//! through [`World::propose`], which checks what must hold of every command.

use crate::{Lcg, NOW_S, cluster};
use palisade_topology::plan::{self, ReplicaReport, Report, Reports, Role};
use palisade_topology::*;
use routing::{AddressVersion, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct World {
    pub(crate) topology: Topology,
    /// A process that follows by deltas.
    copy: Topology,
    pub(crate) machines: BTreeMap<NodeId, Machine>,
    pub(crate) groups: BTreeMap<ShardId, Group>,
    pub(crate) reports: Reports,
    pub(crate) now_s: u64,
    pub(crate) random: Lcg,
    /// Facts that may come again.
    told: Vec<Command>,
    /// Lives that are out.
    out: BTreeSet<(ShardId, Life)>,
    /// Lives whose replica was destroyed.
    destroyed: BTreeSet<(ShardId, Life)>,
    /// Lives that were on a lost directory, each with the incarnation of the next one.
    lost: BTreeMap<(ShardId, Life), u64>,
}

pub(crate) struct Machine {
    pub(crate) is_up: bool,
    told: NodeTold,
    /// The replica of each shard, with its lag in entries.
    replicas: BTreeMap<ShardId, (Birth, u64)>,
}

pub(crate) struct Group {
    pub(crate) members: Members,
    /// The wish that the group has taken into its log.
    wanted: BTreeSet<Life>,
    pub(crate) leader: Option<Life>,
    term: u64,
    pub(crate) ops_per_s: u64,
}

/// One change of a group's members.
type Change = Box<dyn FnOnce(&mut Group)>;

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl World {
    /// A cluster that had a job before, so that plans are not bound to its file.
    pub(crate) fn new(nodes: u64, shards: u32, replicas: u32, zones: u64, seed: u64) -> World {
        let mut world = World::as_founded(nodes, shards, replicas, zones, seed);
        let job = world.job(JobKind::Undrain { node: NodeId(1) }).expect("a job");
        let progress = Progress::default();
        world.propose(Command::JobProgress { job, progress, why: None, is_done: true }).unwrap();
        world
    }

    /// A cluster that nobody has changed yet.
    pub(crate) fn as_founded(
        nodes: u64,
        shards: u32,
        replicas: u32,
        zones: u64,
        seed: u64,
    ) -> World {
        let config = cluster(nodes, shards, replicas, zones);
        let reports = Reports { since_ms: NOW_S * 1_000, nodes: BTreeMap::new() };
        let mut world = World {
            topology: Topology::default(),
            copy: Topology::default(),
            machines: BTreeMap::new(),
            groups: BTreeMap::new(),
            reports,
            now_s: NOW_S,
            random: Lcg(seed),
            told: Vec::new(),
            out: BTreeSet::new(),
            destroyed: BTreeSet::new(),
            lost: BTreeMap::new(),
        };
        let bootstrap = Command::Bootstrap { seed: Seed::of(&config) };
        let delta = world.topology.apply(&Proposal::new(NOW_S, bootstrap)).unwrap().unwrap();
        world.copy.follow(&delta).unwrap();
        for (id, node) in world.topology.nodes() {
            let mut told = crate::told(id.0, 1);
            told.zone = node.zone.clone();
            let machine = Machine { is_up: true, told, replicas: BTreeMap::new() };
            world.machines.insert(*id, machine);
        }
        for (id, shard) in world.topology.shards() {
            for life in &shard.is.voters {
                let machine = world.machines.get_mut(&life.node).unwrap();
                machine.replicas.insert(*id, (life.birth, 0));
            }
            let leader = shard.preference.map(|is| Life { node: is.node, birth: Birth(0) });
            world.groups.insert(
                *id,
                Group {
                    members: shard.is.clone(),
                    wanted: shard.is.voters.clone(),
                    leader,
                    term: 1,
                    ops_per_s: 100,
                },
            );
        }
        world
    }

    /// Proposes a command, and checks what holds of each.
    pub(crate) fn propose(&mut self, command: Command) -> Result<bool, Refusal> {
        let bytes = Proposal::new(self.now_s, command).encode();
        let proposal = Proposal::decode(&bytes).expect("a proposal comes back from its bytes");
        let before = self.topology.clone();
        let done = self.topology.apply(&proposal);
        assert_eq!(self.topology.check(), Ok(()), "after {proposal:?}");
        if let Ok(Some(delta)) = &done {
            assert_eq!(self.topology.version(), before.version().next());
            let delta = Delta::decode(&delta.encode()).expect("a delta comes back");
            self.copy.follow(&delta).expect("no gap");
            let again = self.topology.apply(&proposal);
            assert_eq!(again, Ok(None), "a second {proposal:?} changes nothing");
        } else {
            assert_eq!(self.topology, before, "{done:?} of {proposal:?} changed something");
        }
        assert_eq!(self.copy, self.topology, "the copy that follows deltas");
        let state = self.topology.encode();
        assert_eq!(Topology::decode(&state).as_ref(), Ok(&self.topology));
        assert_eq!(self.copy.state_hash(), self.topology.state_hash());
        for (id, node) in before.nodes() {
            let now = self.topology.node(*id).expect("no node is forgotten");
            let was_removed = node.state == NodeState::Removed;
            assert!(!was_removed || *now == *node, "a removed id is used again: {id}");
            assert!(now.last_birth >= node.last_birth, "births fall on node {id}");
        }
        for (id, shard) in before.shards() {
            let now = self.topology.shard(*id).unwrap();
            let accounted = shard.wanted.lives().chain(shard.leaving.keys().copied());
            let out =
                accounted.filter(|life| !now.wanted.has(life) && !now.leaving.contains_key(life));
            self.out.extend(out.map(|life| (*id, life)));
            for life in now.wanted.lives() {
                assert!(!self.out.contains(&(*id, life)), "{life:?} is out, and wanted again");
            }
        }
        for ((id, life), incarnation) in &self.lost {
            let node = self.topology.node(life.node).expect("no node is forgotten");
            let is_wanted = self.topology.shard(*id).unwrap().wanted.has(life);
            let is_told = node.start.incarnation >= *incarnation;
            assert!(!is_told || !is_wanted, "{life:?} of shard {id} is lost, and wanted again");
        }
        done.map(|delta| delta.is_some())
    }

    /// Starts a job, and returns its number.
    pub(crate) fn job(&mut self, kind: JobKind) -> Result<JobId, Refusal> {
        let request = RequestId(self.topology.cluster().last_job as u128 + 1_000);
        self.propose(Command::Job { request, kind })?;
        Ok(self.topology.job_of(request).expect("the job"))
    }

    pub(crate) fn join(&mut self, node: u64, zone: Option<&str>) {
        let mut told = crate::told(node, 1);
        told.zone = zone.map(str::to_owned);
        self.propose(Command::NodeIs { told: told.clone() }).unwrap();
        let machine = Machine { is_up: true, told, replicas: BTreeMap::new() };
        self.machines.insert(NodeId(node), machine);
    }

    pub(crate) fn kill(&mut self, node: u64) {
        self.machines.get_mut(&NodeId(node)).unwrap().is_up = false;
    }

    pub(crate) fn start(&mut self, node: u64) {
        let machine = self.machines.get_mut(&NodeId(node)).unwrap();
        machine.is_up = true;
        machine.told.start.starts += 1;
    }

    /// The node starts on an empty disk. Its replicas are born at the new incarnation: the second, or
    /// the number after the highest that is known.
    pub(crate) fn reseed(&mut self, node: u64) {
        let highest = u64::from(self.topology.node(NodeId(node)).unwrap().last_birth.0);
        let machine = self.machines.get_mut(&NodeId(node)).unwrap();
        let incarnation = self.now_s.max(1 + highest.max(machine.told.start.incarnation));
        machine.is_up = true;
        machine.told.start = AddressVersion { incarnation, starts: 1 };
        machine.told.store = StoreId([(incarnation % 251) as u8; 16]);
        for (id, replica) in &mut machine.replicas {
            let life = Life { node: NodeId(node), birth: replica.0 };
            self.lost.insert((*id, life), incarnation);
            *replica = (Birth(incarnation as u32), 20_000);
        }
    }

    /// Another process becomes the controller.
    pub(crate) fn new_controller(&mut self) {
        self.reports = Reports { since_ms: self.now_s * 1_000, nodes: BTreeMap::new() };
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.machines.get(&node).is_some_and(|machine| machine.is_up)
    }

    /// Whether this life runs.
    fn lives(&self, shard: ShardId, life: Life) -> bool {
        let machine = self.machines.get(&life.node).filter(|machine| machine.is_up);
        let replica = machine.and_then(|machine| machine.replicas.get(&shard));
        replica.is_some_and(|(birth, _)| *birth == life.birth)
    }

    fn is_level(&self, shard: ShardId, life: Life) -> bool {
        self.lives(shard, life) && self.machines[&life.node].replicas[&shard].1 == 0
    }

    /// One second.
    pub(crate) fn tick(&mut self) {
        self.now_s += 1;
        self.host();
        let groups: Vec<ShardId> = self.groups.keys().copied().collect();
        groups.iter().for_each(|id| self.step(*id));
        self.report();
        for command in self.plan() {
            let done = self.propose(command.clone());
            assert_eq!(done, Ok(true), "a plan has {command:?}");
        }
    }

    /// Plans, and checks the plan.
    pub(crate) fn plan(&mut self) -> Vec<Command> {
        let now_ms = self.now_s * 1_000;
        let commands = plan::next(&self.topology, &self.reports, now_ms);
        assert_eq!(commands, plan::next(&self.topology, &self.reports, now_ms), "one answer");
        let is_heard = |node: &NodeId| self.reports.is_heard(*node, now_ms);
        for command in &commands {
            let Command::Want { shard, members } = command else { continue };
            let known = self.topology.shard(*shard).unwrap();
            let heard = members.iter().filter(|node| is_heard(node)).count();
            assert!(heard >= quorum(members.len()), "{command:?} with {heard} heard of");
            for node in members.iter().filter(|node| !known.wanted.members.contains_key(node)) {
                assert!(is_heard(node), "{command:?} wants a silent node");
            }
        }
        commands
    }

    /// Ticks until something holds.
    pub(crate) fn run_until(&mut self, holds: impl Fn(&World) -> bool) {
        for _ in 0..2_000 {
            if holds(self) {
                return;
            }
            self.tick();
        }
        panic!(
            "never came: jobs {:#?}, shards {:#?}, stalls {:?}",
            self.topology.running().collect::<Vec<_>>(),
            self.topology.shards().iter().filter(|(_, s)| !s.is_settled()).collect::<Vec<_>>(),
            plan::plan(&self.topology, &self.reports, self.now_s * 1_000).stalls,
        );
    }

    pub(crate) fn run(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.tick());
    }

    pub(crate) fn is_done(&self, job: JobId) -> bool {
        self.topology.jobs()[&job].state == JobState::Done
    }

    /// Whether all groups have the members that are wanted, and the topology knows it.
    pub(crate) fn is_settled(&self) -> bool {
        self.topology.shards().iter().all(|(id, shard)| {
            shard.is_settled()
                && shard.leaving.is_empty()
                && shard.is.voters == self.groups[id].members.voters
        })
    }

    /// Whether no group loses its quorum with the disk of this node.
    pub(crate) fn can_lose_the_disk_of(&self, node: NodeId) -> bool {
        self.groups.iter().all(|(id, group)| {
            let voters = &group.members.voters;
            let left = voters.iter().filter(|life| life.node != node && self.lives(*id, **life));
            left.count() >= quorum(voters.len())
        })
    }

    /// Creates replicas that are wanted, and destroys those that are out.
    fn host(&mut self) {
        for (node, machine) in self.machines.iter_mut().filter(|(_, machine)| machine.is_up) {
            machine.is_up = self.topology.node(*node).unwrap().state != NodeState::Removed;
            for (id, shard) in self.topology.shards() {
                if let Some((birth, _)) = machine.replicas.get(id) {
                    let life = Life { node: *node, birth: *birth };
                    if self.topology.is_out(*id, life) {
                        let group = &self.groups[id].members;
                        assert!(!group.has(&life), "{life:?} of shard {id} is a member: {group:?}");
                        machine.replicas.remove(id);
                        self.destroyed.insert((*id, life));
                    }
                } else if let Some(birth) = shard.wanted.members.get(node) {
                    let life = Life { node: *node, birth: *birth };
                    let has_lived = self.destroyed.contains(&(*id, life));
                    let has_lived = has_lived || self.lost.contains_key(&(*id, life));
                    assert!(!has_lived, "{life:?} begins twice");
                    machine.replicas.insert(*id, (*birth, 20_000));
                }
            }
        }
    }

    /// One step of a group: elections, hand-overs, and one change of one member.
    fn step(&mut self, id: ShardId) {
        for machine in self.machines.values_mut().filter(|machine| machine.is_up) {
            if let Some((_, lag)) = machine.replicas.get_mut(&id) {
                *lag = lag.saturating_sub(5_000);
            }
        }
        let mut group = self.groups.remove(&id).unwrap();
        self.step_of(id, &mut group);
        self.groups.insert(id, group);
    }

    fn step_of(&mut self, id: ShardId, group: &mut Group) {
        let alive: BTreeSet<Life> =
            group.members.voters.iter().copied().filter(|life| self.lives(id, *life)).collect();
        if alive.len() < quorum(group.members.voters.len()) {
            group.leader = None;
            return;
        }
        if !group.leader.is_some_and(|leader| alive.contains(&leader)) {
            group.term += 1;
            let alive: Vec<Life> = alive.iter().copied().collect();
            group.leader = self.random.pick(&alive);
        }
        let shard = self.topology.shard(id).unwrap();
        if shard.wanted.version > group.members.taken && !self.random.once_in(3) {
            group.members.taken = shard.wanted.version;
            group.wanted = shard.wanted.lives().collect();
        }
        // A re-seeded node greets the leader with its incarnation, without the topology.
        let wanted: BTreeSet<Life> = (group.wanted.iter())
            .map(|life| match self.machines[&life.node].replicas.get(&id) {
                Some((birth, _)) if self.is_up(life.node) && *birth > life.birth => {
                    Life { birth: *birth, ..*life }
                }
                _ => *life,
            })
            .collect();
        let able: Vec<Life> = alive
            .iter()
            .copied()
            .filter(|life| wanted.contains(life) && self.is_level(id, *life))
            .collect();
        let shard = self.topology.shard(id).unwrap();
        let preferred =
            shard.preference.and_then(|is| able.iter().find(|life| life.node == is.node));
        let leader = group.leader.unwrap();
        if let Some(next) = preferred {
            group.leader = Some(*next);
        } else if !wanted.contains(&leader) && !able.is_empty() {
            group.leader = Some(able[0]);
        }
        if let Some(change) = self.change(id, group, &wanted, &alive) {
            group.members.conf_index += 1 + self.random.below(5);
            change(group);
            self.told.push(Command::Is { shard: id, members: group.members.clone() });
        }
    }

    fn change(
        &self,
        id: ShardId,
        group: &Group,
        wanted: &BTreeSet<Life>,
        alive: &BTreeSet<Life>,
    ) -> Option<Change> {
        let Members { voters, learners, .. } = &group.members;
        let remove = |life: Life| -> Option<Change> {
            let rest = alive.iter().filter(|other| **other != life).count();
            if Some(life) == group.leader
                || voters.contains(&life) && rest < quorum(voters.len() - 1)
            {
                return None;
            }
            Some(Box::new(move |group| {
                group.members.voters.remove(&life);
                group.members.learners.remove(&life);
            }))
        };
        if let Some(life) = learners.iter().find(|life| !wanted.contains(life)) {
            return remove(*life);
        }
        for life in learners {
            if let Some(older) = voters.iter().find(|voter| voter.node == life.node) {
                return remove(*older);
            }
            if self.is_level(id, *life) && voters.len() <= wanted.len() {
                let life = *life;
                return Some(Box::new(move |group| {
                    group.members.learners.remove(&life);
                    group.members.voters.insert(life);
                }));
            }
        }
        let missing = wanted.iter().find(|life| !voters.contains(life) && !learners.contains(life));
        if let Some(life) = missing.filter(|_| learners.is_empty()).copied() {
            assert!(!self.destroyed.contains(&(id, life)), "{life:?} of shard {id} comes back");
            return Some(Box::new(move |group| {
                group.members.learners.insert(life);
            }));
        }
        let going = voters.iter().filter(|life| !wanted.contains(life));
        let next = going.min_by_key(|life| (alive.contains(life), **life))?;
        if alive.contains(next) && voters.len() <= wanted.len() {
            return None;
        }
        remove(*next)
    }

    /// Nodes that are up report.
    fn report(&mut self) {
        for (node, machine) in self.machines.iter().filter(|(_, machine)| machine.is_up) {
            let replica = |id: &ShardId, (birth, lag): &(Birth, u64)| {
                let group = &self.groups[id];
                let life = Life { node: *node, birth: *birth };
                let role = match () {
                    () if group.leader == Some(life) => Role::Leader,
                    () if group.members.voters.contains(&life) => Role::Follower,
                    () => Role::Learner,
                };
                let report = ReplicaReport {
                    birth: *birth,
                    role,
                    term: group.term,
                    lag_entries: *lag,
                    members: group.members.clone(),
                    ops_per_s: if role == Role::Leader { group.ops_per_s } else { 0 },
                };
                (*id, report)
            };
            let replicas = machine.replicas.iter().map(|(id, at)| replica(id, at)).collect();
            let is_down = |voter: &&Life| !self.machines[&voter.node].is_up;
            let led = self
                .groups
                .iter()
                .filter(|(_, group)| group.leader.is_some_and(|leader| leader.node == *node));
            let behind = led.flat_map(|(id, group)| {
                group.members.voters.iter().filter(is_down).map(|voter| (*id, voter.node))
            });
            let (behind, heard_ms) = (behind.collect(), self.now_s * 1_000);
            let report = Report { heard_ms, told: machine.told.clone(), replicas, behind };
            self.reports.nodes.insert(*node, report);
        }
    }

    /// A fact comes again, late.
    pub(crate) fn repeat_a_fact(&mut self) {
        if self.told.is_empty() {
            return;
        }
        let at = self.random.below(self.told.len() as u64) as usize;
        let fact = self.told[at].clone();
        // A fact of a node that is removed meanwhile is refused; what matters is that none hurts.
        let _ = self.propose(fact);
    }
}
