//! Sessions: one heartbeat for many locks.

use client::{
    AcquireOptions, Client, ClientOptions, Consistency, Held, LostReason, Session, SessionLock,
    SessionOptions,
};
use link::mux::{Answer, Link, LinkOptions, Locks};
use net::dial::Target;
use palisade_tests::{Cluster, Spec, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use wire::v1::operation::Op;
use wire::v1::{AcquireRequest, Operation};

const LOCKS: usize = 1_000;

/// The number of heartbeats that a gateway has answered.
fn heartbeats(cluster: &Cluster) -> u64 {
    let text = cluster.gateway_metrics(1);
    let of_heartbeats = text.lines().filter(|line| {
        line.starts_with("palisade_gateway_operations_total{") && line.contains("\"heartbeat\"")
    });
    of_heartbeats.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        as u64
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
    let session =
        client.open_session(SessionOptions::new().ttl(ttl)).await.expect("open a session");
    let (started, mut locks) = (Instant::now(), Vec::new());
    for i in 0..LOCKS {
        locks.push(session.acquire(format!("item:{i}")).await.expect("acquire"));
    }
    println!("{LOCKS} locks acquired one after the other in {:?}", started.elapsed());
    let shards: BTreeSet<u32> = locks.iter().map(|lock| lock.shard()).collect();
    assert_eq!(shards.len(), 4);

    let (from, entries_before, beats_before) =
        (Instant::now(), applied(&cluster).await, heartbeats(&cluster));
    eventually("it lives on well past its TTL", async || (from.elapsed() > 3 * ttl).then_some(()))
        .await;
    let (beats_after, entries_after) =
        (heartbeats(&cluster) - beats_before, applied(&cluster).await);
    let intervals = from.elapsed().as_secs_f64() / (ttl.as_secs_f64() / 3.0);
    println!("{LOCKS} locks on 4 shards: {beats_after} heartbeats in {intervals:.1} intervals");
    assert!(beats_after >= 3, "it lives on heartbeats");
    assert!(beats_after as f64 <= intervals + 2.0, "at most one heartbeat per interval");
    for (shard, before) in entries_before {
        let entries = entries_after[&shard] - before;
        println!("  shard {shard}: {entries} Raft entries");
        // One more heartbeat may have been on its way when counting began.
        assert!(
            entries <= beats_after + 1,
            "shard {shard}: {entries} entries for {beats_after} heartbeats"
        );
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
    // No heartbeat is sent.
    eventually("the lock is free", async || {
        client.check("a", Consistency::Linearizable).await.ok()?.holders.is_empty().then_some(())
    })
    .await;
    let heartbeat = client.heartbeat(&opened.session_id, &[grant.shard]).await.expect("heartbeat");
    assert_eq!(heartbeat.lost_shards, vec![grant.shard]);
    let late = client.release("a", grant.fencing_token).await.expect_err("released a lost lock");
    assert!(late.is_fenced(), "{late:?}");
}

/// A client that renews five times a second, and gives an operation up after half a second.
fn impatient(cluster: &Cluster) -> Client {
    let options = ClientOptions::new()
        .timeout(Duration::from_millis(500))
        .renew_interval_max(Duration::from_millis(200));
    Client::with_options(cluster.endpoints().split(','), options)
}

async fn open(client: &Client, ttl: Duration) -> Session {
    eventually("a session opens", async || {
        client.open_session(SessionOptions::new().ttl(ttl)).await.ok()
    })
    .await
}

async fn acquire(session: &Session, name: &str) -> SessionLock {
    eventually("it is acquired", async || session.acquire(name).await.ok()).await
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A session's heartbeats once named no locks, so a broken lock stayed valid for as long as the
/// session lived.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_lock_of_a_session_is_lost_within_a_renewal_interval() {
    let cluster = Cluster::start(Spec::default()).await;
    let (client, other) = (impatient(&cluster), cluster.client());
    let session = open(&client, HOUR).await;
    let names = [cluster.name_on(0, "a"), cluster.name_on(0, "b")];
    let (broken, kept) = (acquire(&session, &names[0]).await, acquire(&session, &names[1]).await);
    other.break_lock(broken.name(), broken.token(), "a test", "me").await.expect("break");
    let reason = tokio::time::timeout(Duration::from_secs(60), broken.lost())
        .await
        .expect("far sooner than a third of an hour");
    assert!(matches!(reason, LostReason::Fenced(_)), "{reason}");
    assert!(kept.is_valid());
    let others = open(&other, HOUR).await;
    let next = acquire(&others, &names[0]).await;
    assert!(next.token() > broken.token() && !broken.is_valid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_closed_by_another_client_is_lost_within_a_renewal_interval() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = impatient(&cluster);
    let session = open(&client, HOUR).await;
    let held = acquire(&session, "a").await;
    cluster.client().close_session(session.id(), &[held.shard()]).await.expect("close");
    let reason = tokio::time::timeout(Duration::from_secs(60), held.lost())
        .await
        .expect("far sooner than a third of an hour");
    assert!(matches!(reason, LostReason::Fenced(_)), "{reason}");
    assert!(
        session.acquire("a").await.expect_err("acquired by a session that is over").is_fenced()
    );
}

/// If a release got no answer, the heartbeats of its session once kept the lock for as long as the
/// session lived.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_release_failed_is_let_go_while_its_session_lives_on() {
    let cluster = Cluster::start(Spec::default()).await;
    let (client, ttl) = (impatient(&cluster), Duration::from_secs(60));
    let session = open(&client, ttl).await;
    let (unwanted, dropped, kept) =
        (acquire(&session, "a").await, acquire(&session, "b").await, acquire(&session, "c").await);
    cluster.pause_gateway(1);
    assert!(
        unwanted
            .release()
            .await
            .expect_err("released through a stopped gateway")
            .is_outcome_unknown()
    );
    drop(dropped);
    // The wait is longer than one try in the background takes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.resume_gateway(1);
    for name in ["a", "b"] {
        eventually("it is let go", async || {
            client
                .check(name, Consistency::Linearizable)
                .await
                .ok()?
                .holders
                .is_empty()
                .then_some(())
        })
        .await;
    }
    assert!(kept.is_valid(), "{:?}", kept.valid_for());
    session.close().await.expect("close");
}

/// A cancel without an answer once left its waiter in the queue for the whole wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_given_up_while_its_gateway_hangs_leaves_the_queue_later() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = impatient(&cluster);
    let holders = open(&cluster.client(), HOUR).await;
    let held = acquire(&holders, "a").await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.acquire(AcquireOptions::new("a").wait(HOUR)).await }
    });
    let waiters = async || Some(client.check("a", Consistency::Linearizable).await.ok()?.waiters);
    eventually("it waits", async || (waiters().await? == 1).then_some(())).await;
    cluster.pause_gateway(1);
    waiting.abort();
    // The wait is longer than one try of the cancel.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.resume_gateway(1);
    eventually("it has left", async || (waiters().await? == 0).then_some(())).await;
    tokio::time::timeout(Duration::from_secs(60), client.let_go_of_all())
        .await
        .expect("the cancel was answered");
    held.release().await.expect("release");
}

