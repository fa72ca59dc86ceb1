//! A gateway dies under its clients.

use client::{AcquireOptions, Client, Consistency, SessionOptions};
use palisade_tests::{Cluster, Spec, eventually};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn holder_and_waiters_go_on_through_the_second_gateway() {
    let mut cluster = Cluster::start(Spec { gateways: 2, ..Spec::default() }).await;
    let ttl = Duration::from_secs(3);
    // All but the watcher talk to the first gateway as long as it lives.
    let holder = cluster.client();
    let session = holder.open_session(SessionOptions::new().ttl(ttl)).await.expect("open a session");
    let held = session.acquire("a").await.expect("acquire");
    let watcher = Client::connect([cluster.gateway(2)]);
    let waiters = async || watcher.check("a", Consistency::Linearizable).await.expect("check").waiters;
    let mut waiting = Vec::new();
    for i in 0..2u32 {
        let client = cluster.client();
        waiting.push(tokio::spawn(async move {
            let grant = client.acquire(AcquireOptions::new("a").wait(LONG)).await.expect("wait");
            client.release("a", grant.fencing_token).await.expect("release");
            grant.fencing_token
        }));
        eventually("it has queued", async || (waiters().await == i + 1).then_some(())).await;
    }

    cluster.kill_gateway(1);
    // Longer than the session lives without heartbeats, and than a waiter's place is kept without its stream.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(held.is_valid(), "the session was kept alive through the second gateway");
    let checked = watcher.check("a", Consistency::Linearizable).await.expect("check");
    assert_eq!(checked.holders[0].fencing_token, held.token(), "the holder keeps its token");
    assert_eq!(checked.waiters, 2, "the waiters keep their places");

    let token = held.token();
    held.release().await.expect("release");
    let second = waiting.pop().expect("two").await.expect("the second waiter");
    let first = waiting.pop().expect("one").await.expect("the first waiter");
    assert!(token < first && first < second, "tokens {token}, {first}, {second}");
    session.close().await.expect("close");
}
