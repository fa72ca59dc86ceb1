//! Ends of held locks that no event tells, watches that are refused, and the bounds of watches.

use crate::fake::{Fake, Reaction, error, grant};
use crate::watches::{LONG, at, client, ended, granting, is_renewal, within};
use palisade_client::{
    AcquireOptions, Client, ClientOptions, ErrorCode, EventKind, Grant, Held, LostReason, Mode,
    Security, SessionOptions, Token, Told,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{Error, HeartbeatResponse, RenewResponse, SessionLeaseState, WatchState};

/// A part of the state of shard 0 with these tokens.
fn part(tokens: &[u64], first: bool, last: bool) -> Told {
    let of = |token: &u64| Grant { fencing_token: *token, ..Default::default() };
    let held = tokens.iter().map(of).collect();
    let state = WatchState { first, last, held, ..Default::default() };
    Told { state: Some(state), position: "p".into(), ..Default::default() }
}

fn whole(tokens: &[u64]) -> Told {
    part(tokens, true, true)
}

/// A gateway where locks can be broken without an event. The first token is 1, and all others are 2.
async fn breaking() -> (Fake, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let (is_broken, granted) = (broken.clone(), AtomicBool::new(false));
    let fake = Fake::start(move |op| {
        let (ttl_ms, broken) = (LONG.as_millis() as u32, is_broken.load(Ordering::SeqCst));
        Reaction::Answer(match op {
            Op::Acquire(request) => {
                let token = 1 + u64::from(granted.swap(true, Ordering::SeqCst));
                let granted = grant(request, token).into_grant().expect("a grant");
                let answer = Answer::granted(Grant { session_life: 1, ..granted });
                if request.name == "slow" {
                    return Reaction::Later(Duration::from_secs(2), answer);
                }
                answer
            }
            Op::Renew(_) if broken => return error(ErrorCode::NotOwner),
            Op::Renew(_) => Answer::Renew(RenewResponse { ttl_ms, ..Default::default() }),
            Op::Heartbeat(_) => {
                let broken_tokens = if broken { vec![1] } else { vec![] };
                let broken_count = broken_tokens.len() as u64;
                let state = SessionLeaseState {
                    life: 1,
                    ttl_ms,
                    broken_count,
                    broken_tokens,
                    ..Default::default()
                };
                Answer::Heartbeat(HeartbeatResponse {
                    renewed_shards: 1,
                    leases: vec![state],
                    ..Default::default()
                })
            }
            _ => return error(ErrorCode::Internal),
        })
    })
    .await;
    fake.serve_watches();
    (fake, broken)
}

#[tokio::test]
async fn a_guard_that_a_state_lacks_asks_at_once_and_the_answer_decides() {
    let (fake, broken) = breaking().await;
    let guard = client(&[&fake]).lock(AcquireOptions::new("a").ttl(LONG)).await.unwrap();
    within("a watch", fake.until_watched(1)).await;
    // A state that has the token, in any part, asks nothing.
    fake.tell(Ok(whole(&[guard.token()]))).await;
    fake.tell(Ok(part(&[guard.token()], true, false))).await;
    fake.tell(Ok(part(&[7], false, true))).await;
    // A state of a replica that lags behind the grant.
    fake.tell(Ok(whole(&[7]))).await;
    within("a renewal", fake.until_seen(1, is_renewal)).await;
    assert!(guard.is_valid(), "a state alone ends nothing");
    // The break came before the state, so no event tells it.
    broken.store(true, Ordering::SeqCst);
    fake.tell(Ok(part(&[], true, false))).await;
    fake.tell(Ok(part(&[], false, true))).await;
    let reason = within("the loss", guard.lost()).await;
    assert!(matches!(&reason, LostReason::Fenced(_)), "{reason}");
    assert_eq!(fake.count(is_renewal), 2);
}

#[tokio::test]
async fn a_session_that_a_state_lacks_a_lock_of_asks_at_once() {
    let (fake, broken) = breaking().await;
    let options = SessionOptions::new().ttl(LONG);
    let session = client(&[&fake]).open_session(options).await.unwrap();
    let (a, b) = (session.acquire("a").await.unwrap(), session.acquire("b").await.unwrap());
    within("a watch", fake.until_watched(1)).await;
    let is_beat = |op: &Op| matches!(op, Op::Heartbeat(_));
    let beats = fake.count(is_beat);
    fake.tell(Ok(whole(&[a.token(), b.token()]))).await;
    fake.tell(Ok(whole(&[b.token()]))).await;
    within("a heartbeat", fake.until_seen(beats + 1, is_beat)).await;
    assert!(a.is_valid() && b.is_valid(), "a state alone ends nothing");
    broken.store(true, Ordering::SeqCst);
    fake.tell(Ok(whole(&[b.token()]))).await;
    let reason = within("the loss", a.lost()).await;
    assert!(matches!(&reason, LostReason::Fenced(_)), "{reason}");
    assert!(b.is_valid());
    assert_eq!(fake.count(is_beat), beats + 2);
}

#[tokio::test]
async fn a_grant_in_flight_while_a_state_is_told_is_confirmed_by_a_renewal() {
    let (fake, broken) = breaking().await;
    let options = SessionOptions::new().ttl(LONG);
    let session = client(&[&fake]).open_session(options).await.unwrap();
    let _first = session.acquire("a").await.unwrap();
    within("a watch", fake.until_watched(1)).await;
    let (taken, ()) = tokio::join!(session.acquire("slow"), async {
        fake.until_seen(2, |op| matches!(op, Op::Acquire(_))).await;
        broken.store(true, Ordering::SeqCst);
        fake.tell(Ok(whole(&[1]))).await;
    });
    assert!(taken.expect_err("it was broken before the state").is_fenced());
    assert_eq!(fake.count(is_renewal), 1);
}

#[tokio::test]
async fn a_guard_of_a_shared_lock_is_told_of_its_own_owner_alone() {
    let fake = granting().await;
    fake.serve_watches();
    let options = AcquireOptions::new("a").mode(Mode::Shared).owner("worker-7");
    let _guard = client(&[&fake]).lock(options).await.unwrap();
    within("a watch", fake.until_watched(1)).await;
    let filter = fake.watch_requests().remove(0).filter.unwrap();
    assert_eq!((filter.name.as_str(), filter.owner.as_str()), ("a", "worker-7"));
}

#[tokio::test]
async fn a_guard_beyond_the_bound_takes_a_place_that_becomes_free() {
    let fake = granting().await;
    fake.serve_watches();
    let client = client(&[&fake]);
    let mut guards = Vec::new();
    for number in 0..64 {
        guards.push(client.lock(format!("l{number}")).await.unwrap());
    }
    within("the watches", fake.until_watched(64)).await;
    let _left = client.lock("left").await.unwrap();
    // Without a place, it would have been watched by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.watch_requests().len(), 64);
    guards.pop();
    within("one more watch", fake.until_watched(65)).await;
    assert_eq!(fake.watch_requests()[64].filter.as_ref().unwrap().name, "left");
}

#[tokio::test]
async fn a_denial_of_one_name_leaves_the_others_watched() {
    let fake = granting().await;
    fake.refuse_watches(|request, _| {
        let denied = request.filter.as_ref().is_some_and(|filter| filter.name == "denied");
        denied.then(|| Error::new(ErrorCode::PermissionDenied, "says the fake"))
    });
    let client = client(&[&fake]);
    let denied = client.lock("denied").await.unwrap();
    within("a watch", fake.until_watched(1)).await;
    let other = client.lock("other").await.unwrap();
    within("another watch", fake.until_watched(2)).await;
    fake.tell(Ok(ended(EventKind::Broken, "other", other.token(), ""))).await;
    within("the loss", other.lost()).await;
    assert!(denied.is_valid());
    assert_eq!(fake.watch_requests().len(), 2, "the denied one is not tried again");
}

#[tokio::test]
async fn a_guard_is_watched_again_with_a_token_that_was_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "old").unwrap();
    let fake = granting().await;
    fake.serve_watches();
    let security = Security { token: Some(Token::file(&path)), ..Security::default() };
    let options = ClientOptions::new().renew_interval_max(LONG).security(security);
    let client = Client::with_options([fake.endpoint()], options);
    let guard = client.lock(AcquireOptions::new("a").ttl(LONG)).await.unwrap();
    within("a watch", fake.until_watched(1)).await;
    fake.tell(Ok(at("p1"))).await;
    let unauthenticated = || Error::new(ErrorCode::Unauthenticated, "the token is over");
    std::fs::write(&path, "new").unwrap();
    fake.tell(Err(unauthenticated().into())).await;
    within("another watch", fake.until_watched(2)).await;
    assert_eq!(fake.watch_tokens(), ["old", "new"]);
    assert_eq!(fake.watch_requests()[1].position, "p1");
    // The next one is written late, so the client comes back again and again.
    fake.tell(Ok(at("p2"))).await;
    fake.refuse_watches(move |_, token| (token == "new").then(unauthenticated));
    fake.tell(Err(unauthenticated().into())).await;
    within("more tries", fake.until_watched(5)).await;
    std::fs::write(&path, "newest").unwrap();
    while fake.watch_tokens().last().is_some_and(|token| token != "newest") {
        within("a watch", tokio::time::sleep(Duration::from_millis(2))).await;
    }
    fake.tell(Ok(ended(EventKind::Broken, "a", guard.token(), ""))).await;
    within("the loss", guard.lost()).await;
}
