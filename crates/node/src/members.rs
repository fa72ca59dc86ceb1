//! Makes the replicas of this node those that the topology says, and tells groups that are led here
//! which members they shall have.
//!
//! * A replica comes because the topology wants its life here, and goes once the topology says that
//!   this life is out. A replica that is neither wanted nor out stays: its group may need its vote.
//! * What this node knows of a group decides nothing, because a replica that leaves its group is
//!   often not told so.
//! * A step that is refused is tried again, and so is what a crash has interrupted.
//!
//! The module knows nothing of how replicas come and go (`hosting.rs`), or how groups change.

use crate::context::Context;
use crate::hosting::{Hosting, HostingError, WantedLife};
use crate::limits::{MEMBERS_PAUSE, WISHES_EVERY};
use routing::{NodeId, ShardId};
use shard::{Input, Wanted};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::Lives;
use topology::{Birth, Life, Topology, Version};

/// A replica that comes, or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Host(ShardId, Birth),
    Unhost(ShardId, Birth),
}

/// The steps from the lives on node `own` to those that the topology says. Lives of shards that it
/// does not know are left alone: a program of a later version may have put them there.
///
/// A life that the group has and that is not wanted is not begun. If it is not here, it was on a lost
/// directory, or it never began: the group can go on without it.
fn steps(topology: &Topology, own: NodeId, lives: &BTreeMap<ShardId, Lives>) -> Vec<Step> {
    let hosted = |shard: &ShardId| lives.get(shard).and_then(|lives| lives.hosted).map(Birth);
    let is_out = |shard: &ShardId, birth: Birth| topology.is_out(*shard, Life { node: own, birth });
    let here = lives.keys().filter_map(|shard| Some((*shard, hosted(shard)?)));
    let go = here.filter(|(shard, birth)| is_out(shard, *birth));
    let wanted = topology
        .shards()
        .iter()
        .filter_map(|(shard, known)| Some((*shard, *known.wanted.members.get(&own)?)));
    // A former life that is not out is waited for. A later one is that of a re-seeded directory.
    let come = wanted.filter(|(shard, birth)| {
        hosted(shard).is_none_or(|here| here < *birth && is_out(shard, here))
    });
    let go = go.map(|(shard, birth)| Step::Unhost(shard, birth));
    go.chain(come.map(|(shard, birth)| Step::Host(shard, birth))).collect()
}

/// Lets replicas come and go until the future is dropped.
pub(crate) async fn keep_members(context: Arc<Context>, hosting: Arc<Hosting>) {
    let mut refused: BTreeMap<ShardId, String> = BTreeMap::new();
    let mut pause = MEMBERS_PAUSE.0;
    loop {
        let topology = context.cluster.now();
        let engine = context.engine.clone();
        // The lives may be under a lock that a write holds.
        let Ok(lives) = tokio::task::spawn_blocking(move || engine.lives()).await else {
            return; // the runtime ends
        };
        let mut is_done = true;
        for step in steps(&topology, context.id, &lives) {
            let (shard, outcome) = take(step, &topology, context.id, &hosting).await;
            let Err(error) = outcome else {
                refused.remove(&shard);
                continue;
            };
            is_done = false;
            let reason = error.to_string();
            if refused.get(&shard) != Some(&reason) {
                tracing::info!(
                    %shard, %reason,
                    "a replica that the topology wants here, or wants no more, waits; trying on"
                );
                refused.insert(shard, reason);
            }
        }
        let later = context.cluster.later_than(topology.version());
        if is_done {
            later.await;
            pause = MEMBERS_PAUSE.0;
        } else if tokio::time::timeout(pause, later).await.is_err() {
            pause = (pause * 2).min(MEMBERS_PAUSE.1);
        }
    }
}

async fn take(
    step: Step,
    topology: &Topology,
    own: NodeId,
    hosting: &Arc<Hosting>,
) -> (ShardId, Result<(), HostingError>) {
    match step {
        Step::Host(shard, _) => match WantedLife::of(topology, shard, own) {
            Some(wanted) => (shard, hosting.host(shard, wanted).await),
            None => (shard, Ok(())), // it was planned from a wish of this topology
        },
        Step::Unhost(shard, birth) => (shard, hosting.unhost(shard, birth.0).await),
    }
}

/// Gives the groups that are led here their wishes, until the future is dropped.
pub(crate) async fn give_wishes(context: Arc<Context>) {
    loop {
        let topology = context.cluster.now();
        for (shard, taken) in context.board.wishes_taken() {
            if let Some(wish) = due(&topology, shard, Version(taken)) {
                context.host.input(shard, Input::Want(wish));
            }
        }
        let later = context.cluster.later_than(topology.version());
        let _ = tokio::time::timeout(WISHES_EVERY, later).await;
    }
}

