//! The inputs and outputs of a replica, its configuration and its status.

use crate::machine::TopologyNews;
use crate::parts::founding::Founders;
use crate::parts::group::Wanted;
use crate::settings::RaftSettings;
use crate::snapshot::{BuiltSnapshot, LoadedSnapshot, SnapshotData};
use locks::{
    Counts, EndKind, Event, Grant, ListOf, Outcome, PictureOf, PicturePage, PicturePlace,
    RequestId, Tenure, Token, Waiter,
};
use routing::{NodeId, ShardId};
use std::sync::Arc;
use storage::ShardWrite;
use topology::{Refusal, Version};

/// The host's clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, in milliseconds, from any fixed start in this process. All deadlines are on this
    /// clock.
    pub mono_ms: u64,
    /// Unix time in milliseconds, for display and history only.
    pub wall_ms: u64,
}

/// The name of one operation between the host and its replica. The host chooses it, and does not
/// reuse it while the operation is unanswered.
pub type Ticket = u64;

/// One thing for a replica to handle.
#[derive(Clone, Debug)]
pub enum Input {
    /// One Raft tick has passed.
    Tick,
    /// The moment of [`Outputs::wake_at_ms`] has come.
    Wake,
    /// An encoded Raft message from a peer.
    Peer(Vec<u8>),
    /// A peer's snapshot message, made ready off this replica's thread
    /// ([`load_snapshot`](crate::load_snapshot)). The input must have the only reference to it.
    /// Otherwise it is dropped, as if it was lost.
    Snapshot(Arc<LoadedSnapshot>),
    /// The host has built the snapshot of [`Outputs::wants_snapshot`]. `None` means that it could
    /// not: the replica asks again.
    SnapshotBuilt(Option<BuiltSnapshot>),
    /// An operation for the log, as encoded by [`locks::Command::encode`], or for the shard of the
    /// topology by [`topology::Proposal::encode`]. It is answered once.
    Propose {
        /// The name for its reply.
        ticket: Ticket,
        /// The command, encoded.
        command: Vec<u8>,
        /// Set for an acquire that may wait.
        wait: Option<Wait>,
        /// On the monotonic clock. The caller gives up then, unless its acquire is in a lock's
        /// queue already. An operation that is not in the log by then is refused as
        /// [`Reply::Busy`].
        give_up_at_ms: u64,
    },
    /// A read. It is answered once.
    Read {
        /// The name for its reply.
        ticket: Ticket,
        /// The question.
        query: Query,
        /// `false`: answered at once from this replica's own state. `true`: answered after a
        /// ReadIndex round, on any replica.
        linearizable: bool,
    },
    /// The caller of this ticket is gone. A waiting acquire keeps its place for the grace period.
    Detach {
        /// The ticket of its operation.
        ticket: Ticket,
    },
    /// The write of this number, and all before it, are on disk.
    Persisted {
        /// The number of the write, from [`Write::number`].
        number: u64,
    },
    /// Messages do not get through to this peer.
    Unreachable {
        /// The node of the peer.
        node: NodeId,
    },
    /// A snapshot message was delivered, or could not be.
    SnapshotSent {
        /// The node that it was for.
        node: NodeId,
        /// Whether it was delivered.
        ok: bool,
    },
    /// The state of the node's disk, until the next such input. At first it works.
    Disk {
        /// A write has been under way for longer than an election takes, so no write that begins
        /// now can be counted on.
        hangs: bool,
        /// The timers of elections run this many times slower, because the usual sync takes that
        /// long. 1: as configured.
        stretch: u32,
    },
    /// Tell the events of entries that are applied from now on ([`Outputs::watched`]), or tell them
    /// no more. At first they are not told, and cost nothing.
    Watch {
        /// Whether to tell them.
        on: bool,
    },
    /// Try to become leader now.
    Campaign,
    /// If leading, hand leadership to this replica, which must be among [`Status::successors`].
    /// Nothing more is proposed, and the replica is asked to take over once nothing is in flight. So
    /// only waits are answered as [`Reply::Unknown`]: they keep their places, and may be granted by
    /// the next leader.
    Transfer {
        /// The node of the next leader.
        to: NodeId,
    },
    /// Ask for no votes from now on, because the host is about to end. Leadership that another
    /// replica hands here is still taken: that replica would else serve nothing for an election
    /// timeout.
    StandAside,
    /// A node's data directory is of this incarnation now, or of a later one. Its earlier replica
    /// has forgotten its votes and acknowledgements.
    ///
    /// The host gives this for every node of the shard, whenever it learns of an incarnation and
    /// again after a start. It is idempotent.
    Incarnation {
        /// The node. The own one is ignored.
        node: NodeId,
        /// The last accepted incarnation. A lower one than known is ignored.
        incarnation: u32,
    },
    /// The members that the group shall have. A leader puts the wish into the log, unless the log
    /// has it or a later one, and changes the members one by one. Other replicas ignore it.
    ///
    /// The host starts a wanted replica with the birth of the wish, or with the incarnation of its
    /// node's data directory if that is higher: members take a lower birth for a life that is lost.
    ///
    /// The host gives this to the leader until [`Status::wanted`] shows it, and again whenever
    /// leadership moves before that. A wish for one member must not name another life on the node of
    /// the only voter, because a node has one replica at a time: such a wish is never fulfilled.
    /// Without any wish, the members stay on the nodes of
    /// [`ReplicaConfig::voters`].
    Want(Wanted),
    /// The level that is active in the cluster. A leader puts it into the log, unless the group has
    /// reached it or a later one. Other replicas ignore it.
    ///
    /// The host gives this to the leader until [`Status::level`] shows it, and again whenever
    /// leadership moves before that. Every replica of the group must run a build that knows the
    /// level: another one stops when it applies the entry.
    Level(u32),
}

