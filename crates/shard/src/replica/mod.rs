//! The replica: inputs in, outputs out.

mod apply;
mod checkpoints;
mod disk;
mod leadership;
mod members;
mod open;
mod ready;
mod receive;
mod sending;
mod serve;
mod step;

use crate::api::*;
use crate::parts::checkpointing::Checkpointing;
use crate::parts::disk_health::DiskHealth;
use crate::parts::leader::LeaderState;
use crate::parts::membership::Incarnations;
use crate::parts::proposals::Proposals;
use crate::parts::read_cache::ReadCache;
use crate::parts::reads::Reads;
use crate::parts::shard_time::Observation;
use crate::parts::step_write::{StepWrite, UnsyncedReadies};
use crate::raft::log_store::LogStore;
use crate::raft::peer_id::{incarnation_of, node_of};
use crate::snapshot::LoadedSnapshot;
use locks::{Effects, LockTable};
use raft::RawNode;
use routing::NodeId;

/// One replica of one shard.
///
/// * `applied_index` is the table's position: the table holds exactly the committed entries up to it.
/// * `observation` is of the last stamped entry that the table holds, or of when the table was loaded.
/// * `leader_state` is there exactly while this replica leads; deadlines, attached waiters and held appends live and die with it.
/// * Nothing is answered "done" but from `apply.rs`, which sees only entries that a quorum has on disk.
pub struct Replica {
    config: ReplicaConfig,
    raw: RawNode<LogStore>,
    table: LockTable,
    observation: Observation,
    now: Now,
    applied_index: u64,
    applied_term: u64,
    proposals: Proposals,
    leader_state: Option<LeaderState>,
    leadership: Leadership,
    reads: Reads,
    read_cache: ReadCache,
    retry_reads: bool,
    unsynced: UnsyncedReadies,
    step_write: StepWrite,
    checkpointing: Checkpointing,
    incoming: Option<LoadedSnapshot>,
    incarnations: Incarnations,
    disk: DiskHealth,
    committed_at_ticks: [u64; 2],
    effects: Effects,
    out: Outputs,
    stats: Stats,
    leader_contact_ms: u64,
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
    /// The hash of the table by reading all of it, to compare with [`Query::Status`]: for tests.
    pub fn state_hash_from_scratch(&self) -> u64 {
        self.table.state_hash_from_scratch()
    }

    /// The state without its hash (cheap).
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let is_leader = self.role() == Role::Leader;
        let caught_up = |(id, progress): (&u64, &raft::Progress)| {
            let close = *id == raft.id || self.is_caught_up(progress);
            (is_leader && close && raft.prs().conf().voters().contains(*id)).then(|| node_of(*id))
        };
        let mut caught_up: Vec<NodeId> = raft.prs().iter().filter_map(caught_up).collect();
        caught_up.sort_unstable();
        Status {
            shard: self.config.shard,
            node: self.config.node,
            role: self.role(),
            leader: self.leadership.leader,
            term: raft.term,
            committed_index: raft.raft_log.committed,
            applied_index: self.applied_index,
            first_index: self.raw.store().first(),
            last_index: raft.raft_log.last_index(),
            checkpoint_index: self.checkpointing.index,
            state_hash: 0,
            last_token: self.table.last_token().0,
            shard_ms: self.table.shard_ms(),
            counts: self.table.counts(),
            snapshots_installed: self.stats.snapshots_installed,
            leader_changes: self.stats.leader_changes,
            entries_applied: self.stats.entries_applied,
            commands_applied: self.stats.commands_applied,
            caught_up,
            incarnation: incarnation_of(raft.id),
            members: self.members(),
        }
    }

    pub(super) fn fatal(&self, what: String) -> Fatal {
        Fatal { shard: self.config.shard, what }
    }
}
