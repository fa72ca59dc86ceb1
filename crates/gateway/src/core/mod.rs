//! The way of an operation from a door to its answer, without I/O.
//!
//! A [`Call`] is one operation of a client. Its driver begins the call and passes in each outcome.
//! The call answers with [`Step`]s for the driver:
//!
//! ```text
//!                    begin ─►┌──────┐─► Send     an operation to a node, then `on_outcome`
//! on_outcome, on_pause_over ─►│ Call │─► Pause    a time to let pass, then `on_pause_over`
//!                            └──────┘─► Refresh  fetch the newer route table of a node
//!                                   └─► Answer   the last step
//! ```
//!
//! The gateway drives calls with streams and timers, and the simulator with its own network and
//! clock. So both run the same rules: which replica is asked, which operation is tried again, and
//! how a client is told about an operation in doubt.
//!
//! * [`Directory`] is the knowledge that all calls share: the shard map and the leaders.
//! * [`Cleanup`] ends an acquire after its client is gone.
//! * [`watch`] is for watches, which are no calls.
//! * A call that fans out has one *part* for each shard; all others have one part.
//!
//! The core promises that a call has one answer, that a part has at most one step under way, and
//! that an operation in doubt is never reported as not done. It knows nothing of sockets, tasks and
//! clocks: times are milliseconds on any one monotonic clock of its driver.

mod call;
mod caller;
mod cleanup;
mod directory;
mod fanout;
mod part;
mod planted_bugs;
mod translate;
pub mod watch;

#[cfg(test)]
mod tests;

pub use call::{Call, Outgoing, Step};
pub use caller::Caller;
pub(crate) use cleanup::is_unknown;
pub use cleanup::{Cleanup, Next};
pub use directory::Directory;
pub(crate) use fanout::shards_asked;
pub(crate) use translate::{is_scan, mismatched_answer};

/// The environment of a call, which its driver gives for one event: clock, dice and id generator.
pub trait Env {
    /// Milliseconds on the driver's monotonic clock. Does not change while one value lives.
    fn now_ms(&self) -> u64;

    /// A random number from 0 to 1, for the length of a pause.
    fn jitter(&mut self) -> f64;

    /// A new request id, for an acquire that came without one.
    fn request_id(&mut self) -> [u8; wire::limits::REQUEST_ID_BYTES];
}
