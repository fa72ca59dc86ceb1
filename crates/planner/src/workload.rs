//! The workload: the wanted locks, their rate and hold time, and the demands on the service.
//!
//! A [`Workload`] is complete and possible: defaults are filled in, and each impossible value was
//! refused with the key to change. It computes nothing beyond its defaults and its average rates.

use crate::keys::{KEYS, Values};
use crate::model::{Rates, SizeClass};
use crate::{PlanError, duration, quantity};
use serde::Serialize;

/// A commented workload file with every key.
pub const TEMPLATE: &str = include_str!("template.yaml");

/// The form in which the rate was given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateSource {
    /// Locks that each instance takes per minute, times the instances.
    LocksPerInstancePerMin(f64),
    /// Acquires per second in total.
    AcquirePerS(f64),
    /// Events per day, each of which takes one lock.
    EventsPerDay(f64),
}

/// The load for which the cluster is sized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sizing {
    /// The peak load.
    Peak,
    /// The average load. At the peak, leaders answer BUSY unless the headroom covers it.
    Average,
}

/// Sizes of the parts of one entry, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EntryBytes {
    /// Length of the resource name.
    pub name_bytes: u64,
    /// Length of the owner id.
    pub owner_bytes: u64,
    /// Length of the metadata.
    pub metadata_bytes: u64,
}

impl EntryBytes {
    /// Length of all parts together.
    pub fn total(self) -> u64 {
        self.name_bytes + self.owner_bytes + self.metadata_bytes
    }
}

/// Growth of the load over time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// Compound growth per month as a share: 0.1 is 10 %.
    pub per_month: f64,
    /// Number of months to look ahead.
    pub months: u32,
}

/// A workload that can be planned for. Rates are averages unless their name says `peak`.
///
/// - All numbers are finite and not negative. Hold, TTL, heartbeat, rates, capacities and targets
///   are above zero.
/// - The heartbeat is shorter than the TTL, and the service accepts the TTL.
/// - There is at least one replica, and a node for each replica.
/// - 0 ≤ headroom < 1 ≤ peak multiplier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Name of the workload for people, and of the planned cluster.
    pub name: String,
    /// Number of processes that take locks.
    pub instances: u64,
    /// The rate, in the form in which it was given.
    pub rate: RateSource,
    /// Time for which a lock is held, in seconds.
    pub hold_s: f64,
    /// TTL: the time that a lock outlives its holder, in seconds.
    pub ttl_s: f64,
    /// Time between renewals, in seconds.
    pub heartbeat_s: f64,
    /// Peak rate divided by average rate.
    pub peak_multiplier: f64,
    /// Number of checks per write.
    pub reads_per_write: f64,
    /// Number of distinct names, if known.
    pub resources: Option<u64>,
    /// Share of all acquires that want the hottest name, if known.
    pub hottest_share: Option<f64>,
    /// Sizes of the parts of an entry.
    pub entry: EntryBytes,
    /// Days for which history is kept.
    pub history_days: u32,
    /// Number of copies of each shard.
    pub replicas: u32,
    /// Number of nodes to pay for per shard.
    pub nodes_per_shard: u32,
    /// Writes per second that one leader carries in the specification's sizing.
    pub leader_capacity_per_s: f64,
    /// Share of that capacity to keep free.
    pub headroom: f64,
    /// The load for which shards are sized.
    pub sizing: Sizing,
    /// Wanted p99 of an acquire, in milliseconds.
    pub target_p99_ms: f64,
    /// Round trip between replicas in milliseconds, if given.
    pub network_rtt_ms: Option<f64>,
    /// Number of zones over which nodes are spread; 0 if not given.
    pub failure_zones: u32,
    /// Growth of the load over time.
    pub growth: Growth,
    /// Keys that were not given, so that a report can list its assumptions.
    pub assumed: Vec<&'static str>,
}

