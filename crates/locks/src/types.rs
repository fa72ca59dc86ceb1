//! The nouns of locking, and the limits of their values.

use std::fmt;

/// Shortest and longest TTL, in milliseconds: 100 ms and 24 h. A TTL outside is refused, not
/// clamped.
pub const TTL_MS: std::ops::RangeInclusive<u32> = 100..=86_400_000;
/// Longest resource name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest owner, in bytes of UTF-8.
pub const OWNER_BYTES_MAX: usize = 256;
/// Longest principal, in bytes of UTF-8.
pub const PRINCIPAL_BYTES_MAX: usize = 256;
/// Longest session id, in bytes of UTF-8.
pub const SESSION_BYTES_MAX: usize = 64;
/// Longest metadata, break reason or breaker, in bytes of UTF-8.
pub const METADATA_BYTES_MAX: usize = 1024;
/// How long an ended grant is remembered, in milliseconds of shard time. Within that time a late
/// retry of its acquire or release gets the answer of the first attempt.
pub const REQUEST_MEMORY_MS: u64 = 30_000;
/// At most this many ended grants, and as many ended sessions, are remembered. The oldest are
/// forgotten first.
pub const REQUEST_MEMORY_MAX: usize = 1 << 20;
/// The share of one identity in that. The identity leaves at most this many tombstones of requests,
/// and as many ends of sessions that this shard does not know. A mark above its share is not
/// remembered where it would push out a mark of an identity below its share.
pub const REQUEST_MEMORY_SHARE: usize = REQUEST_MEMORY_MAX / 16;
/// Shortest and longest claim TTL, in milliseconds: 100 ms and 60 s.
pub const CLAIM_TTL_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
/// At most this many tokens of grants that other callers ended are remembered per life of a
/// session. The oldest are forgotten first.
pub const BROKEN_MEMORY_MAX: usize = 1_024;
/// At most this many acquires wait in the queue of one name.
pub const WAITERS_PER_NAME_MAX: u32 = 10_000;
/// The highest token: 2^53 - 1, the highest integer that JSON keeps exact.
pub const TOKEN_MAX: u64 = (1 << 53) - 1;

/// A fencing token. Each new grant of a shard gets the next one, and none is ever reused.
///
/// A token stays below 2^53, so that JSON keeps it exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one acquire through all its retries. The client chooses it at random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// Shard-local number of a lease: of a session's presence on this shard, or of one grant's private
/// lease.
///
/// It is the token of the grant that began the lease, so it is never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// The number of no lease. A release that names it is asked for by no session, and a heartbeat
    /// that names it renews any life of its session.
    pub const NONE: LeaseId = LeaseId(0);
}

/// The bounds on the holdings of one identity on one shard. 0 is no bound.
///
/// - A waiter counts as a lock too, because it becomes one when its turn comes. So `locks` bounds
///   grants and waiters together, and no turn can exceed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Most grants and waiters.
    pub locks: u32,
    /// Most sessions, those included that only wait for their first grant.
    pub sessions: u32,
    /// Most waiters.
    pub waits: u32,
}

/// The holdings of one identity on this shard, to compare with its [`Quota`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Grants in force.
    pub locks: u32,
    /// Sessions, those included that only wait for their first grant.
    pub sessions: u32,
    /// Acquires in queues.
    pub waits: u32,
}

/// How a lock is held, and so which grants of one name are compatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The holder holds the lock alone.
    Exclusive,
    /// Any number of shared holders hold the lock together.
    Shared,
    /// A semaphore. Holders with the same `limit` hold the lock together, as long as their counts
    /// add up to at most `limit`.
    Permits {
        /// Permits that this grant takes: 1 to `limit`.
        count: u32,
        /// Permits that the semaphore has in total.
        limit: u32,
    },
}

/// When a batch was proposed, by the clocks of its leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Unix time in milliseconds. For display and history only: no decision reads it.
    pub wall_ms: u64,
    /// Shard time in milliseconds.
    ///
    /// It runs with the leader's monotonic clock and continues from the last applied stamp when
    /// leadership changes, so it never goes back. It may fall behind true time and never runs ahead
    /// of it: `crates/shard/src/parts/shard_time.rs` has the proof.
    ///
    /// It decides how long ended requests are remembered and how long waiters have waited. A lease
    /// keeps the shard time of its last renewal, so that a new leader knows the age of the lease.
    pub shard_ms: u64,
}

/// One hold that is in force, as shown to its holder and to observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Name of the locked resource.
    pub name: String,
    /// The holder, as named in its acquire.
    pub owner: String,
    /// The identity that the grant belongs to. Empty if it was made while identities were off.
    pub principal: String,
    /// The fencing token of this grant.
    pub token: Token,
    /// Mode in which the lock is held.
    pub mode: Mode,
    /// The session that the grant hangs on. Empty for a private lease.
    pub session: String,
    /// Metadata of the acquire that began the lease: its own, or the first one of its session.
    pub metadata: String,
    /// TTL of the lease once it is claimed, in milliseconds.
    pub ttl_ms: u32,
    /// Unless 0: the lease is unclaimed and lives this many milliseconds from its beginning.
    pub claim_within_ms: u32,
    /// When it was granted, in Unix milliseconds by the leader's wall clock.
    pub acquired_wall_ms: u64,
    /// Rest of the lease in milliseconds of shard time. 0 if it is due, and in the grant of a
    /// [`Tenure`].
    pub rest_ms: u32,
    /// When that rest is over, in Unix milliseconds. For display.
    pub expires_wall_ms: u64,
    /// Number of renewals since the grant.
    pub renewals: u64,
    /// Time that the acquire spent in the queue, in milliseconds of shard time.
    pub waited_ms: u64,
    /// Request id of the acquire that was granted.
    pub request_id: RequestId,
    /// The lease that the grant hangs on.
    pub lease: LeaseId,
}