/// An acquire's wish to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The id of the acquire.
    pub request_id: RequestId,
    /// From now, in milliseconds.
    pub wait_ms: u32,
}

/// A question to the state of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The holders of one name.
    Check {
        /// The resource name.
        name: String,
        /// Only holders with higher tokens than this. 0: from the oldest on.
        after: Token,
        /// At most this many of them.
        limit: usize,
        /// At most this many waiters, from the head of the queue.
        waiters: usize,
    },
    /// Grants by name prefix, and by the other filters of the caller.
    List {
        /// The grants that are asked for. With `waiting`, the answer has the first
        /// `waiters_of_name` of each of its names.
        of: ListOf,
        /// At most this many waiters of each name.
        waiters_of_name: usize,
        /// Only grants after this name and token. `None`: from the first on.
        after: Option<(String, Token)>,
        /// At most this many of them.
        limit: usize,
    },
    /// The current grants of a name, and the ended ones that are not yet in the engine's history.
    /// The host adds [`storage::Engine::history`], read after this answer, and drops duplicates by
    /// token.
    History {
        /// The resource name.
        name: String,
        /// At most this many current and this many ended ones: the newest by token.
        limit: usize,
    },
    /// A page of grants and waiters, as of the applied index. In the outputs of a step, the page
    /// comes after the events of the entries before it.
    Picture {
        /// Its rows.
        of: PictureOf,
        /// Only the rows after this place. `None`: the first page.
        after: Option<PicturePlace>,
        /// At most this many rows.
        limit: usize,
    },
    /// The applied index alone.
    Position,
    /// The topology, or what a copy of this version lacks.
    Topology {
        /// The version of the copy. 0: none is there.
        known: Version,
    },
    /// This replica's [`Status`], with its state hash.
    Status,
}

impl Query {
    /// Asks for all holders of a name.
    pub fn check(name: impl Into<String>) -> Query {
        Query::Check { name: name.into(), after: Token(0), limit: usize::MAX, waiters: 0 }
    }
}

