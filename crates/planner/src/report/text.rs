//! The plan for people: the five steps, and then the conclusions.

use super::build;
use super::steps::{self, Row};
use super::table::Align::{Left, Right};
use super::table::{table, wrap};
use crate::duration::show_s;
use crate::plan::Column;
use crate::quantity::{count, counted, decimals, percent, show};
use crate::{Compared, Plan, Verdict};
use std::fmt::Write;

const WIDTH: usize = 118;

/// The whole plan as text, with a comparison at its end if `compared` is not empty. It ends with a
/// newline.
pub fn text(plan: &Plan, compared: &[Compared]) -> String {
    let mut out = String::new();
    head(&mut out, plan);
    heading(&mut out, "Build", &format!("what carries {}", build::horizon(&plan.palisade.build)));
    let mut rows = vec![["", "palisade", "", "specification"].map(str::to_owned).to_vec()];
    rows.extend(build::rows(plan).into_iter().map(Vec::from));
    out.push_str(&table(&[Left, Right, Left, Right], &rows));
    line(&mut out, "\nToday, in five steps:");
    heading(&mut out, "1. Latency", "the way of one acquire, component by component, best to p99");
    let mut rows = vec![["palisade", "ms", "specification", "ms"].map(str::to_owned).to_vec()];
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
    let own = &plan.palisade.build;
    line(out, &format!("  build: {}; for {}", build::summary(plan, own), build::horizon(own)));
    line(
        out,
        &format!(
            "  each node: {}; each gateway: {}",
            build::machine(&own.node),
            build::machine(&own.gateway)
        ),
    );
    let (calibration, source) = (&plan.calibration, &plan.calibration.source);
    let costs = format!(
        "  palisade: one lease per instance and shard, one record of history per grant; costs: \
         {source} ({} writes/s or {} renewals/s per leader, {} B per lock beside its texts, {} per \
         machine)",
        show(calibration.writes_per_s_per_leader),
        show(calibration.renewals_per_s_per_leader),
        count(calibration.lock_overhead_bytes),
        counted(calibration.cores, "core")
    );
    line(out, &wrap(&costs, WIDTH, "    "));
    line(
        out,
        "  specification: the published model, to compare; each lock renewed alone, one entry of \
         history per write",
    );
    if !workload.assumed.is_empty() {
        let values: Vec<String> =
            workload.assumptions().iter().map(|(key, value)| format!("{key} {value}")).collect();
        line(
            out,
            &wrap(&format!("  assumed, since not given: {}", values.join(", ")), WIDTH, "    "),
        );
    }
}

fn step(out: &mut String, rows: Vec<Row>) {
    let mut cells = vec![["", "palisade", "", "specification", ""].map(str::to_owned).to_vec()];
    for row in rows {
        cells.push(vec![
            row.label,
            row.palisade.value,
            row.palisade.how,
            row.specification.value,
            row.specification.how,
        ]);
    }
    out.push_str(&table(&[Left, Right, Left, Right, Left], &cells));
}

fn contention(out: &mut String, plan: &Plan) {
    let contention = &plan.contention;
    match (contention.rate, contention.level) {
        (Some(rate), Some(level)) => {
            let names = plan.workload.resources.unwrap_or_default();
            let advice =
                if level == crate::ContentionLevel::High { ": use finer locks" } else { "" };
            line(
                out,
                &format!(
                    "  an acquire finds its lock taken {} of the time = {} active ÷ {} names, if \
                     equally likely: {}{advice}",
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
            "  equally likely names: low (below 5%) from {} on, high (above 20%: use finer locks) \
             under {}",
            count(contention.resources_for_low),
            count(contention.resources_for_high)
        ),
    );
    let ceiling = decimals(contention.grants_per_name_per_s, 4);
    line(
        out,
        &format!(
            "  one name is granted at most {ceiling} times/s = 1 ÷ {}",
            show_s(plan.workload.hold_s)
        ),
    );
    if let Some(busy) = contention.hottest_busy {
        line(out, &format!("  the hottest name is wanted for {} of the time", percent(busy)));
    }
}

fn smells(out: &mut String, plan: &Plan) {
    let mut rows = vec![["", "palisade", "specification", ""].map(str::to_owned).to_vec()];
    let (specification, palisade) = (&plan.specification.smell_tests, &plan.palisade.smell_tests);
    for (test, own) in specification.iter().zip(palisade) {
        let name = test.name.replace('_', " ");
        let decides = if test.must_hold { "decides on fit" } else { "" };
        rows.push(
            [name.as_str(), own.verdict.name(), test.verdict.name(), decides]
                .map(str::to_owned)
                .to_vec(),
        );
    }
    out.push_str(&table(&[Left; 4], &rows));
    for (test, own) in specification.iter().zip(palisade) {
        let same =
            (test.verdict, &test.finding, &test.advice) == (own.verdict, &own.finding, &own.advice);
        let columns = if same {
            vec![("", test)]
        } else {
            vec![(" (palisade)", own), (" (specification)", test)]
        };
        for (column, test) in columns.into_iter().filter(|(_, test)| test.verdict != Verdict::Pass)
        {
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
    let titles = [
        "month",
        "palisade: peak writes/s",
        "shards avg",
        "shards peak",
        "specification: peak writes/s",
        "shards avg",
        "shards peak",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let (spec, own) = (&plan.specification.growth.months, &plan.palisade.growth.months);
    let last = spec.len() - 1;
    // At most a dozen lines, including the first and the last.
    let stride = last.div_ceil(12).max(1);
    for at in (0..=last).filter(|at| at % stride == 0 || *at == last) {
        let (spec, own) = (&spec[at], &own[at]);
        rows.push(vec![
            spec.month.to_string(),
            show(own.peak_writes_per_s),
            count(own.shards_avg),
            count(own.shards_peak),
            show(spec.peak_writes_per_s),
            count(spec.shards_avg),
            count(spec.shards_peak),
        ]);
    }
    out.push_str(&table(&[Right; 7], &rows));
    for (name, column) in [("palisade", &plan.palisade), ("specification", &plan.specification)] {
        let growth = &column.growth;
        let when = growth.months_until_next_shard.map_or(String::new(), |months| {
            match decimals(months, 1).as_str() {
                "1" => ", reached in 1 month".to_owned(),
                months => format!(", reached in {months} months"),
            }
        });
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
        let yes = if column.fit.fits { "yes" } else { "no" };
        let mut text = format!("fit ({name}): {yes}, {}", build::summary(plan, &column.build));
        if !column.fit.fits {
            let _ = write!(text, ": {}", column.fit.reasons.join("; "));
        }
        wrap(&text, WIDTH, "  ")
    };
    line(out, "");
    line(out, &fit("palisade", &plan.palisade));
    line(out, &fit("specification", &plan.specification));
}
