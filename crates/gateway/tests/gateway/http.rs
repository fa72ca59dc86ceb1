//! HTTP with JSON on the port for clients.

use crate::fake::{Fakes, LONG, NodeAnswer, NodeOp, NodeOperation, Reaction, code, error, granted};
use crate::identified::{Door, Who, answer_all};
use crate::raw::{Http, request, routes};
use serde_json::json;
use tokio::time::timeout;
use tonic::codegen::Service;
use wire::v1::{AcquireRequest, Error, ErrorCode, Grant};

async fn serving() -> Fakes {
    let fakes = Fakes::start(1, 3, &[], answer_all).await;
    fakes.ready().await;
    fakes
}

/// A gateway whose nodes answer acquires with this error.
async fn failing(with: Error) -> Fakes {
    Fakes::start(1, 3, &[], move |_, _| error(with.clone())).await
}

fn is_wait(op: &NodeOp) -> bool {
    matches!(op, NodeOp::Acquire(acquire) if acquire.wait_ms > 0)
}

#[tokio::test]
async fn every_route_answers_over_one_connection() {
    let fakes = serving().await;
    let mut http = Http::to(&fakes).await;
    let mut asked = std::collections::BTreeSet::new();
    for (verb, path, body) in routes("a") {
        let answered = http.ask(verb, &path, &body).await;
        assert_eq!(answered.status, 200, "{verb} {path}: {answered:?}");
        assert_eq!(answered.headers["content-type"], "application/json", "{path}");
        assert_eq!(answered.headers["cache-control"], "no-store", "{path}");
        assert!(answered.headers.keys().all(|name| !name.starts_with("access-control")));
        let path = path.split('?').next().unwrap().replace("s%201", "{id}");
        let path = path.replace("/jobs/1", "/jobs/{id}");
        asked.insert((verb.to_lowercase(), path));
    }
    let document = http.ask("GET", "/openapi.json", "").await.body;
    for (path, verbs) in document["paths"].as_object().unwrap() {
        // Methods that OpenAPI does not know, and the watch, whose answer does not end, are in
        // tests of their own.
        let verbs = verbs.as_object().unwrap().keys();
        for verb in verbs.filter(|verb| path != "/v1/watch" && !verb.starts_with("x-")) {
            assert!(asked.contains(&(verb.clone(), path.clone())), "{verb} {path} was not asked");
        }
    }
    let session = |op: &NodeOp| match op {
        NodeOp::Heartbeat(beat) => beat.session_id == "s 1",
        NodeOp::CloseSession(close) => close.session_id == "s 1",
        _ => false,
    };
    assert_eq!(fakes.count(|_, op| session(op)), 2, "the path is decoded");
}

#[tokio::test]
async fn an_acquire_says_what_the_client_said_and_answers_what_the_node_answered() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| {
        let Some(NodeOp::Acquire(acquire)) = &operation.op else {
            return code(ErrorCode::Internal);
        };
        let grant = Grant {
            resource_name: acquire.name.clone(),
            owner_id: acquire.owner.clone(),
            fencing_token: (1 << 53) - 1,
            ..Default::default()
        };
        Reaction::Answer(NodeAnswer::Grant(grant))
    })
    .await;
    let mut http = Http::to(&fakes).await;
    let body = json!({ "name": "a/b:{c}", "owner": "me", "ttl": "1m30s", "mode": "semaphore",
        "permits": 2, "permit_limit": 3, "session": "s", "metadata": "ü" });
    let key = "idempotency-key: 01234567-89ab-cdef-0123-456789abcdef\r\n";
    let answered = http.ask_with("POST", "/v1/acquire", key, &body.to_string()).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    assert_eq!(answered.body["resource_name"], "a/b:{c}");
    assert_eq!(answered.body["fencing_token"], (1u64 << 53) - 1);
    let Some(NodeOp::Acquire(acquire)) = fakes.seen().remove(0).1.op else { panic!() };
    let id = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
    let expected = AcquireRequest {
        name: "a/b:{c}".into(),
        owner: "me".into(),
        ttl_ms: 90_000,
        mode: wire::v1::Mode::Semaphore.into(),
        permits: 2,
        permit_limit: 3,
        session_id: "s".into(),
        metadata: "ü".into(),
        request_id: [id, id].concat(),
        ..Default::default()
    };
    assert_eq!(acquire, expected);
}

