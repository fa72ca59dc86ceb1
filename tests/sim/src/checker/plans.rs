//! What the topology may never do, whatever plans it: invariants 18 and 19 as they concern it.
//!
//! * A life that is out is never wanted again, because its votes are forgotten.
//! * No members are wanted of which fewer than a quorum is heard of, and none for a group of which
//!   fewer than a quorum of the present voters is heard of. Facts that the plan records before a
//!   wish count for it.
//!
//! The module knows nothing of how a plan is made.

use routing::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use topology::{Command, Life, Proposal, Topology};

/// Judges the wishes of a plan that is made at `wall_s`, each by the topology as the commands before
/// it leave it. No command may be one that the topology refuses.
pub(crate) fn judge(
    topology: &Topology,
    is_heard: impl Fn(NodeId) -> bool,
    wall_s: u64,
    commands: &[Command],
) -> Vec<String> {
    let mut found = Vec::new();
    let mut topology = topology.clone();
    for command in commands {
        if let Command::Want { shard, members } = command {
            found.extend(judge_wish(&topology, &is_heard, *shard, members));
        }
        if let Err(refusal) = topology.apply(&Proposal::new(wall_s, command.clone())) {
            found.push(format!("plans {command:?}, which is refused: {refusal}"));
            break;
        }
    }
    found
}

fn judge_wish(
    topology: &Topology,
    is_heard: impl Fn(NodeId) -> bool,
    shard: ShardId,
    members: &BTreeSet<NodeId>,
) -> Vec<String> {
    let mut found = Vec::new();
    let heard = members.iter().filter(|node| is_heard(**node)).count();
    if 2 * heard <= members.len() {
        found.push(format!("of {members:?} of shard {shard} only {heard} are heard of"));
    }
    let Some(known) = topology.shard(shard) else { return found };
    let voters = &known.is.voters;
    let heard = voters.iter().filter(|life| is_heard(life.node)).count();
    if 2 * heard <= voters.len() {
        found.push(format!(
            "wants {members:?} of shard {shard}, and hears of {heard} of {voters:?}"
        ));
    }
    found
}

/// Follows the lives of all groups through the versions of one topology.
#[derive(Default)]
pub(crate) struct LifeJudge {
    present: BTreeMap<ShardId, BTreeSet<Life>>,
    out: BTreeSet<(ShardId, Life)>,
}

impl LifeJudge {
    /// A later version. Returns the lives that were out and are not any more.
    pub(crate) fn follow(&mut self, topology: &Topology) -> Vec<String> {
        let mut found = Vec::new();
        for (id, shard) in topology.shards() {
            let now: BTreeSet<Life> =
                shard.wanted.lives().chain(shard.leaving.keys().copied()).collect();
            for life in now.iter().filter(|life| self.out.contains(&(*id, **life))) {
                let version = topology.version();
                found.push(format!("shard {id}: {life:?} was out, and is back in {version}"));
            }
            let before = self.present.insert(*id, now.clone()).unwrap_or_default();
            self.out.extend(before.difference(&now).map(|life| (*id, *life)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::ClusterConfig;
    use topology::{Birth, Members, Seed};

    const SHARD: ShardId = ShardId(0);
    const WALL_S: u64 = 1_700_000_000;

    fn founded() -> Topology {
        let mut topology = Topology::default();
        let config = ClusterConfig { replicas: 3, ..ClusterConfig::dev(1, 5, 20_000).unwrap() };
        apply(&mut topology, Command::Bootstrap { seed: Seed::of(&config) });
        topology
    }

    fn apply(topology: &mut Topology, command: Command) {
        topology.apply(&Proposal::new(WALL_S, command)).unwrap().unwrap();
    }

    #[test]
    fn wishes_for_silent_nodes_are_found() {
        let topology = founded();
        let members: BTreeSet<NodeId> =
            topology.shard(SHARD).unwrap().wanted.members.keys().copied().collect();
        let wants = [Command::Want { shard: SHARD, members: members.clone() }];
        let found = |silent: usize| {
            let silent: BTreeSet<NodeId> = members.iter().copied().take(silent).collect();
            judge(&topology, |node| !silent.contains(&node), WALL_S, &wants).len()
        };
        // Of the members that are wanted, and of those that are there.
        assert_eq!((found(0), found(1), found(2)), (0, 0, 2));
        assert_eq!(judge(&topology, |_| false, WALL_S, &[]), [""; 0]);
    }

    /// Seed 13261: the leader told the members that its group has by now, and the plan recorded them
    /// before its wish. The wish was held against the voters that were known before.
    #[test]
    fn a_wish_is_judged_by_the_facts_before_it_in_the_plan() {
        let topology = founded();
        let life = |node| Life { node: NodeId(node), birth: Birth(0) };
        let known = topology.shard(SHARD).unwrap();
        let members: BTreeSet<NodeId> = known.wanted.members.keys().copied().collect();
        let voters: BTreeSet<Life> = known.wanted.lives().collect();
        let (first, silent) = (*members.first().unwrap(), members.iter().skip(1).copied());
        let silent: BTreeSet<NodeId> = silent.collect();
        let grown = [first.0, 4, 5];
        let fact = Command::Is {
            shard: SHARD,
            members: Members {
                conf_index: 7,
                taken: known.wanted.version,
                voters: voters.into_iter().chain([life(4), life(5)]).collect(),
                ..Members::default()
            },
        };
        let wish = Command::Want { shard: SHARD, members: grown.map(NodeId).into() };
        let found =
            |plan: &[Command]| judge(&topology, |node| !silent.contains(&node), WALL_S, plan).len();
        assert_eq!(found(std::slice::from_ref(&wish)), 1, "1 of 3 voters is heard of");
        assert_eq!(found(&[fact, wish]), 0, "3 of 5 are");
    }

    #[test]
    fn a_life_that_comes_back_after_it_was_out_is_found() {
        let mut topology = founded();
        let mut judge = LifeJudge::default();
        assert_eq!(judge.follow(&topology), [""; 0]);
        let first = topology.clone();
        let founders = &topology.shard(SHARD).unwrap().founders;
        let mut members: BTreeSet<NodeId> = founders.keys().copied().collect();
        members.pop_first();
        apply(&mut topology, Command::Want { shard: SHARD, members });
        // It leaves, and may still be a member.
        assert_eq!(judge.follow(&topology), [""; 0]);
        let known = topology.shard(SHARD).unwrap();
        let members = Members {
            conf_index: 7,
            taken: known.wanted.version,
            voters: known.wanted.lives().collect(),
            ..Members::default()
        };
        apply(&mut topology, Command::Is { shard: SHARD, members });
        assert_eq!(judge.follow(&topology), [""; 0]);
        assert_eq!(judge.follow(&first).len(), 1);
    }
}