/// The answer to an operation or a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The operation was applied, with this outcome. A waiting acquire gets `Granted` or a refusal
    /// here, and never `Queued`.
    Done(Outcome),
    /// The proposal was applied to the topology: its version after that, or why it was refused.
    Applied(Result<Version, Refusal>),
    /// The wait's time ran out, and nothing is held.
    WaitTimeout,
    /// The wait was cancelled by a command, or its session ended.
    WaitCancelled,
    /// A newer attempt of the same request took over this wait.
    Superseded,
    /// The answer to a read, as of `applied_index`.
    Read {
        /// The answer to its query.
        answer: Answer,
        /// The table's position in the log.
        applied_index: u64,
        /// Milliseconds since this replica last had a message from its leader, or, if it leads,
        /// from a majority. 0 for a linearizable read. A follower may lack entries that were
        /// committed up to [`RaftSettings::append_hold_ms`] before that.
        stale_by_ms: u64,
    },
    /// Not done, because this replica does not lead.
    NotLeader {
        /// The leader, if known.
        hint: Option<NodeId>,
        /// The term that it leads in.
        term: u64,
    },
    /// Not done, because no leader is known, or it has no quorum.
    NoLeader,
    /// Not done, because too much is queued.
    Busy,
    /// It may have been done, or may yet be.
    Unknown,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Answers [`Query::Check`].
    Check {
        /// The holders, the oldest first.
        holders: Vec<Grant>,
        /// How many holders the name has, in this answer or not. 0: it is free.
        holder_count: u32,
        /// Whether there are holders after these.
        more: bool,
        /// How many acquires are in the name's queue.
        waiters: u32,
        /// The highest token that the shard has issued.
        last_token: u64,
        /// The first waiters, in the order of their turns.
        queue: Vec<Waiter>,
    },
    /// Answers [`Query::List`].
    List {
        /// The grants, by name, then token.
        grants: Vec<Grant>,
        /// There may be more after this name and token. An answer may end early, with fewer grants
        /// than asked for.
        next: Option<(String, Token)>,
        /// The first waiters of the names of `grants`, by name and place, if they were asked for.
        waiters: Vec<Waiter>,
    },
    /// Answers [`Query::History`].
    History {
        /// Ended grants that are not yet in the engine, in any order.
        ended: Vec<Tenure>,
        /// Grants that are still held.
        current: Vec<Grant>,
    },
    /// Answers [`Query::Picture`].
    Picture(PicturePage),
    /// Answers [`Query::Position`].
    Position,
    /// Answers [`Query::Topology`].
    Topology(TopologyNews),
    /// The shard has another kind of state than the query is for.
    Unsuited,
    /// Answers [`Query::Status`].
    Status(Box<Status>),
}

/// The events of one committed entry that was applied.
///
/// * All replicas tell the same of an entry. So an entry's index and an event's place in `events`
///   name the event, on any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryEvents {
    /// The entry's index in the log.
    pub index: u64,
    /// When the entry was proposed, in Unix milliseconds by the leader's wall clock. For display.
    pub wall_ms: u64,
    /// Its events, at least one.
    pub events: Vec<Event>,
}

/// The changes of the table since the last ones were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Set if the events before may be incomplete: the entries up to this index are not told. So it
    /// is at the beginning, and after the table was replaced by a snapshot.
    pub begins_after: Option<u64>,
    /// The entries with events, in order.
    pub entries: Vec<EntryEvents>,
    /// All entries up to this index are applied, and their events told.
    pub applied_index: u64,
}

/// The role of a replica in Raft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It follows a leader, or waits for one.
    #[default]
    Follower,
    /// It asks for votes.
    Candidate,
    /// It leads its term.
    Leader,
}

/// One member of the group, as this replica's configuration has it.
///
/// The incarnation of a member is its birth: that of its node's data directory, or the one that a
/// wish gave a replica which came to the node later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The node that it runs on.
    pub node: NodeId,
    /// The birth of the replica: 0 as the cluster was bootstrapped, and higher after each re-seed
    /// and each return to the node.
    pub incarnation: u32,
    /// It gets the log and has no vote yet, because it is on its way in.
    pub learner: bool,
}

