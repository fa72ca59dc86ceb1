//! The translation between gateways and replicas: from a routed operation to the request for its
//! replica, and from the replica's reply to the operation's result.
//!
//! A node calls [`admit`] when an operation comes, and [`result`] when the replica has replied. The
//! simulator calls the same functions.
//!
//! The crate promises that bad input is refused before anything is proposed, and that no operation
//! reaches a shard that does not own its name. An operation that may have been done is never told
//! as not done. Every function is pure: it knows nothing of clocks, threads, sockets and disks.
//!
//! ```
//! use palisade_service::{Caller, Request, admit, result};
//! use routing::{MapVersion, NodeId, Replicas, ShardId, ShardMap, Slot};
//! use wire::internal::v1::{Operation, Route, operation::Op, operation_result::Result as OpResult};
//!
//! let replicas = Replicas { nodes: vec![NodeId(1)], preferred_leader: NodeId(1) };
//! let map = ShardMap::even(MapVersion(1), [(ShardId(0), replicas)].into());
//! let check = wire::v1::CheckRequest { name: "a".into(), ..Default::default() };
//! let route = Route { shard: 0, slot: Slot::of("a").index().into(), map_version: 1 };
//! let operation = Operation::routed(Op::Check(check), route);
//! let admitted = admit(&map, operation, &Caller::NOBODY, 0).expect("valid");
//! assert!(matches!(admitted.request, Request::Read { linearizable: true, .. }));
//!
//! // The leader changed before the replica could answer. A read changes nothing, so the sender
//! // may simply ask again.
//! let told = result(ShardId(0), NodeId(1), admitted.kind, shard::Reply::Unknown);
//! let OpResult::Error(error) = told else { panic!("{told:?}") };
//! assert_eq!(error.code(), wire::v1::ErrorCode::NoLeader);
//! ```

mod admission;
mod callers;
mod limits;
mod outcome;
mod plan;
mod planted_bugs;
mod refusal;
mod route;
mod watching;

#[cfg(test)]
mod tests;

pub use admission::{Admitted, admit};
pub use callers::{Caller, Callers};
pub use limits::ROWS_BYTES_MAX;
pub use outcome::{counted, history, result, unanswered, waiter};
pub use plan::{Follow, Request};
pub use refusal::{Refused, refused};
pub use route::stale_route;
pub use watching::{event, kind, picture};
