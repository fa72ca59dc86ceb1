//! The same workload on etcd, on ZooKeeper, and on this service.
//!
//! The first two are the specification's arithmetic with their published capacities per leader.
//! Neither was measured here.

use crate::figures::{self, Figures};
use crate::model::LeaderCapacity;
use crate::{Plan, PlanError};

const OTHERS: [(&str, f64); 2] = [("etcd", 10_000.0), ("ZooKeeper", 5_000.0)];

/// The figures of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Name of the service, for people.
    pub name: &'static str,
    /// Origin of its leader's capacity.
    pub capacity_source: String,
    /// The workload, sized for this service.
    pub figures: Figures,
}

/// Sizes the workload of a plan for each service.
///
/// # Errors
/// If a figure is too large for its number type.
pub fn compare(plan: &Plan) -> Result<Vec<Compared>, PlanError> {
    let mut all = Vec::new();
    for (name, capacity) in OTHERS {
        let figures = figures::published(&plan.workload, LeaderCapacity::published(capacity))?;
        all.push(Compared { name, capacity_source: "as published".to_owned(), figures });
    }
    let capacity_source = plan.calibration.source.clone();
    all.push(Compared {
        name: "palisade",
        capacity_source,
        figures: plan.palisade.figures.clone(),
    });
    Ok(all)
}
