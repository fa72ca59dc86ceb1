//! Names to slots to shards: the versioned shard map, the cluster file, placement.
//!
//! A name hashes to one of 16,384 slots, a table maps slots to shards, and a shard is placed on nodes. Everything here
//! is a pure function of its arguments; it knows nothing of locks, Raft or sockets.

mod address;
mod config;
mod ids;
mod map;

pub use address::{Address, AddressError};
pub use config::*;
pub use ids::*;
pub use map::*;
