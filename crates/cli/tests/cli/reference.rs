//! `docs/reference/command-line.md` is the help of every verb, as the program prints it.
//! `docs/reference/cluster-file.md` has every key of the cluster file, in the words of the types.
//! `docs/reference/metrics.md` has every metric that a running gateway and node serve.
//!
//! `PALISADE_BLESS=1 cargo test -p palisade-cli --test cli reference` writes all pages anew.

use local_cluster::{InProcess, InProcessOptions};
use routing::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use storage::{Engine, MemoryEngine};

const COMMAND_LINE: &str = "\
# Command line

The help of every verb, as `palisade VERB --help` prints it.
Exit codes and JSON are explained in [the command line in scripts](../guide/command-line.md).

<!-- Written by `PALISADE_BLESS=1 cargo test -p palisade-cli --test cli reference`. -->
";

const CLUSTER_FILE: &str = "\
# Cluster file

Every key of `cluster.yaml`. Unknown keys are refused, and so are values out of range;
`palisade cluster check --config FILE` says which and why.
Frozen keys cannot change once the cluster has started.
What to write first is in [deploy](../operate/deploy.md); `config/dev.yaml` shows every setting.

<!-- Written by `PALISADE_BLESS=1 cargo test -p palisade-cli --test cli reference`. -->
";

const METRICS: &str = "\
# Metrics

Every metric on the `/metrics` pages of gateways and nodes. The type of a histogram says its first
and last finite bucket. Counters start at 0 with the process, and those with the label `shard` or
`peer` with the replica or the peer: they are shown as long as it is there.
Which metrics to look at, and when to raise an alarm, is in [monitoring](../operate/monitoring.md).

**Sums over processes.** Counters and histograms of operations may be summed over all processes of a
kind, because each operation is counted once: by the gateway that it came to, and by the node that
answered it. Metrics of nodes with the label `shard` are per replica, and each shard has several:

- `palisade_raft_is_leader`, `palisade_replicas_behind` and `palisade_oldest_hold_seconds` are set
  on the leader alone, so that a sum, or a maximum, over nodes is right.
- `palisade_grants_ended_total` and `palisade_hold_seconds` count on the leader alone.
- The `granted` waits of `palisade_acquire_wait_seconds` and `palisade_gateway_acquire_wait_seconds`
  count each answer. A retry of an acquire that was granted before counts again.
- `palisade_active_locks`, `palisade_waiters`, `palisade_sessions` and
  `palisade_leader_changes_total` are what each replica knows: take `max by (shard)`, and only then
  the sum. The same holds for terms, indexes, and entries and commands applied.
- `palisade_shard_has_leader` is what each replica knows: its minimum finds the replica that is cut
  off.
- The label `shard` is `meta` for the group of the topology. It has no locks, so leave it out of sums
  over shards: `shard!=\"meta\"`.

<!-- Written by `PALISADE_BLESS=1 cargo test -p palisade-cli --test cli reference`. -->
";

/// A struct of the cluster file, and its heading on the page.
const PARTS: [(&str, &str); 11] = [
    ("ClusterConfig", "The whole file"),
    ("NodeConfig", "`nodes`: a list of"),
    ("GatewayConfig", "`gateways`: a list of"),
    ("PlacementConfig", "`placement`: a list of"),
    ("Settings", "`settings`"),
    ("TlsConfig", "`tls`"),
    ("InsideTls", "`tls.inside`"),
    ("ClientTls", "`tls.clients`"),
    ("AccessConfig", "`access`"),
    ("JwtConfig", "`access.jwt`"),
    ("AuditConfig", "`audit`"),
];

/// The path of a file in this repository.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Compares a page with the stored one, and first stores it if `PALISADE_BLESS` is set.
fn kept(path: &str, page: &str) {
    let path = file(path);
    if std::env::var_os("PALISADE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("make the directory");
        std::fs::write(&path, page).expect("write the page");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        kept,
        page,
        "{} is out of date: look at the change, and write the page anew (see the head of this test)",
        path.display()
    );
}

