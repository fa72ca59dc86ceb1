//! Plans become cluster files that the service accepts. The examples in `config/` are such files.

use crate::support::{config_path, parse, plan, plan_of, plan_with, workload_text};
use palisade_planner::{Calibration, EmitError, EmitFor, EmitOptions, Plan, emit};
use routing::{Addresses, ClusterConfig};
use std::collections::BTreeMap;

/// The published shard count, and as few gateways as the examples have.
fn published(gateways: u32) -> EmitOptions {
    EmitOptions {
        emit_for: Some(EmitFor::Specification),
        gateways: Some(gateways),
        ..Default::default()
    }
}

fn hosts() -> Addresses {
    Addresses::Hosts { domain: "palisade.example".into(), port: 7400 }
}

#[test]
fn forty_shards_of_five_nodes_make_a_valid_file() {
    let (config, yaml) =
        emit(&plan("hyperscale"), &EmitOptions { addresses: hosts(), ..published(4) })
            .expect("a file");
    assert_eq!((config.shards, config.replicas, config.nodes.len()), (40, 5, 200));
    let (parsed, _) = ClusterConfig::parse(&yaml).expect("what was emitted parses");
    assert_eq!(parsed, config);
    let map = parsed.shard_map();
    let mut leaders = BTreeMap::new();
    for replicas in map.shards().map(|(_, replicas)| replicas) {
        *leaders.entry(replicas.preferred_leader).or_insert(0) += 1;
        let mut zones: Vec<_> =
            replicas.nodes.iter().map(|id| parsed.node(*id).expect("known").zone.clone()).collect();
        zones.sort();
        zones.dedup();
        assert_eq!(zones.len(), 5, "one replica in each zone");
    }
    assert_eq!((leaders.len(), leaders.values().max()), (40, Some(&1)), "no node leads twice");
}

#[test]
fn the_examples_in_config_are_emitted() {
    let loopback = || published(2);
    let cases = [
        ("small-3x1.yaml", plan("small"), loopback()),
        ("medium-5x1.yaml", plan("medium"), loopback()),
        ("large-20x4.yaml", plan("large"), loopback()),
        (
            "large-5x4.yaml",
            plan_with("large", &[("name", "large-shared"), ("failure_zones", "3")]),
            EmitOptions { nodes: Some(5), ..loopback() },
        ),
        (
            "hyperscale-40.yaml",
            plan("hyperscale"),
            EmitOptions { addresses: hosts(), ..published(4) },
        ),
    ];
    for (name, plan, options) in cases {
        let (example, _) = ClusterConfig::load(&config_path(name)).expect(name);
        let (emitted, _) = emit(&plan, &options).expect(name);
        assert_eq!(emitted, example, "{name}");
    }
}

#[test]
fn palisades_costs_size_the_file_and_the_published_model_only_if_asked() {
    let workload = || parse(&workload_text("worked-solution"), &[]).expect("a workload");
    let shards = |calibration: Calibration, emit_for: Option<EmitFor>| {
        let plan = Plan::new(workload(), calibration).expect("a plan");
        emit(&plan, &EmitOptions { emit_for, ..Default::default() }).expect("a file").0.shards
    };
    let measured = || Calibration { measured: true, ..Default::default() };
    for calibration in [Calibration::default(), measured()] {
        assert_eq!(shards(calibration.clone(), None), 1);
        assert_eq!(shards(calibration.clone(), Some(EmitFor::Palisade)), 1);
        // The load after a year at 10 % per month.
        assert_eq!(shards(calibration, Some(EmitFor::Specification)), 7);
    }
}

#[test]
fn a_plan_can_be_scaled_to_one_machine() {
    let options = EmitOptions { shards: Some(2), nodes: Some(5), ..published(1) };
    let (config, yaml) = emit(&plan("hyperscale"), &options).expect("a file");
    assert_eq!((config.shards, config.nodes.len(), config.gateways.len()), (2, 5, 1));
    assert!(yaml.contains("# The plan has 40 shards; 2 were asked for here.\n"), "{yaml}");
}

#[test]
fn history_and_reasons_go_into_the_file() {
    let (config, yaml) =
        emit(&plan_with("medium", &[("history_days", "7")]), &published(2)).expect("a file");
    assert_eq!(config.settings.history_days, 7);
    assert!(
        yaml.lines().any(|line| line.starts_with("# The plan does not fit: at the peak")),
        "{yaml}"
    );
    assert!(yaml.contains("not measured"), "{yaml}");
}

#[test]
fn a_file_is_sized_for_the_last_month_of_the_growth_table() {
    // With 3,200 instances one shard carries today's peak, and two are needed within the year.
    let plan = plan_of("instances: 3200\nlocks_per_instance_per_min: 10\nhold: 5m\n", &[])
        .expect("a plan");
    for (emit_for, column) in
        [(None, &plan.palisade), (Some(EmitFor::Specification), &plan.specification)]
    {
        let (config, _) =
            emit(&plan, &EmitOptions { emit_for, ..Default::default() }).expect("a file");
        let last = column.growth.months.last().expect("a year");
        assert_eq!(u64::from(config.shards), last.shards_peak, "{emit_for:?}");
        assert!(column.build.peak_utilisation <= 1.0, "{:?}", column.build);
    }
    assert_eq!((plan.palisade.figures.shards, plan.palisade.build.shards), (1, 2));
    let still = plan_of(
        "instances: 3200\nlocks_per_instance_per_min: 10\nhold: 5m\n",
        &[("growth.per_month", "0")],
    );
    assert_eq!(still.expect("a plan").palisade.build.shards, 1);
    let average = plan_with("worked-solution", &[("sizing", "average")]).specification;
    assert_eq!(average.build.shards, average.growth.months[12].shards_avg);
}

