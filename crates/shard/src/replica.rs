//! The replica: inputs in, outputs out.

use crate::api::*;
use crate::checkpoint::Checkpointing;
use crate::disk::Disk;
use crate::lead::Lead;
use crate::log_store::LogStore;
use crate::logger::logger;
use crate::membership::{Incarnations, check_conf};
use crate::peer::{incarnation_of, node_of, peer_id};
use crate::peer_message::{Refused, check_peer_message};
use crate::proposals::{Asked, Proposals};
use crate::reads::{Read, Reads};
use crate::ready::{Pending, UnpersistedQueue};
use crate::serve::Serving;
use crate::shard_time::Observed;
use crate::snapshot_message::LoadedSnapshot;
use locks::planted::{self, Bug};
use locks::{Effects, LockTable, Paused, Stamp};
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType, SnapshotMetadata};
use raft::{RawNode, ReadOnlyOption, SnapshotStatus};
use raft_prost::Message as _;
use routing::{NodeId, ShardId};
use std::collections::VecDeque;
use std::sync::Arc;
use storage::Recovered;

/// One append message carries entries of up to this many bytes.
const APPEND_BYTES_MAX: u64 = 1 << 20;
/// A leader takes no more proposals while this many bytes are uncommitted.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Ticks after start at which a preferred leader asks for votes, if nobody leads.
const FIRST_CAMPAIGN_TICKS: u64 = 3;

#[derive(Default)]
pub(crate) struct Stats {
    pub snapshots_installed: u64,
    pub leader_changes: u64,
    pub entries_applied: u64,
    pub commands_applied: u64,
    ticks: u64,
}

/// One replica of one shard.
///
/// * `applied_index` is the table's position: the table holds exactly the committed entries up to it.
/// * `observed` is of the last stamped entry that the table holds, or of when the table was loaded.
/// * `lead` is there exactly while this replica leads; deadlines, attached waiters and held appends live and die with it.
/// * Nothing is answered "done" but from [`apply`](crate::apply), which sees only entries that a quorum has on disk.
pub struct Replica {
    pub(crate) config: ReplicaConfig,
    pub(crate) raw: RawNode<LogStore>,
    pub(crate) table: LockTable,
    pub(crate) observed: Observed,
    pub(crate) now: Now,
    pub(crate) applied_index: u64,
    pub(crate) applied_term: u64,
    pub(crate) proposals: Proposals,
    pub(crate) lead: Option<Lead>,
    pub(crate) leadership: Leadership,
    pub(crate) reads: Reads,
    pub(crate) serving: Serving,
    pub(crate) retry_reads: bool,
    pub(crate) unpersisted: UnpersistedQueue,
    pub(crate) pending: Pending,
    pub(crate) checkpointing: Checkpointing,
    pub(crate) incoming: Option<LoadedSnapshot>,
    pub(crate) incarnations: Incarnations,
    pub(crate) disk: Disk,
    pub(crate) committed_at_ticks: [u64; 2],
    pub(crate) effects: Effects,
    pub(crate) out: Outputs,
    pub(crate) stats: Stats,
    heard_from_leader_ms: u64,
}