/// A replica's state, for people, metrics and placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The shard of the replica.
    pub shard: ShardId,
    /// The node that it runs on.
    pub node: NodeId,
    /// Its role in Raft.
    pub role: Role,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// The Raft term that it is in.
    pub term: u64,
    /// The Raft commit index.
    pub committed_index: u64,
    /// The highest commit index that this replica or its leader's appends told of. If it is above
    /// `applied_index`, this replica lacks the entries between them.
    pub told_committed_index: u64,
    /// The last entry applied to the table.
    pub applied_index: u64,
    /// The first log index kept.
    pub first_index: u64,
    /// The last log index.
    pub last_index: u64,
    /// The index of the last checkpoint.
    pub checkpoint_index: u64,
    /// The hash of the table, or 0 unless asked for by [`Query::Status`].
    pub state_hash: u64,
    /// The highest token issued.
    pub last_token: u64,
    /// Shard time at the applied index. It runs with the leaders' monotonic clocks, and history
    /// ages by it.
    pub shard_ms: u64,
    /// Counts of the records in the table.
    pub counts: Counts,
    /// When the oldest grant in force was made, in Unix milliseconds by its leader's wall clock.
    /// `None` if there is none. A large table is looked through in the course of minutes, so the
    /// oldest grant may have ended since.
    pub oldest_grant_ms: Option<u64>,
    /// Snapshots installed since the start.
    pub snapshots_installed: u64,
    /// Changes of leader since the start, as seen here.
    pub leader_changes: u64,
    /// Entries applied since the start.
    pub entries_applied: u64,
    /// Commands in the entries applied since the start.
    pub commands_applied: u64,
    /// On a leader: the voters that have all of the log that was committed a tick or two ago,
    /// itself included. Otherwise empty.
    pub caught_up: Vec<NodeId>,
    /// On a leader: the nodes that [`Input::Transfer`] may name now. Otherwise empty.
    pub successors: Vec<NodeId>,
    /// The incarnation of this replica's data directory.
    pub incarnation: u32,
    /// The members of the group as this replica knows them, by node. A re-seeded replica is no
    /// member until the log says so.
    pub members: Vec<Member>,
    /// An index of the log at which the group had these members: that of their last change, or a
    /// later one if the replica was loaded since from a checkpoint or a snapshot. So of two replicas'
    /// members, those with the higher index are not the older ones. From level 2 on, all replicas
    /// have the same, and a restart changes nothing of it.
    pub conf_index: u64,
    /// On a leader: whether a majority of the members know from their own disks that these are the
    /// members. Before, a replica that has left the group must stay: see
    /// [`replica_report`](crate::replica_report). Elsewhere false.
    pub members_durable: bool,
    /// The level of formats and commands that the group has reached, as of the applied index.
    pub level: u32,
    /// The members that the group shall have, as of the applied index. `None`: the log has no wish,
    /// so they are the nodes of [`ReplicaConfig::voters`]. The version of the wish that the group has
    /// taken is that of this one.
    pub wanted: Option<Wanted>,
    /// The version of the topology. `None` on a shard of locks.
    pub topology_version: Option<Version>,
}

/// A message for a peer's replica of the same shard.
#[derive(Clone, Debug)]
pub struct PeerMessage {
    /// The node of the peer.
    pub to: NodeId,
    /// The encoded Raft message.
    pub bytes: Vec<u8>,
    /// Set if the message is the header of a snapshot. Send the two apart from other messages, the
    /// data in chunks, and report [`Input::SnapshotSent`].
    pub snapshot: Option<SnapshotData>,
    /// A heartbeat, a vote, or the answer to one: it may overtake other messages on the way to the
    /// peer.
    ///
    /// Raft takes messages in any order. A heartbeat's commit index is no higher than the last
    /// entry that the follower has acknowledged, so it tells of no append that it overtakes. Votes
    /// and their answers name their term. Behind 32 MiB of appends, a heartbeat would come later
    /// than the election that it is to prevent.
    pub is_urgent: bool,
}

