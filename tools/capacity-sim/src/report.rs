//! Reports of a simulation: for people beside the formulas, for programs with stable keys.

use crate::{LoadLevel, Scenario, Simulation};
use planner::quantity::{count, counted, decimals, percent};
use planner::rounded;
use planner::table::Align::{Left, Right};
use planner::table::{table, wrap};
use serde_json::{Value, json as value};

const WIDTH: usize = 118;

/// The simulation as text. It ends with a newline.
pub fn text(simulation: &Simulation) -> String {
    let mut out = head(simulation);
    let shards = simulation.shards as f64;
    let titles = [
        "",
        "load",
        "shards",
        "writes/s in all",
        "p50 ms",
        "p99 ms",
        "budget ms",
        "operations/entry",
        "syncs/s per node",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for scenario in &simulation.scenarios {
        let run = &scenario.run;
        let answered =
            (run.answered_per_s + run.renewals_per_s) * shards * scenario.share_of_shards;
        let latency =
            |ms: f64| if run.answered_per_s > 0.0 { decimals(ms, 1) } else { "–".to_owned() };
        rows.push(vec![
            scenario.title.to_owned(),
            load(scenario).to_owned(),
            decimals(shards * scenario.share_of_shards, 1),
            count(answered.round() as u64),
            latency(run.p50_ms),
            latency(run.p99_ms),
            format!(
                "{}–{}",
                decimals(simulation.budget_ms.0, 1),
                decimals(simulation.budget_ms.1, 1)
            ),
            decimals(run.operations_per_entry, 1),
            count(run.leader.syncs_per_s.round() as u64),
        ]);
    }
    out.push_str(&table(&[Left, Left, Right, Right, Right, Right, Right, Right, Right], &rows));
    out.push_str("\n  in use\n");
    let titles = [
        "",
        "formula: leader",
        "leader's cores",
        "its busiest thread",
        "its disk",
        "follower's cores",
        "its disk",
        "gateways",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for scenario in &simulation.scenarios {
        let run = &scenario.run;
        let shares = [
            scenario.formula_utilisation,
            run.leader.cpu,
            run.leader.busiest_thread,
            run.leader.disk,
            run.follower.cpu,
            run.follower.disk,
            run.gateway_cpu,
        ];
        let mut row = vec![scenario.title.to_owned()];
        row.extend(shares.map(percent));
        rows.push(row);
    }
    out.push_str(&table(&[Left, Right, Right, Right, Right, Right, Right, Right], &rows));
    out.push('\n');
    for scenario in &simulation.scenarios {
        for text in findings(scenario) {
            out.push_str(&wrap(&format!("  {}: {text}", scenario.title), WIDTH, "    "));
            out.push('\n');
        }
    }
    out
}

fn head(simulation: &Simulation) -> String {
    let text = format!(
        "\nSimulated: today's load on {}, on {} of {}, {}, {} ms between machines; {} of one shard for each row, seed {}, {} in all",
        counted(simulation.shards, "shard"),
        counted(simulation.nodes, "node"),
        counted(simulation.cores, "core"),
        counted(simulation.gateways, "gateway"),
        decimals(simulation.network_rtt_ms, 3),
        counted(simulation.shards_simulated.into(), "run"),
        simulation.seed,
        counted(simulation.operations_simulated, "operation"),
    );
    let costs = match simulation.measured {
        true => format!("  costs, measured: {}", simulation.costs),
        false => format!(
            "  costs are assumed ({}): the shapes are the model's, the figures are no better than \
             the assumptions",
            simulation.costs
        ),
    };
    format!("{}\n{}\n", wrap(&text, WIDTH, "  "), wrap(&costs, WIDTH, "    "))
}

fn load(scenario: &Scenario) -> &'static str {
    match scenario.load {
        LoadLevel::Average => "average",
        LoadLevel::Peak => "peak",
    }
}

fn findings(scenario: &Scenario) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(recovery) = &scenario.recovery {
        let seconds = |ms: Option<f64>| ms.map(|ms| format!("{} s", decimals(ms / 1e3, 2)));
        found.push(
            match (seconds(recovery.serves_after_ms), seconds(recovery.serves_after_worst_ms)) {
                (Some(median), Some(worst)) => {
                    let back = seconds(recovery.p99_back_after_ms).map_or_else(
                        || "p99 is not back within the simulated time".to_owned(),
                        |back| {
                            let worst = seconds(recovery.p99_back_after_worst_ms);
                            format!(
                                "p99 is back after {back} ({} at worst)",
                                worst.as_deref().unwrap_or("not")
                            )
                        },
                    );
                    format!("served again after {median} ({worst} at worst); {back}")
                }
                _ => "no quorum is left: these shards are not served until a node comes back"
                    .to_owned(),
            },
        );
    }
    let run = &scenario.run;
    let served = scenario.recovery.is_none_or(|recovery| recovery.serves_after_ms.is_some());
    if !scenario.keeps_up && served {
        found.push(format!(
            "does not keep up: {} of {} acquires and releases/s are answered per shard, {} refused",
            count(run.answered_per_s.round() as u64),
            count(run.offered_per_s.round() as u64),
            count(run.refused_per_s.round() as u64),
        ));
    }
    found
}

/// The simulation as JSON for programs. Rates in `per_shard` are of one shard. All other rates are
/// of all shards in the scenario.
pub fn json(simulation: &Simulation) -> Value {
    let scenarios: Vec<Value> =
        simulation.scenarios.iter().map(|scenario| scenario_json(simulation, scenario)).collect();
    rounded(value!({
        "measured": simulation.measured,
        "costs": simulation.costs,
        "seed": simulation.seed,
        "shards": simulation.shards,
        "nodes": simulation.nodes,
        "gateways": simulation.gateways,
        "cores": simulation.cores,
        "network_rtt_ms": simulation.network_rtt_ms,
        "shards_simulated": simulation.shards_simulated,
        "operations_simulated": simulation.operations_simulated,
        "budget_ms": {"low": simulation.budget_ms.0, "high": simulation.budget_ms.1},
        "scenarios": scenarios,
    }))
}

fn scenario_json(simulation: &Simulation, scenario: &Scenario) -> Value {
    let shards = simulation.shards as f64 * scenario.share_of_shards;
    let answered = scenario.run.answered_per_s + scenario.run.renewals_per_s;
    value!({
        "name": scenario.name,
        "load": scenario.load,
        "shards": shards,
        "nodes_lost_per_shard": scenario.nodes_lost,
        "writes_per_s": answered * shards,
        "keeps_up": scenario.keeps_up,
        "formula_utilisation": scenario.formula_utilisation,
        "recovery": scenario.recovery,
        "per_shard": scenario.run,
    })
}
