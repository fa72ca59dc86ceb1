//! The SDK: sessions, guards, retries, multiplexed streams.
//!
//! Start with [`Client`]: [`Client::lock`] for one lock that keeps itself, [`Client::open_session`] for many on one heartbeat,
//! [`Client::acquire`] for those who renew by themselves. Errors say what to do next: see [`Error`].
//!
//! **Use the fencing token.** A lock service can tell a holder that it lost its lock, but not stop one that is paused in
//! the middle of a write. Whatever the lock protects should refuse tokens lower than the highest it has seen.
//!
//! The crate promises that a lock counts as lost here before its lease can end at the service ([`lease`]), and within one
//! renewal interval after it was broken there ([`ClientOptions::renew_interval_max`]). It promises that an operation that
//! may have been done is never reported as not done ([`retry`]). It holds no lock state of its own. The
//! modules below [`Client`] are public for the gateway, which speaks to nodes by the same means, and for simulators, which
//! drive the pure ones.

mod client;
pub mod clock;
pub mod drive;
pub mod endpoint;
mod error;
mod guard;
pub mod leaders;
pub mod lease;
mod letting_go;
pub mod mux;
mod options;
pub mod planted;
pub mod retry;
mod servers;
mod session;
mod unary;

pub use client::Client;
pub use error::Error;
pub use guard::LockGuard;
pub use lease::LostReason;
pub use options::{AcquireOptions, ClientOptions, RequestId, SessionOptions};
pub use session::{Session, SessionLock};

pub use wire::v1::{
    CancelWaitResponse as Cancelled, CheckResponse as Checked, ClusterStatusResponse as ClusterStatus, Consistency,
    ErrorCode, Grant, GrantState, HeartbeatResponse as Heartbeat, ListResponse as Listing, Mode, NodeStatus,
    OpenSessionResponse as Opened, ReleaseResponse as Released, RenewResponse as Renewal, ShardStatus, Tenure,
};
