//! The http backend of Terraform and OpenTofu, byte for byte as its client sends it.

use crate::fake::{Fakes, NodeAnswer, NodeOp, NodeOperation, Reaction, error};
use crate::identified::{Files, answer_all, token};
use crate::raw::{Answered, Http, request};
use base64::Engine;
use std::sync::Mutex;
use wire::v1::{CheckResponse, Error, Grant};

const MINE: &str = r#"{"ID":"8d5d5b6c-7a3a-4f0e-9a55-8f4d9d0c6a11","Operation":"OperationTypeApply","Info":"","Who":"ann@ci","Version":"1.9.8","Created":"2026-11-30T12:00:00.123456789Z","Path":""}"#;
const OTHER: &str = r#"{"ID":"11111111-7a3a-4f0e-9a55-8f4d9d0c6a11","Operation":"OperationTypePlan","Info":"","Who":"bob@ci","Version":"1.9.8","Created":"2026-11-30T12:00:01.123456789Z","Path":""}"#;
const PATH: &str = "/v1/terraform/prod/network";

/// What Terraform's client sends: Go's headers in Go's order.
fn sent(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:7400\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\n{headers}Content-Md5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\nContent-Type: \
         application/json\r\nAccept-Encoding: gzip\r\n\r\n{body}",
        body.len()
    )
}

async fn ask(http: &mut Http, method: &str, path: &str, body: &str) -> Answered {
    http.send(&sent(method, path, "", body)).await;
    http.next().await.expect("an answer")
}

/// A node that holds one lock, as a table would.
fn one_lock() -> impl Fn(u64, &NodeOperation) -> Reaction + Send + Sync + 'static {
    let held: Mutex<Option<(Vec<u8>, Grant)>> = Mutex::default();
    move |node, operation| {
        let mut held = held.lock().unwrap();
        match operation.op.as_ref().unwrap() {
            NodeOp::Acquire(acquire) => match &*held {
                Some((id, grant)) if *id != acquire.request_id => {
                    error(Error::held("another has it", grant.fencing_token, &grant.owner_id))
                }
                Some((_, grant)) => Reaction::Answer(NodeAnswer::Grant(grant.clone())),
                None => {
                    let grant = Grant {
                        resource_name: acquire.name.clone(),
                        owner_id: acquire.owner.clone(),
                        metadata: acquire.metadata.clone(),
                        ttl_ms: acquire.ttl_ms,
                        fencing_token: 7,
                        ..Grant::default()
                    };
                    *held = Some((acquire.request_id.clone(), grant.clone()));
                    Reaction::Answer(NodeAnswer::Grant(grant))
                }
            },
            NodeOp::Check(_) => {
                let holders = held.iter().map(|(_, grant)| grant.clone()).collect();
                Reaction::Answer(NodeAnswer::Check(CheckResponse { holders, ..Default::default() }))
            }
            NodeOp::Release(release) => {
                assert_eq!(release.fencing_token, 7);
                *held = None;
                answer_all(node, operation)
            }
            _ => answer_all(node, operation),
        }
    }
}

#[tokio::test]
async fn an_exchange_of_two_clients() {
    let fakes = Fakes::start(1, 3, &[], one_lock()).await;
    let (mut ann, mut bob) = (Http::to(&fakes).await, Http::to(&fakes).await);
    let locked = ask(&mut ann, "LOCK", PATH, MINE).await;
    assert_eq!(locked.status, 200, "{locked:?}");
    let Some(NodeOp::Acquire(acquire)) = fakes.seen().remove(0).1.op else { panic!() };
    assert_eq!((&*acquire.name, &*acquire.owner), ("prod/network", "ann@ci"));
    assert_eq!((acquire.ttl_ms, acquire.wait_ms), (86_400_000, 0));
    assert_eq!(acquire.metadata, MINE, "nothing of the document is lost");
    let id = acquire.request_id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(id, "8d5d5b6c7a3a4f0e9a558f4d9d0c6a11");
    // A retry after an answer that was lost has the same ID.
    assert_eq!(ask(&mut ann, "LOCK", PATH, MINE).await.status, 200);
    let refused = ask(&mut bob, "LOCK", PATH, OTHER).await;
    assert_eq!((refused.status, &*refused.headers["content-type"]), (423, "application/json"));
    assert_eq!(refused.body, serde_json::from_str::<serde_json::Value>(MINE).unwrap());
    assert_eq!(refused.headers["content-length"], MINE.len().to_string(), "byte for byte");
    let not_his = ask(&mut bob, "UNLOCK", PATH, OTHER).await;
    assert_eq!(not_his.problem(), (412, "NOT_OWNER"));
    assert_eq!(ask(&mut ann, "UNLOCK", PATH, MINE).await.status, 200);
    assert_eq!(ask(&mut ann, "UNLOCK", PATH, MINE).await.problem(), (412, "NOT_OWNER"));
    assert_eq!(ask(&mut bob, "LOCK", &format!("{PATH}?ttl=1h"), OTHER).await.status, 200);
    let last = fakes.seen().pop().unwrap().1.op;
    assert!(matches!(last, Some(NodeOp::Acquire(acquire)) if acquire.ttl_ms == 3_600_000));
}

