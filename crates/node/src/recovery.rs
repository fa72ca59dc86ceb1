//! Opening the replicas of a node from its store. Everything here blocks on the disk.
//!
//! Which replicas there are, and with which births, the store itself tells. The cluster file
//! describes the beginning: a replica that it names has no birth on disk at its first start, and
//! gets the incarnation of the data directory as one. META is the exception: it begins later, and
//! is here only if the store says so (`meta.rs`).

use crate::board::Board;
use crate::clock::Clock;
use crate::error::NodeError;
use crate::host::{Failed, Stepper, contained, tell_failed};
use crate::view::{Group, View};
use crate::{meta, rebuilt};
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
    let is_untold = |shard: &ShardId| {
        *shard != META && lives.get(shard).is_none_or(|it| *it == Lives::default())
    };
    let is_known = |shard: &ShardId| view.groups.contains_key(shard);
    let listed = listed.into_iter().filter(is_known);
    let mut hosted: Vec<ShardId> = listed.filter(is_untold).collect();
    for (shard, lives) in lives {
        match (lives.hosted, view.groups.contains_key(shard)) {
            (Some(_), true) => hosted.push(*shard),
            (Some(birth), false) => tracing::warn!(
                %shard,
                birth,
                "the data directory has a replica of a shard that this node does not know; it is left alone"
            ),
            (None, _) => {} // destroyed
        }
    }
    hosted.sort_unstable();
    hosted
}

/// Moves each replica to a new term, because the copies may be of different moments. META's replica
/// begins in one, if it begins here later. Blocks on the disk.
pub(crate) fn begin_new_terms(engine: &dyn Engine, hosted: &[ShardId]) -> Result<(), NodeError> {
    let lives = engine.lives();
    let is_here = |shard| lives.get(shard).is_some_and(|lives| lives.hosted.is_some());
    let mut writes = Vec::new();
    for shard in hosted {
        // A replica that had not written yet has written in another copy.
        let hard_state = engine.recover(*shard)?.hard_state;
        if let Some(hard_state) = hard_state.or_else(|| is_here(shard).then(Vec::new)) {
            writes.push(shard::in_a_new_term(*shard, &hard_state, rand::random())?);
        }
    }
    if !writes.is_empty() {
        engine.write(&writes)?;
    }
    if !is_here(&META) {
        meta::begin_in_a_new_term(engine)?;
    }
    Ok(())
}

/// The replicas of a node at its start.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) replicas: BTreeMap<ShardId, Replica>,
    /// Why META's replica is not among them, although it is hosted here.
    meta_failure: Option<(NodeId, String)>,
}

