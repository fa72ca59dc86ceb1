//! Operations as clients see them: a wish becomes a public operation, and its public result the
//! answer.
//!
//! The operations and results are those of real clients. Gateways and nodes translate them by the
//! real code.

use locks::Mode;
use routing::ShardId;
use std::collections::BTreeMap;
use wire::OperationKind;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as OpResult;
use wire::v1::{self, Consistency, Error, ErrorCode};

/// One operation on its way to a shard.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub name: String,
    pub shard: ShardId,
    pub what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Acquire {
        request: u64,
        mode: Mode,
        ttl_ms: u32,
        wait_ms: u32,
        session: u64,
        /// The TTL within which a grant out of the queue must be claimed. With 0 it needs no claim.
        claim_ttl_ms: u32,
    },
    Renew {
        token: u64,
    },
    /// `life` is the life of the session that releases its own lock. With 0 there is no session.
    Release {
        token: u64,
        life: u64,
    },
    Break {
        token: u64,
    },
    Check {
        linearizable: bool,
    },
    /// With `life` 0 the heartbeat is for any life.
    Heartbeat {
        session: u64,
        life: u64,
        broken_seen: u64,
    },
    CloseSession {
        session: u64,
    },
    /// Gives the acquire up.
    CancelWait {
        request: u64,
    },
}

/// The result of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    Granted { token: u64, ttl_ms: u32, waited_ms: u64, claim_within_ms: u32, life: u64 },
    Renewed,
    Released { already: bool },
    Broken,
    Holders { holders: Vec<(u64, u64)>, waiters: u32 },
    HeartbeatOk { broken_count: u64, broken: Vec<u64>, overflow: bool },
    Closed { released: u32 },
    Cancelled { held: Option<u64>, was_waiting: bool },
}

pub(crate) type Answer = Result<Done, Box<Error>>;

impl Ask {
    pub(crate) fn kind(&self) -> OperationKind {
        self.op(self.wait_ms()).kind()
    }

    pub(crate) fn wait_ms(&self) -> u32 {
        if let What::Acquire { wait_ms, .. } = self.what { wait_ms } else { 0 }
    }

    /// The operation as a client sends it. `left_ms` is the rest of the wait.
    pub(crate) fn operation(&self, id: u64, timeout_ms: u64, left_ms: u32) -> v1::Operation {
        let timeout_ms = timeout_ms.try_into().expect("a timeout of some seconds");
        v1::Operation { id, timeout_ms, ..v1::Operation::of(self.op(left_ms)) }
    }

    fn op(&self, left_ms: u32) -> Op {
        let name = self.name.clone();
        match self.what {
            What::Acquire { request, mode, ttl_ms, session, claim_ttl_ms, .. } => {
                let (mode, permits, permit_limit) = match mode {
                    Mode::Exclusive => (v1::Mode::Exclusive, 0, 0),
                    Mode::Shared => (v1::Mode::Shared, 0, 0),
                    Mode::Permits { count, limit } => (v1::Mode::Semaphore, count, limit),
                };
                Op::Acquire(v1::AcquireRequest {
                    name,
                    owner: "sim".into(),
                    ttl_ms,
                    request_id: request_id(request),
                    wait_ms: left_ms,
                    mode: mode.into(),
                    permits,
                    permit_limit,
                    session_id: session_id(session),
                    metadata: String::new(),
                    claim_ttl_ms,
                })
            }
            What::Renew { token } => Op::Renew(v1::RenewRequest { name, fencing_token: token }),
            What::Release { token, life } => {
                Op::Release(v1::ReleaseRequest { name, fencing_token: token, session_life: life })
            }
            What::Break { token } => Op::BreakLock(v1::BreakLockRequest {
                name,
                fencing_token: token,
                reason: "simulated".into(),
                broken_by: "operator".into(),
            }),
            What::Check { linearizable } => {
                let consistency = match linearizable {
                    true => Consistency::Linearizable,
                    false => Consistency::Stale,
                };
                let consistency = consistency.into();
                Op::Check(v1::CheckRequest { name, consistency, ..Default::default() })
            }
            What::Heartbeat { session, life, broken_seen } => {
                let lease = v1::SessionLease { shard: self.shard.0, life, broken_seen };
                let (session_id, leases) = (session_name(session), vec![lease]);
                Op::Heartbeat(v1::HeartbeatRequest { session_id, leases })
            }
            What::CloseSession { session } => {
                let (session_id, shards) = (session_name(session), vec![self.shard.0]);
                Op::CloseSession(v1::CloseSessionRequest { session_id, shards })
            }
            What::CancelWait { request } => {
                let request_id = request_id(request);
                Op::CancelWait(v1::CancelWaitRequest { name, request_id })
            }
        }
    }
}

