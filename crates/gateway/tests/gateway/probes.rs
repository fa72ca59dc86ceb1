//! Probes of a gateway, over raw sockets: on the port for clients, and on the port for metrics.

use crate::fake::{Fakes, Reaction, granted};
use crate::identified::answer_all;
use crate::raw::{Answered, Http};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A test that takes this long hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Asks the port for clients over a connection of its own.
async fn ask(fakes: &Fakes, path: &str) -> Answered {
    Http::to(fakes).await.ask("GET", path, "").await
}

/// Asks the port for metrics.
async fn ask_inside(fakes: &Fakes, path: &str) -> (u16, Value) {
    let answer = fakes.get(path).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status").parse().unwrap();
    (status, serde_json::from_str(body).expect("JSON"))
}

/// Waits until the port for clients answers a probe with this status.
async fn becomes(fakes: &Fakes, path: &str, status: u16) -> Answered {
    let asked = async {
        loop {
            let answered = ask(fakes, path).await;
            if answered.status == status {
                return answered;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANGS, asked).await.unwrap_or_else(|_| panic!("{path} is never {status}"))
}

#[tokio::test]
async fn a_gateway_is_ready_while_its_shards_have_leaders() {
    let fakes = Fakes::start(3, 3, &[], answer_all).await;
    let ready = becomes(&fakes, "/readyz", 200).await;
    assert_eq!(ready.body, json!({ "ready": true, "missing": [] }));
    let leader = fakes.said.lock().unwrap().leaders.insert(1, 0).unwrap();
    let lost = becomes(&fakes, "/readyz", 503).await;
    assert_eq!(lost.headers["content-type"], "application/json");
    assert_eq!(lost.body["ready"], false);
    assert_eq!(lost.body["missing"][0]["code"], "LEADER");
    assert_eq!(lost.body["missing"][0]["shards"], json!([1]), "{:?}", lost.body);
    for (path, status) in [
        ("/livez", 200),
        ("/readyz?shards=1", 200),
        ("/readyz?shards=2", 200),
        ("/readyz?shards=3", 503),
    ] {
        assert_eq!(ask(&fakes, path).await.status, status, "{path}");
        assert_eq!(ask_inside(&fakes, path).await.0, status, "{path} inside");
    }
    for path in ["/readyz?shards=0", "/readyz?shards=4", "/readyz?shards=x", "/readyz?shard=1"] {
        assert_eq!(ask(&fakes, path).await.problem(), (400, "INVALID_ARGUMENT"), "{path}");
    }
    fakes.said.lock().unwrap().leaders.insert(1, leader);
    becomes(&fakes, "/readyz", 200).await;
    assert!(fakes.seen().is_empty(), "no probe is a request to a node: {:?}", fakes.seen());
}

#[tokio::test]
async fn the_port_for_clients_tells_no_address_of_a_node() {
    let fakes = Fakes::start(1, 3, &[1, 2, 3], |_, _| Reaction::Silence).await;
    let told = async {
        loop {
            let (status, inside) = ask_inside(&fakes, "/healthz").await;
            assert_eq!(status, 503);
            if inside["missing"].as_array().is_some_and(|missing| missing.len() == 4) {
                return inside;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let inside = tokio::time::timeout(HANGS, told).await.expect("three nodes are lost");
    let address = &fakes.config.nodes[1].address;
    assert!(inside["missing"][2]["message"].as_str().unwrap().contains(address), "{inside}");
    let outside = ask(&fakes, "/readyz").await.body;
    assert_eq!(outside["missing"][2]["nodes"], json!([2]), "{outside}");
    assert!(!outside.to_string().contains("127.0.0.1"), "{outside}");
}

#[tokio::test]
async fn a_gateway_that_drains_lives_and_serves_and_is_not_ready() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| match &operation.op {
        Some(crate::fake::NodeOp::Acquire(acquire)) => granted(acquire, 7),
        _ => Reaction::Silence,
    })
    .await;
    becomes(&fakes, "/readyz", 200).await;
    fakes.gateway.drain();
    for (status, body) in [
        {
            let answered = ask(&fakes, "/readyz").await;
            (answered.status, answered.body)
        },
        ask_inside(&fakes, "/readyz").await,
    ] {
        assert_eq!((status, &body["missing"][0]["code"]), (503, &json!("DRAINING")), "{body}");
    }
    assert_eq!(ask(&fakes, "/livez").await.status, 200);
    assert_eq!(ask_inside(&fakes, "/livez").await.0, 200);
    let grant = fakes.client(HANGS).acquire("n").await.expect("it serves on");
    assert_eq!(grant.fencing_token, 7);
}

#[tokio::test]
async fn a_gateway_that_drains_closes_connections_of_http_1_with_their_next_answer() {
    let fakes = Fakes::start(1, 3, &[], answer_all).await;
    becomes(&fakes, "/readyz", 200).await;
    let mut kept = Http::to(&fakes).await;
    for path in ["/livez", "/v1/check?name=n"] {
        let answered = kept.ask("GET", path, "").await;
        assert_eq!((answered.status, answered.headers.get("connection")), (200, None), "{path}");
    }
    fakes.gateway.drain();
    let answered = kept.ask("GET", "/v1/check?name=n", "").await;
    assert_eq!((answered.status, answered.headers["connection"].as_str()), (200, "close"));
    assert!(kept.next().await.is_none(), "closed");
    let refused = Http::to(&fakes).await.ask("GET", "/palisade.v1.LockService/Check", "").await;
    assert_eq!(refused.headers["connection"], "close", "{refused:?}");
}

/// The types of the frames of HTTP/2 in these bytes.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, ..] = bytes {
        types.push(*kind);
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    types
}

#[tokio::test]
async fn a_gateway_that_ends_says_goaway_to_connections_of_http_2() {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let fakes = Fakes::start(1, 3, &[], answer_all).await;
    let mut stream = tokio::net::TcpStream::connect(fakes.gateway.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
    let mut first = [0; 9];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first[3], SETTINGS, "it speaks HTTP/2");
    let mut told = first.to_vec();
    let Fakes { gateway, .. } = fakes;
    let (_, read) = tokio::join!(gateway.shutdown(), stream.read_to_end(&mut told));
    read.expect("it is closed in order");
    assert!(frames(&told).contains(&GOAWAY), "{:?}", frames(&told));
}

/// The port for metrics was closed first, so a balancer that asked there saw a broken gateway.
#[tokio::test]
async fn probes_are_answered_until_the_last_stream_has_ended() {
    let fakes = Fakes::start(1, 3, &[], |_, _| Reaction::Silence).await;
    becomes(&fakes, "/readyz", 200).await;
    let client = fakes.client(HANGS);
    let asks = tokio::spawn(async move { client.acquire("n").await });
    while fakes.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let address = fakes.gateway.metrics_address().unwrap();
    // The connection is open before the end begins, and the operation in flight holds that up.
    let mut probe = tokio::net::TcpStream::connect(address).await.unwrap();
    let Fakes { gateway, .. } = fakes;
    let ends = tokio::spawn(gateway.shutdown());
    let mut answer = String::new();
    while !answer.contains("DRAINING") {
        answer.clear();
        probe
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        probe.read_to_string(&mut answer).await.unwrap();
        if !answer.contains("DRAINING") {
            probe = tokio::net::TcpStream::connect(address).await.expect("it listens on");
        }
    }
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    ends.await.expect("it ends");
    asks.abort();
}
