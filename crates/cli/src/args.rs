//! The command line: what may be written, with its help. It decides nothing.

mod servers;

pub use crate::bench::args::Bench;
use crate::duration;
use crate::lock::at_start::AtStart;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use routing::Address;
pub use servers::{Dev, Gateway, Node};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// Exit codes, shown by `palisade --help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  error: no quorum, no connection, outcome unknown, …
  2  usage: the command line, or a value on it, is not valid
  3  the lock is held by another, or the wait timed out
  4  fenced: not the owner (any more), expired, or session lost; `lock`: the lock was lost and the command ended
  5  `lock`: the command would run as another user, out of reach of a signal: it was not started
  6  `lock`: a process of the command was out of reach, and may run on without the lock
`lock` passes on the exit code of its command; 128 + N if signal N ended it, 126 and 127 if it could not be run.";

/// Palisade: a sharded lock service with fencing tokens.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster with its gateway in this process: real storage, real Raft, nothing to configure
    Dev(Dev),
    /// Run one node of a cluster
    Node(Node),
    /// Run a gateway: the stateless front door that clients talk to
    Gateway(Gateway),
    /// Take a lock
    Acquire(Acquire),
    /// Keep a lock for its TTL again, counted from now
    Renew(Renew),
    /// Show who holds a lock (exit code 0 whether it is held or free)
    Check(Check),
    /// Let a lock go
    Release(Release),
    /// Run a command while holding a lock; it is killed if the lock is lost
    Lock(Lock),
    /// Show who held a lock, newest first
    History(History),
    /// List locks that are held
    Ls(Ls),
    /// End another's hold on a lock, on the record
    Break(Break),
    /// Sessions: one heartbeat keeps many locks
    #[command(subcommand)]
    Session(Session),
    /// Put load on a cluster, and measure
    Bench(Box<Bench>),
    /// Plan the capacity for a workload: shards, nodes, storage, and a cluster file
    Plan(Box<crate::plan::Plan>),
    /// The cluster's state, and its file
    #[command(subcommand)]
    Cluster(Cluster),
    /// Keep a lock and the job that runs under it (used by `lock`)
    #[command(name = "__guard", hide = true)]
    Guard(Guard),
    /// Become a command that dies with its parent (used by `lock`)
    #[command(name = "__exec", hide = true)]
    Exec(Exec),
}

/// How to reach the service.
#[derive(Clone, Debug, Args)]
pub struct Gateways {
    /// Gateways, comma-separated; the next is tried when one does not answer
    #[arg(
        long,
        env = "PALISADE_ENDPOINT",
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT,…"
    )]
    pub endpoint: String,
    /// How long to try to get an answer (a --wait comes on top)
    #[arg(long, default_value = "5s", value_parser = duration::parse, value_name = "DURATION")]
    pub timeout: Duration,
}

/// What every client verb takes.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    #[command(flatten)]
    pub gateways: Gateways,
    /// Print one JSON document on standard output, errors included
    #[arg(long)]
    pub json: bool,
}

/// How a lock may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Alone
    Exclusive,
    /// Together with other shared holders
    Shared,
    /// With some of the permits of a semaphore
    Semaphore,
}

/// How a lock is to be held.
#[derive(Clone, Debug, Args)]
pub struct Held {
    /// How to hold it
    #[arg(long, value_enum, default_value_t = Mode::Exclusive)]
    pub mode: Mode,
    /// Of a semaphore: how many permits to take [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub permits: Option<u32>,
    /// Of a semaphore: how many permits there are; all its holders name the same number [default: as --permits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

/// How true an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// As of now: a quorum confirms it
    Linearizable,
    /// From any one replica, which says how far behind it is
    Stale,
}

