//! The costs of this service on some hardware, with which the palisade column is sized.
//!
//! Without a measurement these are assumptions, and every report says so. They err on the side of
//! more hardware: a leader carries no more than etcd is said to carry, and history is not
//! compressed.

use crate::keys::{Key, Values};
use crate::{Costs, PlanError};
use serde::Serialize;
use std::sync::LazyLock;

/// Costs of this service on one kind of machine.
///
/// - Every field is finite and not negative. Rates and ratios are above zero.
/// - `fsync_low_ms` ≤ `fsync_p50_ms` ≤ `fsync_high_ms`. There is at least one core, and one sync at
///   a time.
///
/// ```
/// use palisade_planner::Calibration;
///
/// let measured = Calibration::parse("measured: true\nwrites_per_s_per_leader: 25000\n").unwrap();
/// assert_eq!(measured.writes_per_s_per_leader, 25_000.0);
/// // Keys that are left out stay as assumed.
/// let assumed = Calibration::default();
/// assert_eq!(measured.lock_overhead_bytes, assumed.lock_overhead_bytes);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Origin of the numbers, for people.
    pub source: String,
    /// Whether the numbers were measured. Otherwise they are assumptions.
    pub measured: bool,
    /// Acquires and releases that one leader carries per second, if it does nothing else.
    pub writes_per_s_per_leader: f64,
    /// Renewals of leases that one leader carries per second, if it does nothing else.
    pub renewals_per_s_per_leader: f64,
    /// Log bytes of one operation beside its name, owner and metadata.
    pub operation_overhead_bytes: u64,
    /// Bytes of a tenure in history beside its name, owner and metadata: times, ids, and the key,
    /// which repeats the name.
    pub tenure_overhead_bytes: u64,
    /// Bytes of history on disk per byte written; 1 without compression.
    pub history_stored_ratio: f64,
    /// Memory of a held lock beside its name, owner and metadata.
    pub lock_overhead_bytes: u64,
    /// Time of one sync of the log to disk, at best (p1).
    pub fsync_low_ms: f64,
    /// Time of one sync of the log to disk, at the median.
    pub fsync_p50_ms: f64,
    /// Time of one sync of the log to disk, at p99.
    pub fsync_high_ms: f64,
    /// Syncs of different files that the disk does at a time before each takes longer.
    pub syncs_in_parallel: u64,
    /// Processor cores of a machine.
    pub cores: u64,
    /// Extra cost of a node's work for one shard if its work before was for another: 0.1 is a
    /// tenth. Background work and checks are not affected.
    pub other_shard_extra: f64,
    /// Processor time by thread, for simulations.
    #[serde(flatten)]
    pub costs: Costs,
}

impl Calibration {
    /// The costs on machines with `shards` shards each, if these take turns at random.
    pub fn costs_with(&self, shards: usize) -> Costs {
        let mut costs = self.costs.clone();
        costs.node_times(1.0 + self.other_shard_extra * (1.0 - 1.0 / shards as f64));
        costs
    }
}

impl Default for Calibration {
    /// The assumptions without any measurement.
    fn default() -> Self {
        Calibration {
            source: "assumed defaults, not measured".to_owned(),
            measured: false,
            writes_per_s_per_leader: 10_000.0,
            renewals_per_s_per_leader: 10_000.0,
            operation_overhead_bytes: 128,
            tenure_overhead_bytes: 256,
            history_stored_ratio: 1.0,
            lock_overhead_bytes: 1_024,
            fsync_low_ms: 1.0,
            fsync_p50_ms: 1.5,
            fsync_high_ms: 3.0,
            syncs_in_parallel: 1,
            cores: 4,
            other_shard_extra: 0.0,
            costs: Costs::ASSUMED,
        }
    }
}

const fn key(name: &'static str, help: &'static str) -> Key {
    Key { name, flag: "", example: "", help }
}

/// Share of its time that a thread at capacity spends on operations. The rest goes into entries.
const FOR_OPERATIONS: f64 = 0.95;

const OWN_KEYS: &[Key] = &[
    key("source", "where the numbers come from"),
    key("measured", "true if they were measured"),
    key("writes_per_s_per_leader", "acquires and releases per second and leader"),
    key("renewals_per_s_per_leader", "renewals per second and leader"),
    key("operation_overhead_bytes", "log bytes per operation beyond name, owner, metadata"),
    key("tenure_overhead_bytes", "history bytes per grant beyond name, owner, metadata"),
    key("history_stored_ratio", "stored bytes per byte of history"),
    key("lock_overhead_bytes", "memory per lock beyond name, owner, metadata"),
    key("fsync_low_ms", "one sync, at best"),
    key("fsync_p50_ms", "one sync, half of the time"),
    key("fsync_high_ms", "one sync, at p99"),
    key("syncs_in_parallel", "syncs that the disk does at a time"),
    key("cores", "processor cores of a machine"),
    key("other_shard_extra", "what a node's work costs more after another shard's: 0.1 is a tenth"),
];

