//! What is recorded of a run: each operation as its client saw it, and what the service's history says at the end.
//!
//! All times are microseconds on one monotonic clock, the same for all clients. It knows nothing of where the record came
//! from: a simulation or real processes.

use serde::{Deserialize, Serialize};

/// Everything the checker judges.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// In any order.
    pub operations: Vec<Operation>,
    /// What holders believed, where that was recorded: empty otherwise.
    #[serde(default)]
    pub beliefs: Vec<Belief>,
    /// What session operations told beside their outcome, where that was recorded.
    #[serde(default)]
    pub lives: Vec<LifeNote>,
    /// Copies of acquires that a server took in and answered with a grant, though they had been given up; where that was recorded.
    #[serde(default)]
    pub late_grants: Vec<LateGrant>,
    /// Every tenure that the service knows, read after the last operation; `None` if it was not read.
    pub tenures: Option<Vec<TenureRecord>>,
    /// The bounds that this run was to keep.
    pub bounds: Bounds,
}

/// A stretch of time in which a client's SDK said that it held a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belief {
    /// Of the grant's acquire, as a place in the history.
    pub operation: usize,
    /// Of the grant.
    pub token: u64,
    /// When it began to say so.
    pub from_us: u64,
    /// When it would have stopped, had nothing come in between.
    pub until_us: u64,
}

/// Of an acquire on a session that was granted, or of a heartbeat that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeNote {
    /// As a place in the history.
    pub operation: usize,
    /// The session's life that the grant hangs on, or that the heartbeat named; 0: any.
    pub life: u64,
    /// The tokens that others ended, as the answer to a heartbeat told.
    pub broken: Vec<u64>,
    /// There were more.
    pub overflow: bool,
}

/// A copy of an acquire that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateGrant {
    /// Of the acquire.
    pub request: u64,
    /// What it got.
    pub token: u64,
    /// When a server took the copy in.
    pub taken_us: u64,
}

/// What the run's environment was, and what may be expected of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bounds {
    /// The fastest server clock, as a multiple of the clock of this record: a lease may end that much sooner by it.
    pub server_rate_max: f64,
    /// The slowest server clock.
    pub server_rate_min: f64,
    /// Microseconds within which a shard has a leader again once nothing is wrong, and within which a due expiry is noticed.
    pub failover_us: u64,
    /// Microseconds for which a waiter that nobody awaits any more keeps its place.
    pub waiter_grace_us: u64,
    /// A grant out of the queue may live for no longer than this, in milliseconds, unless it is claimed; 0: none needs a claim.
    #[serde(default)]
    pub claim_ttl_ms: u32,
    /// Stretches without faults, from and to: late expiry is judged in these only.
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
    /// A lease of this TTL lives at least so long, in microseconds of the record's clock.
    pub fn shortest_us(&self, ttl_ms: u32) -> u64 {
        (f64::from(ttl_ms) * 1_000.0 / self.server_rate_max) as u64
    }

    /// What a grant that nobody was told of lives for at least: nobody claims it, if it waited.
    pub fn unclaimed_ms(&self, ttl_ms: u32, wait_ms: u32) -> u32 {
        if wait_ms > 0 && self.claim_ttl_ms > 0 { ttl_ms.min(self.claim_ttl_ms) } else { ttl_ms }
    }

    /// A lease of this TTL is noticed to be over after at most so long, in microseconds of the record's clock.
    pub fn longest_us(&self, ttl_ms: u32) -> u64 {
        (f64::from(ttl_ms) * 1_000.0 / self.server_rate_min) as u64
    }
}

/// One operation of one client, with all the tries made for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// Of the resource; empty for what is about a session.
    pub name: String,
    /// That the operation went to.
    pub shard: u32,
    /// When its first try was sent.
    pub invoke_us: u64,
    /// When its answer was there. `None`: never; it may take effect at any time after `invoke_us`.
    pub return_us: Option<u64>,
    /// By the client and everybody on the way, as far as known; 0: not known.
    pub tries: u32,
    /// What was asked.
    pub call: Call,
    /// What it came to.
    pub result: Outcome,
}

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With other shared holders.
    Shared,
    /// With other permits, up to the limit.
    Permits {
        /// Taken.
        count: u32,
        /// Of so many.
        limit: u32,
    },
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Take a lock.
    Acquire {
        /// Stands for the request id: the same number exactly for the same id.
        request: u64,
        /// How.
        mode: Mode,
        /// Of the private lease, or of the session.
        ttl_ms: u32,
        /// 0: it does not wait.
        wait_ms: u32,
        /// Stands for the session; 0: a private lease.
        session: u64,
    },
    /// Another TTL.
    Renew {
        /// Of the grant.
        token: u64,
    },
    /// Let go.
    Release {
        /// Of the grant.
        token: u64,
    },
    /// Force-release.
    Break {
        /// Of the grant.
        token: u64,
    },
    /// Who holds it?
    Check {
        /// Or stale.
        linearizable: bool,
    },
    /// Another TTL for a session on this operation's shard.
    Heartbeat {
        /// Which.
        session: u64,
    },
    /// The session's end on this operation's shard.
    CloseSession {
        /// Which.
        session: u64,
    },
    /// The request is given up.
    CancelWait {
        /// Of the acquire.
        request: u64,
    },
}

/// One holder in the answer to a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Of the grant.
    pub token: u64,
    /// Of its acquire, where the answer tells.
    pub request: Option<u64>,
}

/// What an operation came to, as told to its client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nobody knows.
    Unknown,
    /// Told for certain that nothing was done, by any try.
    NotDone,
    /// Refused by the lock table (held, the wait ran out, this request's grant is over, …): nothing is held now.
    Refused,
    /// Refused: the token or session is not, or no longer, valid.
    Fenced,
    /// Acquire.
    Granted {
        /// The fencing token.
        token: u64,
        /// Of its lease.
        ttl_ms: u32,
    },
    /// Renew.
    Renewed,
    /// Release.
    Released {
        /// It had been released before.
        already: bool,
    },
    /// Break.
    Broken,
    /// Check.
    Holders {
        /// Empty: free.
        holders: Vec<Holder>,
        /// In the queue.
        waiters: u32,
    },
    /// Heartbeat.
    HeartbeatOk,
    /// Close.
    Closed,
    /// Cancel.
    Cancelled {
        /// It had been granted, and the answer told so.
        held: bool,
    },
}

/// How a grant ended, as the service's history says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By its owner.
    Released,
    /// Its lease ran out.
    Expired,
    /// By somebody else.
    Broken,
}

/// One grant in the service's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenureRecord {
    /// Where.
    pub shard: u32,
    /// Of the resource.
    pub name: String,
    /// The fencing token.
    pub token: u64,
    /// Of its acquire, where the history tells.
    pub request: Option<u64>,
    /// `None`: it still holds.
    pub end: Option<End>,
}