/// The wish of the topology for a group that has taken the wish of this version, if it is later.
///
/// A group that never had a wish has the members of the founding. So a cluster whose topology nobody
/// has changed writes no wishes.
fn due(topology: &Topology, shard: ShardId, taken: Version) -> Option<Wanted> {
    let wanted = &topology.shard(shard)?.wanted;
    let founding = Version::default().next();
    if wanted.version <= taken.max(founding) {
        return None;
    }
    let members = wanted.lives().map(|life| (life.node, life.birth.0));
    let wish = Wanted::new(wanted.version.0, members);
    wish.inspect_err(|error| tracing::error!(%shard, "the wish of the topology: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::founded_from;
    use routing::ClusterConfig;
    use std::collections::BTreeSet;
    use topology::{Command, Members, Proposal};

    const SHARD: ShardId = ShardId(0);
    const WALL_S: u64 = 1_800_000_000;

    /// One shard on three of four nodes.
    fn cluster() -> ClusterConfig {
        ClusterConfig { replicas: 3, ..ClusterConfig::dev(1, 4, 20_000).unwrap() }
    }

    fn want(topology: &mut Topology, members: &BTreeSet<NodeId>) {
        let command = Command::Want { shard: SHARD, members: members.clone() };
        topology.apply(&Proposal::new(WALL_S, command)).unwrap().unwrap();
    }

    /// The group has the wanted members.
    fn settle(topology: &mut Topology) {
        let known = topology.shard(SHARD).unwrap();
        let members = Members {
            conf_index: known.is.conf_index + 1,
            taken: known.wanted.version,
            voters: known.wanted.lives().collect(),
            ..Members::default()
        };
        let command = Command::Is { shard: SHARD, members };
        topology.apply(&Proposal::new(WALL_S, command)).unwrap().unwrap();
    }

    fn hosts(birth: u32) -> BTreeMap<ShardId, Lives> {
        [(SHARD, Lives { hosted: Some(birth), destroyed: None })].into()
    }

    #[test]
    fn a_replica_comes_when_it_is_wanted_and_goes_when_it_is_out() {
        let mut topology = founded_from(&cluster());
        let shards: Vec<ShardId> = topology.shards().keys().copied().collect();
        let founders: BTreeSet<NodeId> =
            topology.shard(SHARD).unwrap().founders.keys().copied().collect();
        let outsider = (1..=4).map(NodeId).find(|node| !founders.contains(node)).unwrap();
        let leaves = *founders.first().unwrap();
        let nothing = BTreeMap::new();
        assert_eq!(steps(&topology, outsider, &nothing), []);
        let all = shards.iter().map(|shard| Step::Host(*shard, Birth(0))).collect::<Vec<_>>();
        assert_eq!(steps(&topology, leaves, &nothing), all);
        assert_eq!(steps(&Topology::default(), leaves, &hosts(0)), [], "nothing is known");
        assert_eq!(due(&topology, SHARD, Version(0)), None, "the founding is no wish");

        let mut members = founders.clone();
        members.remove(&leaves);
        members.insert(outsider);
        want(&mut topology, &members);
        let birth = topology.shard(SHARD).unwrap().wanted.members[&outsider];
        assert_eq!(steps(&topology, outsider, &nothing), [Step::Host(SHARD, birth)]);
        assert_eq!(steps(&topology, outsider, &hosts(birth.0)), []);
        let of_shard = |steps: Vec<Step>| -> Vec<Step> {
            let is_of_shard =
                |step: &Step| matches!(step, Step::Host(SHARD, _) | Step::Unhost(SHARD, _));
            steps.into_iter().filter(is_of_shard).collect()
        };
        let steps_of =
            |topology: &Topology, own, birth: u32| of_shard(steps(topology, own, &hosts(birth)));
        assert_eq!(steps_of(&topology, leaves, 0), [], "its group may need its vote");
        let wish = due(&topology, SHARD, Version(0)).expect("a later wish");
        assert_eq!(wish.members().keys().copied().collect::<BTreeSet<_>>(), members);
        assert_eq!(due(&topology, SHARD, Version(wish.version())), None);
        assert_eq!(due(&topology, SHARD, Version(wish.version() + 1)), None, "an older one");
        assert_eq!(due(&topology, ShardId(9), Version(0)), None, "no such shard");

        settle(&mut topology);
        assert_eq!(steps_of(&topology, leaves, 0), [Step::Unhost(SHARD, Birth(0))]);
        // It is wanted again before it was destroyed, as another life.
        want(&mut topology, &founders);
        let birth = topology.shard(SHARD).unwrap().wanted.members[&leaves];
        assert!(birth > Birth(0));
        let both = [Step::Unhost(SHARD, Birth(0)), Step::Host(SHARD, birth)];
        assert_eq!(steps_of(&topology, leaves, 0), both);
        assert_eq!(steps_of(&topology, leaves, birth.0 + 1), [], "of a re-seeded directory");
        assert_eq!(steps_of(&topology, outsider, WALL_S as u32), [], "it is not out yet");
    }

    #[test]
    fn lives_of_unknown_shards_are_left_alone() {
        let topology = founded_from(&ClusterConfig::dev(1, 1, 20_000).unwrap());
        let mut lives = hosts(0);
        lives.insert(routing::META, Lives { hosted: Some(0), destroyed: None });
        lives.insert(ShardId(77), Lives { hosted: Some(3), destroyed: None });
        assert_eq!(steps(&topology, NodeId(1), &lives), []);
    }
}
