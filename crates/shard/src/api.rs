//! What goes into a replica, and what comes out.

use crate::snapshot::{BuiltSnapshot, LoadedSnapshot};
use locks::{Counts, EndKind, Grant, Outcome, RequestId, Tenure, Token};
use routing::{NodeId, ShardId};
use std::sync::Arc;
use storage::ShardWrite;

/// The host's clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, in milliseconds, from any fixed start in this process. All deadlines are on this clock.
    pub mono_ms: u64,
    /// Unix time in milliseconds: display and history only.
    pub wall_ms: u64,
}

/// Names one operation between the host and its replica: chosen by the host, never reused while unanswered. 0 is reserved.
pub type Ticket = u64;

/// What a replica is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// One Raft tick has passed.
    Tick,
    /// The moment of [`Outputs::wake_at_ms`] has come.
    Wake,
    /// An encoded Raft message from a peer.
    Peer(Vec<u8>),
    /// A peer's snapshot message, made ready off this replica's thread ([`load_snapshot`](crate::load_snapshot)). The input
    /// has the only hand on it: otherwise it is dropped, as if it was lost.
    Snapshot(Arc<LoadedSnapshot>),
    /// What came of [`Outputs::wants_snapshot`]; `None`: nothing, and it is asked for again.
    SnapshotBuilt(Option<BuiltSnapshot>),
    /// An operation for the log, as encoded by [`locks::Command::encode`]. Answered once.
    Propose {
        /// For the reply.
        ticket: Ticket,
        /// Encoded.
        command: Vec<u8>,
        /// For an acquire that may wait: its id and for how long.
        wait: Option<Wait>,
        /// Past this moment of the monotonic clock nobody waits for it, the waiting in a lock's queue aside: what is not in the
        /// log by then is refused as [`Reply::Busy`].
        give_up_at_ms: u64,
    },
    /// A read. Answered once.
    Read {
        /// For the reply.
        ticket: Ticket,
        /// What.
        query: Query,
        /// `false`: from this replica's own state, at once. `true`: after a ReadIndex round, on any replica.
        linearizable: bool,
    },
    /// Whoever waits for this ticket is gone. A waiting acquire keeps its place for the grace period.
    Detach {
        /// Of the operation.
        ticket: Ticket,
    },
    /// The write of this number (and all before) is on disk.
    Persisted {
        /// Of [`Write::number`].
        number: u64,
    },
    /// Messages to this peer are not getting through.
    Unreachable {
        /// The peer.
        node: NodeId,
    },
    /// A snapshot message was delivered, or could not be.
    SnapshotSent {
        /// The peer.
        node: NodeId,
        /// Delivered.
        ok: bool,
    },
    /// How the disk of this replica's node does; until the next of these. At first it works.
    Disk {
        /// A write has been under way for longer than elections take: none that begins now can be counted on.
        hangs: bool,
        /// Timers of elections run so many times slower, because the usual sync takes that long. 1: as configured.
        stretch: u32,
    },
    /// Try to become leader now.
    Campaign,
    /// If leading, hand leadership to this replica.
    Transfer {
        /// The replica.
        to: NodeId,
    },
    /// A node's data directory is now of this incarnation, or a later one: whoever it was before has forgotten what it said.
    /// Told of every node that shares this shard, whenever it is learned, and again after a start; idempotent.
    Incarnation {
        /// The node. (The own one is ignored.)
        node: NodeId,
        /// As it was last accepted. Lower ones than known are ignored.
        incarnation: u32,
    },
}

/// How long an acquire waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Of the acquire.
    pub request_id: RequestId,
    /// From now.
    pub wait_ms: u32,
}

/// A question to the lock table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Who holds this name?
    Check {
        /// The resource.
        name: String,
        /// Holders with higher tokens than this; 0: from the oldest on.
        after: Token,
        /// At most so many of them.
        limit: usize,
    },
    /// Grants by name prefix.
    List {
        /// May be empty.
        prefix: String,
        /// Those after this name and token; `None`: from the first on.
        after: Option<(String, Token)>,
        /// At most so many.
        limit: usize,
    },
    /// Ended grants of a name that are not yet in the engine's history, and the current ones. The host adds
    /// [`storage::Engine::history`], read after this answer, and drops duplicates by token.
    History {
        /// The resource.
        name: String,
        /// Of each, the newest so many by token.
        limit: usize,
    },
    /// This replica's [`Status`], state hash included.
    Status,
}

