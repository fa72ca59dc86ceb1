//! A node moves to another address while its cluster serves, and no other process is restarted.

use client::{AcquireOptions, Client, Security};
use nix::sys::signal::Signal;
use palisade_tests::files::Files;
use palisade_tests::{Cluster, Secured, Spec, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SHARDS: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// The operations on the names of one shard.
#[derive(Debug, Default)]
struct Work {
    done: AtomicU64,
    /// Operations that failed at first and were tried again.
    failed: AtomicU64,
    longest_gap_ms: AtomicU64,
}

/// Takes a lock and releases it, again and again. An operation that fails is tried until it is
/// done.
async fn work(client: Client, name: String, stop: Arc<AtomicBool>, work: Arc<Work>) {
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let held = loop {
            match client.acquire(AcquireOptions::new(&name).ttl(Duration::from_secs(30))).await {
                Ok(held) => break held,
                Err(_) => work.failed.fetch_add(1, Ordering::Relaxed),
            };
            tokio::time::sleep(RETRY_AFTER).await;
        };
        while client.release(&name, held.fencing_token).await.is_err() {
            work.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY_AFTER).await;
        }
        work.longest_gap_ms.fetch_max(last.elapsed().as_millis() as u64, Ordering::Relaxed);
        work.done.fetch_add(1, Ordering::Relaxed);
        last = Instant::now();
    }
}

/// Waits until each shard has served some more operations.
async fn goes_on(works: &[Arc<Work>]) {
    let done = || works.iter().map(|work| work.done.load(Ordering::Relaxed)).collect::<Vec<u64>>();
    let before = done();
    eventually("each shard serves", async || {
        done().iter().zip(&before).all(|(done, before)| *done >= before + 20).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_is_found_by_all_and_nothing_fails_for_good() {
    a_node_moves(None).await;
}

/// A certificate names the node and not its address, so the same one serves at the new address.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_with_tls_is_found_by_all_and_nothing_fails_for_good() {
    let files = Files::new();
    let secured = Secured { tls: files.tls_inside(), access: None, observer: Security::default() };
    a_node_moves(Some(secured)).await;
}

/// Each machine has its own copy of the cluster file, and the one of the moved node is the first to
/// change.
async fn a_node_moves(secured: Option<Secured>) {
    let mut cluster = Cluster::start(Spec { shards: SHARDS, secured, ..Spec::default() }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let works: Vec<Arc<Work>> = (0..SHARDS).map(|_| Arc::default()).collect();
    let workers: Vec<_> = (0..)
        .zip(&works)
        .map(|(shard, of_shard)| {
            let name = cluster.name_on(shard, "job");
            tokio::spawn(work(cluster.client(), name, stop.clone(), of_shard.clone()))
        })
        .collect();
    goes_on(&works).await;

    let moving = cluster.leader(0).await;
    let led: Vec<u32> = {
        let status = cluster.status().await;
        let by_it = |s: &&client::ShardStatus| s.node == moving && s.role == "leader";
        status.shards.iter().filter(by_it).map(|s| s.shard).collect()
    };
    works.iter().for_each(|work| work.longest_gap_ms.store(0, Ordering::Relaxed));
    let began = Instant::now();
    cluster.signal_node(moving, Signal::SIGTERM);
    cluster.node_ended(moving).await;
    let stopped = began.elapsed();
    cluster.start_node_elsewhere(moving);
    goes_on(&works).await;
    eventually("the gateway uses the node again, as a voter of each shard", async || {
        let status = cluster.try_status().await?;
        let votes = |s: &client::ShardStatus| {
            !s.stands_by && s.members.iter().any(|m| m.node == moving && !m.learner)
        };
        let voting = status.shards.iter().filter(|s| s.node == moving && votes(s)).count();
        (voting == SHARDS as usize).then_some(())
    })
    .await;
    let back = began.elapsed();
    goes_on(&works).await;

    println!("node {moving} led shards {led:?}; stopped after {stopped:?}, back after {back:?}");
    for (shard, work) in works.iter().enumerate() {
        println!(
            "shard {shard}: {} operations, {} tried again, at most {} ms without service",
            work.done.load(Ordering::Relaxed),
            work.failed.load(Ordering::Relaxed),
            work.longest_gap_ms.load(Ordering::Relaxed)
        );
    }

    // One of the others fails, so each shard needs the moved node for its quorum.
    let other = (1..=3).find(|node| *node != moving).expect("there are three");
    cluster.kill_node(other);
    goes_on(&works).await;
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        let ended = tokio::time::timeout(Duration::from_secs(60), worker).await;
        ended.expect("no operation fails for good").expect("no worker panics");
    }
    cluster.start_node(other);
    cluster.replicas_agree().await;
}
