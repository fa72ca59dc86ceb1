//! `palisade-chaos`: the command line. `scripts/chaos` starts it in namespaces of its own where the system allows.

use clap::{Args, Parser, Subcommand};
use palisade_chaos::faults::Kind;
use palisade_chaos::load;
use palisade_chaos::report::line;
use palisade_chaos::run::{Plan, run};
use palisade_chaos::tools::Tools;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "palisade-chaos", about = "Hurts a cluster of real processes, and judges what its clients saw")]
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
    /// Decides what is hurt when [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// The result as JSON, on the last line
    #[arg(long)]
    json: bool,
    /// Put the table into this page
    #[arg(long, num_args = 0..=1, default_missing_value = "docs/chaos.md", value_name = "PAGE")]
    write_docs: Option<PathBuf>,
    /// Keep data, logs and evidence here [default: a temporary directory, kept only if something went wrong]
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

/// Says whether all was well.
async fn conduct(args: Run) -> Result<bool, String> {
    let temporary = tempfile::Builder::new().prefix("palisade-chaos-").tempdir();
    let temporary = temporary.map_err(|error| format!("a temporary directory: {error}"))?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let seed = args.seed.unwrap_or_else(palisade_chaos::clock::now_us);
    if !args.namespaces {
        eprintln!("chaos: no namespaces of its own: everything on loopback, and what needs cutting is skipped");
    }
    let tools = Tools::find(args.namespaces);
    let plan = Plan { minutes: args.minutes, kinds: args.fault, seed, tools, dir };
    let ran = run(plan, |round| eprintln!("{}", line(round)), told_to_stop()).await;
    let fine = matches!(&ran, Ok(report) if report.is_fine());
    if !fine {
        let kept = args.dir.unwrap_or_else(|| temporary.keep());
        eprintln!("chaos: data, logs and evidence are kept in {}", kept.display());
    }
    let report = ran?;
    if args.json {
        println!("{}", report.json());
    } else {
        println!("\n{}\n{}", report.table(), report.summary());
    }
    if let Some(page) = args.write_docs {
        report.write_docs(&page)?;
    }
    Ok(fine)
}

/// SIGINT (Ctrl-C) or SIGTERM.
async fn told_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("listen for SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("listen for SIGINT");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
