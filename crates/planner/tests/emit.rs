//! Plans become cluster files that the service accepts, and the examples in `config/` are such.

mod support;

use palisade_planner::{Calibration, EmitError, EmitFor, EmitOptions, Plan, emit};
use routing::{Addresses, ClusterConfig};
use std::collections::BTreeMap;
use support::{config_path, parse, plan, plan_of, plan_with, workload_text};

fn hosts() -> Addresses {
    Addresses::Hosts { domain: "palisade.example".into(), port: 7400 }
}

#[test]
fn forty_shards_of_five_nodes_make_a_valid_file() {
    let (config, yaml) =
        emit(&plan("hyperscale"), &EmitOptions { addresses: hosts(), ..Default::default() }).expect("a file");
    assert_eq!((config.shards, config.replicas, config.nodes.len()), (40, 5, 200));
    let (parsed, _) = ClusterConfig::parse(&yaml).expect("what was emitted parses");
    assert_eq!(parsed, config);
    let map = parsed.shard_map();
    let mut leaders = BTreeMap::new();
    for replicas in map.shards().map(|(_, replicas)| replicas) {
        *leaders.entry(replicas.preferred_leader).or_insert(0) += 1;
        let mut zones: Vec<_> = replicas.nodes.iter().map(|id| parsed.node(*id).expect("known").zone.clone()).collect();
        zones.sort();
        zones.dedup();
        assert_eq!(zones.len(), 5, "one replica in each zone");
    }
    assert_eq!((leaders.len(), leaders.values().max()), (40, Some(&1)), "no node leads twice");
}

#[test]
fn the_examples_in_config_are_emitted() {
    let loopback = EmitOptions::default;
    let cases = [
        ("small-3x1.yaml", plan("small"), loopback()),
        ("medium-5x1.yaml", plan("medium"), loopback()),
        ("large-20x4.yaml", plan("large"), loopback()),
        (
            "large-5x4.yaml",
            plan_with("large", &[("name", "large-shared"), ("failure_zones", "3")]),
            EmitOptions { nodes: Some(5), ..loopback() },
        ),
        ("hyperscale-40.yaml", plan("hyperscale"), EmitOptions { addresses: hosts(), ..loopback() }),
    ];
    for (name, plan, options) in cases {
        let (example, _) = ClusterConfig::load(&config_path(name)).expect(name);
        let (emitted, _) = emit(&plan, &options).expect(name);
        assert_eq!(emitted, example, "{name}");
    }
}

#[test]
fn measured_costs_size_the_file_and_assumed_ones_do_not() {
    let workload = || parse(&workload_text("worked-solution"), &[]).expect("a workload");
    let shards = |calibration: Calibration, emit_for: Option<EmitFor>| {
        let plan = Plan::new(workload(), calibration).expect("a plan");
        emit(&plan, &EmitOptions { emit_for, ..Default::default() }).expect("a file").0.shards
    };
    let measured = || Calibration { measured: true, ..Default::default() };
    assert_eq!(shards(Calibration::default(), None), 3);
    assert_eq!(shards(measured(), None), 1);
    assert_eq!(shards(measured(), Some(EmitFor::Specification)), 3);
    assert_eq!(shards(Calibration::default(), Some(EmitFor::Palisade)), 1);
}

#[test]
fn a_plan_can_be_scaled_to_one_machine() {
    let options = EmitOptions { shards: Some(2), nodes: Some(5), gateways: Some(1), ..Default::default() };
    let (config, yaml) = emit(&plan("hyperscale"), &options).expect("a file");
    assert_eq!((config.shards, config.nodes.len(), config.gateways.len()), (2, 5, 1));
    assert!(yaml.contains("# The plan has 40 shards; 2 were asked for here."), "{yaml}");
}

#[test]
fn history_and_reasons_go_into_the_file() {
    let (config, yaml) = emit(&plan_with("medium", &[("history_days", "7")]), &EmitOptions::default()).expect("a file");
    assert_eq!(config.settings.history_days, 7);
    assert!(yaml.lines().any(|line| line.starts_with("# The plan does not fit: at the peak")), "{yaml}");
    assert!(yaml.contains("not measured"), "{yaml}");
}

#[test]
fn impossible_clusters_are_refused() {
    let emitted = |plan: &Plan, options: EmitOptions| emit(plan, &options).map(|_| ()).expect_err("impossible");
    let huge = plan_of("acquire_per_s: 100M", &[]).expect("a plan");
    assert!(matches!(emitted(&huge, EmitOptions::default()), EmitError::TooManyShards(n) if n > 4_096));
    let worked = plan("worked-solution");
    let too_few = emitted(&worked, EmitOptions { nodes: Some(4), ..Default::default() }).to_string();
    assert!(too_few.contains("too few nodes"), "{too_few}");
    let none = emitted(&worked, EmitOptions { shards: Some(0), ..Default::default() }).to_string();
    assert!(none.contains("`shards` is 0"), "{none}");
    let many = plan_with("worked-solution", &[("nodes_per_shard", "1M")]);
    assert!(matches!(emitted(&many, EmitOptions::default()), EmitError::TooManyNodes(3_000_000)));
    // 1,000 nodes do not fit on one host, but on hosts of their own.
    let wide = || EmitOptions { nodes: Some(1_000), ..Default::default() };
    assert!(matches!(emitted(&worked, wide()), EmitError::Config(_)));
    emit(&worked, &EmitOptions { addresses: hosts(), ..wide() }).expect("hosts");
}
