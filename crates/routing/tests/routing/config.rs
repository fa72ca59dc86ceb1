//! The cluster file: refusals and their words, warnings, and the coverage of the fingerprint.

use palisade_routing::*;
use proptest::prelude::*;

const THREE: &str = "
cluster: test
shards: 2
replicas: 3
nodes:
  - {id: 1, address: '127.0.0.1:7411', metrics: '127.0.0.1:8411'}
  - {id: 2, address: '127.0.0.1:7412'}
  - {id: 3, address: '127.0.0.1:7413'}
gateways:
  - {address: '127.0.0.1:7400'}
";

fn parse(yaml: &str) -> Result<(ClusterConfig, Vec<String>), String> {
    ClusterConfig::parse(yaml).map_err(|error| error.to_string())
}

fn three() -> ClusterConfig {
    parse(THREE).expect("the base of all cases").0
}

/// `THREE` with a part replaced, and with more lines at its end.
fn with(from: &str, to: &str, more: &str) -> String {
    assert!(THREE.contains(from), "{from:?} is in the base");
    THREE.replace(from, to) + more
}

#[track_caller]
fn refused(yaml: &str, words: &[&str]) {
    let error = parse(yaml).expect_err("this must be refused");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[track_caller]
fn warns(yaml: &str, words: &[&str]) {
    let (_, warnings) = parse(yaml).expect("this is no error");
    assert!(
        warnings.iter().any(|warning| words.iter().all(|word| warning.contains(word))),
        "{words:?}: {warnings:?}"
    );
}

#[test]
fn a_plain_file_has_defaults_and_no_warnings() {
    let (config, warnings) = parse(THREE).expect("valid");
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.settings, Settings::default());
    assert_eq!(config.node(NodeId(2)).map(|node| node.address.as_str()), Some("127.0.0.1:7412"));
    assert_eq!(config.node(NodeId(4)), None);
}

#[test]
fn unknown_keys_name_the_nearest_one() {
    refused(&with("shards: 2", "shard: 2", ""), &["`shard`", "did you mean `shards`?"]);
    refused(&with("metrics:", "metric:", ""), &["did you mean `metrics`?"]);
    refused(
        &with("shards", "shards", "settings: {tick: 5}"),
        &["unknown field `tick`", "did you mean `tick_ms`?"],
    );
    refused(
        &with("shards", "shards", "something_else_entirely: 5"),
        &["unknown field `something_else_entirely`"],
    );
}

#[test]
fn broken_files_are_refused() {
    refused("", &["cluster"]);
    refused("[1, 2]", &["invalid type"]);
    refused(&with("shards: 2", "", ""), &["missing field `shards`"]);
    refused(&with("shards: 2", "shards: -2", ""), &["shards"]);
    refused(&with("shards: 2", "shards: many", ""), &["shards"]);
    refused("{{{", &[]);
}

#[test]
fn quirks_of_editors_and_templates_are_read_or_named_by_their_line() {
    let base = three();
    for read in [
        THREE.replace('\n', "\r\n"),
        format!("\u{feff}{THREE}"),
        format!("{THREE}settings:\n"),
        format!("{THREE}settings: ~\nplacement:\n"),
        format!("---\n{THREE}...\n"),
    ] {
        assert_eq!(parse(&read).expect(&read).0, base, "{read:?}");
    }
    assert_eq!(
        parse(&with("gateways:\n  - {address: '127.0.0.1:7400'}\n", "gateways:\n", ""))
            .expect("none")
            .0
            .gateways,
        []
    );
    for empty in ["", " \n", "\u{feff}", "\r\n"] {
        refused(empty, &["it is empty"]);
    }
    refused(
        &THREE.replace("  - {id: 2", "\t- {id: 2"),
        &["line 7 is indented with a tab", "spaces"],
    );
    refused(&THREE.replace("  - {id: 1", "\t- {id: 1"), &["is indented with a tab", "spaces"]);
    refused(
        &with("shards", "shards", "shards: 4\n"),
        &["duplicate field `shards`", "lines 3 and 11"],
    );
    refused(&with("id: 3,", "id: 3, id: 4,", ""), &["duplicate field `id`"]);
    refused(&with("shards: 2", "shards: '2'", ""), &["shards", "string \"2\"", "line 3"]);
    refused(&with("id: 3", "id: '3'", ""), &["nodes[2].id", "line 8"]);
    refused(&format!("{THREE}---\n{THREE}"), &["document"]);
    let bytes = |bytes: &[u8]| {
        ClusterConfig::parse_bytes(bytes).map(|_| ()).expect_err("not UTF-8").to_string()
    };
    assert!(
        bytes(b"\xff\xfec\0").contains("not UTF-8 (line 1, byte 0"),
        "{}",
        bytes(b"\xff\xfec\0")
    );
    assert!(bytes(b"cluster: x\nshards: \xe4").contains("not UTF-8 (line 2, byte 19"));
}