#[test]
fn there_are_two_gateways_at_least_and_more_by_clients_and_by_operations() {
    let gateways = |yaml: &str| {
        let plan = plan_of(yaml, &[("growth.per_month", "0")]).expect("a plan");
        let (config, _) =
            emit(&plan, &EmitOptions { addresses: hosts(), ..Default::default() }).expect("a file");
        assert_eq!(config.gateways.len() as u64, plan.palisade.build.gateways);
        config.gateways.len()
    };
    assert_eq!(gateways("instances: 1\nacquire_per_s: 1\n"), 2);
    assert_eq!(gateways("instances: 3200\nacquire_per_s: 1\n"), 2);
    // 4,000 clients on each gateway, and one gateway more.
    assert_eq!(gateways("instances: 40_001\nacquire_per_s: 1\n"), 12);
    // There are 120,000 acquires, releases and checks per second and 20 renewals, at 15 µs each, on
    // two of four cores. That is 0.9 gateways, and one more.
    assert_eq!(gateways("instances: 10\nacquire_per_s: 15_000\nhold: 1s\npeak_multiplier: 1\n"), 2);
    assert_eq!(gateways("instances: 10\nacquire_per_s: 60_000\nhold: 1s\npeak_multiplier: 1\n"), 5);
    // On one machine there is room for ten gateways.
    let plan = plan_of("instances: 100_000\nacquire_per_s: 1\n", &[]).expect("a plan");
    let (config, yaml) = emit(&plan, &EmitOptions::default()).expect("a file");
    assert_eq!(config.gateways.len(), 10);
    assert!(yaml.contains("gateways; here are 10 gateways."), "{yaml}");
}

#[test]
fn machines_are_stated_and_follow_from_the_load() {
    let built = |flags: &[(&str, &str)]| plan_with("worked-solution", flags).palisade.build;
    let (today, year) = (built(&[("growth.per_month", "0")]), built(&[]));
    // 2,133.3 writes/s at the peak on one leader: 10 + 95 + 2 µs each, 5 µs for flushes, 15 µs for
    // a tenth of an entry's wake-ups and sync. A fifth of 66,000 checks at 10 µs comes on top.
    let busy = (2_133.333 * 127.0 + 66_000.0 * 10.0 / 5.0) / 1e6;
    assert!((today.node.busy_cores - busy).abs() < 1e-3, "{:?}", today.node);
    assert_eq!(today.node.cores, 2);
    // 300,000 locks of 1,224 B and 2,000 leases of 562 B, twice, and 528 MB.
    let used = 2.0 * (300_000.0 * 1_224.0 + 2_000.0 * 562.0) + 528e6;
    assert!((today.node.used_bytes as f64 - used).abs() < 2.0, "{:?}", today.node);
    assert_eq!(today.node.memory_bytes, 2_000_000_000);
    // 394 GB of history, twice, and 4 GB.
    assert_eq!((today.node.disk_bytes as f64 / 1e9).round(), 792.0);
    assert!(
        year.node.cores >= today.node.cores && year.node.memory_bytes > today.node.memory_bytes
    );
    // If all are on the same nodes, each node has a replica of both shards.
    let plan = plan_of("instances: 3200\nlocks_per_instance_per_min: 10\nhold: 5m\n", &[])
        .expect("a plan");
    let (_, apart) = emit(&plan, &EmitOptions::default()).expect("a file");
    let (_, shared) =
        emit(&plan, &EmitOptions { nodes: Some(5), ..Default::default() }).expect("a file");
    let node = |yaml: &str| {
        yaml.lines().find(|line| line.starts_with("# Each node: ")).expect("a line").to_owned()
    };
    assert!(node(&apart).contains("of memory") && node(&apart).contains("of disk"), "{apart}");
    assert_ne!(node(&apart), node(&shared));
}

#[test]
fn impossible_clusters_are_refused() {
    let emitted = |plan: &Plan, options: EmitOptions| {
        emit(plan, &options).map(|_| ()).expect_err("impossible")
    };
    let huge = plan_of("acquire_per_s: 100M", &[]).expect("a plan");
    assert!(
        matches!(emitted(&huge, EmitOptions::default()), EmitError::TooManyShards(n) if n > 4_096)
    );
    let worked = plan("worked-solution");
    let too_few =
        emitted(&worked, EmitOptions { nodes: Some(4), ..Default::default() }).to_string();
    assert!(too_few.contains("too few nodes"), "{too_few}");
    let none = emitted(&worked, EmitOptions { shards: Some(0), ..Default::default() }).to_string();
    assert!(none.contains("`shards` is 0"), "{none}");
    let many =
        plan_with("worked-solution", &[("nodes_per_shard", "1M"), ("growth.per_month", "0")]);
    assert!(matches!(emitted(&many, published(2)), EmitError::TooManyNodes(3_000_000)));
    let many = plan_of("acquire_per_s: 1\ninstances: 1000G\n", &[]).expect("a plan");
    let planned = many.palisade.build.gateways;
    for addresses in [hosts(), EmitOptions::default().addresses] {
        let refused = emitted(&many, EmitOptions { addresses, ..Default::default() });
        assert!(matches!(refused, EmitError::TooManyGateways(n) if n == planned), "{refused}");
    }
    let asked = EmitOptions { addresses: hosts(), ..published(1_000_001) };
    assert!(matches!(emitted(&worked, asked), EmitError::TooManyGateways(1_000_001)));
    // 1,000 nodes do not fit on one host, but they fit on hosts of their own.
    let wide = || EmitOptions { nodes: Some(1_000), ..Default::default() };
    assert!(matches!(emitted(&worked, wide()), EmitError::Config(_)));
    emit(&worked, &EmitOptions { addresses: hosts(), ..wide() }).expect("hosts");
}