/// Values of the specification where nothing is given.
mod default {
    pub(super) const INSTANCES: u64 = 2_000;
    pub(super) const LOCKS_PER_INSTANCE_PER_MIN: f64 = 10.0;
    /// The specification's table of assumptions says 5 s, but everything that it sizes is held for
    /// 300 s. The larger value is the safer one.
    pub(super) const HOLD_S: f64 = 300.0;
    pub(super) const TTL_S: f64 = 30.0;
    pub(super) const PEAK_MULTIPLIER: f64 = 3.0;
    pub(super) const READS_PER_WRITE: f64 = 3.0;
    pub(super) const ENTRY_BYTES: super::EntryBytes =
        super::EntryBytes { name_bytes: 100, owner_bytes: 50, metadata_bytes: 50 };
    pub(super) const HISTORY_DAYS: u64 = 30;
    pub(super) const LEADER_CAPACITY_PER_S: f64 = 10_000.0;
    pub(super) const TARGET_P99_S: f64 = 0.010;
    pub(super) const GROWTH: super::Growth = super::Growth { per_month: 0.10, months: 12 };
}

/// The TTLs that the service accepts, in seconds.
const TTL_S: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;
const NAME_BYTES_MAX: u64 = 512;
/// Most bytes of one message between client and service.
const TEXT_BYTES_MAX: u64 = 64 << 10;
const REPLICAS_MAX: u64 = 99;
const HISTORY_DAYS_MAX: u64 = 36_500;
const MONTHS_MAX: u64 = 600;
const ZONES_MAX: u64 = 1_000;

impl Workload {
    /// Reads a workload file. `overrides` are values by key, as flags give them, which replace
    /// those of the file.
    ///
    /// ```
    /// use palisade_planner::{PlanError, Workload};
    ///
    /// let flags = [("hold".to_owned(), "5s".to_owned())];
    /// let workload = Workload::parse("acquire_per_s: 2k\nhold: 5m\n", &flags).unwrap();
    /// assert_eq!((workload.acquire_per_s(), workload.hold_s), (2_000.0, 5.0));
    ///
    /// let error = Workload::parse("acquires_per_s: 2k\n", &[]).unwrap_err();
    /// assert!(matches!(error, PlanError::UnknownKey { nearest: Some("acquire_per_s"), .. }));
    /// ```
    ///
    /// # Errors
    /// If the text is not YAML, has unknown keys or impossible values, or gives no rate or two
    /// rates.
    pub fn parse(yaml: &str, overrides: &[(String, String)]) -> Result<Workload, PlanError> {
        let values = Values::read("workload", KEYS, yaml, overrides)?;
        let rate = rate(&values)?;
        let instances = values.whole("instances")?.unwrap_or(default::INSTANCES);
        if instances == 0 {
            return impossible("instances", "is 0: at least one process must take locks");
        }
        let (ttl_s, heartbeat_s) = ttl_and_heartbeat(&values)?;
        let mut workload = Workload {
            name: name(&values)?,
            instances,
            rate,
            hold_s: hold_s(&values)?,
            ttl_s,
            heartbeat_s,
            peak_multiplier: values.number("peak_multiplier")?.unwrap_or(default::PEAK_MULTIPLIER),
            reads_per_write: values.number("reads_per_write")?.unwrap_or(default::READS_PER_WRITE),
            resources: values.whole("resources")?,
            hottest_share: values.number("hottest_share")?,
            entry: entry(&values)?,
            history_days: at_most(
                &values,
                "history_days",
                HISTORY_DAYS_MAX,
                default::HISTORY_DAYS,
            )?,
            replicas: 0,
            nodes_per_shard: 0,
            leader_capacity_per_s: above_zero(
                &values,
                "leader_capacity",
                default::LEADER_CAPACITY_PER_S,
            )?,
            headroom: values.number("headroom")?.unwrap_or(0.0),
            sizing: sizing(&values)?,
            target_p99_ms: values.duration_s("target_p99")?.unwrap_or(default::TARGET_P99_S) * 1e3,
            network_rtt_ms: values.duration_s("network_rtt")?.map(|rtt_s| rtt_s * 1e3),
            failure_zones: at_most(&values, "failure_zones", ZONES_MAX, 0)?,
            growth: growth(&values)?,
            assumed: assumed(&values),
        };
        workload.check()?;
        (workload.replicas, workload.nodes_per_shard) = copies(&values, &workload)?;
        Ok(workload)
    }

