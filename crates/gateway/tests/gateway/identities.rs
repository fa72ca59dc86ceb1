//! Identities at a gateway: what each may do, what it is told, and what becomes of it when files
//! change.

use crate::fake;
use crate::fake::{NodeOp, Reaction, granted};
use crate::identified;
use crate::identified::{Door, Files, Who, answer_all, ops, tokens};
use std::collections::BTreeSet;
use tonic::Code;
use wire::OperationKind;
use wire::internal::v1 as internal;
use wire::v1::operation::Op;
use wire::v1::*;

const POLICY: &str = r#"
roles:
  reader: { read: ["a:"] }
  holder: { hold: ["a:"] }
  both: { hold: ["a:"], read: ["a:"] }
  operator: { observe: true, operate: true, break: [""], read: [""] }
bindings:
  - { identities: [reader], roles: [reader] }
  - { identities: [holder], roles: [holder], owner: "{identity}", quota: small }
  - { identities: [both, mallory], roles: [both] }
  - { identities: [operator], roles: [operator] }
  - { identities: [flooder], roles: [both], quota: slow }
quotas:
  small: { locks_per_shard: 3, sessions_per_shard: 2, waits_per_shard: 1, waits: 1, streams: 2 }
  slow: { operations_per_second: 1, burst: 5 }
revoked: [mallory]
"#;

/// What an identity may do to `a:1`, by the policy.
fn may(who: &str, kind: OperationKind) -> bool {
    use OperationKind::*;
    match who {
        "reader" => matches!(kind, Check | History | List),
        "holder" => matches!(
            kind,
            Acquire | Renew | Release | CancelWait | OpenSession | Heartbeat | CloseSession
        ),
        "operator" => matches!(kind, Check | History | List | Break | ClusterStatus),
        _ => false,
    }
}

const MATRIX: [Who; 6] = [
    Who::Nameless,
    Who::Guesser,
    Who::Named("mallory"),
    Who::Named("reader"),
    Who::Named("holder"),
    Who::Named("operator"),
];

fn expected(who: Who, kind: OperationKind) -> Option<ErrorCode> {
    match who {
        Who::Named(who) if who != "mallory" => {
            (!may(who, kind)).then_some(ErrorCode::PermissionDenied)
        }
        _ => Some(ErrorCode::Unauthenticated),
    }
}

#[tokio::test]
async fn every_call_is_permitted_by_its_row_and_refused_ones_reach_no_node() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let door = Door::of(&fakes).await;
    let mut kinds = BTreeSet::new();
    for who in MATRIX {
        for (kind, op) in ops("a:1") {
            kinds.insert(kind.as_str());
            fakes.forget();
            let answered = door.call(who, op).await;
            assert_eq!(answered, expected(who, kind), "{who:?} {}", kind.as_str());
            if answered.is_some() {
                assert!(fakes.seen().is_empty(), "{who:?} {} was routed", kind.as_str());
            }
        }
        // Another name, and a prefix that reaches further than the permitted one.
        for (kind, op) in ops("b:1").into_iter().filter(|(_, op)| identified::is_of_a_name(op)) {
            let refused = match who {
                Who::Named("operator") => expected(who, kind),
                Who::Named(who) if who != "mallory" => Some(ErrorCode::PermissionDenied),
                _ => Some(ErrorCode::Unauthenticated),
            };
            assert_eq!(door.call(who, op).await, refused, "{who:?} {} b:1", kind.as_str());
        }
    }
    let of_clients = OperationKind::ALL.into_iter().map(OperationKind::as_str);
    let of_clients: BTreeSet<&str> = of_clients.filter(|kind| *kind != "shard_status").collect();
    assert_eq!(kinds, of_clients, "the kinds that were tried (left), and all of them");
}

