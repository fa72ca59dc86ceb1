//! Who waits, and lists of some locks, from the lock table to the command line and to HTTP.

use palisade_tests::{Cluster, Spec, eventually};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// The fields of the rows of a list.
fn told(document: &Value, list: &str, field: &str) -> Vec<String> {
    let rows = document[list].as_array().unwrap_or_else(|| panic!("{list} of {document}"));
    let text = |row: &Value| match &row[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    rows.iter().map(text).collect()
}

/// Sends one request over HTTP, and returns the status and the body of the answer.
fn http(cluster: &Cluster, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(cluster.gateway(1)).expect("connect");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\
         content-type: application/json\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_shown_in_the_order_of_turns() {
    let cluster = Cluster::start(Spec::default()).await;
    let held = cluster.run_json(&["acquire", "q/a", "--owner", "ann", "--ttl", "5m"]).await;
    cluster.run_json(&["acquire", "q/b", "--owner", "eve", "--ttl", "5m"]).await;
    let queue = async |count: usize| {
        eventually("a queue", async || {
            let checked = cluster.run_json(&["check", "q/a"]).await;
            (told(&checked, "queue", "place").len() == count).then_some(checked)
        })
        .await
    };
    let wait = |owner: &str| {
        let args = ["acquire", "q/a", "--owner", owner, "--wait", "5m", "--ttl", "5m", "--json"];
        cluster.palisade(&args).spawn().expect("start a waiter")
    };
    let bob = wait("bob");
    queue(1).await;
    let mut carl = wait("carl");
    let checked = queue(2).await;
    assert_eq!(told(&checked, "queue", "owner_id"), ["bob", "carl"]);
    assert_eq!(told(&checked, "queue", "place"), ["1", "2"]);
    assert_eq!(told(&checked, "queue", "resource_name"), ["q/a", "q/a"]);
    let first = cluster.run_json(&["check", "q/a", "--waiters", "1"]).await;
    assert_eq!(
        (told(&first, "queue", "owner_id"), &first["waiters"]),
        (vec!["bob".into()], &2.into())
    );
    let text = cluster.run(&["check", "q/a"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("place") && text.contains("carl"), "{text}");

    for (args, names) in [
        (&["ls", "q/"][..], &["q/a", "q/b"][..]),
        (&["ls", "q/", "--waiting"], &["q/a"]),
        (&["ls", "q/", "--owner", "eve"], &["q/b"]),
        (&["ls", "--all", "--owner", "eve"], &["q/b"]),
        (&["ls", "q/", "--older-than", "1h"], &[]),
        (&["ls", "q/", "--older-than", "1ms"], &["q/a", "q/b"]),
        (&["ls", "q/", "--waiting", "--owner", "eve"], &[]),
    ] {
        let listed = cluster.run_json(args).await;
        assert_eq!(told(&listed, "grants", "resource_name"), names, "{args:?}");
        let waits = args.contains(&"--waiting") && !names.is_empty();
        let waiters = if waits { &["bob", "carl"][..] } else { &[] };
        assert_eq!(told(&listed, "waiters", "owner_id"), waiters, "{args:?}");
    }
    let (status, listed) = http(&cluster, "GET", "/v1/locks?prefix=q/&waiting=true", "");
    assert_eq!((status, told(&listed, "locks", "owner_id")), (200, vec!["ann".to_owned()]));
    assert_eq!(told(&listed, "waiters", "owner_id"), ["bob", "carl"]);
    let (status, checked) = http(&cluster, "GET", "/v1/check?name=q/a&waiters=10", "");
    assert_eq!((status, told(&checked, "queue", "owner_id").len()), (200, 2));

    let refused = cluster.run(&["lock", "q/a", "--conflict-exit-code", "75", "--", "true"]).await;
    assert_eq!(refused.status.code(), Some(75));
    let token = held["fencing_token"].to_string();
    cluster.run_json(&["release", "q/a", "--token", &token]).await;
    let granted = tokio::task::spawn_blocking(|| bob.wait_with_output()).await.unwrap().unwrap();
    assert!(granted.status.success());
    assert_eq!(told(&queue(1).await, "queue", "owner_id"), ["carl"]);
    carl.kill().expect("end the waiter");
    carl.wait().expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn terraform_locks_and_unlocks() {
    let cluster = Cluster::start(Spec::default()).await;
    let info = |id: &str, who: &str| {
        format!(
            r#"{{"ID":"{id}-7a3a-4f0e-9a55-8f4d9d0c6a11","Operation":"OperationTypeApply","Info":"","Who":"{who}","Version":"1.9.8","Created":"2026-11-30T12:00:00.1Z","Path":""}}"#
        )
    };
    let (ann, bob) = (info("8d5d5b6c", "ann@ci"), info("11111111", "bob@ci"));
    let ask = |method: &str, body: &str| http(&cluster, method, "/v1/terraform/prod/network", body);
    let (status, granted) = ask("LOCK", &ann);
    assert_eq!((status, &granted["ttl_ms"]), (200, &86_400_000.into()));
    assert_eq!(ask("LOCK", &ann).1["fencing_token"], granted["fencing_token"], "a retry");
    let (status, holder) = ask("LOCK", &bob);
    assert_eq!(
        (status, holder.to_string()),
        (423, serde_json::from_str::<Value>(&ann).unwrap().to_string())
    );
    let shown = cluster.run_json(&["check", "prod/network"]).await;
    assert_eq!(
        (&shown["owner_id"], &shown["holders"][0]["metadata"]),
        (&"ann@ci".into(), &ann.as_str().into())
    );
    assert_eq!(ask("UNLOCK", &bob).0, 412);
    assert_eq!(ask("UNLOCK", &ann).0, 200);
    assert_eq!(ask("LOCK", &bob).0, 200);
    assert_eq!(ask("GET", "").0, 405);
}
