//! Bad input is refused with the key to change. Keys that are left out are assumed, and the plan
//! says so.

use crate::support::{parse, plan_of};
use palisade_planner::{Calibration, KEYS, PlanError, TEMPLATE};

/// The error of a workload with a rate and this line.
fn refused(line: &str) -> String {
    let yaml =
        if line.contains("instances") { line.to_owned() } else { format!("instances: 10\n{line}") };
    parse(&yaml, &[]).map(|_| ()).expect_err(line).to_string()
}

#[test]
fn unknown_keys_get_the_nearest_known_one() {
    for (line, nearest) in [
        ("instnaces: 5", "`instances`"),
        ("holds: 5s", "`hold`"),
        ("heart_beat: 5s", "`heartbeat`"),
        ("entry: {name_byte: 5}", "`entry.name_bytes`"),
        ("name_bytes: 5", "`entry.name_bytes`"),
        ("growth: {month: 5}", "`growth.months`"),
        ("leader_capacity_per_s: 5", "`leader_capacity`"),
    ] {
        let error = refused(line);
        assert!(error.contains("is not a key of a workload"), "{error}");
        assert!(error.ends_with(&format!("did you mean {nearest}?")), "{line}: {error}");
    }
    let error = refused("zzzzzzzzzzzzzz: 5");
    assert!(error.ends_with("is not a key of a workload"), "{error}");
    let error = Calibration::parse("fsync_hi_ms: 3").expect_err("unknown").to_string();
    assert_eq!(error, "`fsync_hi_ms` is not a key of a calibration: did you mean `fsync_high_ms`?");
}

#[test]
fn impossible_values_are_refused_by_key() {
    for (line, key, reason) in [
        ("hold: 0s", "hold", "is 0"),
        ("hold: -5s", "hold", "negative"),
        ("hold: 30", "hold", "no unit"),
        ("hold: [5s]", "hold", "a list"),
        ("ttl: 99ms", "ttl", "100ms to 24h"),
        ("ttl: 25h", "ttl", "100ms to 24h"),
        ("heartbeat: 30s\nttl: 30s", "heartbeat", "every lock would expire"),
        ("heartbeat: 40s\nttl: 30s", "heartbeat", "every lock would expire"),
        ("heartbeat: 0s", "heartbeat", "is 0"),
        ("heartbeat: 13h", "heartbeat", "makes the TTL 1d2h"),
        ("heartbeat: 1ms", "heartbeat", "makes the TTL 2ms"),
        ("replicas: 0", "replicas", "survive"),
        ("replicas: 100", "replicas", "at most 99"),
        ("replicas: 2.5", "replicas", "whole number"),
        ("nodes_per_shard: 0", "nodes_per_shard", "survive"),
        ("replicas: 5\nnodes_per_shard: 3", "nodes_per_shard", "5 replicas"),
        ("headroom: 1", "headroom", "nothing is left"),
        ("headroom: 120%", "headroom", "nothing is left"),
        ("headroom: -0.1", "headroom", "cannot be negative"),
        ("peak_multiplier: 0.5", "peak_multiplier", "at least the average"),
        ("peak_multiplier: .nan", "peak_multiplier", "write a number"),
        ("peak_multiplier: .inf", "peak_multiplier", "write a number"),
        ("leader_capacity: 0", "leader_capacity", "above 0"),
        ("leader_capacity: many", "leader_capacity", "`many`: write a number"),
        ("reads_per_write: -1", "reads_per_write", "cannot be negative"),
        ("target_p99: 0", "target_p99", "is 0"),
        ("history_days: 1e9", "history_days", "at most 36,500"),
        ("history_days: 1.5", "history_days", "whole number"),
        ("instances: 0", "instances", "at least one process"),
        ("instances: -3", "instances", "cannot be negative"),
        ("instances: 1e30", "instances", "2^53"),
        (
            "instances: 2\nlocks_per_instance_per_min: 0",
            "locks_per_instance_per_min",
            "nothing is locked",
        ),
        ("acquire_per_s: 0", "acquire_per_s", "nothing is locked"),
        ("events_per_day: 0", "events_per_day", "nothing is locked"),
        ("entry: {name_bytes: 0}", "entry.name_bytes", "1 to 512"),
        ("entry: {name_bytes: 513}", "entry.name_bytes", "1 to 512"),
        ("entry: {metadata_bytes: 1M}", "entry.metadata_bytes", "65536"),
        ("entry: 200", "entry", "group of keys"),
        ("resources: 0", "resources", "leave it out"),
        ("hottest_share: 2", "hottest_share", "more than all"),
        ("sizing: maximum", "sizing", "peak or average"),
        ("growth: {months: 0}", "growth.months", "at least one"),
        ("growth: {months: 601}", "growth.months", "at most 600"),
        ("growth: {per_month: 1000}", "growth.per_month", "10%"),
        ("name: ''", "name", "empty"),
        ("name: {a: 1}", "name", "a mapping"),
        ("ttl:", "ttl", "empty"),
    ] {
        let error = refused(line);
        assert!(
            error.starts_with(&format!("`{key}` ")) && error.contains(reason),
            "{line}: {error}"
        );
    }
}

