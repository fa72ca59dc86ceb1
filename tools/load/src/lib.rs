//! Load of a chosen kind on a cluster, its figures, and the calibration that uses them.
//!
//! Each client is a small task around a script. All clients share one thread and a few connections,
//! so that the load itself takes little of the machine. Results count the operations that were
//! answered within the measured span. Latencies are those of answered operations. They count from
//! the send in a closed loop, and from the due time in an open loop.
//!
//! The crate knows nothing of the command line: [`run()`] and [`calibrate`] take their options as
//! values, and return figures or typed errors.

pub mod calibrate;
mod caller;
mod error;
pub mod latency;
mod names;
mod options;
mod report;
mod run;
mod script;
mod stats;
mod workload;

pub use caller::{Caller, Refusal};
pub use error::LoadError;
pub use names::{NAME_BYTES_MIN, NameSpace};
pub use options::Options;
pub use report::Report;
pub use run::{Measured, run};
pub use stats::Stats;
pub use workload::{Mix, SEED_RENEWALS, Workload};
