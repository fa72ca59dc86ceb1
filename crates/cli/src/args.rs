//! The command line: its verbs and options, with their help. It decides nothing.

mod cert;
mod cluster;
mod installed;
mod policy;
mod remote;
mod servers;
mod top;
mod upgrade;
mod watch;

pub use crate::bench::args::Bench;
use crate::duration;
use crate::failure::Exit;
use crate::lock::at_start::AtStart;
use crate::output::Times;
pub use cert::{Cert, CertCa, CertIssue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
pub use cluster::{
    Change, Cluster, ClusterCheck, ClusterRebuild, ClusterSet, ClusterStatus, RepairAfter,
};
pub use installed::{Completions, ManPages};
pub use policy::{Policy, PolicyCheck, PolicyHash, PolicyToken};
pub use remote::{Gateways, Remote};
use routing::Address;
pub use servers::{Dev, Gateway, LogFormat, Node, Traces};
use std::ffi::{OsStr, OsString};
pub use top::Top;
pub use upgrade::{ClusterUpgrade, UpgradeFinalize, UpgradeStep};
pub use watch::Watch;

/// Exit codes, shown by `palisade --help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  error: no quorum, no connection, outcome unknown, …
  2  usage: the command line, or a value on it, is not valid
  3  the lock is held by another, or the wait timed out
  4  fenced: not the owner (any more), expired, or session lost; `lock`: the lock was lost, and \
the command ended
  5  not signed in, or not permitted
  6  `lock`: a process of the command was out of reach, and may run on without the lock
  7  `lock`: the command would run as another user, out of reach of a signal, so it was not started
  130  Ctrl-C interrupted `acquire` or `bench`; another signal N interrupted `acquire`: 128 + N
`lock` passes on the exit code of its command: 128 + N if signal N ended it, 126 and 127 if it \
could not be run.

A DURATION is one or more numbers with units (d, h, m, s, ms), such as 100ms, 2.5s, 5m or 1h30m.";

/// The version, with the commit that this program was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PALISADE_COMMIT"), ")");

/// Palisade: a sharded lock service with fencing tokens.
#[derive(Debug, Parser)]
#[command(name = "palisade", version = VERSION, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process, on real storage and real Raft, without configuration
    Dev(Dev),
    /// Run one node of a cluster
    Node(Node),
    /// Run a gateway, which passes the requests of clients to the nodes
    Gateway(Gateway),
    /// Take a lock, and print its fencing token
    Acquire(Acquire),
    /// Extend the lease of a lock: its TTL counts from now again
    Renew(Renew),
    /// Show the holders of a lock. The exit code is 0 for a free lock, too
    Check(Check),
    /// Release a lock
    Release(Release),
    /// Run a command under a lock. The command is killed if the lock is lost
    Lock(Lock),
    /// Show the past and present holders of a lock, newest first
    History(History),
    /// List the locks that are held, by name
    Ls(Ls),
    /// Show the state of locks, and then each change of them, until Ctrl-C
    Watch(Watch),
    /// Show the busiest locks, queues, shards and nodes on a screen that stays up to date
    Top(Top),
    /// End the hold of another owner, and record the reason in the history
    Break(Break),
    /// Keep many locks with one heartbeat
    #[command(subcommand)]
    Session(Session),
    /// Put load on a cluster, and measure throughput and latency
    Bench(Box<Bench>),
    /// Plan the capacity for a workload: shards, nodes, storage and a cluster file
    Plan(Box<crate::plan::Plan>),
    /// Make certificates for a cluster and its clients
    #[command(subcommand)]
    Cert(Cert),
    /// Show a cluster and change it, or check its file
    #[command(subcommand)]
    Cluster(Cluster),
    /// Ask what a policy permits, or make a token
    #[command(subcommand)]
    Policy(Policy),
    /// Print a script that completes verbs, options and files in a shell
    Completions(Completions),
    /// Write the pages of the manual (used by packages)
    #[command(hide = true)]
    Man(ManPages),
    /// Keep a lock, and the job under it (used by `lock`)
    #[command(name = "__guard", hide = true)]
    Guard(Guard),
    /// Become a command that dies with its parent (used by `lock`)
    #[command(name = "__exec", hide = true)]
    Exec(Exec),
}

