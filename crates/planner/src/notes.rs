//! Remarks on a plan: published figures that are rounded, truncated or sized otherwise, so that
//! both can be compared.

use crate::figures::Figures;
use crate::quantity::{count, counted, percent, show};
use crate::{RateSource, Sizing, Workload};

pub(crate) fn notes(workload: &Workload, published: &Figures, palisade: &Figures) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(truncated(workload, published));
    notes.extend(sized_on(workload, published));
    notes.push(
        "The published latency budget is 7–12 ms in one data centre, but its parts sum to 7–11 ms: \
         the missing millisecond stands as `not assigned`."
            .to_owned(),
    );
    notes.push(format!(
        "{}: N − quorum = {} may fail (a published formula, (N ÷ 2) − 1, would say {}).",
        counted(workload.replicas.into(), "replica"),
        published.failures_tolerated,
        (workload.replicas / 2).saturating_sub(1)
    ));
    if palisade.renew_per_s < published.renew_per_s {
        notes.push(
            "Palisade's renewals assume that every instance keeps one lease on every shard, and \
             that there are no more instances at the peak than on average: if yours scale out, \
             give the peak's `instances`."
                .to_owned(),
        );
    }
    notes
}

/// Published tables truncate the rates of instances to whole locks before they go on.
fn truncated(workload: &Workload, figures: &Figures) -> Option<String> {
    let RateSource::LocksPerInstancePerMin(_) = workload.rate else { return None };
    let whole = figures.acquire_per_s.trunc();
    // A rate that rounds up was published rounded.
    if whole == figures.acquire_per_s || whole != figures.acquire_per_s.round() || whole < 100.0 {
        return None;
    }
    let writes = whole * (2.0 + workload.hold_s / workload.heartbeat_s);
    Some(format!(
        "Exact figures. Published ones cut {} acquires/s to {}, and so get {} writes/s and {} \
         active locks.",
        show(figures.acquire_per_s),
        show(whole),
        show(writes),
        show(whole * workload.hold_s)
    ))
}

/// Some published rows are sized on the average.
fn sized_on(workload: &Workload, figures: &Figures) -> Option<String> {
    let (average, peak) = (&figures.shards_avg, &figures.shards_peak);
    if average.shards == peak.shards {
        return None;
    }
    let used = match workload.sizing {
        Sizing::Peak => "the peak",
        Sizing::Average => "the average",
    };
    Some(format!(
        "Shards are sized on {used}. On the average: {} (headroom {}); on the peak: {} (headroom \
         {}). Published tables size their larger rows on the average.",
        count(average.shards),
        percent(average.headroom()),
        count(peak.shards),
        percent(peak.headroom())
    ))
}
