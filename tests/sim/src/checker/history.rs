//! The record of a run: each operation as its client saw it, and the tenures of the service's
//! history at the end.
//!
//! All times are microseconds on one monotonic clock, the same for all clients. This module does
//! not know whether the record comes from a simulation or from real processes.

use serde::{Deserialize, Serialize};

/// All records that the checker judges.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// The operations, in any order.
    pub operations: Vec<Operation>,
    /// The holders' beliefs. The list is empty if the run did not record them.
    #[serde(default)]
    pub beliefs: Vec<Belief>,
    /// The notes on session operations beside their outcome, if the run recorded them.
    #[serde(default)]
    pub lives: Vec<LifeNote>,
    /// Granted copies of acquires that had already been given up, if the run recorded them.
    #[serde(default)]
    pub late_grants: Vec<LateGrant>,
    /// Every tenure that the service knows, read after the last operation. `None` if it was not
    /// read.
    pub tenures: Option<Vec<TenureRecord>>,
    /// The bounds that this run had to keep.
    pub bounds: Bounds,
}

/// A stretch of time in which a client's SDK said that it held a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belief {
    /// The acquire of the grant, as a place in the history.
    pub operation: usize,
    /// The fencing token of the grant.
    pub token: u64,
    /// The time at which the SDK began to say so.
    pub from_us: u64,
    /// The time at which the SDK would have stopped, if nothing had come in between.
    pub until_us: u64,
}

/// A note on a granted acquire of a session, or on an accepted heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeNote {
    /// The operation, as a place in the history.
    pub operation: usize,
    /// The session's life to which the grant belongs, or which the heartbeat named. 0 stands for
    /// any life.
    pub life: u64,
    /// The tokens that other clients ended, as the answer to a heartbeat told.
    pub broken: Vec<u64>,
    /// `true` if others ended more tokens than the answer listed.
    pub overflow: bool,
}

/// A copy of an acquire that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateGrant {
    /// The request id of the acquire.
    pub request: u64,
    /// The token of the copy's grant.
    pub token: u64,
    /// The time at which a server took the copy in.
    pub taken_us: u64,
}

/// The environment of a run, and the bounds that follow from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bounds {
    /// The fastest server clock, as a multiple of the clock of this record. A lease may end earlier
    /// by this factor.
    pub server_rate_max: f64,
    /// The slowest server clock, as a multiple of the clock of this record.
    pub server_rate_min: f64,
    /// The time within which a shard has a leader again after the last fault, and within which a
    /// due expiry is noticed, in microseconds.
    pub failover_us: u64,
    /// The time for which a waiter keeps its place after its client stopped waiting, in
    /// microseconds.
    pub waiter_grace_us: u64,
    /// The longest life of an unclaimed grant out of the queue, in milliseconds. With 0, no grant
    /// needs a claim.
    #[serde(default)]
    pub claim_ttl_ms: u32,
    /// The stretches without faults, from start to end. Late expiry is judged in these only.
    pub calm: Vec<(u64, u64)>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            server_rate_max: 1.0,
            server_rate_min: 1.0,
            failover_us: 10_000_000,
            waiter_grace_us: 10_000_000,
            claim_ttl_ms: 0,
            calm: Vec::new(),
        }
    }
}

impl Bounds {
    /// The shortest life of a lease with this TTL, in microseconds of the record's clock.
    pub fn shortest_us(&self, ttl_ms: u32) -> u64 {
        (f64::from(ttl_ms) * 1_000.0 / self.server_rate_max) as u64
    }

    /// The shortest life of a grant whose answer did not arrive. No client claims such a grant, so
    /// the claim TTL ends it if the acquire waited.
    pub fn unclaimed_ms(&self, ttl_ms: u32, wait_ms: u32) -> u32 {
        if wait_ms > 0 && self.claim_ttl_ms > 0 { ttl_ms.min(self.claim_ttl_ms) } else { ttl_ms }
    }

    /// The longest time until the end of a lease with this TTL is noticed, in microseconds of the
    /// record's clock.
    pub fn longest_us(&self, ttl_ms: u32) -> u64 {
        (f64::from(ttl_ms) * 1_000.0 / self.server_rate_min) as u64
    }
}

