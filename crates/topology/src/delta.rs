//! What changed from one version to the next, and the last changes.
//!
//! A state is a set of rows, and a delta has the rows that are new or changed, in full. So to follow
//! a delta is to put its rows. This module knows nothing of the way by which deltas travel.

use crate::codec::{record, tagged};
use crate::state::*;
use routing::{NodeId, ShardId};
use std::collections::VecDeque;

/// How many deltas are kept for processes that were away.
pub const DELTAS_KEPT: usize = 1_024;

/// A part of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// What concerns the cluster as a whole.
    Cluster {
        /// The new value.
        cluster: Cluster,
    },
    /// The owners of all slots.
    Slots {
        /// In order, each with the number of neighbouring slots it owns.
        runs: Vec<(u32, ShardId)>,
    },
    /// A node.
    Node {
        /// Its id.
        id: NodeId,
        /// The new value.
        node: Node,
    },
    /// A shard.
    Shard {
        /// Its id.
        id: ShardId,
        /// The new value.
        shard: Shard,
    },
    /// A job.
    Job {
        /// Its id.
        id: JobId,
        /// The new value.
        job: Job,
    },
    /// A job that ended long ago and is forgotten.
    NoJob {
        /// Its id.
        id: JobId,
    },
}

/// The change from the version before to `version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The version after the change.
    pub version: Version,
    /// The rows that are new or changed.
    pub rows: Vec<Row>,
}

/// A delta that does not follow the version of a copy: ask for the whole state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a change to version {delta} does not follow version {known}: ask for the whole topology")]
pub struct Gap {
    /// The version of the copy.
    pub known: Version,
    /// The version of the delta.
    pub delta: Version,
}

tagged!(Row {
    1 => Cluster { cluster },
    2 => Slots { runs },
    3 => Node { id, node },
    4 => Shard { id, shard },
    5 => Job { id, job },
    6 => NoJob { id },
});
record!(Delta { version, rows });

impl Topology {
    /// Follows a change. A change that is known already is passed over.
    ///
    /// # Errors
    /// [`Gap`] if changes before it are missing.
    pub fn follow(&mut self, delta: &Delta) -> Result<(), Gap> {
        if delta.version <= self.version {
            return Ok(());
        }
        if delta.version != self.version.next() {
            return Err(Gap { known: self.version, delta: delta.version });
        }
        self.version = delta.version;
        delta.rows.iter().cloned().for_each(|row| self.put(row));
        Ok(())
    }

    fn put(&mut self, row: Row) {
        match row {
            Row::Cluster { cluster } => self.cluster = cluster,
            Row::Slots { runs } => self.slots = runs,
            Row::Node { id, node } => drop(self.nodes.insert(id, node)),
            Row::Shard { id, shard } => drop(self.shards.insert(id, shard)),
            Row::Job { id, job } => drop(self.jobs.insert(id, job)),
            Row::NoJob { id } => drop(self.jobs.remove(&id)),
        }
    }

    /// Whether putting this row would change nothing.
    pub(crate) fn has(&self, row: &Row) -> bool {
        match row {
            Row::Cluster { cluster } => self.cluster == *cluster,
            Row::Slots { runs } => self.slots == *runs,
            Row::Node { id, node } => self.nodes.get(id) == Some(node),
            Row::Shard { id, shard } => self.shards.get(id) == Some(shard),
            Row::Job { id, job } => self.jobs.get(id) == Some(job),
            Row::NoJob { id } => !self.jobs.contains_key(id),
        }
    }
}

/// The last deltas of a topology, for processes that know an older version.
///
/// - The versions follow each other without a gap.
/// - At most [`DELTAS_KEPT`] are kept.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    deltas: VecDeque<Delta>,
}

/// What a process that knows an older version needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since<'a> {
    /// These changes, in order. None if the process is up to date.
    Deltas(Vec<&'a Delta>),
    /// The whole state, because changes that it lacks are kept no more.
    All,
}

impl Recent {
    /// Keeps a delta, and drops the oldest one if there are too many. A delta that does not follow
    /// the last one drops all others, as after a snapshot.
    pub fn push(&mut self, delta: Delta) {
        if self.deltas.back().is_some_and(|last| last.version.next() != delta.version) {
            self.deltas.clear();
        }
        self.deltas.push_back(delta);
        if self.deltas.len() > DELTAS_KEPT {
            self.deltas.pop_front();
        }
    }

    /// What a process that knows version `known` lacks up to version `now`.
    pub fn since(&self, known: Version, now: Version) -> Since<'_> {
        if known == now {
            return Since::Deltas(Vec::new());
        }
        let lacking = self.deltas.iter().filter(|delta| delta.version > known);
        let lacking: Vec<&Delta> = lacking.collect();
        let is_whole = lacking.first().is_some_and(|first| first.version == known.next())
            && lacking.last().is_some_and(|last| last.version == now);
        if is_whole { Since::Deltas(lacking) } else { Since::All }
    }
}
