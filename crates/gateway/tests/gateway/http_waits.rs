//! Waits over HTTP whose request id no client knows, and requests that are refused early.

use crate::fake::{Fakes, LONG, NodeAnswer, NodeOp, NodeOperation, Reaction, error};
use crate::identified::{Files, answer_all, token};
use crate::raw::{Http, request};
use std::sync::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::codegen::{Service, http};
use tonic::transport::Channel;
use wire::internal::v1::ShardPage;
use wire::v1::{AcquireRequest, Error, Grant, RenewResponse};

const WAIT: &str = r#"{"name":"n","wait":"60s"}"#;

fn is_wait(op: &NodeOp) -> bool {
    matches!(op, NodeOp::Acquire(acquire) if acquire.wait_ms > 0)
}

fn queue(node: u64, operation: &NodeOperation) -> Reaction {
    match operation.op.as_ref() {
        Some(op) if is_wait(op) => Reaction::Silence,
        _ => answer_all(node, operation),
    }
}

/// The acquires that nodes received, in order.
fn acquires(seen: &[(u64, NodeOperation)]) -> Vec<AcquireRequest> {
    let acquire = |(_, operation): &(u64, NodeOperation)| match &operation.op {
        Some(NodeOp::Acquire(acquire)) => Some(acquire.clone()),
        _ => None,
    };
    seen.iter().filter_map(acquire).collect()
}

/// Regression: a wait without a key stayed in its queue when its gateway ended, and could be
/// granted to nobody for its whole TTL.
#[tokio::test]
async fn a_shutdown_ends_the_waits_that_no_client_can_come_back_to() {
    let fakes = Fakes::start(1, 3, &[], queue).await;
    let (mut keyless, mut keyed) = (Http::to(&fakes).await, Http::to(&fakes).await);
    keyless.send(&request("POST", "/v1/acquire", "", WAIT)).await;
    fakes.until(1, |_, op| is_wait(op)).await;
    let key = format!("idempotency-key: {}\r\n", "09".repeat(16));
    keyed.send(&request("POST", "/v1/acquire", &key, WAIT)).await;
    fakes.until(2, |_, op| is_wait(op)).await;
    let ids: Vec<Vec<u8>> =
        acquires(&fakes.seen()).into_iter().map(|acquire| acquire.request_id).collect();
    let (seen, first, second) =
        timeout(LONG, async { tokio::join!(fakes.shut_down(), keyless.next(), keyed.next()) })
            .await
            .expect("it ends");
    for answered in [first, second] {
        let answered = answered.expect("an answer");
        assert_eq!(answered.problem(), (503, "SHUTTING_DOWN"));
        assert!(answered.headers.contains_key("retry-after"));
    }
    let seen = seen.lock().unwrap().clone();
    let cancelled: Vec<_> = seen
        .iter()
        .filter_map(|(_, operation)| match &operation.op {
            Some(NodeOp::CancelWait(cancel)) => Some((cancel.request_id.clone(), cancel.abandoned)),
            _ => None,
        })
        .collect();
    assert_eq!(cancelled, [(ids[0].clone(), false)], "the other client goes on elsewhere");
}

