//! Members that move by order of the world: groups grow and shrink, dead nodes are replaced, and
//! replicas move away and come back in another life.
//!
//! The world is what decides in a real cluster: it wants members for each shard, gives births, and
//! tells the leaders, now and then by a host that knows an older wish only. It creates a replica
//! once it is wanted, and destroys one once the group has made its newest wish its own and a
//! configuration without that life (`judging.rs` judges both). So a removed replica goes on for a while, and is often not told.
//!
//! A run may lose what it can survive only. So the world changes no wish of a group that lacks two
//! of its voters' disks, and no disk is lost while a group changes that lacks one already.

use super::clock::SECOND_US;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::Event;
use super::state::members::MovedBy;
use super::state::node::{Life, Part};
use crate::checker::{Invariant, Violation};
use planted::Bug;
use routing::{META, NodeId, ShardId};
use shard::{Input, Member, Reply, Role, Status, Wanted, replica_report, wish_due};
use storage::{Engine, StorageError};
use topology::Version;

/// How often the world looks after the members.
const EVERY_US: u64 = SECOND_US / 2;
/// How often a group gets a new wish while there are faults, in percent of the rounds.
const WISHES_PERCENT: u64 = 2;
/// Out of so many wishes that are told, one is an older one.
const OLDER_OF: u64 = 6;

impl World {
    /// Gives new wishes now and then, tells them, and creates and destroys replicas.
    pub(crate) fn look_after_members(&mut self) {
        self.agenda.push(self.now_us + EVERY_US, Event::Members);
        let shards: Vec<ShardId> = self.map.shards().map(|(shard, _)| shard).collect();
        for shard in shards {
            if self.chaos.is_on(self.now_us) && self.rng.percent(WISHES_PERCENT) {
                self.wish_anew(shard);
            }
            self.tell_wish(shard);
            let nodes: Vec<u64> = self.nodes.keys().copied().collect();
            nodes.into_iter().for_each(|id| self.host_as_wanted(id, shard));
        }
    }

    fn wish(&self, shard: ShardId) -> Option<&Wanted> {
        self.members.wishes.get(&shard)?.last()
    }

    /// The nodes that shall have a replica.
    pub(crate) fn wanted_nodes(&self, shard: ShardId) -> Vec<u64> {
        if self.members.moved_by == MovedBy::Topology
            && let Some(known) = self.meta.newest.shard(shard)
        {
            return known.wanted.members.keys().map(|node| node.0).collect();
        }
        match self.wish(shard) {
            Some(wish) => wish.members().keys().map(|node| node.0).collect(),
            None => match self.meta.founders.as_ref().filter(|_| shard == META) {
                Some(founders) => founders.lives().keys().map(|node| node.0).collect(),
                None => self.members.founders.iter().map(|node| node.0).collect(),
            },
        }
    }

    /// Whether this member's life goes on, on a disk that has all its data.
    pub(crate) fn is_whole(&self, shard: ShardId, member: &Member) -> bool {
        let node = &self.nodes[&member.node.0];
        let life = node.lives.get(&shard).map(|life| life.birth);
        node.has_data() && life == Some(member.incarnation)
    }

    /// Whether the loss of a further disk leaves this group able to finish a change of members.
    pub(crate) fn is_settled_or_whole(&self, shard: ShardId, leader: &Status) -> bool {
        let wanted = self.wanted_nodes(shard);
        let nodes: Vec<u64> = leader.members.iter().map(|member| member.node.0).collect();
        let is_told = match self.members.moved_by {
            MovedBy::Nobody => return true,
            MovedBy::World => {
                self.wish(shard).is_none_or(|wish| leader.wanted.as_ref() == Some(wish))
            }
            MovedBy::Topology => {
                let taken = Version(leader.wanted.as_ref().map_or(0, Wanted::version));
                matches!(wish_due(&self.meta.newest, shard, taken), Ok(None))
            }
        };
        let is_settled = is_told && nodes == wanted && leader.members.iter().all(|it| !it.learner);
        is_settled || leader.members.iter().all(|member| self.is_whole(shard, member))
    }

