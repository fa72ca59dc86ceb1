//! The answers of peers to a node that lost its data directory, and which of them are enough.
//!
//! The replicas of such a node come back under the incarnation of the new directory. It must be
//! above the birth of each former replica that may have voted, because those votes are forgotten.
//!
//! # Which answers are enough
//!
//! In question is each shard that the cluster file gives the node, and each of which a peer says
//! that the node is a member of it, or shall be one. Of such a shard the newest configuration
//! counts that any peer told, wherever the group has moved. A majority of its voters must have
//! answered.
//!
//! No voter on the node is unknown then:
//!
//! 1. The group may have gone further than that configuration C. The next change is on disk at a
//!    majority of C's voters, so one of those that answered has it in its log. None has applied it.
//! 2. The change after that is not committed. A replica that has it in its log knows that the one
//!    before it is committed (`parts/membership.rs` in `shard`), and a majority has it. A peer tells of
//!    a replica only once that has applied all that it knows to be committed.
//! 3. So the voters are those of C with one change. That gives a vote to nobody but a learner of C.
//!
//! This node cannot answer, and may have been part of each majority. If the other voters are no
//! majority by themselves, each other member must answer. For example, of voters 1 and 2 node 1 is
//! lost. Node 2 may not have heard that learner 3 votes now, and 1 and 3 can have decided without
//! it.
//!
//! A peer answers for a shard with the replica that is a voter in C. Another life of that replica
//! may have forgotten what it knew, and so may a peer that takes no part yet.
//!
//! A group that moved here of which no peer that answers has a replica is not in question. That is
//! sound, because its replica begins here only once the topology has recorded the new directory
//! (`by_topology.rs`), with a birth above all others. If no group with a member elsewhere is known
//! to want a replica here, a majority of the cluster's nodes must answer. They are those of the latest
//! topology that a peer told, because nodes of the cluster file may have been removed long ago. Without
//! a topology they are those of the file.
//!
//! A group that had its only voter here is lost, unless it has moved since. If none of its present
//! members answers, nothing but the clock keeps the incarnation above the births that it had here.
//!
//! The module knows nothing of sockets and time.

use crate::api::{Member, Status};
use crate::parts::group::Wanted;
use routing::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// The group of a shard, as a replica of a peer has applied it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The birth of that replica.
    pub birth: u32,
    /// The members.
    pub members: Vec<Member>,
    /// Of two configurations, the one with the lower index is not the newer one.
    pub conf_index: u64,
    /// The last wish that the group has taken, if it ever had one.
    pub wish: Option<Wish>,
}

impl Group {
    /// What a replica with this status tells of its group.
    pub fn of(status: &Status) -> Group {
        let wish = |wanted: &Wanted| Wish {
            version: wanted.version(),
            nodes: wanted.members().keys().copied().collect(),
        };
        Group {
            birth: status.incarnation,
            members: status.members.clone(),
            conf_index: status.conf_index,
            wish: status.wanted.as_ref().map(wish),
        }
    }
}

/// The nodes that shall have a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// A later wish has a higher version.
    pub version: u64,
    /// The nodes.
    pub nodes: BTreeSet<NodeId>,
}

/// What a peer knows of the node that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The highest incarnation, or birth of a replica.
    pub highest: u32,
    /// The peer takes no part yet, so that only `highest` counts.
    pub stands_by: bool,
    /// The groups of which it has a replica.
    pub groups: BTreeMap<ShardId, Group>,
    /// The nodes of the topology that it knows. `None`: it knows the cluster file only.
    pub present: Option<Present>,
}

/// The nodes that a topology has and has not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Generation and version of the topology. The higher one is the later one.
    pub order: (u64, u64),
    /// The nodes.
    pub nodes: BTreeSet<NodeId>,
}

/// The answer of one peer.
#[derive(Debug)]
pub enum Answer {
    /// What it knows.
    Told(Told),
    /// The former directory is in use.
    Refused(String),
    /// The reason why it did not answer.
    Unheard(String),
}

