//! From an operation to the request for its replica: the input is validated, and the command
//! encoded.

use crate::callers::Caller;
use crate::refusal::{Refused, invalid, refused};
use locks::{Command, LeaseId, ListOf, Mode, RequestId, Token};
use shard::{Input, Query, Ticket, Wait};
use wire::OperationKind;
use wire::internal::v1::operation::Op;
use wire::internal::v1::{CancelWait, CloseSession, Heartbeat, Operation, ReadStatus};
use wire::limits::{
    DEFAULT_TIMEOUT_MS, LIST_WAITERS_OF_NAME, OPERATION_BYTES_MAX, REQUEST_ID_BYTES, list_rows,
};
use wire::v1::{self, Consistency};

/// The request for the replica, and the facts about the operation that its reply still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) kind: OperationKind,
    pub(crate) request: Request,
    pub(crate) follow: Follow,
    pub(crate) timeout_ms: u32,
}

/// The request that a replica is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A change: see [`shard::Input::Propose`].
    Propose {
        /// The command, encoded.
        command: Vec<u8>,
        /// Set for an acquire that may wait.
        wait: Option<Wait>,
    },
    /// A read: see [`shard::Input::Read`].
    Read {
        /// The question.
        query: Query,
        /// Whether the answer must hold as of now, and not only as of this replica's log.
        linearizable: bool,
    },
}

impl Request {
    /// The request as an input of its replica. `ticket` names the operation. At `give_up_at_ms` on
    /// the replica's clock the sender gives it up.
    pub fn into_input(self, ticket: Ticket, give_up_at_ms: u64) -> Input {
        match self {
            Request::Propose { command, wait } => {
                Input::Propose { ticket, command, wait, give_up_at_ms }
            }
            Request::Read { query, linearizable } => Input::Read { ticket, query, linearizable },
        }
    }
}

/// The work that the answer alone does not settle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follow {
    /// No work is left.
    Nothing,
    /// Add the records that are on disk, with [`history`](crate::history).
    History {
        /// The name of the lock.
        name: String,
        /// At most this many tenures are told.
        limit: usize,
    },
}

/// Whether the operation can be served by any node.
///
/// # Errors
/// INVALID_ARGUMENT with the change that the sender should make.
pub(crate) fn check(operation: &Operation) -> Result<(), Refused> {
    let bytes = wire::encoded_bytes(operation);
    if bytes > OPERATION_BYTES_MAX {
        return Err(invalid(format!(
            "the operation has {bytes} bytes: at most {OPERATION_BYTES_MAX} are taken"
        )));
    }
    wire::check_routed(operation).map_err(refused)
}

/// The plan for an operation of this caller that passed [`check`].
///
/// # Errors
/// INVALID_ARGUMENT with the change that the sender should make.
pub(crate) fn plan(operation: Operation, caller: &Caller) -> Result<Plan, Refused> {
    let Operation { op, timeout_ms, .. } = operation;
    let Some(mut op) = op else { return Err(invalid("the operation is empty")) };
    wire::fill_routed_defaults(&mut op);
    let follow = match &op {
        Op::History(v1::HistoryRequest { name, limit }) => {
            Follow::History { name: name.clone(), limit: *limit as usize }
        }
        _ => Follow::Nothing,
    };
    Ok(Plan {
        kind: op.kind(),
        request: request(caller, op)?,
        follow,
        timeout_ms: if timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { timeout_ms },
    })
}