    fn wish_anew(&mut self, shard: ShardId) {
        let Some(leader) = self.leader_status(shard) else { return };
        let voters = || leader.members.iter().filter(|member| !member.learner);
        if voters().filter(|member| !self.is_whole(shard, member)).count() > 1 {
            return;
        }
        let before = self.wanted_nodes(shard);
        let mut nodes = before.clone();
        let mut outside: Vec<u64> =
            self.nodes.keys().copied().filter(|id| !before.contains(id)).collect();
        self.rng.shuffle(&mut outside);
        if nodes.len() == 5 {
            self.rng.shuffle(&mut nodes);
            // Those that are down go, most of the time, so that one goes together with a live one.
            if self.rng.percent(70) {
                nodes.sort_by_key(|id| !self.nodes[id].is_up());
            }
            nodes.truncate(3);
            self.note(FaultKind::MembersShrunk, format!("shard {shard}: {nodes:?}"));
        } else if self.rng.percent(35) {
            nodes.extend(outside.iter().take(2));
            self.note(FaultKind::MembersGrown, format!("shard {shard}: {nodes:?}"));
        } else {
            let down = nodes.iter().position(|id| !self.nodes[id].is_up());
            let leads = nodes.iter().position(|id| *id == leader.node.0);
            let leads = leads.filter(|_| self.rng.percent(30));
            let any = self.rng.below(nodes.len() as u64) as usize;
            let kind =
                if down.is_some() { FaultKind::DeadReplaced } else { FaultKind::MemberMoved };
            let gone = nodes.swap_remove(down.or(leads).unwrap_or(any));
            nodes.push(outside[0]);
            self.note(kind, format!("shard {shard}: from node {gone} to {}", outside[0]));
        }
        if !nodes.contains(&leader.node.0) {
            self.note(FaultKind::LeaderUnwanted, format!("shard {shard}: node {}", leader.node));
        }
        let is_done = voters().count() == leader.members.len()
            && leader.members.iter().all(|member| before.contains(&member.node.0));
        if !is_done {
            self.note(FaultKind::WishUnderWay, format!("shard {shard}"));
        }
        let members: Vec<(NodeId, u32)> = nodes
            .into_iter()
            .map(|id| (NodeId(id), self.birth_on(id, shard, &leader.members)))
            .collect();
        let version = 2 + self.members.wishes.get(&shard).map_or(0, |all| all.len() as u64);
        let wish = Wanted::new(version, members).expect("a wish that can be");
        self.members.wishes.entry(shard).or_default().push(wish);
    }

    /// The birth of the replica that is wanted on this node: that of the life which is a member
    /// there, or else one that the node has never had.
    fn birth_on(&mut self, id: u64, shard: ShardId, members: &[Member]) -> u32 {
        let wished = self.wish(shard).and_then(|wish| wish.members().get(&NodeId(id)).copied());
        let node = self.nodes.get_mut(&id).expect("a node");
        // A replica that is being destroyed is none that could stay.
        let stays = !node.is_up() || node.replicas.contains_key(&shard);
        let life = node.lives.get(&shard).map(|life| life.birth).filter(|_| stays);
        let is_member = |birth: u32| {
            members.iter().any(|member| member.node.0 == id && member.incarnation == birth)
        };
        if let Some(birth) = wished.or(life.filter(|birth| is_member(*birth))) {
            return birth.max(life.unwrap_or(0));
        }
        let lived = self.members.had_log.keys().filter(|(of, on, _)| (*of, *on) == (shard, id));
        let former: Option<u32> = lived.map(|(_, _, birth)| *birth).max();
        node.last_birth = 1 + node.last_birth.max(node.incarnation);
        let Some(former) = former else { return node.last_birth };
        let birth = if planted::is(Bug::BirthReused) { former } else { node.last_birth };
        self.note(FaultKind::MemberReturned, format!("shard {shard}: node {id} as {birth}"));
        birth
    }

    fn tell_wish(&mut self, shard: ShardId) {
        let Some(wishes) = self.members.wishes.get(&shard) else { return };
        let (newest, older) =
            (wishes[wishes.len() - 1].clone(), wishes[..wishes.len() - 1].to_vec());
        let leaders: Vec<u64> =
            self.nodes.values().filter(|node| node.leads(shard)).map(|node| node.id).collect();
        for id in leaders {
            let is_late = !older.is_empty() && self.rng.below(OLDER_OF) == 0;
            let wish = if is_late { self.rng.pick(&older) } else { &newest };
            self.tell(id, shard, Input::Want(wish.clone()));
            if is_late {
                self.faults.add(FaultKind::OlderWishTold);
            }
        }
    }

    /// Creates the replica that this node shall have, or destroys one that is out.
    fn host_as_wanted(&mut self, id: u64, shard: ShardId) {
        let Some(wish) = self.wish(shard) else { return };
        let node = &self.nodes[&id];
        if !node.is_up() || node.paused_until_us > self.now_us {
            return;
        }
        match (wish.members().get(&NodeId(id)), node.lives.get(&shard).map(|life| life.birth)) {
            (Some(&birth), None) => self.create_replica(id, shard, birth),
            (Some(birth), Some(life)) if life >= *birth => {}
            (_, Some(life)) => {
                // As the topology would: by what a leader reports.
                let all = self.nodes.values().filter_map(|node| node.replicas.get(&shard));
                let led = all.map(|it| it.status()).filter(|status| status.role == Role::Leader);
                let newest = led.max_by_key(|status| status.applied_index);
                let is_out = newest.is_some_and(|status| {
                    let told = replica_report(&status, 0).members;
                    told.taken.0 == wish.version()
                        && !told.lives().any(|it| (it.node.0, it.birth.0) == (id, life))
                });
                if is_out {
                    self.destroy_replica(id, shard);
                }
            }
            (None, None) => {}
        }
    }

