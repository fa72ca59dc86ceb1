//! A run's result as a JSON document: rates per second, latencies in milliseconds.

use crate::latency::Percentiles;
use crate::{Measured, Options};
use serde::Serialize;
use std::collections::BTreeMap;

/// The result of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The kind of load.
    pub mix: &'static str,
    /// The kind of loop: `closed` or `open`.
    pub r#loop: &'static str,
    /// The kind of transport: `stream` or `unary`.
    pub transport: &'static str,
    /// The maximum of operations in flight.
    pub clients: u32,
    /// Connections that the clients shared.
    pub connections: u32,
    /// Open loop: due operations per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Length of each name, in bytes.
    pub name_bytes: usize,
    /// Length of the measured span.
    pub seconds: f64,
    /// Operations that were answered in the measured span.
    pub operations: u64,
    /// Answered operations per second.
    pub operations_per_s: f64,
    /// Operations per second that changed state.
    pub writes_per_s: f64,
    /// Operations per second that changed no state.
    pub reads_per_s: f64,
    /// Heartbeats per second, each times the locks that it kept alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_alive_per_s: Option<f64>,
    /// Acquires that found the lock held, as a share of all acquires.
    pub contention_rate: f64,
    /// Operations that failed, by kind of error.
    pub errors: BTreeMap<&'static str, u64>,
    /// The first message of each kind of error, for people.
    #[serde(skip)]
    pub examples: BTreeMap<&'static str, String>,
    /// Open loop: operations that were due and not done at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    /// Latencies of `all` operations, and of each kind.
    pub latency: BTreeMap<&'static str, Percentiles>,
    /// Processor time of the load generator itself.
    pub generator_cpu_s: f64,
    /// Processor time of the load generator for each operation.
    pub generator_cpu_us_per_operation: f64,
}

impl Report {
    /// The result of one run with these options.
    pub fn new(options: &Options, measured: &Measured) -> Report {
        let (stats, seconds) = (&measured.stats, measured.span.as_secs_f64());
        let operations = stats.operations();
        let reads: u64 =
            stats.latencies.iter().filter(|(kind, _)| kind.is_read()).map(|(_, l)| l.count()).sum();
        let mut latency = BTreeMap::from([("all", stats.all().percentiles())]);
        latency.extend(stats.latencies.iter().map(|(kind, l)| (kind.as_str(), l.percentiles())));
        let cpu_s = measured.cpu.as_secs_f64();
        Report {
            mix: options.workload.mix.as_str(),
            r#loop: if options.rate.is_some() { "open" } else { "closed" },
            transport: if options.unary { "unary" } else { "stream" },
            clients: options.workload.clients,
            connections: options.connections,
            rate: options.rate,
            name_bytes: options.workload.names.bytes,
            seconds,
            operations,
            operations_per_s: operations as f64 / seconds,
            writes_per_s: stats.writes() as f64 / seconds,
            reads_per_s: reads as f64 / seconds,
            kept_alive_per_s: (stats.kept_alive > 0).then(|| stats.kept_alive as f64 / seconds),
            contention_rate: stats.contention_rate(),
            errors: stats.errors.clone(),
            examples: stats.examples.clone(),
            behind: options.rate.map(|_| measured.behind),
            latency,
            generator_cpu_s: cpu_s,
            generator_cpu_us_per_operation: cpu_s * 1e6 / operations.max(1) as f64,
        }
    }
}
