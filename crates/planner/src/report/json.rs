//! The plan for programs. Keys are stable: they are only ever added.
//!
//! The specification's figures are at the top, and this service's under `palisade` with the same
//! keys. Both are for today's load; `build` is the cluster for the load at the end of the growth.
//! Rates are per second, sizes in bytes, times in the unit of their name.

use crate::figures::Figures;
use crate::plan::Column;
use crate::{Compared, Plan, ShardCount};
use serde_json::{Map, Value, json as value};

/// The whole plan, with a comparison if `compared` is not empty.
pub fn json(plan: &Plan, compared: &[Compared]) -> Value {
    let mut top = column(&plan.specification);
    let workload = &plan.workload;
    top.insert("name".into(), value!(workload.name));
    top.insert("workload".into(), rounded(value!(workload)));
    let assumptions: Map<String, Value> = workload
        .assumptions()
        .into_iter()
        .map(|(key, text)| (key.to_owned(), value!(text)))
        .collect();
    top.insert("assumptions".into(), Value::Object(assumptions));
    top.insert("size_class".into(), value!(plan.size_class));
    top.insert("contention".into(), rounded(value!(plan.contention)));
    top.insert("notes".into(), value!(plan.notes));
    top.insert("palisade".into(), Value::Object(column(&plan.palisade)));
    top.insert("calibration".into(), value!(plan.calibration));
    if !compared.is_empty() {
        let compared: Vec<Value> = compared.iter().map(comparison).collect();
        top.insert("compare".into(), Value::Array(compared));
    }
    Value::Object(top)
}

fn comparison(service: &Compared) -> Value {
    let mut figures = figures(&service.figures);
    figures.insert("name".into(), value!(service.name));
    figures.insert("capacity_source".into(), value!(service.capacity_source));
    Value::Object(figures)
}

fn column(column: &Column) -> Map<String, Value> {
    let mut map = figures(&column.figures);
    map.insert("fit".into(), value!(if column.fit.fits { "yes" } else { "no" }));
    map.insert("fit_reasons".into(), value!(column.fit.reasons));
    map.insert("smell_tests".into(), value!(column.smell_tests));
    map.insert("growth".into(), rounded(value!(column.growth)));
    map.insert("build".into(), rounded(value!(column.build)));
    map
}

fn figures(figures: &Figures) -> Map<String, Value> {
    let headroom = |shards: &ShardCount| shards.headroom();
    let rounded = rounded(value!({
        "acquire_per_s": figures.acquire_per_s,
        "renew_per_s": figures.renew_per_s,
        "release_per_s": figures.release_per_s,
        "writes_per_s": figures.writes_per_s,
        "peak_acquire_per_s": figures.peak_acquire_per_s,
        "peak_renew_per_s": figures.peak_renew_per_s,
        "peak_release_per_s": figures.peak_release_per_s,
        "peak_writes_per_s": figures.peak_writes_per_s,
        "reads_per_s": figures.reads_per_s,
        "writes_per_lock": figures.writes_per_lock,
        "renewal_share": figures.renewal_share,
        "active_locks": figures.active_locks,
        "peak_active_locks": figures.peak_active_locks,
        "active_bytes": figures.active_bytes,
        "peak_active_bytes": figures.peak_active_bytes,
        "history_record_bytes": figures.history_record_bytes,
        "history_bytes_per_day": figures.history_bytes_per_day,
        "history_bytes_total": figures.history_bytes_total,
        "storage_bytes_total": figures.storage_bytes_total,
        "leader_write_bytes_per_s": figures.leader_write_bytes_per_s,
        "peak_leader_write_bytes_per_s": figures.peak_leader_write_bytes_per_s,
        "follower_read_bytes_per_s": figures.follower_read_bytes_per_s,
        "leader_capacity_per_s": figures.leader_capacity.writes_per_s,
        "shards_avg": figures.shards_avg.shards,
        "shards_avg_without_headroom": figures.shards_avg.without_headroom,
        "headroom_avg": headroom(&figures.shards_avg),
        "shards_peak": figures.shards_peak.shards,
        "shards_peak_without_headroom": figures.shards_peak.without_headroom,
        "headroom_peak": headroom(&figures.shards_peak),
        "shards": figures.shards,
        "peak_utilisation": figures.peak_utilisation,
        "nodes_total": figures.nodes_total,
        "quorum": figures.quorum,
        "failures_tolerated": figures.failures_tolerated,
        "latency_ms": figures.latency_ms,
    }));
    match rounded {
        Value::Object(map) => map,
        _ => unreachable!("an object was built above"),
    }
}

/// Rounds fractions to six decimals. Further digits come from the arithmetic, not from the
/// workload. Integers stay exact.
pub fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let exact = number.as_f64().unwrap_or_default();
            let rounded = (exact * 1e6).round() / 1e6;
            if rounded.is_finite() { value!(rounded) } else { Value::Number(number) }
        }
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, rounded(value))).collect(),
        other => other,
    }
}