/// One acquire in a queue, as shown to observers.
///
/// - It has no request id. A client that knows a request id can use it for an acquire of its own,
///   and so block the waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Name of the resource that it waits for.
    pub name: String,
    /// The owner, as named in its acquire.
    pub owner: String,
    /// The identity that it belongs to. Empty if it queued while identities were off.
    pub principal: String,
    /// Its number, which is unique on this shard. Later waiters have higher numbers.
    pub number: u64,
    /// Place in its queue, from 1. 0 if it is not told.
    pub place: u32,
    /// Mode in which it wants to hold the lock.
    pub mode: Mode,
    /// The session that its grant is to hang on. Empty for a private lease.
    pub session: String,
    /// Metadata of its acquire.
    pub metadata: String,
    /// When it queued, in Unix milliseconds: the present wall clock less its wait by shard time.
    /// For display.
    pub queued_wall_ms: u64,
}

/// How a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndKind {
    /// Its holder released it, or closed its session.
    Released,
    /// Its lease ran out.
    Expired,
    /// It was ended by force, by [`Command::Break`](crate::Command::Break).
    Broken,
}

/// One grant from its start to its end: the unit of history.
///
/// ```
/// use palisade_locks::{
///     Command, Effects, LeaseId, LockTable, Mode, Outcome, RequestId, Stamp,
/// };
///
/// let (mut table, mut effects) = (LockTable::new(), Effects::default());
/// let acquire = Command::Acquire {
///     request_id: RequestId(1),
///     name: "orders/42",
///     owner: "ann",
///     ttl_ms: 30_000,
///     mode: Mode::Exclusive,
///     wait: false,
///     session: "",
///     metadata: "",
///     claim_ttl_ms: 0,
/// };
/// let at = Stamp { wall_ms: 5_000, shard_ms: 0 };
/// let Outcome::Granted(grant) = table.apply(at, &acquire, &mut effects) else { panic!() };
/// let later = Stamp { wall_ms: 7_000, shard_ms: 2_000 };
/// let by = Some(LeaseId::NONE); // no session asks for it
/// let release = Command::Release { name: "orders/42", token: grant.token, by };
/// table.apply(later, &release, &mut effects);
///
/// let tenure = effects.ended[0].tenure().unwrap();
/// assert_eq!((tenure.grant.owner.as_str(), tenure.ended_wall_ms), ("ann", 7_000));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The grant as it was at its end.
    pub grant: Grant,
    /// When it ended, in Unix milliseconds by the wall clock of the leader that proposed the end.
    pub ended_wall_ms: u64,
    /// How the grant ended.
    pub end: EndKind,
    /// The breaker of the lock. Empty unless `end` is [`EndKind::Broken`].
    pub broken_by: String,
    /// The reason for the break. Empty unless `end` is [`EndKind::Broken`].
    pub break_reason: String,
    /// The identity that broke the lock. Empty if `end` is another one or identities were off.
    pub broken_by_principal: String,
}

