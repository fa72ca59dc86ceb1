//! The nouns of locking, and the rules that their values obey.

use std::fmt;

/// Shortest and longest TTL, in milliseconds: 100 ms and 24 h. Outside is refused, not clamped.
pub const TTL_MS: std::ops::RangeInclusive<u32> = 100..=86_400_000;
/// Longest resource name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest owner, in bytes.
pub const OWNER_BYTES_MAX: usize = 256;
/// Longest session id, in bytes.
pub const SESSION_BYTES_MAX: usize = 64;
/// Longest metadata, reason or breaker, in bytes.
pub const METADATA_BYTES_MAX: usize = 1024;
/// How long an ended grant is remembered, in milliseconds of shard time, so that a late retry of its acquire or
/// release gets the old answer.
pub const REQUEST_MEMORY_MS: u64 = 30_000;
/// Ended grants remembered at most, and ended sessions likewise; the oldest are forgotten first.
pub const REQUEST_MEMORY_MAX: usize = 1 << 20;
/// Shortest and longest first lease of a grant that must be claimed, in milliseconds: 100 ms and 60 s.
pub const CLAIM_TTL_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
/// Tokens remembered of the breaks that a session's life suffered, at most; the oldest are forgotten first.
pub const BROKEN_MEMORY_MAX: usize = 1_024;
/// Waiters in one name's queue at most.
pub const WAITERS_PER_NAME_MAX: u32 = 10_000;
/// The highest token there can be: the highest integer that JSON keeps exact.
pub const TOKEN_MAX: u64 = (1 << 53) - 1;

/// Raised by one with each new grant of a shard, never reused. Stays below 2^53, so that JSON keeps it exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one acquire through all its retries. Chosen at random by the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// Shard-local number of a lease: of a session's presence on this shard, or of one grant's private lease. It is the token
/// of the grant that the lease began with, so it is never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// What may be held together with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With any number of other shared holders.
    Shared,
    /// With other permits of a semaphore of the same `limit`, as long as they add up to at most `limit`.
    Permits {
        /// Taken by this grant; 1..=limit.
        count: u32,
        /// There are this many.
        limit: u32,
    },
}

/// When a batch was proposed, as its leader saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Unix time in milliseconds. For display and history only: no decision reads it.
    pub wall_ms: u64,
    /// Shard time in milliseconds: runs with the leader's monotonic clock, carried on from the last applied stamp when
    /// leadership changes, so it never goes back. It may fall behind true time, and never runs ahead of it: see
    /// `crates/shard/src/shard_time.rs`. Decides how long ended requests are remembered and how long waiters have waited.
    /// A lease keeps the shard time of its last renewal, so that a new leader knows how old it is.
    pub shard_ms: u64,
}

/// One current hold, as shown to its holder and to those who check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The resource.
    pub name: String,
    /// Who holds it.
    pub owner: String,
    /// The fencing token.
    pub token: Token,
    /// How it is held.
    pub mode: Mode,
    /// The session it hangs on; empty for a private lease.
    pub session: String,
    /// Of the session or of the acquire.
    pub metadata: String,
    /// The lease's time to live, once it is claimed.
    pub ttl_ms: u32,
    /// Not 0: the lease is unclaimed, and lives only this long from its beginning.
    pub claim_within_ms: u32,
    /// Unix, by the leader's wall clock.
    pub acquired_wall_ms: u64,
    /// What is left of the lease, in shard time; 0 if it is due. (Of an ended grant, 0.)
    pub rest_ms: u32,
    /// Unix: when the rest is over, for display.
    pub expires_wall_ms: u64,
    /// Renewals since the grant.
    pub renewals: u64,
    /// Time spent in the queue, in shard time.
    pub waited_ms: u64,
    /// What asked for it.
    pub request_id: RequestId,
    /// The lease it hangs on.
    pub lease: LeaseId,
}

/// How a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndKind {
    /// Its owner let go.
    Released,
    /// Its lease ran out.
    Expired,
    /// Somebody else ended it, by [`Command::Break`](crate::Command::Break).
    Broken,
}

/// One grant from its start to its end: the unit of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The grant as it was at its end.
    pub grant: Grant,
    /// Unix, by the wall clock of the leader that proposed the end.
    pub ended_wall_ms: u64,
    /// How it ended.
    pub end: EndKind,
    /// Who broke it and why; both empty unless `end` is `Broken`.
    pub broken_by: String,
    /// See `broken_by`.
    pub break_reason: String,
}