/// The answers of the peers so far.
///
/// * A peer that has told something stays in `told`, also if it cannot be reached any more: the
///   former directory was lost before.
#[derive(Debug)]
pub struct Answers {
    /// The node that lost its directory.
    node: NodeId,
    /// The other nodes of the cluster file.
    file: BTreeSet<NodeId>,
    /// For each shard that the cluster file gives the node, the other nodes that it names.
    listed: BTreeMap<ShardId, BTreeSet<NodeId>>,
    told: BTreeMap<NodeId, Told>,
    refused: BTreeMap<NodeId, String>,
    unheard: BTreeMap<NodeId, String>,
}

/// Peers of which some more must answer.
#[derive(Debug, PartialEq, Eq)]
struct Lack {
    more: usize,
    of: BTreeSet<NodeId>,
}

impl Answers {
    /// Of `node`. `file` are the other nodes of the cluster file, and `listed` has, for each shard
    /// that the file gives the node, the other nodes that it names.
    pub fn new(
        node: NodeId,
        file: BTreeSet<NodeId>,
        listed: BTreeMap<ShardId, BTreeSet<NodeId>>,
    ) -> Answers {
        let (told, refused, unheard) = Default::default();
        Answers { node, file, listed, told, refused, unheard }
    }

    /// Takes the answer of a peer.
    pub fn take(&mut self, peer: NodeId, answer: Answer) {
        self.refused.remove(&peer);
        self.unheard.remove(&peer);
        match answer {
            Answer::Told(told) => drop(self.told.insert(peer, told)),
            Answer::Refused(reason) => drop(self.refused.insert(peer, reason)),
            Answer::Unheard(reason) => drop(self.unheard.insert(peer, reason)),
        }
    }

    /// The reason of a peer that hears of the former directory.
    pub fn refusal(&self) -> Option<&str> {
        self.refused.values().next().map(String::as_str)
    }

