//! `palisade plan`: from a workload to shard counts, and to a cluster file.
//!
//! The module reads and writes the files and prints. The planner computes every number.

use crate::failure::{Exit, Failure};
use crate::output::emit;
use crate::shown::{counted, one_line};
use capacity_sim::SimulateOptions;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use planner::{Calibration, EmitOptions, KEYS, Workload};
use routing::{Addresses, ClusterConfig};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(after_help = "\
Begin with `palisade plan --template > workload.yaml`, with `palisade plan --interactive`, or with \
flags alone:
`palisade plan --instances 2000 --locks-per-instance-per-min 10 --hold 5m`.
Examples are in config/workloads/, and docs/capacity-planning.md explains the model.")]
pub struct Plan {
    /// The path of the workload file. Default: the workload of the flags alone
    #[arg(long, value_name = "FILE")]
    pub workload: Option<PathBuf>,
    /// The costs of this service on your hardware, as `palisade bench --calibrate` writes them.
    /// Default: assumptions, which the plan names
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Ask for the workload step by step, on the terminal
    #[arg(long, conflicts_with = "workload")]
    pub interactive: bool,
    /// Print a commented workload file with every key
    #[arg(long, exclusive = true)]
    pub template: bool,
    /// Print one JSON document on standard output, errors included
    #[arg(long)]
    pub json: bool,
    /// Also compare the plan with etcd and ZooKeeper
    #[arg(long)]
    pub compare: bool,
    /// Write a chart of the growing load and the capacity to this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Also simulate the planned cluster, at average and peak load, with a lost leader and with a
    /// lost zone
    #[arg(long)]
    pub simulate: bool,
    /// With --simulate: the seed of all random choices. Equal seeds give equal figures
    #[arg(long, requires = "simulate", default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Write a cluster file for the plan to this path
    #[arg(long, value_name = "FILE")]
    pub emit: Option<PathBuf>,
    #[command(flatten)]
    pub emitted: Emitted,
    #[command(flatten)]
    pub overrides: Overrides,
}

/// The parts of the cluster file that the plan leaves open.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster file (with --emit)")]
pub struct Emitted {
    /// The column of the plan whose number of shards is used, also by --simulate. Default: palisade
    #[arg(long, value_enum, value_name = "COLUMN")]
    pub emit_for: Option<EmitFor>,
    /// The number of shards, also for --simulate. Default: as planned for the end of the growth
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
    /// The number of nodes, which then share all shards. Default: nodes of its own for each shard
    #[arg(long, requires = "emit", value_name = "N")]
    pub nodes: Option<u32>,
    /// The number of gateways. Default: as planned by clients and operations, at least two
    #[arg(long, requires = "emit", value_name = "N")]
    pub gateways: Option<u32>,
    /// The domain of the host name of each node. Default: all processes are on 127.0.0.1
    #[arg(long, requires = "emit")]
    pub domain: Option<String>,
    /// The port of the first gateway. The ports of nodes begin 11 higher. With --domain, every
    /// process has this port. The port of the metrics of a process is 1,000 higher than its own
    #[arg(long, requires = "emit", default_value_t = 7400, value_name = "PORT")]
    pub base_port: u16,
}

/// The planner's two columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EmitFor {
    /// The column of the published arithmetic
    Specification,
    /// The column with the costs of this service
    Palisade,
}

