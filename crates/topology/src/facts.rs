//! How facts are taken: what nodes tell of themselves, and leaders of their groups.
//!
//! A fact may come late, twice, and in any order. So each has a place in the order of its source: the
//! start of a node, and the wish and the configuration index of a group. Only a later one is taken.
//! This module knows nothing of the way by which facts travel.

use crate::command::NodeTold;
use crate::delta::Row;
use crate::refusal::Refusal;
use crate::state::*;
use routing::{Address, AddressVersion, NodeId, ShardId};
use std::collections::BTreeMap;

/// The highest id of a node, because Raft's ids have 32 bits for it.
const NODE_ID_MAX: u64 = u32::MAX as u64;

impl Topology {
    /// Takes what a node tells. A node that is not known joins.
    pub(crate) fn node_is(&self, wall_s: u64, told: &NodeTold) -> Result<Vec<Row>, Refusal> {
        let id = told.node;
        let Some(known) = self.nodes.get(&id) else {
            self.check_joiner(told)?;
            // It may have had births of a group of the topology that was lost.
            let is_former = id <= self.cluster.former_ids;
            let last_birth = if is_former { u32::try_from(wall_s).unwrap_or(0) } else { 0 };
            let node = of_told(told, NodeState::Serving, Birth(last_birth), Version(0))?;
            return Ok(vec![Row::Node { id, node }]);
        };
        self.present_node(id)?;
        // Each re-seeded directory has an incarnation of its own.
        let is_same_directory = known.store.is_none_or(|store| store == told.store)
            || told.start.incarnation != known.start.incarnation;
        if !is_same_directory {
            return Err(Refusal::IdTaken(id));
        }
        if told.start <= known.start {
            return Ok(Vec::new());
        }
        check_address(told)?;
        self.check_levels(told)?;
        let mut rows = Vec::new();
        let mut node = of_told(told, known.state, known.last_birth, known.directory_since)?;
        if told.start.incarnation > known.start.incarnation {
            node.directory_since = self.version.next();
            for (id, shard) in &self.shards {
                if let Some(shard) = self.reseeded(shard, told.node, told.start, &mut node)? {
                    rows.push(Row::Shard { id: *id, shard });
                }
            }
        }
        rows.push(Row::Node { id, node });
        Ok(rows)
    }

    /// The shard after a node of it has lost its data: the wanted life on the node is another.
    ///
    /// Its replicas there count as born at the new incarnation, so that groups take them in without
    /// the topology. A wanted life of that birth or a later one may have been on the lost disk, or
    /// on the new one. It is replaced too, because a life must not begin twice.
    fn reseeded(
        &self,
        shard: &Shard,
        id: NodeId,
        start: AddressVersion,
        node: &mut Node,
    ) -> Result<Option<Shard>, Refusal> {
        let birth_of = birth_of(start).ok_or(Refusal::NoBirths(id))?;
        let Some(birth) = shard.wanted.members.get(&id).copied() else { return Ok(None) };
        let is_told_by_group = shard.is.has(&Life { node: id, birth: birth_of });
        if birth == birth_of && is_told_by_group {
            return Ok(None);
        }
        let reborn = if birth < birth_of {
            birth_of
        } else {
            node.give_birth(start.incarnation).ok_or(Refusal::NoBirths(id))?
        };
        let is_unheard = self.is_unheard(shard);
        let version = if is_unheard { shard.wanted.version } else { self.version.next() };
        let mut shard = shard.clone();
        shard.replace(Life { node: id, birth }, reborn, version);
        Ok(Some(shard))
    }

    fn check_joiner(&self, told: &NodeTold) -> Result<(), Refusal> {
        let id = told.node;
        if !(1..=NODE_ID_MAX).contains(&id.0) {
            return Err(Refusal::NodeId(id));
        }
        check_address(told)?;
        let taken = self.present().find(|(_, node)| node.address == told.address);
        if let Some((other, _)) = taken {
            let address = told.address.clone();
            return Err(Refusal::AddressTaken { node: id, address, other });
        }
        self.check_levels(told)
    }

    fn check_levels(&self, told: &NodeTold) -> Result<(), Refusal> {
        let (level, Levels { min, max }) = (self.cluster.level, told.levels);
        if told.levels.contains(level) {
            return Ok(());
        }
        Err(Refusal::ActiveLevel { node: told.node, level, min, max })
    }

