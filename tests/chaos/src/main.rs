//! `palisade-chaos`: the command line of the chaos tests.
//!
//! `scripts/chaos` starts it in namespaces of its own, if the system allows that.

use clap::{Args, Parser, Subcommand};
use palisade_chaos::error::{Because, Error};
use palisade_chaos::failover::failovers;
use palisade_chaos::kinds::Kind;
use palisade_chaos::load;
use palisade_chaos::plan::Plan;
use palisade_chaos::report::{line, write_docs};
use palisade_chaos::run::run;
use palisade_chaos::tools::Tools;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(
    name = "palisade-chaos",
    about = "Hurts a cluster of real processes, and judges what its clients saw"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Goes through the faults
    Run(Run),
    /// A client process (started by `run`)
    #[command(hide = true)]
    Client(load::Options),
}

#[derive(Args)]
struct Run {
    /// How long, at least; every kind of fault comes once in any case
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// These kinds only [default: all, and combinations]
    #[arg(long, value_enum, num_args = 1..)]
    fault: Vec<Kind>,
    /// Instead: kill the leader of a shard so often, and measure how long the shard does not serve
    #[arg(long, value_name = "KILLS", conflicts_with_all = ["minutes", "fault", "seed"])]
    failover: Option<u32>,
    /// Decides what is hurt when [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// The result as JSON, on the last line
    #[arg(long)]
    json: bool,
    /// Put the table into this page
    #[arg(long, num_args = 0..=1, default_missing_value = "docs/chaos.md", value_name = "PAGE")]
    write_docs: Option<PathBuf>,
    /// Keep data, logs and evidence here [default: a temporary directory, kept only if something
    /// went wrong]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// This process has network, mount and process namespaces of its own (`scripts/chaos` says so)
    #[arg(long, hide = true)]
    namespaces: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new().expect("start the async runtime");
    let outcome = match cli.command {
        Command::Client(options) => runtime.block_on(load::run(options)).map(|()| true),
        Command::Run(args) => runtime.block_on(conduct(args)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("chaos: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the faults. Returns whether every check passed.
async fn conduct(args: Run) -> Result<bool, Error> {
    let temporary = tempfile::Builder::new().prefix("palisade-chaos-").tempdir();
    let temporary = temporary.because("a temporary directory")?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir).because(dir.display())?;
    let seed = args.seed.unwrap_or_else(palisade_chaos::clock::now_us);
    if !args.namespaces {
        eprintln!(
            "chaos: no namespaces of its own: everything on loopback, and what needs cutting is \
             skipped"
        );
    }
    let tools = Tools::find(args.namespaces, &dir);
    if args.failover.is_none() {
        let asked = |kind: &Kind| args.fault.is_empty() || args.fault.contains(kind);
        for (kind, why) in
            Kind::all().filter(asked).filter_map(|kind| Some((kind, tools.missing(kind)?)))
        {
            eprintln!("chaos: skipped: {}: {why}", kind.title());
        }
    }
    let (fine, outcome) = match args.failover {
        Some(kills) => {
            measure(kills, &dir, args.namespaces, args.json, args.write_docs.as_deref()).await
        }
        None => {
            let (kinds, dir) = (args.fault, dir.clone());
            let (minutes, has_pairs) = (args.minutes, kinds.is_empty());
            let plan = Plan { minutes, kinds, has_pairs, seed, tools, dir };
            hurt(plan, args.json, args.write_docs.as_deref()).await
        }
    };
    if fine {
        unmount_below(&dir);
    } else {
        let kept = args.dir.unwrap_or_else(|| temporary.keep());
        eprintln!("chaos: data, logs and evidence are kept in {}", kept.display());
    }
    outcome.map(|()| fine)
}

/// Unmounts the small disk, because a directory with a mount cannot be removed.
fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|place| Path::new(place).starts_with(dir));
    for place in places {
        if let Err(error) = std::process::Command::new("umount").arg(place).status() {
            eprintln!("chaos: umount {place}: {error}");
        }
    }
}

async fn hurt(plan: Plan, json: bool, page: Option<&Path>) -> (bool, Result<(), Error>) {
    let report = match run(plan, |round| eprintln!("{}", line(round)), told_to_stop()).await {
        Ok(report) => report,
        Err(why) => return (false, Err(why)),
    };
    let text = format!("{}\n{}", report.table(), report.summary());
    println!("{}", if json { report.json() } else { format!("\n{text}") });
    (report.is_fine(), page.map_or(Ok(()), |page| write_docs(page, "table", &text)))
}

async fn measure(
    kills: u32,
    dir: &Path,
    namespaces: bool,
    json: bool,
    page: Option<&Path>,
) -> (bool, Result<(), Error>) {
    let told = |kill: u32, shard: u32, time: Duration| {
        eprintln!("kill {kill:>3}  shard {shard}  {} ms", time.as_millis())
    };
    let measured = tokio::select! {
        measured = failovers(kills, dir, namespaces, told) => measured,
        () = told_to_stop() => Err("interrupted".into()),
    };
    let failovers = match measured {
        Ok(failovers) => failovers,
        Err(why) => return (false, Err(why)),
    };
    println!("{}", if json { failovers.json() } else { failovers.summary() });
    (true, page.map_or(Ok(()), |page| write_docs(page, "failover", &failovers.summary())))
}

/// Waits for SIGINT (Ctrl-C) or SIGTERM.
async fn told_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("listen for SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("listen for SIGINT");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
