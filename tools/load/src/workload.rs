//! The kinds of load, and the settings that all clients of a run share.

use crate::names::NameSpace;
use clap::ValueEnum;
use std::time::Duration;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mix {
    /// Take a lock and release it, again and again with other names
    AcquireRelease,
    /// The life of a lock: acquire, 20 renewals spread over its hold, release
    Seed,
    /// Renew locks that are held from the start, one by one
    Renew,
    /// Check locks that are held from the start, by linearizable reads
    Check,
    /// Check locks that are held from the start, by reads of any one replica
    StaleCheck,
    /// Hold all locks from the start by one session per client, and send its heartbeats
    Heartbeat,
}

impl Mix {
    /// The name of the mix on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Mix::AcquireRelease => "acquire-release",
            Mix::Seed => "seed",
            Mix::Renew => "renew",
            Mix::Check => "check",
            Mix::StaleCheck => "stale-check",
            Mix::Heartbeat => "heartbeat",
        }
    }

    /// Whether the mix acquires all its locks before the measurement.
    pub fn holds_from_the_start(self) -> bool {
        !matches!(self, Mix::AcquireRelease | Mix::Seed)
    }
}

/// The settings that all clients of a run share.
///
/// * There are at least as many cold names as clients, so that each client has one of its own.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The kind of load.
    pub mix: Mix,
    /// The number of clients, which is the number of operations in flight at most.
    pub clients: u32,
    /// The names of the locks.
    pub names: NameSpace,
    /// Length of an owner.
    pub owner_bytes: usize,
    /// The TTL of each lock.
    pub ttl_ms: u32,
    /// Share of acquires that go to hot names, 0 to 1.
    pub hot: f64,
    /// Pause before each renewal of a seed cycle.
    pub renewal_pause: Duration,
    /// Checks after each write of a seed cycle.
    pub reads_per_write: u32,
    /// The first life of each client's locks is cut short at random, so that lives do not begin and
    /// end in step.
    pub staggered: bool,
}

/// Renewals in the life of a lock under the seed mix.
pub const SEED_RENEWALS: u32 = 20;