impl Replica {
    /// Takes up where the last run stopped, or starts empty if there was none.
    ///
    /// # Errors
    /// [`Fatal`] if what was recovered cannot be this shard's.
    pub fn open(config: ReplicaConfig, recovered: Recovered, now: Now) -> Result<Replica, Fatal> {
        let reseeded_as = if planted::is(Bug::ReseededUnderOldName) { 0 } else { config.incarnation }; // planted: as nobody new
        let (shard, id) = (config.shard, peer_id(config.node, reseeded_as));
        let fatal = |what: String| Fatal { shard, what };
        let (store, applied) = open_log(&config, &recovered)?;
        let table = LockTable::load(recovered.table).map_err(|e| fatal(format!("the lock table's checkpoint: {e}")))?;
        let stored_last = store.last();
        let incarnations = Incarnations::new(config.node, &config.voters, store.conf_state());
        let is_preferred = config.preferred_leader == config.node;
        let raft_config = raft::Config {
            id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            min_election_tick: config.election_ticks,
            max_election_tick: if is_preferred && config.election_seed.is_none() {
                config.election_ticks + config.election_ticks.div_ceil(4)
            } else {
                2 * config.election_ticks
            },
            applied: applied.index,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // raft-rs puts new entries on any empty append that is still to be sent, though it may stand elsewhere in the log
            // (its `is_continuous_ents`): the receiver would acknowledge entries that it does not have. Entries are batched
            // before they get here.
            batch_append: planted::is(Bug::AppendsBatchedByRaft),
            // A commit index travels with the next append, or the next heartbeat: a message of its own to each follower, and its
            // acknowledgement, would be half of all messages under load.
            skip_bcast_commit: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: 4 << 20,
            ..Default::default()
        };
        let raw = RawNode::new(&raft_config, store, &logger(shard, config.node))
            .map_err(|e| fatal(format!("starting Raft: {e}")))?;
        let mut replica = Replica {
            proposals: Proposals::new(config.queue_ops_max, config.entry_bytes_max, config.entries_in_flight_max),
            reads: Reads::new(
                id,
                config.boot,
                config.queue_ops_max,
                2 * config.heartbeat_ticks,
                3 * config.election_ticks,
            ),
            checkpointing: Checkpointing::new(applied.index, now.mono_ms),
            pending: Pending { stored_last, ..Default::default() },
            raw,
            observed: Observed::new(table.shard_ms(), now),
            table,
            now,
            applied_index: applied.index,
            applied_term: applied.term,
            lead: None,
            leadership: Leadership::default(),
            retry_reads: false,
            serving: Serving::default(),
            unpersisted: VecDeque::new(),
            incoming: None,
            incarnations,
            disk: Disk::default(),
            committed_at_ticks: [0; 2],
            effects: Effects::default(),
            out: Outputs::default(),
            stats: Stats::default(),
            heard_from_leader_ms: now.mono_ms,
            config,
        };
        replica.seed_election_timeout();
        Ok(replica)
    }

    /// Its host builds snapshots for it ([`Outputs::wants_snapshot`]), off its thread. Otherwise it builds them itself, in the step in
    /// which they are wanted.
    #[must_use]
    pub fn with_snapshots_apart(mut self) -> Replica {
        self.checkpointing.builds_apart = true;
        self
    }

    /// Takes `inputs` in order and returns everything that follows from them.
    ///
    /// # Errors
    /// [`Fatal`]: stop the process without answering anything more.
    pub fn step(&mut self, now: Now, inputs: impl IntoIterator<Item = Input>) -> Result<Outputs, Fatal> {
        debug_assert!(now.mono_ms >= self.now.mono_ms, "the monotonic clock went back");
        self.now = now;
        for input in inputs {
            self.take(input)?;
        }
        if let Some(lead) = &mut self.lead
            && !self.disk.hangs
        {
            if planted::is(Bug::ExpiryWithoutQuorum) {
                // planted: a leader, deposed or not, ends what is due without asking anybody
                for (lease, renewal_seq) in lead.take_due_leases(now.mono_ms) {
                    let table_ms = self.table.shard_ms();
                    let shard_ms = lead.clock.shard_ms(table_ms, now.mono_ms).unwrap_or(table_ms);
                    let stamp = Stamp { wall_ms: now.wall_ms, shard_ms };
                    let command = locks::Command::ExpireLease { lease, renewal_seq };
                    self.table.apply(stamp, &command, &mut Effects::default());
                }
            }
            lead.propose_due(now.mono_ms, &mut self.proposals);
        }
        loop {
            self.drain_ready()?;
            self.propose();
            self.read_rounds();
            if !self.raw.has_ready() {
                break;
            }
        }
        self.note_leadership();
        self.serve_reads();
        self.checkpoint_if_due();
        self.build_snapshot_if_wanted();
        self.out.write = self.take_write();
        let held_until_ms = self.release_held();
        let wakes = [self.proposals.wake_at_ms(now.mono_ms), held_until_ms, self.reads_wake_at_ms()];
        self.out.wake_at_ms = wakes.into_iter().flatten().min();
        Ok(std::mem::take(&mut self.out))
    }

    /// The hash of the table by reading all of it, to compare with [`Query::Status`]: for tests.
    pub fn state_hash_from_scratch(&self) -> u64 {
        self.table.state_hash_from_scratch()
    }

