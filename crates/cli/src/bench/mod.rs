//! `palisade bench`: load of a chosen kind, and what came of it.
//!
//! Each client is a small task around a [`script::Script`]; all share one thread and a few connections, so that little of the
//! machine goes into making the load. Results count what was answered within the measured span. Latencies are those of
//! answered operations: from when they were sent in a closed loop, from when they were due in an open one.

pub mod args;
mod calibrate;
mod caller;
mod latency;
mod names;
mod predict;
mod report;
mod run;
mod script;
mod stats;

use crate::failure::{Exit, Failure, one_line};
use args::Bench;
use report::Report;
use std::io::IsTerminal;

/// `palisade bench`.
pub async fn run(args: &Bench) -> Result<(), Failure> {
    if let Some(out) = &args.calibrate {
        return calibrate::run(args, out).await;
    }
    let workload = args.workload(rand::random())?;
    if let Some(calibration) = &args.predict {
        return predict::run(args, calibration);
    }
    // Whether anybody is there is known before a load is made.
    crate::verbs::connect(&args.gateways).cluster_status().await?;
    let callers = caller::Caller::connect(&args.gateways, args.streams, args.clients, args.unary)?;
    let live = std::io::stderr().is_terminal() && !args.json;
    let measured = run::run(args, workload, callers, live).await?;
    if measured.stats.operations() == 0 {
        let errors = measured.stats.errors.iter().map(|(kind, count)| {
            let example = measured.stats.examples.get(kind).map_or("", String::as_str);
            format!("; {count} × {kind}: {}", one_line(example))
        });
        let what = format!("nothing was answered in the measured time{}", errors.collect::<String>());
        return Err(Failure::new(
            Exit::Error,
            "NOTHING_ANSWERED",
            what,
            "look at the cluster: palisade cluster status",
        ));
    }
    let report = Report::new(args, &measured);
    if args.json {
        report.print_json()
    } else {
        report.print()
    }
    Ok(())
}
