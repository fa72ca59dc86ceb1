//! Durable bytes for the replicas of one node: on disk, or in memory with the same promises.
//!
//! It knows what a log, a lock-table record and a history record are *for*, but nothing of their contents.

mod engine;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod journal;
mod keys;
mod memory;
mod rocks;

pub use engine::*;
pub use memory::MemoryEngine;
pub use rocks::{RocksEngine, RocksOptions, Room};