    /// The state without its hash (cheap).
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let is_leader = self.role() == Role::Leader;
        let caught_up = |(id, progress): (&u64, &raft::Progress)| {
            let close = *id == raft.id || self.is_level(progress);
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

    fn take(&mut self, input: Input) -> Result<(), Fatal> {
        match input {
            Input::Tick => self.tick(),
            Input::Peer(bytes) => return self.hear(&bytes),
            Input::SnapshotBuilt(built) => self.snapshot_built(built),
            Input::Snapshot(loaded) => return self.hear_snapshot(loaded),
            Input::Propose { ticket, command, wait, give_up_at_ms } => {
                let reply = if self.lead.is_none() {
                    self.not_leading()
                } else if self.disk.hangs {
                    Reply::NoLeader
                } else if self.proposals.push(Asked { ticket, wait }, command, give_up_at_ms) {
                    return Ok(());
                } else {
                    Reply::Busy
                };
                self.out.replies.push((ticket, reply));
            }
            Input::Read { ticket, query, linearizable } => self.read(ticket, query, linearizable),
            Input::Detach { ticket } => {
                // A stream that ends may leave thousands, so that those in lock queues are not looked for among what is proposed.
                let waited = self.lead.as_mut().is_some_and(|lead| lead.detach(ticket, self.now.mono_ms));
                if !waited {
                    self.proposals.detach(ticket);
                }
            }
            Input::Persisted { number } => self.release_persisted(number),
            Input::Unreachable { node } => {
                self.members_on(node).into_iter().for_each(|id| self.raw.report_unreachable(id));
            }
            Input::SnapshotSent { node, ok } => {
                self.snapshot_sent(node, ok);
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.members_on(node).into_iter().for_each(|id| self.raw.report_snapshot(id, status));
            }
            Input::Wake => {}
            Input::Disk { hangs, stretch } => self.on_disk(hangs, stretch),
            Input::Campaign => self.campaign(),
            // planted: nobody is told that it has forgotten everything
            Input::Incarnation { .. } if planted::is(Bug::ReseededUnderOldName) => {}
            Input::Incarnation { node, incarnation } => self.incarnations.learn(node, incarnation),
            Input::Transfer { to } => {
                if self.lead.is_some()
                    && let Some(id) = self.voter_on(to)
                {
                    self.raw.transfer_leader(id);
                }
            }
        }
        Ok(())
    }

    fn tick(&mut self) {
        self.stats.ticks += 1;
        self.committed_at_ticks = [self.committed_at_ticks[1], self.raw.raft.raft_log.committed];
        if self.disk.hangs {
            self.tick_without_disk();
            if let Some(context) = self.reads.tick(&mut self.out.replies) {
                self.raw.read_index(context);
            }
            return self.seed_election_timeout();
        }
        self.stretch_election_timeout(self.stats.ticks);
        if !self.awaits_snapshot() {
            self.raw.tick();
        }
        self.change_membership();
        self.seed_election_timeout();
        if self.stats.ticks == FIRST_CAMPAIGN_TICKS
            && self.config.preferred_leader == self.config.node
            && self.leadership.leader.is_none()
        {
            self.campaign();
        }
        if let Some(context) = self.reads.tick(&mut self.out.replies) {
            self.raw.read_index(context);
        }
    }

    /// A snapshot took the place of the log and is not on disk yet, so raft-rs counts its state as not applied. Should
    /// an election begin, it would look for the entries that led there, and panic.
    fn awaits_snapshot(&self) -> bool {
        self.raw.raft.raft_log.applied + 1 < self.raw.store().first()
    }

    fn campaign(&mut self) {
        // raft-rs asks a learner, or one who is no member, about that only where it campaigns by itself.
        if self.awaits_snapshot() || self.disk.hangs || !self.raw.raft.promotable() {
            return;
        }
        if let Err(error) = self.raw.campaign() {
            tracing::debug!(shard = self.config.shard.0, node = self.config.node.0, "not campaigning: {error}");
        }
    }

    /// A peer's bytes. Whatever is not for this replica, comes from one that has been replaced, or only a local caller may
    /// say, is dropped: Raft tolerates loss.
    fn hear(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let drop = |from: u64, what: &dyn std::fmt::Display| {
            tracing::warn!(shard, node, from = node_of(from).0, "dropped a peer's message: {what}");
            Ok(())
        };
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => return drop(0, &error),
        };
        if message.msg_type() != MessageType::MsgSnapshot {
            return self.hear_message(message, None);
        }
        // A damaged one will be sent again.
        match LoadedSnapshot::of(message) {
            Ok(loaded) => self.hear_snapshot(Arc::new(loaded)),
            Err(what) => drop(0, &what),
        }
    }

