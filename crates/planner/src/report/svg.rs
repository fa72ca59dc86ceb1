//! A picture of load over growth against capacity: plain SVG, without scripts or outside
//! references.
//!
//! Each column's load grows from today's with the workload. Its capacity is the load that the
//! planned shards carry. Where the two meet, the next shard is due.

use crate::plan::Column;
use crate::quantity::{count, counted, decimals, percent, show};
use crate::{Plan, Sizing};
use std::fmt::Write;

const SIZE: (f64, f64) = (900.0, 500.0);
/// The plotting area: left, top, right, bottom.
const AREA: (f64, f64, f64, f64) = (90.0, 70.0, 870.0, 380.0);
/// A capacity this many times above all loads would flatten their lines. It is named instead of
/// drawn.
const FLATTENING: f64 = 3.0;

/// The curves of one column.
struct Series {
    name: &'static str,
    colour: &'static str,
    /// Writes per second today, of the load for which the shards are sized.
    writes_per_s: f64,
    /// Capacity of the planned shards, in such writes.
    capacity_per_s: f64,
    shards: u64,
    months_until_next_shard: Option<f64>,
}

impl Series {
    fn of(name: &'static str, colour: &'static str, column: &Column, sizing: Sizing) -> Series {
        let figures = &column.figures;
        let writes_per_s = match sizing {
            Sizing::Peak => figures.peak_writes_per_s,
            Sizing::Average => figures.writes_per_s,
        };
        Series {
            name,
            colour,
            writes_per_s,
            capacity_per_s: writes_per_s * column.growth.load_until_next_shard,
            shards: figures.shards,
            months_until_next_shard: column.growth.months_until_next_shard,
        }
    }
}

