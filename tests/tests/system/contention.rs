//! Several clients want one name.

use client::{AcquireOptions, Client, Consistency};
use palisade_tests::{Cluster, Spec, eventually};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(60);

async fn waiters(client: &Client, name: &str) -> u32 {
    client.check(name, Consistency::Linearizable).await.expect("check").waiters
}

#[tokio::test(flavor = "multi_thread")]
async fn one_holds_and_the_other_is_told_who() {
    let cluster = Cluster::start(Spec::default()).await;
    let held = cluster.run_json(&["acquire", "a", "--owner", "first"]).await;
    let refused = cluster.run(&["acquire", "a", "--owner", "second", "--json"]).await;
    assert_eq!(refused.status.code(), Some(3));
    let told: serde_json::Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert_eq!(told["error"]["code"], "HELD");
    assert_eq!(told["error"]["holder"], "first");
    assert_eq!(told["error"]["current_token"], held["fencing_token"]);

    let timed_out =
        cluster.run(&["acquire", "a", "--owner", "second", "--wait", "200ms", "--json"]).await;
    assert_eq!(timed_out.status.code(), Some(3));
    let told: serde_json::Value = serde_json::from_slice(&timed_out.stdout).expect("JSON");
    assert_eq!(told["error"]["code"], "WAIT_TIMEOUT");
    assert_eq!(waiters(&cluster.client(), "a").await, 0, "who gave up does not wait any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_is_granted_when_the_holder_lets_go() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    let held = client.acquire("a").await.expect("acquire");
    let waiter = tokio::spawn({
        let client = cluster.client();
        async move {
            let grant = client.acquire(AcquireOptions::new("a").wait(LONG)).await.expect("wait");
            (grant, Instant::now())
        }
    });
    eventually("it waits", async || (waiters(&client, "a").await == 1).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let released = Instant::now();
    client.release("a", held.fencing_token).await.expect("release");
    let (grant, granted) = waiter.await.expect("the waiter");
    println!("granted {:?} after the release was sent", granted - released);
    assert!(grant.fencing_token > held.fencing_token);
    // The bound is half of the sure wait, because the shard counts the wait with its own
    // millisecond clock.
    assert!(grant.waited_ms >= 50, "waited {} ms", grant.waited_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_waiters_are_granted_in_their_order() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    let held = client.acquire(AcquireOptions::new("a").ttl(LONG)).await.expect("acquire");
    let (granted, mut order) = mpsc::unbounded_channel();
    for i in 0..20u32 {
        let (waiter, granted) = (cluster.client(), granted.clone());
        tokio::spawn(async move {
            let options =
                AcquireOptions::new("a").ttl(LONG).wait(LONG).owner(format!("waiter-{i}"));
            let grant = waiter.acquire(options).await.expect("wait");
            granted.send((i, grant.fencing_token)).expect("the test listens");
            waiter.release("a", grant.fencing_token).await.expect("release");
        });
        eventually("it has queued", async || (waiters(&client, "a").await == i + 1).then_some(()))
            .await;
    }
    client.release("a", held.fencing_token).await.expect("release");
    let mut last_token = held.fencing_token;
    for i in 0..20 {
        let (who, token) = order.recv().await.expect("a grant");
        assert_eq!(who, i, "granted in the order in which they queued");
        assert!(token > last_token);
        last_token = token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_holders_lock_goes_over_after_its_ttl_and_never_before() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    let ttl = Duration::from_millis(1_500);
    for round in 0..3 {
        let name = format!("a-{round}");
        let sent = Instant::now();
        let held = client.acquire(AcquireOptions::new(&name).ttl(ttl)).await.expect("acquire");
        let grant = client.acquire(AcquireOptions::new(&name).wait(LONG)).await.expect("wait");
        let after = sent.elapsed();
        assert!(
            after >= ttl,
            "granted to another {after:?} after the first was asked for with a TTL of {ttl:?}"
        );
        assert!(grant.fencing_token > held.fencing_token);
        let late = client.renew(&name, held.fencing_token).await.expect_err("renewed a lost lock");
        assert!(late.is_fenced(), "{late:?}");
        println!("TTL {ttl:?}: granted to the waiter after {after:?}");
    }
}