impl Opened {
    /// The replica of a hosted shard. In the place of META's there is something that refuses, if
    /// that could not be opened.
    ///
    /// # Panics
    /// If the shard was not opened, or was taken before.
    pub(crate) fn take(&mut self, shard: ShardId, board: &Board) -> Box<dyn Stepper> {
        match self.meta_failure.take_if(|_| shard == META) {
            Some((node, why)) => {
                tell_failed(board, why);
                Box::new(Failed::unopened(node))
            }
            None => Box::new(self.replicas.remove(&shard).expect("it was opened")),
        }
    }
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
        life: (ShardId, u32),
        group: &Group,
    ) -> Result<Replica, NodeError> {
        match life {
            // The node serves on without META, so a panic there is a failure like others.
            (META, _) => contained(|| self.open_now(engine, life, group))?,
            _ => self.open_now(engine, life, group),
        }
    }

    fn open_now(
        &self,
        engine: &dyn Engine,
        (shard, birth): (ShardId, u32),
        group: &Group,
    ) -> Result<Replica, NodeError> {
        engine.host_shard(shard, birth)?;
        let built_again = match shard {
            META => rebuilt::founds(engine, self.node, birth)?,
            _ => None,
        };
        // A life is hosted before anything is written for it. If the process ended in between, what a
        // founder begins with is written now.
        if let Some(founders) = built_again.as_ref().and_then(rebuilt::founders_of) {
            meta::found(engine, &founders, birth)?;
        }
        let mut voters: Vec<NodeId> = group.founders.iter().copied().collect();
        if shard == META && !meta::has_begun(engine, birth)? {
            // A founder's life that comes empty has no say in what the founders were. It waits for
            // a snapshot.
            voters.retain(|node| birth > 0 || *node != self.node);
        }
        let config = ReplicaConfig {
            shard,
            node: self.node,
            incarnation: birth,
            voters,
            // No node has number 0.
            preferred_leader: group.preferred_leader.unwrap_or(NodeId(0)),
            boot: self.boot,
            raft: (&self.settings).into(),
            election_seed: None,
        };
        let replica = Replica::open(config, engine.recover(shard)?, self.clock.now())?;
        let mut replica = replica.with_host_built_snapshots();
        if shard == meta::FOUNDED_BY {
            replica.found_meta();
        }
        Ok(match shard {
            META => match built_again {
                Some(topology) => replica.with_rebuilt(topology),
                None => replica.with_seed(self.seed.clone()),
            },
            _ => replica,
        })
    }

    /// Opens the replica of each hosted shard. One without a birth on disk gets `incarnation`.
    /// META's is left out if it cannot be opened, and the disk works.
    pub(crate) fn open_all(
        &self,
        engine: &dyn Engine,
        hosted: &[ShardId],
        view: &View,
        incarnation: u32,
    ) -> Result<Opened, NodeError> {
        let lives = engine.lives();
        let birth = |shard: &ShardId| lives.get(shard).and_then(|lives| lives.hosted);
        let mut opened = Opened::default();
        for shard in hosted {
            let life = (*shard, birth(shard).unwrap_or(incarnation));
            let group = view.groups.get(shard).expect("a hosted shard is in the view");
            if *shard == META && rebuilt::is_given_up(engine, life.1)? {
                let why = "its group was given up, because the topology was built again";
                opened.meta_failure = Some((self.node, why.to_owned()));
                continue;
            }
            match self.open(engine, life, group) {
                Ok(replica) => drop(opened.replicas.insert(*shard, replica)),
                Err(error) if *shard == META && error.is_of_a_replica() => {
                    opened.meta_failure = Some((self.node, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(opened)
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
        let meta = |lives: &[(ShardId, Lives)]| {
            hosted_shards([META], &lives.iter().copied().collect(), &view)
        };
        assert_eq!(meta(&[]), [], "it begins once it is founded");
        assert_eq!(meta(&[(META, Lives { hosted: Some(0), destroyed: None })]), [META]);
        let unknown = hosted_shards([ShardId(1), ShardId(77)], &BTreeMap::new(), &view);
        assert_eq!(unknown, [ShardId(1)], "a re-seed was told of it by a later version");
    }

    /// Regression: a replica that had not written when it was copied began in term 0 again, although the
    /// original may have voted since.
    #[test]
    fn a_replica_that_had_not_written_when_it_was_copied_goes_on_in_a_new_term() {
        let cluster = ClusterConfig::dev(1, 3, 20_000).unwrap();
        let engine = MemoryEngine::new();
        engine.claim(&Identity { fingerprint: [7; 16], node: 1 }).unwrap();
        engine.host_shard(ShardId(0), 0).unwrap();
        begin_new_terms(&engine, &[ShardId(0)]).unwrap();
        let (settings, seed) = (Settings::default(), Seed::of(&cluster));
        let opening = Opening { node: NodeId(1), boot: 2, settings, clock: Clock::start(), seed };
        let view = View::of(&cluster);
        let opened = opening.open_all(&engine, &[ShardId(0)], &view, 0).unwrap();
        assert!(opened.replicas[&ShardId(0)].status().term >= 1 << 20);
    }

    /// An older copy of a directory was vouched for by the groups of locks alone. Its replica of META,
    /// which had forgotten votes, took part with them.
    #[test]
    fn the_members_of_the_topologys_group_vouch_for_a_copy_too() {
        let cluster = ClusterConfig::dev(1, 5, 20_000).unwrap();
        let mut view = View::of(&cluster);
        view.groups.get_mut(&ShardId(0)).unwrap().founders = [1, 2, 3].map(NodeId).into();
        view.groups.get_mut(&META).unwrap().founders = [1, 4, 5].map(NodeId).into();
        let engine = MemoryEngine::new();
        engine.claim(&Identity { fingerprint: [7; 16], node: 1 }).unwrap();
        let (settings, seed) = (Settings::default(), Seed::of(&cluster));
        let opening = Opening { node: NodeId(1), boot: 1, settings, clock: Clock::start(), seed };
        let opened = opening.open_all(&engine, &[ShardId(0), META], &view, 0).unwrap();
        let expected = [[2, 3], [4, 5]].map(|others| others.map(NodeId).into());
        assert_eq!(groups_of(&opened.replicas, NodeId(1)), expected);
    }
}
