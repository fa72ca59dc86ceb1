//! Probes of a whole cluster: what a supervisor or a balancer sees while nodes are down.

use nix::sys::signal::Signal;
use palisade_tests::{Cluster, Spec, eventually};
use serde_json::Value;

/// The status and the document of an answer. `None` if there was no answer.
fn told(answer: &str) -> Option<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

/// Waits until a probe has this status, and returns its document.
async fn becomes(what: &str, status: u16, ask: impl Fn() -> String) -> Value {
    eventually(&format!("{what} is {status}"), async || {
        told(&ask()).filter(|(found, _)| *found == status).map(|(_, document)| document)
    })
    .await
}

fn missing<'a>(document: &'a Value, code: &str) -> Option<&'a Value> {
    document["missing"].as_array()?.iter().find(|one| one["code"] == code)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_all_live_and_none_is_ready() {
    let mut cluster = Cluster::start(Spec { shards: 2, ..Spec::default() }).await;
    becomes("the gateway", 200, || cluster.gateway_probe(1, "/readyz")).await;
    for node in 1..=3 {
        becomes("a node", 200, || cluster.node_probe(node, "/readyz")).await;
    }

    cluster.kill_node(1);
    cluster.kill_node(2);
    let gateway = becomes("the gateway", 503, || cluster.gateway_probe(1, "/readyz")).await;
    let leader = missing(&gateway, "LEADER").expect("a shard lacks its leader");
    assert!(leader["shards"].as_array().is_some_and(|shards| !shards.is_empty()), "{gateway}");
    let both = eventually("it names both shards", async || {
        let (_, document) = told(&cluster.gateway_probe(1, "/readyz"))?;
        let shards = missing(&document, "LEADER")?["shards"].clone();
        (shards == serde_json::json!([0, 1])).then_some(document)
    })
    .await;
    assert!(missing(&both, "NODE").is_some(), "it names the nodes that are lost: {both}");
    becomes("one shard of the gateway", 503, || cluster.gateway_probe(1, "/readyz?shards=1")).await;
    let node = becomes("the node that is left", 503, || cluster.node_probe(3, "/readyz")).await;
    assert!(missing(&node, "LEADER").is_some(), "{node}");
    becomes("its life", 200, || cluster.node_probe(3, "/livez")).await;
    becomes("the life of the gateway", 200, || cluster.gateway_probe(1, "/livez")).await;

    cluster.start_node(1);
    becomes("the gateway", 200, || cluster.gateway_probe(1, "/readyz")).await;
    becomes("the node that was left", 200, || cluster.node_probe(3, "/readyz")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_told_to_drain_serves_on_until_a_second_signal() {
    let mut cluster = Cluster::start(Spec::default()).await;
    cluster.kill_gateway(1);
    cluster.start_gateway_with(1, &["--drain", "1h"]);
    becomes("the gateway", 200, || cluster.gateway_probe(1, "/readyz")).await;
    cluster.signal_gateway(1, Signal::SIGTERM);
    let draining = becomes("the gateway", 503, || cluster.gateway_probe(1, "/readyz")).await;
    assert!(missing(&draining, "DRAINING").is_some(), "{draining}");
    becomes("its life", 200, || cluster.gateway_probe(1, "/livez")).await;
    cluster.client().acquire("drained").await.expect("it serves on");
    cluster.signal_gateway(1, Signal::SIGTERM);
    let status = cluster.gateway_ended(1).await;
    assert!(status.success(), "{status}");
}