    fn hear_snapshot(&mut self, loaded: Arc<LoadedSnapshot>) -> Result<(), Fatal> {
        match Arc::into_inner(loaded) {
            Some(loaded) => self.hear_message(loaded.message.clone(), Some(loaded)),
            None => Ok(()),
        }
    }

    fn hear_message(&mut self, mut message: Message, snapshot: Option<LoadedSnapshot>) -> Result<(), Fatal> {
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let drop = |from: u64, what: &dyn std::fmt::Display| {
            tracing::warn!(shard, node, from = node_of(from).0, "dropped a peer's message: {what}");
            Ok(())
        };
        let from = message.from;
        if message.to != self.raw.raft.id || !self.incarnations.may_speak(from) {
            // Nothing strange: until a replica that was lost is removed, what is meant for it comes to who takes its place.
            let (from, to) = (node_of(from).0, message.to);
            tracing::debug!(shard, node, from, to, "dropped a message for or from somebody else");
            return Ok(());
        }
        match check_peer_message(&mut message, &self.raw.raft) {
            Ok(()) => {}
            Err(Refused::Nonsense(what)) => return drop(from, &what),
            Err(Refused::DataLost(what)) => return Err(self.fatal(what)),
        }
        if message.msg_type() == MessageType::MsgTimeoutNow && self.awaits_snapshot()
            || self.needs_disk(message.msg_type())
        {
            return Ok(());
        }
        let term = message.term;
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(shard, node, from = node_of(from).0, "Raft refused a message: {error}");
        }
        if let Some(loaded) = snapshot {
            self.keep_if_accepted(loaded);
        }
        if let Some(lead) = &mut self.lead
            && term == self.raw.raft.term
            && self.raw.raft.prs().get(from).is_some()
        {
            lead.heard(from, self.now.mono_ms);
        }
        if self.raw.raft.leader_id == from {
            self.heard_from_leader_ms = self.now.mono_ms;
        }
        self.seed_election_timeout();
        Ok(())
    }

    fn read(&mut self, ticket: Ticket, query: Query, linearizable: bool) {
        let deposed = planted::is(Bug::ReadsWhileDeposed) && self.lead.is_some(); // planted: a leader just answers
        let needs_round = linearizable && !deposed;
        if needs_round && (self.leadership.leader.is_none() || self.disk.hangs) {
            self.out.replies.push((ticket, Reply::NoLeader));
            return;
        }
        let read = Read { ticket, query, linearizable: needs_round, paused: Paused::default() };
        let taken = if needs_round { self.reads.push(read) } else { self.reads.push_ready(read) };
        if !taken {
            self.out.replies.push((ticket, Reply::Busy));
        }
    }

    /// How old this replica's state may be: since when a follower has not heard of a leader, and a leader, which may have been
    /// deposed since, not of a majority. A hint: what waited in a socket counts as heard when it is taken from there, and a
    /// spare follower hears heartbeats before the entries that are held for it. A leader that has not applied an entry of its own
    /// term may lack what its predecessor acknowledged, and counts as a follower.
    pub(crate) fn stale_by_ms(&self) -> u64 {
        let raft = &self.raw.raft;
        let since_ms = match &self.lead {
            Some(lead) if self.applied_term == raft.term => {
                let voters = raft.prs().conf().voters().ids();
                let others = voters.iter().filter(|id| *id != raft.id);
                let mut heard_ms: Vec<u64> = others.map(|id| lead.last_heard_ms(id)).collect();
                heard_ms.sort_unstable_by(|a, b| b.cmp(a));
                // With itself, so many others are a majority.
                match heard_ms.len().div_ceil(2) {
                    0 => self.now.mono_ms,
                    others => heard_ms[others - 1],
                }
            }
            _ => self.heard_from_leader_ms,
        };
        self.now.mono_ms.saturating_sub(since_ms)
    }

    /// Fills entries from the queue while more may be in flight; not before the leader's clock runs. The entry that starts it is
    /// applied in a step like this one, which then goes on here.
    fn propose(&mut self) {
        let now_ms = self.now.mono_ms;
        while self.proposals.can_propose(now_ms) {
            let Some(lead) = &self.lead else { return };
            self.proposals.refuse_late(now_ms, &mut self.out.replies);
            if self.proposals.is_empty() {
                return;
            }
            let Some(shard_ms) = lead.clock.shard_ms(self.table.shard_ms(), now_ms) else { return };
            let stamp = Stamp { wall_ms: self.now.wall_ms, shard_ms };
            let (entry, count) = self.proposals.next_entry(stamp, now_ms);
            // Dropped while leadership is being handed on or too much is uncommitted: it stays queued.
            if self.raw.propose(Vec::new(), entry).is_err() {
                return;
            }
            let (index, term) = (self.raw.raft.raft_log.last_index(), self.raw.raft.term);
            self.proposals.proposed(index, term, count, now_ms, &mut self.out.replies);
        }
    }

    fn read_rounds(&mut self) {
        if std::mem::take(&mut self.retry_reads)
            && let Some(context) = self.reads.retry()
        {
            self.raw.read_index(context);
        }
        if let Some(context) = self.reads.start_round() {
            self.raw.read_index(context);
        }
    }

    /// In simulation, election timeouts come from the seed and not from raft-rs's thread-local generator.
    fn seed_election_timeout(&mut self) {
        let Some(seed) = self.config.election_seed else { return };
        let parts = [seed, self.config.node.0, u64::from(self.config.shard.0), self.raw.raft.term];
        let mixed = parts.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |hash, part| {
            let hash = (hash ^ part).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash ^ (hash >> 33)
        });
        let ticks = self.config.election_ticks;
        self.raw.raft.set_randomized_election_timeout(ticks + (mixed % ticks as u64) as usize);
    }

    pub(crate) fn fatal(&self, what: String) -> Fatal {
        Fatal { shard: self.config.shard, what }
    }
}

