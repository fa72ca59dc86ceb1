//! The state machine of the topology, and the plans that change it.
//!
//! A [`Topology`] says which nodes there are, which members each shard should have and has, which of
//! them should lead, and which jobs run. [`Topology::apply`] is its gatekeeper: every [`Command`] is
//! checked there, and changes all it has to or nothing. [`plan::next`] compares a topology with what
//! nodes report, and answers the next commands.
//!
//! ```text
//! operators ── jobs ──►┐                  ┌── deltas ──► every process
//! nodes ───── facts ──►│ apply ► Topology ┤
//!           ┌─ wishes ►┘                  └─► plan::next ──┐
//!           └──────────────────────────────────────────────┘   with what nodes report
//! ```
//!
//! All of it is a pure function of its arguments. The crate knows nothing of clocks, randomness,
//! Raft, disks or the network: time is an argument, and the log that feeds a topology is another's.
//!
//! ```
//! use palisade_topology::{Command, Proposal, Recent, Refusal, Seed, Since, Topology, Version};
//! use routing::{ClusterConfig, NodeId, ShardId};
//!
//! let seed = Seed::of(&ClusterConfig::dev(4, 3, 7400).unwrap());
//! let mut topology = Topology::default();
//! let mut recent = Recent::default();
//! let delta = topology.apply(&Proposal::new(1_700_000_000, Command::Bootstrap { seed })).unwrap();
//! recent.push(delta.unwrap());
//!
//! // A copy follows by deltas.
//! let mut copy = Topology::default();
//! let Since::Deltas(deltas) = recent.since(copy.version(), topology.version()) else { panic!() };
//! deltas.into_iter().for_each(|delta| copy.follow(delta).unwrap());
//! assert_eq!(copy.encode(), topology.encode());
//!
//! // A command that makes no sense is refused in words.
//! let prefer = Command::Prefer { shard: ShardId(0), node: NodeId(9) };
//! let refusal = topology.apply(&Proposal::new(1_700_000_001, prefer)).unwrap_err();
//! assert_eq!(refusal, Refusal::UnknownNode(NodeId(9)));
//! ```

mod apply;
mod codec;
mod command;
mod delta;
mod facts;
mod levels;
pub mod plan;
pub mod rebuild;
mod records;
mod refusal;
mod seed;
mod state;
mod why;

pub use codec::DecodeError;
pub use command::*;
pub use delta::*;
pub use levels::*;
pub use refusal::Refusal;
pub use seed::*;
pub use state::*;
pub use why::{Lack, Unready, Why};
