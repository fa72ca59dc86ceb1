//! The start of a replica: from the bytes that its last run left on disk, or empty.

use super::{Replica, Stats};
use crate::api::*;
use crate::machine::Machine;
use crate::parts::applied::decode_applied;
use crate::parts::checkpointing::Checkpointing;
use crate::parts::disk_health::DiskHealth;
use crate::parts::first_topology::FirstTopology;
use crate::parts::handover::Handover;
use crate::parts::kept::Kept;
use crate::parts::membership::Incarnations;
use crate::parts::oldest::Oldest;
use crate::parts::proposals::Proposals;
use crate::parts::read_cache::ReadCache;
use crate::parts::reads::Reads;
use crate::parts::shard_time::Observation;
use crate::parts::step_write::{StepWrite, UnsyncedReadies};
use crate::parts::wakes::Wakes;
use crate::parts::watching::Watching;
use crate::planted_bugs;
use crate::raft::conf_state::check_conf;
use crate::raft::log_store::LogStore;
use crate::raft::logger::logger;
use crate::raft::peer_id::peer_id;
use locks::Effects;
use raft::eraftpb::{ConfState, Entry, HardState, SnapshotMetadata};
use raft::{RawNode, ReadOnlyOption};
use raft_prost::Message as _;
use std::collections::VecDeque;
use storage::Recovered;
use topology::{Seed, Topology};

/// One append message carries entries of at most this many bytes.
const APPEND_BYTES_MAX: u64 = 256 << 10;
/// A follower is sent at most so many appends that it has not acknowledged, or twice as many as a leader
/// has entries in flight. The rest is for one that catches up, and bounds what one step of the leader
/// reads and sends.
const APPENDS_AT_ONCE: usize = 8;
/// One step applies half to one and a half times so many bytes of entries, if there are as many: some
/// 5 ms of a slow processor. The next step goes on at once.
pub(super) const APPLIED_BYTES_PER_STEP: u64 = 64 << 10;
/// A leader takes no more proposals while this many bytes are uncommitted.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;

impl Replica {
    /// Goes on where the last run stopped, or starts empty if there was none.
    ///
    /// # Errors
    /// [`Fatal`] if the recovered bytes are damaged, or contradict each other.
    pub fn open(config: ReplicaConfig, recovered: Recovered, now: Now) -> Result<Replica, Fatal> {
        let incarnation = planted_bugs::incarnation(config.incarnation);
        let (shard, id) = (config.shard, peer_id(config.node, incarnation));
        let fatal = |what: String| Fatal { shard, what };
        let (store, applied, kept) = open_log(&config, &recovered)?;
        let machine = Machine::load(shard, recovered.table)
            .map_err(|e| fatal(format!("the checkpoint: {e}")))?;
        let stored_last = store.last();
        let incarnations = Incarnations::new(config.node, store.conf_state());
        let raft_config = raft::Config {
            id,
            election_tick: config.raft.election_ticks,
            heartbeat_tick: config.raft.heartbeat_ticks,
            min_election_tick: config.raft.election_ticks,
            max_election_tick: config.election_ticks_below(),
            applied: applied.index,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPENDS_AT_ONCE.max(2 * config.raft.entries_in_flight_max),
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // raft-rs adds new entries to any empty append that is still to be sent, even to one
            // that stands elsewhere in the log (its `is_continuous_ents`). The receiver would
            // acknowledge entries that it does not have. Entries are batched before they get here.
            batch_append: planted_bugs::appends_are_batched(false),
            // A commit index travels with the next append or heartbeat. Messages of its own, and
            // their acknowledgements, would be half of all messages under load.
            skip_bcast_commit: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: APPLIED_BYTES_PER_STEP,
            ..Default::default()
        };
        let raw = RawNode::new(&raft_config, store, &logger(shard, config.node))
            .map_err(|e| fatal(format!("starting Raft: {e}")))?;
        let mut replica = Replica {
            proposals: Proposals::new(
                config.raft.queue_ops_max,
                config.raft.entry_bytes_max,
                config.raft.entries_in_flight_max,
            ),
            reads: Reads::new(
                id,
                config.boot,
                config.raft.queue_ops_max,
                2 * config.raft.heartbeat_ticks,
                3 * config.raft.election_ticks,
            ),
            checkpointing: Checkpointing::new(applied.index, now.mono_ms),
            step_write: StepWrite::new(stored_last),
            raw,
            observation: Observation::new(machine.shard_ms(), now),
            machine,
            seed: None,
            now,
            applied_index: applied.index,
            conf_index: kept.reached.map_or(applied.index, |reached| reached.conf_index),
            members_doubted_at: Some(stored_last),
            applied_term: applied.term,
            leader_state: None,
            leadership: Leadership::default(),
            retry_reads: false,
            read_cache: ReadCache::default(),
            oldest: Oldest::default(),
            told_committed: 0,
            watching: Watching::default(),
            wakes: Wakes::default(),
            applied_bytes: 0,
            unsynced: UnsyncedReadies::default(),
            incoming: None,
            incarnations,
            kept,
            founds_meta: false,
            told_founders: false,
            disk: DiskHealth::default(),
            handover: Handover::default(),
            stands_aside: false,
            committed_at_ticks: [0; 2],
            effects: Effects::default(),
            out: Outputs::default(),
            stats: Stats::default(),
            leader_contact_ms: now.mono_ms,
            config,
        };
        replica.seed_election_timeout();
        Ok(replica)
    }