#[test]
fn a_rate_is_needed_once() {
    for yaml in ["", "# nothing", "hold: 5s", "locks_per_instance_per_min: 10"] {
        assert_eq!(parse(yaml, &[]).map(|_| ()), Err(PlanError::NoRate), "{yaml}");
    }
    let twice = "acquire_per_s: 5\nevents_per_day: 5";
    assert_eq!(
        parse(twice, &[]).map(|_| ()),
        Err(PlanError::TwoRates("acquire_per_s", "events_per_day"))
    );
    for yaml in ["instances: 60", "acquire_per_s: 10", "instances: 7\nevents_per_day: 864_000"] {
        assert_eq!(parse(yaml, &[]).expect(yaml).acquire_per_s(), 10.0, "{yaml}");
    }
}

#[test]
fn only_a_mapping_is_a_workload() {
    for yaml in [
        "- a\n- b",
        "just words",
        "a: b: c",
        "{",
        "instances: 1\ninstances: 2",
        "1: 2",
        "entry: {1: 2}",
    ] {
        let error = parse(yaml, &[]).map(|_| ()).expect_err(yaml);
        assert!(matches!(error, PlanError::Yaml { .. }), "{yaml}: {error}");
    }
}

#[test]
fn figures_that_do_not_fit_are_named() {
    for (yaml, figure) in [
        ("acquire_per_s: 1e300", "peak_writes_per_s"),
        ("acquire_per_s: 1e308", "peak_writes_per_s"),
        ("instances: 9007199254740992\nttl: 100ms", "peak_writes_per_s"),
        ("acquire_per_s: 1e12\nhold: 1s\nhistory_days: 36500", "history_bytes_total"),
        ("acquire_per_s: 1e10\nhold: 100d\nttl: 1d\nhistory_days: 0", "active_locks"),
        ("acquire_per_s: 1e14\nleader_capacity: 0.000001\nhold: 1s\nhistory_days: 0", "shards"),
        (
            "acquire_per_s: 1e7\nleader_capacity: 0.0001\nnodes_per_shard: 4294967295\nreplicas: 3",
            "nodes_total",
        ),
        ("acquire_per_s: 1e4\nleader_capacity: 1\ngrowth: {per_month: 10, months: 600}", "growth"),
    ] {
        match plan_of(yaml, &[]).map(|_| ()) {
            Err(PlanError::Overflow { figure: found, .. }) => assert_eq!(found, figure, "{yaml}"),
            other => panic!("{yaml}: {other:?}"),
        }
    }
}

#[test]
fn more_shards_than_a_cluster_has_is_not_fit() {
    let plan = plan_of("acquire_per_s: 100M", &[]).expect("a plan");
    assert!(plan.specification.figures.shards > 4_096);
    let reasons = plan.specification.fit.reasons.join("; ");
    assert!(!plan.specification.fit.fits && reasons.contains("4,096"), "{reasons}");
}

#[test]
fn one_replica_is_not_fit() {
    let plan = plan_of("instances: 10\nreplicas: 1", &[]).expect("a plan");
    assert!(!plan.specification.fit.fits);
    assert!(
        plan.specification.fit.reasons[0].contains("0 may fail"),
        "{:?}",
        plan.specification.fit
    );
}

#[test]
fn flags_replace_keys_of_the_file() {
    let file = "instances: 10\nhold: 1m\nentry: {name_bytes: 10, owner_bytes: 20}\n";
    let flags = [
        ("hold", "2m"),
        ("entry.name_bytes", "64"),
        ("headroom", "20%"),
        ("name", "42"),
        ("growth.months", "3"),
    ];
    let workload = parse(file, &flags).expect("a workload");
    assert_eq!((workload.hold_s, workload.headroom, workload.name.as_str()), (120.0, 0.2, "42"));
    assert_eq!(
        (workload.entry.name_bytes, workload.entry.owner_bytes, workload.growth.months),
        (64, 20, 3)
    );
    for (key, value, reason) in
        [("hold", "-1s", "negative"), ("hold", "{", "no number"), ("hold", "", "empty")]
    {
        let error = parse(file, &[(key, value)]).map(|_| ()).expect_err(value).to_string();
        assert!(error.starts_with("`hold`") && error.contains(reason), "{error}");
    }
    assert!(matches!(
        parse(file, &[("holt", "1s")]),
        Err(PlanError::UnknownKey { nearest: Some("hold"), .. })
    ));
}

