//! The translation between gateways and replicas: from a routed operation to the request for its
//! replica, and from the replica's reply to the operation's result.
//!
//! A node calls the functions in this order: [`check`], [`route`] and [`plan`] when an operation
//! comes, [`result`] when the replica has replied. The simulator calls the same functions.
//!
//! The crate promises that bad input is refused before anything is proposed, and that no operation
//! reaches a shard that does not own its name. An operation that may have been done is never told
//! as not done. Every function is pure: it knows nothing of clocks, threads, sockets and disks.
//!
//! ```
//! use palisade_service::{Request, check, plan, result};
//! use routing::{NodeId, ShardId};
//! use wire::internal::v1::{Operation, operation::Op, operation_result::Result as OpResult};
//!
//! let check_a = wire::v1::CheckRequest { name: "a".into(), ..Default::default() };
//! let operation = Operation { op: Some(Op::Check(check_a)), ..Default::default() };
//! check(&operation).expect("valid");
//! let plan = plan(operation).expect("valid");
//! assert!(matches!(plan.request, Request::Read { linearizable: true, .. }));
//!
//! // The leader changed before the replica could answer. A read changes nothing, so the sender
//! // may simply ask again.
//! let told = result(ShardId(0), NodeId(1), plan.kind, shard::Reply::Unknown);
//! let OpResult::Error(error) = told else { panic!("{told:?}") };
//! assert_eq!(error.code(), wire::v1::ErrorCode::NoLeader);
//! ```

mod limits;
mod outcome;
mod plan;
mod planted_bugs;
mod refusal;
mod route;

#[cfg(test)]
mod tests;

pub use limits::ROWS_BYTES_MAX;
pub use outcome::{counted, history, result, unanswered};
pub use plan::{Follow, Plan, Request, check, plan};
pub use refusal::{Refused, refused};
pub use route::{route, stale_route};
