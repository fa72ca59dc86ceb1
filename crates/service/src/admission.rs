//! The checks between the receipt of an operation and its replica, in their order.

use crate::callers::Caller;
use crate::plan::{Follow, Plan, Request, check, plan};
use crate::refusal::{Refused, refused};
use crate::route::route;
use routing::{ShardId, ShardMap};
use wire::OperationKind;
use wire::internal::v1::Operation;

/// An operation that may go to its replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The shard that owns the operation's name. Whether this node hosts it is another question.
    pub shard: ShardId,
    /// The kind of the operation.
    pub kind: OperationKind,
    /// The request for the replica.
    pub request: Request,
    /// The work that is left once the replica answered.
    pub follow: Follow,
    /// The time after which the sender gives the operation up, in milliseconds from its receipt. A
    /// wait in a lock's queue comes on top.
    pub timeout_ms: u32,
}

impl Admitted {
    /// Whether the operation may wait in a lock's queue.
    pub fn waits(&self) -> bool {
        matches!(self.request, Request::Propose { wait: Some(_), .. })
    }
}

/// Admits an operation of this caller that came `late_ms` later than usual: see [`wire::Lateness`].
///
/// # Errors
/// The result for its sender: BUSY if the sender has given it up by now, INVALID_ARGUMENT with the
/// change that the sender should make, or a stale route if the sender's map is old.
pub fn admit(
    map: &ShardMap,
    mut operation: Operation,
    caller: &Caller,
    late_ms: u64,
) -> Result<Admitted, Refused> {
    operation.held_up(late_ms).map_err(|error| refused(*error))?;
    check(&operation)?;
    let shard = route(map, &operation)?;
    let Plan { kind, request, follow, timeout_ms } = plan(operation, caller)?;
    Ok(Admitted { shard, kind, request, follow, timeout_ms })
}
