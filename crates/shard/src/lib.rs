//! One replica of one Raft group of the lock service, as a synchronous state machine.
//!
//! [`Replica::step`] takes inputs (ticks, peers' messages, operations, "this write is on disk") and
//! returns outputs (messages to send, one write to make durable, replies). No reply says "done"
//! before a quorum has the operation on disk.
//!
//! Read it from the top down:
//!
//! | file | for |
//! |---|---|
//! | `api.rs` | the inputs and outputs |
//! | `replica/step.rs` | one step, from its inputs to its outputs |
//! | `replica/ready.rs` | the order of sending, applying and writing: the safety argument |
//! | `replica/apply.rs` | committed entries into the state machine |
//! | `machine/` | what the log is applied to: a lock table, or the topology |
//! | `parts/` | the state a replica is composed of, each kind with its rules |
//! | `raft/` | the few things that raft-rs needs around it |
//! | `first_write.rs` | how a founder of the topology's group begins |
//! | `by_topology.rs` | which replicas a node has by the topology, and what it reports |
//! | `lost_directory.rs` | what a node without its data asks its peers |
//! | `snapshot.rs` | snapshots, built and loaded off the replica's thread |
//! | `inspect.rs` | what entries and messages say of members, for judges of simulated runs |
//!
//! raft-rs lives only here: messages leave a replica as bytes. The crate knows nothing of threads,
//! sockets, files or clocks. Time comes in as [`Now`].

mod api;
mod by_topology;
mod first_write;
mod inspect;
pub mod lost_directory;
mod machine;
mod parts;
mod planted_bugs;
mod put_back;
mod raft;
mod replica;
mod settings;
mod snapshot;

pub use api::*;
pub use by_topology::*;
pub use first_write::first_write;
pub use inspect::{GroupChange, GroupEntry, Speaker, group_entry, snapshot_has_receiver, speaker};
pub use machine::TopologyNews;
pub use parts::founding::Founders;
pub use parts::group::{Wanted, WantedError};
pub use put_back::in_a_new_term;
pub use replica::Replica;
pub use settings::RaftSettings;
pub use snapshot::{
    BuiltSnapshot, LoadedSnapshot, SnapshotData, SnapshotError, build_snapshot, join_snapshot,
    load_snapshot,
};
