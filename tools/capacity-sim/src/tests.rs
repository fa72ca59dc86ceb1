//! Laws that hold for every model: Little's law, monotony, sums of parts, and equal figures from
//! equal seeds.

use super::*;
use planner::{Plan, Workload};

const ENTRY: EntryBytes = EntryBytes { name_bytes: 100, owner_bytes: 50, metadata_bytes: 0 };

fn one_machine(nodes: u32, shards: u32, clients: u32) -> OneMachine {
    OneMachine { nodes, shards, clients, entry: ENTRY, taken_cores: 0.0 }
}

/// A calibration in which each step takes this long, and no step waits for another.
fn plain(us: f64) -> Calibration {
    let mut calibration =
        Calibration { cores: 64, syncs_in_parallel: 64, ..Calibration::default() };
    calibration.costs.fields().into_iter().for_each(|(_, cost)| *cost = 0.0);
    let costs = &mut calibration.costs;
    (costs.gateway_us_per_op, costs.leader_shard_us_per_op, costs.leader_writer_us_per_op) =
        (us, us, us);
    (calibration.fsync_low_ms, calibration.fsync_p50_ms, calibration.fsync_high_ms) =
        (1.0, 1.0, 1.0);
    calibration
}

#[test]
fn one_client_waits_for_the_sum_of_the_parts() {
    // The way takes half of the gateway, half of the shard's thread, a sync, and the other halves:
    // 2 × 100 µs and 1 ms. Followers take no processor time here, so three of them have the entry
    // on disk before the leader. The leader's writer begins 100 µs later.
    let run = predict(&one_machine(5, 1, 1), &plain(100.0), 1);
    assert!((run.mean_ms - 1.2).abs() < 0.001, "{run:?}");
    assert!((run.answered_per_s - 1_000.0 / 1.2).abs() < 1.0, "{run:?}");
    assert_eq!((run.operations_per_entry, run.p50_ms == run.p99_ms), (1.0, true));
    // Five nodes sync each entry, and the disk could do 64 at a time.
    let each = run.entries_per_s / 1_000.0;
    assert!((run.leader.disk - 5.0 * each / 64.0).abs() < 0.001, "{run:?}");
}

#[test]
fn clients_that_come_back_at_once_share_one_entry() {
    // The operations come in several frames, so the first entry has only some of them. If the next
    // entry went at once, half of the operations would stay in flight and half in the queue for
    // ever.
    let mut calibration = plain(1.0);
    (calibration.fsync_low_ms, calibration.fsync_p50_ms, calibration.fsync_high_ms) =
        (8.0, 8.0, 8.0);
    let run = predict(&one_machine(5, 1, 64), &calibration, 1);
    assert!(run.operations_per_entry > 60.0, "{run:?}");
    assert!((run.answered_per_s / 8_000.0 - 1.0).abs() < 0.05, "{run:?}");
}

#[test]
fn what_others_take_slows_all_work_down() {
    let taken = OneMachine { taken_cores: 32.0, ..one_machine(5, 1, 1) };
    // Twice the 200 µs from the test above, on half of 64 cores.
    assert!((predict(&taken, &plain(100.0), 1).mean_ms - 1.4).abs() < 0.001);
}

#[test]
fn on_one_disk_a_quorum_of_syncs_comes_one_after_the_other() {
    let calibration = Calibration { syncs_in_parallel: 1, ..plain(0.0) };
    // Three of five make the quorum. The two remaining syncs delay the next entry.
    let run = predict(&one_machine(5, 1, 1), &calibration, 1);
    assert!((run.answered_per_s - 200.0).abs() < 2.0, "{run:?}");
    assert!(run.leader.disk > 0.99, "{run:?}");
}

