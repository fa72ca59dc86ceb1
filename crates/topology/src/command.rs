//! The commands that change a topology.
//!
//! Three kinds of callers propose them, and a command belongs to one kind:
//!
//! ```text
//! facts         NodeIs, Is                       of nodes and leaders: late, twice, in any order
//! intent        Want, Prefer, JobProgress        of the controller
//! operators     Job, Cancel, Set, ActivateLevel  may say at which version they were planned
//! ```
//!
//! `SetNodeState` is of the controller and of operators. `Bootstrap` is of META's first leader, and
//! `Refound` of the first leader of a META that was founded again.
//! This module knows nothing of what a command does.

use crate::codec::{record, tagged};
use crate::seed::Seed;
use crate::state::*;
use crate::why::Why;
use routing::{AddressVersion, NodeId, ShardId};
use std::collections::BTreeSet;

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Wall time of the proposer, in seconds. Births come from it.
    pub wall_s: u64,
    /// The version that the command was planned at. If another change has come between, the
    /// command is refused.
    pub planned_at: Option<Version>,
    /// The command.
    pub command: Command,
}

impl Proposal {
    /// A proposal of a command that is right at every version.
    pub fn new(wall_s: u64, command: Command) -> Proposal {
        Proposal { wall_s, planned_at: None, command }
    }
}

/// A change of the topology. Each is idempotent: a second one like it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Founds the cluster.
    Bootstrap {
        /// The first topology.
        seed: Seed,
    },
    /// A node tells what it is. A node that is not known joins by this.
    NodeIs {
        /// What it tells.
        told: NodeTold,
    },
    /// Changes what a node may be used for.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Its new state.
        state: NodeState,
    },
    /// Changes the members that a shard should have. The topology gives births to new ones.
    Want {
        /// The shard.
        shard: ShardId,
        /// The nodes of all members.
        members: BTreeSet<NodeId>,
    },
    /// A leader tells which members its group has.
    Is {
        /// The shard.
        shard: ShardId,
        /// The members.
        members: Members,
    },
    /// Changes the member that should lead.
    Prefer {
        /// The shard.
        shard: ShardId,
        /// The member's node.
        node: NodeId,
    },
    /// Starts a job.
    Job {
        /// The random id of the request.
        request: RequestId,
        /// What is to be done.
        kind: JobKind,
    },
    /// The controller tells how a job stands.
    JobProgress {
        /// The job.
        job: JobId,
        /// How far it is.
        progress: Progress,
        /// Why it does not go on.
        why: Option<Why>,
        /// Whether it is done.
        is_done: bool,
    },
    /// Ends a job. What it did stays done.
    Cancel {
        /// The job.
        job: JobId,
    },
    /// Activates a level of formats and commands.
    ActivateLevel {
        /// The level.
        level: u32,
    },
    /// Changes a setting.
    Set {
        /// The setting, with its new value.
        setting: Setting,
    },
    /// Founds the cluster again, with a topology that was built from what nodes know
    /// ([`rebuild`](crate::rebuild)).
    Refound {
        /// That topology.
        topology: Box<Topology>,
    },
}

/// What a node tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTold {
    /// Its id.
    pub node: NodeId,
    /// `host:port` at which other processes dial it.
    pub address: String,
    /// Failure zone.
    pub zone: Option<String>,
    /// The name of its data directory.
    pub store: StoreId,
    /// Its present start. A later start is believed, and an earlier one is old news.
    pub start: AddressVersion,
    /// The levels that its program knows.
    pub levels: Levels,
    /// The version of its program, for people.
    pub binary: String,
}

/// A setting with its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// After how long without a report a node's replicas are replaced. `None` is never.
    RepairAfter {
        /// Seconds.
        seconds: Option<u64>,
    },
    /// Most bytes of snapshots that a node sends per second.
    SnapshotBytesPerS {
        /// Bytes.
        bytes: u64,
    },
    /// Whether plans rest.
    Paused {
        /// Whether they do.
        paused: bool,
    },
}

record!(Proposal { wall_s, planned_at, command });
record!(NodeTold { node, address, zone, store, start, levels, binary });

tagged!(Command {
    1 => Bootstrap { seed },
    2 => NodeIs { told },
    3 => SetNodeState { node, state },
    4 => Want { shard, members },
    5 => Is { shard, members },
    6 => Prefer { shard, node },
    7 => Job { request, kind },
    8 => JobProgress { job, progress, why, is_done },
    9 => Cancel { job },
    10 => ActivateLevel { level },
    11 => Set { setting },
    16 => Refound { topology },
});

tagged!(Setting {
    1 => RepairAfter { seconds },
    2 => SnapshotBytesPerS { bytes },
    3 => Paused { paused },
});
