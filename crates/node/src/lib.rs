//! One node: threads, log writer, transport and services for many shards.
//!
//! The crate hosts [`shard::Replica`]s, and owns the parts that replicas must not know: clocks,
//! threads, sockets, and the only writer to the disk. It promises that inputs reach a replica in
//! order. A write is reported persisted only after the engine returned. After a fatal failure the
//! node answers nothing any more. The crate decides nothing about locks.
//!
//! The path of one operation: `service::operate` (tokio, one task per stream) → `host` (a shard
//! thread) → `writer` (the log writer thread) and `transport` (one stream per peer node) → `host` →
//! the stream's task.

mod beginning;
mod board;
mod certificates;
mod chosen_id;
mod clock;
mod context;
mod control;
mod controller;
mod disk;
mod draining;
mod error;
mod following;
mod founding;
mod frames;
mod giving_way;
mod guard;
mod handle;
mod handover;
mod health;
mod host;
mod hosting;
mod joining;
mod levels;
mod lifecycle;
mod limits;
mod lineage;
mod mailbox;
mod members;
mod meta;
mod metrics;
mod moves;
mod node;
mod peer_identities;
mod placement;
mod proposals;
mod rebuilt;
mod recovery;
mod refounding;
mod refusals;
mod reports;
mod retention;
mod roles;
mod routes;
mod seeds;
mod server;
mod service;
mod sorting;
mod taking_part;
#[cfg(test)]
mod testing;
mod topology_copy;
mod transport;
mod view;
mod watching;
mod writer;

pub use error::{JoinError, NodeError};
pub use handle::NodeHandle;
pub use hosting::HostingError;
pub use joining::choose_id;
pub use node::{Node, NodeOptions};
pub use peer_identities::FirstStart;
pub use proposals::NotApplied;