    /// Whether each of these peers has told what it knows.
    pub fn has_all<'a>(&self, peers: impl IntoIterator<Item = &'a NodeId>) -> bool {
        peers.into_iter().all(|peer| self.counted(*peer).is_some())
    }

    /// Whether no peer hears of the former directory, and enough peers have answered.
    pub fn are_enough(&self) -> bool {
        self.refused.is_empty() && self.lacks().is_empty()
    }

    /// The highest known incarnation of the node, or birth of a replica there.
    pub fn highest(&self) -> u32 {
        self.told.values().map(|told| told.highest).max().unwrap_or(0)
    }

    /// The shards that want a replica here, so that one begins with the new directory. Those of the
    /// cluster file have moved away if there is a wish without this node.
    pub fn begins(&self) -> BTreeSet<ShardId> {
        self.in_question().into_iter().filter(|shard| self.wants_node(*shard)).collect()
    }

    /// The answers that are missing, for people.
    pub fn still_to_come(&self) -> String {
        let lack = |(shard, Lack { more, of }): (Option<ShardId>, Lack)| {
            let of: Vec<String> =
                of.iter().map(|peer| format!("node {peer} ({})", self.why(*peer, shard))).collect();
            let of = of.join(", ");
            match shard {
                Some(shard) => format!("shard {shard}: {more} of {of}"),
                None => format!(
                    "no shard that is known wants a replica here, so of all nodes: {more} of {of}"
                ),
            }
        };
        let lacks: Vec<String> = self.lacks().into_iter().map(lack).collect();
        let refused = self.refused.values().cloned();
        lacks.into_iter().chain(refused).collect::<Vec<_>>().join("; ")
    }

    fn why(&self, peer: NodeId, shard: Option<ShardId>) -> String {
        if let Some(why) = self.refused.get(&peer).or(self.unheard.get(&peer)) {
            return why.clone();
        }
        match (self.told.get(&peer), shard) {
            (None, _) => "it was not asked yet".into(),
            (Some(told), _) if told.stands_by => "it takes no part yet".into(),
            (Some(_), Some(shard)) => format!("its replica of shard {shard} does not tell yet"),
            (Some(_), None) => "it has answered".into(),
        }
    }

    /// What a peer has told, if that counts.
    fn counted(&self, peer: NodeId) -> Option<&Told> {
        self.told.get(&peer).filter(|told| !told.stands_by)
    }

    /// What peers have told of a shard.
    fn groups(&self, shard: ShardId) -> impl Iterator<Item = &Group> {
        let counted = self.told.values().filter(|told| !told.stands_by);
        counted.filter_map(move |told| told.groups.get(&shard))
    }

    fn in_question(&self) -> BTreeSet<ShardId> {
        let names_node = |group: &Group| {
            let is_member = group.members.iter().any(|member| member.node == self.node);
            is_member || group.wish.as_ref().is_some_and(|wish| wish.nodes.contains(&self.node))
        };
        let counted = self.told.values().filter(|told| !told.stands_by);
        let groups = counted.flat_map(|told| &told.groups);
        let told = groups.filter(|(_, group)| names_node(group)).map(|(shard, _)| *shard);
        self.listed.keys().copied().chain(told).collect()
    }

    fn wants_node(&self, shard: ShardId) -> bool {
        let wishes = self.groups(shard).filter_map(|group| group.wish.as_ref());
        match wishes.max_by_key(|wish| wish.version) {
            Some(wish) => wish.nodes.contains(&self.node),
            // Without a wish the members stay on the nodes of the cluster file.
            None => true,
        }
    }

    /// What is missing: for a shard, or for the whole cluster.
    fn lacks(&self) -> Vec<(Option<ShardId>, Lack)> {
        let shards = self.in_question();
        let mut lacks: Vec<(Option<ShardId>, Lack)> = Vec::new();
        for shard in &shards {
            lacks.extend(self.lack_of(*shard).map(|lack| (Some(*shard), lack)));
        }
        let is_elsewhere = |shard: &ShardId| {
            let mut members = self.groups(*shard).flat_map(|group| &group.members);
            members.any(|member| member.node != self.node)
        };
        if !shards.iter().any(|shard| is_elsewhere(shard) && self.wants_node(*shard)) {
            let others = self.others();
            let (more, of) = (majority(1 + others.len()), &others);
            let lack = self.lack(more, of, |peer| self.counted(peer).is_some());
            lacks.extend(lack.map(|lack| (None, lack)));
        }
        lacks
    }

    /// The other nodes of the cluster, as far as they are known.
    fn others(&self) -> BTreeSet<NodeId> {
        let counted = self.told.values().filter(|told| !told.stands_by);
        let told = counted.filter_map(|told| told.present.as_ref());
        match told.max_by_key(|present| present.order) {
            Some(present) => {
                present.nodes.iter().copied().filter(|node| *node != self.node).collect()
            }
            None => self.file.clone(),
        }
    }

    fn lack_of(&self, shard: ShardId) -> Option<Lack> {
        let Some(newest) = self.groups(shard).max_by_key(|group| group.conf_index) else {
            let others = &self.listed[&shard];
            return self.lack(majority(1 + others.len()), others, |_| false);
        };
        let voters = newest.members.iter().filter(|member| !member.learner);
        let needed = majority(voters.clone().count());
        let others = |members: &mut dyn Iterator<Item = &Member>| -> BTreeMap<NodeId, u32> {
            let others = members.filter(|member| member.node != self.node);
            others.map(|member| (member.node, member.incarnation)).collect()
        };
        let (mut asked, mut needed) = (others(&mut voters.clone()), needed);
        if asked.len() < needed {
            asked = others(&mut newest.members.iter());
            needed = asked.len();
        }
        let is_told = |peer: NodeId| {
            let group = self.counted(peer).and_then(|told| told.groups.get(&shard));
            group.is_some_and(|group| Some(&group.birth) == asked.get(&peer))
        };
        self.lack(needed, &asked.keys().copied().collect(), is_told)
    }

    fn lack(
        &self,
        needed: usize,
        of: &BTreeSet<NodeId>,
        has_told: impl Fn(NodeId) -> bool,
    ) -> Option<Lack> {
        let missing: BTreeSet<NodeId> =
            of.iter().copied().filter(|peer| !has_told(*peer)).collect();
        let more = needed.min(of.len()).saturating_sub(of.len() - missing.len());
        (more > 0).then_some(Lack { more, of: missing })
    }
}

fn majority(of: usize) -> usize {
    of / 2 + 1
}

#[cfg(test)]
mod tests;