#[test]
fn names_ids_and_sizes() {
    refused(&with("cluster: test", "cluster: ' '", ""), &["`cluster` is empty"]);
    refused(&with("id: 3", "id: 0", ""), &["id 0"]);
    refused(&with("id: 3", "id: 4294967296", ""), &["id 4294967296", "1 to 4294967295"]);
    refused(&with("id: 3", "id: 2", ""), &["two nodes have id 2"]);
    refused(&with("id: 3", "zone: '', id: 3", ""), &["node 3", "empty `zone`"]);
    refused(&with("shards: 2", "shards: 0", ""), &["`shards` is 0", "1 to 4096"]);
    refused(&with("shards: 2", "shards: 4097", ""), &["`shards` is 4097"]);
    refused(&with("replicas: 3", "replicas: 0", ""), &["`replicas` is 0"]);
    refused(
        &with("replicas: 3", "replicas: 5", ""),
        &["too few nodes", "`replicas` is 5", "lists 3"],
    );
    warns(&with("replicas: 3", "replicas: 2", ""), &["replicas 2 is even", "odd"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let yaml = THREE
        .replace("shards: 2", "shards: 0")
        .replace("replicas: 3", "replicas: 9")
        .replace("7412", "0");
    refused(&yaml, &["`shards` is 0", "too few nodes", "node 2"]);
}

#[test]
fn security() {
    const SECTIONS: &str = r#"
tls:
  inside: { cert: a.pem, key: a.key, ca: ca.pem }
  clients: { cert: s.pem, key: s.key, client_ca: cca.pem, client_certs: allow }
access:
  policy: policy.yaml
  tokens: tokens.yaml
  jwt: { jwks: jwks.json, issuer: "https://issuer", audience: palisade, prefix: "jwt:", clock_skew_s: 300 }
audit: { file: "-", bytes_max: 65536, hours_max: 1, keep: 0 }
"#;
    let yaml = |from: &str, to: &str| {
        assert!(SECTIONS.contains(from), "{from}");
        format!("{THREE}{}", SECTIONS.replace(from, to))
    };
    assert!(parse(&yaml("a.pem", "a.pem")).is_ok());
    for (from, to, words) in [
        ("a.key", "''", ["`tls.inside.key` is empty", "fill it in"]),
        ("cca.pem", "' '", ["`tls.clients.client_ca` is empty", "fill it in"]),
        (", client_ca: cca.pem", "", ["asks for certificates of clients", "`client_ca`"]),
        ("policy.yaml", "''", ["`access.policy` is empty", "fill it in"]),
        ("tokens.yaml", "''", ["`access.tokens` is empty", "fill it in"]),
        ("jwks.json", "''", ["`access.jwt.jwks` is empty", "fill it in"]),
        ("\"https://issuer\"", "''", ["`access.jwt.issuer` is empty", "fill it in"]),
        ("audience: palisade", "audience: ''", ["`access.jwt.audience` is empty", "fill it in"]),
        ("\"jwt:\"", "''", ["`access.jwt.prefix` is empty", "leave its section out"]),
        (
            "clock_skew_s: 300",
            "clock_skew_s: 301",
            ["`access.jwt.clock_skew_s` is 301", "0 to 300"],
        ),
        ("file: \"-\"", "file: ''", ["`audit.file` is empty", "fill it in"]),
        ("65536", "65535", ["`audit.bytes_max` is 65535", "65536 to"]),
        ("hours_max: 1", "hours_max: 0", ["`audit.hours_max` is 0", "1 to"]),
        ("keep: 0", "keep: 1001", ["`audit.keep` is 1001", "0 to 1000"]),
    ] {
        refused(&yaml(from, to), &words);
    }
}

#[test]
fn addresses() {
    for bad in [
        "127.0.0.1",
        ":7412",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:70000",
        "http://a:80",
        "a b:80",
        "::1:80",
        "[::x]:80",
        "",
    ] {
        refused(&with("127.0.0.1:7412", bad, ""), &["node 2 (`address`)", &format!("{bad:?}")]);
    }
    for good in ["[::1]:7412", "localhost:7412", "127.0.0.2:7411"] {
        assert_eq!(parse(&with("127.0.0.1:7412", good, "")).expect(good).1, [""; 0]);
    }
    for any in ["0.0.0.0:7412", "[::]:7412", "[::ffff:0.0.0.0]:7412"] {
        refused(&with("127.0.0.1:7412", any, ""), &["node 2", "cannot dial"]);
    }
}

#[test]
fn shared_addresses() {
    let give = "give each its own port";
    refused(
        &with("127.0.0.1:7412", "127.0.0.1:7411", ""),
        &["node 1 (`address`) and node 2 (`address`)", give],
    );
    refused(
        &with("127.0.0.1:8411", "127.0.0.1:7411", ""),
        &["node 1 (`address`) and node 1 (`metrics`)", give],
    );
    refused(
        &with("127.0.0.1:7400", "127.0.0.1:8411", ""),
        &["node 1 (`metrics`) and gateway 1 (`address`)", give],
    );
    refused(
        &with("127.0.0.1:7400", "LOCALHOST:7413", ""),
        &["node 3 (`address`) and gateway 1 (`address`)", give],
    );
    for other in
        ["localhost:7411", "[::ffff:127.0.0.1]:7411", "[::ffff:7f00:1]:7411", "LocalHost.:7411"]
    {
        let words = ["node 1 (`address`) and node 2 (`address`) as", other, give];
        refused(&with("127.0.0.1:7412", other, ""), &words);
    }
    let all = THREE.replace("7412", "7411").replace("7413", "7411");
    refused(
        &all,
        &["node 1 (`address`) and node 2 (`address`) and node 3 (`address`) share", give],
    );
    assert_eq!(
        parse(&all).expect_err("shared").matches("share the address").count(),
        1,
        "told once"
    );
    // "All addresses of this host" includes another address of the same host, but not one of
    // another host.
    refused(
        &with("127.0.0.1:8411", "0.0.0.0:7411", ""),
        &["node 1 (`address`) and node 1 (`metrics`)", give],
    );
    assert!(parse(&with("127.0.0.1:8411", "0.0.0.0:7412", "")).is_ok());
}

#[test]
fn a_wide_address_warns_once() {
    let yaml =
        with("127.0.0.1:7412", "10.0.0.2:7412", "").replace("127.0.0.1:7413", "lock.example:7413");
    warns(&yaml, &["node 2 (`address`) and 1 more", "without TLS"]);
    warns(&with("127.0.0.1:7400", "0.0.0.0:7400", ""), &["gateway 1 (`address`)", "without TLS"]);
}

/// Regression: the metrics of a cluster with TLS counted as protected by it, and without TLS they
/// counted as a port on which locks can be taken.
#[test]
fn wide_metrics_warn_of_what_they_tell_with_and_without_tls() {
    let tls = "access: {policy: p}\ntls:\n  inside: {cert: a, key: b, ca: c}\n  \
               clients: {cert: a, key: b}\n";
    for more in ["", tls] {
        let yaml = with("127.0.0.1:8411", "node-1.example:8411", more);
        warns(&yaml, &["node 1 (`metrics`) listens beyond this machine: metrics have neither"]);
        let (_, warnings) = parse(&yaml).expect("valid");
        assert!(!warnings.iter().any(|warning| warning.contains("take and break")), "{warnings:?}");
    }
}

#[test]
fn placements() {
    let placed = |text: &str| with("shards", "shards", &format!("placement: {text}"));
    let both = placed("[{shard: 1, nodes: [2, 1, 3]}, {shard: 0, nodes: [3, 2, 1]}]");
    let map = parse(&both).expect("valid").0.shard_map();
    let replicas = map.replicas(ShardId(1)).expect("placed");
    assert_eq!(
        (replicas.nodes.clone(), replicas.preferred_leader),
        (vec![NodeId(2), NodeId(1), NodeId(3)], NodeId(2))
    );
    refused(&placed("[{shard: 1, nodes: [2, 1, 3]}]"), &["lacks shard 0"]);
    refused(
        &placed("[{shard: 0, nodes: [1, 2, 3]}, {shard: 0, nodes: [1, 2, 3]}]"),
        &["shard 0 twice", "lacks shard 1"],
    );
    refused(
        &placed("[{shard: 0, nodes: [1, 2, 3]}, {shard: 2, nodes: [1, 2, 3]}]"),
        &["names shard 2"],
    );
    refused(
        &placed("[{shard: 0, nodes: [1, 2]}, {shard: 1, nodes: [1, 2, 3]}]"),
        &["shard 0 lists 2 nodes", "`replicas` is 3"],
    );
    refused(
        &placed("[{shard: 0, nodes: [1, 2, 4]}, {shard: 1, nodes: [1, 2, 3]}]"),
        &["names node 4", "not in `nodes`"],
    );
    refused(
        &placed("[{shard: 0, nodes: [1, 2, 2]}, {shard: 1, nodes: [1, 2, 3]}]"),
        &["node 2 twice"],
    );
}

#[test]
fn settings() {
    for (setting, words) in [
        ("tick_ms: 0", "tick_ms"),
        ("heartbeat_ticks: 0", "heartbeat_ticks"),
        ("heartbeat_ticks: 3", "at least 3 times"),
        ("election_ticks: 5", "at least 3 times"),
        ("entry_bytes_max: 1048576", "entry_bytes_max"),
        ("entry_bytes_max: 100", "entry_bytes_max"),
        ("entries_in_flight_max: 0", "entries_in_flight_max"),
        ("append_hold_ms: 1001", "choose 0 to 1000"),
        ("append_hold_ms: 50", "with `tick_ms` 50: make it less"),
        ("queue_ops_max: 0", "queue_ops_max"),
        ("checkpoint_log_bytes: 0", "checkpoint_log_bytes"),
        ("log_keep_bytes: 99999999999", "log_keep_bytes"),
        ("history_days: 0", "history_days"),
        ("waiter_grace_ms: 99999999", "waiter_grace_ms"),
        ("disk_hang_exit_ms: 10", "choose 1000 to 3600000"),
        ("disk_reserve_bytes: 99999999999999", "disk_reserve_bytes"),
        ("shard_threads: 100000", "shard_threads"),
    ] {
        refused(&with("shards", "shards", &format!("settings: {{{setting}}}")), &[words]);
    }
    let tight = "settings: {entry_bytes_max: 1000000, entries_in_flight_max: 20, checkpoint_log_bytes: 16777216}";
    refused(&with("shards", "shards", tight), &["every entry brings a checkpoint"]);
    let tight = "settings: {entry_bytes_max: 1000000, entries_in_flight_max: 1, checkpoint_log_bytes: 1200000}";
    refused(&with("shards", "shards", tight), &["every entry brings a checkpoint"]);
}

#[test]
fn a_zone_with_a_majority_warns_only_if_there_are_more() {
    let zones = |a: &str, b: &str, c: &str| {
        THREE
            .replace("id: 1", &format!("zone: {a}, id: 1"))
            .replace("id: 2", &format!("zone: {b}, id: 2"))
            .replace("id: 3", &format!("zone: {c}, id: 3"))
    };
    warns(&zones("x", "x", "y"), &["shard 0", "zone x holds 2 of 3", "1 more shard)"]);
    assert_eq!(parse(&zones("x", "y", "z")).expect("valid").1, [""; 0]);
    assert_eq!(parse(&zones("x", "x", "x")).expect("valid").1, [""; 0]);
}

#[test]
fn a_missing_file_is_named() {
    let error =
        ClusterConfig::load(std::path::Path::new("no/such/cluster.yaml")).expect_err("not there");
    assert!(error.to_string().contains("no/such/cluster.yaml"), "{error}");
}

#[test]
fn impossible_generated_clusters_are_refused() {
    let loopback = Addresses::Loopback { base_port: 7400 };
    let generate =
        |layout, addresses: &Addresses| ClusterConfig::generate("c", 4, 5, layout, 0, 1, addresses);
    assert!(generate(NodeLayout::Shared(4), &loopback).is_err(), "too few nodes");
    assert!(generate(NodeLayout::Shared(990), &loopback).is_err(), "too many for one host");
    assert!(
        generate(NodeLayout::Shared(5), &Addresses::Loopback { base_port: 65_000 }).is_err(),
        "no ports left"
    );
    assert!(ClusterConfig::dev(0, 3, 7400).is_err());
    assert_eq!(
        ClusterConfig::dev(4, 3, 7400).expect("valid").gateways[0].address,
        "127.0.0.1:7400"
    );
}

#[test]
fn the_fingerprint_of_a_file_never_changes() {
    // Data directories hold it. Another value here would make every existing directory unusable.
    assert_eq!(three().fingerprint().to_string(), "63b2c5a12510d45404efefd53a8c1a63");
}

#[test]
fn the_fingerprint_changes_with_what_is_frozen_and_with_nothing_else() {
    let base = three().fingerprint();
    let changed = |change: &dyn Fn(&mut ClusterConfig)| {
        let mut config = three();
        change(&mut config);
        config.validate().expect("still valid");
        config.fingerprint()
    };
    let frozen: [&dyn Fn(&mut ClusterConfig); 5] = [
        &|c| c.cluster = "other".into(),
        &|c| c.shards = 3,
        &|c| c.replicas = 1,
        &|c| c.nodes[2].id = NodeId(4),
        &|c| {
            // Leaders other than the computed ones.
            let nodes = vec![NodeId(3), NodeId(1), NodeId(2)];
            c.placement = (0..2)
                .map(|s| PlacementConfig { shard: ShardId(s), nodes: nodes.clone() })
                .collect();
        },
    ];
    for (at, change) in frozen.iter().enumerate() {
        assert_ne!(changed(change), base, "change {at}");
    }
    let free: [&dyn Fn(&mut ClusterConfig); 6] = [
        &|c| c.nodes[1].address = "127.0.0.1:9999".into(),
        &|c| c.nodes[0].metrics = None,
        &|c| c.gateways.clear(),
        &|c| c.settings.history_days = 7,
        &|c| c.nodes.reverse(),
        &|c| {
            // The same placement as the computed one.
            let map = c.shard_map();
            let placed = |(shard, replicas): (ShardId, &Replicas)| {
                let mut nodes = replicas.nodes.clone();
                nodes.sort_by_key(|node| *node != replicas.preferred_leader);
                PlacementConfig { shard, nodes }
            };
            c.placement = map.shards().map(placed).collect();
        },
    ];
    for (at, change) in free.iter().enumerate() {
        assert_eq!(changed(change), base, "change {at}");
    }
}

prop_compose! {
    fn any_config()(
        name in "[a-zA-Z0-9:# '\"{}-]{0,12}[a-z]",
        shards in 1..20u32,
        (replicas, nodes) in (1..6u32).prop_flat_map(|replicas| (Just(replicas), replicas..12)),
        zones in 0..4u32,
        gateways in 0..3u32,
        explicit in any::<bool>(),
        tick_ms in 5..1_000u64,
        hosts in any::<bool>(),
    ) -> ClusterConfig {
        let addresses = match hosts {
            true => Addresses::Hosts { domain: "palisade.example".into(), port: 7400 },
            false => Addresses::Loopback { base_port: 7400 },
        };
        let mut config = ClusterConfig::generate(&name, shards, replicas, NodeLayout::Shared(nodes), zones, gateways, &addresses).expect("valid");
        config.settings.tick_ms = tick_ms;
        config.settings.append_hold_ms = tick_ms / 5;
        if explicit {
            let map = config.shard_map();
            config.placement = map.shards().map(|(shard, r)| PlacementConfig { shard, nodes: r.nodes.clone() }).collect();
        }
        config
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(config in any_config()) {
        let (read, warnings) = ClusterConfig::parse(&config.to_yaml()).expect("own file");
        prop_assert_eq!(&read, &config);
        prop_assert_eq!(read.fingerprint(), config.fingerprint());
        prop_assert_eq!(warnings, config.validate().expect("valid"));
    }

    #[test]
    fn no_text_makes_the_parser_panic(yaml in "\\PC{0,200}") {
        let _ = ClusterConfig::parse(&yaml);
        let _ = ClusterConfig::parse(&format!("{THREE}\n{yaml}"));
    }
}