    /// A node that was re-seeded since the wish was made has a higher incarnation than its birth.
    /// Its peers take lives before that for lost.
    fn create_replica(&mut self, id: u64, shard: ShardId, birth: u32) {
        let node = &self.nodes[&id];
        let birth = birth.max(node.incarnation);
        if !node.disk.full && self.begin_life(id, shard, birth) {
            self.open_replica(id, shard);
        }
    }

    /// A replica begins with nothing, once its birth is on disk. Returns whether storage allows it.
    pub(crate) fn begin_life(&mut self, id: u64, shard: ShardId, birth: u32) -> bool {
        let number = self.number();
        let node = self.nodes.get_mut(&id).expect("a node");
        match node.disk.engine.host_shard(shard, birth) {
            Ok(()) => {
                node.lives.insert(shard, Life { birth, number });
                self.members.had_log.insert((shard, id, birth), 0);
                self.judge_of(shard).opened(id, &[]);
                true
            }
            Err(StorageError::Refused(refused)) => {
                // It is tried again and again, and told once.
                let what = format!("node {id}: {refused}");
                let known = self.violations.iter().chain(&self.of_meta);
                if !known.into_iter().any(|known| known.what == what) {
                    self.violated_in(shard, Invariant::OneLife, what);
                }
                false
            }
            Err(error) => {
                self.faults.add(FaultKind::SyncFailed);
                self.stop_for_disk(id, &error);
                false
            }
        }
    }

    /// Destroys a replica with its data, as a node does: it is stopped, and once all its writes are
    /// reported, its records go and its tombstone is put.
    pub(crate) fn destroy_replica(&mut self, id: u64, shard: ShardId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if let Some(replica) = node.replicas.remove(&shard) {
            node.inbox.remove(&shard);
            node.step_due.remove(&shard);
            self.trace.line(self.now_us, || format!("node {id}    shard {shard}: replica stops"));
            self.watches.forget_shard(id, shard);
            for (ticket, reply) in replica.retire() {
                self.answer(id, shard, ticket, reply);
            }
            let of_shard = self.nodes[&id].pending.iter().filter(|(_, it)| it.shard == shard);
            let left: Vec<u64> = of_shard.map(|(ticket, _)| *ticket).collect();
            left.into_iter().for_each(|ticket| self.answer(id, shard, ticket, Reply::Unknown));
        }
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.disk.full || node.disk.writes_to(shard) {
            return;
        }
        let birth = node.lives[&shard].birth;
        if let Err(error) = node.disk.engine.drop_shard(shard, birth) {
            self.faults.add(FaultKind::SyncFailed);
            return self.stop_for_disk(id, &error);
        }
        node.lives.remove(&shard);
        self.trace.line(self.now_us, || format!("node {id}    shard {shard}: destroyed"));
        let found = self.judge_of(shard).destroyed((NodeId(id), birth));
        found.into_iter().for_each(|what| self.violated_in(shard, Invariant::Quorums, what));
    }

    /// Lists the members that are not as wanted, for each shard as its leader knows it, and the
    /// replicas that should be gone. The list is for people.
    pub(crate) fn missing_voters(&self) -> Vec<(ShardId, String)> {
        let mut missing = Vec::new();
        for shard in self.groups() {
            let wanted = self.wanted_nodes(shard);
            let members =
                self.leader_status(shard).map(|status| status.members).unwrap_or_default();
            for node in self.nodes.values().filter(|node| node.part == Part::In) {
                let life = node.lives.get(&shard).map(|life| life.birth);
                let is_wanted = wanted.contains(&node.id);
                let voter = |member: &&Member| {
                    member.node.0 == node.id && Some(member.incarnation) == life && !member.learner
                };
                let votes = members.iter().any(|member| voter(&member));
                if is_wanted != votes || is_wanted != life.is_some() {
                    let (id, is_to) = (node.id, if is_wanted { "" } else { " not" });
                    missing.push((shard, format!(
                        "shard {shard}: node {id} shall{is_to} vote, and has life {life:?}; members: {members:?}"
                    )));
                }
            }
            if members.len() != wanted.len() {
                let what = format!("shard {shard}: {wanted:?} are wanted, members: {members:?}");
                missing.push((shard, what));
            }
        }
        if self.members.moved_by == MovedBy::Topology {
            missing.extend(self.unsettled());
        }
        missing
    }

    /// Notes a violation in this group.
    pub(crate) fn violated_in(&mut self, shard: ShardId, invariant: Invariant, what: String) {
        let violation = Violation { invariant, what, operations: Vec::new() };
        if shard == META { &mut self.of_meta } else { &mut self.violations }.push(violation);
    }
}
