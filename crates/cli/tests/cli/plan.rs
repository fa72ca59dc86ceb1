//! `palisade plan` as a program: what it prints and writes, and its exit codes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn palisade(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palisade")).args(args).output().expect("run palisade")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn workload(name: &str) -> String {
    root().join("config/workloads").join(name).display().to_string()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn the_worked_solution() {
    let file = workload("worked-solution.yaml");
    let shown = stdout(&palisade(&["plan", "--workload", &file, "--compare"]));
    let golden = root().join("crates/planner/tests/golden/worked-solution.txt");
    assert_eq!(shown, std::fs::read_to_string(golden).expect("the planner's golden text"));
    let json = stdout(&palisade(&["plan", "--workload", &file, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("one JSON document");
    assert_eq!(
        (&json["shards_avg"], &json["shards_peak"], &json["fit"]),
        (&1.into(), &3.into(), &"yes".into())
    );
}

#[test]
fn a_plan_becomes_a_cluster_file_that_is_accepted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cluster, picture) = (dir.path().join("cluster.yaml"), dir.path().join("growth.svg"));
    let file = workload("hyperscale.yaml");
    let emit = ["plan", "--workload", &file, "--emit", text(&cluster), "--plot", text(&picture)];
    stdout(&palisade(&emit));
    let checked = stdout(&palisade(&["cluster", "check", "--config", text(&cluster)]));
    assert!(
        checked.starts_with("hyperscale: 14 shards × 5 replicas on 70 nodes, 10 gateways"),
        "{checked}"
    );
    assert!(std::fs::read_to_string(&picture).expect("the picture").starts_with("<svg"));
    // The same plan, scaled to one machine.
    let mut small = emit.to_vec();
    small.extend(["--shards", "2", "--nodes", "5", "--base-port", "17400"]);
    stdout(&palisade(&small));
    let checked = stdout(&palisade(&["cluster", "check", "--config", text(&cluster), "--members"]));
    assert!(checked.starts_with("node 1 127.0.0.1:17411\n"), "{checked}");
}

#[test]
fn a_template_and_a_calibration_are_input() {
    let dir = tempfile::tempdir().expect("a directory");
    let (template, calibration) =
        (dir.path().join("workload.yaml"), dir.path().join("calibration.yaml"));
    std::fs::write(&template, stdout(&palisade(&["plan", "--template"]))).expect("write");
    std::fs::write(
        &calibration,
        "measured: true\nsource: this desk\nwrites_per_s_per_leader: 500\n",
    )
    .expect("write");
    let args = [
        "plan",
        "--workload",
        text(&template),
        "--calibration",
        text(&calibration),
        "--hold",
        "2m",
        "--json",
    ];
    let json: serde_json::Value = serde_json::from_str(&stdout(&palisade(&args))).expect("JSON");
    assert_eq!(
        (&json["workload"]["hold_s"], &json["calibration"]["source"]),
        (&120.0.into(), &"this desk".into())
    );
    // The peak is 2,000 acquires and releases a second at 500 per leader, and a few heartbeats.
    assert_eq!(json["palisade"]["shards_peak"], 5);
}

#[test]
fn questions_go_to_standard_error_and_the_plan_to_standard_output() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_palisade"))
        .args(["plan", "--interactive", "--json", "--events-per-day", "1M"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run palisade");
    child.stdin.take().expect("its input").write_all("\n".repeat(40).as_bytes()).expect("answer");
    let output = child.wait_with_output().expect("its end");
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("only JSON");
    assert_eq!(json["acquire_per_s"], 11.574074);
    let asked = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(asked.contains("1. Latency") && asked.contains("5. Storage"), "{asked}");
}

#[test]
fn bad_input_is_a_usage_error_that_says_what_to_change() {
    for (args, message) in [
        (&["plan"][..], "the workload has no rate"),
        (&["plan", "--instances", "0"], "`instances` is 0"),
        (&["plan", "--instances", "5", "--hold", "-5s"], "is negative"),
        (
            &["plan", "--instances", "5", "--emit", "/nonexistent/c.yaml", "--nodes", "1"],
            "too few nodes",
        ),
        (&["plan", "--workload", "/nonexistent.yaml"], "cannot read the workload file"),
        (
            &["plan", "--instances", "5", "--calibration", "/nonexistent.yaml"],
            "cannot read the calibration file",
        ),
        (&["plan", "--instances", "5", "--nodes", "5"], "--emit"),
        (&["plan", "--instnaces", "5"], "--instances"),
    ] {
        let output = palisade(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
    let output = palisade(&["plan", "--instances", "5", "--ttl", "1ms", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("an error in JSON");
    assert!(
        json["error"]["message"]
            .as_str()
            .is_some_and(|message| message.starts_with("`ttl` is 1ms")),
        "{json}"
    );
    let unwritable = palisade(&["plan", "--instances", "5", "--plot", "/nonexistent/p.svg"]);
    assert_eq!(unwritable.status.code(), Some(1));
}