impl Query {
    /// All holders of a name.
    pub fn check(name: impl Into<String>) -> Query {
        Query::Check { name: name.into(), after: Token(0), limit: usize::MAX }
    }
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Applied. (For a waiting acquire only ever `Granted` or a refusal, never `Queued`.)
    Done(Outcome),
    /// The wait's time ran out. Nothing is held.
    WaitTimeout,
    /// Cancelled by command, or its session ended.
    WaitCancelled,
    /// A newer attempt of the same request took over this wait.
    Superseded,
    /// The answer to a read, as of `applied_index`.
    Read {
        /// The answer.
        answer: Answer,
        /// The table's position.
        applied_index: u64,
        /// How long ago this replica last heard from a leader, or, leading, from a majority; 0 for a linearizable read. A follower
        /// may lack what was committed up to [`ReplicaConfig::append_hold_ms`] before that.
        stale_by_ms: u64,
    },
    /// Not done: this replica does not leader.
    NotLeader {
        /// Who does, if known.
        hint: Option<NodeId>,
        /// By this term.
        term: u64,
    },
    /// Not done: no leader is known, or it has no quorum.
    NoLeader,
    /// Not done: too much is queued.
    Busy,
    /// It may or may not have been done, or may yet be.
    Unknown,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Check`.
    Check {
        /// Oldest first.
        holders: Vec<Grant>,
        /// Of the name, asked for or not; 0: it is free.
        holder_count: u32,
        /// There are holders after these.
        more: bool,
        /// In the queue.
        waiters: u32,
        /// Highest issued by the shard.
        last_token: u64,
    },
    /// To `List`.
    List {
        /// By name, then token.
        grants: Vec<Grant>,
        /// There may be more after this name and token; fewer than asked for can be answered before that.
        next: Option<(String, Token)>,
    },
    /// To `History`.
    History {
        /// Not yet in the engine; any order.
        ended: Vec<Tenure>,
        /// Still held.
        current: Vec<Grant>,
    },
    /// To `Status`.
    Status(Box<Status>),
}

/// Raft roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows.
    #[default]
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// One member of the group, as this replica's configuration has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Whose replica.
    pub node: NodeId,
    /// Of that node's data directory: 0 as the cluster was bootstrapped, higher after each re-seed.
    pub incarnation: u32,
    /// It gets the log and has no vote yet: it is being re-seeded.
    pub learner: bool,
}

/// A replica's state, for people, metrics and placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Which shard.
    pub shard: ShardId,
    /// Which replica.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Raft commit index.
    pub committed_index: u64,
    /// Applied to the table.
    pub applied_index: u64,
    /// First log index kept.
    pub first_index: u64,
    /// Last log index.
    pub last_index: u64,
    /// Where the last durable checkpoint stands.
    pub checkpoint_index: u64,
    /// Of the table; 0 unless asked for by [`Query::Status`].
    pub state_hash: u64,
    /// Highest token issued.
    pub last_token: u64,
    /// Shard time at the applied index: it runs with the leaders' monotonic clocks, and history ages by it.
    pub shard_ms: u64,
    /// Table counts.
    pub counts: Counts,
    /// Since start.
    pub snapshots_installed: u64,
    /// Since start: how often the leader changed, as seen here.
    pub leader_changes: u64,
    /// Since start: entries applied, and the commands in them.
    pub entries_applied: u64,
    /// See `entries_applied`.
    pub commands_applied: u64,
    /// Leader only: voters that have all of the log that was committed a tick or two ago (itself included).
    pub caught_up: Vec<NodeId>,
    /// Of this replica's data directory.
    pub incarnation: u32,
    /// The group as this replica knows it, by node. A re-seeded replica is no member until the log says so.
    pub members: Vec<Member>,
}

/// A message for a peer's replica of the same shard.
#[derive(Clone, Debug)]
pub struct PeerMessage {
    /// The peer.
    pub to: NodeId,
    /// Encoded.
    pub bytes: Vec<u8>,
    /// It carries a snapshot: send it apart, in chunks ([`split_snapshot`](crate::split_snapshot)), and report
    /// [`Input::SnapshotSent`].
    pub is_snapshot: bool,
    /// The data of a snapshot that was built off the replica's thread: the bytes are without it.
    pub snapshot_data: Option<Arc<Vec<u8>>>,
    /// A heartbeat or a vote, or the answer to one: it may overtake what else is on its way to the peer.
    ///
    /// Raft takes messages in any order. In particular a heartbeat's commit index is no higher than what the leader knows
    /// the follower to have, so it says nothing of appends that it overtakes; and votes and their answers name their term.
    /// Behind 32 MiB of appends, a heartbeat would come later than the election that it is to prevent.
    pub is_urgent: bool,
}

/// Something to make durable, with all that queued up before it.
#[derive(Clone, Debug)]
pub struct Write {
    /// Report with [`Input::Persisted`]. Rises.
    pub number: u64,
    /// What.
    pub write: ShardWrite,
}

/// What a step came to.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// Send now. Loss is tolerated.
    pub messages: Vec<PeerMessage>,
    /// Hand to the log writer, in order.
    pub write: Option<Write>,
    /// Answers.
    pub replies: Vec<(Ticket, Reply)>,
    /// The leader or term known here changed.
    pub leadership: Option<Leadership>,
    /// How grants ended in this step, for metrics: released, expired, broken.
    pub ended: Vec<EndKind>,
    /// Build a snapshot off this replica's thread, of what the engine holds once this step's write is in it
    /// ([`build_snapshot`](crate::build_snapshot)), and report [`Input::SnapshotBuilt`].
    pub wants_snapshot: bool,
    /// On the monotonic clock: [`Input::Wake`] is wanted then. It may come late, and is forgotten with this replica.
    pub wake_at_ms: Option<u64>,
    /// Rows that reads have touched in this step.
    pub rows_read: usize,
}

/// Who leads, as known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// If known.
    pub leader: Option<NodeId>,
    /// In this term.
    pub term: u64,
    /// This replica is the leader.
    pub is_me: bool,
}

/// A replica that cannot go on: its bytes are damaged, or its state would part from the others'. The process stops.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard}: {what}")]
pub struct Fatal {
    /// Which.
    pub shard: ShardId,
    /// What happened.
    pub what: String,
}

/// How a replica is set up.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Which shard.
    pub shard: ShardId,
    /// Which replica: the node's id.
    pub node: NodeId,
    /// Of this node's data directory: 0 as the cluster was bootstrapped, higher after each re-seed. It is part of this
    /// replica's name in the group, so it must be durable before the replica says anything.
    pub incarnation: u32,
    /// All replicas at the shard's first start, with incarnation 0.
    pub voters: Vec<NodeId>,
    /// Who should lead, all else equal: campaigns a little earlier.
    pub preferred_leader: NodeId,
    /// A number no other run of this node has had.
    pub boot: u64,
    /// Leader heartbeat, in ticks.
    pub heartbeat_ticks: usize,
    /// Election timeout at least, in ticks; at most twice that.
    pub election_ticks: usize,
    /// Bytes of commands per entry.
    pub entry_bytes_max: usize,
    /// Entries proposed and not applied.
    pub entries_in_flight_max: usize,
    /// Entries for followers that no quorum needs wait so long at most, to go together with what follows; 0: they go at once.
    pub append_hold_ms: u64,
    /// Operations queued before Busy.
    pub queue_ops_max: usize,
    /// Log bytes applied between checkpoints, about: three to five quarters, other for each replica.
    pub checkpoint_log_bytes: u64,
    /// Log bytes kept below a checkpoint for followers that lag.
    pub log_keep_bytes: u64,
    /// Grace of a waiter whose stream is gone.
    pub waiter_grace_ms: u64,
    /// Deterministic election timeouts, for simulation.
    pub election_seed: Option<u64>,
}
