//! The stateless routing front door.
//!
//! The gateway hashes a name to its slot and shard and sends the operation to the shard's leader,
//! over one stream per node. It retries with the same ids where a retry is safe. It promises:
//!
//! - An answer is the answer of a node, with its tokens unchanged.
//! - Bad input is refused before anything is sent.
//! - An operation in doubt is never reported as not done.
//!
//! The gateway holds no lock state: any gateway serves any client, and a client that loses one goes
//! on through another. It knows nothing of Raft and storage, and decides nothing about locks.
//!
//! The way of one operation: `service` (gRPC) → `stream` (one task per client stream) → `router`
//! (validate, route, retry) → a node's link, and back.
//!
//! - `fanout` turns one operation into one per shard.
//! - `in_flight` keeps the waits of lost clients, and `leave` ends them.
//! - `translate` stands between the public protocol and the internal one.
//! - `share` bounds how much one client may take up.
//! - `watch` polls the nodes, and `known` holds their reports.

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
