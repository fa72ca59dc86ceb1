//! The replica: its state, which `parts/` divides into pieces with rules of their own, and its
//! status. Each file below adds the methods for one thing that a replica does.
//!
//! ```text
//! step.rs         inputs ──► handle each ──► drain Ready ──► reads, checkpoint, write ──► outputs
//! receive.rs      a peer's message, checked, then to raft-rs
//! ready.rs        raft-rs's Ready: send, apply, write, and wait for the disk, in this order
//! apply.rs        committed entries into the state machine, and the answers that follow
//! meta.rs         what only META does, the shard of the topology, and its founding by shard 0
//! sending.rs      appends for spare followers, a little later
//! leadership.rs   the beginning and the end of leading
//! members.rs      changes of the group's members
//! level.rs        the level of formats and commands that the group has reached
//! checkpoints.rs  checkpoints, cuts of the log, and snapshots
//! serve.rs        answers to reads
//! disk.rs         leading and voting while the node's disk hangs or is slow
//! handover.rs     leadership goes to another replica, and leaves no operation in doubt
//! open.rs         the start
//! ```

mod apply;
mod checkpoints;
mod disk;
mod handover;
mod leadership;
mod level;
mod members;
mod meta;
mod open;
mod ready;
mod receive;
mod sending;
mod serve;
mod step;

use crate::api::*;
use crate::machine::Machine;
use crate::parts::checkpointing::Checkpointing;
use crate::parts::disk_health::DiskHealth;
use crate::parts::first_topology::FirstTopology;
use crate::parts::handover::Handover;
use crate::parts::kept::Kept;
use crate::parts::leader::LeaderState;
use crate::parts::membership::Incarnations;
use crate::parts::oldest::Oldest;
use crate::parts::proposals::Proposals;
use crate::parts::read_cache::ReadCache;
use crate::parts::reads::Reads;
use crate::parts::shard_time::Observation;
use crate::parts::step_write::{StepWrite, UnsyncedReadies};
use crate::parts::wakes::Wakes;
use crate::parts::watching::Watching;
use crate::raft::log_store::LogStore;
use crate::raft::peer_id::{incarnation_of, node_of};
use crate::snapshot::LoadedSnapshot;
use locks::{Effects, LockTable};
use raft::RawNode;
use routing::NodeId;
use topology::Topology;

/// One replica of one shard.
///
/// * The machine holds exactly the committed entries up to `applied_index`.
/// * `observation` belongs to the last stamped entry in the machine, or to the moment when that was
///   loaded.
/// * `leader_state` is there exactly while this replica leads. Lease deadlines, attached waiters
///   and delayed appends live and die with it.
/// * Only `apply.rs` answers "done", and it sees only entries that a quorum has on disk.
/// * `out` collects the outputs of the step under way, and is empty between steps.
pub struct Replica {
    config: ReplicaConfig,
    raw: RawNode<LogStore>,
    /// The clocks of this step.
    now: Now,

    machine: Machine,
    /// The first topology. A leader of the topology's shard proposes it if there is none yet.
    seed: Option<FirstTopology>,
    applied_index: u64,
    applied_term: u64,
    observation: Observation,
    /// Kept between entries, so that applying one allocates nothing for it.
    effects: Effects,

    leadership: Leadership,
    leader_state: Option<LeaderState>,
    /// On the monotonic clock, in milliseconds: the last message from the leader.
    leader_contact_ms: u64,
    /// The highest commit index in an append of a leader.
    told_committed: u64,
    /// The commit index at the last two ticks, the older one first.
    committed_at_ticks: [u64; 2],
    incarnations: Incarnations,
    /// The index of the last change of members, or of the checkpoint or snapshot that was loaded after
    /// it. From level 2 on the record has it (`parts/level.rs`).
    conf_index: u64,
    /// Until a majority of the members know from their disks that they are the members: the last
    /// entry that may have been sent without a word of it (`members.rs`).
    members_doubted_at: Option<u64>,
    /// The last wish of the log for members, the founders of META, and the level, as of the applied
    /// index.
    kept: Kept,
    /// As a leader of shard 0, this replica has the log choose META's founders.
    founds_meta: bool,
    /// The host knows META's founders.
    told_founders: bool,
    disk: DiskHealth,
    handover: Handover,
    /// This replica asks for no votes, because its host is about to end.
    stands_aside: bool,

