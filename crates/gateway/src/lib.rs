//! The stateless routing front door.
//!
//! It hashes a name to its slot and shard, sends the operation to that shard's leader over one stream per node, and tries
//! again where that is safe, with the same ids. It promises that what it answers is what a node answered, tokens unchanged;
//! that bad input is refused before anything is sent; and that an operation in doubt is never reported as not done. It holds
//! no lock state: any gateway serves any client, and a client that loses one goes on through another. It knows nothing of
//! Raft and storage, and decides nothing about locks.
//!
//! The road of one operation: `service` (gRPC) → `stream` (one task per client stream) → `router`
//! (validate, route, retry) → a node's link, and back. `fanout` turns one operation into one per
//! shard; `in_flight` keeps the waits of lost clients and `leave` ends them; `translate` stands
//! between the public protocol and the nodes'; `share` says how much one client may take up;
//! `watch` keeps an eye on the nodes, and `known` what they say.

mod error;
mod fanout;
mod gateway;
mod in_flight;
mod known;
mod leave;
mod limits;
mod metrics;
mod nodes;
mod router;
mod server;
mod service;
mod share;
mod stream;
mod translate;
mod watch;

pub use error::GatewayError;
pub use gateway::{Gateway, GatewayHandle, GatewayOptions};