/// A flag for each key of the workload file, in the planner's words.
#[derive(Debug)]
pub struct Overrides(Vec<(String, String)>);

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        let flag = |key: &planner::Key| {
            Arg::new(key.name)
                .long(key.flag)
                .value_name(key.example)
                .help(key.help)
                .help_heading("Workload (each replaces the key of that name in the file)")
                // A negative number must be refused by name, so it is not parsed as a flag.
                .allow_hyphen_values(true)
                .action(ArgAction::Set)
        };
        command.args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &planner::Key| {
            matches.get_one::<String>(key.name).map(|value| (key.name.to_owned(), value.clone()))
        };
        Ok(Overrides(KEYS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs `palisade plan`.
///
/// # Errors
/// If the input is impossible, or a file cannot be read or written. A plan that does not fit is no
/// error: its text says so.
pub fn run(args: &Plan) -> Result<(), Failure> {
    if args.template {
        emit(planner::TEMPLATE.trim_end());
        return Ok(());
    }
    if !args.simulate
        && args.emit.is_none()
        && (args.emitted.shards.is_some() || args.emitted.emit_for.is_some())
    {
        let what = "--shards and --emit-for say what to emit or to simulate";
        return Err(Failure::new(
            Exit::Usage,
            "PLAN",
            what,
            "add --emit FILE or --simulate, or leave them out",
        ));
    }
    let workload = workload(args)?;
    let calibration = match &args.calibration {
        Some(path) => read_calibration(path)?,
        None => Calibration::default(),
    };
    let plan = planner::Plan::new(workload, calibration).map_err(|error| impossible(&error))?;
    let compared = match args.compare {
        true => planner::compare(&plan).map_err(|error| impossible(&error))?,
        false => Vec::new(),
    };
    let simulation = args.simulate.then(|| {
        let options = SimulateOptions {
            seed: args.seed,
            shards: args.emitted.shards.map(u64::from),
            column: emit_options(&args.emitted).emit_for,
        };
        capacity_sim::simulate(&plan, &options).map_err(|error| impossible(&error))
    });
    let simulation = simulation.transpose()?;
    let cluster = args
        .emit
        .as_ref()
        .map(|path| Ok((path, planner::emit(&plan, &emit_options(&args.emitted))?)));
    let cluster = cluster.transpose().map_err(|error: planner::EmitError| {
        Failure::new(
            Exit::Usage,
            "PLAN",
            error.to_string(),
            "change the workload, or the flags of the cluster file",
        )
    })?;
    if let Some(path) = &args.plot {
        write(path, &planner::svg(&plan))?;
    }
    if let Some((path, (config, yaml))) = &cluster {
        write(path, yaml)?;
        eprintln!(
            "{}: {} × {} on {}, {}; {}",
            path.display(),
            counted(config.shards, "shard"),
            counted(config.replicas, "replica"),
            counted(config.nodes.len(), "node"),
            counted(config.gateways.len(), "gateway"),
            ports(config)
        );
    }
    if args.json {
        let mut document = planner::json(&plan, &compared);
        if let Some(simulation) = &simulation {
            document["simulation"] = capacity_sim::json(simulation);
        }
        emit(&document.to_string());
    } else {
        show(&planner::text(&plan, &compared));
        if let Some(simulation) = &simulation {
            show(&capacity_sim::text(simulation));
        }
    }
    Ok(())
}

/// Lists the ports that must be free.
fn ports(config: &ClusterConfig) -> String {
    let port =
        |address: &String| address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let of = |addresses: Vec<&String>| {
        let ports: Vec<u16> = addresses.into_iter().filter_map(port).collect();
        match (ports.iter().min(), ports.iter().max()) {
            (Some(first), Some(last)) if first == last => first.to_string(),
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "none".to_owned(),
        }
    };
    let gateways = of(config.gateways.iter().map(|gateway| &gateway.address).collect());
    let nodes = of(config.nodes.iter().map(|node| &node.address).collect());
    let metrics = config.nodes.iter().map(|node| &node.metrics);
    let metrics = of(metrics
        .chain(config.gateways.iter().map(|gateway| &gateway.metrics))
        .flatten()
        .collect());
    format!("ports: gateways {gateways}, nodes {nodes}, metrics {metrics}")
}

/// Prints the plan with control characters escaped, because it contains names from the workload.
fn show(text: &str) {
    text.trim_end().lines().for_each(|line| emit(&one_line(line)));
}

/// Reads a calibration.
///
/// # Errors
/// If the file cannot be read, or is no calibration.
pub fn read_calibration(path: &Path) -> Result<Calibration, Failure> {
    Calibration::parse(&read(path, "calibration")?).map_err(|error| in_file(path, &error))
}

fn workload(args: &Plan) -> Result<Workload, Failure> {
    let overrides = &args.overrides.0;
    if args.interactive {
        // Questions go to standard error, so that they do not mix with the plan.
        let asked =
            planner::ask(&mut std::io::stdin().lock(), &mut std::io::stderr().lock(), overrides);
        return asked.map_err(|error| Failure::new(Exit::Usage, "PLAN", error.to_string(), NEXT));
    }
    match &args.workload {
        Some(path) => Workload::parse(&read(path, "workload")?, overrides)
            .map_err(|error| in_file(path, &error)),
        None => Workload::parse("", overrides).map_err(|error| impossible(&error)),
    }
}

fn emit_options(args: &Emitted) -> EmitOptions {
    let port = args.base_port;
    EmitOptions {
        emit_for: args.emit_for.map(|column| match column {
            EmitFor::Specification => planner::EmitFor::Specification,
            EmitFor::Palisade => planner::EmitFor::Palisade,
        }),
        shards: args.shards,
        nodes: args.nodes,
        gateways: args.gateways,
        addresses: match &args.domain {
            Some(domain) => Addresses::Hosts { domain: domain.clone(), port },
            None => Addresses::Loopback { base_port: port },
        },
    }
}

const NEXT: &str = "correct it; `palisade plan --template` shows every key";

fn impossible(error: &planner::PlanError) -> Failure {
    Failure::new(Exit::Usage, "PLAN", error.to_string(), NEXT)
}

fn in_file(path: &Path, error: &planner::PlanError) -> Failure {
    Failure::new(Exit::Usage, "PLAN", format!("{}: {error}", path.display()), NEXT)
}

fn read(path: &Path, what: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the {what} file {}: {error}", path.display());
        Failure::new(Exit::Usage, "PLAN", message, format!("name a readable {what} file, in UTF-8"))
    })?;
    // Editors of some systems begin a file with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(
            Exit::Error,
            "PLAN",
            message,
            "name a file in a directory that exists and is yours",
        )
    })
}