    /// Locks taken per second, on average.
    pub fn acquire_per_s(&self) -> f64 {
        match self.rate {
            RateSource::LocksPerInstancePerMin(locks) => self.instances as f64 * locks / 60.0,
            RateSource::AcquirePerS(rate) => rate,
            RateSource::EventsPerDay(events) => events / 86_400.0,
        }
    }

    fn check(&self) -> Result<(), PlanError> {
        if self.peak_multiplier < 1.0 {
            return impossible(
                "peak_multiplier",
                &format!("is {}: a peak is at least the average", self.peak_multiplier),
            );
        }
        if self.headroom >= 1.0 {
            let problem = format!(
                "is {}: nothing is left to work with; write a share such as 0.2 or 20%",
                self.headroom
            );
            return impossible("headroom", &problem);
        }
        if self.target_p99_ms <= 0.0 {
            return impossible(
                "target_p99",
                "is 0: nothing is that fast; write a duration such as 10ms",
            );
        }
        if self.resources == Some(0) {
            return impossible("resources", "is 0: leave it out if it is not known");
        }
        if self.hottest_share.is_some_and(|share| share > 1.0) {
            return impossible(
                "hottest_share",
                "is more than all acquires: write a share such as 0.01 or 1%",
            );
        }
        Ok(())
    }
}

impl Rates {
    /// The averages of a workload.
    pub fn of(workload: &Workload) -> Rates {
        let acquire_per_s = workload.acquire_per_s();
        Rates {
            acquire_per_s,
            renew_each_per_s: acquire_per_s * (workload.hold_s / workload.heartbeat_s),
            release_per_s: acquire_per_s,
            instances: workload.instances as f64,
            heartbeat_s: workload.heartbeat_s,
        }
    }
}

fn impossible<T>(key: &'static str, problem: &str) -> Result<T, PlanError> {
    Err(PlanError::Value { key, problem: problem.to_owned() })
}

fn above_zero(values: &Values, key: &'static str, default: f64) -> Result<f64, PlanError> {
    match values.number(key)? {
        Some(number) if number <= 0.0 => impossible(key, "is 0: it must be above 0"),
        number => Ok(number.unwrap_or(default)),
    }
}

/// A whole number that is at most `most`, and so fits in 32 bits.
fn at_most(values: &Values, key: &'static str, most: u64, default: u64) -> Result<u32, PlanError> {
    let number = values.whole(key)?.unwrap_or(default);
    match u32::try_from(number) {
        Ok(fits) if number <= most => Ok(fits),
        _ => impossible(
            key,
            &format!(
                "is {}: at most {} can be planned with",
                quantity::count(number),
                quantity::count(most)
            ),
        ),
    }
}

fn name(values: &Values) -> Result<String, PlanError> {
    match values.text("name")? {
        Some(name) if name.trim().is_empty() || name.contains(char::is_control) => impossible(
            "name",
            "is empty or has control characters: name the workload, or leave it out",
        ),
        name => Ok(name.unwrap_or_else(|| "workload".to_owned())),
    }
}

fn rate(values: &Values) -> Result<RateSource, PlanError> {
    let of_instances = values.number("locks_per_instance_per_min")?;
    let acquire_per_s = values.number("acquire_per_s")?;
    let events_per_day = values.number("events_per_day")?;
    let given: Vec<&'static str> =
        ["locks_per_instance_per_min", "acquire_per_s", "events_per_day"]
            .into_iter()
            .filter(|key| values.has(key))
            .collect();
    match given[..] {
        [] | ["locks_per_instance_per_min"] if !values.has("instances") => {
            return Err(PlanError::NoRate);
        }
        [first, second, ..] => return Err(PlanError::TwoRates(first, second)),
        [key] if [of_instances, acquire_per_s, events_per_day].contains(&Some(0.0)) => {
            return impossible(key, "is 0: nothing is locked");
        }
        _ => {}
    }
    Ok(match (acquire_per_s, events_per_day) {
        (Some(rate), _) => RateSource::AcquirePerS(rate),
        (None, Some(events)) => RateSource::EventsPerDay(events),
        (None, None) => RateSource::LocksPerInstancePerMin(
            of_instances.unwrap_or(default::LOCKS_PER_INSTANCE_PER_MIN),
        ),
    })
}