/// The log and the position of the table, checked against each other.
fn open_log(config: &ReplicaConfig, recovered: &Recovered) -> Result<(LogStore, SnapshotMetadata), Fatal> {
    let shard: ShardId = config.shard;
    let fatal = |what: String| Fatal { shard, what };
    // Of a re-seeded replica, too: it is no member before the log, from its beginning or by snapshot, tells it so.
    let mut voters: Vec<u64> = config.voters.iter().map(|node| peer_id(*node, 0)).collect();
    voters.sort_unstable();
    let applied = match &recovered.applied {
        Some(bytes) => {
            SnapshotMetadata::decode(bytes.as_slice()).map_err(|e| fatal(format!("the applied record: {e}")))?
        }
        None => SnapshotMetadata { conf_state: Some(ConfState { voters, ..Default::default() }), index: 0, term: 0 },
    };
    let mut entries = VecDeque::with_capacity(recovered.entries.len());
    for (index, bytes) in &recovered.entries {
        let entry = Entry::decode(bytes.as_slice()).map_err(|e| fatal(format!("log entry {index}: {e}")))?;
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
        return Err(fatal(format!("the log starts at {} after {truncated_index}", entries[0].index)));
    }
    let last = truncated_index + entries.len() as u64;
    let mut hard_state = match &recovered.hard_state {
        Some(bytes) => HardState::decode(bytes.as_slice()).map_err(|e| fatal(format!("the hard state: {e}")))?,
        None => HardState::default(),
    };
    if last < applied.index || hard_state.commit > last {
        let (applied, commit) = (applied.index, hard_state.commit);
        return Err(fatal(format!("the log ends at {last}, before applied {applied} or committed {commit}")));
    }
    // The commit index is not written when it moves alone; what was applied was committed.
    hard_state.commit = hard_state.commit.max(applied.index);
    let conf_state = applied.get_conf_state().clone();
    check_conf(&conf_state).map_err(|e| fatal(format!("the applied record: {e}")))?;
    Ok((LogStore::new(shard, hard_state, conf_state, truncated_index, truncated_term, entries), applied))
}
