//! The options of a run. The module knows nothing of how a run is made.

use crate::Workload;
use client::Security;
use std::time::Duration;

/// The options of a run: the load, and how it is made and measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The load of the run.
    pub workload: Workload,
    /// The gateways, as `host:port`.
    pub endpoints: Vec<String>,
    /// TLS and the bearer token towards the gateways.
    pub security: Security,
    /// The timeout of each operation.
    pub timeout: Duration,
    /// Connections that the clients share.
    pub connections: u32,
    /// Use one RPC per operation, instead of one stream per connection.
    pub unary: bool,
    /// Open loop: operations per second over all clients. `None`: a closed loop.
    pub rate: Option<u32>,
    /// Time to run before the measurement.
    pub warmup: Duration,
    /// Length of the measurement.
    pub duration: Duration,
    /// Leave the locks that are held at the end to their TTL.
    pub keep: bool,
}