fn hold_s(values: &Values) -> Result<f64, PlanError> {
    match values.duration_s("hold")? {
        Some(hold_s) if hold_s <= 0.0 => {
            impossible("hold", "is 0: a lock is held for some time, such as 5s")
        }
        hold_s => Ok(hold_s.unwrap_or(default::HOLD_S)),
    }
}

/// The TTL and the heartbeat in seconds. If only the heartbeat is given, the TTL is twice that.
fn ttl_and_heartbeat(values: &Values) -> Result<(f64, f64), PlanError> {
    let heartbeat_s = values.duration_s("heartbeat")?;
    if heartbeat_s.is_some_and(|heartbeat_s| heartbeat_s <= 0.0) {
        return impossible(
            "heartbeat",
            "is 0: leave it out for half the TTL, or write a duration such as 15s",
        );
    }
    let ttl_s = match (values.duration_s("ttl")?, heartbeat_s) {
        (Some(ttl_s), _) => ttl_s,
        (None, Some(heartbeat_s)) => 2.0 * heartbeat_s,
        (None, None) => default::TTL_S,
    };
    if !TTL_S.contains(&ttl_s) {
        let (shown, key) =
            (duration::show_s(ttl_s), if values.has("ttl") { "ttl" } else { "heartbeat" });
        let whose = if key == "ttl" { "is" } else { "makes the TTL" };
        return impossible(
            key,
            &format!("{whose} {shown}: the service takes TTLs from 100ms to 24h"),
        );
    }
    let heartbeat_s = heartbeat_s.unwrap_or(ttl_s / 2.0);
    if heartbeat_s >= ttl_s {
        let (heartbeat, ttl) = (duration::show_s(heartbeat_s), duration::show_s(ttl_s));
        let problem = format!(
            "is {heartbeat}, but the TTL is {ttl}: every lock would expire; renew at half the TTL or sooner"
        );
        return impossible("heartbeat", &problem);
    }
    Ok((ttl_s, heartbeat_s))
}

fn entry(values: &Values) -> Result<EntryBytes, PlanError> {
    let usual = default::ENTRY_BYTES;
    let entry = EntryBytes {
        name_bytes: values.whole("entry.name_bytes")?.unwrap_or(usual.name_bytes),
        owner_bytes: values.whole("entry.owner_bytes")?.unwrap_or(usual.owner_bytes),
        metadata_bytes: values.whole("entry.metadata_bytes")?.unwrap_or(usual.metadata_bytes),
    };
    if entry.name_bytes == 0 || entry.name_bytes > NAME_BYTES_MAX {
        return impossible(
            "entry.name_bytes",
            &format!("is {}: names have 1 to {NAME_BYTES_MAX} bytes", entry.name_bytes),
        );
    }
    for (key, bytes) in
        [("entry.owner_bytes", entry.owner_bytes), ("entry.metadata_bytes", entry.metadata_bytes)]
    {
        if bytes > TEXT_BYTES_MAX {
            return impossible(
                key,
                &format!("is {bytes}: one request has at most {TEXT_BYTES_MAX} bytes"),
            );
        }
    }
    Ok(entry)
}

fn sizing(values: &Values) -> Result<Sizing, PlanError> {
    match values.text("sizing")?.as_deref() {
        None | Some("peak") => Ok(Sizing::Peak),
        Some("average") => Ok(Sizing::Average),
        Some(other) => impossible("sizing", &format!("is `{other}`: write peak or average")),
    }
}

fn growth(values: &Values) -> Result<Growth, PlanError> {
    let usual = default::GROWTH;
    let months = at_most(values, "growth.months", MONTHS_MAX, u64::from(usual.months))?;
    if months == 0 {
        return impossible("growth.months", "is 0: look at least one month ahead");
    }
    let per_month = values.number("growth.per_month")?.unwrap_or(usual.per_month);
    if per_month > 10.0 {
        return impossible(
            "growth.per_month",
            &format!("is {per_month}: write a share such as 0.1 or 10%, at most 10"),
        );
    }
    Ok(Growth { per_month, months })
}

