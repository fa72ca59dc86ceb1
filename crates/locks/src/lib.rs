//! The lock state machine: a pure, deterministic function of the commands applied to it.
//!
//! It decides who holds what. It promises that two tables which applied the same batches are equal in every observable
//! way, state hash included. It knows nothing of clocks, randomness, Raft, disks or the network: time comes in as a
//! [`Stamp`] on each batch, and what the outside must do comes out as [`Effects`].

mod command;
mod table;
mod types;

pub use command::{Batch, BatchBuilder, Command, DecodeError};
pub use table::LockTable;
pub use types::*;