    /// Takes the members that a group's leader tells.
    ///
    /// After the topology was built again, the first ones that a group tells bring it a wish of this
    /// generation. If it has taken a wish that no node had kept, it is to have the members that it
    /// has.
    pub(crate) fn shard_is(&self, id: ShardId, is: &Members) -> Result<Vec<Row>, Refusal> {
        let known = self.known_shard(id)?;
        // Both only rise along the log. The wish goes first, because two replicas with the same members
        // may have different indexes: at a restart, the index becomes the applied one. How it goes
        // wrong the other way round:
        //
        // 1. Leader A has restarted at index 100, and tells its members with it.
        // 2. Leader B has the same members since index 60. It takes a wish at index 110 that changes no
        //    member, and tells that with index 60.
        // 3. That looks old, so a life that the wish has dropped is never out.
        let is_later = (is.taken, is.conf_index) > (known.is.taken, known.is.conf_index);
        let is_first = self.is_unheard(known) && is.taken >= known.is.taken;
        if !is_later && !is_first {
            return Ok(Vec::new());
        }
        let no_group = |why: &'static str| Err(Refusal::NoGroup { shard: id, why: why.into() });
        if is.voters.is_empty() {
            return no_group("it has no voters");
        }
        if !is.voters.is_disjoint(&is.learners) {
            return no_group("a learner has a vote");
        }
        if is.taken > self.version {
            return no_group("its wish is newer than the topology");
        }
        let version = self.version.next();
        let mut nodes: BTreeMap<NodeId, Node> = BTreeMap::new();
        let mut shard = known.clone();
        for life in is.lives() {
            let known = self.node_of_member(known, life)?;
            let node = nodes.entry(life.node).or_insert_with(|| known.clone());
            node.last_birth = node.last_birth.max(life.birth);
            shard.adopt(life, version);
        }
        if is_later {
            // A wanted life that the group has no more left by an older wish. It is taken in again.
            shard.leaving.retain(|life, dropped| is.has(life) || is.taken < *dropped);
            shard.is = is.clone();
        }
        if is_first {
            let mut members = shard.wanted.members.clone();
            if is.taken > known.wanted.version {
                let present = shard.is.voters.iter().filter(|life| {
                    nodes.get(&life.node).is_some_and(|node| node.state != NodeState::Removed)
                });
                let taken: BTreeMap<NodeId, Birth> = present
                    .map(|life| (life.node, shard.birth_on(life, &nodes[&life.node])))
                    .collect();
                // If all of them were removed, the wish of the kept copy is as good as any.
                members = if taken.is_empty() { members } else { taken };
            }
            shard.want(Wanted { version, members });
        }
        let mut rows: Vec<Row> =
            nodes.into_iter().map(|(id, node)| Row::Node { id, node }).collect();
        rows.push(Row::Shard { id, shard });
        Ok(rows)
    }

    /// The node on which a group has this life.
    ///
    /// It may have been removed since the topology was built again: the lost group had moved the shard
    /// to it, and nobody who answered knew. Its life leaves then.
    fn node_of_member(&self, known: &Shard, life: Life) -> Result<&Node, Refusal> {
        let may_be_removed = self.is_unheard(known) || known.leaving.contains_key(&life);
        match self.nodes.get(&life.node) {
            Some(node) if may_be_removed => Ok(node),
            _ => self.present_node(life.node),
        }
    }
}

impl Shard {
    /// The birth that is wanted on the node of this life: that of the life, unless the life was on a
    /// directory that is lost.
    fn birth_on(&self, life: &Life, node: &Node) -> Birth {
        let reborn = birth_of(node.start).unwrap_or_default();
        let wanted = self.wanted.members.get(&life.node).copied().unwrap_or_default();
        life.birth.max(reborn).max(wanted)
    }

    /// Wants another life in the place of this one.
    fn replace(&mut self, life: Life, reborn: Birth, version: Version) {
        self.wanted.members.insert(life.node, reborn);
        self.wanted.version = version;
        self.leaving.insert(life, version);
    }

    /// Wants these members. The lives that are wanted no more leave.
    fn want(&mut self, wanted: Wanted) {
        let dropped = self.wanted.lives().chain(self.is.lives());
        let dropped: Vec<Life> = dropped.filter(|life| !wanted.has(life)).collect();
        self.leaving.retain(|life, _| !wanted.has(life));
        for life in dropped {
            self.leaving.entry(life).or_insert(wanted.version);
        }
        self.preference = self.preference.filter(|is| wanted.members.contains_key(&is.node));
        self.wanted = wanted;
    }

    /// Accounts for a life that the group has. A later life on a wanted node is that of a directory
    /// that was re-seeded: the group took it in by itself, so it is wanted in place of the old one.
    /// It is no life of a lost directory, because every wanted birth is at least the incarnation.
    ///
    /// An unknown life on another node is dated with the present wish, which may be later than the
    /// node's directory. So that date does not tell on which directory the life was
    /// ([`Shard::life_on`]).
    fn adopt(&mut self, life: Life, version: Version) {
        match self.wanted.members.get(&life.node).copied() {
            Some(birth) if birth < life.birth => {
                self.replace(Life { node: life.node, birth }, life.birth, version);
            }
            Some(birth) if birth == life.birth => {}
            _ => {
                self.leaving.entry(life).or_insert(self.wanted.version);
            }
        }
    }
}

fn of_told(
    told: &NodeTold,
    state: NodeState,
    last_birth: Birth,
    directory_since: Version,
) -> Result<Node, Refusal> {
    let incarnation = birth_of(told.start).ok_or(Refusal::NoBirths(told.node))?;
    Ok(Node {
        address: told.address.clone(),
        zone: told.zone.clone(),
        state,
        start: told.start,
        store: Some(told.store),
        levels: Some(told.levels),
        binary: told.binary.clone(),
        last_birth: last_birth.max(incarnation),
        directory_since,
    })
}

/// The birth of replicas that a re-seeded directory begins with.
fn birth_of(start: AddressVersion) -> Option<Birth> {
    u32::try_from(start.incarnation).ok().map(Birth)
}

fn check_address(told: &NodeTold) -> Result<(), Refusal> {
    let can_be_dialled =
        told.address.parse::<Address>().is_ok_and(|address| !address.is_unspecified());
    if can_be_dialled {
        return Ok(());
    }
    Err(Refusal::Address { node: told.node, address: told.address.clone() })
}
