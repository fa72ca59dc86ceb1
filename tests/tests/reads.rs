//! What a check may be answered by.

use client::{Client, ClientOptions, Consistency};
use palisade_tests::{Cluster, Spec, eventually};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn stale_checks_are_answered_by_followers_and_linearizable_ones_are_not() {
    // So long an election timeout that nobody takes over while the leader is paused.
    let settings = vec![("tick_ms", 100), ("election_ticks", 150)];
    let cluster = Cluster::start(Spec { settings, ..Spec::default() }).await;
    let held = cluster.client().acquire("a").await.expect("acquire");
    eventually("followers have applied it", async || {
        let status = cluster.try_status().await?;
        status.shards.iter().all(|replica| replica.active_locks == 1).then_some(())
    })
    .await;
    let leader = cluster.leader(0).await;
    cluster.pause_node(leader);
    let client = Client::with_options([cluster.gateway(1)], ClientOptions::new().timeout(Duration::from_secs(2)));
    for _ in 0..4 {
        let checked = eventually("a stale check", async || client.check("a", Consistency::Stale).await.ok()).await;
        assert_ne!(checked.answered_by, leader);
        assert_eq!(checked.holders[0].fencing_token, held.fencing_token);
    }
    let error = client.check("a", Consistency::Linearizable).await.expect_err("linearizable without the leader");
    println!("linearizable, the leader paused: {error}");
    cluster.resume_node(leader);
    let checked =
        eventually("a linearizable check", async || client.check("a", Consistency::Linearizable).await.ok()).await;
    assert_eq!(checked.holders[0].fencing_token, held.fencing_token);
    assert_eq!(checked.stale_by_ms, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_replaced_and_follows_when_it_wakes() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    let first = client.acquire("a").await.expect("acquire");
    let leader = cluster.leader(0).await;
    cluster.pause_node(leader);
    eventually("a release by a new leader", async || client.release("a", first.fencing_token).await.ok()).await;
    let second = eventually("an acquire by a new leader", async || client.acquire("a").await.ok()).await;
    assert!(second.fencing_token > first.fencing_token);
    cluster.resume_node(leader);
    // Whoever answers, the deposed leader included, shows the new holder.
    for _ in 0..20 {
        let checked = client.check("a", Consistency::Linearizable).await.expect("check");
        assert_eq!(checked.holders[0].fencing_token, second.fencing_token);
    }
    let late = client.renew("a", first.fencing_token).await.expect_err("renewed a released lock");
    assert!(late.is_fenced(), "{late:?}");
    cluster.replicas_agree().await;
}
