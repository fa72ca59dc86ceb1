//! Plans of capacity over HTTP: what `palisade plan` computes, for a page.
//!
//! * A plan is a function of its request. It tells nothing of this cluster and its locks.
//! * The request is bounded, so that it takes no longer than an operation.

use super::problem::Problem;
use planner::{Calibration, EmitOptions, KEYS, TEMPLATE, Workload};
use routing::Addresses;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wire::v1::Error;

/// The size of the texts of a workload, at most.
const WORKLOAD_BYTES_MAX: usize = 16 << 10;
/// The nodes and gateways of a cluster file together, at most, so that a request holds its thread for
/// some milliseconds only.
const PROCESSES_MAX: u64 = 256;
/// The bytes of the domain of a cluster file, at most, so that host names below it have room.
const DOMAIN_BYTES_MAX: usize = 200;
/// The port of all processes in a cluster file with host names.
const PORT: u16 = 7400;

/// Plans the capacity for a workload.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// The workload file, as YAML. It or `fields` has to give a rate: all else has defaults.
    #[serde(default)]
    #[schemars(length(max = 16_384))]
    workload: String,
    /// Values by the names of `GET /v1/plan`. Each takes the place of that in the file.
    #[serde(default)]
    fields: BTreeMap<String, String>,
    /// The domain of the hosts in the cluster file: a host name of at most 200 bytes. Default: all
    /// processes are on 127.0.0.1.
    #[schemars(length(min = 1, max = 200))]
    domain: Option<String>,
}

/// The fields of a workload.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WorkloadFields {
    /// The fields, in the order of the template.
    fields: Vec<WorkloadField>,
    /// A workload file with all fields and their meaning, as YAML.
    template: &'static str,
}

/// One field of a workload.
#[derive(Debug, Serialize, JsonSchema)]
struct WorkloadField {
    /// Its name, with dots where it is nested: `entry.name_bytes`.
    name: &'static str,
    /// The kind of its value: `N`, `DURATION`, `SHARE`, or words with `|` between them.
    example: &'static str,
    /// Its meaning and its default.
    help: &'static str,
}

/// A plan.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Planned {
    /// All figures, as `palisade plan --json` prints them.
    plan: serde_json::Value,
    /// The cluster to build, and then the five steps.
    steps: Vec<PlanStep>,
    /// The cluster file, as YAML. `null` if the plan makes none.
    cluster_file: Option<String>,
    /// Why the plan makes no cluster file.
    cluster_file_error: Option<String>,
}

/// One step of a plan.
#[derive(Debug, Serialize, JsonSchema)]
struct PlanStep {
    /// Its title.
    title: &'static str,
    /// What its figures are of.
    about: String,
    /// Its figures.
    rows: Vec<PlanFigure>,
}

/// One figure of a plan.
#[derive(Debug, Serialize, JsonSchema)]
struct PlanFigure {
    /// What the figure is.
    label: String,
    /// The figure as this service works.
    palisade: PlanValue,
    /// The figure of the published model.
    specification: PlanValue,
}

/// A figure in one of the columns.
#[derive(Debug, Serialize, JsonSchema)]
struct PlanValue {
    /// Its value, for people.
    value: String,
    /// Its formula with the numbers filled in, or a remark.
    how: String,
}

impl WorkloadFields {
    /// All fields.
    pub(super) fn all() -> WorkloadFields {
        let field = |key: &planner::Key| {
            let planner::Key { name, example, help, .. } = *key;
            WorkloadField { name, example, help }
        };
        WorkloadFields { fields: KEYS.iter().map(field).collect(), template: TEMPLATE }
    }
}

impl Plan {
    /// Computes the plan.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the request is too large, the domain no host name, or the workload
    /// impossible.
    pub(super) fn made(self) -> Result<Planned, Problem> {
        let of_fields = self.fields.iter().map(|(name, value)| name.len() + value.len());
        if self.workload.len() + of_fields.sum::<usize>() > WORKLOAD_BYTES_MAX {
            return Err(Error::invalid("the workload is larger than 16 KiB: shorten it").into());
        }
        if self.domain.as_deref().is_some_and(|domain| !is_host_name(domain)) {
            let message = "`domain` is no host name of 1 to 200 bytes: give one, as \
                `locks.example`, or leave it out";
            return Err(Error::invalid(message).into());
        }
        let impossible =
            |error: planner::PlanError| Problem::from(Error::invalid(error.to_string()));
        let fields: Vec<(String, String)> = self.fields.into_iter().collect();
        let workload = Workload::parse(&self.workload, &fields).map_err(impossible)?;
        let plan = planner::Plan::new(workload, Calibration::default()).map_err(impossible)?;
        let addresses = match self.domain {
            Some(domain) => Addresses::Hosts { domain, port: PORT },
            None => EmitOptions::default().addresses,
        };
        let (nodes, gateways) = (plan.palisade.build.nodes, plan.palisade.build.gateways);
        let emitted = match nodes.saturating_add(gateways) {
            ..=PROCESSES_MAX => {
                planner::emit(&plan, &EmitOptions { addresses, ..EmitOptions::default() })
                    .map(|(_, yaml)| yaml)
                    .map_err(|error| error.to_string())
            }
            _ => Err(format!(
                "{nodes} nodes and {gateways} gateways are more than the {PROCESSES_MAX} that have \
                 room here: use `palisade plan --emit`"
            )),
        };
        let (cluster_file, cluster_file_error) = match emitted {
            Ok(yaml) => (Some(yaml), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Planned {
            plan: planner::json(&plan, &[]),
            steps: planner::steps(&plan).into_iter().map(PlanStep::from).collect(),
            cluster_file,
            cluster_file_error,
        })
    }
}

/// Whether a text is a host name (RFC 1123) that has room for the names of hosts below it.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= DOMAIN_BYTES_MAX && text.split('.').all(is_label)
}

