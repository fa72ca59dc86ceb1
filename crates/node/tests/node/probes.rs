//! Probes of a node, over raw sockets.

use crate::cluster::*;
use palisade_node::{Node, NodeOptions};
use routing::{NodeId, Settings};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::{OperateRequest, Operation, Quota};

/// The answer to a request, with its head. Empty if the node does not answer.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return answer };
    let asked = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    if stream.write_all(asked.as_bytes()).await.is_ok() {
        let _ = stream.read_to_string(&mut answer).await;
    }
    answer
}

/// Waits until a probe is answered with this status, and returns the answer.
async fn becomes(address: SocketAddr, path: &str, status: u16) -> String {
    let mut last = String::new();
    let asked = async {
        while !last.starts_with(&format!("HTTP/1.1 {status} ")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = get(address, path).await;
        }
    };
    if tokio::time::timeout(HANGS, asked).await.is_err() {
        panic!("{path} is never {status}: {last}");
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_quorum_lives_and_is_not_ready() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    let [me, second, third] = [NodeId(1), NodeId(2), NodeId(3)];
    cluster.stop(me).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = cluster.options(me, cluster.engines[&me].clone());
    let options = NodeOptions { metrics_listener: Some(listener), ..options };
    cluster.nodes.insert(me, Node::start(options).await.unwrap());
    let ready = becomes(address, "/readyz", 200).await;
    assert!(ready.ends_with(r#"{"ready":true,"missing":[]}"#), "{ready}");
    cluster.crash(second).await;
    cluster.crash(third).await;
    let lost = becomes(address, "/readyz", 503).await;
    assert!(lost.contains(r#""code":"LEADER""#) && lost.contains(r#""shards":["#), "{lost}");
    assert!(lost.contains("content-type: application/json"), "{lost}");
    let live = get(address, "/livez").await;
    assert!(live.starts_with("HTTP/1.1 200") && live.contains(r#""live":true"#), "{live}");
    assert!(get(address, "/metrics").await.contains("\npalisade_ready 0\n"));
    cluster.restart(second).await;
    becomes(address, "/healthz", 200).await;
    let metrics = get(address, "/metrics").await;
    for line in ["palisade_ready 1", r#"palisade_shard_has_leader{shard="1"} 1"#] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_a_quota_is_counted() {
    let cluster = Cluster::start(3, 1, Settings::default()).await;
    granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let mut caller = cluster.caller(leader).await;
    let operations = ["mine-1", "mine-2"].into_iter().zip(1_000..).map(|(name, id)| Operation {
        id,
        principal: "alice".into(),
        quota: Some(Quota { locks: 1, ..Quota::default() }),
        ..Operation::routed(acquire(name, 1), cluster.route(name))
    });
    for operation in operations.collect::<Vec<_>>() {
        let id = operation.id;
        let frame = OperateRequest { operations: vec![operation], ..Default::default() };
        caller.frames.send(frame).await.unwrap();
        match caller.result(id).await.expect("a result") {
            OpResult::Grant(_) => assert_eq!(id, 1_000, "the first one"),
            OpResult::Error(error) => assert!(error.message.contains("quota"), "{error:?}"),
            other => panic!("{other:?}"),
        }
    }
    let metrics = cluster.nodes[&leader].metrics_text();
    let line = "palisade_quota_refusals_total 1";
    assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    cluster.stop_all().await;
}
