//! The plan of a run, and the course of each of its rounds. The module does not know how a round is
//! run.

use crate::judge::Verdict;
use crate::kinds::Kind;
use crate::tools::Tools;
use std::path::PathBuf;
use std::time::Duration;

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The minimum duration. Every kind is inflicted once in any case.
    pub minutes: u64,
    /// The only kinds to inflict. Empty for all kinds.
    pub kinds: Vec<Kind>,
    /// Whether pairs of kinds are inflicted, too.
    pub has_pairs: bool,
    /// Decides the targets and times of faults.
    pub seed: u64,
    /// The tools that this machine has for faults.
    pub tools: Tools,
    /// The directory for data, logs and the histories that broke an invariant.
    pub dir: PathBuf,
}

/// The course of one round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The number of the round, from 1.
    pub number: u32,
    /// The kinds of faults that were inflicted.
    pub kinds: Vec<Kind>,
    /// The time from the fault until every shard served again during the fault, if serving is
    /// required.
    pub interruption: Option<Duration>,
    /// The time from the healing until every shard served.
    pub recovery: Option<Duration>,
    /// The verdict of the checker.
    pub verdict: Verdict,
    /// Other failures: processes that ended or did not end, and shards that did not serve.
    pub failures: Vec<String>,
    /// Notes on the fault and its results that are worth reading.
    pub notes: Vec<String>,
    /// The number of refused tokens of a client that came back from a pause. `None` if no client
    /// was paused.
    pub refused_after_pause: Option<usize>,
    /// The place where the evidence of a broken invariant is kept.
    pub kept: Option<String>,
}
