//! The same workload on etcd, on ZooKeeper, and on this service.
//!
//! The other two are the specification's arithmetic with their published capacities per leader; neither was measured here.

use crate::figures::{self, Figures};
use crate::model::LeaderCapacity;
use crate::{Plan, PlanError};

const OTHERS: [(&str, f64); 2] = [("etcd", 10_000.0), ("ZooKeeper", 5_000.0)];

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// For people.
    pub name: &'static str,
    /// Where its capacity comes from.
    pub capacity_source: String,
    /// Sized for it.
    pub figures: Figures,
}

/// Sizes the workload of a plan for each service.
///
/// # Errors
/// If a figure does not fit a number.
pub fn compare(plan: &Plan) -> Result<Vec<Compared>, PlanError> {
    let mut all = Vec::new();
    for (name, capacity) in OTHERS {
        let figures = figures::published(&plan.workload, LeaderCapacity::published(capacity))?;
        all.push(Compared { name, capacity_source: "as published".to_owned(), figures });
    }
    let capacity_source = plan.calibration.source.clone();
    all.push(Compared { name: "palisade", capacity_source, figures: plan.palisade.figures.clone() });
    Ok(all)
}
