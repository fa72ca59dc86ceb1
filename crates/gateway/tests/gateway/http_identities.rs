//! HTTP with JSON in a cluster with identities: who may call which route.

use crate::fake::{NodeOp, error};
use crate::identified::{Files, answer_all, token};
use crate::raw::{Http, request, routes};
use serde_json::json;
use tonic::codegen::{Service, http};
use tonic::transport::Channel;
use wire::v1::Error;

const POLICY: &str = r#"
roles:
  both: { hold: ["a:"], read: ["a:"], break: ["a:"], observe: true, operate: true }
  holder: { hold: ["a:"] }
bindings:
  - { identities: [both], roles: [both] }
  - { identities: [holder], roles: [holder] }
"#;

fn bearer(name: &str) -> String {
    format!("authorization: Bearer {}\r\n", token(name))
}

#[tokio::test]
async fn every_route_needs_the_permission_of_its_operation() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    fakes.ready().await;
    let mut http = Http::to(&fakes).await;
    for (who, refused) in [
        (String::new(), Some((401, "UNAUTHENTICATED"))),
        (bearer("nobody has this one"), Some((401, "UNAUTHENTICATED"))),
        (bearer("mallory"), Some((403, "PERMISSION_DENIED"))),
        (bearer("both"), None),
    ] {
        for (verb, path, body) in routes("a:1") {
            let open = match path.as_str() {
                "/openapi.json" | "/livez" | "/readyz" => true,
                // These need no permission, so that a page can say which are missing.
                "/v1/permissions" => !who.contains(&token("nobody has this one")),
                "/v1/plan" => who.contains(&token("mallory")),
                _ => false,
            };
            fakes.forget();
            let answered = http.ask_with(verb, &path, &who, &body).await;
            match refused {
                Some(problem) if !open => {
                    assert_eq!(answered.problem(), problem, "{who} {verb} {path}");
                    assert_eq!(fakes.seen().len(), 0, "{path}: nothing was sent to a node");
                    let asks = answered.headers.get("www-authenticate");
                    assert_eq!(asks.is_some(), problem.0 == 401, "{path}");
                    let shown = format!("{answered:?}");
                    assert!(!shown.contains(&token("nobody has this one")), "{shown}");
                }
                _ => assert_eq!(answered.status, 200, "{who} {verb} {path}: {answered:?}"),
            }
        }
    }
    // The method HEAD is GET without the body of the answer.
    http.send(&request("HEAD", "/v1/cluster", "", "")).await;
    assert_eq!(http.head().await.unwrap().status, 401);
}

/// Regression: a page could call any method with the certificate of its reader, because browsers
/// ask nobody before they send text.
#[tokio::test]
async fn a_method_of_grpc_is_not_called_with_text() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let url = format!("http://{}", fakes.gateway.address());
    let mut channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    for content_type in ["text/plain", "application/json"] {
        let request = http::Request::post("/palisade.v1.LockService/Acquire")
            .header("authorization", format!("Bearer {}", token("both")))
            .header("content-type", content_type);
        let frame = tonic::body::Body::new(String::from("\0\0\0\0\x05\n\x03a:1"));
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let answered = channel.call(request.body(frame).unwrap()).await.unwrap();
        assert_eq!(answered.status(), 415, "{content_type}");
    }
    assert_eq!(fakes.seen().len(), 0);
}

#[tokio::test]
async fn other_names_are_denied_and_two_tokens_are_none() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let mut http = Http::to(&fakes).await;
    let denied = http.ask_with("GET", "/v1/check?name=b:1", &bearer("both"), "").await;
    assert_eq!(denied.problem(), (403, "PERMISSION_DENIED"));
    let two = bearer("both") + &bearer("both");
    let refused = http.ask_with("GET", "/v1/check?name=a:1", &two, "").await;
    assert_eq!(refused.problem(), (401, "UNAUTHENTICATED"));
    assert_eq!(fakes.seen().len(), 0);
    let body = r#"{"name":"a:1"}"#;
    assert_eq!(http.ask_with("POST", "/v1/acquire", &bearer("both"), body).await.status, 200);
    let (_, operation) = fakes.seen().remove(0);
    assert!(matches!(operation.op, Some(NodeOp::Acquire(_))));
    assert_eq!(operation.principal, "both", "the node knows the identity");
}

#[tokio::test]
async fn a_client_that_may_not_read_learns_nothing_of_the_holder() {
    let files = Files::of(POLICY);
    let fakes = files.start(|_, _| error(Error::held("BOB has it with token 77", 77, "BOB"))).await;
    let mut http = Http::to(&fakes).await;
    let body = r#"{"name":"a:1"}"#;
    let held = http.ask_with("POST", "/v1/acquire", &bearer("holder"), body).await;
    assert_eq!(held.problem(), (409, "HELD"));
    let shown = held.body.to_string();
    assert!(!shown.contains("BOB") && !shown.contains("77"), "{shown}");
}

/// Regression: requests for a watch with a bad query, and for permissions, counted for nothing, so
/// that one identity could send any number of them.
#[tokio::test]
async fn a_watch_that_is_not_begun_and_permissions_count_towards_the_rate() {
    const SLOW: &str = r#"
roles: { both: { watch: ["a:"], read: ["a:"] } }
bindings: [{ identities: [both], roles: [both], quota: slow }]
quotas: { slow: { operations_per_second: 1, burst: 5 } }
"#;
    for (path, status) in [("/v1/watch?prefix=a:&kinds=stolen", 400), ("/v1/permissions", 200)] {
        let files = Files::of(SLOW);
        let fakes = files.start(answer_all).await;
        let mut http = Http::to(&fakes).await;
        let mut statuses = Vec::new();
        while !statuses.contains(&429) && statuses.len() < 1_000 {
            statuses.push(http.ask_with("GET", path, &bearer("both"), "").await.status);
        }
        assert_eq!(statuses[..5], [status; 5], "{path}");
        assert!(statuses.contains(&429), "{path}: it is above its rate");
    }
}

#[tokio::test]
async fn a_client_is_told_what_it_may_do() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let mut http = Http::to(&fakes).await;
    for (who, principal, permissions) in [
        (String::new(), "anonymous", json!([])),
        (bearer("mallory"), "mallory", json!([])),
        (
            bearer("both"),
            "both",
            json!([
                { "verb": "hold", "prefixes": ["a:"] },
                { "verb": "read", "prefixes": ["a:"] },
                { "verb": "break", "prefixes": ["a:"] },
                { "verb": "observe", "prefixes": [] },
                { "verb": "operate", "prefixes": [] },
            ]),
        ),
    ] {
        let told = http.ask_with("GET", "/v1/permissions", &who, "").await.body;
        assert_eq!(told["identities"], true);
        assert_eq!(told["shards"], 1);
        assert_eq!(told["principal"], principal);
        assert_eq!(told["anonymous"], principal == "anonymous");
        assert_eq!(told["permissions"], permissions, "{principal}");
    }
    let wrong = bearer("nobody has this one");
    let refused = http.ask_with("GET", "/v1/permissions", &wrong, "").await;
    assert_eq!(refused.problem(), (401, "UNAUTHENTICATED"));
}