/// Regression: a wait without a key stayed in its queue if its gateway ended just after its client
/// had gone.
#[tokio::test]
async fn a_shutdown_ends_the_wait_of_a_client_that_has_just_gone() {
    let fakes = Fakes::start(1, 3, &[], queue).await;
    let mut http = Http::to(&fakes).await;
    http.send(&request("POST", "/v1/acquire", "", WAIT)).await;
    fakes.until(1, |_, op| is_wait(op)).await;
    drop(http);
    let is_gone = async {
        while !fakes.get("/metrics").await.contains("operations_in_flight 0") {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, is_gone).await.expect("the gateway sees it");
    let seen = timeout(LONG, fakes.shut_down()).await.expect("it ends");
    let seen = seen.lock().unwrap();
    let is_cancel = |op: &Option<NodeOp>| matches!(op, Some(NodeOp::CancelWait(_)));
    assert_eq!(seen.iter().filter(|(_, operation)| is_cancel(&operation.op)).count(), 1);
}

/// A gateway whose node grants a wait out of the queue, unclaimed, and answers renewals with
/// `renewed`.
async fn granting(renewed: impl Fn() -> Reaction + Send + Sync + 'static) -> Fakes {
    Fakes::start(1, 3, &[], granted(renewed)).await
}

/// The node of [`granting`].
fn granted(
    renewed: impl Fn() -> Reaction + Send + Sync + 'static,
) -> impl Fn(u64, &NodeOperation) -> Reaction + Send + Sync + 'static {
    move |node, operation| match &operation.op {
        Some(NodeOp::Acquire(acquire)) => Reaction::Answer(NodeAnswer::Grant(Grant {
            resource_name: acquire.name.clone(),
            fencing_token: 9,
            ttl_ms: acquire.ttl_ms,
            claim_within_ms: acquire.claim_ttl_ms,
            remaining_ms: acquire.claim_ttl_ms,
            ..Grant::default()
        })),
        Some(NodeOp::Renew(_)) => renewed(),
        _ => answer_all(node, operation),
    }
}

/// Regression: the refusal of the renewal named the next holder to who may not read.
#[tokio::test]
async fn a_claim_that_fails_tells_nothing_of_the_next_holder() {
    let files = Files::of(
        "roles:\n  holder: { hold: [\"\"] }\nbindings:\n  - { identities: [holder], roles: \
         [holder] }\n",
    );
    let held = || Error { holder: "bob".into(), ..Error::not_owner("bob has it with 77", 77) };
    let fakes = files.start(granted(move || error(held()))).await;
    let header = format!("authorization: Bearer {}\r\n", token("holder"));
    let answered = Http::to(&fakes).await.ask_with("POST", "/v1/acquire", &header, WAIT).await;
    assert_eq!(answered.problem(), (412, "NOT_OWNER"));
    let told = answered.body.to_string();
    assert!(!told.contains("bob") && !told.contains("77"), "{told}");
}

fn is_renewal(op: &NodeOp) -> bool {
    matches!(op, NodeOp::Renew(_))
}

fn is_release(op: &NodeOp) -> bool {
    matches!(op, NodeOp::Release(release) if release.fencing_token == 9)
}

#[tokio::test]
async fn a_wait_without_a_key_has_a_short_first_lease_which_the_gateway_makes_the_full_one() {
    let fakes = granting(|| {
        let renewed = RenewResponse { ttl_ms: 30_000, renewal_count: 1, ..Default::default() };
        Reaction::Answer(NodeAnswer::Renew(renewed))
    })
    .await;
    let mut http = Http::to(&fakes).await;
    let answered = http.ask("POST", "/v1/acquire", WAIT).await;
    assert_eq!((answered.status, &answered.body["fencing_token"]), (200, &9.into()));
    assert_eq!(answered.body["remaining_ms"], 30_000);
    assert_eq!(fakes.count(|_, op| is_renewal(op)), 1);
    assert_eq!(acquires(&fakes.seen())[0].claim_ttl_ms, 5_000);
    // A client with a key can come back, and one with a session renews by its heartbeats.
    fakes.forget();
    let key = format!("idempotency-key: {}\r\n", "09".repeat(16));
    assert_eq!(http.ask_with("POST", "/v1/acquire", &key, WAIT).await.status, 200);
    let with_session = r#"{"name":"n","wait":"60s","session":"s"}"#;
    assert_eq!(http.ask("POST", "/v1/acquire", with_session).await.status, 200);
    let claims: Vec<u32> =
        acquires(&fakes.seen()).iter().map(|acquire| acquire.claim_ttl_ms).collect();
    assert_eq!((claims, fakes.count(|_, op| is_renewal(op))), (vec![0, 0], 0));
}