/// The output of `palisade VERB… --help`, 100 columns wide, independent of this test's environment.
fn help(verbs: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PALISADE_")) {
        command.env_remove(name); // help shows the value of a set variable
    }
    let output =
        command.args(verbs).arg("--help").env("COLUMNS", "100").env("NO_COLOR", "1").output();
    let output = output.expect("start palisade");
    assert!(output.status.success(), "palisade {verbs:?} --help: {output:?}");
    let text = String::from_utf8(output.stdout).expect("help in UTF-8");
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The verbs that a help text lists.
fn verbs_in(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = lines.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    verbs
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

fn add(verbs: &[String], page: &mut String) {
    let help = help(verbs);
    let title = std::iter::once("palisade")
        .chain(verbs.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ");
    page.push_str(&format!("\n## `{title}`\n\n```text\n{}\n```\n", help.trim_end()));
    for verb in verbs_in(&help) {
        add(&[verbs, &[verb]].concat(), page);
    }
}

#[test]
fn the_page_is_the_help_of_every_verb() {
    let mut page = COMMAND_LINE.to_owned();
    add(&[], &mut page);
    for verb in ["acquire", "lock", "session open", "cluster status"] {
        assert!(
            page.contains(&format!("\n## `palisade {verb}`\n")),
            "{verb} is missing in\n{page}"
        );
    }
    kept("docs/reference/command-line.md", &page);
}

/// The fields of a struct with their documentation, each in one line.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let start = format!("pub struct {name} {{\n");
    let (_, body) = source.split_once(&start).unwrap_or_else(|| panic!("there is no `{start}`"));
    let (body, _) = body.split_once("\n}").expect("the end of the struct");
    let mut fields = Vec::new();
    let mut said: Vec<&str> = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            said.extend(Some(words.trim()).filter(|words| !words.is_empty()));
        } else if let Some((field, _)) =
            line.strip_prefix("pub ").and_then(|field| field.split_once(':'))
        {
            fields.push((field.to_owned(), said.join(" ").replace('|', "\\|")));
            said.clear();
        }
    }
    fields
}

