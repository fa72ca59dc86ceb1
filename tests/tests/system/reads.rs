//! The replicas that answer reads, and large reads that do not disturb other operations.

use client::{AcquireOptions, Client, ClientOptions, Consistency, Mode};
use palisade_tests::{Cluster, Spec, eventually};
use routing::Settings;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn stale_checks_are_answered_by_followers_and_linearizable_ones_are_not() {
    // The election timeout is so long that no follower takes over while the leader is paused.
    let settings = Some(Settings { tick_ms: 100, election_ticks: 150, ..Settings::default() });
    let cluster = Cluster::start(Spec { settings, ..Spec::default() }).await;
    let held = cluster.client().acquire("a").await.expect("acquire");
    eventually("followers have applied it", async || {
        let status = cluster.try_status().await?;
        status.shards.iter().all(|replica| replica.active_locks == 1).then_some(())
    })
    .await;
    let leader = cluster.leader(0).await;
    cluster.pause_node(leader);
    let client = Client::with_options(
        [cluster.gateway(1)],
        ClientOptions::new().timeout(Duration::from_secs(2)),
    );
    for _ in 0..4 {
        let checked =
            eventually("a stale check", async || client.check("a", Consistency::Stale).await.ok())
                .await;
        assert_ne!(checked.answered_by, leader);
        assert_eq!(checked.holders[0].fencing_token, held.fencing_token);
    }
    let error = client
        .check("a", Consistency::Linearizable)
        .await
        .expect_err("linearizable without the leader");
    println!("linearizable, the leader paused: {error}");
    cluster.resume_node(leader);
    let checked = eventually("a linearizable check", async || {
        client.check("a", Consistency::Linearizable).await.ok()
    })
    .await;
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
    eventually("a release by a new leader", async || {
        client.release("a", first.fencing_token).await.ok()
    })
    .await;
    let second =
        eventually("an acquire by a new leader", async || client.acquire("a").await.ok()).await;
    assert!(second.fencing_token > first.fencing_token);
    cluster.resume_node(leader);
    // Any replica must show the new holder, including the deposed leader.
    for _ in 0..20 {
        let checked = client.check("a", Consistency::Linearizable).await.expect("check");
        assert_eq!(checked.holders[0].fencing_token, second.fencing_token);
    }
    let late = client.renew("a", first.fencing_token).await.expect_err("renewed a released lock");
    assert!(late.is_fenced(), "{late:?}");
    cluster.replicas_agree().await;
}

/// Takes `count` locks, a few hundred at a time.
async fn hold(client: &Client, count: usize, options: impl Fn(usize) -> AcquireOptions) {
    let mut under_way = JoinSet::new();
    for n in 0..count {
        let (client, options) = (client.clone(), options(n).ttl(Duration::from_secs(3_600)));
        under_way.spawn(async move { client.acquire(options).await.expect("acquire") });
        if under_way.len() >= 500 {
            under_way.join_next().await;
        }
    }
    under_way.join_all().await;
}

/// Some reads once took so long in one step that the shard's followers elected another leader,
/// again and again. These were 40 times `cluster status` and `ls --limit 1` at 300,000 locks, or 50
/// checks of a name with 50,000 shared holders.
#[tokio::test(flavor = "multi_thread")]
async fn large_reads_change_no_leader_and_writes_go_on() {
    // The timeout is so long that a machine busy with other tests changes no leader either.
    let settings = Some(Settings { tick_ms: 100, election_ticks: 40, ..Settings::default() });
    let cluster = Cluster::start(Spec { settings, ..Spec::default() }).await;
    let client = Client::with_options(
        [cluster.gateway(1)],
        ClientOptions::new().timeout(Duration::from_secs(30)),
    );
    hold(&client, 15_000, |n| AcquireOptions::new(format!("user:{n:05}"))).await;
    hold(&client, 8_000, |_| AcquireOptions::new("config").mode(Mode::Shared)).await;
    let before = cluster.status().await;
    let terms = |status: &client::ClusterStatus| {
        status.shards.iter().map(|s| s.term).collect::<BTreeSet<_>>()
    };

    let mut readers = JoinSet::new();
    for reader in 0..120 {
        let client = client.clone();
        readers.spawn(async move {
            for _ in 0..2 {
                match reader % 3 {
                    0 => drop(client.cluster_status().await.expect("status")),
                    1 => assert!(client.list("user:", 1).await.expect("list").more),
                    _ => assert!(
                        client.check("config", Consistency::Stale).await.expect("check").more
                    ),
                }
            }
        });
    }
    for n in 0..30 {
        let name = format!("written-{n}");
        let grant = client.acquire(name.as_str()).await.expect("acquire beside large reads");
        client.release(&name, grant.fencing_token).await.expect("release beside large reads");
    }
    readers.join_all().await;
    assert_eq!(terms(&cluster.status().await), terms(&before), "leaders changed");
    cluster.replicas_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_says_so_and_can_be_gone_on_with() {
    let cluster = Cluster::start(Spec { shards: 3, ..Spec::default() }).await;
    let client = cluster.client();
    hold(&client, 2_500, |n| AcquireOptions::new(format!("user:{n:04}"))).await;
    hold(&client, 1_200, |_| AcquireOptions::new("config").mode(Mode::Shared)).await;

    let checked = cluster.run_json(&["check", "config"]).await;
    let shown = |json: &serde_json::Value, key: &str| json[key].as_array().expect("rows").len();
    assert_eq!(
        (shown(&checked, "holders"), &checked["holder_count"], &checked["more"]),
        (1_000, &1_200.into(), &true.into())
    );
    let all = cluster.run_json(&["check", "config", "--all"]).await;
    assert_eq!((shown(&all, "holders"), &all["more"]), (1_200, &false.into()));
    let said = String::from_utf8(cluster.run(&["check", "config"]).await.stdout).expect("text");
    assert!(
        said.contains("showing 1,000 of 1,200 holders"),
        "{}",
        said.lines().last().unwrap_or_default()
    );

    let (mut names, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = cluster.run_json(&["ls", "user:", "--limit", "900", "--cursor", &cursor]).await;
        let grants = page["grants"].as_array().expect("grants");
        names.extend(
            grants.iter().map(|grant| grant["resource_name"].as_str().expect("a name").to_owned()),
        );
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, (0..2_500).map(|n| format!("user:{n:04}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
    let all = cluster.run_json(&["ls", "--all"]).await;
    assert_eq!((shown(&all, "grants"), &all["next_cursor"]), (3_700, &serde_json::Value::Null));
    let refused = cluster.run(&["ls", "--cursor", "user:0899"]).await;
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("next_cursor"),
        "it says what a cursor is"
    );
}
