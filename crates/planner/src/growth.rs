//! Growth: what the load will be, and when the planned shards no longer carry it.

use crate::figures::Figures;
use crate::model::Rates;
use crate::{PlanError, Sizing, Workload};
use serde::Serialize;

/// One month from now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Month {
    /// 0 is now.
    pub month: u32,
    /// Average, with as many shards as are planned then.
    pub writes_per_s: f64,
    /// At the peak, with as many shards as are planned then.
    pub peak_writes_per_s: f64,
    /// Sized on the average.
    pub shards_avg: u64,
    /// Sized on the peak.
    pub shards_peak: u64,
}

/// The months ahead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrowthOutlook {
    /// From now on.
    pub months: Vec<Month>,
    /// How much more load (as a factor) the planned shards carry before they need company.
    pub load_until_next_shard: f64,
    /// When that is, in months; `None` without growth.
    pub months_until_next_shard: Option<f64>,
}

impl GrowthOutlook {
    pub(crate) fn of(workload: &Workload, figures: &Figures) -> Result<GrowthOutlook, PlanError> {
        let now = Rates::of(workload);
        let capacity = &figures.leader_capacity;
        let overflow = || PlanError::Overflow { figure: "growth", check: "growth.per_month and growth.months" };
        let month = |month: u32| -> Result<Month, PlanError> {
            let factor = (1.0 + workload.growth.per_month).powi(month as i32);
            let average = now.grown(factor);
            let peak = average.at_peak(workload.peak_multiplier);
            let shards_avg = capacity.shards(&average, workload.headroom).ok_or_else(overflow)?;
            let shards_peak = capacity.shards(&peak, workload.headroom).ok_or_else(overflow)?;
            let shards = match workload.sizing {
                Sizing::Peak => shards_peak,
                Sizing::Average => shards_avg,
            };
            let writes =
                |rates: &Rates| rates.acquire_per_s + capacity.renew_per_s(rates, shards) + rates.release_per_s;
            Ok(Month {
                month,
                writes_per_s: writes(&average),
                peak_writes_per_s: writes(&peak),
                shards_avg,
                shards_peak,
            })
        };
        let sized_for = match workload.sizing {
            Sizing::Peak => now.at_peak(workload.peak_multiplier),
            Sizing::Average => now,
        };
        // Utilisation is proportional to the load when instances grow with it. Below 1 only by rounding.
        let usable = 1.0 - workload.headroom;
        let load_until_next_shard = (usable / capacity.utilisation(&sized_for, figures.shards)).max(1.0);
        let per_month = workload.growth.per_month;
        let months_until_next_shard = (per_month > 0.0).then(|| load_until_next_shard.ln() / per_month.ln_1p());
        let months = (0..=workload.growth.months).map(month).collect::<Result<_, _>>()?;
        Ok(GrowthOutlook { months, load_until_next_shard, months_until_next_shard })
    }
}
