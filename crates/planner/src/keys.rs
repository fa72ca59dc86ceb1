//! Every key of a workload, and the reading of values from YAML and flags.
//!
//! Files, flags and answers to questions take the same way: they become values of dotted keys
//! (`entry.name_bytes`). The value of a flag replaces that of the file. Errors name the key. This
//! module knows nothing of the combinations of values that are possible.

use crate::duration::parse_duration;
use crate::{PlanError, quantity};
use serde_yaml::Value;
use std::collections::BTreeMap;

/// A key of the workload file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name with dots where it is nested: `entry.name_bytes`.
    pub name: &'static str,
    /// Name as a flag, without its dashes: `entry-name-bytes`.
    pub flag: &'static str,
    /// An example of a value, or its kind: `DURATION`.
    pub example: &'static str,
    /// Meaning and default, in one line.
    pub help: &'static str,
}

const fn key(
    name: &'static str,
    flag: &'static str,
    example: &'static str,
    help: &'static str,
) -> Key {
    Key { name, flag, example, help }
}

/// All keys of a workload.
pub const KEYS: &[Key] = &[
    key("name", "name", "NAME", "Name of the workload [default: workload]"),
    key(
        "instances",
        "instances",
        "N",
        "Processes that take locks [default: 2000, if the rate is given otherwise]",
    ),
    key(
        "locks_per_instance_per_min",
        "locks-per-instance-per-min",
        "N",
        "Locks that each instance takes per minute [default: 10]",
    ),
    key("acquire_per_s", "acquire-per-s", "N", "The rate, given directly"),
    key(
        "events_per_day",
        "events-per-day",
        "N",
        "The rate, as events per day that take one lock each",
    ),
    key("hold", "hold", "DURATION", "How long a lock is held [default: 5m]"),
    key("ttl", "ttl", "DURATION", "How long a lock outlives a holder that vanished [default: 30s]"),
    key("heartbeat", "heartbeat", "DURATION", "Time between renewals [default: ttl / 2]"),
    key("peak_multiplier", "peak-multiplier", "N", "Peak rate over average rate [default: 3]"),
    key("reads_per_write", "reads-per-write", "N", "Checks per write [default: 3]"),
    key("resources", "resources", "N", "Distinct names that are locked, to judge contention"),
    key(
        "hottest_share",
        "hottest-share",
        "SHARE",
        "Share of all acquires that want the hottest name, to judge contention",
    ),
    key("entry.name_bytes", "entry-name-bytes", "N", "Bytes of a resource name [default: 100]"),
    key("entry.owner_bytes", "entry-owner-bytes", "N", "Bytes of an owner id [default: 50]"),
    key("entry.metadata_bytes", "entry-metadata-bytes", "N", "Bytes of metadata [default: 50]"),
    key("history_days", "history-days", "N", "Days that history is kept [default: 30]"),
    key(
        "replicas",
        "replicas",
        "N",
        "Copies of each shard [default: 3 below 1,000 writes/s, else 5]",
    ),
    key(
        "nodes_per_shard",
        "nodes-per-shard",
        "N",
        "Nodes paid for per shard [default: as many as replicas]",
    ),
    key(
        "leader_capacity",
        "leader-capacity",
        "N",
        "Writes/s that one leader carries [default: 10000, as etcd; ZooKeeper: 5000]",
    ),
    key("headroom", "headroom", "SHARE", "Share of a leader's capacity to keep free [default: 0]"),
    key("sizing", "sizing", "peak|average", "Which load the cluster is sized for [default: peak]"),
    key("target_p99", "target-p99", "DURATION", "Wanted p99 of an acquire [default: 10ms]"),
    key(
        "network_rtt",
        "network-rtt",
        "DURATION",
        "Round trip between replicas [default: that of one data centre]",
    ),
    key(
        "failure_zones",
        "failure-zones",
        "N",
        "Zones that nodes are spread over [default: none, nodes fail alone]",
    ),
    key(
        "growth.per_month",
        "growth-per-month",
        "SHARE",
        "Growth of the load per month, compound [default: 10%]",
    ),
    key("growth.months", "growth-months", "N", "Months to look ahead [default: 12]"),
];

/// The given values, by key.
pub(crate) struct Values {
    map: BTreeMap<&'static str, Value>,
}

