//! Durable bytes for the replicas of one node: on disk, or in memory with the same promises.
//!
//! Both engines implement [`Engine`]. The crate knows the purpose of a log entry, a lock-table
//! record and a history record, but nothing of their contents.
//!
//! ```
//! use palisade_storage::{Engine, Identity, MemoryEngine, ShardWrite};
//! use routing::ShardId;
//!
//! let engine = MemoryEngine::new();
//! let boot = engine.claim(&Identity { fingerprint: [7; 16], node: 1 }).unwrap();
//! assert_eq!(boot, 1);
//!
//! let shard = ShardId(0);
//! let entries = vec![(1, b"first".to_vec())];
//! let log = ShardWrite { shard, entries, ..ShardWrite::default() };
//! let applied = ShardWrite { shard, applied: Some(b"1".to_vec()), ..ShardWrite::default() };
//! engine.write(&[log, applied]).unwrap();
//!
//! // The log is on disk when `write` returns. The rest may be lost in a crash, and replaying the
//! // log gives it again.
//! engine.crash();
//! let found = engine.recover(shard).unwrap();
//! assert_eq!(found.entries, [(1, b"first".to_vec())]);
//! assert_eq!(found.applied, None);
//! ```

mod engine;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod journal;
mod keys;
mod lives;
mod memory;
mod packed;
mod rocks;
mod write_error;

pub use engine::*;
pub use identity::FORMATS;
pub use lives::{LifeRefused, Lives};
pub use memory::MemoryEngine;
pub use rocks::{RocksEngine, RocksOptions, Room, give_way};
