//! The rows of a plan for pages: the cluster to build, and the five steps.

use super::build;
use super::steps::{self, Cell, Row};
use crate::Plan;

/// One step of a plan, or the cluster to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The title.
    pub title: &'static str,
    /// What its figures are of; empty if the title says it.
    pub about: String,
    /// The figures.
    pub rows: Vec<Row>,
}

/// The cluster to build, and then the five steps, with the formulas of [`text`](super::text()).
///
/// ```
/// use palisade_planner::{Calibration, Plan, Workload, steps};
///
/// let plan = Plan::new(Workload::parse("instances: 10\n", &[])?, Calibration::default())?;
/// let titles: Vec<&str> = steps(&plan).iter().map(|step| step.title).collect();
/// assert_eq!(titles[..3], ["Build", "Latency", "Operations"]);
/// # Ok::<(), palisade_planner::PlanError>(())
/// ```
pub fn steps(plan: &Plan) -> Vec<Step> {
    let step = |title, about: &str, rows| Step { title, about: about.to_owned(), rows };
    let built = &plan.palisade.build;
    vec![
        step("Build", &format!("for {}", build::horizon(built)), built_rows(plan)),
        step("Latency", "of one acquire, component by component, best to p99", latency(plan)),
        step(
            "Operations",
            "of the whole cluster, averages unless they say peak",
            steps::operations(plan),
        ),
        step("Cluster", "", steps::cluster(plan)),
        step("Key metrics", "", steps::key_metrics(plan)),
        step("Storage", "", steps::storage(plan)),
    ]
}

fn cell(value: String, how: String) -> Cell {
    Cell { value, how }
}

fn built_rows(plan: &Plan) -> Vec<Row> {
    let row = |[label, value, how, specification]: [String; 4]| Row {
        label: label.trim_start().to_owned(),
        palisade: cell(value, how),
        specification: cell(specification, String::new()),
    };
    build::rows(plan).into_iter().map(row).collect()
}

/// The components of the columns differ, so that of the published model is named beside its time.
fn latency(plan: &Plan) -> Vec<Row> {
    let row = |[label, value, component, time]: [String; 4]| Row {
        label,
        palisade: cell(value, String::new()),
        specification: cell(time, component),
    };
    steps::latency(plan).into_iter().map(row).collect()
}