impl Values {
    /// Reads a YAML mapping and replaces values by `overrides`. A key with dots is a mapping of its
    /// own in YAML.
    pub(crate) fn read(
        what: &'static str,
        known: &'static [Key],
        yaml: &str,
        overrides: &[(String, String)],
    ) -> Result<Values, PlanError> {
        let yaml_error = |problem: String| PlanError::Yaml { what, problem };
        let document: Value =
            serde_yaml::from_str(yaml).map_err(|error| yaml_error(error.to_string()))?;
        let mut values = Values { map: BTreeMap::new() };
        let document = match document {
            Value::Null => Default::default(),
            Value::Mapping(mapping) => mapping,
            _ => return Err(yaml_error("it must be a mapping of `key: value` lines".to_owned())),
        };
        for (key, value) in document {
            let Value::String(key) = key else {
                return Err(yaml_error(format!("a key must be a word, not {}", describe(&key))));
            };
            match value {
                Value::Mapping(inner) if known.iter().any(|known| is_group(known.name, &key)) => {
                    for (inner_key, value) in inner {
                        let Value::String(inner_key) = inner_key else {
                            return Err(yaml_error(format!(
                                "a key must be a word, not {}",
                                describe(&inner_key)
                            )));
                        };
                        values.put(what, known, &format!("{key}.{inner_key}"), value)?;
                    }
                }
                value => values.put(what, known, &key, value)?,
            }
        }
        for (key, text) in overrides {
            // An override that is not a YAML scalar is text.
            let value = serde_yaml::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
            values.put(what, known, key, value)?;
        }
        Ok(values)
    }

    fn put(
        &mut self,
        what: &'static str,
        known: &'static [Key],
        key: &str,
        value: Value,
    ) -> Result<(), PlanError> {
        if let Some(known) = known.iter().find(|known| known.name == key) {
            self.map.insert(known.name, value);
            return Ok(());
        }
        if let Some(group) = known.iter().find(|known| is_group(known.name, key)) {
            let problem = format!("is a group of keys: write `{}` inside it", leaf(group.name));
            // The group's name is a prefix of a static one.
            return Err(PlanError::Value { key: &group.name[..key.len()], problem });
        }
        Err(PlanError::UnknownKey { what, key: key.to_owned(), nearest: nearest(known, key) })
    }

    /// A number that is finite and not negative.
    pub(crate) fn number(&self, key: &'static str) -> Result<Option<f64>, PlanError> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        let fail = |problem: String| Err(PlanError::Value { key, problem });
        let number = match value {
            Value::Number(number) => number.as_f64().filter(|number| number.is_finite()),
            Value::String(text) => quantity::parse(text),
            _ => None,
        };
        match number {
            None => fail(format!("is {}: write a number", describe(value))),
            Some(number) if number < 0.0 => fail(format!("is {number}: it cannot be negative")),
            Some(number) => Ok(Some(number)),
        }
    }

    /// A whole number that a float holds exactly.
    pub(crate) fn whole(&self, key: &'static str) -> Result<Option<u64>, PlanError> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        let fail = |problem: String| Err(PlanError::Value { key, problem });
        if number.fract() != 0.0 {
            return fail(format!("is {number}: write a whole number"));
        }
        if number > (1u64 << 53) as f64 {
            return fail(format!("is {number}: at most 2^53 can be planned with"));
        }
        Ok(Some(number as u64))
    }

    /// A duration, in seconds.
    pub(crate) fn duration_s(&self, key: &'static str) -> Result<Option<f64>, PlanError> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => describe(other),
        };
        match parse_duration(&text) {
            Ok(parsed) => Ok(Some(parsed.as_secs_f64())),
            Err(error) => Err(PlanError::Value { key, problem: format!("({text}): {error}") }),
        }
    }

    /// A value that is a word.
    pub(crate) fn text(&self, key: &'static str) -> Result<Option<String>, PlanError> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(PlanError::Value {
                key,
                problem: format!("is {}: write a word", describe(other)),
            }),
        }
    }

    /// A value that is true or false.
    pub(crate) fn flag(&self, key: &'static str) -> Result<Option<bool>, PlanError> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(PlanError::Value {
                key,
                problem: format!("is {}: write true or false", describe(other)),
            }),
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }
}

/// Whether `group` holds the key `name`. `entry` holds `entry.name_bytes`.
fn is_group(name: &str, group: &str) -> bool {
    name.split_once('.').is_some_and(|(prefix, _)| prefix == group)
}

/// The last part of a dotted name.
fn leaf(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The known key that was probably meant. A key in the wrong group, or outside of its group, is
/// compared by its last part.
fn nearest(known: &'static [Key], wrong: &str) -> Option<&'static str> {
    let distance = |name: &str| {
        strsim::damerau_levenshtein(wrong, name).min(strsim::damerau_levenshtein(wrong, leaf(name)))
    };
    let best = known.iter().min_by_key(|known| distance(known.name))?;
    // A key that is farther away is another word.
    (distance(best.name) <= wrong.chars().count().max(leaf(best.name).len()) / 2)
        .then_some(best.name)
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("`{text}`"),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Tagged(tagged) => format!("tagged {}", tagged.tag),
    }
}
