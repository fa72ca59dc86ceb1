//! The page on capacity planning agrees with the planner.

use crate::support::{plan, plan_with};
use palisade_planner::{Figures, text};
use std::path::PathBuf;

fn page() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/capacity-planning.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table of worked examples, by workload.
fn rows(page: &str) -> Vec<Vec<String>> {
    page.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().replace(['`', ','], ""))
                .collect()
        })
        .filter(|cells: &Vec<String>| cells.len() == 10)
        .collect()
}

/// A figure to the digits that the page gives.
fn shows(cell: &str, value: f64) -> bool {
    let places = cell.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    // A whole number on the page stands for a figure without tenths.
    format!("{value:.places$}") == *cell && (places > 0 || (value - value.round()).abs() < 0.05)
}

#[test]
fn the_table_of_worked_examples_is_computed() {
    let rows = rows(&page());
    assert_eq!(rows.len(), 14);
    for cells in rows {
        let plan = plan(&cells[0]);
        let check = |figures: &Figures, cells: &[String]| {
            let shards = format!("{} / {}", figures.shards_avg.shards, figures.shards_peak.shards);
            shows(&cells[0], figures.writes_per_s)
                && shows(&cells[1], figures.peak_writes_per_s)
                && cells[2] == shards
                && cells[3] == figures.nodes_total.to_string()
        };
        let (spec, own) = (&plan.specification.figures, &plan.palisade.figures);
        assert!(shows(&cells[1], spec.acquire_per_s), "{cells:?}: {}", spec.acquire_per_s);
        assert!(check(spec, &cells[2..6]), "{cells:?}: {spec:#?}");
        assert!(check(own, &cells[6..10]), "{cells:?}: {own:#?}");
    }
}

#[test]
fn excerpts_equal_the_output() {
    let page = page();
    let mut checked = 0;
    for block in page.split("```text ").skip(1) {
        let (head, rest) = block.split_once('\n').expect("lines");
        if head.starts_with("simulated ") {
            continue; // compared by the simulation's own tests
        }
        let (name, flag) = head
            .split_once(" --")
            .map_or((head, None), |(name, flag)| (name, flag.split_once(' ')));
        let plan = match flag {
            Some((flag, value)) => plan_with(name, &[(flag.replace('-', "_").as_str(), value)]),
            None => plan(name),
        };
        let printed = text(&plan, &[]);
        for line in rest.lines().take_while(|line| !line.starts_with("```")) {
            assert!(
                printed.lines().any(|printed| printed == line),
                "{head}: {line}\nis not in\n{printed}"
            );
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked} lines were checked");
}

#[test]
fn the_assumed_costs_are_those_of_the_page() {
    let page = page();
    let assumed = palisade_planner::Calibration::default();
    for (key, value) in [
        ("writes_per_s_per_leader", assumed.writes_per_s_per_leader),
        ("renewals_per_s_per_leader", assumed.renewals_per_s_per_leader),
        ("operation_overhead_bytes", assumed.operation_overhead_bytes as f64),
        ("tenure_overhead_bytes", assumed.tenure_overhead_bytes as f64),
        ("history_stored_ratio", assumed.history_stored_ratio),
        ("lock_overhead_bytes", assumed.lock_overhead_bytes as f64),
    ] {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}`")))
            .unwrap_or_else(|| panic!("{key}"));
        let shown = row.split('|').nth(2).expect("a cell").trim().replace(',', "");
        assert_eq!(shown, value.to_string(), "{key}");
    }
}
