//! A cluster is upgraded: to a level that all its nodes know, and from the build before to this one.

use client::{AcquireOptions, Consistency};
use nix::sys::signal::Signal;
use palisade_tests::{Cluster, Spec, eventually, palisade_binary};
use std::path::{Path, PathBuf};
use std::process::Output;

const SPEC: Spec =
    Spec { nodes: 3, shards: 2, replicas: 3, gateways: 1, settings: None, secured: None };

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// A lock that outlives the test.
fn kept() -> AcquireOptions {
    AcquireOptions::new("orders").ttl(std::time::Duration::from_secs(3_600))
}

/// What the verb tells once every node has told that it knows this level.
async fn known_to_all(cluster: &Cluster, level: u32) -> serde_json::Value {
    eventually("every node has told which levels it knows", async || {
        let told = cluster.run_json_of(&["cluster", "upgrade"]).await;
        (told["level_of_all"] == level).then_some(told)
    })
    .await
}

/// Stops a node with SIGTERM, and starts it again as the program of the cluster.
async fn restart(cluster: &mut Cluster, node: u64) {
    cluster.signal_node(node, Signal::SIGTERM);
    let (status, log) = cluster.node_ended(node).await;
    assert!(status.success(), "node {node}: {status}\n{log}");
    cluster.start_node(node);
    eventually("it is ready again", async || {
        cluster.node_probe(node, "/readyz").contains(" 200 ").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_is_activated_by_hand_and_reaches_every_group() {
    let mut cluster = Cluster::start(SPEC).await;
    let token = cluster.client().acquire(kept()).await.expect("free").fencing_token;
    let before = known_to_all(&cluster, 2).await;
    assert_eq!((&before["level"], &before["nodes"][0]["level_max"]), (&1.into(), &2.into()));
    assert_eq!(before["groups"].as_array().map(Vec::len), Some(3), "{before:#}");
    let shown = text(&cluster.run(&["cluster", "upgrade"]).await);
    assert!(shown.contains("level 1 is active; every node knows level 2"), "{shown}");
    assert!(shown.contains("next: once the new build has proved itself"), "{shown}");

    let dry = cluster.run_json(&["cluster", "upgrade", "finalize", "--dry-run"]).await;
    assert_eq!((&dry["from"], &dry["to"]), (&1.into(), &2.into()), "{dry:#}");
    assert_eq!(known_to_all(&cluster, 2).await["level"], 1, "nothing was done");

    let finalized = cluster.run(&["cluster", "upgrade", "finalize", "--within", "60s"]).await;
    let told = text(&finalized);
    assert!(finalized.status.success(), "{told}");
    assert!(told.contains("done: level 2 is active in every group"), "{told}");
    for node in 1..=3 {
        restart(&mut cluster, node).await;
    }
    let after = eventually("every group has a leader again", async || {
        let told = cluster.run_json_of(&["cluster", "upgrade"]).await;
        let groups = told["groups"].as_array()?;
        groups.iter().all(|group| group["level"] == 2).then_some(told)
    })
    .await;
    assert_eq!((&after["level"], &after["next"]), (&2.into(), &"nothing is to be done".into()));
    let again = text(&cluster.run(&["cluster", "upgrade", "finalize"]).await);
    assert!(again.contains("done: level 2 is active"), "{again}");
    let held = cluster.client().check("orders", Consistency::Linearizable).await.expect("held");
    assert_eq!(held.holders[0].fencing_token, token);
    cluster.replicas_agree().await;
}

/// The program of the build before, if there is one here.
fn previous() -> Option<PathBuf> {
    std::env::var_os("PALISADE_PREVIOUS").map(PathBuf::from)
}

async fn restart_all_as(cluster: &mut Cluster, program: &Path) {
    cluster.run_as(program);
    for node in 1..=3 {
        restart(cluster, node).await;
    }
    cluster.ready().await;
    cluster.replicas_agree().await;
}

/// `scripts/two-builds` does the same under load.
#[tokio::test(flavor = "multi_thread")]
async fn the_build_before_can_come_back_until_the_level_is_active_and_is_refused_after() {
    let Some(previous) = previous() else {
        println!("skipped: PALISADE_PREVIOUS names no program of the build before");
        return;
    };
    let mut cluster = Cluster::prepare(SPEC).await;
    cluster.run_as(&previous);
    cluster.start_all();
    cluster.ready().await;
    let token = cluster.client().acquire(kept()).await.expect("free").fencing_token;
    restart_all_as(&mut cluster, palisade_binary()).await;
    restart_all_as(&mut cluster, &previous).await;

    cluster.run_as(palisade_binary());
    restart(&mut cluster, 1).await;
    cluster.kill_gateway(1);
    cluster.start_gateway(1);
    let early = eventually("the first node has told that it knows level 2", async || {
        let early = cluster.run(&["cluster", "upgrade", "finalize"]).await;
        text(&early).contains("nodes 2 and 3 do not know level 2").then_some(early)
    })
    .await;
    assert_eq!(early.status.code(), Some(1), "{}", text(&early));
    for node in [2, 3] {
        restart(&mut cluster, node).await;
    }
    known_to_all(&cluster, 2).await;
    let finalized = cluster.run(&["cluster", "upgrade", "finalize", "--within", "60s"]).await;
    assert!(finalized.status.success(), "{}", text(&finalized));
    cluster.replicas_agree().await;

    // The directory of node 3 has the format of the level by now, and an empty one has none.
    cluster.signal_node(3, Signal::SIGTERM);
    let (status, log) = cluster.node_ended(3).await;
    assert!(status.success(), "{status}\n{log}");
    cluster.run_as(&previous);
    let (status, log) = cluster.node_that_ends(3, &[]).await;
    assert!(!status.success() && log.contains("format version"), "{status}\n{log}");
    let empty = cluster.dir().join("empty");
    let (status, log) = cluster.node_that_ends_elsewhere(3, &empty, &["--reseed"]).await;
    let sentence = "level 2 is active, this build knows 1: start the newer one";
    assert!(!status.success() && log.contains(sentence), "{status}\n{log}");
    cluster.run_as(palisade_binary());
    cluster.start_node(3);
    cluster.ready().await;
    let held = cluster.client().check("orders", Consistency::Linearizable).await.expect("held");
    assert_eq!(held.holders[0].fencing_token, token);
    cluster.replicas_agree().await;
}
