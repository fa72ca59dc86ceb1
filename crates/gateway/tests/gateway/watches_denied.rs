//! Watches of clients with identities: who may watch what, what they see, and how their rights end.

use crate::fake::{Fakes, event};
use crate::identified::{Files, Who, answer_all, token};
use audit::{Audit, Settings};
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::{Error, ErrorCode, EventKind, WatchFilter, WatchRequest, WatchResponse};

const PATIENCE: Duration = Duration::from_secs(30);

const POLICY: &str = r#"
roles:
  both: { watch: ["a:"], read: ["a:"] }
  blind: { watch: ["a:"], hold: ["a:"] }
bindings:
  - { identities: [both], roles: [both] }
  - { identities: [holder], roles: [blind] }
  - { identities: [flooder], roles: [both], quota: few }
quotas: { few: { watches: 1 } }
"#;

const BOTH: Who = Who::Named("both");
const HOLDER: Who = Who::Named("holder");
const FLOODER: Who = Who::Named("flooder");

async fn begun(
    fakes: &Fakes,
    who: Who,
    filter: WatchFilter,
) -> Result<Streaming<WatchResponse>, Error> {
    let url = format!("http://{}", fakes.gateway.address());
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let mut request = Request::new(WatchRequest { filter: Some(filter), position: String::new() });
    if let Who::Named(name) = who {
        let value = format!("Bearer {}", token(name));
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    let begun = LockServiceClient::new(channel).watch(request).await;
    begun
        .map(|response| response.into_inner())
        .map_err(|status| Error::from_status(&status).expect("one of ours"))
}

fn prefix(prefix: &str) -> WatchFilter {
    WatchFilter { prefix: prefix.into(), ..Default::default() }
}

fn session() -> WatchFilter {
    WatchFilter { session_id: "s".into(), ..Default::default() }
}

async fn told(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    timeout(PATIENCE, stream.message()).await.expect("a response").unwrap().expect("no end")
}

/// The code with which a watch ends.
async fn end(stream: &mut Streaming<WatchResponse>) -> ErrorCode {
    loop {
        match timeout(PATIENCE, stream.message()).await.expect("an end") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no word"),
            Err(status) => return Error::from_status(&status).expect("one of ours").code(),
        }
    }
}

#[tokio::test]
async fn a_watch_needs_the_right_to_all_that_it_would_tell() {
    let files = Files::of(POLICY);
    let lines = files.path("audit.log");
    let file = lines.to_string_lossy().into_owned();
    let settings = Settings { file, bytes_max: 1 << 30, age_max: Duration::MAX, keep: 1 };
    let audit = Audit::start(settings, "gateway-a", false).unwrap();
    let fakes = files.start_audited(audit, answer_all).await;
    for (who, filter, code) in [
        (BOTH, prefix("a:"), None),
        (BOTH, WatchFilter { name: "a:1".into(), ..Default::default() }, None),
        (BOTH, session(), None),
        (BOTH, prefix("a"), Some(ErrorCode::PermissionDenied)),
        (BOTH, prefix(""), Some(ErrorCode::PermissionDenied)),
        (BOTH, WatchFilter { prefix: "b:".into(), ..session() }, Some(ErrorCode::PermissionDenied)),
        (Who::Named("reader"), session(), Some(ErrorCode::PermissionDenied)),
        (Who::Nameless, prefix("a:"), Some(ErrorCode::Unauthenticated)),
        (Who::Guesser, prefix("a:"), Some(ErrorCode::Unauthenticated)),
    ] {
        let refused = begun(&fakes, who, filter.clone()).await.err().map(|error| error.code());
        match who {
            Who::Guesser => assert!(refused.is_none_or(|code| code != ErrorCode::Busy)),
            _ => assert_eq!(refused, code, "{who:?} {filter:?}"),
        }
    }
    fakes.shut_down().await;
    let written = std::fs::read_to_string(&lines).unwrap();
    let denied = |line: &&str| line.contains(r#""operation":"watch""#);
    assert!(written.lines().filter(denied).count() >= 2, "{written}");
}

#[tokio::test]
async fn who_may_not_read_a_name_is_told_nothing_of_others() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let mut stream = begun(&fakes, HOLDER, prefix("a:")).await.unwrap();
    told(&mut stream).await;
    fakes.watches.push(0, vec![event(EventKind::Broken, "a:1", 77, "bob")]);
    let other = told(&mut stream).await.events.remove(0);
    assert_eq!((other.kind(), other.resource_name.as_str()), (EventKind::Broken, "a:1"));
    let shown = format!("{other:?}");
    assert!(["bob", "77", "WHY"].iter().all(|word| !shown.contains(word)), "{shown}");
    fakes.watches.push(0, vec![event(EventKind::Broken, "a:1", 78, "holder")]);
    let own = told(&mut stream).await.events.remove(0);
    assert_eq!(own.grant.unwrap().fencing_token, 78);
    let mut reader = begun(&fakes, BOTH, prefix("a:")).await.unwrap();
    told(&mut reader).await;
    fakes.watches.push(0, vec![event(EventKind::Broken, "a:1", 79, "bob")]);
    assert_eq!(told(&mut reader).await.events[0].reason, "WHY");
}

#[tokio::test]
async fn a_watch_ends_with_the_rights_of_its_client() {
    for (change, code) in [
        (format!("{POLICY}revoked: [both]\n"), ErrorCode::Unauthenticated),
        (POLICY.replace(r#"watch: ["a:"], read"#, "read"), ErrorCode::PermissionDenied),
    ] {
        let files = Files::of(POLICY);
        let fakes = files.start(answer_all).await;
        let mut stream = begun(&fakes, BOTH, prefix("a:")).await.unwrap();
        told(&mut stream).await;
        files.policy(&change);
        fakes.gateway.reload();
        fakes.watches.push(0, vec![event(EventKind::Granted, "a:1", 1, "bob")]);
        assert_eq!(end(&mut stream).await, code);
    }
}

#[tokio::test]
async fn an_identity_has_as_many_watches_as_its_quota_allows() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let first = begun(&fakes, FLOODER, prefix("a:")).await.unwrap();
    let refused = begun(&fakes, FLOODER, prefix("a:")).await.unwrap_err();
    assert_eq!((refused.code(), refused.retry_after_ms), (ErrorCode::Busy, 1_000));
    drop(first);
    while begun(&fakes, FLOODER, prefix("a:")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
