//! Levels: in most runs one is activated in the middle of it, and each group reaches it by its own
//! log.
//!
//! The world is what says that a level is active, and it tells the leaders of that, again and again.
//! So nothing of a level may be in any group before (invariant 21), and at the end every group whose
//! replicas stand level has reached it.

use super::clock::SECOND_US;
use super::state::World;
use super::state::chaos::FaultKind;
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
        // Numbers of their own, so that this costs the run none.
        let mut rng = Rng::new(self.seed ^ 0x1e7e_1000);
        let is_activated = rng.percent(ACTIVATED_PERCENT);
        let at_us = rng.range(ACTIVATED_US.start, ACTIVATED_US.end);
        if is_activated && self.now_us >= at_us { KNOWN_LEVELS.max } else { FIRST_LEVEL }
    }

    /// Tells the leaders of groups that have not reached the active level.
    pub(crate) fn spread_level(&mut self) {
        let active = self.active_level();
        for shard in self.groups() {
            let below = |id: &u64| {
                let replica = self.nodes[id].replicas.get(&shard);
                self.nodes[id].leads(shard) && replica.is_some_and(|it| it.level() < active)
            };
            let leaders: Vec<u64> = self.nodes.keys().copied().filter(below).collect();
            for id in leaders {
                self.faults.add(FaultKind::LevelTold);
                self.tell(id, shard, Input::Level(active));
            }
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
