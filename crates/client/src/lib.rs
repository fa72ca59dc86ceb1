//! The SDK: sessions, guards, and locks that keep themselves.
//!
//! Start with [`Client`]. [`Client::lock`] takes one lock that keeps itself, and
//! [`Client::open_session`] keeps many on one heartbeat. [`Client::acquire`] is for callers that
//! renew by themselves. Errors name the next step for their caller: see [`Error`].
//!
//! **Use the fencing token.** A lock service can tell a holder that it lost its lock, but cannot
//! stop a holder that is paused in the middle of a write. The resource under the lock should refuse
//! tokens lower than the highest it has seen.
//!
//! The crate makes these promises:
//!
//! - A lock counts as lost here before its lease can end at the service ([`lease`]).
//! - A broken lock counts as lost within one renewal interval
//!   ([`ClientOptions::renew_interval_max`]), and at once where the client may watch it
//!   ([`ClientOptions::watch_held`]).
//! - An operation that may have been done is never reported as not done ([`link::retry`]).
//!
//! The crate holds no lock state of its own. Streams and retries are in the crate `link`. The pure
//! module [`lease`] is public for simulators, and [`clock`] for tests of programs.

mod acquiring;
mod client;
pub mod clock;
mod cluster;
pub mod endpoint;
mod ends;
mod error;
mod guard;
mod guarded;
mod hearing;
mod held;
pub mod lease;
mod letting_go;
mod options;
mod pauses;
mod planted_bugs;
mod servers;
mod session;
mod trace;
mod tries;
mod unary;
mod unwanted;
mod watch;

pub use client::Client;
pub use endpoint::Security;
pub use error::Error;
pub use guard::LockGuard;
pub use held::Held;
pub use lease::LostReason;
pub use options::{AcquireOptions, ClientOptions, RequestId, SessionOptions};
pub use session::{Session, SessionLock};
pub use trace::in_trace;
pub use watch::{Told, Watch, WatchOptions};

pub use net::dial::{ClientSide, Pem};
pub use net::token::Token;
pub use wire::v1::plan_change_request::Change as PlanChange;
pub use wire::v1::setting_change::Setting;
pub use wire::v1::{
    CancelWaitResponse as Cancelled, ChangePlan, CheckResponse as Checked,
    ClusterStatusResponse as ClusterStatus, ClusterTopology, Consistency, ErrorCode, Event,
    EventKind, Grant, GrantState, HeartbeatResponse as Heartbeat, Job, JobKind, JobSpec,
    ListResponse as Listing, Mode, NodeStatus, OpenSessionResponse as Opened,
    RebuildTopologyResponse as RebuiltTopology, ReleaseResponse as Released,
    RenewResponse as Renewal, SettingChange, ShardStatus, StartJobResponse as StartedJob, Tenure,
    Waiter, WatchState,
};
