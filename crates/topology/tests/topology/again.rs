//! Wishes that change while a group is on its way: in the end the group has the members that are
//! wanted, and each node has the one replica that is.
//!
//! The group and the hosts here have rules of their own, written apart from those of the crate.

use crate::{Lcg, apply, founded};
use palisade_topology::*;
use routing::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

const SHARD: ShardId = ShardId(0);
const ROUNDS_MAX: usize = 80;

/// How slow the parts of the world are: each acts once in so many rounds.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The group takes a wish.
    take: usize,
    /// Its leader tells the topology of its members.
    tell: usize,
    /// Hosts create and destroy replicas.
    host: usize,
    /// The first voter leads, or else the last.
    leads_first: bool,
}

#[derive(Clone)]
struct World {
    topology: Topology,
    pace: Pace,
    round: usize,
    members: Members,
    taken: BTreeSet<Life>,
    leader: Life,
    /// The index of the group's last entry.
    index: u64,
    /// The configuration index of each voter that has restarted since the last change. It is above
    /// that of `members`, which the others have.
    restarted: BTreeMap<Life, u64>,
    hosted: BTreeMap<NodeId, Birth>,
    destroyed: BTreeSet<Life>,
}

impl World {
    /// A group whose members are on nodes 1 to `members`, of so many nodes.
    fn new(nodes: u64, members: u64) -> World {
        let topology = founded(nodes, 1, 1, 0);
        let is = topology.shard(SHARD).expect("the shard").is.clone();
        let first = *is.voters.first().expect("a voter");
        let mut world = World {
            topology,
            pace: Pace { take: 1, tell: 1, host: 1, leads_first: true },
            round: 0,
            taken: is.voters.clone(),
            leader: first,
            index: 0,
            restarted: BTreeMap::new(),
            hosted: is.voters.iter().map(|life| (life.node, life.birth)).collect(),
            members: is,
            destroyed: BTreeSet::new(),
        };
        world.want(&(1..=members).collect());
        world.settle();
        world
    }

    /// The same world at this pace, after another voter than the leader has restarted.
    fn at(&self, pace: Pace) -> World {
        let mut world = World { pace, ..self.clone() };
        let first = *world.members.voters.first().expect("a voter");
        let last = *world.members.voters.last().expect("a voter");
        let (leader, other) = if pace.leads_first { (first, last) } else { (last, first) };
        world.restart(other);
        world.leader = leader;
        world
    }

    fn shard(&self) -> &Shard {
        self.topology.shard(SHARD).expect("the shard")
    }

    fn want(&mut self, nodes: &BTreeSet<u64>) {
        let members = nodes.iter().map(|node| NodeId(*node)).collect();
        apply(&mut self.topology, Command::Want { shard: SHARD, members }).expect("wanted");
    }

