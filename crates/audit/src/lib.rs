//! The audit log: JSON lines in a file of its own.
//!
//! ```text
//! record ──► repeats ──► bounded queue ──► one thread ──► file ──► FILE.1, FILE.2, …
//!            summed up    full: counted     writes         closed by size or age
//! ```
//!
//! It promises:
//!
//! - No caller waits for the disk. Lines that find no room are counted, and the count is a line.
//! - Ordinary operations never take all of the room.
//! - The end of the log waits for the last lines, but not for ever.
//! - Repeated denials of one identity are summed up, so that a flood of them fills no disk and
//!   pushes out no other line.
//! - A file is closed at its size or age, and only as many closed files are kept as asked.
//!
//! The crate knows nothing of the meaning of an event. Its callers put no secrets into events.

#![forbid(unsafe_code)]

mod event;
mod files;
mod log;
mod repeats;

pub use event::{Event, Kind};
pub use files::Settings;
pub use log::{Audit, AuditError};