/// How a lock may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One holder
    Exclusive,
    /// Any number of shared holders, and no exclusive one
    Shared,
    /// Holders that share a limited number of permits
    Semaphore,
}

/// How a lock is to be held.
#[derive(Clone, Debug, Args)]
pub struct Held {
    /// How many may hold the lock at once
    #[arg(long, value_enum, default_value_t = Mode::Exclusive)]
    pub mode: Mode,
    /// With --mode semaphore: the number of permits to take. Default: 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub permits: Option<u32>,
    /// With --mode semaphore: the number of permits in all, which must be equal for all holders.
    /// Default: as --permits
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// The state as of now, which a quorum confirms
    Linearizable,
    /// The state of one replica, with the age of the answer
    Stale,
}

#[derive(Debug, Args)]
pub struct Acquire {
    /// The name of the lock: 1 to 512 bytes. Names with the same {tag} share a shard
    pub name: String,
    /// The owner that others see. Default: user@host:pid
    #[arg(long, env = "PALISADE_OWNER", value_parser = who)]
    pub owner: Option<String>,
    /// The lock ends after this time without a renewal: 100ms to 24h
    #[arg(long, default_value = "30s", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub ttl: u32,
    /// Wait in the queue for this time if another holds the lock: at most 24h. 0 does not wait
    #[arg(long, default_value = "0", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub wait: u32,
    #[command(flatten)]
    pub held: Held,
    /// The session whose heartbeats keep the lock. Give the TTL of the session as --ttl, because
    /// the first acquire on a shard starts the session there
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// A note that `check` and `history` show: at most 1,024 bytes. Default: none
    #[arg(long, default_value = "", hide_default_value = true)]
    pub metadata: String,
    /// The id of this acquire: 32 hex digits. A retry with the same id leads to no second grant.
    /// Default: a random id
    #[arg(long, value_name = "HEX", value_parser = request_id)]
    pub request_id: Option<u128>,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Renew {
    /// The name of the lock
    pub name: String,
    /// The fencing token that the acquire printed
    #[arg(long, value_parser = token)]
    pub token: u64,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The name of the lock
    pub name: String,
    /// How fresh the answer must be
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    pub consistency: Consistency,
    /// Show all holders of a shared lock. Without it, at most 1,000 are shown
    #[arg(long)]
    pub all: bool,
    /// The number of waiters to show at most, from the head of the queue: 0 to 1000
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub waiters: u32,
    /// How moments are shown. JSON always has Unix milliseconds
    #[arg(long, value_enum, default_value_t = Times::Relative)]
    pub time: Times,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Release {
    /// The name of the lock
    pub name: String,
    /// The fencing token that the acquire printed
    #[arg(long, value_parser = token)]
    pub token: u64,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "\
COMMAND runs as if started directly, with PALISADE_TOKEN and PALISADE_RESOURCE set. It has the \
same process group and terminal, and the same ignored and blocked signals. Signals to \
`palisade lock` are passed on to COMMAND.

The lock is held until COMMAND and all processes that it started have ended, even those in other \
process groups and sessions. If a signal told `palisade lock` to end (HUP, INT, QUIT, TERM), the \
processes that COMMAND leaves behind get SIGTERM when COMMAND has ended.

If the lock cannot be renewed, all these processes get SIGTERM while the lock is surely still \
held. They get SIGKILL before another can hold the lock, so a short TTL leaves little time to \
clean up. They also get SIGKILL if `palisade lock` itself is killed.

Exit codes: the command's own, or 128 + N if signal N ended it; 126 and 127 if it could not be \
run; 3, or --conflict-exit-code, if another holds the lock; 4 if the lock was lost, and the command ended; 5 if this is not \
permitted; 6 if a process of the command was out of reach of a signal, and may run on without the \
lock; 7 if the command would run as another user, so that it was not started.")]
pub struct Lock {
    /// The name of the lock
    pub name: String,
    /// The lock ends this time after a holder that vanished: 1s to 24h
    #[arg(long, default_value = "30s", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub ttl: u32,
    /// Wait in the queue for this time if another holds the lock: at most 24h. 0 does not wait
    #[arg(long, default_value = "0", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub wait: u32,
    /// The owner that others see. Default: user@host:pid
    #[arg(long, env = "PALISADE_OWNER", value_parser = who)]
    pub owner: Option<String>,
    #[command(flatten)]
    pub held: Held,
    /// A note that `check` and `history` show. Default: the command
    #[arg(long)]
    pub metadata: Option<String>,
    /// Let COMMAND and its children become another user (sudo). A process of another user may be
    /// out of reach of a signal, and run on when the lock is lost. Without this option, a setuid
    /// command is refused, and setuid programs gain no privileges in the job
    #[arg(long)]
    pub allow_setuid: bool,
    /// The exit code if another holds the lock, or the wait timed out: 0 to 255
    #[arg(long, default_value_t = Exit::Held.code(), value_name = "N")]
    pub conflict_exit_code: u8,
    #[command(flatten)]
    pub gateways: Gateways,
    /// The command, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct History {
    /// The name of the lock
    pub name: String,
    /// The number of rows at most: 1 to 1000
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// How moments are shown. JSON always has Unix milliseconds
    #[arg(long, value_enum, default_value_t = Times::Relative)]
    pub time: Times,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Ls {
    /// Only names that begin with this text. Default: all names
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// The number of rows at most: 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Continue after the earlier listing with this prefix that printed this cursor
    #[arg(long, default_value = "", hide_default_value = true)]
    pub cursor: String,
    /// Show all rows, page after page, which is not one moment in time
    #[arg(long, conflicts_with_all = ["limit", "cursor"])]
    pub all: bool,
    /// Only locks of this owner
    #[arg(long, value_parser = who)]
    pub owner: Option<String>,
    /// Only locks that have been held for at least this time
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub older_than: Option<std::time::Duration>,
    /// Only locks for which others wait, with the first ten waiters of each
    #[arg(long)]
    pub waiting: bool,
    /// How moments are shown. JSON always has Unix milliseconds
    #[arg(long, value_enum, default_value_t = Times::Relative)]
    pub time: Times,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Break {
    /// The name of the lock
    pub name: String,
    /// The reason, which the history of the lock keeps
    #[arg(long)]
    pub reason: String,
    /// The fencing token of the grant to break. Default: the one that holds the lock now
    #[arg(long, value_parser = token)]
    pub token: Option<u64>,
    /// The person who breaks the lock, for the history. Default: user@host
    #[arg(long, value_parser = who)]
    pub by: Option<String>,
    #[command(flatten)]
    pub remote: Remote,
}

/// Session verbs.
#[derive(Debug, Subcommand)]
pub enum Session {
    /// Open a session, and print its id for `acquire`
    Open(SessionOpen),
    /// Extend a session and all its locks: its TTL counts from now again
    Heartbeat(SessionOn),
    /// Close a session, which releases all its locks
    Close(SessionOn),
}

impl Session {
    pub fn remote(&self) -> &Remote {
        match self {
            Session::Open(args) => &args.remote,
            Session::Heartbeat(args) | Session::Close(args) => &args.remote,
        }
    }
}

#[derive(Debug, Args)]
pub struct SessionOpen {
    /// The owner that others see. Default: user@host:pid
    #[arg(long, env = "PALISADE_OWNER", value_parser = who)]
    pub owner: Option<String>,
    /// The session ends after this time without a heartbeat: 100ms to 24h
    #[arg(long, default_value = "30s", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub ttl: u32,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct SessionOn {
    /// The id of the session
    pub id: String,
    /// The shards of its locks, separated by commas, as the acquires printed them
    #[arg(long, value_delimiter = ',', required = true, value_name = "N,…")]
    pub shards: Vec<u32>,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Guard {
    /// The descriptor that signals are read from
    #[arg(long)]
    pub control: i32,
    /// The process that passes them on
    #[arg(long)]
    pub front: i32,
    /// Its process group, for the job
    #[arg(long)]
    pub group: i32,
    /// What it was started with
    #[arg(long)]
    pub at_start: AtStart,
    /// Its command line, from `lock` on
    #[arg(last = true, required = true)]
    pub words: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// Whose death is ours
    #[arg(long)]
    pub parent: i32,
    /// The process group to join
    #[arg(long)]
    pub group: i32,
    /// What to start the command with
    #[arg(long)]
    pub at_start: AtStart,
    /// Programs that are setuid gain nothing
    #[arg(long)]
    pub no_new_privs: bool,
    /// What to become
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Reads a command line. An empty variable counts as none, because files of compose, systemd and
/// charts write `VAR=` for that.
///
/// # Errors
/// The mistake in it, or the help that it asks for.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = without_empty_variables(Cli::command(), &|name| std::env::var_os(name));
    let mut matches = command.try_get_matches_from_mut(line)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The same command, in which no argument of any verb has its value from a variable that is empty.
fn without_empty_variables(
    command: clap::Command,
    variable: &dyn Fn(&OsStr) -> Option<OsString>,
) -> clap::Command {
    let command = command.mut_args(|arg| {
        let empty =
            arg.get_env().is_some_and(|name| variable(name).is_some_and(|value| value.is_empty()));
        if empty { arg.env(clap::builder::Resettable::Reset) } else { arg }
    });
    command.mut_subcommands(|verb| without_empty_variables(verb, variable))
}

/// `host:port`, as an option: a port of 0 lets the system choose.
fn address(text: &str) -> Result<String, String> {
    match text.strip_suffix(":0") {
        Some(host) => format!("{host}:1").parse::<Address>(),
        None => text.parse(),
    }
    .map(|_| text.to_owned())
    .map_err(|error| error.to_string())
}

/// A host name or an IP address, without a port.
fn address_host(text: &str) -> Result<String, String> {
    let host = text.trim().trim_start_matches('[').trim_end_matches(']');
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match format!("{bracketed}:1").parse::<Address>() {
        Ok(_) => Ok(host.to_owned()),
        Err(_) => Err("write a host name or an IP address, without a port".into()),
    }
}

fn request_id(text: &str) -> Result<u128, String> {
    if text.len() != 32 {
        return Err(format!(
            "it has {} digits; write 32 hex digits, such as the output of `openssl rand -hex 16`",
            text.len()
        ));
    }
    u128::from_str_radix(text, 16)
        .map_err(|_| "write 32 hex digits, such as the output of `openssl rand -hex 16`".into())
}

fn token(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "write the whole number that the acquire printed as its token".into())
}

fn who(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err(
            "it is empty: name the owner, or leave the option and its variable out for user@host:pid"
                .into(),
        );
    }
    Ok(text.to_owned())
}

/// `user@host:pid`: the owner when none is said. Two jobs of one user on one host are told apart.
pub fn owner_of(pid: u32) -> String {
    format!("{}:{pid}", user_at_host())
}

/// As [`owner_of`], for this process.
pub fn default_owner() -> String {
    owner_of(std::process::id())
}

/// `user@host`: a person who asks, when nothing else is said.
pub fn user_at_host() -> String {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name);
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    format!("{user}@{}", host.unwrap_or_else(|_| "localhost".into()))
}

#[cfg(test)]
mod tests;