#[test]
fn either_of_ttl_and_heartbeat_gives_the_other() {
    for (yaml, ttl_s, heartbeat_s) in [
        ("instances: 1", 30.0, 15.0),
        ("instances: 1\nttl: 10s", 10.0, 5.0),
        ("instances: 1\nheartbeat: 60s", 120.0, 60.0),
        ("instances: 1\nttl: 10s\nheartbeat: 3s", 10.0, 3.0),
    ] {
        let workload = parse(yaml, &[]).expect(yaml);
        assert_eq!((workload.ttl_s, workload.heartbeat_s), (ttl_s, heartbeat_s), "{yaml}");
    }
}

#[test]
fn either_of_replicas_and_nodes_per_shard_gives_the_other() {
    for (yaml, replicas, nodes) in [
        ("acquire_per_s: 1", 3, 3),
        ("acquire_per_s: 1000", 5, 5),
        ("acquire_per_s: 1\nreplicas: 7", 7, 7),
        ("acquire_per_s: 1\nnodes_per_shard: 5", 5, 5),
        ("acquire_per_s: 1\nreplicas: 3\nnodes_per_shard: 5", 3, 5),
    ] {
        let workload = parse(yaml, &[]).expect(yaml);
        assert_eq!((workload.replicas, workload.nodes_per_shard), (replicas, nodes), "{yaml}");
    }
}

#[test]
fn assumptions_are_reported() {
    let assumed =
        parse("acquire_per_s: 1\nttl: 30s\nreplicas: 3", &[]).expect("a workload").assumed;
    assert!(assumed.contains(&"hold") && assumed.contains(&"instances"), "{assumed:?}");
    for given in
        ["acquire_per_s", "locks_per_instance_per_min", "ttl", "replicas", "nodes_per_shard"]
    {
        assert!(!assumed.contains(&given), "{given}");
    }
}

#[test]
fn the_template_is_a_workload_and_shows_every_key_with_its_default() {
    let template = parse(TEMPLATE, &[]).expect("the template");
    assert_eq!((template.instances, template.acquire_per_s().round()), (2_000, 333.0));
    // Lines such as `# hold: 5m` become keys. Prose is not a key and a value.
    let shown = |line: &str| {
        let line = line.trim_start_matches("# ");
        let (key, value) = line.split_once(": ")?;
        let is_key =
            KEYS.iter().any(|known| known.name == key || known.name.split('.').next() == Some(key));
        is_key.then(|| (key.to_owned(), value.to_owned()))
    };
    let lines: Vec<(String, String)> = TEMPLATE.lines().filter_map(shown).collect();
    for key in KEYS {
        let leaf = key.name.rsplit('.').next().expect("a word");
        assert!(
            lines.iter().any(|(shown, value)| shown == key.name || value.contains(leaf)),
            "{} is not shown",
            key.name
        );
    }
    // With all of them the workload is the same, except for keys without a default.
    let without_default = [
        "acquire_per_s",
        "events_per_day",
        "failure_zones",
        "network_rtt",
        "resources",
        "hottest_share",
    ];
    let all: String = lines
        .iter()
        .filter(|(key, _)| !without_default.contains(&key.as_str()))
        .map(|(key, value)| format!("{key}: {value}\n"))
        .collect();
    let mut explicit = parse(&all, &[]).expect("all keys at once");
    assert_eq!(explicit.assumed, ["network_rtt", "failure_zones"]);
    explicit.assumed = template.assumed.clone();
    assert_eq!(explicit, template);
    for (key, value) in lines.iter().filter(|(key, _)| without_default.contains(&key.as_str())) {
        let rate = if key.contains("_per_") { "" } else { "acquire_per_s: 1\n" };
        parse(&format!("{rate}{key}: {value}\n"), &[])
            .unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

#[test]
fn a_calibration_survives_its_file_and_refuses_nonsense() {
    let measured = Calibration {
        measured: true,
        source: "this machine".into(),
        fsync_high_ms: 4.25,
        ..Default::default()
    };
    assert_eq!(Calibration::parse(&measured.to_yaml()), Ok(measured));
    assert_eq!(Calibration::parse(""), Ok(Calibration::default()));
    assert_eq!(Calibration::parse("measured: true").expect("valid").source, "measured");
    for (yaml, key) in [
        ("writes_per_s_per_leader: 0", "writes_per_s_per_leader"),
        ("renewals_per_s_per_leader: -1", "renewals_per_s_per_leader"),
        ("history_stored_ratio: 0", "history_stored_ratio"),
        ("fsync_low_ms: 5", "fsync_high_ms"),
        ("tenure_overhead_bytes: 1.5", "tenure_overhead_bytes"),
        ("measured: 1", "measured"),
    ] {
        let error = Calibration::parse(yaml).expect_err(yaml).to_string();
        assert!(error.starts_with(&format!("`{key}` ")), "{yaml}: {error}");
    }
}