impl From<planner::Step> for PlanStep {
    fn from(step: planner::Step) -> PlanStep {
        let planner::Step { title, about, rows } = step;
        PlanStep { title, about, rows: rows.into_iter().map(PlanFigure::from).collect() }
    }
}

impl From<planner::Row> for PlanFigure {
    fn from(row: planner::Row) -> PlanFigure {
        let planner::Row { label, specification, palisade } = row;
        PlanFigure { label, palisade: palisade.into(), specification: specification.into() }
    }
}

impl From<planner::Cell> for PlanValue {
    fn from(cell: planner::Cell) -> PlanValue {
        PlanValue { value: cell.value, how: cell.how }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(request: &str) -> Result<Planned, Problem> {
        serde_json::from_str::<Plan>(request).unwrap().made()
    }

    #[test]
    fn a_plan_has_all_steps_and_a_cluster_file() {
        let planned = plan(r#"{"workload": "instances: 10\n", "fields": {"hold": "5s"}}"#).unwrap();
        let titles: Vec<&str> = planned.steps.iter().map(|step| step.title).collect();
        let expected = ["Build", "Latency", "Operations", "Cluster", "Key metrics", "Storage"];
        assert_eq!(titles, expected);
        assert!(planned.steps.iter().all(|step| step.rows.len() > 3));
        assert_eq!(planned.plan["workload"]["instances"], 10);
        assert_eq!(planned.plan["workload"]["hold_s"], 5.0);
        let yaml = planned.cluster_file.unwrap();
        routing::ClusterConfig::parse(&yaml).unwrap();
        let hosts = plan(r#"{"domain": "locks.example", "workload": "instances: 10"}"#).unwrap();
        assert!(hosts.cluster_file.unwrap().contains("locks.example:7400"));
    }

    #[test]
    fn an_impossible_workload_is_refused_by_the_name_of_its_field() {
        for (request, named) in [
            (r#"{"fields": {"instances": "-1"}}"#, "instances"),
            (r#"{"fields": {"instances_": "1"}}"#, "instances"),
            (r#"{"workload": "growth: 7"}"#, "growth"),
        ] {
            let refused = format!("{:?}", plan(request).unwrap_err());
            assert!(refused.contains("INVALID_ARGUMENT") && refused.contains(named), "{refused}");
        }
        let long = format!(r#"{{"workload": "{}"}}"#, "#".repeat(WORKLOAD_BYTES_MAX + 1));
        assert!(format!("{:?}", plan(&long).unwrap_err()).contains("16 KiB"));
    }

    /// Regressions: the cluster file of some thousand nodes took a thread for a minute, and that of
    /// many gateways took all memory.
    #[test]
    fn a_plan_with_too_many_processes_has_no_cluster_file_and_says_why() {
        for fields in [
            r#""instances": "50000", "growth.per_month": "20%""#,
            r#""instances": "40M", "acquire_per_s": "1""#,
            r#""instances": "1000G", "acquire_per_s": "1""#,
            r#""instances": "10", "reads_per_write": "10M""#,
            r#""instances": "10", "nodes_per_shard": "100k""#,
        ] {
            for domain in ["", r#""domain": "a", "#] {
                let planned = plan(&format!(r#"{{{domain}"fields": {{{fields}}}}}"#)).unwrap();
                assert_eq!(planned.cluster_file, None, "{domain}{fields}");
                let why = planned.cluster_file_error.unwrap();
                assert!(why.contains("palisade plan --emit"), "{domain}{fields}: {why}");
            }
        }
    }

    #[test]
    fn a_domain_that_is_no_host_name_is_refused() {
        let with = |domain: &str| {
            plan(&format!(r#"{{"domain": "{domain}", "workload": "instances: 10"}}"#))
        };
        let long = "a.".repeat(DOMAIN_BYTES_MAX / 2);
        for domain in ["", "a b", "a..b", "-a", "a-", "a/b", "a:1", "é", &format!("{long}a")] {
            let refused = format!("{:?}", with(domain).unwrap_err());
            assert!(refused.contains("`domain`"), "{domain}: {refused}");
        }
        for domain in ["a", "10-0-0-1.Locks.example", &long[..long.len() - 1]] {
            assert!(with(domain).unwrap().cluster_file.is_some(), "{domain}");
        }
    }
}
