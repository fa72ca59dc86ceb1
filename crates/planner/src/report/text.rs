//! The plan for people: the five steps, then what to make of them.

use super::steps::{self, Row};
use super::table::Align::{Left, Right};
use super::table::{table, wrap};
use crate::duration::show_s;
use crate::figures::Column;
use crate::quantity::{count, decimals, percent, show};
use crate::{Compared, Plan, Verdict};
use std::fmt::Write;

const WIDTH: usize = 118;

/// The whole plan as text, with a comparison at its end if one is given. Ends with a newline.
pub fn text(plan: &Plan, compared: &[Compared]) -> String {
    let mut out = String::new();
    head(&mut out, plan);
    heading(&mut out, "1. Latency", "the way of one acquire, component by component, best to p99");
    let mut rows = vec![["specification", "ms", "palisade", "ms"].map(str::to_owned).to_vec()];
    rows.extend(steps::latency(plan).into_iter().map(Vec::from));
    out.push_str(&table(&[Left, Right, Left, Right], &rows));
    heading(&mut out, "2. Operations", "of the whole cluster; averages unless they say peak");
    step(&mut out, steps::operations(plan));
    heading(&mut out, "3. Cluster", "");
    step(&mut out, steps::cluster(plan));
    heading(&mut out, "4. Key metrics", "");
    step(&mut out, steps::key_metrics(plan));
    heading(&mut out, "5. Storage", "");
    step(&mut out, steps::storage(plan));
    heading(&mut out, "Contention", "at the peak");
    contention(&mut out, plan);
    heading(&mut out, "Smell tests", "");
    smells(&mut out, plan);
    heading(&mut out, "Growth", &growth_head(plan));
    growth(&mut out, plan);
    if !compared.is_empty() {
        heading(&mut out, "Compared", "the same workload, elsewhere");
        comparison(&mut out, compared);
    }
    heading(&mut out, "Notes", "");
    for note in &plan.notes {
        line(&mut out, &wrap(&format!("  - {note}"), WIDTH, "    "));
    }
    verdict(&mut out, plan);
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn heading(out: &mut String, title: &str, more: &str) {
    let more = if more.is_empty() { String::new() } else { format!(": {more}") };
    line(out, &format!("\n{title}{more}"));
}

fn head(out: &mut String, plan: &Plan) {
    let workload = &plan.workload;
    line(
        out,
        &format!(
            "Plan for {}: {} acquires/s held {}",
            workload.name,
            show(plan.specification.figures.acquire_per_s),
            show_s(workload.hold_s)
        ),
    );
    line(out, "  specification: the published model; each lock renewed alone, one entry of history per write");
    let source = &plan.calibration.source;
    line(
        out,
        &format!("  palisade: one lease per instance and shard, one record of history per grant; costs: {source}"),
    );
    if !workload.assumed.is_empty() {
        line(out, &wrap(&format!("  assumed, since not given: {}", workload.assumed.join(", ")), WIDTH, "    "));
    }
}

fn step(out: &mut String, rows: Vec<Row>) {
    let mut cells = vec![["", "specification", "", "palisade", ""].map(str::to_owned).to_vec()];
    for row in rows {
        cells.push(vec![
            row.label,
            row.specification.value,
            row.specification.how,
            row.palisade.value,
            row.palisade.how,
        ]);
    }
    out.push_str(&table(&[Left, Right, Left, Right, Left], &cells));
}

fn contention(out: &mut String, plan: &Plan) {
    let contention = &plan.contention;
    match (contention.rate, contention.level) {
        (Some(rate), Some(level)) => {
            let names = plan.workload.resources.unwrap_or_default();
            let advice = if level == crate::ContentionLevel::High { ": use finer locks" } else { "" };
            line(
                out,
                &format!(
                    "  an acquire finds its lock taken {} of the time = {} active ÷ {} names, if equally likely: {}{advice}",
                    percent(rate),
                    show(plan.specification.figures.peak_active_locks),
                    count(names),
                    level.name()
                ),
            );
        }
        _ => line(out, "  not known: give `resources`, the number of distinct names"),
    }
    line(
        out,
        &format!(
            "  equally likely names: low (below 5%) from {} on, high (above 20%: use finer locks) under {}",
            count(contention.resources_for_low),
            count(contention.resources_for_high)
        ),
    );
    let ceiling = decimals(contention.grants_per_name_per_s, 4);
    line(out, &format!("  one name is granted at most {ceiling} times/s = 1 ÷ {}", show_s(plan.workload.hold_s)));
    if let Some(busy) = contention.hottest_busy {
        line(out, &format!("  the hottest name is wanted for {} of the time", percent(busy)));
    }
}

fn smells(out: &mut String, plan: &Plan) {
    let mut rows = vec![["", "specification", "palisade", ""].map(str::to_owned).to_vec()];
    let (specification, palisade) = (&plan.specification.smell_tests, &plan.palisade.smell_tests);
    for (test, own) in specification.iter().zip(palisade) {
        let name = test.name.replace('_', " ");
        let decides = if test.must_hold { "decides on fit" } else { "" };
        rows.push([name.as_str(), test.verdict.name(), own.verdict.name(), decides].map(str::to_owned).to_vec());
    }
    out.push_str(&table(&[Left; 4], &rows));
    for (test, own) in specification.iter().zip(palisade) {
        let same = (test.verdict, &test.finding, &test.advice) == (own.verdict, &own.finding, &own.advice);
        let columns = if same { vec![("", test)] } else { vec![(" (specification)", test), (" (palisade)", own)] };
        for (column, test) in columns.into_iter().filter(|(_, test)| test.verdict != Verdict::Pass) {
            let name = test.name.replace('_', " ");
            let text = format!("  {}  {name}{column}: {}", test.verdict.name(), test.finding);
            line(out, &wrap(&text, WIDTH, "        "));
            line(out, &wrap(&format!("        → {}", test.advice), WIDTH, "          "));
        }
    }
}

fn growth_head(plan: &Plan) -> String {
    format!("{} a month", percent(plan.workload.growth.per_month))
}

fn growth(out: &mut String, plan: &Plan) {
    let titles =
        ["month", "peak writes/s", "shards avg", "shards peak", "palisade: peak writes/s", "shards avg", "shards peak"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let (spec, own) = (&plan.specification.growth.months, &plan.palisade.growth.months);
    let last = spec.len() - 1;
    // At most a dozen lines, the first and the last among them.
    let stride = last.div_ceil(12).max(1);
    for at in (0..=last).filter(|at| at % stride == 0 || *at == last) {
        let (spec, own) = (&spec[at], &own[at]);
        rows.push(vec![
            spec.month.to_string(),
            show(spec.peak_writes_per_s),
            count(spec.shards_avg),
            count(spec.shards_peak),
            show(own.peak_writes_per_s),
            count(own.shards_avg),
            count(own.shards_peak),
        ]);
    }
    out.push_str(&table(&[Right; 7], &rows));
    for (name, column) in [("specification", &plan.specification), ("palisade", &plan.palisade)] {
        let growth = &column.growth;
        let when = growth
            .months_until_next_shard
            .map_or(String::new(), |months| format!(", reached in {} months", decimals(months, 1)));
        line(
            out,
            &format!(
                "  {name}: {} {} {} times today's load{when}",
                count(column.figures.shards),
                if column.figures.shards == 1 { "shard carries" } else { "shards carry" },
                decimals(growth.load_until_next_shard, 2)
            ),
        );
    }
}

fn comparison(out: &mut String, compared: &[Compared]) {
    let titles = [
        "",
        "writes/s per leader",
        "writes/s",
        "peak",
        "shards avg",
        "shards peak",
        "nodes",
        "headroom",
        "history kept",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for service in compared {
        let figures = &service.figures;
        rows.push(vec![
            service.name.to_owned(),
            show(figures.leader_capacity.writes_per_s),
            show(figures.writes_per_s),
            show(figures.peak_writes_per_s),
            count(figures.shards_avg.shards),
            count(figures.shards_peak.shards),
            count(figures.nodes_total),
            percent(1.0 - figures.peak_utilisation),
            crate::quantity::bytes(figures.history_bytes_total as f64),
        ]);
    }
    out.push_str(&table(&[Left, Right, Right, Right, Right, Right, Right, Right, Right], &rows));
    for service in compared {
        line(out, &format!("  capacity of {}: {}", service.name, service.capacity_source));
    }
}

fn verdict(out: &mut String, plan: &Plan) {
    let fit = |name: &str, column: &Column| {
        let shards = match column.figures.shards {
            1 => "1 shard".to_owned(),
            shards => format!("{} shards", count(shards)),
        };
        let nodes = count(column.figures.nodes_total);
        let yes = if column.fit.fits { "yes" } else { "no" };
        let mut text = format!("fit ({name}): {yes}, {shards} on {nodes} nodes");
        if !column.fit.fits {
            let _ = write!(text, ": {}", column.fit.reasons.join("; "));
        }
        wrap(&text, WIDTH, "  ")
    };
    line(out, "");
    line(out, &fit("specification", &plan.specification));
    line(out, &fit("palisade", &plan.palisade));
}
