//! Watches of gateways on the shards of this node.
//!
//! One task for each watched shard has its recent events and its watchers, apart from the shard's
//! thread. It never waits for a gateway: a call that takes nothing keeps its place among the recent
//! events, and is told a new picture once they have gone past it.
//!
//! ```text
//! shard thread ──news──► task of the shard ──frames──► call of a gateway
//!       ▲                  │         ▲
//!       └──reads of pages──┘         └── start, stop, keep
//! ```
//!
//! * A watch begins with a read that a leader has confirmed. So a replica that is behind serves no
//!   watch, and a place that another replica told is never after the entries applied here.
//! * A watch ends with an error once its replica has known no leader for an election timeout, or
//!   has had no read confirmed for a while. So it can go on elsewhere.
//! * The end of a watch is told, however late its gateway reads. The watch counts as open until
//!   then.
//! * A shard without a watch here has no task, and its replica makes no events.

mod call;
mod filter;
mod hub;
mod orders;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use call::{CallId, Handle};
pub(crate) use hub::Hub;