#[test]
fn clients_are_throughput_times_latency() {
    for (shards, clients) in [(1, 1), (1, 40), (2, 100), (4, 1_000)] {
        let run = predict(&one_machine(5, shards, clients), &Calibration::default(), 3);
        let in_flight = run.answered_per_s * run.mean_ms / 1e3;
        assert!(
            (in_flight / f64::from(clients) - 1.0).abs() < 0.03,
            "{clients} clients, {in_flight}: {run:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let run = |seed| predict(&one_machine(3, 2, 50), &Calibration::default(), seed);
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn more_clients_fill_entries_and_are_answered_no_slower_in_all() {
    let runs: Vec<Run> = [4, 32, 256, 2_048]
        .map(|clients| predict(&one_machine(5, 1, clients), &Calibration::default(), 1))
        .into();
    for pair in runs.windows(2) {
        assert!(pair[1].operations_per_entry > pair[0].operations_per_entry, "{pair:?}");
        assert!(pair[1].answered_per_s > pair[0].answered_per_s, "{pair:?}");
    }
}

fn plan(yaml: &str, calibration: Calibration) -> Plan {
    Plan::new(Workload::parse(yaml, &[]).expect("a workload"), calibration).expect("a plan")
}

fn options(seed: u64, shards: Option<u64>) -> SimulateOptions {
    SimulateOptions { seed, shards, column: None }
}

fn scenario<'a>(simulation: &'a Simulation, name: &str) -> &'a Scenario {
    simulation.scenarios.iter().find(|scenario| scenario.name == name).expect("a scenario")
}

#[test]
fn more_load_never_lowers_utilisation() {
    let simulated = [100.0, 400.0, 1_600.0, 4_000.0].map(|rate: f64| {
        let yaml =
            format!("acquire_per_s: {rate}\ninstances: 1000\nreplicas: 5\npeak_multiplier: 1\nreads_per_write: 0\n");
        let plan = plan(&yaml, Calibration::default());
        simulate(&plan, &options(1, Some(1))).expect("a simulation")
    });
    for pair in simulated.windows(2) {
        let (less, more) = (scenario(&pair[0], "average").run, scenario(&pair[1], "average").run);
        assert!(
            more.leader.cpu > less.leader.cpu && more.follower.cpu > less.follower.cpu,
            "{less:?} {more:?}"
        );
        assert!(more.leader.busiest_thread > less.leader.busiest_thread, "{less:?} {more:?}");
        assert!(more.gateway_cpu > less.gateway_cpu, "{less:?} {more:?}");
        // Entries grow before their number rises, so the number of syncs need not rise.
        assert!(more.operations_per_entry >= less.operations_per_entry, "{less:?} {more:?}");
        assert!(more.answered_per_s > 0.98 * more.offered_per_s, "{more:?}");
    }
}

#[test]
fn what_a_leader_cannot_carry_is_not_answered() {
    let yaml = "acquire_per_s: 10000\ninstances: 100\npeak_multiplier: 1\nreads_per_write: 0\n";
    let plan = plan(yaml, Calibration::default());
    let simulation = simulate(&plan, &options(1, Some(1))).expect("a simulation");
    let average = scenario(&simulation, "average");
    assert!(!average.keeps_up && average.formula_utilisation > 1.9, "{average:?}");
    // The rate of the formulas, and some more because of the size of the batches.
    assert!((9_000.0..11_000.0).contains(&average.run.answered_per_s), "{average:?}");
    assert!(average.run.leader.busiest_thread > 0.99, "{average:?}");
}

#[test]
fn a_lost_leader_is_replaced_within_the_time_of_an_election() {
    let plan = plan(
        "instances: 2000\nlocks_per_instance_per_min: 10\nhold: 60s\nfailure_zones: 5\n",
        Calibration::default(),
    );
    let simulation = simulate(&plan, &options(1, None)).expect("a simulation");
    for name in ["leader_lost", "zone_lost_with_leader"] {
        let recovery = scenario(&simulation, name).recovery.expect("a recovery");
        let (serves, worst) = (
            recovery.serves_after_ms.expect("served"),
            recovery.serves_after_worst_ms.expect("served"),
        );
        // Eight to sixteen ticks of 50 ms after the last heartbeat, less its age; then votes, the
        // entry, and the gateway.
        assert!((300.0..=worst).contains(&serves) && worst < 900.0, "{recovery:?}");
        let back = recovery.p99_back_after_ms.expect("back");
        assert!(back >= serves && back < 6_000.0, "{recovery:?}");
    }
    let others = scenario(&simulation, "zone_lost_with_followers");
    assert!(others.recovery.is_none() && others.keeps_up, "{others:?}");
}

#[test]
fn without_a_quorum_nothing_is_served() {
    let yaml = "acquire_per_s: 100\ninstances: 10\nreplicas: 3\nfailure_zones: 2\n";
    let simulation =
        simulate(&plan(yaml, Calibration::default()), &options(1, None)).expect("a simulation");
    for name in ["zone_lost_with_leader", "zone_lost_with_followers"] {
        let lost = scenario(&simulation, name);
        assert_eq!(lost.nodes_lost, 2);
        assert_eq!((lost.run.answered_per_s, lost.run.renewals_per_s), (0.0, 0.0), "{lost:?}");
        assert_eq!(lost.recovery.expect("a recovery").serves_after_ms, None, "{lost:?}");
    }
    let leader = scenario(&simulation, "leader_lost");
    assert!(
        leader.keeps_up
            && leader.recovery.is_some_and(|recovery| recovery.p99_back_after_ms.is_some()),
        "{leader:?}"
    );
}

#[test]
fn too_much_for_one_shard_is_refused_by_name() {
    let plan = plan("acquire_per_s: 10000000\n", Calibration::default());
    let error =
        simulate(&plan, &options(1, Some(1))).expect_err("ten million a second on one shard");
    assert!(error.to_string().contains("`shards` is 1"), "{error}");
    assert!(simulate(&plan, &options(1, Some(0))).is_err());
}