/// The request of an operation that has its defaults.
fn request(by: &Caller, op: Op) -> Result<Request, Refused> {
    match op {
        Op::Acquire(acquire) => acquire_request(by, &acquire),
        Op::Renew(v1::RenewRequest { name, fencing_token }) => {
            propose(by, &Command::Renew { name: &name, token: Token(fencing_token) }, None)
        }
        Op::Release(v1::ReleaseRequest { name, fencing_token, session_life }) => {
            let (token, life) = (Token(fencing_token), LeaseId(session_life));
            propose(by, &Command::Release { name: &name, token, by: Some(life) }, None)
        }
        Op::Heartbeat(Heartbeat { session_id, life, broken_seen }) => {
            let life = LeaseId(life);
            propose(by, &Command::Heartbeat { session: &session_id, life, broken_seen }, None)
        }
        Op::CloseSession(CloseSession { session_id }) => {
            propose(by, &Command::CloseSession { session: &session_id }, None)
        }
        Op::BreakLock(v1::BreakLockRequest { name, fencing_token, reason, broken_by }) => {
            let token = Token(fencing_token);
            let command = Command::Break { name: &name, token, by: &broken_by, reason: &reason };
            propose(by, &command, None)
        }
        Op::CancelWait(CancelWait { name, request_id, abandoned }) => {
            let request_id = parse_request_id(&request_id)?;
            propose(
                by,
                &Command::CancelWait { name: &name, request_id, given_up: !abandoned },
                None,
            )
        }
        Op::Check(v1::CheckRequest { name, consistency, after_token, limit, waiters_limit }) => {
            let linearizable = consistency != i32::from(Consistency::Stale);
            let (after, limit, waiters) =
                (Token(after_token), limit as usize, waiters_limit as usize);
            let query = Query::Check { name, after, limit, waiters };
            Ok(Request::Read { query, linearizable })
        }
        Op::History(v1::HistoryRequest { name, limit }) => {
            let query = Query::History { name, limit: limit as usize };
            Ok(Request::Read { query, linearizable: true })
        }
        Op::List(list) => {
            let after = wire::decode_cursor(&list.cursor).map(|(name, token)| (name, Token(token)));
            let limit = list_rows(&list) as usize;
            let v1::ListRequest { prefix, owner, older_than_ms, waiting, .. } = list;
            let of = ListOf { prefix, owner, older_than_ms, waiting };
            let waiters_of_name = LIST_WAITERS_OF_NAME as usize;
            let query = Query::List { of, after, limit, waiters_of_name };
            Ok(Request::Read { query, linearizable: true })
        }
        Op::ReadStatus(ReadStatus {}) => {
            Ok(Request::Read { query: Query::Status, linearizable: false })
        }
    }
}

fn acquire_request(by: &Caller, acquire: &v1::AcquireRequest) -> Result<Request, Refused> {
    let request_id = parse_request_id(&acquire.request_id)?;
    let wait_ms = acquire.wait_ms;
    let mode = match acquire.mode() {
        v1::Mode::Exclusive | v1::Mode::Unspecified => Mode::Exclusive,
        v1::Mode::Shared => Mode::Shared,
        v1::Mode::Semaphore => {
            Mode::Permits { count: acquire.permits, limit: acquire.permit_limit }
        }
    };
    let command = Command::Acquire {
        request_id,
        name: &acquire.name,
        owner: &acquire.owner,
        ttl_ms: acquire.ttl_ms,
        mode,
        wait: wait_ms > 0,
        session: &acquire.session_id,
        metadata: &acquire.metadata,
        claim_ttl_ms: acquire.claim_ttl_ms,
    };
    propose(by, &command, (wait_ms > 0).then_some(Wait { request_id, wait_ms }))
}

fn propose(by: &Caller, command: &Command<'_>, wait: Option<Wait>) -> Result<Request, Refused> {
    // The lock table has its own check, after the common check of the front doors. A command that
    // the table would not decode must not reach the log.
    locks::validate(command).map_err(|error| invalid(error.to_string()))?;
    let mut bytes = Vec::with_capacity(by.encoded().len() + command.bytes_max());
    bytes.extend_from_slice(by.encoded());
    command.encode(&mut bytes);
    Ok(Request::Propose { command: bytes, wait })
}

fn parse_request_id(bytes: &[u8]) -> Result<RequestId, Refused> {
    match <[u8; REQUEST_ID_BYTES]>::try_from(bytes) {
        Ok(id) if id != [0; REQUEST_ID_BYTES] => Ok(RequestId(u128::from_be_bytes(id))),
        _ => Err(invalid(
            "the request id must be 16 random bytes: choose them once per acquire, keep them for its retries",
        )),
    }
}
