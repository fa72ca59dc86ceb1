//! Helpers of the tests: workloads from `config/workloads/`, and plans of them.

#![allow(dead_code, reason = "each test binary uses a part")]

use palisade_planner::{Calibration, Plan, PlanError, Workload};
use std::path::PathBuf;

/// A file below `config/`.
pub fn config_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name)
}

/// The text of `config/workloads/NAME.yaml`.
pub fn workload_text(name: &str) -> String {
    let path = config_path("workloads").join(format!("{name}.yaml"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The plan of that workload, with flags over it and assumed costs.
pub fn plan_with(name: &str, flags: &[(&str, &str)]) -> Plan {
    plan_of(&workload_text(name), flags).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn plan(name: &str) -> Plan {
    plan_with(name, &[])
}

/// The plan of a workload's text.
pub fn plan_of(yaml: &str, flags: &[(&str, &str)]) -> Result<Plan, PlanError> {
    Plan::new(parse(yaml, flags)?, Calibration::default())
}

pub fn parse(yaml: &str, flags: &[(&str, &str)]) -> Result<Workload, PlanError> {
    let flags: Vec<(String, String)> =
        flags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Workload::parse(yaml, &flags)
}