/// The request ids of grants that checks told. No answer has them, and the checker needs them.
#[derive(Debug, Default)]
pub(crate) struct Shown(BTreeMap<Sight, u64>);

/// One grant in one check: the node that answered, the shard, its applied index, and the token.
type Sight = (u64, u32, u64, u64);

impl Shown {
    /// Notes the grants of a check as the replica of `node` told them.
    pub(crate) fn note(
        &mut self,
        node: u64,
        shard: ShardId,
        applied_index: u64,
        held: &[locks::Grant],
    ) {
        for grant in held {
            let sight = (node, shard.0, applied_index, grant.token.0);
            self.0.insert(sight, grant.request_id.0 as u64);
        }
    }

    fn request_of(&self, checked: &v1::CheckResponse, token: u64) -> u64 {
        let sight = (checked.answered_by, checked.shard, checked.applied_index, token);
        *self.0.get(&sight).expect("a replica told this grant")
    }
}

/// Reads a result as a client does.
pub(crate) fn answer_of(result: OpResult, shown: &Shown) -> Answer {
    Ok(match result {
        OpResult::Error(error) => return Err(Box::new(error)),
        OpResult::Acquire(acquired) => {
            let grant = acquired.grant.expect("an acquire that succeeds has a grant");
            Done::Granted {
                token: grant.fencing_token,
                ttl_ms: grant.ttl_ms,
                waited_ms: grant.waited_ms,
                claim_within_ms: grant.claim_within_ms,
                life: grant.session_life,
            }
        }
        OpResult::Renew(_) => Done::Renewed,
        OpResult::Release(released) => Done::Released { already: released.already_released },
        OpResult::BreakLock(_) => Done::Broken,
        OpResult::Check(checked) => {
            let tokens = checked.holders.iter().map(|grant| grant.fencing_token);
            let holders = tokens.map(|token| (token, shown.request_of(&checked, token))).collect();
            Done::Holders { holders, waiters: checked.waiters }
        }
        OpResult::Heartbeat(beaten) => match beaten.leases.into_iter().next() {
            Some(lease) => Done::HeartbeatOk {
                broken_count: lease.broken_count,
                broken: lease.broken_tokens,
                overflow: lease.broken_overflow,
            },
            None if !beaten.lost_shards.is_empty() => {
                return Err(Box::new(Error::new(ErrorCode::SessionLost, "")));
            }
            // The gateway does not say whether the shard has renewed the session nevertheless.
            None => return Err(Box::new(Error::outcome_unknown(""))),
        },
        OpResult::CloseSession(closed) => Done::Closed { released: closed.released },
        OpResult::CancelWait(cancelled) => {
            let held = cancelled.grant.map(|grant| grant.fencing_token);
            Done::Cancelled { held, was_waiting: cancelled.cancelled }
        }
        OpResult::History(_) | OpResult::List(_) => unreachable!("no client asks for these"),
    })
}

/// The number of the acquire with this request id.
pub(crate) fn request_of(request_id: &[u8]) -> u64 {
    let id = request_id.try_into().expect("a request id has 16 bytes");
    u128::from_be_bytes(id) as u64
}

fn request_id(request: u64) -> Vec<u8> {
    u128::from(request).to_be_bytes().into()
}

/// The id of a session. Empty for none, which is 0.
pub(crate) fn session_id(session: u64) -> String {
    if session == 0 { String::new() } else { session_name(session) }
}

fn session_name(session: u64) -> String {
    format!("s{session}")
}