    proposals: Proposals,
    reads: Reads,
    read_cache: ReadCache,
    watching: Watching,
    wakes: Wakes,
    /// Bytes of the entries that this step has applied.
    applied_bytes: u64,
    /// The leader has changed, so the round of reads under way is tried again.
    retry_reads: bool,

    step_write: StepWrite,
    unsynced: UnsyncedReadies,
    checkpointing: Checkpointing,
    /// A peer's snapshot that raft-rs has accepted in this step and not yet handed out.
    incoming: Option<LoadedSnapshot>,

    oldest: Oldest,

    out: Outputs,
    stats: Stats,
}

/// Counts since the start.
#[derive(Default)]
struct Stats {
    snapshots_installed: u64,
    leader_changes: u64,
    entries_applied: u64,
    commands_applied: u64,
    ticks: u64,
}

impl Replica {
    /// The hash of the state, computed by reading all of it. Tests compare it with the running
    /// hash of [`Query::Status`].
    pub fn state_hash_from_scratch(&self) -> u64 {
        match &self.machine {
            Machine::Locks(table) => table.state_hash_from_scratch(),
            Machine::Topology(machine) => machine.topology().state_hash(),
        }
    }

    /// The lock table as of the last applied entry, if the shard has one. Simulators look at it.
    pub fn table(&self) -> Option<&LockTable> {
        self.machine.locks()
    }

    /// The topology as of the last applied entry, if the shard has it.
    pub fn topology(&self) -> Option<&Topology> {
        match &self.machine {
            Machine::Locks(_) => None,
            Machine::Topology(machine) => Some(machine.topology()),
        }
    }

    /// The state without its hash, which makes it cheap.
    pub fn status(&self) -> Status {
        let (raft, table) = (&self.raw.raft, self.table());
        let is_leader = self.role() == Role::Leader;
        let caught_up = |id: u64| {
            let close = id == raft.id || self.is_caught_up(id);
            (is_leader && close && raft.prs().conf().voters().contains(id)).then(|| node_of(id))
        };
        let mut caught_up: Vec<NodeId> =
            raft.prs().iter().filter_map(|(id, _)| caught_up(*id)).collect();
        caught_up.sort_unstable();
        Status {
            shard: self.config.shard,
            node: self.config.node,
            role: self.role(),
            leader: self.leadership.leader,
            term: raft.term,
            committed_index: raft.raft_log.committed,
            told_committed_index: self.told_committed.max(raft.raft_log.committed),
            applied_index: self.applied_index,
            first_index: self.raw.store().first(),
            last_index: raft.raft_log.last_index(),
            checkpoint_index: self.checkpointing.index,
            state_hash: 0,
            last_token: table.map_or(0, |table| table.last_token().0),
            shard_ms: self.machine.shard_ms(),
            counts: table.map(LockTable::counts).unwrap_or_default(),
            oldest_grant_ms: self.oldest.acquired_wall_ms(),
            snapshots_installed: self.stats.snapshots_installed,
            leader_changes: self.stats.leader_changes,
            entries_applied: self.stats.entries_applied,
            commands_applied: self.stats.commands_applied,
            caught_up,
            successors: if is_leader { self.successors() } else { Vec::new() },
            incarnation: incarnation_of(raft.id),
            members: self.members(),
            conf_index: self.conf_index,
            members_durable: is_leader && self.members_doubted_at.is_none(),
            wanted: self.kept.wanted.clone(),
            level: self.level(),
            topology_version: self.topology().map(Topology::version),
        }
    }

    pub(super) fn fatal(&self, what: String) -> Fatal {
        Fatal { shard: self.config.shard, what }
    }
}