/// A write to make durable, after all writes before it.
#[derive(Clone, Debug)]
pub struct Write {
    /// The number to report with [`Input::Persisted`]. It never falls.
    pub number: u64,
    /// The bytes to write.
    pub write: ShardWrite,
}

/// The outputs of one step.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// Messages to send now. Raft tolerates the loss of any of them.
    pub messages: Vec<PeerMessage>,
    /// A write for the log writer, which takes them in order.
    pub write: Option<Write>,
    /// Replies to operations and reads.
    pub replies: Vec<(Ticket, Reply)>,
    /// Entries that were proposed in this step.
    pub entries_proposed: usize,
    /// Entries of this leadership that were applied in this step.
    pub entries_applied: usize,
    /// The replies that were made while these were applied, by place in `replies`.
    pub replies_applied: std::ops::Range<usize>,
    /// Set if the leader or the term known here has changed.
    pub leadership: Option<Leadership>,
    /// How grants ended in this step (released, expired, broken), and how long each was held by
    /// wall clocks, in milliseconds; on the leader, for metrics.
    pub ended: Vec<(EndKind, u64)>,
    /// Build a snapshot off this replica's thread, of the engine's table with this step's write in
    /// it ([`build_snapshot`](crate::build_snapshot)), and report [`Input::SnapshotBuilt`].
    pub wants_snapshot: bool,
    /// On the monotonic clock: give [`Input::Wake`] then. It may come late, and a replica that is
    /// dropped needs none.
    pub wake_at_ms: Option<u64>,
    /// Rows that reads have touched in this step.
    pub rows_read: usize,
    /// The changes of the table, if the host watches and there are any. They come before the
    /// answers to reads among `replies`.
    pub watched: Option<Watched>,
    /// The changes of the topology since the last news, or all of it: at the start, and after a
    /// snapshot.
    pub topology: Option<TopologyNews>,
    /// Of shard 0: the founders of META, once they are applied here. Told once after each start.
    pub founders: Option<Founders>,
}

/// The leader as known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// The term that this replica is in.
    pub term: u64,
    /// Whether this replica is the leader.
    pub is_me: bool,
}

/// A replica that cannot go on, because its bytes are damaged or its state would differ from that
/// of the others. The process must stop.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard}: {what}")]
pub struct Fatal {
    /// The shard of the replica.
    pub shard: ShardId,
    /// A description for people.
    pub what: String,
}

/// The configuration of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The shard of the replica.
    pub shard: ShardId,
    /// The node that it runs on.
    pub node: NodeId,
    /// The birth of this replica. For one that the cluster was bootstrapped with it is the
    /// incarnation of its node's data directory: 0, and higher after each re-seed. One that came to
    /// its node by a wish has the birth of that wish. It is part of this replica's id in the group,
    /// so it must be durable before the replica sends anything.
    pub incarnation: u32,
    /// The nodes of all replicas at the shard's first start, with incarnation 0. A replica on
    /// another node starts empty and as no member. The leader takes it in if a wish names it.
    pub voters: Vec<NodeId>,
    /// The node that should lead, all else equal. It campaigns a little earlier.
    pub preferred_leader: NodeId,
    /// A number that no other run of this node has had.
    pub boot: u64,
    /// How the shard's replicas elect, propose, and keep their logs.
    pub raft: RaftSettings,
    /// A seed for election timeouts, in a simulation. `None`: raft-rs draws them.
    pub election_seed: Option<u64>,
}

impl ReplicaConfig {
    /// The election timeout is below this, in ticks. That of the preferred leader is shorter.
    pub(crate) fn election_ticks_below(&self) -> usize {
        let ticks = self.raft.election_ticks;
        if self.preferred_leader == self.node && self.election_seed.is_none() {
            ticks + ticks.div_ceil(4)
        } else {
            2 * ticks
        }
    }
}
