//! Disks that hang: nodes run with a preloaded library that holds their writes
//! (`tests/shim/hang.c`).

use client::{AcquireOptions, Consistency};
use nix::sys::signal::Signal;
use palisade_tests::{Cluster, HangingDisk, Spec, eventually};
use routing::Settings;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(600);

/// A cluster with a disk on each node that can hang. `None` if this machine has no C compiler.
async fn start(spec: Spec, thread: Option<&str>) -> Option<(Cluster, BTreeMap<u64, HangingDisk>)> {
    let nodes = spec.nodes;
    let mut cluster = Cluster::prepare(spec).await;
    let mut disks = BTreeMap::new();
    for id in 1..=nodes {
        let Some(disk) = HangingDisk::build(cluster.dir(), &format!("hang-{id}")) else {
            eprintln!("skipped: there is no C compiler (cc) to make a disk hang with");
            return None;
        };
        cluster.start_node_in(id, &[], &disk.environment(thread));
        disks.insert(id, disk);
    }
    cluster.start_all();
    cluster.ready().await;
    Some((cluster, disks))
}

async fn hung_leader_is_replaced(thread: Option<&str>) {
    let Some((cluster, disks)) = start(Spec::default(), thread).await else { return };
    let client = cluster.client();
    let held = client.acquire(AcquireOptions::new("held").ttl(LONG)).await.expect("acquire");
    let leader = cluster.leader(0).await;
    disks[&leader].hang();
    let hung = Instant::now();
    let grant =
        eventually("names are served again", async || client.acquire("new").await.ok()).await;
    println!("acquired {:?} after the disk of the leader hung ({thread:?})", hung.elapsed());
    assert!(grant.fencing_token > held.fencing_token);
    let checked = client.check("held", Consistency::Linearizable).await.expect("check");
    assert_eq!(checked.holders[0].fencing_token, held.fencing_token);
    let now = cluster.leader(0).await;
    assert_ne!(now, leader, "it leads without a disk");

    let shown = eventually("the status shows it", async || {
        let status = cluster.try_status().await?;
        let replica = status.shards.into_iter().find(|replica| replica.node == leader)?;
        replica.disk_hangs.then_some(replica)
    })
    .await;
    assert!(shown.disk_write_age_ms > 0, "{shown:?}");
    let told = cluster.run(&["cluster", "status"]).await;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(text.contains("HANGS: write under way for"), "{text}");
    let metrics = cluster.node_metrics(leader);
    let age =
        metrics.lines().find_map(|line| line.strip_prefix("palisade_disk_write_age_seconds "));
    assert!(age.is_some_and(|age| age.parse::<f64>().is_ok_and(|age| age > 0.0)), "{metrics}");
    assert_eq!(cluster.node_log(leader).matches("the disk hangs").count(), 1, "said once");
    let health = cluster.node_health(leader);
    assert!(health.contains(" 503 ") && health.contains("the disk hangs"), "{health}");

    disks[&leader].go_on();
    eventually("the node is well again", async || {
        let status = cluster.try_status().await?;
        let replica = status.shards.into_iter().find(|replica| replica.node == leader)?;
        (!replica.disk_hangs).then_some(())
    })
    .await;
    cluster.replicas_agree().await;
    assert!(cluster.node_health(leader).contains(" 200 "));
    assert_eq!(cluster.node_log(leader).matches("the disk works again").count(), 1, "said once");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_served_while_the_log_writer_of_their_leader_hangs() {
    hung_leader_is_replaced(Some("log-writer")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_served_while_the_whole_disk_of_their_leader_hangs() {
    hung_leader_is_replaced(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_stays_hung_ends_and_says_why() {
    let settings = Some(Settings { disk_hang_exit_ms: 1_500, ..Settings::default() });
    let Some((mut cluster, disks)) = start(Spec { settings, ..Spec::default() }, None).await else {
        return;
    };
    let leader = cluster.leader(0).await;
    disks[&leader].hang();
    let client = cluster.client();
    eventually("names are served again", async || client.acquire("new").await.ok()).await;
    let (status, log) = cluster.node_ended(leader).await;
    assert_eq!(status.code(), Some(74), "{log}");
    assert!(log.contains("does not end, so this process ends") && log.contains("dmesg"), "{log}");
    disks[&leader].go_on();
    cluster.start_node(leader);
    cluster.ready().await;
    cluster.replicas_agree().await;
}

/// The thread that watches the disk once blocked on writing its own log line, so the node did not
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_nobody_hears_serves_and_ends_when_its_disk_stays_hung() {
    let settings = Some(Settings { disk_hang_exit_ms: 1_500, ..Settings::default() });
    let spec = Spec { settings, ..Spec::default() };
    let mut cluster = Cluster::prepare(spec).await;
    let Some(disk) = HangingDisk::build(cluster.dir(), "hang") else {
        return eprintln!("skipped: there is no C compiler (cc) to make a disk hang with");
    };
    cluster.start_node_unheard(1, &disk.environment(None));
    cluster.start_all();
    cluster.ready().await;
    cluster.replicas_agree().await;
    disk.hang();
    let client = cluster.client();
    eventually("names are served by the others", async || client.acquire("new").await.ok()).await;
    let (status, _) = cluster.node_ended(1).await;
    assert_eq!(status.code(), Some(74));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_stop_stops_though_its_disk_hangs() {
    let Some((mut cluster, disks)) = start(Spec::default(), None).await else { return };
    let leader = cluster.leader(0).await;
    disks[&leader].hang();
    let client = cluster.client();
    eventually("names are served again", async || client.acquire("new").await.ok()).await;
    cluster.signal_node(leader, Signal::SIGTERM);
    let (status, log) = cluster.node_ended(leader).await;
    assert_eq!(status.code(), Some(74), "{log}");
    disks[&leader].go_on();
    cluster.start_node(leader);
    cluster.ready().await;
    cluster.replicas_agree().await;
}
