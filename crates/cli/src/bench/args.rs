//! The command line of `palisade bench`, and the load that it describes. The load itself is made
//! elsewhere.

use crate::args::Gateways;
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::profiles;
use crate::shown::counted;
use clap::Args;
use load::{Mix, NAME_BYTES_MIN, NameSpace, Options, SEED_RENEWALS, Workload};
use std::path::PathBuf;
use std::time::Duration;
use wire::limits::{NAME_BYTES_MAX, OWNER_BYTES_MAX, TTL_MS};

#[derive(Debug, Args)]
#[command(after_help = "\
Closed loop (the default): each client sends its next operation when the last one is answered. \
Open loop (--rate): operations are due at a fixed rate, independent of the answers. A latency \
counts from the time when its operation was due, so it contains the wait for a free client. It \
also contains the coarseness of timers, which is 1 ms.

An acquire that finds its lock held by another is contention, not an error. At the end, the locks \
that are still held are released, unless --keep is given.")]
pub struct Bench {
    /// The kind of load
    #[arg(long, value_enum, default_value_t = Mix::AcquireRelease)]
    pub mix: Mix,
    /// The number of clients, which is the number of operations in flight at most: 1 to 65536
    #[arg(
        long,
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=65536),
        value_name = "N"
    )]
    pub clients: u32,
    /// Open loop: the number of operations per second, over all clients. Default: a closed loop
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// The measured time
    #[arg(long, default_value = "10s", value_parser = duration::parse, value_name = "DURATION")]
    pub duration: Duration,
    /// The time under load before the measured time
    #[arg(long, default_value = "3s", value_parser = duration::parse, value_name = "DURATION")]
    pub warmup: Duration,
    /// The number of connections that the clients share: 1 to 1024
    #[arg(
        long,
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024),
        value_name = "K"
    )]
    pub streams: u32,
    /// Send one RPC per operation, instead of one stream per connection
    #[arg(long)]
    pub unary: bool,
    /// The number of distinct names. Default: 1000000, or 10000 for the mixes that hold all names
    /// from the start
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub names: Option<u32>,
    /// The length of each name, in bytes
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub name_bytes: usize,
    /// The length of each owner, in bytes
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub owner_bytes: usize,
    /// The share of acquires that go to the hot names: 0% to 100%
    #[arg(long, default_value = "0%", value_parser = percent, value_name = "PERCENT")]
    pub hot: f64,
    /// The number of hot names
    #[arg(
        long,
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        value_name = "N"
    )]
    pub hot_names: u32,
    /// The TTL of the locks. Default: 30s, or 10m for the mixes that hold all names from the start
    #[arg(long, value_parser = duration::parse_ms, value_name = "DURATION")]
    pub ttl: Option<u32>,
    /// With --mix seed: the time that each lock is held. Its renewals are spread over this time
    #[arg(
        long,
        default_value = "0",
        value_parser = duration::parse,
        value_name = "DURATION",
        conflicts_with = "rate"
    )]
    pub hold: Duration,
    /// With --mix seed: the number of linearizable checks after each write
    #[arg(
        long,
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=100),
        value_name = "N"
    )]
    pub reads_per_write: u32,
    /// Leave the locks that are held at the end to their TTL
    #[arg(long)]
    pub keep: bool,
    /// Measure the costs of this service on this machine, and write them to this file for
    /// `palisade plan --calibration`. This runs clusters of its own for about three minutes, in
    /// which other programs should be idle
    #[arg(long, value_name = "FILE", conflicts_with_all = ["predict", "rate", "json"])]
    pub calibrate: Option<PathBuf>,
    /// With --calibrate: the directory for the data of its clusters. Default: the temporary
    /// directory
    #[arg(long, value_name = "DIR", requires = "calibrate")]
    pub data_dir: Option<PathBuf>,
    /// Run nothing, but print the figures that the model expects of this run. The costs come from
    /// this calibration, and all processes are on one machine
    #[arg(long, value_name = "CALIBRATION", conflicts_with = "rate")]
    pub predict: Option<PathBuf>,
    /// With --predict: the number of nodes, each with a replica of every shard
    #[arg(
        long,
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=99),
        value_name = "N"
    )]
    pub nodes: u32,
    /// With --predict: the number of shards
    #[arg(
        long,
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=256),
        value_name = "N"
    )]
    pub shards: u32,
    /// With --predict: the number of cores that other programs keep busy
    #[arg(long, default_value_t = 0.0, value_name = "N")]
    pub taken_cores: f64,
    #[command(flatten)]
    pub gateways: Gateways,
    /// Print one JSON document on standard output, errors included
    #[arg(long)]
    pub json: bool,
}