#[tokio::test]
async fn a_grant_that_cannot_be_claimed_is_not_answered() {
    let fenced = granting(|| error(Error::not_owner("another has it", 10))).await;
    let answered = Http::to(&fenced).await.ask("POST", "/v1/acquire", WAIT).await;
    assert_eq!(answered.problem(), (412, "NOT_OWNER"));
    // The client is gone before the renewal is answered.
    let (_later, later) = oneshot::channel();
    let later = Mutex::new(Some(later));
    let silent = move || match later.lock().unwrap().take() {
        Some(later) => Reaction::Later(later),
        None => Reaction::Silence,
    };
    let fakes = granting(silent).await;
    let mut http = Http::to(&fakes).await;
    http.send(&request("POST", "/v1/acquire", "", WAIT)).await;
    fakes.until(1, |_, op| is_renewal(op)).await;
    drop(http);
    timeout(LONG, fakes.until(1, |_, op| is_release(op))).await.expect("it is released");
}

/// Regression: the body of a request was read before its client's rate was looked at.
#[tokio::test]
async fn a_request_above_its_rate_is_refused_before_its_body_comes() {
    let files = Files::of(
        "roles:\n  both: { hold: [\"\"], read: [\"\"] }\nbindings:\n  - { identities: [both], roles: \
         [both] }\nquotas: { default: { operations_per_second: 1, burst: 2 } }\n",
    );
    let fakes = files.start(answer_all).await;
    let head = format!(
        "POST /v1/acquire HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 12\r\n\r\n",
        token("both")
    );
    let mut http = Http::to(&fakes).await;
    for _ in 0..2 {
        http.send(&format!("{head}{{\"name\":\"a\"}}")).await;
        assert_eq!(http.next().await.unwrap().status, 200);
    }
    http.send(&head).await;
    let answered = timeout(LONG / 10, http.next()).await.expect("without its body").unwrap();
    assert_eq!(answered.problem(), (429, "BUSY"));
    let mut stranger = Http::to(&fakes).await;
    stranger.send(&head.replace(&token("both"), &token("nobody"))).await;
    let answered = timeout(LONG / 10, stranger.next()).await.expect("without its body").unwrap();
    assert_eq!(answered.problem(), (401, "UNAUTHENTICATED"));
}

/// Regression: a client that read nothing could have as many large answers in memory as it liked.
#[tokio::test]
async fn large_answers_that_are_not_read_are_bounded_on_a_connection() {
    are_bounded(300, 64 << 10).await;
}

/// Regression: HTTP/2 took an answer as a whole from a client with room for one byte, and its place
/// was free.
#[tokio::test]
async fn answers_to_a_client_with_room_for_one_byte_are_bounded_too() {
    are_bounded(10, 1).await;
}

async fn are_bounded(rows: u64, window: u32) {
    let fakes = Fakes::start(1, 3, &[], move |_, operation| match &operation.op {
        Some(NodeOp::List(_)) => {
            let (metadata, resource_name) = ("m".repeat(1_000), "n".to_owned());
            let grant = |fencing_token| Grant {
                resource_name: resource_name.clone(),
                metadata: metadata.clone(),
                fencing_token,
                ..Grant::default()
            };
            let grants = (1..=rows).map(grant).collect();
            Reaction::Answer(NodeAnswer::List(ShardPage { grants, ..ShardPage::default() }))
        }
        _ => answer_all(0, operation),
    })
    .await;
    let url = format!("http://{}", fakes.gateway.address());
    let endpoint = Channel::from_shared(url).unwrap();
    let endpoint = endpoint.initial_stream_window_size(window);
    let mut channel = endpoint.initial_connection_window_size(64 << 10).connect().await.unwrap();
    let mut ask = async |path: &str| {
        let request = http::Request::get(path).body(tonic::body::Body::empty()).unwrap();
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        timeout(LONG, channel.call(request)).await.expect("an answer").unwrap()
    };
    let mut unread = Vec::new();
    for _ in 0..32 {
        let answered = ask("/v1/locks?limit=300").await;
        assert_eq!(answered.status(), 200);
        unread.push(answered);
    }
    assert_eq!(ask("/v1/locks?limit=300").await.status(), 429);
    assert_eq!(ask("/v1/check?name=n").await.status(), 200, "what is short gets through");
    drop(unread);
    let again = async { while ask("/v1/locks?limit=300").await.status() != 200 {} };
    timeout(LONG, again).await.expect("the places are free");
}
