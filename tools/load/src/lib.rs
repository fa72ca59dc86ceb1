//! Load of a chosen kind on a cluster, its figures, and the calibration that stands on them.
//!
//! Each client is a small task around a script; all clients share one thread and a few connections,
//! so that little of the machine goes into making the load. Results count the operations that were
//! answered within the measured span. Latencies are those of answered operations: from when they
//! were sent in a closed loop, from when they were due in an open one.
//!
//! It knows nothing of the command line: [`run`] and [`calibrate`] take their options as values,
//! and return figures or typed errors.

pub mod calibrate;
mod caller;
mod error;
pub mod latency;
mod names;
mod report;
mod run;
mod script;
mod stats;
mod workload;

pub use caller::{Caller, Refusal};
pub use error::LoadError;
pub use names::{NAME_BYTES_MIN, NameSpace};
pub use report::Report;
pub use run::{Measured, Options, run};
pub use stats::Stats;
pub use workload::{Mix, SEED_RENEWALS, Workload};