    fn is_settled(&self) -> bool {
        let shard = self.shard();
        let hosted = self.hosted.iter().map(|(node, birth)| Life { node: *node, birth: *birth });
        shard.is_settled() && shard.leaving.is_empty() && shard.wanted.lives().eq(hosted)
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.is_settled() {
                return;
            }
            self.act();
        }
        panic!(
            "not as wanted: {:?}, the group {:?} led by {:?} wants {:?}, hosted: {:?}",
            self.shard(),
            self.members,
            self.leader,
            self.taken,
            self.hosted
        );
    }

    /// One round: the group takes the wish, changes one member and tells it, and hosts follow.
    fn act(&mut self) {
        self.round += 1;
        let wanted = self.shard().wanted.clone();
        if self.round.is_multiple_of(self.pace.take) && wanted.version > self.members.taken {
            self.members.taken = wanted.version;
            self.taken = wanted.lives().collect();
            self.index += 1;
        }
        self.change();
        if self.round.is_multiple_of(self.pace.tell) {
            let of_leader = self.restarted.get(&self.leader).copied();
            let conf_index = of_leader.unwrap_or(self.members.conf_index);
            let members = Members { conf_index, ..self.members.clone() };
            let told = Command::Is { shard: SHARD, members };
            apply(&mut self.topology, told).expect("a fact");
        }
        if self.round.is_multiple_of(self.pace.host) {
            self.host();
        }
    }

    /// A voter restarts, so its configuration index becomes the applied one. It leads for a moment, and
    /// tells its members.
    fn restart(&mut self, voter: Life) {
        self.index += 1;
        self.restarted.insert(voter, self.index);
        let members = Members { conf_index: self.index, ..self.members.clone() };
        apply(&mut self.topology, Command::Is { shard: SHARD, members }).expect("a fact");
    }

    fn host(&mut self) {
        let shard = self.topology.shard(SHARD).expect("the shard");
        for node in self.topology.nodes().keys() {
            if let Some(birth) = self.hosted.get(node).copied() {
                let life = Life { node: *node, birth };
                if self.topology.is_out(SHARD, life) {
                    assert!(!self.members.has(&life), "a member is destroyed");
                    self.hosted.remove(node);
                    self.destroyed.insert(life);
                }
            } else if let Some(birth) = shard.wanted.members.get(node).copied() {
                let life = Life { node: *node, birth };
                assert!(!self.destroyed.contains(&life), "{life:?} begins twice");
                self.hosted.insert(*node, birth);
            }
        }
    }

    /// One change of one member, or a move of leadership.
    fn change(&mut self) {
        let Members { voters, learners, .. } = &self.members;
        let wanted = self.taken.clone();
        let count = (voters.len(), wanted.len());
        let has_older = |life: &Life| voters.iter().any(|voter| voter.node == life.node);
        if let Some(life) = learners.iter().find(|life| !wanted.contains(life)).copied() {
            return self.changed(|members| members.learners.remove(&life));
        }
        let is_hosted = |life: &Life| self.hosted.get(&life.node) == Some(&life.birth);
        let level = learners.iter().find(|life| is_hosted(life)).copied();
        if let Some(life) = level
            && count.0 <= count.1
        {
            return self.changed(|members| {
                members.learners.remove(&life);
                members.voters.insert(life)
            });
        }
        let missing = wanted.iter().find(|life| !self.members.has(life) && !has_older(life));
        if let Some(life) = missing.copied() {
            return self.changed(|members| members.learners.insert(life));
        }
        let makes_room = |life: &Life| {
            count.0 > 1 && count.0 >= count.1 && wanted.iter().any(|other| other.node == life.node)
        };
        let may_go =
            |life: &&Life| !wanted.contains(life) && (count.0 > count.1 || makes_room(life));
        let mut going = voters.iter().filter(may_go);
        if let Some(life) = going.clone().find(|life| **life != self.leader).copied() {
            self.changed(|members| members.voters.remove(&life));
        } else if going.next().is_some() {
            let successor = voters.iter().find(|life| wanted.contains(life));
            self.leader = *successor.unwrap_or(&self.leader);
        }
    }

    fn changed(&mut self, change: impl FnOnce(&mut Members) -> bool) {
        assert!(change(&mut self.members), "nothing has changed");
        self.index += 1;
        self.members.conf_index = self.index;
        self.restarted.clear();
    }
}

fn paces() -> Vec<Pace> {
    let mut paces = Vec::new();
    for (take, tell, host) in [(1, 1, 1), (1, 5, 1), (3, 1, 2), (2, 3, 4)] {
        for leads_first in [true, false] {
            paces.push(Pace { take, tell, host, leads_first });
        }
    }
    paces
}

/// All sets of some of the nodes 1 to `nodes`.
fn sets(nodes: u64) -> Vec<BTreeSet<u64>> {
    let of = |bits: u64| (1..=nodes).filter(|node| bits >> (node - 1) & 1 == 1).collect();
    (1..1 << nodes).map(of).collect()
}

/// Regression: a group of one that was to go away and back could never finish, because a node that
/// was wanted again got another life.
#[test]
fn a_group_of_one_goes_away_and_back() {
    let start = World::new(2, 1);
    for pace in paces() {
        for rounds in 0..12 {
            let mut world = start.at(pace);
            world.want(&[2].into());
            (0..rounds).for_each(|_| world.act());
            world.want(&[1].into());
            world.settle();
        }
    }
}

#[test]
fn each_wish_that_changes_at_any_step_comes_about() {
    for members in 1..=3 {
        let start = World::new(4, members);
        for first in sets(4) {
            for second in sets(4) {
                for (rounds, pace) in (0..9).zip(paces().into_iter().cycle()) {
                    let mut world = start.at(pace);
                    world.want(&first);
                    (0..rounds).for_each(|_| world.act());
                    world.want(&second);
                    world.settle();
                }
            }
        }
    }
}

#[test]
fn wishes_of_up_to_five_of_seven_members_come_about_however_often_they_change() {
    let sets: Vec<BTreeSet<u64>> = sets(7).into_iter().filter(|set| set.len() <= 5).collect();
    let starts: Vec<World> = (1..=5).map(|members| World::new(7, members)).collect();
    for seed in 0..1_000 {
        let mut random = Lcg(seed);
        let pace = random.pick(&paces()).expect("a pace");
        let mut world = starts[random.below(5) as usize].at(pace);
        for _ in 0..1 + random.below(5) {
            world.want(&sets[random.below(sets.len() as u64) as usize]);
            (0..random.below(12)).for_each(|_| world.act());
        }
        world.settle();
    }
}
