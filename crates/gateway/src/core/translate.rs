//! Translates a client's operation into a node's, and a node's answer into the client's.

use wire::internal::v1::operation::Op as RoutedOp;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::internal::v1::{CancelWait, ShardPage};
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{CancelWaitRequest, Error, HeartbeatResponse, ListResponse};

/// Makes the shard's form of an operation on one name.
///
/// # Errors
/// The operation itself, if it concerns more than one shard.
pub(super) fn to_shard(op: Op) -> Result<RoutedOp, Box<Op>> {
    Ok(match op {
        Op::Acquire(request) => RoutedOp::Acquire(request),
        Op::Renew(request) => RoutedOp::Renew(request),
        Op::Release(request) => RoutedOp::Release(request),
        Op::Check(request) => RoutedOp::Check(request),
        Op::CancelWait(CancelWaitRequest { name, request_id }) => {
            RoutedOp::CancelWait(CancelWait { name, request_id, abandoned: false })
        }
        Op::BreakLock(request) => RoutedOp::BreakLock(request),
        Op::History(request) => RoutedOp::History(request),
        Op::Heartbeat(_) | Op::CloseSession(_) | Op::List(_) => return Err(Box::new(op)),
    })
}

/// Makes the client's form of one shard's answer.
pub(super) fn to_client(answer: RoutedAnswer) -> Answer {
    match answer {
        RoutedAnswer::Error(error) => Answer::Error(error),
        RoutedAnswer::Grant(grant) => Answer::granted(grant),
        RoutedAnswer::Renew(renewed) => Answer::Renew(renewed),
        RoutedAnswer::Release(released) => Answer::Release(released),
        RoutedAnswer::Check(checked) => Answer::Check(checked),
        RoutedAnswer::Heartbeat(lease) => Answer::Heartbeat(HeartbeatResponse {
            renewed_shards: 1,
            leases: vec![lease],
            ..Default::default()
        }),
        RoutedAnswer::CloseSession(closed) => Answer::CloseSession(closed),
        RoutedAnswer::CancelWait(cancelled) => Answer::CancelWait(cancelled),
        RoutedAnswer::BreakLock(broken) => Answer::BreakLock(broken),
        RoutedAnswer::History(history) => Answer::History(history),
        RoutedAnswer::List(ShardPage { grants, next_cursor, .. }) => {
            let more = !next_cursor.is_empty();
            Answer::List(ListResponse { grants, more, next_cursor, ..ListResponse::default() })
        }
        // Status was not asked for, and the other two are handled as failures before.
        RoutedAnswer::Status(_) | RoutedAnswer::NotLeader(_) | RoutedAnswer::StaleRoute(_) => {
            Answer::Error(mismatched_answer())
        }
    }
}

/// The error for a node that answers an operation with the result of another kind.
pub(crate) fn mismatched_answer() -> Error {
    Error::internal("a node answered something else than what was asked: are all of one version?")
}

/// Whether an operation is a list or a history, because their answers can be large.
pub(crate) fn is_scan(op: &Op) -> bool {
    matches!(op, Op::List(_) | Op::History(_))
}
