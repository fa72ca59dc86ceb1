//! The examples run against a cluster, and end as their comments say.
//!
//! `fencing_postgres` is left out, because it needs a PostgreSQL server.

use local_cluster::{InProcess, InProcessOptions};
use palisade_client::{Client, Consistency};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use storage::{Engine, MemoryEngine};

/// A cluster of three nodes in memory, with four shards that all have leaders.
async fn cluster() -> InProcess {
    let socket = || TcpListener::bind("127.0.0.1:0").expect("a socket");
    let engine = || Arc::new(MemoryEngine::new()) as Arc<dyn Engine>;
    let options = InProcessOptions {
        name: "examples".into(),
        shards: 4,
        engines: vec![engine(), engine(), engine()],
        listener: socket(),
        metrics_listener: socket(),
        protection: None,
        insecure: false,
    };
    let cluster = InProcess::start(options).await.expect("a cluster");
    cluster.led().await;
    cluster
}

fn start(program: &str, arguments: &[&str], cluster: &InProcess) -> Child {
    Command::new(program)
        .args(arguments)
        .env("PALISADE_ENDPOINT", cluster.address())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the example")
}

/// Waits for the end of a program, while the cluster in this process goes on.
async fn ended(child: Child) -> Output {
    tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("a thread").expect("ends")
}

/// The output of an example that ended well.
async fn said(child: Child) -> String {
    let output = ended(child).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The number at the end of the line that begins with `start`.
fn number(said: &str, start: &str) -> u64 {
    let line = said.lines().find(|line| line.starts_with(start));
    let word = line.and_then(|line| line.split(' ').next_back());
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {start:?} in {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_releases_its_lock_after_the_work() {
    let cluster = cluster().await;
    let said = said(start(env!("CARGO_BIN_EXE_guard"), &["2"], &cluster)).await;
    assert!(said.contains("step 2 of 2") && said.ends_with("done and released\n"), "{said}");
    let client = Client::connect([cluster.address()]);
    let past = client.history("jobs/nightly", 1).await.expect("a history");
    assert_eq!(past[0].fencing_token, number(&said, "locked"));
    cluster.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_stops_its_work_when_the_lock_is_broken() {
    let cluster = cluster().await;
    let guard = start(env!("CARGO_BIN_EXE_guard"), &["1000000"], &cluster);
    let client = Client::connect([cluster.address()]);
    let token = loop {
        let held = client.check("jobs/nightly", Consistency::Linearizable).await.expect("a check");
        match held.holders.first() {
            Some(grant) => break grant.fencing_token,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let broken = client.break_lock("jobs/nightly", token, "a test", "operator").await;
    broken.expect("broken");
    let output = ended(guard).await;
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("stop, the lock is lost"), "{errors}");
    cluster.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_claim_different_partitions() {
    let cluster = cluster().await;
    let worker = |name| start(env!("CARGO_BIN_EXE_shared_session"), &[name, "1"], &cluster);
    let workers = (worker("alice"), worker("bob"));
    let claimed = |said: &str| -> Vec<String> {
        let lines = said.lines().filter(|line| line.contains(" with token "));
        lines.map(|line| line.split(' ').nth(1).expect("a name").to_owned()).collect()
    };
    for said in [said(workers.0).await, said(workers.1).await] {
        assert_eq!(claimed(&said).len(), 6, "{said}");
        assert!(said.ends_with("which released 6 locks\n"), "{said}");
    }
    cluster.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_candidates_lead_one_after_the_other() {
    let cluster = cluster().await;
    let candidate = |name| start(env!("CARGO_BIN_EXE_leader_election"), &[name, "1"], &cluster);
    let (alice, bob) = (candidate("alice"), candidate("bob"));
    let (alice, bob) = (said(alice).await, said(bob).await);
    let terms = [number(&alice, "alice: leads term"), number(&bob, "bob: leads term")];
    assert!(terms[0] != terms[1], "two terms: {terms:?}");
    assert!(alice.ends_with("alice: stepped down\n"), "{alice}");
    assert!(bob.ends_with("bob: stepped down\n"), "{bob}");
    let client = Client::connect([cluster.address()]);
    let past = client.history("leader/scheduler", 10).await.expect("a history");
    let tokens: Vec<u64> = past.iter().map(|tenure| tenure.fencing_token).collect();
    assert_eq!(tokens, [terms[0].max(terms[1]), terms[0].min(terms[1])]);
    cluster.stop().await.expect("stops");
}