/// What a command came to. Errors here are answers: the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acquire: held, now or already (a retry of the same request id).
    Granted(Grant),
    /// Acquire or break: done, and not described, because [`Effects::unheard`] is set.
    Unheard,
    /// Acquire: in the queue (again, at its old place, for a retry). A [`Effects::granted`] or [`Effects::dropped`] with
    /// its request id follows some day.
    Queued,
    /// Renew: alive for another TTL.
    Renewed {
        /// TTL of the lease.
        ttl_ms: u32,
        /// Unix, display.
        expires_wall_ms: u64,
        /// Renewals since the grant, this one included.
        renewals: u64,
    },
    /// Release: let go now, or before (`already`).
    Released {
        /// This token had been released earlier: a retry.
        already: bool,
    },
    /// Heartbeat: the session's lease here lives another TTL.
    HeartbeatOk(SessionAlive),
    /// CloseSession: so many grants were released (0 if the session was not known: closing is idempotent).
    Closed {
        /// Grants ended.
        released: u32,
    },
    /// CancelWait: it was waiting and no longer is.
    Cancelled,
    /// CancelWait: nothing of this id waits or holds.
    NotWaiting,
    /// Break: ended.
    Broken(Box<Tenure>),
    /// Expire: the lease ended (`true`), or had been renewed or was gone already (`false`).
    Expired(bool),

    /// Acquire without waiting, or break of a stale token: another holds it.
    Held {
        /// Of one current holder.
        token: Token,
        /// Of the same holder.
        owner: String,
    },
    /// Renew, release, break: this token does not hold the name (any more). Also for a token that never was.
    NotOwner {
        /// What holds it now; 0 if it is free.
        current: Token,
    },
    /// Renew, release: this token was the name's, and its lease ran out (remembered for [`REQUEST_MEMORY_MS`]).
    LeaseExpired {
        /// What holds it now; 0 if it is free.
        current: Token,
    },
    /// Acquire or heartbeat with a session that is not known here, because it was closed or its lease ran out.
    SessionLost,
    /// Acquire: this request id was granted and that grant has ended since.
    AlreadyEnded {
        /// The grant it got.
        token: Token,
        /// How that ended.
        end: EndKind,
    },
    /// Acquire: this request id was cancelled before this copy of it came.
    CancelledBefore,
    /// Acquire: conflicts with how the name is in use (a semaphore with another limit), or the request id is in use for
    /// another name.
    Conflict(&'static str),
    /// A bound of the table is reached (waiters per name, …).
    Full(&'static str),
}

/// What a heartbeat tells of a session's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionAlive {
    /// Which life of the session this is.
    pub life: LeaseId,
    /// Of the lease.
    pub ttl_ms: u32,
    /// How many grants of this life were ended by a break.
    pub broken_count: u64,
    /// The tokens of those that the heartbeat did not know of, oldest first.
    pub broken: Vec<Token>,
    /// Some of those are not remembered.
    pub broken_overflow: bool,
    /// Grants that hang on this life now. Fewer than the session believes it has: some were released by others.
    pub held: u32,
}

/// Why a waiter left the queue without a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// By [`Command::CancelWait`](crate::Command::CancelWait), or by a retry of its acquire that did not wait.
    Cancelled,
    /// The session it waited with ended.
    SessionEnded,
}

/// A change of a lease's life, for whoever keeps the deadlines (the leader).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Began or was renewed: lives for `ttl_ms` from now (the short TTL while it is unclaimed), and dies only by an `ExpireLease` naming this `renewal_seq`.
    Alive {
        /// Which.
        lease: LeaseId,
        /// From now on the leader's monotonic clock.
        ttl_ms: u32,
        /// Names this life.
        renewal_seq: u64,
    },
    /// Is no more.
    Gone {
        /// Which.
        lease: LeaseId,
    },
}

/// A lease in force, for a new leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveLease {
    /// Which.
    pub lease: LeaseId,
    /// From `renewed_ms`.
    pub ttl_ms: u32,
    /// Names this life.
    pub renewal_seq: u64,
    /// The shard time at which it began or was renewed.
    pub renewed_ms: u64,
}

/// A grant that ended, as history keeps it: the record is [`Tenure::decode`]d only when somebody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The resource.
    pub name: String,
    /// Of the grant.
    pub token: Token,
    /// Unix, by the leader's wall clock: for display and for how long history is kept.
    pub ended_wall_ms: u64,
    /// How.
    pub end: EndKind,
    /// All the rest.
    pub record: Vec<u8>,
}

/// What one applied command did beside its own outcome. Reused between commands; the caller clears it.
///
/// * `unheard` changes what is told, never what is done: replicas that differ in it stay the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Set by the caller: nobody reads outcomes here, as on a replica that does not lead. Grants are not described then:
    /// [`Outcome::Unheard`] stands for [`Outcome::Granted`] and for [`Outcome::Broken`], and `granted` stays empty.
    pub unheard: bool,
    /// Waiters that were handed a lock, in order.
    pub granted: Vec<Grant>,
    /// Waiters that left without.
    pub dropped: Vec<(RequestId, DropReason)>,
    /// Leases that began, were renewed, or ended.
    pub leases: Vec<LeaseEvent>,
    /// Grants that ended, in order.
    pub ended: Vec<Ended>,
}

/// Counts for metrics and capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names with at least one holder.
    pub locks: u64,
    /// Grants in force.
    pub grants: u64,
    /// Acquires in queues.
    pub waiters: u64,
    /// Sessions with a record here.
    pub sessions: u64,
}

/// A durable change: set or, without a value, delete. Keys are unique within a shard and order records by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// At most 600 bytes; the first byte is the record's kind.
    pub key: Vec<u8>,
    /// `None` deletes.
    pub value: Option<Vec<u8>>,
}
