//! Processes are killed while clients hold locks.

use client::{AcquireOptions, Client, Consistency, GrantState};
use palisade_tests::{Cluster, Spec, eventually};
use routing::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(600);

/// Acquires names of its own until `stop` is set, and keeps every second lock for good. Returns the
/// locks that it was told it holds.
async fn work(
    client: Client,
    worker: u32,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("worker-{worker}:{i}");
        // An acquire may fail while there is no leader. A lock that was acknowledged as granted
        // must not be lost.
        let Ok(grant) = client.acquire(AcquireOptions::new(&name).ttl(LONG)).await else {
            continue;
        };
        if i % 2 == 0 {
            held.insert(name, grant.fencing_token);
        } else {
            let _ = client.release(&name, grant.fencing_token).await;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    held
}

async fn assert_still_held(cluster: &Cluster, held: &BTreeMap<String, u64>) {
    let client = cluster.client();
    for (name, token) in held {
        let checked = client.check(name, Consistency::Linearizable).await.expect("check");
        let tokens: Vec<u64> = checked.holders.iter().map(|grant| grant.fencing_token).collect();
        assert_eq!(tokens, vec![*token], "{name} was acknowledged with token {token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_no_acknowledged_lock_and_catches_up() {
    let mut cluster = Cluster::start(Spec::five_by_four()).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..8)
        .map(|worker| tokio::spawn(work(cluster.client(), worker, stop.clone(), done.clone())))
        .collect();
    eventually("some work is done", async || (done.load(Ordering::Relaxed) > 200).then_some(()))
        .await;

    let leader = cluster.leader(0).await;
    let name = cluster.name_on(0, "probe");
    let client = cluster.client();
    let killed = Instant::now();
    cluster.kill_node(leader);
    eventually("an acquire on the leader's shard", async || {
        client.acquire(name.as_str()).await.ok()
    })
    .await;
    println!(
        "acquired on shard 0 again {:?} after its leader, node {leader}, was killed",
        killed.elapsed()
    );

    let before = done.load(Ordering::Relaxed);
    eventually("more work is done", async || {
        (done.load(Ordering::Relaxed) > before + 200).then_some(())
    })
    .await;
    cluster.start_node(leader);
    eventually("work goes on", async || {
        (done.load(Ordering::Relaxed) > before + 400).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let mut held = BTreeMap::new();
    for worker in workers {
        held.extend(worker.await.expect("a worker"));
    }
    assert!(held.len() > 100, "{} locks are held", held.len());
    assert_still_held(&cluster, &held).await;
    cluster.replicas_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_and_restarted_still_hold_every_lock() {
    let mut cluster = Cluster::start(Spec::five_by_four()).await;
    let client = cluster.client();
    let mut held = BTreeMap::new();
    let mut past = BTreeMap::new();
    for i in 0..200 {
        let (kept, gone) = (format!("kept-{i}"), format!("gone-{i}"));
        let grant = client.acquire(AcquireOptions::new(&kept).ttl(LONG)).await.expect("acquire");
        held.insert(kept, grant.fencing_token);
        let grant = client
            .acquire(AcquireOptions::new(&gone).ttl(LONG).owner("before"))
            .await
            .expect("acquire");
        client.release(&gone, grant.fencing_token).await.expect("release");
        past.insert(gone, grant.fencing_token);
    }
    for id in cluster.running_nodes() {
        cluster.kill_node(id);
    }
    cluster.start_all();
    cluster.ready().await;

    assert_still_held(&cluster, &held).await;
    let client = cluster.client();
    for (name, token) in &past {
        let history = client.history(name, 10).await.expect("history");
        assert_eq!(history.len(), 1, "{name}: {history:?}");
        assert_eq!(
            (history[0].fencing_token, history[0].state()),
            (*token, GrantState::Released),
            "{name}"
        );
        assert_eq!(history[0].owner_id, "before");
        let again = client.acquire(name.as_str()).await.expect("acquire it again");
        assert!(again.fencing_token > *token, "{name}: {} after {token}", again.fencing_token);
    }
    let (name, token) = held.first_key_value().expect("some are held");
    client.renew(name, *token).await.expect("renew what is still held");
    client.release(name, *token).await.expect("release what is still held");
    cluster.replicas_agree().await;
}

const NAMES: usize = 50_000;
const WORKERS: usize = 200;

/// The test makes two operations for each name: 100,000 in all.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_a_truncated_log_comes_back_by_snapshot() {
    let settings = Some(Settings {
        checkpoint_log_bytes: 1 << 20,
        log_keep_bytes: 1 << 20,
        ..Settings::default()
    });
    let mut cluster = Cluster::start(Spec { settings, ..Spec::default() }).await;
    let leader = cluster.leader(0).await;
    let behind = cluster.running_nodes().into_iter().find(|id| *id != leader).expect("a follower");
    cluster.kill_node(behind);

    let last_index = {
        let status = cluster.status().await;
        status.shards.iter().map(|replica| replica.last_index).max().expect("replicas")
    };
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let client = cluster.client();
        workers.push(tokio::spawn(async move {
            for i in (worker..NAMES).step_by(WORKERS) {
                let name = format!("name-{i}");
                let grant =
                    client.acquire(AcquireOptions::new(&name).ttl(LONG)).await.expect("acquire");
                if i % 100 == 0 {
                    client.renew(&name, grant.fencing_token).await.expect("renew");
                } else {
                    client.release(&name, grant.fencing_token).await.expect("release");
                }
            }
        }));
    }
    for worker in workers {
        worker.await.expect("a worker");
    }
    let status = cluster.status().await;
    for replica in &status.shards {
        assert!(
            replica.first_index > last_index + 1,
            "the log is cut above what node {behind} has: {replica:?}"
        );
    }

    cluster.start_node(behind);
    eventually("it installs a snapshot", async || {
        let status = cluster.try_status().await?;
        let replica = status.shards.iter().find(|replica| replica.node == behind)?;
        (replica.snapshots_installed > 0).then_some(())
    })
    .await;
    cluster.replicas_agree().await;
    cluster.client().acquire("after the snapshot").await.expect("acquire");
    cluster.replicas_agree().await;
}
