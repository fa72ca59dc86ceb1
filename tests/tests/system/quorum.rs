//! A cluster without a quorum, and with a quorum again.

use client::{AcquireOptions, Client, ClientOptions, Consistency};
use palisade_tests::{Cluster, LIMIT, Spec, eventually};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_may_be_down_and_with_three_nothing_is_granted_until_one_returns() {
    let mut cluster = Cluster::start(Spec::five_by_four()).await;
    let client = cluster.client();
    let held = client
        .acquire(AcquireOptions::new("held").ttl(Duration::from_secs(600)))
        .await
        .expect("acquire");

    cluster.kill_node(1);
    cluster.kill_node(2);
    for shard in 0..4 {
        let name = cluster.name_on(shard, "two-down");
        let grant = eventually("an acquire with two down", async || {
            client.acquire(name.as_str()).await.ok()
        })
        .await;
        assert_eq!(grant.shard, shard);
        client.release(&name, grant.fencing_token).await.expect("release with two down");
    }

    cluster.kill_node(3);
    let deadline = Duration::from_secs(2);
    let impatient =
        Client::with_options([cluster.gateway(1)], ClientOptions::new().timeout(deadline));
    for shard in 0..4 {
        let name = cluster.name_on(shard, "three-down");
        let acquire = tokio::time::timeout(LIMIT, impatient.acquire(name.as_str()));
        let error = acquire.await.expect("an answer").expect_err("granted by a minority");
        assert!(error.is_retryable() || error.is_outcome_unknown(), "{error:?}");
        println!("shard {shard} with three down: {error}");
        let check = tokio::time::timeout(LIMIT, impatient.check(&name, Consistency::Linearizable));
        check.await.expect("an answer").expect_err("a linearizable check answered by a minority");
    }
    let told = cluster.run(&["acquire", "three-down", "--timeout", "1s"]).await;
    assert_eq!(told.status.code(), Some(1));
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(text.contains("error: ") && text.contains("next: "), "{text}");
    println!("{text}");

    cluster.start_node(2);
    for shard in 0..4 {
        let name = cluster.name_on(shard, "three-up");
        eventually("an acquire once one is back", async || {
            client.acquire(name.as_str()).await.ok()
        })
        .await;
    }
    let checked = client.check("held", Consistency::Linearizable).await.expect("check");
    assert_eq!(checked.holders[0].fencing_token, held.fencing_token, "held throughout");
}