/// A client that died in the queue once blocked the name for its whole TTL when its turn came.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_out_of_the_queue_lives_on_if_it_is_claimed_and_ends_soon_if_not() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    let holders = open(&client, HOUR).await;
    let held = acquire(&holders, "a").await;
    let waiters = async || Some(client.check("a", Consistency::Linearizable).await.ok()?.waiters);
    let claim_ttl = Duration::from_millis(500);
    // This client speaks the protocol by itself and never claims, so that it behaves like a dead
    // client.
    let target = Target::plain(cluster.gateway(1)).expect("an address");
    let link = Link::<Locks>::start(target, LinkOptions::default());
    let dead = tokio::spawn(async move {
        let acquire = AcquireRequest {
            name: "a".into(),
            ttl_ms: HOUR.as_millis() as u32,
            wait_ms: HOUR.as_millis() as u32,
            claim_ttl_ms: claim_ttl.as_millis() as u32,
            ..Default::default()
        };
        link.call(Operation::of(Op::Acquire(acquire)), 5_000).await
    });
    eventually("the dead one waits", async || (waiters().await? == 1).then_some(())).await;
    let alive = tokio::spawn({
        let client = client.clone();
        async move {
            client.lock(AcquireOptions::new("a").ttl(HOUR).wait(HOUR).claim_ttl(claim_ttl)).await
        }
    });
    eventually("the living one waits", async || (waiters().await? == 2).then_some(())).await;
    held.release().await.expect("release");

    let granted =
        dead.await.expect("join").ok().and_then(Answer::into_grant).expect("its turn comes first");
    assert!(granted.claim_within_ms > 0, "{granted:?}");
    let guard = tokio::time::timeout(Duration::from_secs(60), alive)
        .await
        .expect("far sooner than an hour");
    let guard = guard.expect("join").expect("the next one's turn");
    assert!(guard.token() > granted.fencing_token);
    tokio::time::sleep(6 * claim_ttl).await;
    let holder =
        client.check("a", Consistency::Linearizable).await.expect("check").holders.swap_remove(0);
    assert_eq!(holder.fencing_token, guard.token(), "it was claimed, and has its full TTL");
    assert!(guard.is_valid() && guard.valid_for() > HOUR / 2);
}