/// What `force-unlock` sends: only the ID, or nothing, by the version of the client.
#[tokio::test]
async fn a_lock_is_unlocked_by_its_id_alone() {
    let fakes = Fakes::start(1, 3, &[], one_lock()).await;
    let mut http = Http::to(&fakes).await;
    let id = "8d5d5b6c-7a3a-4f0e-9a55-8f4d9d0c6a11";
    let only_id = format!(r#"{{"ID":"{id}","Operation":"","Info":"","Who":"","Path":""}}"#);
    let in_address = format!("{PATH}?ID={id}");
    let in_other_words = format!("{PATH}?ID={}", id.to_uppercase().replace('-', ""));
    for (path, body) in [(PATH, &*only_id), (&in_address, ""), (&in_other_words, "")] {
        assert_eq!(ask(&mut http, "LOCK", PATH, MINE).await.status, 200);
        let nothing = ask(&mut http, "UNLOCK", PATH, "").await;
        assert_eq!(nothing.problem(), (400, "INVALID_ARGUMENT"), "without an ID");
        assert!(nothing.body["detail"].as_str().unwrap().contains("?ID="), "{nothing:?}");
        assert_eq!(ask(&mut http, "UNLOCK", path, body).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn what_is_no_lock_of_terraform_is_refused() {
    let fakes = Fakes::start(1, 3, &[], one_lock()).await;
    let mut http = Http::to(&fakes).await;
    for method in ["GET", "POST", "DELETE", "PUT"] {
        let answered = ask(&mut http, method, PATH, "").await;
        assert_eq!(answered.problem(), (405, "NO_STATE"), "{method}");
        assert_eq!(answered.headers["allow"], "LOCK, UNLOCK");
    }
    let long = MINE.replace("\"Path\":\"\"", &format!("\"Path\":\"{}\"", "p".repeat(1_024)));
    let unnamed = MINE.replace("8d5d5b6c-7a3a-4f0e-9a55-8f4d9d0c6a11", "");
    let chosen = MINE.replace("8d5d5b6c-7a3a-4f0e-9a55-8f4d9d0c6a11", "mine");
    for (path, body, problem) in [
        (PATH, &*long, (413, "LOCK_INFO_TOO_LARGE")),
        (PATH, &*unnamed, (400, "INVALID_ARGUMENT")),
        (PATH, &*chosen, (400, "INVALID_ARGUMENT")),
        (PATH, "", (400, "INVALID_ARGUMENT")),
        (PATH, "[]", (400, "INVALID_ARGUMENT")),
        ("/v1/terraform/a?force=true", MINE, (400, "INVALID_ARGUMENT")),
        ("/v1/terraform/a?ttl=1", MINE, (400, "INVALID_ARGUMENT")),
        ("/v1/terraform/", MINE, (404, "NOT_FOUND")),
    ] {
        assert_eq!(
            ask(&mut http, "LOCK", path, body).await.problem(),
            problem,
            "{path} {body:.99}"
        );
    }
    let origin = request("LOCK", PATH, "origin: http://evil.example\r\n", MINE);
    http.send(&origin).await;
    assert_eq!(http.next().await.unwrap().problem(), (403, "OTHER_ORIGIN"));
    assert_eq!(fakes.seen().len(), 0, "nothing was sent to a node");
}

/// The holder of a lock that did not come from Terraform is told in its words.
#[tokio::test]
async fn a_lock_of_another_client_is_shown_and_not_unlocked() {
    let fakes = Fakes::start(1, 3, &[], one_lock()).await;
    let mut http = Http::to(&fakes).await;
    let acquire = r#"{"name":"prod/network","owner":"cron"}"#;
    assert_eq!(http.ask("POST", "/v1/acquire", acquire).await.status, 200);
    let refused = ask(&mut http, "LOCK", PATH, MINE).await;
    assert_eq!((refused.status, &refused.body["Who"]), (423, &"cron".into()));
    assert_eq!(ask(&mut http, "UNLOCK", PATH, MINE).await.problem(), (412, "NOT_OWNER"));
}

#[tokio::test]
async fn the_password_is_the_token_and_the_holder_is_for_readers() {
    let files = Files::of(
        "roles:\n  both: { hold: [\"prod/\"], read: [\"prod/\"] }\n  holder: { hold: [\"prod/\"] }\n\
         bindings:\n  - { identities: [both], roles: [both] }\n  - { identities: [holder], roles: \
         [holder] }\n",
    );
    let fakes = files.start(one_lock()).await;
    let mut http = Http::to(&fakes).await;
    let basic = |name: &str| {
        let pair = format!("terraform:{}", token(name));
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        format!("Authorization: Basic {encoded}\r\n")
    };
    for (method, name, path, body, status) in [
        ("LOCK", "nobody", PATH, MINE, 401),
        ("LOCK", "mallory", PATH, MINE, 403),
        ("LOCK", "both", "/v1/terraform/test/network", MINE, 403),
        ("LOCK", "both", PATH, MINE, 200),
        ("LOCK", "both", PATH, OTHER, 423),
        ("LOCK", "holder", PATH, OTHER, 409),
        ("UNLOCK", "mallory", PATH, MINE, 403),
        ("UNLOCK", "holder", PATH, OTHER, 412),
        ("UNLOCK", "both", PATH, MINE, 200),
    ] {
        http.send(&sent(method, path, &basic(name), body)).await;
        let answered = http.next().await.expect("an answer");
        assert_eq!(answered.status, status, "{method} {name} {path}: {answered:?}");
        assert!(status == 423 || !answered.body.to_string().contains("ann@ci") || name == "both");
    }
}
