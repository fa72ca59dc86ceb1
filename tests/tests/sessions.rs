//! One heartbeat for many locks.

use client::{AcquireOptions, Consistency, SessionOptions};
use palisade_tests::{Cluster, Spec, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const LOCKS: usize = 1_000;

/// How many heartbeats a gateway has answered.
fn heartbeats(cluster: &Cluster) -> u64 {
    let text = cluster.gateway_metrics(1);
    let of_heartbeats = text
        .lines()
        .filter(|line| line.starts_with("palisade_gateway_operations_total{") && line.contains("\"heartbeat\""));
    of_heartbeats.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

async fn applied(cluster: &Cluster) -> BTreeMap<u32, u64> {
    let status = cluster.status().await;
    let mut applied = BTreeMap::new();
    for replica in &status.shards {
        let index = applied.entry(replica.shard).or_insert(0);
        *index = replica.applied_index.max(*index);
    }
    applied
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_locks_live_on_one_heartbeat_per_interval() {
    let cluster = Cluster::start(Spec::five_by_four()).await;
    let ttl = Duration::from_secs(3);
    let client = cluster.client();
    let session = client.open_session(SessionOptions::new().ttl(ttl)).await.expect("open a session");
    let (started, mut locks) = (Instant::now(), Vec::new());
    for i in 0..LOCKS {
        locks.push(session.acquire(format!("item:{i}")).await.expect("acquire"));
    }
    println!("{LOCKS} locks acquired one after the other in {:?}", started.elapsed());
    let shards: BTreeSet<u32> = locks.iter().map(|lock| lock.shard()).collect();
    assert_eq!(shards.len(), 4);

    let (from, entries_before, beats_before) = (Instant::now(), applied(&cluster).await, heartbeats(&cluster));
    eventually("it lives on well past its TTL", async || (from.elapsed() > 3 * ttl).then_some(())).await;
    let (beats_after, entries_after) = (heartbeats(&cluster) - beats_before, applied(&cluster).await);
    let intervals = from.elapsed().as_secs_f64() / (ttl.as_secs_f64() / 3.0);
    println!("{LOCKS} locks on 4 shards: {beats_after} heartbeats in {intervals:.1} intervals");
    assert!(beats_after >= 3, "it lives on heartbeats");
    assert!(beats_after as f64 <= intervals + 2.0, "at most one heartbeat per interval");
    for (shard, before) in entries_before {
        let entries = entries_after[&shard] - before;
        println!("  shard {shard}: {entries} Raft entries");
        // One more may have been on its way when counting began.
        assert!(entries <= beats_after + 1, "shard {shard}: {entries} entries for {beats_after} heartbeats");
        assert!(entries >= 1, "shard {shard}: heartbeats are replicated");
    }
    for lock in &locks {
        assert!(lock.is_valid(), "{} is held", lock.name());
    }
    for lock in locks.iter().step_by(50) {
        let checked = client.check(lock.name(), Consistency::Linearizable).await.expect("check");
        assert_eq!(checked.holders[0].fencing_token, lock.token());
    }
    drop(locks);
    session.close().await.expect("close");
    eventually("closing lets all go", async || {
        let status = cluster.try_status().await?;
        status.shards.iter().all(|replica| replica.active_locks == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_lost_with_all_it_held() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    let ttl = Duration::from_millis(500);
    let opened = client.open_session_raw(SessionOptions::new().ttl(ttl)).await.expect("open");
    let options = AcquireOptions::new("a").session(&opened.session_id).ttl(ttl);
    let grant = client.acquire(options).await.expect("acquire");
    // No heartbeat.
    eventually("the lock is free", async || {
        client.check("a", Consistency::Linearizable).await.ok()?.holders.is_empty().then_some(())
    })
    .await;
    let heartbeat = client.heartbeat(&opened.session_id, &[grant.shard]).await.expect("heartbeat");
    assert_eq!(heartbeat.lost_shards, vec![grant.shard]);
    let late = client.release("a", grant.fencing_token).await.expect_err("released a lost lock");
    assert!(late.is_fenced(), "{late:?}");
}
