//! Watches of the SDK, and what they do to the locks that are held.

use crate::fake::{Fake, Reaction, error, grant};
use futures_util::StreamExt;
use palisade_client::{
    AcquireOptions, Client, ClientOptions, ErrorCode, Event, EventKind, Grant, Held, LostReason,
    SessionOptions, Told, WatchOptions,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::Status;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{
    CloseSessionResponse, Error, HeartbeatResponse, ReleaseResponse, RenewResponse,
    SessionLeaseState, WatchState,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// No renewal is due while a test runs.
pub const LONG: Duration = Duration::from_secs(3_600);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

/// A gateway that grants everything, with tokens that count.
pub async fn granting() -> Fake {
    let tokens = Arc::new(AtomicU64::new(0));
    Fake::start(move |op| {
        Reaction::Answer(match op {
            Op::Acquire(request) => {
                let token = tokens.fetch_add(1, Ordering::Relaxed) + 1;
                let mut granted = grant(request, token).into_grant().expect("a grant");
                granted.session_life = 1;
                Answer::granted(granted)
            }
            Op::Heartbeat(_) => {
                let ttl_ms = LONG.as_millis() as u32;
                let state = SessionLeaseState { life: 1, ttl_ms, ..Default::default() };
                let leases = vec![state];
                Answer::Heartbeat(HeartbeatResponse {
                    renewed_shards: 1,
                    leases,
                    ..Default::default()
                })
            }
            Op::Renew(_) => {
                let ttl_ms = LONG.as_millis() as u32;
                Answer::Renew(RenewResponse { ttl_ms, ..Default::default() })
            }
            Op::Release(_) => Answer::Release(ReleaseResponse::default()),
            Op::CloseSession(_) => Answer::CloseSession(CloseSessionResponse { released: 1 }),
            _ => return error(ErrorCode::Internal),
        })
    })
    .await
}

pub fn client(fakes: &[&Fake]) -> Client {
    let options = ClientOptions::new().owner("me").renew_interval_max(LONG);
    Client::with_options(fakes.iter().map(|fake| fake.endpoint()), options)
}

pub fn ended(kind: EventKind, name: &str, token: u64, session: &str) -> Told {
    let grant = Grant {
        resource_name: name.into(),
        fencing_token: token,
        session_id: session.into(),
        session_life: u64::from(!session.is_empty()),
        ..Default::default()
    };
    let event = Event {
        kind: kind.into(),
        resource_name: name.into(),
        grant: Some(grant),
        broken_by: "bob".into(),
        reason: "stuck".into(),
        ..Default::default()
    };
    Told { events: vec![event], position: "p".into(), ..Default::default() }
}

/// The same, for another reason. So the reason of a loss shows which event it came from.
fn for_another_reason(mut told: Told) -> Told {
    told.events[0].reason = "another".into();
    told
}

pub fn at(position: &str) -> Told {
    Told { position: position.into(), ..Default::default() }
}

pub fn is_renewal(op: &Op) -> bool {
    matches!(op, Op::Renew(_))
}

#[tokio::test]
async fn a_break_loses_a_guard_at_once_without_a_renewal() {
    for kind in [EventKind::Broken, EventKind::Expired, EventKind::Released] {
        let fake = granting().await;
        fake.serve_watches();
        let options = AcquireOptions::new("a").ttl(LONG);
        let guard = client(&[&fake]).lock(options).await.unwrap();
        within("a watch", fake.until_watched(1)).await;
        let filter = fake.watch_requests().remove(0).filter.unwrap();
        assert_eq!(filter.name, "a");
        // Neither another token, nor another name, nor another kind of event is its end.
        let (token, broken) = (guard.token(), EventKind::Broken);
        for other in [
            ended(broken, "a", 99, ""),
            ended(broken, "b", token, ""),
            ended(EventKind::Granted, "a", token, ""),
            ended(EventKind::Cancelled, "a", token, ""),
        ] {
            fake.tell(Ok(for_another_reason(other))).await;
        }
        fake.tell(Ok(ended(kind, "a", guard.token(), ""))).await;
        let reason = within("the loss", guard.lost()).await;
        assert!(matches!(&reason, LostReason::Fenced(_)), "{reason}");
        assert!(!reason.to_string().contains("another"), "{reason}");
        if kind == EventKind::Broken {
            assert_eq!(reason.to_string(), "it was broken by bob: stuck");
        }
        assert_eq!((guard.is_valid(), fake.count(is_renewal)), (false, 0));
    }
}

#[tokio::test]
async fn a_break_loses_one_lock_of_a_session_at_once() {
    let fake = granting().await;
    fake.serve_watches();
    let session = client(&[&fake]).open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    let (a, b) = (session.acquire("a").await.unwrap(), session.acquire("b").await.unwrap());
    within("a watch", fake.until_watched(1)).await;
    assert_eq!(fake.watch_requests()[0].filter.as_ref().unwrap().session_id, session.id());
    let beats = fake.count(|op| matches!(op, Op::Heartbeat(_)));
    let of_another = ended(EventKind::Broken, "a", a.token(), "another");
    fake.tell(Ok(for_another_reason(of_another))).await;
    let unknown = ended(EventKind::Broken, "c", 99, session.id());
    fake.tell(Ok(for_another_reason(unknown))).await;
    fake.tell(Ok(ended(EventKind::Broken, "a", a.token(), session.id()))).await;
    let reason = within("the loss", a.lost()).await;
    assert_eq!(reason, LostReason::Fenced("it was broken by bob: stuck".into()));
    assert!(b.is_valid());
    assert_eq!(fake.count(|op| matches!(op, Op::Heartbeat(_))), beats, "no heartbeat was due");
    assert_eq!(fake.open_watches(), 1, "one for all locks of the session");
    session.close().await.unwrap();
    while fake.open_watches() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn without_watches_all_is_as_before() {
    for denied in [false, true] {
        let fake = granting().await;
        if denied {
            fake.deny_watches();
        }
        let client = client(&[&fake]);
        let first = client.lock("a").await.unwrap();
        within("a watch", fake.until_watched(1)).await;
        let second = client.lock("b").await.unwrap();
        assert!(first.is_valid() && second.is_valid());
        first.release().await.unwrap();
    }
    let fake = granting().await;
    fake.serve_watches();
    let options = ClientOptions::new().owner("me").watch_held(false);
    let off = Client::with_options([fake.endpoint()], options);
    let _held = off.lock("a").await.unwrap();
    let on = client(&[&fake]);
    let _other = on.lock("b").await.unwrap();
    within("a watch", fake.until_watched(1)).await;
    assert_eq!(fake.watch_requests()[0].filter.as_ref().unwrap().name, "b");
}

#[tokio::test]
async fn the_watch_of_a_guard_ends_with_the_guard_and_keeps_nothing() {
    let fake = granting().await;
    fake.serve_watches();
    let client = client(&[&fake]);
    let guard = client.lock("a").await.unwrap();
    within("a watch", fake.until_watched(1)).await;
    // The end of a watch, and its failure, are no end of the lock.
    fake.end_watches();
    within("another watch", fake.until_watched(2)).await;
    fake.tell(Err(Status::internal("broken"))).await;
    within("another watch", fake.until_watched(3)).await;
    let state = WatchState { first: true, last: true, resync: true, ..Default::default() };
    fake.tell(Ok(Told { state: Some(state), ..Default::default() })).await;
    assert!(guard.is_valid());
    drop(guard);
    while fake.open_watches() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_watch_goes_on_through_another_gateway_from_where_it_was() {
    let (first, second) = (granting().await, granting().await);
    first.serve_watches();
    second.serve_watches();
    let mut watch =
        client(&[&first, &second]).watch(WatchOptions::new().prefix("a").position("p0"));
    within("the call", watch.open()).await.unwrap();
    assert_eq!(first.watch_requests()[0].position, "p0");
    first.tell(Ok(at("p1"))).await;
    assert_eq!(within("a response", watch.next()).await.unwrap().position, "p1");
    let ending = Error::new(ErrorCode::ShuttingDown, "says the fake");
    first.tell(Err(ending.into())).await;
    let (told, ()) = tokio::join!(within("a response", watch.next()), async {
        within("a watch", second.until_watched(1)).await;
        second.tell(Ok(at("p2"))).await;
    });
    assert_eq!(told.unwrap().position, "p2");
    assert_eq!(second.watch_requests()[0].position, "p1");
    assert_eq!(watch.position(), "p2");
    // Without a word it comes back, too.
    second.end_watches();
    let (told, ()) = tokio::join!(within("a response", watch.next()), async {
        within("a watch", first.until_watched(2)).await;
        first.tell(Ok(at("p3"))).await;
    });
    assert_eq!((told.unwrap().position.as_str(), watch.position()), ("p3", "p3"));
}

#[tokio::test]
async fn a_watch_says_whether_a_gateway_has_it() {
    let fake = granting().await;
    fake.serve_watches();
    let mut watch = client(&[&fake]).watch(WatchOptions::new());
    assert!(!watch.is_open(), "it has not been asked for");
    within("the call", watch.open()).await.unwrap();
    assert!(watch.is_open());
    fake.delay_watches(LONG);
    fake.tell(Err(Status::internal("its connection broke"))).await;
    let lost = async {
        while watch.is_open() {
            let told = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
            assert!(told.is_err(), "{told:?}");
        }
    };
    within("the loss", lost).await;
}

/// Regression: thousands of watches that moved at once gave up after the same time, so a gateway that
/// needed longer for them served none.
#[tokio::test]
async fn a_watch_waits_longer_for_a_gateway_that_is_slow() {
    let slow = granting().await;
    slow.serve_watches();
    slow.delay_watches(Duration::from_millis(500));
    let options = ClientOptions::new().timeout(Duration::from_millis(100));
    let client = Client::with_options([slow.endpoint()], options);
    let mut watch = client.watch(WatchOptions::new().prefix("a"));
    within("the call", watch.open()).await.unwrap();
}

#[tokio::test]
async fn a_watch_that_no_gateway_would_serve_ends() {
    let (old, denying) = (granting().await, granting().await);
    let unknown = within("an end", client(&[&old]).watch(WatchOptions::new()).next()).await;
    assert_eq!(unknown.unwrap_err().code, ErrorCode::Internal);
    denying.deny_watches();
    let mut stream = std::pin::pin!(client(&[&denying]).watch(WatchOptions::new()).into_stream());
    let denied = within("an end", stream.next()).await.unwrap();
    assert_eq!(denied.unwrap_err().code, ErrorCode::PermissionDenied);
    assert!(stream.next().await.is_none());
    let newer = granting().await;
    newer.serve_watches();
    within("the newer one", client(&[&old, &newer]).watch(WatchOptions::new()).open())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_watch_that_fails_leaves_a_newer_channel_alone() {
    let tries = Arc::new(AtomicU64::new(0));
    let fake = Fake::start(move |_| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Reaction::Hangup,
        _ => Reaction::Answer(Answer::Renew(RenewResponse::default())),
    })
    .await;
    fake.serve_watches();
    let client = Client::with_options([fake.endpoint()], ClientOptions::new().unary(true));
    let mut watch = client.watch(WatchOptions::new());
    within("the call", watch.open()).await.unwrap();
    // The first try fails, so the client dials again.
    client.renew("a", 1).await.unwrap();
    assert_eq!(fake.connections(), 2);
    fake.tell(Err(Status::internal("its connection broke"))).await;
    tokio::select! {
        told = watch.next() => panic!("{told:?}"),
        () = within("a watch", fake.until_watched(2)) => {}
    }
    client.renew("a", 1).await.unwrap();
    assert_eq!(fake.connections(), 2);
}
