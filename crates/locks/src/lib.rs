//! The lock state machine: a pure, deterministic function of the commands applied to it.
//!
//! It decides who holds what. It promises that two tables which applied the same batches are equal in every observable
//! way, state hash included. It knows nothing of clocks, randomness, Raft, disks or the network: time comes in as a
//! [`Stamp`] on each batch, and what the outside must do comes out as [`Effects`].

mod batch;
mod codec;
mod command;
mod hash;
mod limits;
pub mod planted;
mod table;
mod tenure;
mod types;

pub use batch::{BATCH_BYTES_MAX, Batch, BatchBuilder};
pub use command::{Command, DecodeError};
pub use limits::{
    InvalidInput, validate, validate_mode, validate_name, validate_owner, validate_session, validate_token,
    validate_ttl,
};
pub use table::{HoldersPage, ListPage, LockTable, Paused};
pub use types::*;
