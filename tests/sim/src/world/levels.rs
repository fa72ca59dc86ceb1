//! Levels: in most runs one is activated in the middle of it, and each group reaches it by its own
//! log.
//!
//! Where the topology moves members, an operator activates the level in it (`jobs.rs`), and each
//! node tells the groups that are led there once it knows that. Elsewhere the world says that a
//! level is active, and tells the leaders. Both do so again and again. So nothing of a level may be
//! in any group before (invariant 21), and at the end every group whose replicas stand level has
//! reached it.

use super::clock::SECOND_US;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::members::MovedBy;
use crate::checker::Invariant;
use crate::rng::Rng;
use routing::ShardId;
use shard::Input;
use topology::{FIRST_LEVEL, KNOWN_LEVELS};

/// The level is activated between these times.
const ACTIVATED_US: std::ops::Range<u64> = 15 * SECOND_US..400 * SECOND_US;
/// The share of runs in which it is.
const ACTIVATED_PERCENT: u64 = 75;

impl World {
    /// The active level.
    fn active_level(&self) -> u32 {
        match self.members.moved_by {
            MovedBy::Topology => self.meta.newest.level(),
            MovedBy::Nobody | MovedBy::World => self.due_level(),
        }
    }

    /// The level that is activated by now, whoever does it.
    pub(crate) fn due_level(&self) -> u32 {
        // Numbers of their own, so that this costs the run none.
        let mut rng = Rng::new(self.seed ^ 0x1e7e_1000);
        let is_activated = rng.percent(ACTIVATED_PERCENT);
        let at_us = rng.range(ACTIVATED_US.start, ACTIVATED_US.end);
        if is_activated && self.now_us >= at_us { KNOWN_LEVELS.max } else { FIRST_LEVEL }
    }

    /// Tells the leaders of groups that have not reached the active level, as far as it is known.
    pub(crate) fn spread_level(&mut self) {
        for shard in self.groups() {
            let behind = |id: &u64| {
                let (node, known) = (&self.nodes[id], self.known_level(*id));
                let is_below = node.replicas.get(&shard).is_some_and(|it| it.level() < known);
                (is_below && node.leads(shard)).then_some((*id, known))
            };
            let leaders: Vec<(u64, u32)> = self.nodes.keys().filter_map(behind).collect();
            for (id, level) in leaders {
                self.faults.add(FaultKind::LevelTold);
                self.tell(id, shard, Input::Level(level));
            }
        }
    }

    /// The active level, as this node knows it.
    fn known_level(&self, id: u64) -> u32 {
        match self.members.moved_by {
            MovedBy::Topology => self.nodes[&id].following.known.level(),
            MovedBy::Nobody | MovedBy::World => self.active_level(),
        }
    }

    /// Judges the level of a replica that has just applied something: invariant 21.
    pub(crate) fn judge_level(&mut self, id: u64, shard: ShardId) {
        let Some(replica) = self.nodes[&id].replicas.get(&shard) else { return };
        let (level, active) = (replica.level(), self.active_level());
        if level > active {
            let what =
                format!("shard {shard} is at level {level} on node {id}, and {active} is active");
            self.violated_in(shard, Invariant::Level, what);
        }
    }

    /// Judges the levels at the end, when the replicas stand level.
    pub(crate) fn judge_last_levels(&mut self) {
        let active = self.active_level();
        for shard in self.groups() {
            let replicas = self.nodes.values().filter_map(|node| node.replicas.get(&shard));
            let levels: Vec<u32> = replicas.map(shard::Replica::level).collect();
            if levels.iter().any(|level| *level != active) {
                let what =
                    format!("shard {shard} ends at levels {levels:?}, and {active} is active");
                self.violated_in(shard, Invariant::Level, what);
            }
        }
    }
}
