//! Many names over many shards.

use client::AcquireOptions;
use palisade_tests::{Cluster, Spec, eventually};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const NAMES: usize = 10_000;
const WORKERS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_names_are_served_by_every_shard_and_tokens_rise() {
    let cluster = Cluster::start(Spec::five_by_four()).await;
    let client = cluster.client();
    let started = Instant::now();
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let client = client.clone();
        workers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for i in (worker..NAMES).step_by(WORKERS) {
                let name = format!("order:{i}");
                let options = AcquireOptions::new(&name).ttl(Duration::from_secs(60));
                let grant = client.acquire(options).await.expect("acquire a name of its own");
                client.release(&name, grant.fencing_token).await.expect("release it");
                seen.push((name, grant.shard, grant.fencing_token));
            }
            seen
        }));
    }
    let mut grants = Vec::new();
    for worker in workers {
        grants.extend(worker.await.expect("a worker"));
    }
    println!("{} names acquired and released in {:?}", grants.len(), started.elapsed());
    assert_eq!(grants.len(), NAMES);

    let shards: BTreeSet<u32> = grants.iter().map(|(_, shard, _)| *shard).collect();
    assert_eq!(shards, BTreeSet::from([0, 1, 2, 3]), "every shard has served");
    let map = cluster.map();
    for (name, shard, _) in &grants {
        assert_eq!(map.route(name).shard.0, *shard, "{name} is where the map says");
    }
    let tokens: BTreeSet<(u32, u64)> =
        grants.iter().map(|(_, shard, token)| (*shard, *token)).collect();
    assert_eq!(tokens.len(), NAMES, "no token of a shard was given twice");

    for (name, _, token) in grants.iter().step_by(100) {
        let again = client.acquire(name.as_str()).await.expect("acquire it again");
        assert!(again.fencing_token > *token, "{name}: {} after {token}", again.fencing_token);
    }

    let leaders = eventually("leaders spread over nodes", async || {
        let status = cluster.try_status().await?;
        let leaders: BTreeSet<u64> = status
            .shards
            .iter()
            .filter(|replica| replica.role == "leader")
            .map(|replica| replica.node)
            .collect();
        (leaders.len() == 4).then_some(leaders)
    })
    .await;
    println!("four shards are led by nodes {leaders:?}");
    cluster.replicas_agree().await;
}
