//! A gateway dies under its clients, runs out of descriptors, or has a wrong cluster file.

use client::{AcquireOptions, Client, Consistency, Held, SessionOptions};
use palisade_tests::{Cluster, Spec, eventually};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpSocket;

const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn holder_and_waiters_go_on_through_the_second_gateway() {
    let mut cluster = Cluster::start(Spec { gateways: 2, ..Spec::default() }).await;
    let ttl = Duration::from_secs(3);
    // All clients except the watcher use the first gateway as long as it lives.
    let holder = cluster.client();
    let session =
        holder.open_session(SessionOptions::new().ttl(ttl)).await.expect("open a session");
    let held = session.acquire("a").await.expect("acquire");
    let watcher = Client::connect([cluster.gateway(2)]);
    let waiters =
        async || watcher.check("a", Consistency::Linearizable).await.expect("check").waiters;
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
    // The wait is longer than the session lives without heartbeats, and longer than a waiter keeps
    // its place without its stream.
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

/// With a limit of 96 descriptors, 300 idle connections once kept a core busy. The gateway's own
/// connections to the nodes could not be opened again.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_descriptors_waits_and_goes_on() {
    let cluster = Cluster::start(Spec::default()).await;
    let limited = ["sh", "-c", "ulimit -n 96 && exec \"$0\" \"$@\""];
    let (gateway, address) = cluster.start_stranger(&limited, cluster.config());
    let holder = Client::connect([&address]);
    let held = eventually("it serves", async || {
        holder.acquire(AcquireOptions::new("held").ttl(LONG).request_id([5; 16])).await.ok()
    })
    .await;
    // From three addresses, because one source gets half of all connections at most.
    let to: SocketAddr = address.parse().expect("an address");
    let mut idle = Vec::new();
    for last in [2, 3, 4].repeat(100) {
        let source = SocketAddr::from(([127, 0, 0, last], 0));
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(source).expect("all of 127.0.0.0/8 is loopback");
        idle.push(socket.connect(to).await.expect("the kernel takes it"));
    }
    let log = || std::fs::read_to_string(gateway.log()).expect("its log");
    eventually("it stops taking connections", async || {
        log().contains("no more connections are taken").then_some(())
    })
    .await;
    for _ in 0..5 {
        holder.renew("held", held.fencing_token).await.expect("those who are connected go on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(log().lines().count() < 30, "{}", log());
    drop(idle);
    let late = Client::connect([&address]);
    eventually("it takes connections again", async || {
        late.check("held", Consistency::Stale).await.ok()
    })
    .await;
}

/// The gateway's file had a node's old address. The gateway once lacked that node's shards until it
/// was restarted.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_an_old_address_finds_the_node_by_its_peers() {
    let cluster = Cluster::start(Spec { shards: 3, ..Spec::default() }).await;
    let yaml = std::fs::read_to_string(cluster.config()).expect("the cluster file");
    let (config, _) = routing::ClusterConfig::parse(&yaml).expect("it is sound");
    let old = cluster.config().with_file_name("old.yaml");
    let there = &config.nodes[1].address;
    std::fs::write(&old, yaml.replace(there.as_str(), "127.0.0.1:1")).expect("write it");
    let (gateway, address) = cluster.start_stranger(&[], &old);
    let client = Client::connect([&address]);
    for shard in 0..3 {
        let name = cluster.name_on(shard, "job");
        eventually("each shard is served", async || client.acquire(name.as_str()).await.ok()).await;
    }
    eventually("all nodes are reached", async || {
        let status = client.cluster_status().await.ok()?;
        status.nodes.iter().all(|node| node.reachable).then_some(())
    })
    .await;
    let log = std::fs::read_to_string(gateway.log()).expect("its log");
    for words in [
        "gateway serves",
        "127.0.0.1:1 cannot be used",
        "another address than the cluster file says",
    ] {
        assert!(log.contains(words), "{words:?} is not in\n{log}");
    }
}

/// A gateway of the staging cluster once took a lock in production.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_another_cluster_is_refused_and_says_so() {
    let cluster = Cluster::start(Spec::default()).await;
    let yaml = std::fs::read_to_string(cluster.config()).expect("the cluster file");
    let staging = cluster.config().with_file_name("staging.yaml");
    std::fs::write(&staging, yaml.replace("cluster: test", "cluster: staging")).expect("write it");
    let (gateway, address) = cluster.start_stranger(&[], &staging);
    let client = Client::connect([&address]);
    let refused = eventually("it answers", async || {
        client.acquire("job").await.err().filter(|error| !error.is_unreachable())
    })
    .await;
    assert!(
        refused.message.contains("is of cluster \"test\"")
            || refused.message.contains("\"staging\""),
        "{refused}"
    );
    assert!(
        cluster
            .client()
            .check("job", Consistency::Linearizable)
            .await
            .expect("check")
            .holders
            .is_empty()
    );
    let log = std::fs::read_to_string(gateway.log()).expect("its log");
    assert!(log.contains("cluster \"test\""), "{log}");
}
