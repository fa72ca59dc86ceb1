//! Members that move by order of the world: groups grow and shrink, dead nodes are replaced, and
//! replicas move away and come back in another life.
//!
//! The world is what decides in a real cluster: it wants members for each shard, gives births, and
//! tells the leaders, now and then by a host that knows an older wish only. It creates a replica
//! once it is wanted, and destroys one once the group has made its newest wish its own and a
//! configuration without that life. So a removed replica goes on for a while, and is often not told.
//!
//! A run may lose what it can survive only. So the world changes no wish of a group that lacks two
//! of its voters' disks, and no disk is lost while a group changes that lacks one already.

use super::clock::SECOND_US;
use super::disk::Then;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::Event;
use crate::checker::{Invariant, Violation};
use planted::Bug;
use routing::{NodeId, ShardId};
use shard::{Input, Member, Reply, Status, Wanted};
use storage::{Engine, ShardWrite};

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
        match self.wish(shard) {
            Some(wish) => wish.members().keys().map(|node| node.0).collect(),
            None => self.members.founders.iter().map(|node| node.0).collect(),
        }
    }

    /// Whether this member's life goes on, on a disk that has all its data.
    pub(crate) fn is_whole(&self, shard: ShardId, member: &Member) -> bool {
        let node = &self.nodes[&member.node.0];
        node.has_data() && node.lives.get(&shard) == Some(&member.incarnation)
    }

    /// Whether the loss of a further disk leaves this group able to finish a change of members.
    pub(crate) fn is_settled_or_whole(&self, shard: ShardId, leader: &Status) -> bool {
        if !self.members.move_about {
            return true;
        }
        let wanted = self.wanted_nodes(shard);
        let nodes: Vec<u64> = leader.members.iter().map(|member| member.node.0).collect();
        let is_told = self.wish(shard).is_none_or(|wish| leader.wanted.as_ref() == Some(wish));
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
        let life = node.lives.get(&shard).copied();
        let is_member = |birth: u32| {
            members.iter().any(|member| member.node.0 == id && member.incarnation == birth)
        };
        if let Some(birth) = wished.or(life.filter(|birth| is_member(*birth))) {
            return birth.max(life.unwrap_or(0));
        }
        let former = self.members.lives.iter().filter(|(of, on, _)| (*of, *on) == (shard, id));
        let former: Option<u32> = former.map(|(_, _, birth)| *birth).max();
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
        match (wish.members().get(&NodeId(id)), node.lives.get(&shard).copied()) {
            (Some(&birth), None) => self.create_replica(id, shard, birth),
            (Some(birth), Some(life)) if life >= *birth => {}
            (_, Some(life)) => {
                let all = self.nodes.values().filter_map(|node| node.replicas.get(&shard));
                let newest = all.map(|it| it.status()).max_by_key(|status| status.applied_index);
                let is_out = newest.is_some_and(|status| {
                    status.wanted.as_ref() == Some(wish)
                        && !(status.members.iter())
                            .any(|it| (it.node.0, it.incarnation) == (id, life))
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
        let birth = birth.max(self.nodes[&id].incarnation);
        self.begin_life(id, shard, birth);
        self.nodes.get_mut(&id).expect("a node").lives.insert(shard, birth);
        self.open_replica(id, shard);
    }

    /// Judges invariant 18 for a replica that begins with nothing.
    pub(crate) fn begin_life(&mut self, id: u64, shard: ShardId, birth: u32) {
        if !self.members.lives.insert((shard, id, birth)) {
            let what = format!("shard {shard}: node {id} has a second life of birth {birth}");
            self.violated(Invariant::OneLife, what);
        }
    }

    /// Destroys a replica with its data, once its last write is done.
    fn destroy_replica(&mut self, id: u64, shard: ShardId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let disk = &node.disk;
        let jobs = disk.queue.iter().chain(disk.writing.iter().flatten());
        let is_of = |then: &Then| matches!(then, Then::Persisted { shard: of, .. } if *of == shard);
        if disk.full || disk.is_flipped() || jobs.into_iter().any(|job| is_of(&job.then)) {
            return;
        }
        let reset = ShardWrite { shard, reset: true, ..ShardWrite::default() };
        if disk.engine.write(&[reset]).is_err() {
            return;
        }
        node.lives.remove(&shard);
        node.inbox.remove(&shard);
        node.step_due.remove(&shard);
        let Some(replica) = node.replicas.remove(&shard) else { return };
        self.trace.line(self.now_us, || format!("node {id}    shard {shard}: replica destroyed"));
        self.watches.forget_shard(id, shard);
        for (ticket, reply) in replica.retire() {
            self.answer(id, shard, ticket, reply);
        }
        let of_shard = self.nodes[&id].pending.iter().filter(|(_, it)| it.shard == shard);
        let left: Vec<u64> = of_shard.map(|(ticket, _)| *ticket).collect();
        left.into_iter().for_each(|ticket| self.answer(id, shard, ticket, Reply::Unknown));
    }

    /// Judges what a replica has applied, if no replica of its group was further: invariant 19, and
    /// that each change is one step and no older wish follows a later one.
    pub(crate) fn judge_members(&mut self, id: u64, shard: ShardId) {
        let Some(replica) = self.nodes[&id].replicas.get(&shard) else { return };
        let status = replica.status();
        let seen = self.members.seen.entry(shard).or_default();
        if status.applied_index <= seen.index {
            return;
        }
        let version = status.wanted.as_ref().map_or(0, Wanted::version);
        let fell = (version < seen.version).then_some(seen.version);
        let before = std::mem::replace(&mut seen.members, status.members.clone());
        (seen.index, seen.version) = (status.applied_index, version);
        for member in status.members.iter().filter(|member| member.learner) {
            seen.learner_since.entry(*member).or_insert(status.applied_index);
        }
        let mut found = Vec::new();
        if let Some(later) = fell {
            found.push(format!("the wish of version {version} follows that of {later}"));
        }
        if before != status.members && !before.is_empty() {
            let seen = &self.members.seen[&shard];
            // A change is proposed once the one before is applied, and judged here by then.
            let differ = |a: &[Member], b: &[Member]| a.iter().filter(|it| !b.contains(it)).count();
            if differ(&before, &status.members).max(differ(&status.members, &before)) > 1 {
                found.push(format!("two changes at once: {before:?} and {:?}", status.members));
            }
            let voters: Vec<&Member> = status.members.iter().filter(|it| !it.learner).collect();
            let whole = voters.iter().filter(|member| self.is_whole(shard, member)).count();
            if 2 * whole <= voters.len() {
                found.push(format!("{whole} of the voters {voters:?} have their data"));
            }
            for member in voters.iter().filter(|member| !before.contains(member)) {
                let learner = Member { learner: true, ..**member };
                let replica = self.nodes[&member.node.0].replicas.get(&shard);
                let is_this = |it: &Status| it.incarnation == member.incarnation;
                let last = replica.map(|it| it.status()).filter(is_this).map(|it| it.last_index);
                match seen.learner_since.get(&learner) {
                    None => found.push(format!("{member:?} was never a learner")),
                    Some(since) if last.is_some_and(|last| last < *since) => {
                        found.push(format!("{member:?} votes without the log up to {since}"));
                    }
                    Some(_) => {}
                }
            }
        }
        for what in found {
            self.violated(Invariant::Quorums, format!("shard {shard}, by node {id}: {what}"));
        }
    }

    /// Lists the members that are not as wanted, for each shard as its leader knows it, and the
    /// replicas that should be gone. The list is for people.
    pub(crate) fn missing_voters(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for shard in self.groups() {
            let wanted = self.wanted_nodes(shard);
            let members =
                self.leader_status(shard).map(|status| status.members).unwrap_or_default();
            for node in self.nodes.values() {
                let life = node.lives.get(&shard);
                let is_wanted = wanted.contains(&node.id);
                let voter = |member: &&Member| {
                    member.node.0 == node.id && Some(&member.incarnation) == life && !member.learner
                };
                let votes = members.iter().any(|member| voter(&member));
                if is_wanted != votes || is_wanted != life.is_some() {
                    let (id, is_to) = (node.id, if is_wanted { "" } else { " not" });
                    missing.push(format!(
                        "shard {shard}: node {id} shall{is_to} vote, and has life {life:?}; members: {members:?}"
                    ));
                }
            }
            if members.len() != wanted.len() {
                missing.push(format!("shard {shard}: {wanted:?} are wanted, members: {members:?}"));
            }
        }
        missing
    }

    fn violated(&mut self, invariant: Invariant, what: String) {
        self.violations.push(Violation { invariant, what, operations: Vec::new() });
    }
}
