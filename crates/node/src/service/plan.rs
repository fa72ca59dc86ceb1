//! From an operation to the request for its replica: the route is checked, the input validated, the
//! command encoded.

use crate::host::Request;
use locks::{Command, LeaseId, Mode, RequestId, Token};
use routing::{MapVersion, ShardId, ShardMap, Slot};
use shard::{Query, Wait};
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::{CancelWait, CloseSession, Heartbeat, Operation, ReadStatus, StaleRoute};
use wire::limits::{OPERATION_BYTES_MAX, REQUEST_ID_BYTES};
use wire::v1::{self, Consistency, Error};

/// The request for the replica, and the work that is left once the replica answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) request: Request,
    pub(crate) follow: Follow,
}

/// The work that the answer alone does not settle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// No work is left.
    Nothing,
    /// Add the records that are on disk.
    History { name: String, limit: usize },
}

/// The result of an operation that reaches no replica. It is boxed because it is large and rare.
pub(crate) type Refused = Box<OpResult>;

/// The shard that the operation names, if `map` says that this shard owns the operation's name.
/// Whether this node hosts the shard is another question.
///
/// # Errors
/// A stale route if the sender's map is old; INVALID_ARGUMENT if the operation contradicts itself.
pub(crate) fn route(map: &ShardMap, operation: &Operation) -> Result<ShardId, Refused> {
    let Some(route) = &operation.route else {
        return Err(invalid("an operation for a node needs a route: send it through a gateway"));
    };
    let shard = ShardId(route.shard);
    let theirs = MapVersion(route.map_version);
    if theirs > map.version() {
        let message = format!(
            "this node's shard map (version {}) is older than the route's: try again",
            map.version()
        );
        return Err(refused(Error::busy(message, 200)));
    }
    let owned = match operation.op.as_ref().and_then(Op::name) {
        Some(name) => {
            let slot = Slot::of(name);
            if theirs == map.version() && u32::from(slot.index()) != route.slot {
                return Err(invalid(format!(
                    "the name belongs to slot {}, not {}",
                    slot.index(),
                    route.slot
                )));
            }
            map.owner(slot) == shard
        }
        // Every shard that the sender knows is asked for sessions, lists and status.
        None => map.replicas(shard).is_some(),
    };
    if owned { Ok(shard) } else { Err(stale_route(map, shard)) }
}

/// The refusal for a shard that this node does not serve (any more).
pub(crate) fn stale_route(map: &ShardMap, shard: ShardId) -> Refused {
    let message = format!(
        "shard {shard} does not serve this here by map version {}: fetch the newer map",
        map.version()
    );
    Box::new(OpResult::StaleRoute(StaleRoute { message, map_version: map.version().0 }))
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

/// The plan for an operation that passed [`check`].
///
/// # Errors
/// INVALID_ARGUMENT with the change that the sender should make.
pub(crate) fn plan(operation: Operation) -> Result<Plan, Refused> {
    let Some(mut op) = operation.op else { return Err(invalid("the operation is empty")) };
    wire::fill_routed_defaults(&mut op);
    let nothing = |request| Ok(Plan { request, follow: Follow::Nothing });
    match op {
        Op::Acquire(acquire) => nothing(plan_acquire(&acquire)?),
        Op::Renew(v1::RenewRequest { name, fencing_token }) => {
            nothing(propose(&Command::Renew { name: &name, token: Token(fencing_token) }, None)?)
        }
        Op::Release(v1::ReleaseRequest { name, fencing_token, session_life }) => {
            let (token, by) = (Token(fencing_token), Some(LeaseId(session_life)));
            nothing(propose(&Command::Release { name: &name, token, by }, None)?)
        }
        Op::Heartbeat(Heartbeat { session_id, life, broken_seen }) => {
            let life = LeaseId(life);
            nothing(propose(&Command::Heartbeat { session: &session_id, life, broken_seen }, None)?)
        }
        Op::CloseSession(CloseSession { session_id }) => {
            nothing(propose(&Command::CloseSession { session: &session_id }, None)?)
        }
        Op::BreakLock(v1::BreakLockRequest { name, fencing_token, reason, broken_by }) => {
            let token = Token(fencing_token);
            nothing(propose(
                &Command::Break { name: &name, token, by: &broken_by, reason: &reason },
                None,
            )?)
        }
        Op::CancelWait(CancelWait { name, request_id, abandoned }) => {
            let request_id = parse_request_id(&request_id)?;
            nothing(propose(
                &Command::CancelWait { name: &name, request_id, given_up: !abandoned },
                None,
            )?)
        }
        Op::Check(v1::CheckRequest { name, consistency, after_token, limit }) => {
            let linearizable = consistency != i32::from(Consistency::Stale);
            let query = Query::Check { name, after: Token(after_token), limit: limit as usize };
            nothing(Request::Read { query, linearizable })
        }
        Op::History(v1::HistoryRequest { name, limit }) => {
            let limit = limit as usize;
            let query = Query::History { name: name.clone(), limit };
            let request = Request::Read { query, linearizable: true };
            Ok(Plan { request, follow: Follow::History { name, limit } })
        }
        Op::List(v1::ListRequest { prefix, limit, cursor }) => {
            let after = wire::decode_cursor(&cursor).map(|(name, token)| (name, Token(token)));
            let query = Query::List { prefix, after, limit: limit as usize };
            nothing(Request::Read { query, linearizable: true })
        }
        Op::ReadStatus(ReadStatus {}) => {
            nothing(Request::Read { query: Query::Status, linearizable: false })
        }
    }
}

fn plan_acquire(acquire: &v1::AcquireRequest) -> Result<Request, Refused> {
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
    propose(&command, (wait_ms > 0).then_some(Wait { request_id, wait_ms }))
}

fn propose(command: &Command<'_>, wait: Option<Wait>) -> Result<Request, Refused> {
    // The lock table has its own check, after the common check of the front doors. A command that
    // the table would not decode must not reach the log.
    locks::validate(command).map_err(|error| invalid(error.to_string()))?;
    let mut bytes = Vec::new();
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

fn invalid(message: impl Into<String>) -> Refused {
    refused(Error::invalid(message))
}

/// The error as a result.
pub(super) fn refused(error: Error) -> Refused {
    Box::new(OpResult::Error(error))
}
