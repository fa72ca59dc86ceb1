//! Operations on their way: a request as a replica's input, and a replica's reply as its client's
//! answer.
//!
//! Replies are translated as in the node's service. They become the same errors with the same
//! codes, because the retry machine judges by these codes.

use locks::{Command, Grant, LeaseId, Mode, Outcome, RequestId, Token};
use routing::{NodeId, ShardId};
use shard::{Answer as Read, Input, Query, Reply, Ticket, Wait};
use wire::OperationKind;
use wire::v1::{Error, ErrorCode};

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
    /// `given_up` says that the client itself gave up, rather than a gateway that lost its client.
    CancelWait {
        request: u64,
        given_up: bool,
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
    Closed,
    Cancelled { held: Option<u64> },
}

pub(crate) type Answer = Result<Done, Box<Error>>;

/// The answer of a node to a gateway.
pub(crate) type NodeAnswer = Result<Done, Refusal>;

/// The reason why a node did not execute an operation.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    Error(Box<Error>),
    /// Another node leads the shard.
    NotLeader {
        hint: Option<NodeId>,
        term: u64,
    },
}

pub(crate) fn session_name(session: u64) -> String {
    format!("s{session}")
}

impl Ask {
    pub(crate) fn kind(&self) -> OperationKind {
        match self.what {
            What::Acquire { .. } => OperationKind::Acquire,
            What::Renew { .. } => OperationKind::Renew,
            What::Release { .. } => OperationKind::Release,
            What::Break { .. } => OperationKind::Break,
            What::Check { .. } => OperationKind::Check,
            What::Heartbeat { .. } => OperationKind::Heartbeat,
            What::CloseSession { .. } => OperationKind::CloseSession,
            What::CancelWait { .. } => OperationKind::CancelWait,
        }
    }

    pub(crate) fn wait_ms(&self) -> u32 {
        if let What::Acquire { wait_ms, .. } = self.what { wait_ms } else { 0 }
    }

    /// Builds the input for the replica. `left_ms` is the rest of the wait.
    pub(crate) fn input(&self, ticket: Ticket, left_ms: u32, give_up_at_ms: u64) -> Input {
        let name = self.name.as_str();
        let id;
        let command = match self.what {
            What::Check { linearizable } => {
                return Input::Read { ticket, query: Query::check(&self.name), linearizable };
            }
            What::Acquire { request, mode, ttl_ms, wait_ms, session, claim_ttl_ms } => {
                id = if session == 0 { String::new() } else { session_name(session) };
                let request_id = RequestId(request.into());
                let wait = wait_ms > 0;
                let (owner, session, metadata) = ("sim", id.as_str(), "");
                Command::Acquire {
                    request_id,
                    name,
                    owner,
                    ttl_ms,
                    mode,
                    wait,
                    session,
                    metadata,
                    claim_ttl_ms,
                }
            }
            What::Renew { token } => Command::Renew { name, token: Token(token) },
            What::Release { token, life } => {
                Command::Release { name, token: Token(token), by: Some(LeaseId(life)) }
            }
            What::Break { token } => {
                Command::Break { name, token: Token(token), by: "operator", reason: "simulated" }
            }
            What::Heartbeat { session, life, broken_seen } => {
                id = session_name(session);
                Command::Heartbeat { session: &id, life: LeaseId(life), broken_seen }
            }
            What::CancelWait { request, given_up } => {
                Command::CancelWait { name, request_id: RequestId(request.into()), given_up }
            }
            What::CloseSession { session } => {
                id = session_name(session);
                Command::CloseSession { session: &id }
            }
        };
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        let wait = match self.what {
            What::Acquire { request, wait_ms, .. } if wait_ms > 0 => {
                Some(Wait { request_id: RequestId(request.into()), wait_ms: left_ms.max(1) })
            }
            _ => None,
        };
        Input::Propose { ticket, command: bytes, wait, give_up_at_ms }
    }

    /// Translates a reply as the node's service does.
    pub(crate) fn answer(&self, reply: Reply) -> NodeAnswer {
        let answer = match reply {
            Reply::Done(outcome) => self.done(outcome),
            Reply::Read { answer: Read::Check { holders, waiters, .. }, .. } => {
                let shown = |grant: &Grant| (grant.token.0, grant.request_id.0 as u64);
                Ok(Done::Holders { holders: holders.iter().map(shown).collect(), waiters })
            }
            Reply::Read { .. } => error(ErrorCode::Internal),
            Reply::WaitTimeout => error(ErrorCode::WaitTimeout),
            Reply::WaitCancelled | Reply::Superseded => error(ErrorCode::WaitCancelled),
            Reply::NotLeader { hint, term } => return Err(Refusal::NotLeader { hint, term }),
            Reply::NoLeader => Err(Box::new(Error { retry_after_ms: 200, ..Error::no_leader("") })),
            Reply::Busy => Err(Box::new(Error::busy("", 100))),
            Reply::Unknown if self.kind().is_read() => error(ErrorCode::NoLeader),
            Reply::Unknown => error(ErrorCode::OutcomeUnknown),
        };
        answer.map_err(Refusal::Error)
    }

    fn done(&self, outcome: Outcome) -> Answer {
        match outcome {
            Outcome::Granted(grant) if matches!(self.what, What::CancelWait { .. }) => {
                Ok(Done::Cancelled { held: Some(grant.token.0) })
            }
            Outcome::Granted(grant) => Ok(Done::Granted {
                token: grant.token.0,
                ttl_ms: grant.ttl_ms,
                waited_ms: grant.waited_ms,
                claim_within_ms: grant.claim_within_ms,
                life: if grant.session.is_empty() { 0 } else { grant.lease.0 },
            }),
            Outcome::Renewed { .. } => Ok(Done::Renewed),
            Outcome::Released { already } => Ok(Done::Released { already }),
            Outcome::HeartbeatOk(alive) => Ok(Done::HeartbeatOk {
                broken_count: alive.broken_count,
                broken: alive.broken.iter().map(|token| token.0).collect(),
                overflow: alive.broken_overflow,
            }),
            Outcome::Closed { .. } => Ok(Done::Closed),
            Outcome::Broken(_) => Ok(Done::Broken),
            Outcome::Held { token, owner } if !matches!(self.what, What::Break { .. }) => {
                Err(Box::new(Error::held("", token.0, owner)))
            }
            Outcome::Held { token, .. } => Err(Box::new(Error::not_owner("", token.0))),
            Outcome::NotOwner { current } => Err(Box::new(Error::not_owner("", current.0))),
            Outcome::LeaseExpired { .. } | Outcome::AlreadyEnded { .. } => {
                error(ErrorCode::Expired)
            }
            Outcome::CancelledBefore => error(ErrorCode::WaitCancelled),
            Outcome::SessionLost => error(ErrorCode::SessionLost),
            Outcome::Conflict(_) => error(ErrorCode::InvalidArgument),
            Outcome::Full(_) => Err(Box::new(Error::busy("", 1_000))),
            Outcome::Cancelled | Outcome::NotWaiting => Ok(Done::Cancelled { held: None }),
            Outcome::Queued | Outcome::Expired(_) | Outcome::Unheard => {
                unreachable!("a leader answers none of these to a client: {outcome:?}")
            }
        }
    }
}

fn error(code: ErrorCode) -> Answer {
    Err(Box::new(Error::new(code, "")))
}
