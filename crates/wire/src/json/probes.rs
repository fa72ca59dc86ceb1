//! The answers to probes, of gateways and nodes alike.

use serde::Serialize;

/// Whether a process runs.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Liveness {
    /// Whether the process runs and none of its parts has failed. A shard without a leader, and a
    /// drain, change nothing here.
    pub live: bool,
    /// The failure in words; empty if there is none.
    pub message: String,
}

/// Whether a process is ready to serve, and what is missing.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Readiness {
    /// Whether nothing is missing.
    pub ready: bool,
    /// What is missing.
    pub missing: Vec<Missing>,
}

/// One reason why a process is not ready.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Missing {
    /// The kind of the reason, for programs, such as `LEADER` or `DISK_HANGS`.
    pub code: &'static str,
    /// The reason in words.
    pub message: String,
    /// The shards that it is about; empty if it is about the whole process.
    pub shards: Vec<u32>,
    /// The nodes that it is about.
    pub nodes: Vec<u64>,
}

impl Liveness {
    /// Of a process that runs, or that has failed for this reason.
    pub fn new(failure: Option<String>) -> Liveness {
        Liveness { live: failure.is_none(), message: failure.unwrap_or_default() }
    }
}

impl Readiness {
    /// Of a process that lacks these.
    pub fn new(missing: Vec<Missing>) -> Readiness {
        Readiness { ready: missing.is_empty(), missing }
    }
}

impl Missing {
    /// A reason that is about the whole process.
    pub fn new(code: &'static str, message: impl Into<String>) -> Missing {
        Missing { code, message: message.into(), shards: Vec::new(), nodes: Vec::new() }
    }
}