#[tokio::test]
async fn every_operation_of_a_stream_is_permitted_by_the_same_row() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let door = Door::of(&fakes).await;
    for who in MATRIX {
        let of_stream: Vec<(OperationKind, Op)> = (ops("a:1").into_iter())
            .filter_map(|(kind, op)| Some((kind, identified::in_stream(op)?)))
            .collect();
        fakes.forget();
        match door.stream(who, of_stream.iter().map(|(_, op)| op.clone()).collect()).await {
            Err(status) => {
                assert_eq!(status.code(), Code::Unauthenticated, "{who:?}: {status}");
                assert_eq!(expected(who, OperationKind::Acquire), Some(ErrorCode::Unauthenticated));
                assert!(fakes.seen().is_empty(), "{who:?}");
            }
            Ok(answers) => {
                for ((kind, _), answered) in of_stream.iter().zip(answers) {
                    assert_eq!(answered, expected(who, *kind), "{who:?} {}", kind.as_str());
                }
            }
        }
    }
}

#[tokio::test]
async fn health_is_open_and_what_is_not_for_clients_is_closed() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let door = Door::of(&fakes).await;
    for who in [Who::Nameless, Who::Guesser, Who::Named("reader")] {
        assert_eq!(door.health(who).await, Code::Ok, "{who:?}");
        let known = matches!(who, Who::Named(_));

        assert_eq!(door.inside(who).await, Code::PermissionDenied, "{who:?}");
        let reflected = if known { Code::Ok } else { Code::Unauthenticated };
        assert_eq!(door.reflection(who).await, reflected, "{who:?}");
    }
}

#[tokio::test]
async fn an_operation_is_routed_in_the_name_of_its_identity_and_within_its_quota() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let door = Door::of(&fakes).await;
    for (kind, op) in ops("a:1").into_iter().filter(|(kind, _)| may("holder", *kind)) {
        fakes.forget();
        assert_eq!(door.call(Who::Named("holder"), op).await, None);
        for (_, routed) in fakes.seen() {
            assert_eq!(routed.principal, "holder", "{}", kind.as_str());
            let quota = internal::Quota { locks: 3, sessions: 2, waits: 1 };
            assert_eq!(routed.quota, Some(quota), "{}", kind.as_str());
        }
    }
    // The policy binds its owner.
    let acquire = |owner: &str| AcquireRequest {
        name: "a:1".into(),
        owner: owner.into(),
        ..Default::default()
    };
    fakes.forget();
    assert_eq!(door.call(Who::Named("holder"), acquire("").into()).await, None);
    let seen = fakes.seen();
    let Some(NodeOp::Acquire(routed)) = &seen[0].1.op else { panic!("{seen:?}") };
    assert_eq!(routed.owner, "holder");
    let other = door.call(Who::Named("holder"), acquire("both").into()).await;
    assert_eq!(other, Some(ErrorCode::PermissionDenied));
    assert_eq!(door.call(Who::Named("both"), acquire("anything").into()).await, None);
}

#[tokio::test]
async fn the_gateway_cleans_up_in_the_name_of_the_client_that_is_gone() {
    let files = Files::of(POLICY);
    let fakes = files
        .start(|_, operation| match &operation.op {
            Some(NodeOp::Acquire(_)) => Reaction::Silence,
            _ => answer_all(0, operation),
        })
        .await;
    let door = Door::of(&fakes).await;
    let wait = AcquireRequest { name: "a:1".into(), wait_ms: 60_000, ..Default::default() };
    let call = tokio::spawn(async move { door.call(Who::Named("holder"), wait.into()).await });
    fakes.until(1, |_, op| matches!(op, NodeOp::Acquire(_))).await;
    call.abort();
    fakes.until(1, |_, op| matches!(op, NodeOp::CancelWait(_))).await;
    assert!(fakes.seen().iter().all(|(_, routed)| routed.principal == "holder"));
}

