//! The capacity model: from a workload to shard counts, and to a cluster file that runs.
//!
//! It follows the five steps of LOCKS: latency, operations, cluster, key metrics, storage. Every
//! figure is computed twice from the same [`Workload`]:
//!
//! - as the published model does: each lock is renewed alone, and an entry is kept for every
//!   operation;
//! - as this service works: all locks of an instance share a lease, and history has one record per
//!   grant. The costs come from a [`Calibration`].
//!
//! The plan to build ([`Build`]) follows from the second column, for the load at the end of the
//! growth.
//!
//! All functions are pure: they read no file, clock or network, and take and return text as
//! strings. The crate knows nothing of Raft or of a running cluster.
//!
//! ```
//! use palisade_planner::{Calibration, Plan, Workload};
//!
//! let yaml = "instances: 2000\nlocks_per_instance_per_min: 10\nhold: 300s\n";
//! let workload = Workload::parse(yaml, &[])?;
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
mod plan;
pub mod quantity;
mod report;
mod smell;
mod workload;

pub use build::{Build, Machine};
pub use calibration::Calibration;
pub use compare::{Compared, compare};
pub use contention::{Contention, ContentionLevel};
pub use costs::Costs;
pub use duration::{DurationError, parse_duration};
pub use emit::{EmitError, EmitFor, EmitOptions, emit};
pub use error::PlanError;
pub use figures::{Figures, ShardCount};
pub use growth::{GrowthOutlook, Month};
pub use interactive::{InteractiveError, ask};
pub use keys::{KEYS, Key};
pub use latency::{Component, LatencyBudget};
pub use model::{LeaderCapacity, Rates, SizeClass, quorum};
pub use plan::{Column, Fit, Plan};
pub use report::{Cell, Row, Step, json, rounded, steps, svg, table, text};
pub use smell::{SmellTest, Verdict};
pub use workload::{EntryBytes, Growth, RateSource, Sizing, TEMPLATE, Workload};
