//! Opening the replicas of a node from its store. Everything here blocks on the disk.
//!
//! Which replicas there are, and with which births, the store itself tells. The cluster file
//! describes the beginning: a replica that it names has no birth on disk at its first start, and
//! gets the incarnation of the data directory as one.

use crate::clock::Clock;
use crate::error::NodeError;
use crate::view::{Group, View};
use routing::{META, NodeId, Settings, ShardId};
use shard::{Replica, ReplicaConfig};
use std::collections::{BTreeMap, BTreeSet};
use storage::{Engine, Lives};
use topology::Seed;

/// The shards with a replica on a node at its start. `listed` are those that its directory begins
/// with, and `lives` what the store knows.
///
/// A replica of a shard that `view` does not know is left alone: a program of a later version may
/// have put it there.
pub(crate) fn hosted_shards(
    listed: impl IntoIterator<Item = ShardId>,
    lives: &BTreeMap<ShardId, Lives>,
    view: &View,
) -> Vec<ShardId> {
    let is_untold = |shard: &ShardId| lives.get(shard).is_none_or(|it| *it == Lives::default());
    let is_known = |shard: &ShardId| view.groups.contains_key(shard);
    let listed = listed.into_iter().filter(is_known);
    let mut hosted: Vec<ShardId> = listed.filter(is_untold).collect();
    for (shard, lives) in lives {
        match (lives.hosted, view.groups.contains_key(shard)) {
            (Some(_), true) => hosted.push(*shard),
            (Some(birth), false) => tracing::warn!(
                %shard,
                birth,
                "the data directory has a replica of a shard that the cluster file does not name; it is left alone"
            ),
            (None, _) => {} // destroyed
        }
    }
    hosted.sort_unstable();
    hosted
}

/// Moves each replica to a new term, because the copies may be of different moments. Blocks on the
/// disk.
pub(crate) fn begin_new_terms(engine: &dyn Engine, hosted: &[ShardId]) -> Result<(), NodeError> {
    let mut writes = Vec::new();
    for shard in hosted {
        if let Some(hard_state) = engine.recover(*shard)?.hard_state {
            writes.push(shard::in_a_new_term(*shard, &hard_state, rand::random())?);
        }
    }
    if !writes.is_empty() {
        engine.write(&writes)?;
    }
    Ok(())
}

/// What all replicas of a run of a node are opened with.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    /// The first topology. The leader of META proposes it, if META was never founded.
    pub(crate) seed: Seed,
}

impl Opening {
    /// Opens the replica of a shard with this birth, as its last run left it, or empty. The birth is
    /// on disk before the replica can say anything.
    ///
    /// # Errors
    /// [`NodeError::Storage`] with a refusal if another life of the shard is here, or this one was
    /// destroyed. Other errors are of damaged bytes or a failed disk, and the node must stop.
    pub(crate) fn open(
        &self,
        engine: &dyn Engine,
        (shard, birth): (ShardId, u32),
        group: &Group,
    ) -> Result<Replica, NodeError> {
        engine.host_shard(shard, birth)?;
        let config = ReplicaConfig {
            shard,
            node: self.node,
            incarnation: birth,
            voters: group.founders.clone(),
            preferred_leader: group.preferred_leader,
            boot: self.boot,
            raft: (&self.settings).into(),
            election_seed: None,
        };
        let replica = Replica::open(config, engine.recover(shard)?, self.clock.now())?;
        let replica = replica.with_host_built_snapshots();
        Ok(if shard == META { replica.with_seed(self.seed.clone()) } else { replica })
    }

    /// Opens the replica of each hosted shard. One without a birth on disk gets `incarnation`.
    pub(crate) fn open_all(
        &self,
        engine: &dyn Engine,
        hosted: &[ShardId],
        view: &View,
        incarnation: u32,
    ) -> Result<BTreeMap<ShardId, Replica>, NodeError> {
        let lives = engine.lives();
        let birth = |shard: &ShardId| lives.get(shard).and_then(|lives| lives.hosted);
        let mut replicas = BTreeMap::new();
        for shard in hosted {
            let life = (*shard, birth(shard).unwrap_or(incarnation));
            let group = view.groups.get(shard).expect("a hosted shard is in the view");
            replicas.insert(*shard, self.open(engine, life, group)?);
        }
        Ok(replicas)
    }
}

/// For each replica, the other nodes that are members of its group or shall be. META's are among them:
/// an older copy of its replica has forgotten votes like any other.
pub(crate) fn groups_of(
    replicas: &BTreeMap<ShardId, Replica>,
    own: NodeId,
) -> Vec<BTreeSet<NodeId>> {
    let group = |replica: &Replica| {
        let status = replica.status();
        let wanted = status.wanted.iter().flat_map(|wanted| wanted.members().keys().copied());
        let nodes = status.members.iter().map(|member| member.node).chain(wanted);
        nodes.filter(|node| *node != own).collect()
    };
    replicas.values().map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::ClusterConfig;
    use storage::{Identity, MemoryEngine};

    #[test]
    fn the_store_tells_which_replicas_there_are_and_the_file_which_there_were_at_first() {
        let view = View::of(&ClusterConfig::dev(4, 5, 20_000).unwrap());
        let listed = [0, 1, 2].map(ShardId);
        let lives = |lives: &[(u32, Option<u32>, Option<u32>)]| {
            let of = |(shard, hosted, destroyed): &(u32, Option<u32>, Option<u32>)| {
                (ShardId(*shard), Lives { hosted: *hosted, destroyed: *destroyed })
            };
            hosted_shards(listed, &lives.iter().map(of).collect(), &view)
        };
        assert_eq!(lives(&[]), listed, "the first start");
        assert_eq!(lives(&[(0, Some(0), None), (1, Some(0), None)]), listed);
        let moved = [(0, None, Some(0)), (1, Some(9), Some(0)), (3, Some(9), None)];
        assert_eq!(lives(&moved), [1, 2, 3].map(ShardId));
        assert_eq!(lives(&[(77, Some(9), None)]), listed, "of a later version");
        let unknown = hosted_shards([ShardId(1), ShardId(77)], &BTreeMap::new(), &view);
        assert_eq!(unknown, [ShardId(1)], "a re-seed was told of it by a later version");
    }

    /// An older copy of a directory was vouched for by the groups of locks alone. Its replica of META,
    /// which had forgotten votes, took part with them.
    #[test]
    fn the_members_of_the_topologys_group_vouch_for_a_copy_too() {
        let cluster = ClusterConfig::dev(1, 5, 20_000).unwrap();
        let mut view = View::of(&cluster);
        view.groups.get_mut(&ShardId(0)).unwrap().founders = [1, 2, 3].map(NodeId).to_vec();
        view.groups.get_mut(&META).unwrap().founders = [1, 4, 5].map(NodeId).to_vec();
        let engine = MemoryEngine::new();
        engine.claim(&Identity { fingerprint: [7; 16], node: 1 }).unwrap();
        let (settings, seed) = (Settings::default(), Seed::of(&cluster));
        let opening = Opening { node: NodeId(1), boot: 1, settings, clock: Clock::start(), seed };
        let replicas = opening.open_all(&engine, &[ShardId(0), META], &view, 0).unwrap();
        let expected = [[2, 3], [4, 5]].map(|others| others.map(NodeId).into());
        assert_eq!(groups_of(&replicas, NodeId(1)), expected);
    }
}
