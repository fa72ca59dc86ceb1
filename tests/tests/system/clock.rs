//! A wrong wall clock must not lose any data.

use client::AcquireOptions;
use nix::sys::signal::Signal;
use palisade_tests::{Cluster, Spec, eventually};
use routing::Settings;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Builds the library that sets a process's wall clock ahead. `None` if this machine has no C
/// compiler.
fn wall_clock_library(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/wall_clock.c");
    let library = dir.join("wall_clock.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    match cc.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: no C compiler (cc): {error}");
            None
        }
    }
}

async fn history_tokens(cluster: &Cluster, name: &str) -> Vec<u64> {
    let history = cluster.run_json(&["history", name]).await;
    let tenures = history["tenures"].as_array().expect("tenures");
    tenures.iter().map(|tenure| tenure["fencing_token"].as_u64().expect("a token")).collect()
}

/// The number of times that a node looked for history that is too old, in all its runs.
fn looks(cluster: &Cluster, node: u64) -> usize {
    cluster.node_log(node).matches("history older than this was dropped").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_ahead_deletes_no_history() {
    let mut cluster = Cluster::start(Spec {
        settings: Some(Settings { history_days: 1, ..Settings::default() }),
        ..Spec::default()
    })
    .await;
    let dir = cluster.data_dir(0);
    std::fs::create_dir_all(&dir).expect("a directory for the library");
    let Some(library) = wall_clock_library(&dir) else { return };
    let client = cluster.client();
    let mut tokens = Vec::new();
    for _ in 0..5 {
        let grant = eventually("an acquire", async || {
            client.acquire(AcquireOptions::new("kept").ttl(Duration::from_secs(60))).await.ok()
        })
        .await;
        client.release("kept", grant.fencing_token).await.expect("a release");
        tokens.insert(0, grant.fencing_token);
    }
    assert_eq!(history_tokens(&cluster, "kept").await, tokens);

    // The history must be on disk as history, and not only as a log that produces it again. A
    // checkpoint and a clean stop achieve this.
    let applied = cluster
        .status()
        .await
        .shards
        .iter()
        .map(|replica| replica.applied_index)
        .max()
        .expect("a replica");
    eventually("every replica has written a checkpoint", async || {
        let status = cluster.try_status().await?;
        status.shards.iter().all(|replica| replica.checkpoint_index >= applied).then_some(())
    })
    .await;
    let looked_before: Vec<usize> = (1..=3).map(|node| looks(&cluster, node)).collect();
    // All nodes get the wrong clock, so that no other node makes up for it. It is a month ahead,
    // and history is kept for a day.
    for node in 1..=3 {
        cluster.signal_node(node, Signal::SIGTERM);
        cluster.node_ends(node).await;
    }
    let library = library.display().to_string();
    let ahead = [
        ("LD_PRELOAD".to_owned(), library),
        ("WALL_CLOCK_AHEAD_S".to_owned(), "2592000".to_owned()),
    ];
    for node in 1..=3 {
        cluster.start_node_in(node, &[], &ahead);
    }
    cluster.ready().await;
    eventually("each has looked for what is too old since", async || {
        let looked = |node| looks(&cluster, node) > looked_before[node as usize - 1];
        (1..=3).all(looked).then_some(())
    })
    .await;
    // A tenure that ends now has a date of next month. It is kept as long as any other, and no
    // longer.
    let grant = eventually("an acquire", async || {
        client.acquire(AcquireOptions::new("kept").ttl(Duration::from_secs(60))).await.ok()
    })
    .await;
    client.release("kept", grant.fencing_token).await.expect("a release");
    tokens.insert(0, grant.fencing_token);
    assert_eq!(history_tokens(&cluster, "kept").await, tokens);
    let ended = cluster.run_json(&["history", "kept"]).await["tenures"][0]["ended_at_ms"]
        .as_u64()
        .expect("a time");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a date")
        .as_millis() as u64;
    assert!(ended > now + 86_400_000, "the nodes' clocks were not ahead");
}