/// All keys: these and those of the costs.
static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [OWN_KEYS, Costs::KEYS].concat());

impl Calibration {
    /// Reads a calibration. Keys that it leaves out stay as assumed.
    ///
    /// # Errors
    /// If the text is not YAML, or has unknown keys or impossible values.
    pub fn parse(yaml: &str) -> Result<Calibration, PlanError> {
        let values = Values::read("calibration", &KEYS, yaml, &[])?;
        let assumed = Calibration::default();
        let measured = values.flag("measured")?.unwrap_or(assumed.measured);
        let positive = |key: &'static str, assumed: f64| match values.number(key)? {
            Some(number) if number <= 0.0 => {
                Err(PlanError::Value { key, problem: format!("is {number}: it must be above 0") })
            }
            number => Ok(number.unwrap_or(assumed)),
        };
        let whole = |key: &'static str, assumed: u64| {
            values.whole(key).map(|number| number.unwrap_or(assumed))
        };
        let at_least_one = |key: &'static str, assumed: u64| match values.whole(key)? {
            Some(0) => {
                Err(PlanError::Value { key, problem: "is 0: it must be at least 1".to_owned() })
            }
            Some(number) if number > 4_096 => Err(PlanError::Value {
                key,
                problem: format!("is {number}: at most 4096 can be planned with"),
            }),
            number => Ok(number.unwrap_or(assumed)),
        };
        let mut calibration = Calibration {
            source: match values.text("source")? {
                Some(source) => source,
                None if measured => "measured".to_owned(),
                None => assumed.source,
            },
            measured,
            writes_per_s_per_leader: positive(
                "writes_per_s_per_leader",
                assumed.writes_per_s_per_leader,
            )?,
            renewals_per_s_per_leader: positive(
                "renewals_per_s_per_leader",
                assumed.renewals_per_s_per_leader,
            )?,
            operation_overhead_bytes: whole(
                "operation_overhead_bytes",
                assumed.operation_overhead_bytes,
            )?,
            tenure_overhead_bytes: whole("tenure_overhead_bytes", assumed.tenure_overhead_bytes)?,
            history_stored_ratio: positive("history_stored_ratio", assumed.history_stored_ratio)?,
            lock_overhead_bytes: whole("lock_overhead_bytes", assumed.lock_overhead_bytes)?,
            fsync_low_ms: positive("fsync_low_ms", assumed.fsync_low_ms)?,
            fsync_p50_ms: 0.0,
            fsync_high_ms: positive("fsync_high_ms", assumed.fsync_high_ms)?,
            syncs_in_parallel: at_least_one("syncs_in_parallel", assumed.syncs_in_parallel)?,
            cores: at_least_one("cores", assumed.cores)?,
            other_shard_extra: values
                .number("other_shard_extra")?
                .unwrap_or(assumed.other_shard_extra),
            costs: assumed.costs,
        };
        if calibration.fsync_high_ms < calibration.fsync_low_ms {
            let problem = format!(
                "is {}, below `fsync_low_ms` of {}: the p99 cannot be better than the best",
                calibration.fsync_high_ms, calibration.fsync_low_ms
            );
            return Err(PlanError::Value { key: "fsync_high_ms", problem });
        }
        let between = calibration.fsync_low_ms..=calibration.fsync_high_ms;
        let p50 = assumed.fsync_p50_ms.clamp(*between.start(), *between.end());
        calibration.fsync_p50_ms = positive("fsync_p50_ms", p50)?;
        if !between.contains(&calibration.fsync_p50_ms) {
            let problem = format!(
                "is {}, not between `fsync_low_ms` and `fsync_high_ms`",
                calibration.fsync_p50_ms
            );
            return Err(PlanError::Value { key: "fsync_p50_ms", problem });
        }
        // Without a measurement, the leader's shard thread is assumed to be the bottleneck of its
        // writes.
        calibration.costs.leader_shard_us_per_op =
            FOR_OPERATIONS * 1e6 / calibration.writes_per_s_per_leader;
        for (key, cost) in calibration.costs.fields() {
            if let Some(given) = values.number(key)? {
                *cost = given;
            }
        }
        Ok(calibration)
    }

    /// A file that [parses](Self::parse) to this calibration.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("plain numbers and strings serialise")
    }
}
