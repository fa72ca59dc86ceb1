//! The capacity model: from a workload to shard counts, and to a cluster file that runs.
//!
//! LOCKS: latency, operations, cluster, key metrics, storage. Every figure is computed twice from the same
//! [`Workload`]: as the published model does (each lock renewed alone, an entry kept for every operation), and as this
//! service works (leases shared by all locks of an instance, one history record per grant) with costs out of a
//! [`Calibration`]. What is to be built follows from the second, for the load at the end of the growth ([`Build`]).
//!
//! Pure functions on typed values: it reads no file, no clock and no network; text comes in and goes out as strings.
//! It knows nothing of Raft or of a running cluster.
//!
//! ```
//! use palisade_planner::{Calibration, Plan, Workload};
//!
//! let workload = Workload::parse("instances: 2000\nlocks_per_instance_per_min: 10\nhold: 300s\n", &[])?;
//! let plan = Plan::new(workload, Calibration::default())?;
//! assert_eq!(plan.specification.figures.shards_peak.shards, 3);
//! # Ok::<(), palisade_planner::PlanError>(())
//! ```

mod build;
mod calibration;
mod compare;
mod contention;
mod costs;
mod duration;
mod emit;
mod error;
mod figures;
mod growth;
mod interactive;
mod keys;
mod latency;
mod model;
mod notes;
mod quantity;
mod report;
mod simulate;
mod smell;
mod workload;

pub use build::{Build, Machine};
pub use calibration::Calibration;
pub use compare::{Compared, compare};
pub use contention::{Contention, ContentionLevel};
pub use costs::Costs;
pub use emit::{EmitError, EmitFor, EmitOptions, emit};
pub use error::PlanError;
pub use figures::{Column, Figures, Fit, Plan, ShardCount};
pub use growth::{GrowthOutlook, Month};
pub use interactive::{InteractiveError, ask};
pub use keys::{KEYS, Key};
pub use latency::{Component, LatencyBudget};
pub use model::{LeaderCapacity, Rates, SizeClass, quorum};
pub use report::{json, simulation_json, simulation_text, svg, text};
pub use simulate::{
    LoadLevel, NodeUse, OneMachine, Recovery, Run, Scenario, SimulateOptions, Simulation, predict, simulate,
};
pub use smell::{SmellTest, Verdict};
pub use workload::{EntryBytes, Growth, RateSource, Sizing, TEMPLATE, Workload};
