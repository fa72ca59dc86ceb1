//! The lock state machine: a pure, deterministic function of the commands applied to it.
//!
//! The [`LockTable`] decides which request holds a lock, which waits, and which is refused. Two
//! tables that applied the same batches are equal in every observable way, state hash included. The
//! crate knows nothing of clocks, randomness, Raft, disks or the network: time comes in as a
//! [`Stamp`] on each batch, and the work left to the caller comes out as [`Effects`].
//!
//! ```
//! use palisade_locks::{
//!     Command, Effects, LeaseId, LockTable, Mode, Outcome, RequestId, Stamp,
//! };
//!
//! let acquire = |id, owner| Command::Acquire {
//!     request_id: RequestId(id),
//!     name: "orders/42",
//!     owner,
//!     ttl_ms: 30_000,
//!     mode: Mode::Exclusive,
//!     wait: true,
//!     session: "",
//!     metadata: "",
//!     claim_ttl_ms: 0,
//! };
//! let (mut table, mut effects) = (LockTable::new(), Effects::default());
//! let at = Stamp { wall_ms: 1_700_000_000_000, shard_ms: 0 };
//!
//! let Outcome::Granted(ann) = table.apply(at, &acquire(1, "ann"), &mut effects) else { panic!() };
//! assert_eq!(table.apply(at, &acquire(2, "bob"), &mut effects), Outcome::Queued);
//!
//! // The release hands the lock to the head of the queue, with a higher fencing token.
//! let by = Some(LeaseId::NONE); // no session asks for the release
//! let release = Command::Release { name: "orders/42", token: ann.token, by };
//! table.apply(at, &release, &mut effects);
//! assert_eq!(effects.granted[0].owner, "bob");
//! assert!(effects.granted[0].token > ann.token);
//! ```

mod batch;
mod callers;
mod codec;
mod command;
mod effects;
mod hash;
mod limits;
mod planted_bugs;
mod table;
mod tenure;
mod types;

pub use batch::{BATCH_BYTES_MAX, Batch, BatchBuilder};
pub use codec::DecodeError;
pub use command::{Caller, Command, validate};
pub use effects::{Effects, Event, EventKind, WaitEnd};
pub use limits::{
    InvalidInput, validate_mode, validate_name, validate_owner, validate_principal,
    validate_session, validate_token, validate_ttl,
};
pub use table::{
    HoldersPage, ListOf, ListPage, LockTable, Paused, PictureOf, PicturePage, PicturePlace,
    SnapshotBuilder, Timed, TimedPlace,
};
pub use types::*;
