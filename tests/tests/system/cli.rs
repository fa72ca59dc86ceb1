//! The command line against a running cluster: its output and its exit codes.

use palisade_tests::{Cluster, Spec, palisade_binary};
use std::process::{Command, Output};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn error_code(output: &Output) -> String {
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON document");
    json["error"]["code"].as_str().expect("an error with a code").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locks_life() {
    let cluster = Cluster::start(Spec::default()).await;
    let free = cluster.run_json(&["check", "payment:user:123"]).await;
    assert_eq!((free["state"].as_str(), free["fencing_token"].as_u64()), (Some("FREE"), None));

    let grant = cluster
        .run_json(&["acquire", "payment:user:123", "--owner", "pod-42", "--ttl", "1m30s"])
        .await;
    assert_eq!(grant["resource_name"], "payment:user:123");
    assert_eq!(grant["owner_id"], "pod-42");
    assert_eq!(grant["ttl_ms"], 90_000);
    assert_eq!(grant["state"], "ACQUIRED");
    assert_eq!(grant["renewal_count"], 0);
    assert!(grant["expires_at_ms"].as_u64() > grant["acquired_at_ms"].as_u64());
    let token = grant["fencing_token"].as_u64().expect("a token").to_string();

    let renewal = cluster.run_json(&["renew", "payment:user:123", "--token", &token]).await;
    assert_eq!(renewal["renewal_count"], 1);
    let held = cluster.run_json(&["check", "payment:user:123"]).await;
    assert_eq!(
        (&held["state"], &held["fencing_token"]),
        (&"ACQUIRED".into(), &grant["fencing_token"])
    );
    assert_eq!(held["renewal_count"], 1);

    let listed = cluster.run_json(&["ls", "payment:"]).await;
    assert_eq!(listed["grants"].as_array().expect("grants").len(), 1);
    let none = cluster.run_json(&["ls", "other:"]).await;
    assert_eq!(none["grants"].as_array().expect("grants").len(), 0);

    let released = cluster.run_json(&["release", "payment:user:123", "--token", &token]).await;
    assert_eq!(
        (&released["state"], &released["already_released"]),
        (&"RELEASED".into(), &false.into())
    );
    let again = cluster.run_json(&["release", "payment:user:123", "--token", &token]).await;
    assert_eq!(again["already_released"], true);

    let history = cluster.run_json(&["history", "payment:user:123"]).await;
    assert_eq!(history["tenures"][0]["state"], "RELEASED");
    assert_eq!(history["tenures"][0]["fencing_token"], grant["fencing_token"]);
    assert_eq!(history["tenures"][0]["renewal_count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_hold_a_lock_cannot_touch_it() {
    let cluster = Cluster::start(Spec::default()).await;
    let grant = cluster.run_json(&["acquire", "a"]).await;
    let token = grant["fencing_token"].as_u64().expect("a token");
    let wrong = (token + 1_000).to_string();
    for verb in ["renew", "release"] {
        let refused = cluster.run(&[verb, "a", "--token", &wrong, "--json"]).await;
        assert_eq!(
            (refused.status.code(), error_code(&refused).as_str()),
            (Some(4), "NOT_OWNER"),
            "{verb}"
        );
    }
    let held = cluster.run_json(&["check", "a"]).await;
    assert_eq!(held["fencing_token"], token, "nothing was released");

    let broken = cluster
        .run_json(&["break", "a", "--reason", "its owner is gone", "--by", "operator"])
        .await;
    assert_eq!((&broken["state"], &broken["broken_by"]), (&"BROKEN".into(), &"operator".into()));
    let refused = cluster.run(&["renew", "a", "--token", &token.to_string(), "--json"]).await;
    assert_eq!(refused.status.code(), Some(4), "{}", error_code(&refused));
    let history = cluster.run_json(&["history", "a"]).await;
    assert_eq!(history["tenures"][0]["break_reason"], "its owner is gone");
    let nobody = cluster.run(&["break", "a", "--reason", "again", "--json"]).await;
    assert_eq!((nobody.status.code(), error_code(&nobody).as_str()), (Some(1), "NOT_HELD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_as_usage_and_the_service_goes_on() {
    let cluster = Cluster::start(Spec::default()).await;
    let long = "n".repeat(513);
    let cases: [&[&str]; 12] = [
        &["acquire", ""],
        &["acquire", &long],
        &["acquire", "a\nb"],
        &["acquire", "a", "--ttl", "99ms"],
        &["acquire", "a", "--ttl", "25h"],
        &["check", ""],
        // The parser of the command line refuses these, and prints the same document.
        &["acquire", "a", "--owner", ""],
        &["break", "a", "--reason", "gone", "--by", ""],
        &["acquire", "a", "--ttl", "soon"],
        &["acquire", "a", "--tll", "5s"],
        &["renew", "a"],
        &["fly"],
    ];
    for args in cases {
        let refused = cluster.run(&[args, &["--json"]].concat()).await;
        assert_eq!(
            (refused.status.code(), error_code(&refused).as_str()),
            (Some(2), "INVALID_ARGUMENT"),
            "{args:?}"
        );
    }
    for args in [
        &["acquire", "a", "--ttl", "soon"][..],
        &["renew", "a"],
        &["acquire", "a", "--request-id", "7"],
        &["fly"],
    ] {
        let refused = cluster.run(args).await;
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {}", stderr(&refused));
    }
    let exact = "n".repeat(512);
    cluster.run_json(&["acquire", &exact, "--ttl", "100ms"]).await;
    cluster.run_json(&["acquire", "ünïcödé 🔒", "--ttl", "24h"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_can_be_retried_by_hand() {
    let cluster = Cluster::start(Spec::default()).await;
    let id = "00112233445566778899aabbccddeeff";
    let first = cluster.run_json(&["acquire", "a", "--request-id", id]).await;
    let retry = cluster.run_json(&["acquire", "a", "--request-id", id]).await;
    assert_eq!(first["fencing_token"], retry["fencing_token"]);
    let other = cluster.run(&["acquire", "a"]).await;
    assert_eq!(other.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_holders_and_sessions() {
    let cluster = Cluster::start(Spec::default()).await;
    let opened = cluster.run_json(&["session", "open", "--owner", "me", "--ttl", "30s"]).await;
    let session = opened["session_id"].as_str().expect("an id");
    let one = cluster.run_json(&["acquire", "a", "--mode", "shared", "--session", session]).await;
    let two = cluster.run_json(&["acquire", "a", "--mode", "shared", "--owner", "other"]).await;
    assert!(two["fencing_token"].as_u64() > one["fencing_token"].as_u64());
    assert_eq!(cluster.run(&["acquire", "a"]).await.status.code(), Some(3));
    let held = cluster.run_json(&["check", "a"]).await;
    assert_eq!(held["holders"].as_array().expect("holders").len(), 2);
    assert_eq!(held["holders"][0]["session_id"], session);

    let shard = one["shard"].to_string();
    let beat = cluster.run_json(&["session", "heartbeat", session, "--shards", &shard]).await;
    assert_eq!(beat["renewed_shards"], 1);
    let closed = cluster.run_json(&["session", "close", session, "--shards", &shard]).await;
    assert_eq!(closed["released"], 1);
    let lost = cluster.run(&["session", "heartbeat", session, "--shards", &shard]).await;
    assert_eq!(lost.status.code(), Some(4), "{}", stderr(&lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_status_for_people_and_programs() {
    let mut cluster = Cluster::start(Spec { shards: 2, ..Spec::default() }).await;
    cluster.replicas_agree().await;
    let status = cluster.run_json(&["cluster", "status"]).await;
    assert_eq!(status["shards"].as_array().expect("shards").len(), 2);
    for shard in status["shards"].as_array().expect("shards") {
        assert!(shard["leader"].is_u64(), "{shard}");
        assert_eq!(shard["replicas"].as_array().expect("replicas").len(), 3);
        assert_eq!(shard["hashes_equal"], true, "{shard}");
    }
    let table =
        String::from_utf8_lossy(&cluster.run(&["cluster", "status"]).await.stdout).into_owned();
    assert!(table.contains("state hashes") && table.contains("equal"), "{table}");

    cluster.kill_node(1);
    cluster.kill_node(2);
    let client = cluster.client();
    palisade_tests::eventually("the last node knows that it does not lead", async || {
        let status = client.cluster_status().await.ok()?;
        status.shards.iter().all(|replica| replica.role != "leader").then_some(())
    })
    .await;
    let leaderless = cluster.run(&["cluster", "status"]).await;
    assert_eq!(leaderless.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&leaderless.stdout).contains("DOWN"));
    assert!(stderr(&leaderless).contains("no leader for shards 0, 1"), "{}", stderr(&leaderless));
}

fn nobody_there(args: &[&str]) -> Output {
    let mut command = Command::new(palisade_binary());
    // The discard port of a loopback address that no other program uses.
    command.args(args).env("PALISADE_ENDPOINT", "127.0.0.9:9").output().expect("run palisade")
}

#[test]
fn nobody_there_is_an_error_that_says_where_it_looked_and_not_one_of_the_cluster() {
    for verb in [
        &["acquire", "a"][..],
        &["check", "a"],
        &["session", "open"],
        &["cluster", "status"],
        &["bench"],
    ] {
        let output = nobody_there(&[verb, &["--timeout", "300ms"]].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
        assert!(
            said.contains("the gateway at 127.0.0.9:9 could not be reached"),
            "{verb:?}: {said}"
        );
        assert!(!said.contains("leader"), "{verb:?} blames the cluster: {said}");
        for way_out in ["next: ", "palisade dev", "--endpoint", "PALISADE_ENDPOINT"] {
            assert!(said.contains(way_out), "{verb:?}: {way_out} is not in {said}");
        }
        assert!(output.stdout.is_empty(), "{verb:?} prints an empty result");
        let output = nobody_there(&[verb, &["--timeout", "300ms", "--json"]].concat());
        assert_eq!(
            (output.status.code(), error_code(&output).as_str()),
            (Some(1), "UNREACHABLE"),
            "{verb:?}"
        );
    }
    let output = nobody_there(&["lock", "a", "--timeout", "300ms", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("could not be reached"), "{}", stderr(&output));
}

#[test]
fn a_command_line_that_cannot_be_parsed_is_told_where_json_goes_only_if_json_was_asked_for() {
    let asked = nobody_there(&["acquire", "a", "--ttl", "90", "--json"]);
    assert_eq!((asked.status.code(), error_code(&asked).as_str()), (Some(2), "INVALID_ARGUMENT"));
    assert!(asked.stderr.is_empty(), "{}", stderr(&asked));
    for plain in
        [&["acquire", "a", "--ttl", "90"][..], &["lock", "a", "--ttl", "90", "--", "ls", "--json"]]
    {
        let output = nobody_there(plain);
        assert_eq!(output.status.code(), Some(2), "{plain:?}");
        assert!(
            output.stdout.is_empty() && stderr(&output).contains("`90` has no unit"),
            "{plain:?}"
        );
    }
    let help = nobody_there(&["acquire", "--json", "--help"]);
    assert!(
        help.status.success()
            && String::from_utf8_lossy(&help.stdout).contains("Usage: palisade acquire")
    );
}
