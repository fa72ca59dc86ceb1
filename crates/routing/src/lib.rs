//! Names to slots to shards: the versioned shard map, the cluster file, placement.
//!
//! A name hashes to one of 16,384 slots, a table maps slots to shards, and a shard is placed on
//! nodes:
//!
//! ```text
//! "orders/42" ──CRC-32──► slot 9,566 ──map──► shard 2 ──placement──► nodes 3 (leads), 1, 5
//! ```
//!
//! Everything here is a pure function of its arguments; only [`ClusterConfig::load`] reads a file.
//! The crate knows nothing of locks, Raft or sockets.
//!
//! ```
//! use palisade_routing::ClusterConfig;
//!
//! let config = ClusterConfig::dev(4, 3, 7400).unwrap();
//! let map = config.shard_map();
//! let route = map.route("orders/42");
//! assert_eq!(map.replicas(route.shard).unwrap().nodes.len(), 3);
//!
//! // A part in braces is hashed alone, so that related names share a shard.
//! assert_eq!(map.route("{orders}/42").shard, map.route("{orders}/43").shard);
//! ```

mod address;
mod config;
mod ids;
mod map;
mod planted_bugs;
mod route_table;

pub use address::{Address, AddressError, Scheme};
pub use config::*;
pub use ids::*;
pub use map::*;
pub use route_table::*;
