//! `palisade-sim`: runs seeds, prints their results, and shows how to replay a failed seed.

use clap::Parser;
use palisade_sim::campaign::{Campaign, Totals, first_failure};
use palisade_sim::planted::{self, AVAILABLE};
use palisade_sim::report;

#[derive(Parser)]
#[command(
    name = "palisade-sim",
    about = "Simulates whole clusters under faults, one per seed, and judges what their clients saw"
)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=SEEDS_MAX))]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=u64::MAX - SEEDS_MAX))]
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
    /// With a bug on purpose (needs a build with `--features planted-bugs`).
    #[arg(long)]
    bug: Option<String>,
    /// For each bug on purpose, runs up to --seeds seeds until it is caught, and prints by what.
    #[arg(long)]
    planted_bugs: bool,
    /// Threads; each seed runs in one.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, |n| n.get()))]
    threads: usize,
}

/// The largest number of seeds in one run. It is far beyond any practical run, and it keeps the
/// last seed a u64.
const SEEDS_MAX: u64 = 1 << 40;

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    if args.raft_log {
        let level = tracing_subscriber::EnvFilter::new("debug");
        tracing_subscriber::fmt()
            .with_env_filter(level)
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .init();
    }
    if args.planted_bugs {
        return planted_bugs(&args);
    }
    let bug = match args.bug.as_deref().map(|name| (name, planted::named(name))) {
        Some((name, None)) => {
            eprintln!("no bug is called {name:?}: see crates/planted/src/lib.rs");
            return 2.into();
        }
        found => found.and_then(|(_, bug)| bug),
    };
    let campaign = Campaign {
        bug,
        from: args.from,
        seeds: args.seeds,
        threads: if args.trace { 1 } else { args.threads },
        prints: args.trace,
    };
    let started = std::time::Instant::now();
    let mut totals = Totals::default();
    let mut failed = Vec::new();
    let mut hashes = std::collections::BTreeMap::new();
    campaign.run(|report| {
        if args.hashes {
            hashes.insert(report.seed, report.trace_hash);
        }
        totals.add(&report);
        if !report.violations.is_empty() {
            eprint!("{}", report::failure(&report));
            failed.push(report.seed);
        }
        failed.len() < 5
    });
    let elapsed = started.elapsed();
    hashes.iter().for_each(|(seed, hash)| println!("{seed} {hash:016x}"));
    let silent = if args.seeds >= 50 { totals.silent_faults() } else { Vec::new() };
    if args.json {
        println!("{}", report::json(&totals, elapsed, &silent));
    } else if !args.hashes && !args.trace {
        print!("{}", report::text(&totals, elapsed));
    }
    for kind in &silent {
        eprintln!(
            "fault kind never fired: {kind}. A run that does not have it shows nothing about it"
        );
    }
    if first_failure(&failed).is_some() || !silent.is_empty() { 1.into() } else { 0.into() }
}

/// Prints the table of `scripts/planted-bugs`. Fails if one bug is not caught.
fn planted_bugs(args: &Args) -> std::process::ExitCode {
    if !AVAILABLE {
        eprintln!("this build has no planted bugs: use scripts/planted-bugs");
        return 2.into();
    }
    println!("{:<28} {:>6} {:>6}  caught by", "bug", "seeds", "s");
    let mut missed = 0;
    for bug in planted::all() {
        let name = format!("{bug:?}");
        let started = std::time::Instant::now();
        let campaign = Campaign {
            from: args.from,
            seeds: args.seeds,
            threads: args.threads,
            prints: false,
            bug: Some(bug),
        };
        let (mut seeds, mut caught) = (0, None);
        campaign.run(|report| {
            seeds += 1;
            if caught.is_none() && !report.violations.is_empty() {
                let mut by: Vec<_> =
                    report.violations.iter().map(|violation| violation.invariant).collect();
                by.sort_unstable();
                by.dedup();
                let titles: Vec<&str> = by.into_iter().map(|invariant| invariant.title()).collect();
                caught = Some((titles.join(", "), report.seed));
            }
            caught.is_none()
        });
        let seconds = started.elapsed().as_secs_f64();
        match caught {
            Some((by, seed)) => {
                println!("{name:<28} {seeds:>6} {seconds:>6.1}  {by} (seed {seed})")
            }
            None => {
                missed += 1;
                println!("{name:<28} {seeds:>6} {seconds:>6.1}  NOT CAUGHT");
            }
        }
    }
    println!("{} of {} caught", planted::all().len() - missed, planted::all().len());
    if missed > 0 { 1.into() } else { 0.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_no_seeds_is_refused() {
        let parse = |text: &str| Args::try_parse_from(text.split(' '));
        assert_eq!(
            parse("sim --seeds 1 --from 7").map(|args| (args.seeds, args.from)).expect("valid"),
            (1, 7)
        );
        for bad in ["sim --seeds 0", "sim --seeds -1", "sim --from 18446744073709551615"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