impl Bench {
    /// The run that the command line asks for, on names that no other `run` uses. Checks the rules
    /// that the types of the command line do not express.
    ///
    /// # Errors
    /// The mistake, and what to change.
    pub fn options(&self, run: u32) -> Result<Options, Failure> {
        let reach = profiles::reach(&self.gateways)?;
        Ok(Options {
            workload: self.workload(run)?,
            endpoints: reach.endpoints.clone(),
            security: reach.security(),
            timeout: self.gateways.timeout,
            connections: self.streams,
            unary: self.unary,
            rate: self.rate,
            warmup: self.warmup,
            duration: self.duration,
            keep: self.keep,
        })
    }

    fn workload(&self, run: u32) -> Result<Workload, Failure> {
        let usage = |what: String, next: &str| {
            Err(Failure::new(Exit::Usage, "INVALID_ARGUMENT", what, next))
        };
        if !(NAME_BYTES_MIN..=NAME_BYTES_MAX).contains(&self.name_bytes) {
            let what = format!(
                "names of {} cannot be made distinct, or are not allowed",
                counted(self.name_bytes, "byte")
            );
            return usage(what, &format!("use --name-bytes {NAME_BYTES_MIN} to {NAME_BYTES_MAX}"));
        }
        if self.owner_bytes > OWNER_BYTES_MAX {
            let what = format!("owners of {} bytes are not allowed", self.owner_bytes);
            return usage(what, &format!("use --owner-bytes {OWNER_BYTES_MAX} at most"));
        }
        let ttl_ms =
            self.ttl.unwrap_or(if self.mix.holds_from_the_start() { 600_000 } else { 30_000 });
        if !TTL_MS.contains(&ttl_ms) {
            return usage(format!("a TTL of {ttl_ms} ms is not allowed"), "use --ttl 100ms to 24h");
        }
        let count =
            self.names.unwrap_or(if self.mix.holds_from_the_start() { 10_000 } else { 1_000_000 });
        if count < self.clients {
            let what = format!(
                "{} cannot serve {}",
                counted(count, "name"),
                counted(self.clients, "client")
            );
            return usage(
                what,
                "give each client a name of its own with --names, and use --hot for contention",
            );
        }
        if self.duration.is_zero() {
            return usage("nothing is measured in no time".into(), "give a --duration");
        }
        Ok(Workload {
            mix: self.mix,
            clients: self.clients,
            names: NameSpace { run, count, hot: self.hot_names, bytes: self.name_bytes },
            owner_bytes: self.owner_bytes,
            ttl_ms,
            hot: self.hot,
            renewal_pause: self.hold / SEED_RENEWALS,
            reads_per_write: self.reads_per_write,
            staggered: self.rate.is_some() || !self.hold.is_zero(),
        })
    }
}

/// `10%` as 0.1.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    match number {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("write 0% to 100%".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_written_in_percent() {
        assert_eq!((percent("10%"), percent("2.5"), percent("0%")), (Ok(0.1), Ok(0.025), Ok(0.0)));
        for bad in ["", "x%", "101%", "-1%", "NaN"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