/// Replicas, and nodes per shard. Either follows from the other. Without both, they follow from the
/// size class of the average load.
fn copies(values: &Values, workload: &Workload) -> Result<(u32, u32), PlanError> {
    let given = |key: &'static str, most: u64| -> Result<Option<u32>, PlanError> {
        match values.has(key).then(|| at_most(values, key, most, 0)).transpose()? {
            Some(0) => impossible(key, "is 0: 1 survives no failure, 3 survive one, 5 survive two"),
            number => Ok(number),
        }
    };
    let (replicas, nodes) =
        (given("replicas", REPLICAS_MAX)?, given("nodes_per_shard", u64::from(u32::MAX))?);
    let usual = || SizeClass::of(Rates::of(workload).writes_per_s()).replicas();
    let replicas = match (replicas, nodes) {
        (Some(replicas), _) => replicas,
        (None, Some(nodes)) => nodes.min(REPLICAS_MAX as u32),
        (None, None) => usual(),
    };
    let nodes = nodes.unwrap_or(replicas);
    if nodes < replicas {
        let problem =
            format!("is {nodes}, but there are {replicas} replicas: each needs a node of its own");
        return impossible("nodes_per_shard", &problem);
    }
    Ok((replicas, nodes))
}

impl Workload {
    /// The assumed keys with their values, for people.
    pub fn assumptions(&self) -> Vec<(&'static str, String)> {
        self.assumed.iter().map(|key| (*key, self.shown(key))).collect()
    }

    fn shown(&self, key: &str) -> String {
        match key {
            "instances" => quantity::count(self.instances),
            "locks_per_instance_per_min" => match self.rate {
                RateSource::LocksPerInstancePerMin(locks) => quantity::show(locks),
                _ => "by the rate".to_owned(),
            },
            "hold" => duration::show_s(self.hold_s),
            "ttl" => duration::show_s(self.ttl_s),
            "heartbeat" => duration::show_s(self.heartbeat_s),
            "peak_multiplier" => quantity::show(self.peak_multiplier),
            "reads_per_write" => quantity::show(self.reads_per_write),
            "entry.name_bytes" => quantity::count(self.entry.name_bytes),
            "entry.owner_bytes" => quantity::count(self.entry.owner_bytes),
            "entry.metadata_bytes" => quantity::count(self.entry.metadata_bytes),
            "history_days" => self.history_days.to_string(),
            "replicas" => self.replicas.to_string(),
            "nodes_per_shard" => self.nodes_per_shard.to_string(),
            "leader_capacity" => {
                format!("{} (specification)", quantity::show(self.leader_capacity_per_s))
            }
            "headroom" => quantity::percent(self.headroom),
            "target_p99" => format!("{} ms", quantity::decimals(self.target_p99_ms, 2)),
            "network_rtt" => "1–2 ms (one data centre)".to_owned(),
            "failure_zones" => "none (each node fails alone)".to_owned(),
            "growth.per_month" => quantity::percent(self.growth.per_month),
            "growth.months" => self.growth.months.to_string(),
            other => unreachable!("no value is assumed for {other}"),
        }
    }
}

/// The keys that were left to their defaults and matter for the result.
fn assumed(values: &Values) -> Vec<&'static str> {
    let rates = ["locks_per_instance_per_min", "acquire_per_s", "events_per_day"];
    let rate_given = rates.iter().any(|key| values.has(key));
    KEYS.iter()
        .map(|key| key.name)
        .filter(|key| !values.has(key))
        .filter(|key| !matches!(*key, "name" | "resources" | "hottest_share" | "sizing"))
        .filter(|key| !rates.contains(key) || (*key == rates[0] && !rate_given))
        // One of these two implies the other.
        .filter(|key| *key != "nodes_per_shard" || !values.has("replicas"))
        .filter(|key| *key != "replicas" || !values.has("nodes_per_shard"))
        .collect()
}