#[tokio::test]
async fn requests_that_were_sent_ahead_are_answered_in_order() {
    let fakes = serving().await;
    let mut http = Http::to(&fakes).await;
    let check = |name: &str| request("GET", &format!("/v1/check?name={name}"), "", "");
    http.send(&(check("a%2Fb") + &check("c"))).await;
    for name in ["a/b", "c"] {
        assert_eq!(http.next().await.unwrap().body["resource_name"], name);
    }
}

#[tokio::test]
async fn bad_requests_are_refused_with_the_way_on() {
    let fakes = serving().await;
    let mut http = Http::to(&fakes).await;
    for (body, words) in [
        (r#"{"name":"a","tll":"5s"}"#, "did you mean `ttl`?"),
        (r#"{"owner":"me"}"#, "missing field `name`"),
        (r#"{"name":"a","name":"b"}"#, "duplicate field `name`"),
        (r#"{"name":"a","ttl":"5s","ttl_ms":5000}"#, "both given"),
        (r#"{"name":"a","wait":"soon"}"#, "wait is no duration"),
        (r#"{"name":"a","mode":"mine"}"#, "`shared`"),
        (r#"{"name":""}"#, "the name is empty"),
        (r#"{"name":"a"} {}"#, "trailing characters"),
        (r#"["a"]"#, ""),
        ("{", "EOF"),
        (r#"{"name":"a","ttl":"0s"}"#, "ttl is 0"),
        (r#"{"name":"a","ttl_ms":0}"#, "ttl is 0"),
    ] {
        let answered = http.ask("POST", "/v1/acquire", body).await;
        assert_eq!(answered.problem(), (400, "INVALID_ARGUMENT"), "{body}");
        let detail = answered.body["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{body}: {detail}");
    }
    for path in [
        "/v1/check",
        "/v1/check?name=",
        "/v1/check?nam=a",
        "/v1/check?name=a&name=b",
        "/v1/check?name=%FF",
        "/v1/locks?prefix=a%C3",
        "/v1/history?name=a&limit=many",
        "/v1/locks?limit=1001",
        "/v1/locks?limit=0",
        "/v1/check?name=a&limit=0",
        "/v1/history?name=a&limit=0",
        "/v1/locks?cursor=mine",
        "/v1/locks?older_than=soon",
        "/v1/locks?waiting=perhaps",
        "/v1/cluster?verbose=1",
        "/v1/cluster/topology?verbose=1",
        "/v1/cluster/jobs?verbose=1",
        "/openapi.json?verbose=1",
    ] {
        let answered = http.ask("GET", path, "").await;
        assert_eq!(answered.problem(), (400, "INVALID_ARGUMENT"), "{path}");
    }
    for (verb, path, body) in [
        ("POST", "/v1/sessions", r#"{"ttl_ms":0}"#),
        ("POST", "/v1/sessions/s/heartbeat", r#"{"shards":[]}"#),
        ("POST", "/v1/sessions/s/heartbeat", "{}"),
        ("POST", "/v1/sessions/s/heartbeat", r#"{"shards":[0],"leases":[{"shard":0}]}"#),
        ("POST", "/v1/sessions/s/heartbeat", r#"{"leases":[{"life":1}]}"#),
        ("POST", "/v1/acquire?wait=10s", r#"{"name":"a"}"#),
        ("DELETE", "/v1/sessions/s", ""),
        ("DELETE", "/v1/sessions/s?shards=", ""),
        ("DELETE", "/v1/sessions/s?shards=0", r#"{"shards":[0,1]}"#),
        ("GET", "/v1/check?name=a", r#"{"name":"b"}"#),
        ("GET", "/v1/cluster", "{}"),
        ("POST", "/v1/cluster/jobs", r#"{"kind":"DRAIN"}"#),
        ("POST", "/v1/cluster/jobs", r#"{"kind":"drain","node":2}"#),
        ("POST", "/v1/cluster/jobs", r#"{"kind":"DRAIN","node":2,"replicas":3}"#),
        ("POST", "/v1/cluster/jobs", r#"{"kind":"DRAIN","node":2,"shard":0}"#),
        ("POST", "/v1/cluster/jobs", r#"{"kind":"REPLACE_NODE","node":2}"#),
        ("POST", "/v1/cluster/jobs", r#"{"kind":"DRAIN","node":9}"#),
        ("POST", "/v1/cluster/settings", "{}"),
        ("POST", "/v1/cluster/settings", r#"{"paused":true,"repair_after":"off"}"#),
        ("POST", "/v1/cluster/settings", r#"{"repair_after":"soon"}"#),
        ("POST", "/v1/cluster/settings", r#"{"repair_after":"5s"}"#),
        ("POST", "/v1/cluster/plan", "{}"),
        ("POST", "/v1/cluster/plan", r#"{"cancel_job":1,"setting":{"paused":true}}"#),
        ("POST", "/v1/cluster/plan", r#"{"job":{"kind":"DRAIN","node":9}}"#),
        ("DELETE", "/v1/cluster/jobs/first", ""),
        ("DELETE", "/v1/cluster/jobs/1", ""),
    ] {
        let answered = http.ask(verb, path, body).await;
        assert_eq!(answered.problem(), (400, "INVALID_ARGUMENT"), "{verb} {path} {body}");
    }
    let one = format!("idempotency-key: {}\r\n", "09".repeat(16));
    for key in ["idempotency-key: \r\n", "idempotency-key: nightly\r\n", &one.repeat(2)] {
        let answered = http.ask_with("POST", "/v1/acquire", key, r#"{"name":"a"}"#).await;
        assert_eq!(answered.problem(), (400, "INVALID_ARGUMENT"), "{key}");
    }
    assert_eq!(fakes.seen().len(), 0, "nothing was sent to a node");
}

#[tokio::test]
async fn what_is_no_route_or_no_json_is_refused() {
    let fakes = serving().await;
    let acquire = r#"{"name":"a"}"#;
    let as_text = acquire.len();
    let as_text = format!("content-type: text/plain\r\ncontent-length: {as_text}\r\n\r\n{acquire}");
    let start = |line: &str| format!("{line} HTTP/1.1\r\nhost: localhost\r\n");
    let long = "x".repeat(20 << 10);
    let too_large = (1 << 20) + 1;
    let too_large =
        format!("content-type: application/json\r\ncontent-length: {too_large}\r\n\r\n");
    for (sent, problem) in [
        (request("GET", "/v1", "", ""), (404, "NOT_FOUND")),
        (request("GET", "/v1/acquire", "", ""), (405, "METHOD_NOT_ALLOWED")),
        (
            request("OPTIONS", "/v1/acquire", "origin: http://a\r\n", ""),
            (405, "METHOD_NOT_ALLOWED"),
        ),
        // The page of a browser can send this to another origin without asking.
        (start("POST /v1/acquire") + &as_text, (415, "NOT_JSON")),
        (request("POST", "/v1/sessions", "", ""), (415, "NOT_JSON")),
        (start("POST /palisade.v1.LockService/Acquire") + &as_text, (415, "GRPC_ONLY")),
        (
            request("GET", "/v1/check?name=a", &format!("x: {long}\r\n"), ""),
            (431, "HEADERS_TOO_LARGE"),
        ),
        (
            "GET /v1/check?name=a HTTP/1.1\r\nhost: evil.example:1\r\n\r\n".into(),
            (421, "OTHER_HOST"),
        ),
        // The answer does not wait for the body.
        (start("POST /v1/acquire") + &too_large, (413, "BODY_TOO_LARGE")),
    ] {
        let mut http = Http::to(&fakes).await;
        http.send(&sent).await;
        let answered = http.next().await.unwrap_or_else(|| panic!("closed after {sent:.80}"));
        assert_eq!(answered.problem(), problem, "{sent:.80}");
        assert!(!answered.headers.contains_key("access-control-allow-origin"));
        assert_eq!(answered.headers.contains_key("allow"), answered.status == 405, "{sent:.80}");
    }
    assert_eq!(fakes.seen().len(), 0, "nothing was sent to a node");
    for host in ["localhost:1", "127.0.0.1", "[::1]:7"] {
        let mut http = Http::to(&fakes).await;
        http.send(&format!("GET /v1/check?name=a HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(http.next().await.unwrap().status, 200, "{host}");
    }
}

/// Regression: what a browser marked as a request of another site was served.
#[tokio::test]
async fn the_pages_of_other_sites_are_refused() {
    let fakes = serving().await;
    let mut http = Http::to(&fakes).await;
    for (headers, refused) in [
        ("origin: http://evil.example\r\n", true),
        ("origin: http://localhost:3000\r\n", true),
        ("origin: null\r\n", true),
        ("origin: localhost\r\n", true),
        ("origin: http://localhost\r\norigin: http://evil.example\r\n", true),
        ("sec-fetch-site: cross-site\r\n", true),
        ("sec-fetch-site: same-site\r\n", true),
        ("origin: http://localhost\r\nsec-fetch-site: same-origin\r\n", false),
        ("sec-fetch-site: none\r\n", false),
    ] {
        fakes.forget();
        for (verb, path, body) in routes("a") {
            let answered = http.ask_with(verb, &path, headers, &body).await;
            if refused {
                assert_eq!(answered.problem(), (403, "OTHER_ORIGIN"), "{headers} {path}");
            } else {
                assert_eq!(answered.status, 200, "{headers} {path}");
            }
        }
        assert_eq!(fakes.seen().is_empty(), refused, "{headers}");
    }
}

/// Regression: without identities a page could call a method of gRPC over TLS, as text.
#[tokio::test]
async fn a_method_of_grpc_is_not_called_with_text_without_identities() {
    let fakes = serving().await;
    let url = format!("http://{}", fakes.gateway.address());
    let mut channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
    let request = tonic::codegen::http::Request::post("/palisade.v1.LockService/BreakLock")
        .header("content-type", "text/plain");
    let frame = tonic::body::Body::new(String::from("\0\0\0\0\x05\n\x03a:1"));
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let answered = channel.call(request.body(frame).unwrap()).await.unwrap();
    assert_eq!(answered.status(), 415);
    assert_eq!(fakes.seen().len(), 0, "nothing was sent to a node");
}

/// Regression: a loop of `curl -f` went on with locks that were lost.
#[tokio::test]
async fn a_heartbeat_that_lost_a_shard_or_kept_none_is_a_problem() {
    for (with, problem, lists) in [
        (ErrorCode::SessionLost, (412, "SESSION_LOST"), (json!([0]), json!([]))),
        (ErrorCode::Internal, (503, "NO_LEADER"), (json!([]), json!([0]))),
    ] {
        let fakes = failing(Error::new(with, "why")).await;
        let mut http = Http::to(&fakes).await;
        let body = r#"{"shards":[0]}"#;
        let answered = http.ask("POST", "/v1/sessions/s/heartbeat", body).await;
        assert_eq!(answered.problem(), problem);
        let of = |field: &str| answered.body[field].clone();
        assert_eq!((of("lost_shards"), of("failed_shards")), lists);
        assert_eq!((of("renewed_shards"), of("session_id")), (0.into(), "s".into()));
    }
}

/// Regression: a heartbeat over HTTP did not tell that locks were broken.
#[tokio::test]
async fn a_heartbeat_takes_and_tells_lives_and_breaks() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| match &operation.op {
        Some(NodeOp::Heartbeat(beat)) => {
            Reaction::Answer(NodeAnswer::Heartbeat(wire::v1::SessionLeaseState {
                life: beat.life,
                ttl_ms: 20_000,
                broken_count: beat.broken_seen + 1,
                broken_tokens: vec![77],
                ..Default::default()
            }))
        }
        _ => code(ErrorCode::Internal),
    })
    .await;
    let body = r#"{"leases":[{"shard":0,"life":9,"broken_seen":4}]}"#;
    let answered = Http::to(&fakes).await.ask("POST", "/v1/sessions/s/heartbeat", body).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    let lease = json!({ "shard": 0, "life": 9, "ttl_ms": 20_000, "broken_count": 5,
        "broken_tokens": [77], "broken_overflow": false });
    assert_eq!(answered.body["leases"], json!([lease]));
}

/// The filters go to every shard, and waiters come back.
#[tokio::test]
async fn a_list_passes_its_filters_on_and_answers_locks_and_waiters() {
    let fakes = Fakes::start(1, 3, &[], |_, operation| {
        let Some(NodeOp::List(list)) = &operation.op else { return code(ErrorCode::Internal) };
        let grant = |name: &str| Grant { resource_name: name.into(), ..Default::default() };
        let waiter = |name: &str, place| wire::v1::Waiter {
            resource_name: name.into(),
            place,
            owner_id: list.owner.clone(),
            ..Default::default()
        };
        Reaction::Answer(NodeAnswer::List(wire::internal::v1::ShardPage {
            grants: vec![grant("a"), grant("b")],
            next_cursor: wire::encode_cursor("b", 3),
            waiters: vec![waiter("a", 1), waiter("a", 2), waiter("b", 1)],
        }))
    })
    .await;
    let path = "/v1/locks?prefix=p&owner=me&older_than=1m30s&waiting=true&limit=1000";
    let answered = Http::to(&fakes).await.ask("GET", path, "").await;
    assert_eq!(answered.status, 200, "{answered:?}");
    let of = |list: &str, field: &str| -> Vec<serde_json::Value> {
        answered.body[list].as_array().unwrap().iter().map(|row| row[field].clone()).collect()
    };
    assert_eq!(of("locks", "resource_name"), ["a", "b"]);
    assert_eq!(of("waiters", "resource_name"), ["a", "a", "b"]);
    assert_eq!(answered.body["next_cursor"], wire::encode_cursor("b", 3));
    let Some(NodeOp::List(list)) = fakes.seen().remove(0).1.op else { panic!() };
    assert_eq!((&*list.prefix, &*list.owner, list.older_than_ms), ("p", "me", 90_000));
    assert!(list.waiting);
}

#[tokio::test]
async fn errors_of_the_service_are_problems() {
    let fakes = failing(Error::held("bob holds it", 7, "bob")).await;
    let held = Http::to(&fakes).await.ask("POST", "/v1/acquire", r#"{"name":"a"}"#).await;
    assert_eq!(held.problem(), (409, "HELD"));
    assert_eq!((&held.body["holder"], &held.body["current_token"]), (&"bob".into(), &7.into()));
    let fakes = failing(Error::not_owner("another has it", 8)).await;
    let body = r#"{"name":"a","fencing_token":7}"#;
    let fenced = Http::to(&fakes).await.ask("POST", "/v1/renew", body).await;
    assert_eq!(fenced.problem(), (412, "NOT_OWNER"));
    let fakes = failing(Error::new(ErrorCode::WaitTimeout, "not in time")).await;
    let body = r#"{"name":"a","wait":"1s"}"#;
    let late = Http::to(&fakes).await.ask("POST", "/v1/acquire", body).await;
    assert_eq!(late.problem(), (409, "WAIT_TIMEOUT"));
}

#[tokio::test]
async fn the_wait_of_a_closed_connection_leaves_its_queue() {
    let fakes = Fakes::start(1, 3, &[], queue).await;
    let mut http = Http::to(&fakes).await;
    let key = format!("idempotency-key: {}\r\n", "09".repeat(16));
    let body = r#"{"name":"n","wait":"60s"}"#;
    http.send(&request("POST", "/v1/acquire", &key, body)).await;
    fakes.until(1, |_, op| is_wait(op)).await;
    assert_eq!(fakes.count(|_, op| matches!(op, NodeOp::CancelWait(_))), 0);
    drop(http);
    let ours = |_, op: &NodeOp| matches!(op, NodeOp::CancelWait(c) if c.request_id == [9; 16]);
    timeout(LONG / 4, fakes.until(1, ours)).await.expect("it leaves");
    assert_eq!(fakes.count(|_, op| is_wait(op)), 1, "not tried again for nobody");
}

fn queue(node: u64, operation: &NodeOperation) -> Reaction {
    match operation.op.as_ref() {
        Some(op) if is_wait(op) => Reaction::Silence,
        _ => answer_all(node, operation),
    }
}

#[tokio::test]
async fn a_wait_is_answered_when_it_is_granted() {
    let (grant, granting) = tokio::sync::oneshot::channel();
    let granting = std::sync::Mutex::new(Some(granting));
    let fakes = Fakes::start(1, 3, &[], move |_, _| {
        Reaction::Later(granting.lock().unwrap().take().expect("one wait"))
    })
    .await;
    let mut http = Http::to(&fakes).await;
    http.send(&request("POST", "/v1/acquire", "", r#"{"name":"n","wait_ms":60000}"#)).await;
    fakes.until(1, |_, op| is_wait(op)).await;
    let Some(NodeOp::Acquire(acquire)) = fakes.seen().remove(0).1.op else { panic!() };
    let Reaction::Answer(answer) = granted(&acquire, 9) else { unreachable!() };
    assert!(grant.send(answer).is_ok());
    assert_eq!(http.next().await.unwrap().body["fencing_token"], 9);
}

#[tokio::test]
async fn grpc_and_http2_go_on_beside_it() {
    let fakes = serving().await;
    let mut http = Http::to(&fakes).await;
    let acquire = || AcquireRequest { name: "a".into(), ..Default::default() };
    assert_eq!(http.ask("GET", "/v1/check?name=a", "").await.status, 200);
    assert_eq!(Door::of(&fakes).await.call(Who::Nameless, acquire().into()).await, None);
    assert_eq!(http.ask("GET", "/v1/check?name=a", "").await.status, 200);
    let url = format!("http://{}", fakes.gateway.address());
    let mut channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
    for (path, status) in [("/v1/check?name=a", 200), ("/nowhere", 404)] {
        let request = tonic::codegen::http::Request::get(path);
        let request = request.body(tonic::body::Body::empty()).unwrap();
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        assert_eq!(channel.call(request).await.unwrap().status(), status, "{path}");
    }
}

/// The bounds are of hyper (30 s) and ours (10 s).
#[tokio::test]
async fn a_client_that_sends_too_slowly_is_closed() {
    let fakes = serving().await;
    let headers = async {
        let mut http = Http::to(&fakes).await;
        http.send(&request("GET", "/v1/check?name=a", "", "")).await;
        assert_eq!(http.next().await.unwrap().status, 200);
        http.send("GET /v1/check?name=a HTTP/1.1\r\nhost: localhost\r\nx: ").await;
        timeout(LONG, http.next()).await.expect("it is closed")
    };
    let body = async {
        let mut http = Http::to(&fakes).await;
        let head = "POST /v1/acquire HTTP/1.1\r\nhost: localhost\r\n";
        let content = "content-type: application/json\r\ncontent-length: 20\r\n\r\n{";
        http.send(&format!("{head}{content}")).await;
        let answered = timeout(LONG, http.next()).await.expect("it is answered").unwrap();
        assert_eq!(answered.problem(), (408, "BODY_TOO_SLOW"));
        timeout(LONG, http.next()).await.expect("it is closed")
    };
    let (headers, body) = tokio::join!(headers, body);
    assert!(headers.is_none() && body.is_none(), "{headers:?} {body:?}");
}
