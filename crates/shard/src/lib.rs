//! One replica of one Raft group of the lock service, as a synchronous state machine.
//!
//! [`Replica::step`] takes inputs (ticks, peers' messages, operations, "this write is on disk") and returns outputs (messages
//! to send, one write to make durable, replies). It promises that no reply says "done" before a quorum has the operation on
//! disk. raft-rs lives only here: messages travel as bytes. It knows nothing of threads, sockets, files or clocks;
//! time comes in as [`Now`].

mod api;
mod parts;
mod put_back;
mod raft;
mod replica;
mod snapshot;

pub use api::*;
pub use put_back::in_a_new_term;
pub use replica::Replica;
pub use snapshot::{BuiltSnapshot, LoadedSnapshot, build_snapshot, join_snapshot, load_snapshot, split_snapshot};