/// One operation of one client, with all the tries made for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// The client that asked.
    pub client: u32,
    /// The name of the resource. It is empty for an operation on a session.
    pub name: String,
    /// The shard that the operation went to.
    pub shard: u32,
    /// The time at which the first try was sent.
    pub invoke_us: u64,
    /// The time at which the answer arrived. With `None` no answer came, so the operation may take
    /// effect at any time after `invoke_us`.
    pub return_us: Option<u64>,
    /// The tries by the client and by all gateways on the way, as far as known. 0 if not known.
    pub tries: u32,
    /// The request of the client.
    pub call: Call,
    /// The outcome that the client was told.
    pub result: Outcome,
}

/// The mode of a lock request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Excludes every other holder.
    Exclusive,
    /// Shares the lock with other shared holders.
    Shared,
    /// Shares the lock with other permits, up to the limit.
    Permits {
        /// The permits taken by this holder.
        count: u32,
        /// The permits that exist.
        limit: u32,
    },
}

/// The request of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Takes a lock.
    Acquire {
        /// Stands for the request id: equal numbers stand for equal ids.
        request: u64,
        /// The mode of the lock.
        mode: Mode,
        /// The TTL of the private lease or of the session.
        ttl_ms: u32,
        /// The longest wait. With 0 the request does not wait.
        wait_ms: u32,
        /// Stands for the session. 0 stands for a private lease.
        session: u64,
    },
    /// Renews the lease for another TTL.
    Renew {
        /// The fencing token of the grant.
        token: u64,
    },
    /// Releases the lock.
    Release {
        /// The fencing token of the grant.
        token: u64,
    },
    /// Force-releases the lock.
    Break {
        /// The fencing token of the grant.
        token: u64,
    },
    /// Asks for the current holders.
    Check {
        /// `true` for a linearizable check, `false` for a stale one.
        linearizable: bool,
    },
    /// Renews a session on this operation's shard for another TTL.
    Heartbeat {
        /// The session to renew.
        session: u64,
    },
    /// Ends a session on this operation's shard.
    CloseSession {
        /// The session to close.
        session: u64,
    },
    /// Gives up a request.
    CancelWait {
        /// The request id of the acquire.
        request: u64,
    },
    /// The same operation with a token, request or session of another identity, by a client that may
    /// not touch it. It must be as if it had never been asked. Its outcome is [`Outcome::Refused`] only
    /// if the answer is that to a token, request or session that never was.
    Attack(Box<Call>),
}

/// One holder in the answer to a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// The fencing token of the grant.
    pub token: u64,
    /// The request id of its acquire, if the answer tells it.
    pub request: Option<u64>,
}

/// The outcome of an operation, as its client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The client does not know whether the operation took effect.
    Unknown,
    /// The client was told for certain that no try had an effect.
    NotDone,
    /// The lock table refused the request, for example because the lock is held, the wait ran out,
    /// or this request's grant is over. The request holds nothing now.
    Refused,
    /// The request was refused because its token or session is not valid, or no longer valid.
    Fenced,
    /// The acquire was granted.
    Granted {
        /// The fencing token of the grant.
        token: u64,
        /// The TTL of its lease.
        ttl_ms: u32,
    },
    /// The lease was renewed.
    Renewed,
    /// The lock was released.
    Released {
        /// `true` if an earlier request had released it.
        already: bool,
    },
    /// The lock was force-released.
    Broken,
    /// The check was answered.
    Holders {
        /// The current holders. Empty if the lock is free.
        holders: Vec<Holder>,
        /// The number of requests in the queue.
        waiters: u32,
    },
    /// The heartbeat was accepted.
    HeartbeatOk,
    /// The session was closed.
    Closed,
    /// The cancel was answered.
    Cancelled {
        /// `true` if the answer told that the request had been granted.
        held: bool,
    },
}

/// The kind of end of a grant, as the service's history says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Its owner released it.
    Released,
    /// The lease ran out.
    Expired,
    /// Another client or an operator ended it.
    Broken,
}

/// One grant in the service's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenureRecord {
    /// The shard of the resource.
    pub shard: u32,
    /// The name of the resource.
    pub name: String,
    /// The fencing token of the grant.
    pub token: u64,
    /// The request id of its acquire, if the history tells it.
    pub request: Option<u64>,
    /// The end of the tenure. `None` if the grant still holds.
    pub end: Option<End>,
}