/// The picture as SVG text.
pub fn svg(plan: &Plan) -> String {
    let workload = &plan.workload;
    let series = [
        Series::of("specification", "#b3541e", &plan.specification, workload.sizing),
        Series::of("palisade", "#1f6f8b", &plan.palisade, workload.sizing),
    ];
    let growth = 1.0 + workload.growth.per_month;
    let months = workload.growth.months;
    let grown = |series: &Series, month: f64| series.writes_per_s * growth.powf(month);
    let load_max = series.iter().map(|series| grown(series, f64::from(months))).fold(0.0, f64::max);
    let drawn = |series: &Series| series.capacity_per_s <= load_max * FLATTENING;
    let top = series
        .iter()
        .filter(|series| drawn(series))
        .map(|series| series.capacity_per_s)
        .fold(load_max, f64::max);
    let step = nice_step(top / 5.0);
    let y_max = step * (top * 1.05 / step).ceil();
    let x = |month: f64| AREA.0 + (AREA.2 - AREA.0) * month / f64::from(months);
    let y = |writes: f64| AREA.3 - (AREA.3 - AREA.1) * writes / y_max;

    let mut out = String::new();
    let which = match workload.sizing {
        Sizing::Peak => "peak",
        Sizing::Average => "average",
    };
    let title = format!(
        "{}: {which} load over {} at {} a month",
        escape(&workload.name),
        counted(months.into(), "month"),
        percent(workload.growth.per_month)
    );
    put(
        &mut out,
        &format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" font-family="sans-serif" font-size="13" fill="#222222" role="img">"##,
            w = SIZE.0,
            h = SIZE.1
        ),
    );
    put(&mut out, &format!("<title>{title}</title>"));
    put(&mut out, r##"<rect width="100%" height="100%" fill="#ffffff"/>"##);
    put(&mut out, &format!(r##"<text x="{}" y="32" font-size="18">{title}</text>"##, AREA.0));
    put(
        &mut out,
        &format!(r##"<text x="{}" y="54" fill="#666666">writes per second</text>"##, AREA.0),
    );
    axes(&mut out, months, step, y_max, &x, &y);
    for (index, series) in series.iter().enumerate() {
        let points: Vec<String> = (0..=months * 4)
            .map(|quarter| f64::from(quarter) / 4.0)
            .map(|month| format!("{:.1},{:.1}", x(month), y(grown(series, month))))
            .collect();
        put(
            &mut out,
            &format!(
                r##"<polyline points="{}" fill="none" stroke="{}" stroke-width="2.5"/>"##,
                points.join(" "),
                series.colour
            ),
        );
        if drawn(series) {
            let height = y(series.capacity_per_s);
            put(
                &mut out,
                &format!(
                    r##"<line x1="{}" y1="{height:.1}" x2="{}" y2="{height:.1}" stroke="{}" stroke-width="1.5" stroke-dasharray="7 5"/>"##,
                    AREA.0, AREA.2, series.colour
                ),
            );
            if let Some(month) =
                series.months_until_next_shard.filter(|month| *month <= f64::from(months))
            {
                put(
                    &mut out,
                    &format!(
                        r##"<circle cx="{:.1}" cy="{height:.1}" r="5" fill="{}"/>"##,
                        x(month),
                        series.colour
                    ),
                );
            }
        }
        legend(&mut out, index, series, drawn(series));
    }
    put(&mut out, "</svg>");
    out
}

fn put(out: &mut String, element: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{element}");
}

fn axes(
    out: &mut String,
    months: u32,
    step: f64,
    y_max: f64,
    x: &impl Fn(f64) -> f64,
    y: &impl Fn(f64) -> f64,
) {
    let lines = (y_max / step).round() as u32;
    for line in 0..=lines {
        let value = step * f64::from(line);
        let height = y(value);
        put(
            out,
            &format!(
                r##"<line x1="{}" y1="{height:.1}" x2="{}" y2="{height:.1}" stroke="#dddddd"/>"##,
                AREA.0, AREA.2
            ),
        );
        put(
            out,
            &format!(
                r##"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"##,
                AREA.0 - 8.0,
                height + 4.5,
                show(value)
            ),
        );
    }
    let stride = months.div_ceil(12).max(1);
    for month in (0..=months).filter(|month| month.is_multiple_of(stride)) {
        put(
            out,
            &format!(
                r##"<text x="{:.1}" y="{}" text-anchor="middle">{month}</text>"##,
                x(f64::from(month)),
                AREA.3 + 20.0
            ),
        );
    }
    let middle = (AREA.0 + AREA.2) / 2.0;
    put(
        out,
        &format!(
            r##"<text x="{middle}" y="{}" text-anchor="middle" fill="#666666">months from now</text>"##,
            AREA.3 + 40.0
        ),
    );
}

fn legend(out: &mut String, index: usize, series: &Series, drawn: bool) {
    let height = AREA.3 + 70.0 + 24.0 * index as f64;
    put(
        out,
        &format!(
            r##"<line x1="{}" y1="{height}" x2="{}" y2="{height}" stroke="{}" stroke-width="2.5"/>"##,
            AREA.0,
            AREA.0 + 34.0,
            series.colour
        ),
    );
    let shards = if series.shards == 1 {
        "1 shard carries".to_owned()
    } else {
        format!("{} shards carry", count(series.shards))
    };
    let next = series.months_until_next_shard.map_or("never needs another".to_owned(), |months| {
        let months = decimals(months, 1);
        format!("the next is due in {months} {}", if months == "1" { "month" } else { "months" })
    });
    let dashes = if drawn { "dashed" } else { "above the picture" };
    put(
        out,
        &format!(
            r##"<text x="{}" y="{}">{}: {} writes/s today; {shards} {} ({dashes}), {next}</text>"##,
            AREA.0 + 44.0,
            height + 4.5,
            series.name,
            show(series.writes_per_s),
            show(series.capacity_per_s)
        ),
    );
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_large_enough() {
        for (least, step) in
            [(1.0, 1.0), (1.1, 2.0), (2.1, 5.0), (7_300.0, 10_000.0), (0.03, 0.05), (100.0, 100.0)]
        {
            assert!((nice_step(least) - step).abs() < step * 1e-9, "{least}: {}", nice_step(least));
        }
    }

    #[test]
    fn names_do_not_become_markup() {
        assert_eq!(escape("<a & b>"), "&lt;a &amp; b&gt;");
    }
}