#[derive(Debug, Args)]
pub struct Acquire {
    /// The resource: 1 to 512 bytes; names with the same {tag} share a shard
    pub name: String,
    /// Who asks, for others to see (default: user@host:pid)
    #[arg(long, env = "PALISADE_OWNER", value_parser = who)]
    pub owner: Option<String>,
    /// How long the lock lives without renewal: 100ms to 24h
    #[arg(long, default_value = "30s", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub ttl: u32,
    /// How long to wait in the queue if another holds it: up to 24h; 0: not at all
    #[arg(long, default_value = "0", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub wait: u32,
    #[command(flatten)]
    pub held: Held,
    /// Hang it on this session, whose heartbeats keep it. Repeat the session's --ttl: the first acquire on a shard makes
    /// the session known there
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// A note for whoever looks
    #[arg(long, default_value = "", hide_default_value = true)]
    pub metadata: String,
    /// 32 hex digits; repeat the command with the same ones to retry it: at most one grant comes of it
    #[arg(long, value_name = "HEX", value_parser = request_id)]
    pub request_id: Option<u128>,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Renew {
    /// The resource
    pub name: String,
    /// The fencing token of the grant
    #[arg(long, value_parser = token)]
    pub token: u64,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The resource
    pub name: String,
    /// How true the answer must be
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    pub consistency: Consistency,
    /// Show all holders of a shared lock, however many there are
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Release {
    /// The resource
    pub name: String,
    /// The fencing token of the grant
    #[arg(long, value_parser = token)]
    pub token: u64,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "\
COMMAND runs as if started directly, with PALISADE_TOKEN and PALISADE_RESOURCE set: same process group and terminal, same \
ignored and blocked signals. Signals to `palisade lock` are passed on to it.

The lock is held until COMMAND and all processes that it started have ended, in whatever group or session they are. If \
`palisade lock` was told to end (HUP, INT, QUIT, TERM), what COMMAND leaves gets SIGTERM when COMMAND has ended.

If the lock cannot be renewed, all these processes get SIGTERM while the lock is still surely held, and SIGKILL before it can \
be another's: a short TTL leaves little time to clean up. They get SIGKILL if `palisade lock` itself is killed.

Exit codes: the command's own, or 128 + N if signal N ended it; 126 and 127 if it could not be run; 3 the lock is held by \
another; 4 the lock was lost and the command ended; 5 the command would run as another user, so it was not started; 6 a \
process of the command was out of reach of a signal, and may run on without the lock.")]
pub struct Lock {
    /// The resource
    pub name: String,
    /// How long the lock outlives a holder that vanished: 1s to 24h
    #[arg(long, default_value = "30s", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub ttl: u32,
    /// How long to wait in the queue if another holds it: up to 24h; 0: not at all
    #[arg(long, default_value = "0", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub wait: u32,
    /// Who asks, for others to see (default: user@host:pid)
    #[arg(long, env = "PALISADE_OWNER", value_parser = who)]
    pub owner: Option<String>,
    #[command(flatten)]
    pub held: Held,
    /// A note for whoever looks [default: the command]
    #[arg(long)]
    pub metadata: Option<String>,
    /// Let COMMAND and what it starts become another user (sudo), and so get out of reach: it may then run on when the lock
    /// is lost. Without it, a command that is setuid is refused, and setuid programs do not gain privileges in the job
    #[arg(long)]
    pub allow_setuid: bool,
    #[command(flatten)]
    pub gateways: Gateways,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct History {
    /// The resource
    pub name: String,
    /// Show at most so many, 1 to 1000
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Ls {
    /// Only names that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Show at most so many, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Go on where an earlier listing with this prefix stopped, as it said
    #[arg(long, default_value = "", hide_default_value = true)]
    pub cursor: String,
    /// Show all, page after page
    #[arg(long, conflicts_with_all = ["limit", "cursor"])]
    pub all: bool,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct Break {
    /// The resource
    pub name: String,
    /// Why: kept in the lock's history
    #[arg(long)]
    pub reason: String,
    /// Break only this grant [default: the one that holds the lock now]
    #[arg(long, value_parser = token)]
    pub token: Option<u64>,
    /// Who asks for it (default: user@host)
    #[arg(long, value_parser = who)]
    pub by: Option<String>,
    #[command(flatten)]
    pub remote: Remote,
}

/// Session verbs.
#[derive(Debug, Subcommand)]
pub enum Session {
    /// Get a new session id, to acquire with
    Open(SessionOpen),
    /// Keep everything that hangs on a session alive for another TTL
    Heartbeat(SessionOn),
    /// Let go of everything that hangs on a session
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
    /// Who asks, for others to see (default: user@host:pid)
    #[arg(long, env = "PALISADE_OWNER", value_parser = who)]
    pub owner: Option<String>,
    /// How long the session lives without a heartbeat: 100ms to 24h
    #[arg(long, default_value = "30s", value_parser = duration::parse_ms, value_name = "DURATION")]
    pub ttl: u32,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct SessionOn {
    /// The session
    pub id: String,
    /// The shards where it holds something, as its grants said
    #[arg(long, value_delimiter = ',', required = true, value_name = "N,…")]
    pub shards: Vec<u32>,
    #[command(flatten)]
    pub remote: Remote,
}

/// Cluster verbs.
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Show nodes and shards; exit code 1 if a shard has no leader
    Status(ClusterStatus),
    /// Check a cluster file and show what it describes
    Check(ClusterCheck),
}

#[derive(Debug, Args)]
pub struct ClusterStatus {
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub struct ClusterCheck {
    /// The cluster file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only lines `node N ADDRESS` and `gateway K ADDRESS`, for scripts
    #[arg(long)]
    pub members: bool,
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

/// Reads a command line. An empty variable counts as none, as files of compose, systemd and charts write `VAR=` for that.
///
/// # Errors
/// What is wrong with it, or the help that it asks for.
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
            "it is empty: say who asks; if neither the option nor its variable is set, it is user@host:pid".into()
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
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_empty_variable_is_as_none_for_every_argument_that_has_one() {
        fn variables(command: &clap::Command) -> Vec<OsString> {
            let own = command.get_arguments().filter_map(|arg| arg.get_env().map(OsStr::to_owned));
            own.chain(command.get_subcommands().flat_map(variables)).collect()
        }
        let all = variables(&Cli::command());
        assert!(all.len() >= 5 && all.iter().any(|name| name == "PALISADE_OWNER"), "{all:?}");
        assert_eq!(variables(&without_empty_variables(Cli::command(), &|_| None)), all);
        assert_eq!(variables(&without_empty_variables(Cli::command(), &|_| Some("x".into()))), all);
        let none: [OsString; 0] = [];
        assert_eq!(
            variables(&without_empty_variables(Cli::command(), &|_| Some(OsString::new()))),
            none
        );
    }

    #[test]
    fn a_server_listens_on_names_and_addresses_and_on_nothing_else() {
        for good in
            ["localhost:7400", "127.0.0.1:0", "[::1]:7400", "0.0.0.0:7400", "node-1.example:7400"]
        {
            assert_eq!(address(good), Ok(good.to_owned()));
            assert!(Cli::try_parse_from(["palisade", "dev", "--listen", good]).is_ok(), "{good}");
        }
        for bad in
            ["localhost", "::1:7400", "http://localhost:7400", "localhost:99999", ":7400", ""]
        {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lock_takes_a_command_after_two_dashes_only() {
        let cli = Cli::try_parse_from([
            "palisade", "lock", "a", "--ttl", "5s", "--", "sh", "-c", "exit 3",
        ])
        .unwrap();
        let Command::Lock(lock) = cli.command else { panic!("lock was written") };
        assert_eq!((lock.ttl, lock.command.len()), (5_000, 3));
        assert!(Cli::try_parse_from(["palisade", "lock", "a", "sh"]).is_err());
        assert!(Cli::try_parse_from(["palisade", "lock", "a", "--"]).is_err());
    }

    #[test]
    fn the_guard_gets_the_command_line_of_lock_as_it_was_written() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'c', 0xe9]);
        let words = ["lock", "a", "--ttl", "5s", "--", "sh", "--", "--json"].map(OsString::from);
        let words: Vec<OsString> = words.into_iter().chain([odd]).collect();
        let start = [
            "palisade",
            "__guard",
            "--control",
            "7",
            "--front",
            "2",
            "--group",
            "2",
            "--at-start",
            "1.0.0",
            "--",
        ];
        let line = start.map(OsString::from).into_iter().chain(words.clone());
        let Command::Guard(guard) = Cli::try_parse_from(line).unwrap().command else {
            panic!("__guard was written")
        };
        assert_eq!(guard.words, words);
        let again = std::iter::once("palisade".into()).chain(guard.words);
        let Command::Lock(lock) = Cli::try_parse_from(again).unwrap().command else {
            panic!("lock was written")
        };
        assert_eq!(lock.command, words[5..]);
    }

    #[test]
    fn what_is_no_value_is_refused_with_what_to_write() {
        let refused =
            |text: &str| Cli::try_parse_from(text.split(' ')).expect_err(text).to_string();
        for (line, says) in [
            ("palisade acquire a --owner=", "'--owner <OWNER>': it is empty"),
            ("palisade session open --owner=", "'--owner <OWNER>': it is empty"),
            ("palisade break a --reason r --by=", "'--by <BY>': it is empty"),
            ("palisade renew a --token abc", "the acquire printed"),
            ("palisade acquire a --ttl 90", "`90` has no unit"),
            ("palisade acquire a --ttl 60d", "24h"),
        ] {
            let told = refused(line);
            assert!(told.contains(says), "{line}: {told}");
        }
    }

    #[test]
    fn a_request_id_is_sixteen_bytes_in_hex() {
        assert_eq!(
            request_id("000102030405060708090a0b0c0d0e0f"),
            Ok(0x000102030405060708090a0b0c0d0e0f)
        );
        assert!(request_id("0f").is_err());
        assert!(request_id("zz0102030405060708090a0b0c0d0e0f").is_err());
    }
}