#[tokio::test]
async fn an_identity_that_may_not_read_learns_nothing_of_the_holder() {
    let files = Files::of(POLICY);
    let fakes =
        files.start(|_, _| fake::error(Error::held("held by BOB with token 77", 77, "BOB"))).await;
    let door = Door::of(&fakes).await;
    let acquire = || AcquireRequest { name: "a:1".into(), ..Default::default() };
    for in_stream in [false, true] {
        for (who, may_read) in [("holder", false), ("both", true)] {
            let answer = match in_stream {
                true => door.error_in_stream(Who::Named(who), Op::Acquire(acquire())).await,
                false => door.error(Who::Named(who), acquire()).await,
            };
            assert_eq!(answer.code(), ErrorCode::Held);
            assert_eq!(answer.holder == "BOB" && answer.current_token == 77, may_read, "{who}");
            assert_eq!(answer.message.contains("BOB"), may_read, "{who}: {}", answer.message);
            assert_eq!(answer.message.contains("77"), may_read, "{who}: {}", answer.message);
        }
    }
}

#[tokio::test]
async fn a_new_policy_acts_on_open_streams_and_a_bad_one_changes_nothing() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let door = Door::of(&fakes).await;
    let check = || Op::Check(CheckRequest { name: "a:1".into(), ..Default::default() });
    let mut open = door.open(Who::Named("reader")).await;
    assert_eq!(open.ask(check()).await, Ok(None));

    files.policy("roles: { oops: { hodl: [] } }");
    fakes.gateway.reload();
    fakes.gateway.reload();
    assert_eq!(open.ask(check()).await, Ok(None), "the former policy stays");
    let counted = |text: &str, line: &str| text.lines().any(|found| found == line);
    let metrics = fakes.get("/metrics").await;
    assert!(counted(&metrics, "palisade_gateway_access_files_refused_total 1"), "{metrics}");

    files.policy(&POLICY.replace("reader: { read: [\"a:\"] }", "reader: { read: [\"b:\"] }"));
    fakes.gateway.reload();
    assert_eq!(open.ask(check()).await, Ok(Some(ErrorCode::PermissionDenied)));
    assert_eq!(
        door.call(Who::Named("reader"), check().into()).await,
        Some(ErrorCode::PermissionDenied)
    );

    // A stream that asks for nothing is ended as well. The file is seen without being told.
    files.policy(&POLICY.replace("revoked: [mallory]", "revoked: [mallory, reader]"));
    assert_eq!(open.end().await.code(), Code::Unauthenticated);
    assert_eq!(
        door.call(Who::Named("reader"), check().into()).await,
        Some(ErrorCode::Unauthenticated)
    );
}

/// To release needs the right to hold as well, because a lock from the time without identities can
/// be released by every identity that knows its token.
#[tokio::test]
async fn an_identity_that_loses_the_right_to_hold_renews_and_releases_nothing() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let (door, who) = (Door::of(&fakes).await, Who::Named("both"));
    let mut open = door.open(who).await;
    let of_a_hold = || {
        use OperationKind::*;
        let is = |kind| matches!(kind, Renew | Release | CancelWait | Heartbeat | CloseSession);
        let ops = ops("a:1").into_iter().filter(move |(kind, _)| is(*kind));
        ops.filter_map(|(kind, op)| Some((kind, identified::in_stream(op)?)))
    };
    for (kind, op) in of_a_hold() {
        assert_eq!(open.ask(op).await, Ok(None), "{}", kind.as_str());
    }
    files.policy(&POLICY.replace("both: { hold: [\"a:\"], read", "both: { read"));
    fakes.gateway.reload();
    fakes.forget();
    for (kind, op) in of_a_hold() {
        let refused = Ok(Some(ErrorCode::PermissionDenied));
        assert_eq!(open.ask(op).await, refused, "{}", kind.as_str());
    }
    assert!(fakes.seen().is_empty());
}