/// The answer to a command. A refusal is an answer too: it is the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acquire: the lock is held, by this request or by an earlier try with the same request id.
    Granted(Grant),
    /// Acquire or break: done, but not described, because [`crate::Effects::unheard`] is set.
    Unheard,
    /// Acquire: the request is in the queue; a retry finds it at its old place. An entry with its
    /// request id in [`crate::Effects::granted`] or [`crate::Effects::dropped`] follows.
    Queued,
    /// Renew: the lease lives another TTL.
    Renewed {
        /// TTL of the lease, in milliseconds.
        ttl_ms: u32,
        /// When that TTL is over, in Unix milliseconds. For display.
        expires_wall_ms: u64,
        /// Number of renewals since the grant, this one included.
        renewals: u64,
    },
    /// Release: the grant has ended.
    Released {
        /// Whether it had been released before: this was a retry.
        already: bool,
    },
    /// Heartbeat: the session's lease on this shard lives another TTL.
    HeartbeatOk(SessionAlive),
    /// CloseSession: the session is closed. Closing is idempotent, so an unknown session gives this
    /// too.
    Closed {
        /// Number of grants that this ended.
        released: u32,
    },
    /// CancelWait: the request was in the queue and has left it.
    Cancelled,
    /// CancelWait: no waiter and no grant of this name has this request id.
    NotWaiting,
    /// Break: the grant has ended, with this tenure.
    Broken(Box<Tenure>),
    /// Expire: `true` if the lease ended. `false` if it had been renewed or was already gone.
    Expired(bool),

    /// Acquire without waiting, or break of a stale token: another grant holds the lock.
    Held {
        /// Token of the oldest holder; 0 if there is none.
        token: Token,
        /// Owner of the same holder.
        owner: String,
    },
    /// Renew, release, break: this token does not hold the name, and perhaps never did. Or it holds
    /// the name for another identity than the caller: the two look alike.
    NotOwner {
        /// Token of the oldest holder; 0 if the name is free.
        current: Token,
    },
    /// Renew, release: this token held the name until its lease ran out. Remembered for
    /// [`REQUEST_MEMORY_MS`].
    LeaseExpired {
        /// Token of the oldest holder; 0 if the name is free.
        current: Token,
    },
    /// Acquire or heartbeat: the session is unknown on this shard, was closed, its lease ran out,
    /// or it belongs to another identity.
    SessionLost,
    /// Acquire: this request id was granted, and that grant has ended since.
    AlreadyEnded {
        /// Token of that grant.
        token: Token,
        /// How that grant ended.
        end: EndKind,
    },
    /// Acquire: this request id was given up before this copy of the acquire arrived.
    CancelledBefore,
    /// Acquire: the request conflicts with a present use. Either the name is a semaphore with
    /// another limit, or the request id is in use for another name.
    Conflict(&'static str),
    /// Acquire: a bound of the table is reached, for example the waiters of one name. CancelWait
    /// and CloseSession: the identity has used up its [share](REQUEST_MEMORY_SHARE) of the memory
    /// for ended requests and sessions. Nothing was done.
    Full(&'static str),
    /// Acquire: the quota of the identity is reached.
    OverQuota {
        /// The identity.
        principal: String,
        /// The bound that the acquire would exceed.
        bound: Bound,
        /// The value of that bound.
        quota: u32,
        /// The present holdings of the identity.
        has: Holdings,
    },
}

/// One bound of a [`Quota`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// [`Quota::locks`].
    Locks,
    /// [`Quota::sessions`].
    Sessions,
    /// [`Quota::waits`].
    Waits,
}

/// The state of a session's lease on this shard, as a heartbeat reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionAlive {
    /// The life that was renewed.
    pub life: LeaseId,
    /// TTL of the session's lease, in milliseconds.
    pub ttl_ms: u32,
    /// Number of grants of this life that other callers ended: by a break, or by a release that did
    /// not name this life.
    pub broken_count: u64,
    /// Tokens of those grants that the heartbeat did not know of, oldest first.
    pub broken: Vec<Token>,
    /// Whether some of those tokens are no longer remembered, so that `broken` is incomplete.
    pub broken_overflow: bool,
}

/// Why a waiter left the queue without a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Cancelled by [`Command::CancelWait`](crate::Command::CancelWait), or by a retry of its
    /// acquire that does not wait.
    Cancelled,
    /// The session that it waited with ended.
    SessionEnded,
}

/// A change in a lease's life, for the keeper of deadlines (the leader).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The lease began or was renewed. Only an `ExpireLease` that names this `renewal_seq` can end
    /// it by time.
    Alive {
        /// The lease that began or was renewed.
        lease: LeaseId,
        /// How long it lives from now on the leader's monotonic clock: the claim TTL while
        /// unclaimed.
        ttl_ms: u32,
        /// Number of the renewal, which names this stretch of the lease's life.
        renewal_seq: u64,
    },
    /// The lease has ended.
    Gone {
        /// The lease that ended.
        lease: LeaseId,
    },
}

/// A lease in force, as a new leader needs it to set its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveLease {
    /// Number of the lease.
    pub lease: LeaseId,
    /// How long it lives from `renewed_ms`, in milliseconds.
    pub ttl_ms: u32,
    /// Number of its last renewal, for the `ExpireLease` that may end it.
    pub renewal_seq: u64,
    /// Shard time at which it began or was last renewed.
    pub renewed_ms: u64,
}

/// A grant that ended, as history keeps it. The record is decoded only when a reader asks for it,
/// because most tenures are written and never read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Name of the resource.
    pub name: String,
    /// Token of the grant.
    pub token: Token,
    /// When it ended, in Unix milliseconds by the leader's wall clock. For display, and to decide
    /// how long history keeps it.
    pub ended_wall_ms: u64,
    /// From the grant to its end, in milliseconds by the leaders' wall clocks. For display.
    pub held_ms: u64,
    /// How the grant ended.
    pub end: EndKind,
    /// All other fields of the tenure, encoded.
    pub record: Vec<u8>,
}

/// Sizes of the table, for metrics and capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names with at least one holder.
    pub locks: u64,
    /// Grants that are in force.
    pub grants: u64,
    /// Acquires that wait in queues.
    pub waiters: u64,
    /// Sessions with a lease on this shard.
    pub sessions: u64,
}

/// One change of a durable record: set a value or, without one, delete it.
///
/// Keys are unique within a shard and sort records by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// At most 600 bytes. The first byte is the record's kind.
    pub key: Vec<u8>,
    /// The new value. `None` deletes the record.
    pub value: Option<Vec<u8>>,
}