/// The default of each setting, in Rust's debug format.
fn defaults() -> BTreeMap<String, String> {
    let shown = format!("{:#?}", Settings::default());
    let lines = shown.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(": "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_page_has_every_key_of_the_cluster_file() {
    let source: String = ["mod.rs", "security.rs"]
        .map(|name| file("crates/routing/src/config").join(name))
        .iter()
        .map(|path| {
            std::fs::read_to_string(path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect();
    let defaults = defaults();
    let mut page = CLUSTER_FILE.to_owned();
    for (name, title) in PARTS {
        let fields = fields(&source, name);
        assert!(
            fields.len() >= 2 && fields.iter().all(|(_, said)| !said.is_empty()),
            "{name}: {fields:?}"
        );
        page.push_str(&format!("\n## {title}\n\n"));
        page.push_str(if name == "Settings" {
            "| key | default | meaning |\n|---|---|---|\n"
        } else {
            "| key | meaning |\n|---|---|\n"
        });
        for (field, said) in fields {
            match defaults.get(&field).filter(|_| name == "Settings") {
                Some(value) => page.push_str(&format!("| `{field}` | {value} | {said} |\n")),
                None => page.push_str(&format!("| `{field}` | {said} |\n")),
            }
        }
    }
    assert!(page.contains("| `tick_ms` | 50 |"), "{page}");
    kept("docs/reference/cluster-file.md", &page);
}

/// One metric, as a page of `/metrics` describes it.
#[derive(Default)]
struct Metric {
    help: String,
    kind: String,
    /// The values of each label.
    labels: BTreeMap<String, BTreeSet<String>>,
    /// The upper bounds of a histogram's buckets.
    bounds: Vec<String>,
}

/// The metrics on a page, by name.
fn metrics_on(page: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            metrics.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            // A sum or count of a histogram has the same labels as its buckets.
            let Some(metric) = metrics.get_mut(name) else { continue };
            let (labels, _) = labels.split_once('}').expect("the end of the labels");
            for label in labels.split(',') {
                let (label, value) = label.split_once('=').expect("a value");
                let value = value.trim_matches('"').to_owned();
                match label {
                    "le" if !metric.bounds.contains(&value) => metric.bounds.push(value),
                    "le" => {}
                    _ => drop(metric.labels.entry(label.to_owned()).or_default().insert(value)),
                }
            }
        }
    }
    metrics
}

/// The unit of a metric's values, as its name says it.
fn unit(name: &str) -> &'static str {
    let units = [
        ("_seconds", "seconds"),
        ("_bytes", "bytes"),
        ("_connected", "0 or 1"),
        ("_is_leader", "0 or 1"),
        ("_has_leader", "0 or 1"),
        ("_ready", "0 or 1"),
        ("_reseeding", "0 or 1"),
        ("_stands_by", "0 or 1"),
        ("_build_info", "1"),
        ("_behind_entries", "log entries"),
        ("_index", "log index"),
        ("_term", "Raft term"),
        ("_fsync_entries", "log entries"),
        ("_log_entries_written", "log entries"),
        ("_fsync_shard_writes", "writes"),
        ("_frame_operations", "operations"),
    ];
    let name = name.strip_suffix("_total").unwrap_or(name);
    units.into_iter().find(|(end, _)| name.ends_with(end)).map_or("count", |(_, unit)| unit)
}

/// A table of metrics.
fn table_of(metrics: &BTreeMap<String, Metric>) -> String {
    let mut table =
        "| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n".to_owned();
    for (name, Metric { help, kind, labels, bounds }) in metrics {
        let labels: Vec<String> = labels.keys().map(|label| format!("`{label}`")).collect();
        let kind = match bounds.as_slice() {
            [first, .., last, _infinite] => format!("{kind}, {first} to {last}"),
            _ => kind.clone(),
        };
        let (labels, unit) = (labels.join(", "), unit(name));
        table.push_str(&format!("| `{name}` | {kind} | {labels} | {unit} | {help} |\n"));
    }
    table
}

/// A table of labels with their values. Values that are numbers depend on the cluster.
fn values_of<'a>(metrics: impl Iterator<Item = &'a Metric>) -> String {
    let mut values: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (label, seen) in metrics.flat_map(|metric| &metric.labels) {
        values.entry(label).or_default().extend(seen);
    }
    let mut table = "| label | values |\n|---|---|\n".to_owned();
    for (label, values) in values {
        let of = match label.as_str() {
            "version" => "the version of the program".to_owned(),
            "node" | "peer" => "the id of a node in the cluster file".to_owned(),
            "shard" => "the number of a shard, from 0".to_owned(),
            _ => values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "),
        };
        table.push_str(&format!("| `{label}` | {of} |\n"));
    }
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_every_metric_of_gateways_and_nodes() {
    let socket = || TcpListener::bind("127.0.0.1:0").expect("a socket");
    let engine = || Arc::new(MemoryEngine::new()) as Arc<dyn Engine>;
    let options = InProcessOptions {
        name: "metrics".into(),
        shards: 1,
        engines: vec![engine(), engine(), engine()],
        listener: socket(),
        metrics_listener: socket(),
        protection: None,
        insecure: false,
    };
    let cluster = InProcess::start(options).await.expect("a cluster");
    let node = cluster.config().nodes[0].metrics.clone().expect("its metrics");
    let addresses = [cluster.metrics_address().to_owned(), node];
    let read = |address: String| local_cluster::page(&address, "/metrics").expect("a page");
    let pages = tokio::task::spawn_blocking(move || addresses.map(read));
    let [gateway, node] = pages.await.expect("no panic").map(|page| metrics_on(&page));
    cluster.stop().await.expect("stops");

    for (metrics, some) in [
        (&gateway, "palisade_gateway_operation_seconds"),
        (&node, "palisade_peer_messages_dropped_total"),
    ] {
        assert!(metrics.contains_key(some), "{some}");
        for (name, metric) in metrics {
            assert!(!metric.help.is_empty() && !metric.kind.is_empty(), "{name}");
        }
    }
    let page = format!(
        "{METRICS}\n## Gateways\n\n{}\n## Nodes\n\n{}\n## Labels\n\n{}",
        table_of(&gateway),
        table_of(&node),
        values_of(gateway.values().chain(node.values()))
    );
    kept("docs/reference/metrics.md", &page);
}
