//! Clusters on this machine, for `palisade dev`, tests, chaos and calibration.
//!
//! * [`Processes`]: nodes and gateways as child processes that can be hurt.
//! * `InProcess` (feature `in-process`): nodes and a gateway inside the calling process.
//! * Both describe their cluster by [`cluster_config`] on [`free_addresses`], and both count as
//!   ready by [`leaders()`].
//!
//! The two types stay apart, because a node inside the same process has no pid, log, exit status or
//! signals of its own. The library makes no decision about a cluster's health. Its callers wait for
//! the state that they need, and decide on the meaning of a failure.

mod addresses;
mod config;
mod error;
#[cfg(feature = "in-process")]
mod in_process;
mod leaders;
mod member;
mod page;
mod process;
mod processes;

pub use addresses::free_addresses;
pub use config::{Addresses, cluster_config};
pub use error::ClusterError;
#[cfg(feature = "in-process")]
pub use in_process::{InProcess, InProcessError, InProcessOptions, Protection};
pub use leaders::{Leader, leaders};
pub use member::Member;
pub use page::{metric_sums, page};
pub use process::Process;
pub use processes::{Ended, Launch, Processes};
