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
//! The way of one operation:
//!
//! ```text
//! doors ──► admission ──► calls ──► core ──► nodes
//! gRPC,     permitted?    drives    route,    one stream for
//! HTTP      room?         calls     retry     short operations,
//!                                             one for waits
//! ```
//!
//! - [`core`] decides, without I/O. The simulator runs it as it is.
//! - `identities` knows the identity of a client and its rights here, by the table in
//!   `permissions`; `visitor` is one client. Without identities, every client may do everything.
//! - `admission` bounds how much one client may take up.
//! - `in_flight` keeps the waits of lost clients, and `leave` ends them.
//! - `watching` serves watches, and `sight` says which part of them a client may see.
//! - `watch` polls the nodes, and `known` holds their reports.

mod admission;
mod calls;
mod cluster;
mod connection;
pub mod core;
mod doors;
mod error;
mod gateway;
mod identities;
mod in_flight;
mod known;
mod leave;
mod leaving;
mod limits;
mod metrics;
mod newest_told;
mod nodes;
mod notice;
mod permissions;
mod record;
mod redact;
mod router;
mod sight;
mod status;
mod visitor;
mod watch;
mod watching;

pub use error::GatewayError;
pub use gateway::{Gateway, GatewayHandle, GatewayOptions};
