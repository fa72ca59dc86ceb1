//! A simulation as text and as JSON, and the excerpts of it on the page on capacity planning.

use palisade_capacity_sim::{SimulateOptions, json, simulate, text};
use planner::{Calibration, EmitFor, Plan, Workload};
use std::path::PathBuf;

/// The text of a file of this repository.
fn file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The plan of `config/workloads/NAME.yaml`, with assumed costs.
fn plan(name: &str) -> Plan {
    let workload = Workload::parse(&file(&format!("config/workloads/{name}.yaml")), &[]);
    let plan = workload.and_then(|workload| Plan::new(workload, Calibration::default()));
    plan.unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn excerpts_on_the_page_are_what_is_printed() {
    let page = file("docs/capacity-planning.md");
    let mut checked = 0;
    for block in page.split("```text simulated ").skip(1) {
        let (name, rest) = block.split_once('\n').expect("lines");
        let options =
            SimulateOptions { seed: 1, shards: None, column: Some(EmitFor::Specification) };
        let printed = text(&simulate(&plan(name), &options).expect("a simulation"));
        for line in rest.lines().take_while(|line| !line.starts_with("```")) {
            assert!(
                printed.lines().any(|printed| printed == line),
                "{name}: {line}\nis not in\n{printed}"
            );
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked} lines were checked");
}

#[test]
fn a_simulation_as_text_and_for_programs() {
    for name in ["worked-solution", "ten-million"] {
        let plan = plan(name);
        let options = SimulateOptions { seed: 1, shards: None, column: None };
        let simulation = simulate(&plan, &options).expect("a simulation");
        let shown = text(&simulation);
        assert!(shown.contains("costs are assumed"), "{shown}");
        for line in shown.lines() {
            assert!(line.chars().count() <= 140, "{name}: {line}");
            assert_eq!(line, line.trim_end(), "{name}");
        }
        let shown = json(&simulation);
        assert_eq!(shown["shards"], plan.palisade.figures.shards);
        let names: Vec<&str> = shown["scenarios"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|scenario| scenario["name"].as_str())
            .collect();
        assert_eq!(names[..3], ["average", "peak", "leader_lost"]);
        for scenario in shown["scenarios"].as_array().expect("a list") {
            for key in ["shards", "writes_per_s", "formula_utilisation"] {
                assert!(scenario[key].is_number(), "{name}, {key}: {scenario}");
            }
            for key in ["answered_per_s", "p50_ms", "p99_ms", "operations_per_entry", "gateway_cpu"]
            {
                assert!(scenario["per_shard"][key].is_number(), "{name}, {key}: {scenario}");
            }
            assert!(scenario["per_shard"]["leader"]["busiest_thread"].is_number(), "{scenario}");
        }
    }
}
