//! The state of a client: its locks, its session, and its operations under way.

use crate::world::ask::{Answer, Ask};
use client::lease::Lease;
use link::retry::Tries;
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The next action of a client.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// An action that the client chooses at random.
    Something,
    /// A linearizable check of the name.
    Look {
        name: usize,
    },
    /// `hold` is the acquire's place in the record, because tokens of two shards can be equal.
    Renew {
        hold: usize,
    },
    Release {
        hold: usize,
    },
    /// An operation by a token that is most likely over.
    Stale {
        name: usize,
        token: u64,
        renew: bool,
    },
    Beat {
        session: u64,
        shard: ShardId,
        life: Life,
    },
    Retake {
        name: usize,
        request: u64,
    },
    /// An acquire with a session that has long been left alone.
    Revive {
        session: u64,
        ttl_ms: u32,
        shard: ShardId,
        life: Life,
    },
}

/// The client's knowledge of its session on a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    pub life: u64,
    /// The number of grants of that life that others ended, as far as the client was told.
    pub broken_seen: u64,
}

/// The purpose of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// `fresh` says that the request id was not used before.
    Take {
        name: usize,
        fresh: bool,
    },
    Renew {
        hold: usize,
    },
    Release,
    Beat {
        session: u64,
        shard: ShardId,
    },
    /// Begins a session anew. The fields name its former life.
    Revive {
        session: u64,
        shard: ShardId,
        life: Life,
    },
    /// Gives up the request, which may still be granted.
    GiveUp,
    /// Acquires for a client that dies before its turn comes.
    DieInQueue,
    Look {
        name: usize,
    },
    /// Asks at the end of a run whether a name can be acquired.
    Audit {
        name: usize,
    },
    /// Touches what another identity has. See [`World::attack`](super::World::attack).
    Attack,
    Nothing,
}

/// A lock that its client believes it holds.
pub(crate) struct Held {
    pub name: usize,
    pub token: u64,
    pub session: u64,
    /// The life of the session. 0 if there is no session.
    pub life: u64,
    /// The acquire, as a place in the record.
    pub operation: usize,
    /// The private lease. `None` until the first renewal, if the guard must wait for it because the
    /// start of the TTL is unknown.
    pub lease: Option<Lease>,
    pub ttl_ms: u32,
}

/// A session as its client knows it.
pub(crate) struct Session {
    pub id: u64,
    pub ttl_ms: u32,
    /// The shards where the session holds a lock, or held one.
    pub shards: BTreeMap<ShardId, Life>,
    /// Whether the client has stopped the heartbeats of this session.
    pub forgotten: bool,
}

/// * `calls` holds the calls by number.
/// * `tries` names the call of each try under way.
pub(crate) struct Client {
    pub role: Role,
    pub paused_until_us: u64,
    pub held: Vec<Held>,
    pub session: Option<Session>,
    pub calls: BTreeMap<u64, Call>,
    pub tries: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes locks with private leases.
    Locker,
    /// Takes all its locks on one session.
    Sessioner,
    /// Checks locks, and breaks one now and then.
    Watcher,
    /// Asks only the questions at the end of a run.
    Auditor,
}

pub(crate) struct Call {
    pub operation: usize,
    pub ask: Arc<Ask>,
    pub purpose: Purpose,
    pub retry: Tries,
    pub turn: u32,
    pub trying: Option<(u64, u32)>,
    pub first_sent_us: u64,
    pub sent_us: u64,
    /// The largest number of tries that a gateway reported for this operation.
    pub tries: u32,
}

/// The result of an operation, for its client.
pub(crate) struct Settled {
    pub operation: usize,
    pub ask: Arc<Ask>,
    pub purpose: Purpose,
    pub answer: Answer,
    pub first_sent_us: u64,
    pub sent_us: u64,
    pub tries: u32,
}

impl Client {
    pub(crate) fn new(role: Role) -> Client {
        Client {
            role,
            paused_until_us: 0,
            held: Vec::new(),
            session: None,
            calls: BTreeMap::new(),
            tries: BTreeMap::new(),
        }
    }

    pub(crate) fn busy(&self) -> usize {
        self.calls.len()
    }
}