    /// Lets the host build snapshots off the replica's thread ([`Outputs::wants_snapshot`]).
    /// Otherwise the replica builds them itself, in the step that wants them.
    #[must_use]
    pub fn with_host_built_snapshots(mut self) -> Replica {
        self.checkpointing.host_builds = true;
        self
    }

    /// Lets this replica of shard 0 have its log choose META's founders while it leads, if none are
    /// chosen yet ([`Outputs::founders`]).
    pub fn found_meta(&mut self) {
        self.founds_meta = true;
    }

    /// Gives the shard of the topology its beginning. If the topology is empty while this replica
    /// leads, it proposes this seed, with its own members as those of its group. Other shards have
    /// no use for it.
    #[must_use]
    pub fn with_seed(mut self, seed: Seed) -> Replica {
        self.seed = Some(FirstTopology::Seed(Box::new(seed)));
        self
    }

    /// As [`with_seed`](Self::with_seed), for a group that was founded again: the topology was built
    /// from what nodes know, and names the members of the group itself.
    #[must_use]
    pub fn with_rebuilt(mut self, topology: Topology) -> Replica {
        self.seed = Some(FirstTopology::Rebuilt(Box::new(topology)));
        self
    }
}

/// The log and the position of the table, checked against each other.
fn open_log(
    config: &ReplicaConfig,
    recovered: &Recovered,
) -> Result<(LogStore, SnapshotMetadata, Kept), Fatal> {
    let fatal = |what: String| Fatal { shard: config.shard, what };
    // A re-seeded replica starts with these voters too, and so does one on another node. It is no
    // member until the log says so, from its beginning or by a snapshot.
    let mut voters: Vec<u64> = config.voters.iter().map(|node| peer_id(*node, 0)).collect();
    voters.sort_unstable();
    let (applied, kept) = match &recovered.applied {
        Some(bytes) => {
            decode_applied(bytes).map_err(|e| fatal(format!("the applied record: {e}")))?
        }
        None => {
            let conf_state = Some(ConfState { voters, ..Default::default() });
            (SnapshotMetadata { conf_state, index: 0, term: 0 }, Kept::default())
        }
    };
    let mut entries = VecDeque::with_capacity(recovered.entries.len());
    for (index, bytes) in &recovered.entries {
        let entry = Entry::decode(bytes.as_slice())
            .map_err(|e| fatal(format!("log entry {index}: {e}")))?;
        if entry.index != *index {
            return Err(fatal(format!("log entry {index} says it is entry {}", entry.index)));
        }
        entries.push_back(entry);
    }
    let (mut truncated_index, mut truncated_term) = (applied.index, applied.term);
    if let Some(first) = entries.front()
        && first.index <= applied.index
    {
        (truncated_index, truncated_term) = (first.index, first.term);
        entries.pop_front();
    }
    if entries.front().is_some_and(|first| first.index != truncated_index + 1) {
        return Err(fatal(format!(
            "the log starts at {} after {truncated_index}",
            entries[0].index
        )));
    }
    let last = truncated_index + entries.len() as u64;
    let mut hard_state = match &recovered.hard_state {
        Some(bytes) => HardState::decode(bytes.as_slice())
            .map_err(|e| fatal(format!("the hard state: {e}")))?,
        None => HardState::default(),
    };
    if last < applied.index || hard_state.commit > last {
        let (applied, commit) = (applied.index, hard_state.commit);
        return Err(fatal(format!(
            "the log ends at {last}, before applied {applied} or committed {commit}"
        )));
    }
    // A commit index that moved alone was not written. But applied entries were committed.
    hard_state.commit = hard_state.commit.max(applied.index);
    let conf_state = applied.get_conf_state().clone();
    check_conf(&conf_state).map_err(|e| fatal(format!("the applied record: {e}")))?;
    let store = LogStore::new(hard_state, conf_state, truncated_index, truncated_term, entries);
    Ok((store, applied, kept))
}
