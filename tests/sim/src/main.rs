//! `palisade-sim`: runs seeds, prints what happened to them, and how to replay one that failed.

use clap::Parser;
use palisade_sim::campaign::{Campaign, Totals, first_failure};
use palisade_sim::report;

#[derive(Parser)]
#[command(
    name = "palisade-sim",
    about = "Simulates whole clusters under faults, one per seed, and judges what their clients saw"
)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Totals as JSON.
    #[arg(long)]
    json: bool,
    /// A readable trace of each seed: best with --seeds 1.
    #[arg(long)]
    trace: bool,
    /// With --trace: what the replicas log, too.
    #[arg(long)]
    raft_log: bool,
    /// Print each seed's trace hash.
    #[arg(long)]
    hashes: bool,
    /// Threads; each seed runs in one.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, |n| n.get()))]
    threads: usize,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    if args.raft_log {
        let level = tracing_subscriber::EnvFilter::new("debug");
        tracing_subscriber::fmt().with_env_filter(level).without_time().with_target(false).with_ansi(false).init();
    }
    let campaign = Campaign {
        from: args.from,
        seeds: args.seeds,
        threads: if args.trace { 1 } else { args.threads },
        prints: args.trace,
    };
    let started = std::time::Instant::now();
    let mut totals = Totals::default();
    let mut failed = Vec::new();
    campaign.run(|report| {
        if args.hashes {
            println!("{} {:016x}", report.seed, report.trace_hash);
        }
        totals.add(&report);
        if !report.violations.is_empty() {
            eprint!("{}", report::failure(&report));
            failed.push(report.seed);
        }
        failed.len() < 5
    });
    let elapsed = started.elapsed();
    let silent = if args.seeds >= 50 { totals.silent_faults() } else { Vec::new() };
    if args.json {
        println!("{}", report::json(&totals, elapsed, &silent));
    } else if !args.hashes && !args.trace {
        print!("{}", report::text(&totals, elapsed));
    }
    for kind in &silent {
        eprintln!("fault kind never fired: {kind}. A run that does not have it shows nothing about it");
    }
    if first_failure(&failed).is_some() || !silent.is_empty() { 1.into() } else { 0.into() }
}