#[cfg(test)]
mod tests {
    use crate::args::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn every_key_of_a_workload_is_a_flag() {
        let cli = Cli::command();
        let plan = cli.find_subcommand("plan").expect("the verb");
        for key in planner::KEYS {
            assert_eq!(key.flag, key.name.replace(['.', '_'], "-"));
            assert!(
                plan.get_arguments().any(|argument| argument.get_long() == Some(key.flag)),
                "--{}",
                key.flag
            );
        }
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_keys() {
        let cli =
            Cli::try_parse_from(["palisade", "plan", "--entry-name-bytes", "64", "--hold", "-5s"])
                .expect("flags");
        let crate::args::Command::Plan(plan) = cli.command else { panic!("not a plan") };
        let given: Vec<_> =
            plan.overrides.0.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(given, [("hold", "-5s"), ("entry.name_bytes", "64")]);
        let failure = super::run(&plan).expect_err("no rate, and a negative hold");
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
    }

    #[test]
    fn flags_of_the_cluster_file_need_one() {
        assert!(
            Cli::try_parse_from(["palisade", "plan", "--instances", "1", "--nodes", "5"]).is_err()
        );
        assert!(Cli::try_parse_from(["palisade", "plan", "--template", "--json"]).is_err());
        let cli = Cli::try_parse_from(["palisade", "plan", "--instances", "1", "--shards", "5"])
            .expect("flags");
        let crate::args::Command::Plan(plan) = cli.command else { panic!("not a plan") };
        assert_eq!(super::run(&plan).expect_err("for what?").exit, crate::failure::Exit::Usage);
    }
}
