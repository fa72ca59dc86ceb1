//! The levels of formats and commands: those that this build knows, and what each brings.
//!
//! A level is active for the whole cluster once the topology says so. Then it reaches each group by
//! an entry of the group's own log, and what it brings is used in that group from there on. So all
//! replicas of a group change over at the same entry, and no build is given bytes that it cannot
//! read. This table is the only place that says which levels there are. The module knows nothing of
//! logs and disks.

use crate::state::{Levels, Node, NodeState, Topology};
use routing::NodeId;
use std::fmt;

/// The level of a cluster at its beginning, and of a build that does not tell any.
pub const FIRST_LEVEL: u32 = 1;

/// One level.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// Its number.
    pub number: u32,
    /// The number of the format of a data directory in which it is used.
    pub format: u32,
    /// What it brings, for people.
    pub brings: &'static str,
}

/// The levels that this build knows, in order. A new one is added at the end. The first one goes
/// once no supported build begins with it.
pub const LEVELS: [Level; 2] = [
    Level { number: FIRST_LEVEL, format: 5, brings: "what version 0.2.0 began with" },
    Level {
        number: 2,
        format: 6,
        brings: "each group's record has its level, and the entry of its last change of members; history \
                 takes half the processor time",
    },
];

/// The first and the last level that this build knows.
pub const KNOWN_LEVELS: Levels =
    Levels { min: LEVELS[0].number, max: LEVELS[LEVELS.len() - 1].number };

/// A level is active that a build does not know.
///
/// ```
/// use palisade_topology::Levels;
///
/// let former = Levels { min: 1, max: 1 };
/// assert_eq!(
///     former.check(2).unwrap_err().to_string(),
///     "level 2 is active, this build knows 1: start the newer one"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("level {active} is active, this build knows {known}: {}", next(.known, .active))]
pub struct LevelNotKnown {
    /// The active level.
    pub active: u32,
    /// The levels that the build knows.
    pub known: Levels,
}

fn next(known: &Levels, active: &u32) -> &'static str {
    match *active > known.max {
        true => "start the newer one",
        false => "start one between them, and upgrade the cluster one release at a time",
    }
}

impl Levels {
    /// The levels of a build that told these two numbers. 0 and 0 are told by a build of the time
    /// before levels.
    pub fn told(min: u32, max: u32) -> Levels {
        match (min, max) {
            (0, 0) => Levels { min: FIRST_LEVEL, max: FIRST_LEVEL },
            (min, max) => Levels { min, max },
        }
    }

    /// Checks that a build with these levels can take part while `active` is active.
    ///
    /// # Errors
    /// [`LevelNotKnown`].
    pub fn check(self, active: u32) -> Result<(), LevelNotKnown> {
        match self.contains(active) {
            true => Ok(()),
            false => Err(LevelNotKnown { active, known: self }),
        }
    }
}

/// `1`, or `1 to 2`.
impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => self.min.fmt(f),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

impl Topology {
    /// The active level: the first one while no cluster was founded.
    pub fn level(&self) -> u32 {
        self.cluster.level.max(FIRST_LEVEL)
    }

    /// The nodes that have not told that they know a level. Removed ones do not count.
    pub(crate) fn without_level(&self, level: u32) -> Vec<NodeId> {
        let knows = |node: &Node| node.levels.is_some_and(|levels| levels.contains(level));
        let counts = |node: &Node| node.state != NodeState::Removed && !knows(node);
        self.nodes.iter().filter(|(_, node)| counts(node)).map(|(id, _)| *id).collect()
    }
}

/// The level with this number, if this build knows it.
pub fn level(number: u32) -> Option<&'static Level> {
    LEVELS.iter().find(|level| level.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_one_by_one_and_formats_with_them() {
        for pair in LEVELS.windows(2) {
            assert_eq!(pair[0].number + 1, pair[1].number);
            assert!(pair[0].format <= pair[1].format);
        }
        assert_eq!(KNOWN_LEVELS, Levels { min: 1, max: 2 });
        assert_eq!((level(2).map(|level| level.format), level(3).is_none()), (Some(6), true));
    }

    #[test]
    fn a_build_that_tells_nothing_knows_the_first_level() {
        assert_eq!(Levels::told(0, 0), Levels { min: 1, max: 1 });
        assert_eq!(Levels::told(2, 3), Levels { min: 2, max: 3 });
        assert!(Levels::told(0, 0).check(1).is_ok());
    }

    #[test]
    fn a_build_that_is_too_old_or_too_new_is_told_which_one_to_start() {
        let newer = Levels { min: 1, max: 2 }.check(3).unwrap_err().to_string();
        assert_eq!(newer, "level 3 is active, this build knows 1 to 2: start the newer one");
        let older = Levels { min: 2, max: 3 }.check(1).unwrap_err().to_string();
        assert!(older.contains("one release at a time"), "{older}");
        assert_eq!(Topology::default().level(), 1);
    }
}
