//! The result of a run, for people.

use crate::output::{Paint, emit, print_table};
use crate::shown::{counted, grouped, one_line};
use load::Report;

/// Prints the result of a run.
pub fn print(report: &Report) {
    let rate = report.rate.map_or_else(String::new, |rate| format!(" at {rate}/s"));
    emit(&format!(
        "{}, {} loop{rate}: {}, {}, {}, {:.1} s",
        Paint::stdout().bold(report.mix),
        report.r#loop,
        counted(report.clients, "client"),
        counted(report.connections, "connection"),
        report.transport,
        report.seconds,
    ));
    let mut rates = format!(
        "  {} operations/s, {} writes/s",
        whole(report.operations_per_s),
        whole(report.writes_per_s)
    );
    if let Some(kept) = report.kept_alive_per_s {
        rates += &format!(", {} locks kept alive/s", whole(kept));
    }
    rates += &format!("; contention {:.1} %", report.contention_rate * 100.0);
    emit(&rates);
    if let Some(behind) = report.behind.filter(|behind| *behind > 0) {
        let were = if behind == 1 { "was" } else { "were" };
        emit(&format!("  {} {were} due and not done at the end", counted(behind, "operation")));
    }
    for (kind, count) in &report.errors {
        let example = report.examples.get(kind).map_or_else(String::new, |text| one_line(text));
        emit(&Paint::stdout().bad(&format!("  {count} × {kind}: {example}")));
    }
    let header = ["", "count", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"]
        .map(str::to_owned)
        .to_vec();
    let mut rows = vec![header];
    for (kind, l) in &report.latency {
        let mut row = vec![(*kind).to_owned(), l.count.to_string()];
        row.extend(
            [l.p50_ms, l.p90_ms, l.p99_ms, l.p999_ms, l.max_ms].map(|ms| format!("{ms:.2}")),
        );
        rows.push(row);
    }
    print_table(&rows);
    emit(&format!(
        "  the load itself took {:.2} s of processor time, {:.1} µs per operation",
        report.generator_cpu_s, report.generator_cpu_us_per_operation
    ));
}

fn whole(value: f64) -> String {
    grouped(value.round() as u64)
}
