//! A plan: every figure, as the specification computes it and as this service works, with its smell
//! tests, its growth and the cluster to build.

use crate::build::Build;
use crate::contention::Contention;
use crate::figures::{Figures, palisade, published};
use crate::growth::GrowthOutlook;
use crate::model::{LeaderCapacity, Rates, SizeClass};
use crate::quantity::{count, counted};
use crate::smell::{self, SmellTest, Verdict};
use crate::{Calibration, PlanError, Workload, notes};

/// Highest plausible rate. Above it, sums and products of rates would lose their small terms.
const RATE_MAX_PER_S: f64 = 1e15;

/// Whether a plan can be run as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Whether it can be run.
    pub fits: bool,
    /// The reasons if it cannot. Empty if it fits.
    pub reasons: Vec<String>,
}

/// One way to compute a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The figures for today's load.
    pub figures: Figures,
    /// The smell tests of these figures.
    pub smell_tests: Vec<SmellTest>,
    /// Whether all tests that must hold do hold.
    pub fit: Fit,
    /// The months ahead, and when today's shards no longer suffice.
    pub growth: GrowthOutlook,
    /// The cluster to build for the end of that growth.
    pub build: Build,
}

/// Everything about a workload. The crate's page has an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The complete input.
    pub workload: Workload,
    /// The costs with which the palisade column is computed.
    pub calibration: Calibration,
    /// Size class, by average writes.
    pub size_class: SizeClass,
    /// The column of the published model.
    pub specification: Column,
    /// The column of this service.
    pub palisade: Column,
    /// How often an acquire will find the lock taken.
    pub contention: Contention,
    /// Remarks, above all on published figures that differ from these.
    pub notes: Vec<String>,
}

impl Plan {
    /// Computes every figure.
    ///
    /// # Errors
    /// If a figure is too large for its number type.
    pub fn new(workload: Workload, calibration: Calibration) -> Result<Plan, PlanError> {
        let rates = Rates::of(&workload);
        if rates.at_peak(workload.peak_multiplier).writes_per_s() > RATE_MAX_PER_S
            || rates.heartbeats_per_shard_per_s() > RATE_MAX_PER_S
        {
            return Err(PlanError::Overflow {
                figure: "peak_writes_per_s",
                check: "instances, rate, hold and heartbeat",
            });
        }
        let contention = Contention::of(&workload)?;
        let published =
            published(&workload, LeaderCapacity::published(workload.leader_capacity_per_s))?;
        let specification = column(&workload, &calibration, published)?;
        let palisade = column(&workload, &calibration, palisade(&workload, &calibration)?)?;
        let size_class = SizeClass::of(rates.writes_per_s());
        let notes = notes::notes(&workload, &specification.figures, &palisade.figures);
        Ok(Plan { workload, calibration, size_class, specification, palisade, contention, notes })
    }
}

fn column(
    workload: &Workload,
    calibration: &Calibration,
    figures: Figures,
) -> Result<Column, PlanError> {
    let smell_tests = smell::tests(workload, &figures);
    let failed = smell_tests.iter().filter(|test| test.must_hold && test.verdict == Verdict::Fail);
    let mut reasons: Vec<String> = failed.map(|test| test.finding.clone()).collect();
    let growth = GrowthOutlook::of(workload, &figures)?;
    let build = Build::of(workload, calibration, &figures, &growth);
    let most = u64::from(routing::SHARDS_MAX);
    if build.shards > most && figures.shards <= most {
        let (shards, months) = (count(build.shards), counted(build.months.into(), "month"));
        reasons.push(format!(
            "in {months} {shards} shards are needed, more than the {} that a cluster has at most",
            count(most)
        ));
    }
    let fit = Fit { fits: reasons.is_empty(), reasons };
    Ok(Column { figures, smell_tests, fit, growth, build })
}
