//! Growth: the load of the months ahead, and when the planned shards no longer carry it.

use crate::figures::Figures;
use crate::model::Rates;
use crate::{PlanError, Sizing, Workload};
use serde::Serialize;

/// The load of one month.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Month {
    /// Number of the month; 0 is now.
    pub month: u32,
    /// Average writes per second, on the shards that this month needs.
    pub writes_per_s: f64,
    /// Writes per second at the peak, on the shards that this month needs.
    pub peak_writes_per_s: f64,
    /// Shards if sized on the average.
    pub shards_avg: u64,
    /// Shards if sized on the peak.
    pub shards_peak: u64,
}

/// The load of the months ahead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrowthOutlook {
    /// The months, from now on.
    pub months: Vec<Month>,
    /// Load up to which the planned shards suffice, as a factor of today's.
    pub load_until_next_shard: f64,
    /// Months until that load is reached; `None` without growth.
    pub months_until_next_shard: Option<f64>,
}

impl GrowthOutlook {
    pub(crate) fn of(workload: &Workload, figures: &Figures) -> Result<GrowthOutlook, PlanError> {
        let now = Rates::of(workload);
        let capacity = &figures.leader_capacity;
        let overflow = || PlanError::Overflow {
            figure: "growth",
            check: "growth.per_month and growth.months",
        };
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
            let writes = |rates: &Rates| {
                rates.acquire_per_s + capacity.renew_per_s(rates, shards) + rates.release_per_s
            };
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
        // Utilisation is proportional to the load, because instances grow with it. The factor is
        // below 1 only by rounding.
        let usable = 1.0 - workload.headroom;
        let load_until_next_shard =
            (usable / capacity.utilisation(&sized_for, figures.shards)).max(1.0);
        let per_month = workload.growth.per_month;
        let months_until_next_shard =
            (per_month > 0.0).then(|| load_until_next_shard.ln() / per_month.ln_1p());
        let months = (0..=workload.growth.months).map(month).collect::<Result<_, _>>()?;
        Ok(GrowthOutlook { months, load_until_next_shard, months_until_next_shard })
    }
}
