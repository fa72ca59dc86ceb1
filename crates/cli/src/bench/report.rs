//! A run's result, for people and for programs.

use super::args::Bench;
use super::latency::Percentiles;
use super::run::Measured;
use crate::failure::one_line;
use crate::output::{Paint, emit, print_json, print_table};
use crate::shown::counted;
use serde::Serialize;
use std::collections::BTreeMap;

/// As JSON: rates per second, latencies in milliseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    mix: &'static str,
    /// `closed` or `open`.
    r#loop: &'static str,
    /// `stream` or `unary`.
    transport: &'static str,
    clients: u32,
    connections: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    name_bytes: usize,
    seconds: f64,
    operations: u64,
    operations_per_s: f64,
    writes_per_s: f64,
    reads_per_s: f64,
    /// Heartbeats × locks that each kept alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_alive_per_s: Option<f64>,
    contention_rate: f64,
    errors: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    examples: BTreeMap<&'static str, String>,
    /// Open loop: due and not done at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<u64>,
    /// `all`, and each kind of operation.
    latency: BTreeMap<&'static str, LatencyJson>,
    /// Processor time of the load generator itself.
    generator_cpu_s: f64,
    generator_cpu_us_per_operation: f64,
}

#[derive(Debug, Serialize)]
struct LatencyJson {
    count: u64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl From<Percentiles> for LatencyJson {
    fn from(p: Percentiles) -> LatencyJson {
        let Percentiles { count, p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = p;
        LatencyJson { count, p50_ms, p90_ms, p99_ms, p999_ms, max_ms }
    }
}

impl Report {
    /// Of one run.
    pub fn new(args: &Bench, measured: &Measured) -> Report {
        let (stats, seconds) = (&measured.stats, measured.span.as_secs_f64());
        let operations = stats.operations();
        let reads: u64 = stats.latencies.iter().filter(|(kind, _)| kind.is_read()).map(|(_, l)| l.count()).sum();
        let mut latency = BTreeMap::from([("all", stats.all().percentiles().into())]);
        latency.extend(stats.latencies.iter().map(|(kind, l)| (kind.as_str(), l.percentiles().into())));
        let cpu_s = measured.cpu.as_secs_f64();
        Report {
            mix: args.mix.as_str(),
            r#loop: if args.rate.is_some() { "open" } else { "closed" },
            transport: if args.unary { "unary" } else { "stream" },
            clients: args.clients,
            connections: args.streams,
            rate: args.rate,
            name_bytes: args.name_bytes,
            seconds,
            operations,
            operations_per_s: operations as f64 / seconds,
            writes_per_s: stats.writes() as f64 / seconds,
            reads_per_s: reads as f64 / seconds,
            kept_alive_per_s: (stats.kept_alive > 0).then(|| stats.kept_alive as f64 / seconds),
            contention_rate: stats.contention_rate(),
            errors: stats.errors.clone(),
            examples: stats.examples.clone(),
            behind: args.rate.map(|_| measured.behind),
            latency,
            generator_cpu_s: cpu_s,
            generator_cpu_us_per_operation: cpu_s * 1e6 / operations.max(1) as f64,
        }
    }

    /// For programs.
    pub fn print_json(&self) {
        print_json(self);
    }

    /// For people.
    pub fn print(&self) {
        let rate = self.rate.map_or_else(String::new, |rate| format!(" at {rate}/s"));
        emit(&format!(
            "{}, {} loop{rate}: {}, {}, {}, {:.1} s",
            Paint::stdout().bold(self.mix),
            self.r#loop,
            counted(self.clients, "client"),
            counted(self.connections, "connection"),
            self.transport,
            self.seconds,
        ));
        let mut rates =
            format!("  {} operations/s, {} writes/s", whole(self.operations_per_s), whole(self.writes_per_s));
        if let Some(kept) = self.kept_alive_per_s {
            rates += &format!(", {} locks kept alive/s", whole(kept));
        }
        rates += &format!("; contention {:.1} %", self.contention_rate * 100.0);
        emit(&rates);
        if let Some(behind) = self.behind.filter(|behind| *behind > 0) {
            let were = if behind == 1 { "was" } else { "were" };
            emit(&format!("  {} {were} due and not done at the end", counted(behind, "operation")));
        }
        for (kind, count) in &self.errors {
            let example = self.examples.get(kind).map_or_else(String::new, |text| one_line(text));
            emit(&Paint::stdout().bad(&format!("  {count} × {kind}: {example}")));
        }
        let header = ["", "count", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"].map(str::to_owned).to_vec();
        let mut rows = vec![header];
        for (kind, l) in &self.latency {
            let mut row = vec![(*kind).to_owned(), l.count.to_string()];
            row.extend([l.p50_ms, l.p90_ms, l.p99_ms, l.p999_ms, l.max_ms].map(|ms| format!("{ms:.2}")));
            rows.push(row);
        }
        print_table(&rows);
        emit(&format!(
            "  the load itself took {:.2} s of processor time, {:.1} µs per operation",
            self.generator_cpu_s, self.generator_cpu_us_per_operation
        ));
    }
}

/// `43,210`.
fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0.0, 999.0, 1_000.0, 1_234_567.4].map(whole), ["0", "999", "1,000", "1,234,567"]);
    }
}