/// Regression: operations above the rate took the rate of renewals, and so did releases.
#[tokio::test]
async fn a_flood_costs_its_own_identity_no_lock() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let mut open = Door::of(&fakes).await.open(Who::Named("flooder")).await;
    let mut refused = 0;
    for _ in 0..50 {
        let acquire = AcquireRequest { name: "a:1".into(), ..Default::default() };
        let release = ReleaseRequest { name: "a:1".into(), fencing_token: 7, session_life: 0 };
        for op in [Op::Acquire(acquire), Op::Release(release)] {
            let answered = open.ask(op).await;
            assert!(matches!(answered, Ok(None | Some(ErrorCode::Busy))), "{answered:?}");
            refused += usize::from(answered != Ok(None));
        }
    }
    assert!(refused > 0);
    let renew = RenewRequest { name: "a:1".into(), fencing_token: 7 };
    for _ in 0..4 {
        assert_eq!(open.ask(Op::Renew(renew.clone())).await, Ok(None), "its burst is 5");
    }
    let heartbeats = ops("a:1").into_iter().filter(|(kind, _)| *kind == OperationKind::Heartbeat);
    for heartbeat in heartbeats.filter_map(|(_, op)| identified::in_stream(op)) {
        assert_eq!(open.ask(heartbeat).await, Ok(None));
    }
}

#[tokio::test]
async fn a_token_ends_with_its_time_or_its_line_on_open_streams() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let door = Door::of(&fakes).await;
    let mut open = door.open(Who::Named("reader")).await;
    let mut other = door.open(Who::Named("operator")).await;
    let in_2_s = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    files.tokens(&tokens(Some(("reader", in_2_s))));
    fakes.gateway.reload();
    assert_eq!(open.end().await.code(), Code::Unauthenticated, "expired");
    files.tokens("[]");
    fakes.gateway.reload();
    assert_eq!(other.end().await.code(), Code::Unauthenticated, "taken out");
}

#[tokio::test]
async fn an_identity_above_its_rate_is_refused_and_costs_another_nothing() {
    let files = Files::of(POLICY);
    let fakes = files
        .start(|_, operation| match &operation.op {
            Some(NodeOp::Acquire(request)) => granted(request, 5),
            _ => answer_all(0, operation),
        })
        .await;
    let door = Door::of(&fakes).await;
    let acquire = || AcquireRequest { name: "a:1".into(), ..Default::default() };
    let flood = Who::Named("flooder");
    // The flood goes on for as long as the other identity works.
    let flooding = {
        let door = door.clone();
        tokio::spawn(async move {
            let (mut open, mut busy) = (door.open(flood).await, 0u64);
            loop {
                if open.ask(Op::Acquire(acquire())).await == Ok(Some(ErrorCode::Busy)) {
                    busy += 1;
                    BUSY.store(busy, std::sync::atomic::Ordering::SeqCst);
                }
            }
        })
    };
    let refused = async {
        while BUSY.load(std::sync::atomic::Ordering::SeqCst) < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(fake::LONG, refused).await.expect("the flood is refused");
    let mut open = door.open(Who::Named("both")).await;
    for _ in 0..200 {
        assert_eq!(open.ask(Op::Acquire(acquire())).await, Ok(None));
    }
    flooding.abort();
    let refused = door.error(flood, acquire()).await;
    assert_eq!(refused.code(), ErrorCode::Busy);
    assert!((1..=1_000).contains(&refused.retry_after_ms), "{refused:?}");
    let routed = fakes.seen().iter().filter(|(_, routed)| routed.principal == "flooder").count();
    assert!(routed >= 5, "its burst");
    assert!((routed as u64) < 5 + BUSY.load(std::sync::atomic::Ordering::SeqCst));
}

static BUSY: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[tokio::test]
async fn an_identity_has_only_its_quota_of_waits_and_streams() {
    let files = Files::of(POLICY);
    let fakes = files
        .start(|_, operation| match &operation.op {
            Some(NodeOp::Acquire(_)) => Reaction::Silence,
            _ => answer_all(0, operation),
        })
        .await;
    let (door, who) = (Door::of(&fakes).await, Who::Named("holder"));
    let wait = || AcquireRequest { name: "a:1".into(), wait_ms: 60_000, ..Default::default() };
    let first = {
        let door = door.clone();
        tokio::spawn(async move { door.call(who, wait().into()).await })
    };
    fakes.until(1, |_, op| matches!(op, NodeOp::Acquire(_))).await;
    let refused = Door::of(&fakes).await.error(who, wait()).await;
    assert_eq!((refused.code(), refused.retry_after_ms), (ErrorCode::Busy, 1_000));
    let streams = (door.open(who).await, Door::of(&fakes).await.open(who).await);
    let refused = door.try_open(who).await.err().expect("a third stream");
    assert_eq!(Error::from_status(&refused).map(|error| error.code()), Some(ErrorCode::Busy));
    drop((first, streams));
}

#[tokio::test]
async fn two_authorizations_in_one_call_are_none() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let door = Door::of(&fakes).await;
    let check = CheckRequest { name: "a:1".into(), ..Default::default() };
    assert_eq!(door.check_with(&["reader"], check.clone()).await, Code::Ok);
    assert_eq!(door.check_with(&["reader", "holder"], check).await, Code::Unauthenticated);
}

/// What the SDK shows becomes the identity, over TLS: a certificate, a token, or nothing.
#[tokio::test]
async fn the_sdk_is_known_by_its_certificate_or_its_token_over_tls() {
    use client::{Client, ClientOptions, ClientSide, Pem, Security};
    use std::sync::Arc;
    let policy = r#"
roles: { r: { hold: ["a:"], read: ["a:"] } }
bindings: [{ identities: ["spiffe://jobs/*", reader], roles: [r] }]
"#;
    let files = Files::of(policy);
    let authority = identified::Authority::new();
    let (ca, server) =
        (files.write("ca.crt", &authority.pem()), authority.issue(&["localhost"], &[]));
    let (cert, key) = (files.write("s.crt", &server.0), files.write("s.key", &server.1));
    let clients = Some((ca.clone(), net::tls::Demand::Allow));
    let tls = net::tls::ServerFiles { cert, key, clients }.open().unwrap();
    let fakes = files.start_tls(tls, answer_all).await;

    let job = authority.issue(&[], &["spiffe://jobs/nightly"]);
    let other = authority.issue(&[], &["spiffe://other"]);
    let pem = |pair: (String, String)| (Pem::Text(pair.0), Pem::Text(pair.1));
    let client = |own: Option<(String, String)>, token: Option<&str>| {
        let tls = Some(Arc::new(ClientSide { ca: Pem::File(ca.clone()), own: own.map(pem) }));
        let token = token.map(|name| client::Token::text(identified::token(name)));
        let security = Security { tls, server_name: Some("localhost".into()), token };
        let address = fakes.gateway.address().to_string();
        Client::with_options([address], ClientOptions::new().timeout(fake::LONG).security(security))
    };
    let mut principals = Vec::new();
    for (own, token) in
        [(Some(job.clone()), None), (None, Some("reader")), (Some(other.clone()), Some("reader"))]
    {
        fakes.forget();
        client(own, token).acquire("a:1").await.expect("permitted");
        principals.push(fakes.seen()[0].1.principal.clone());
    }
    assert_eq!(principals, ["spiffe://jobs/nightly", "reader", "reader"]);
    let refused = |own, token, name: &'static str| {
        let client = client(own, token);
        async move { client.acquire(name).await.expect_err("not permitted").code }
    };
    assert_eq!(refused(Some(job), None, "b:1").await, ErrorCode::PermissionDenied);
    assert_eq!(refused(Some(other), None, "a:1").await, ErrorCode::PermissionDenied);
    assert_eq!(refused(None, None, "a:1").await, ErrorCode::Unauthenticated);
    assert_eq!(refused(None, Some("mallory's"), "a:1").await, ErrorCode::Unauthenticated);

    // A client that loses its right in the middle is told so, and not that a server is gone.
    let reader = client(None, Some("reader"));
    reader.acquire("a:1").await.expect("permitted");
    files.policy(&format!("{policy}revoked: [reader]\n"));
    fakes.gateway.reload();
    let mut told = reader.acquire("a:1").await.expect_err("revoked").code;
    if told == ErrorCode::OutcomeUnknown {
        // It was on its way while its stream ended. What comes after it is in no doubt.
        told = reader.acquire("a:1").await.expect_err("revoked").code;
    }
    assert_eq!(told, ErrorCode::Unauthenticated);
}
