//! Locks that no caller wants are released: releases, cancels and closes are retried until they are
//! answered.

use crate::fake::{Fake, Reaction, error, grant};
use palisade_client::clock::SuspendClock;
use palisade_client::{
    AcquireOptions, Client, ClientOptions, ErrorCode, Held, LostReason, SessionOptions,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{AcquireRequest, CancelWaitResponse, CloseSessionResponse, HeartbeatResponse};
use wire::v1::{ReleaseResponse, RenewResponse};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3_600);
/// A test that hangs fails after this time.
const PATIENCE: Duration = Duration::from_secs(20);

fn client(endpoints: &[&str], timeout: Duration) -> Client {
    Client::with_options(
        endpoints.iter().copied(),
        ClientOptions::new().timeout(timeout).owner("me"),
    )
}

fn is_release(op: &Op) -> bool {
    matches!(op, Op::Release(_))
}

fn is_cancel(op: &Op) -> bool {
    matches!(op, Op::CancelWait(_))
}

/// Answers every operation with success.
fn else_answered(op: &Op) -> Reaction {
    Reaction::Answer(match op {
        Op::Acquire(request) => grant(request, 3),
        Op::Renew(_) => {
            Answer::Renew(RenewResponse { ttl_ms: LONG.as_millis() as u32, ..Default::default() })
        }
        Op::Heartbeat(_) => {
            Answer::Heartbeat(HeartbeatResponse { renewed_shards: 1, ..Default::default() })
        }
        Op::CloseSession(_) => Answer::CloseSession(CloseSessionResponse { released: 1 }),
        Op::CancelWait(_) => {
            Answer::CancelWait(CancelWaitResponse { cancelled: true, grant: None })
        }
        _ => Answer::Release(ReleaseResponse::default()),
    })
}

/// Refuses releases, cancels and closes while `refusing` is set.
async fn refusing() -> (Fake, Arc<AtomicBool>) {
    let refusing = Arc::new(AtomicBool::new(true));
    let fake = Fake::start({
        let refusing = refusing.clone();
        move |op| match op {
            Op::Release(_) | Op::CloseSession(_) | Op::CancelWait(_)
                if refusing.load(Ordering::SeqCst) =>
            {
                error(ErrorCode::NoLeader)
            }
            op => else_answered(op),
        }
    })
    .await;
    (fake, refusing)
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

/// The release was given up after one timeout, and the session's heartbeats kept the lock for as
/// long as the session lived.
#[tokio::test]
async fn a_session_lock_whose_release_failed_is_released_once_that_is_possible() {
    let (fake, refusing) = refusing().await;
    let client = client(&[&fake.endpoint()], 100 * MS);
    let session = client.open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    let lock = session.acquire("a").await.unwrap();
    assert!(lock.release().await.unwrap_err().is_retryable());
    let before = fake.count(is_release);
    within("it is tried again, and again", fake.until_seen(before + 4, is_release)).await;
    refusing.store(false, Ordering::SeqCst);
    within("it is answered", client.let_go_of_all()).await;
    let answered = fake.count(is_release);
    session.close().await.unwrap();
    within("nothing is left", client.let_go_of_all()).await;
    assert_eq!(fake.count(is_release), answered, "once answered it is not tried again");
}

#[tokio::test]
async fn dropped_guards_and_sessions_and_refused_closes_are_let_go_once_that_is_possible() {
    let (fake, refusing) = refusing().await;
    let client = client(&[&fake.endpoint()], 100 * MS);
    drop(client.lock(AcquireOptions::new("a").ttl(LONG)).await.unwrap());
    let session = client.open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    drop(session.acquire("b").await.unwrap());
    assert!(session.close().await.unwrap_err().is_retryable());
    let is_close = |op: &Op| matches!(op, Op::CloseSession(_));
    let closes = fake.count(is_close);
    within("the close is tried again", fake.until_seen(closes + 3, is_close)).await;
    refusing.store(false, Ordering::SeqCst);
    within("all is answered", client.let_go_of_all()).await;
    let (name, token) = ("a".to_owned(), 3);
    let released = |op: &Op| matches!(op, Op::Release(request) if request.name == name && request.fencing_token == token);
    assert!(fake.count(released) > 0);
}

#[tokio::test]
async fn a_guard_dropped_on_a_thread_without_a_runtime_is_let_go() {
    let fake = Fake::start(else_answered).await;
    let client = client(&[&fake.endpoint()], LONG);
    let guard = client.lock(AcquireOptions::new("a").ttl(LONG)).await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    within("it is released", fake.until_seen(1, is_release)).await;
}

#[tokio::test]
async fn what_has_run_out_is_not_tried_for_ever() {
    let (fake, _refusing) = refusing().await;
    let client = client(&[&fake.endpoint()], 100 * MS);
    drop(client.lock(AcquireOptions::new("a").ttl(200 * MS)).await.unwrap());
    within("its TTL is over", client.let_go_of_all()).await;
    assert!(fake.count(is_release) > 0);
}

/// The lock was lost here, but later heartbeats kept it at the server.
#[tokio::test]
async fn a_session_lock_that_was_not_renewed_in_time_is_not_revived_by_later_heartbeats() {
    let failing = Arc::new(AtomicBool::new(false));
    let fake = Fake::start({
        let failing = failing.clone();
        move |op| match op {
            Op::Heartbeat(_) if failing.load(Ordering::SeqCst) => {
                Reaction::Answer(Answer::Heartbeat(HeartbeatResponse {
                    failed_shards: vec![0],
                    ..Default::default()
                }))
            }
            op => else_answered(op),
        }
    })
    .await;
    let client = client(&[&fake.endpoint()], LONG);
    let session = client.open_session(SessionOptions::new().ttl(600 * MS)).await.unwrap();
    let lock = session.acquire("a").await.unwrap();
    failing.store(true, Ordering::SeqCst);
    assert_eq!(within("it is lost", lock.lost()).await, LostReason::NotRenewed);
    failing.store(false, Ordering::SeqCst);
    within("it is let go, though its holder did nothing", fake.until_seen(1, is_release)).await;
    assert!(!lock.is_valid());
}

fn acquires(fake: &Fake) -> Vec<AcquireRequest> {
    let acquire = |op| if let Op::Acquire(request) = op { Some(request) } else { None };
    fake.seen().into_iter().filter_map(acquire).collect()
}

/// The first try was still in flight when the second was answered with HELD. The first was then
/// granted, and no caller knew of the grant.
#[tokio::test]
async fn a_refusal_while_an_earlier_try_is_in_doubt_cancels_that_try_and_releases_its_grant() {
    let (dying, other) = (Fake::start(|_| Reaction::Hangup).await, granted_late().await);
    let client = client(&[&dying.endpoint(), &other.endpoint()], LONG);
    assert!(client.acquire("n").await.unwrap_err().is_held());
    let id = acquires(&dying)[0].request_id.clone();
    let cancelled = |op: &Op| matches!(op, Op::CancelWait(request) if request.request_id == id);
    within("the lost try is cancelled", other.until_seen(1, cancelled)).await;
    let released = |op: &Op| matches!(op, Op::Release(request) if request.fencing_token == 5);
    within("its grant is released", other.until_seen(1, released)).await;
}

/// Refuses every acquire, although one of them was granted.
async fn granted_late() -> Fake {
    Fake::start(|op| match op {
        Op::Acquire(_) => error(ErrorCode::Held),
        Op::CancelWait(request) => {
            let late = AcquireRequest { name: request.name.clone(), ..Default::default() };
            let late = grant(&late, 5).into_grant().expect("a grant");
            Reaction::Answer(Answer::CancelWait(CancelWaitResponse {
                cancelled: false,
                grant: Some(late),
            }))
        }
        op => else_answered(op),
    })
    .await
}

/// The caller was told HELD, and came back with its id elsewhere. The cancel in the background
/// released the lock that it had got.
#[tokio::test]
async fn a_refusal_in_doubt_under_the_callers_id_is_cancelled_first_and_no_release_is_sent() {
    let (dying, other) = (Fake::start(|_| Reaction::Hangup).await, granted_late().await);
    let of_both = client(&[&dying.endpoint(), &other.endpoint()], LONG);
    let held = of_both.acquire(AcquireOptions::new("n").request_id([9; 16])).await.unwrap();
    assert_eq!(held.fencing_token, 5, "the grant that the cancel found");

    let deaf = Fake::start(|op| match op {
        Op::Acquire(_) => error(ErrorCode::Held),
        _ => Reaction::Silence,
    })
    .await;
    let dying = Fake::start(|_| Reaction::Hangup).await;
    let of_deaf = client(&[&dying.endpoint(), &deaf.endpoint()], 300 * MS);
    let unknown = of_deaf.acquire(AcquireOptions::new("n").request_id([9; 16])).await.unwrap_err();
    assert!(unknown.is_outcome_unknown(), "{unknown}");
    within("nothing is let go", of_deaf.let_go_of_all()).await;
    assert_eq!(deaf.count(is_release), 0);
}

/// The claim was not answered, so the caller was told to retry with its id. The release in the
/// background ended the lock that the retry got.
#[tokio::test]
async fn a_lock_taken_up_again_under_the_callers_id_is_not_let_go_behind_its_back() {
    let deaf = Arc::new(AtomicBool::new(true));
    let fake = Fake::start({
        let deaf = deaf.clone();
        move |op| match op {
            Op::Renew(_) | Op::Heartbeat(_) if deaf.load(Ordering::SeqCst) => Reaction::Silence,
            op => else_answered(op),
        }
    })
    .await;
    let client = client(&[&fake.endpoint()], 300 * MS);
    let mine = || AcquireOptions::new("n").ttl(LONG).request_id([9; 16]);
    let session = client.open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    assert!(client.lock(mine()).await.unwrap_err().is_outcome_unknown());
    assert!(session.acquire(mine()).await.unwrap_err().is_outcome_unknown());
    deaf.store(false, Ordering::SeqCst);
    let guard = client.lock(mine()).await.unwrap();
    let lock = session.acquire(mine()).await.unwrap();
    within("nothing is to be let go", client.let_go_of_all()).await;
    assert_eq!(fake.count(is_release), 0);
    assert!(guard.is_valid() && lock.is_valid());
}

/// A release in flight ended the lock that the caller had taken up again.
#[tokio::test]
async fn a_lock_that_is_being_released_is_not_taken_up_again() {
    let (fake, refusing) = refusing().await;
    let client = client(&[&fake.endpoint()], 100 * MS);
    let mine = || AcquireOptions::new("n").ttl(LONG).request_id([9; 16]);
    drop(client.lock(mine()).await.unwrap());
    within("its release is tried", fake.until_seen(1, is_release)).await;
    for _ in 0..3 {
        let refused = client.lock(mine()).await.unwrap_err();
        assert!(
            refused.is_outcome_unknown() && refused.message.contains("being released"),
            "{refused}"
        );
    }
    refusing.store(false, Ordering::SeqCst);
    within("it is released", client.let_go_of_all()).await;
    client.lock(mine()).await.expect("granted anew");
}

/// The caller was told to acquire anew, and the first grant was held until its TTL without a
/// holder.
#[tokio::test]
async fn a_grant_under_the_callers_id_that_is_told_as_expired_is_let_go() {
    let fake = Fake::start(|op| match op {
        Op::Renew(_) => Reaction::Later(
            400 * MS,
            Answer::Renew(RenewResponse { ttl_ms: 200, ..Default::default() }),
        ),
        op => else_answered(op),
    })
    .await;
    let client = client(&[&fake.endpoint()], LONG);
    let mine = AcquireOptions::new("n").ttl(200 * MS).request_id([9; 16]);
    assert_eq!(client.lock(mine).await.unwrap_err().code, ErrorCode::Expired);
    within("it is let go", fake.until_seen(1, is_release)).await;
}

/// The caller asked twice with one id and had two objects of one lock. One released the lock, and
/// the other said "held" for as long as the session lived.
#[tokio::test]
async fn what_one_object_of_a_session_lock_lets_go_the_other_does_not_hold() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 5)),
        op => else_answered(op),
    })
    .await;
    let client = client(&[&fake.endpoint()], LONG);
    let session = client.open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    let mine = || AcquireOptions::new("n").request_id([9; 16]);
    let (one, other) =
        (session.acquire(mine()).await.unwrap(), session.acquire(mine()).await.unwrap());
    assert!(one.is_valid() && other.is_valid());
    within("it is released", one.release()).await.unwrap();
    assert!(!other.is_valid());
}

/// A lock was lost here, and taken up again by its id. When the old object was dropped after that,
/// its release ended the lock of the new one.
#[tokio::test]
async fn an_object_that_lost_its_lock_does_not_let_go_of_what_another_took_up_again() {
    let asleep = Arc::new(Mutex::new(Duration::ZERO));
    let clock = SuspendClock::from_fn({
        let asleep = asleep.clone();
        move || *asleep.lock().unwrap()
    });
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 5)),
        op => else_answered(op),
    })
    .await;
    let options = ClientOptions::new().owner("me").suspend_clock(clock);
    let client = Client::with_options([fake.endpoint()], options);
    let session = client.open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    let mine = || AcquireOptions::new("n").ttl(LONG).request_id([9; 16]);
    let old = (client.lock(mine()).await.unwrap(), session.acquire(mine()).await.unwrap());
    *asleep.lock().unwrap() += Duration::from_secs(7);
    assert!(!old.0.is_valid() && !old.1.is_valid());
    let new = (client.lock(mine()).await.unwrap(), session.acquire(mine()).await.unwrap());
    drop(old);
    within("nothing is to be let go", client.let_go_of_all()).await;
    assert!(new.0.is_valid() && new.1.is_valid());
    assert_eq!(fake.count(is_release), 0);
    drop(new);
    within("both are let go", fake.until_seen(1, is_release)).await;
}

#[tokio::test]
async fn an_abandoned_lock_is_left_to_its_ttl() {
    let fake = Fake::start(else_answered).await;
    let client = client(&[&fake.endpoint()], LONG);
    client.lock(AcquireOptions::new("n").ttl(LONG)).await.unwrap().abandon();
    within("nothing is to be let go", client.let_go_of_all()).await;
    drop(client.lock(AcquireOptions::new("other").ttl(LONG)).await.unwrap());
    within("another is let go", fake.until_seen(1, is_release)).await;
    assert_eq!(fake.count(|op| matches!(op, Op::Release(request) if request.name == "n")), 0);
}

#[tokio::test]
async fn a_refusal_without_any_doubt_costs_no_cancel() {
    let fake = Fake::start(|_| error(ErrorCode::Held)).await;
    let client = client(&[&fake.endpoint()], LONG);
    assert!(client.acquire("n").await.unwrap_err().is_held());
    client.let_go_of_all().await;
    assert_eq!(fake.seen().len(), 1);
}

/// One refused cancel left a dead waiter in the queue for its whole wait.
#[tokio::test]
async fn a_cancel_that_is_refused_is_repeated_until_it_is_answered() {
    let refusing = Arc::new(AtomicBool::new(true));
    let fake = Fake::start({
        let refusing = refusing.clone();
        move |op| match op {
            Op::Acquire(_) => Reaction::Silence,
            Op::CancelWait(_) if refusing.load(Ordering::SeqCst) => error(ErrorCode::Busy),
            op => else_answered(op),
        }
    })
    .await;
    let client = client(&[&fake.endpoint()], 200 * MS);
    tokio::select! {
        acquired = client.acquire(AcquireOptions::new("n").wait(LONG)) => panic!("{acquired:?}"),
        () = fake.until_seen(1, |op| matches!(op, Op::Acquire(_))) => {}
    }
    // This takes many times the timeout of one cancel.
    within("it is repeated", fake.until_seen(20, is_cancel)).await;
    refusing.store(false, Ordering::SeqCst);
    within("it is answered", client.let_go_of_all()).await;
}

/// Makes grants out of the queue that must be claimed in time.
async fn queueing(claims_answered: bool) -> Fake {
    Fake::start(move |op| match op {
        Op::Acquire(request) => {
            let mut waited = grant(request, 3).into_grant().expect("a grant");
            (waited.waited_ms, waited.claim_within_ms) = (1, request.claim_ttl_ms);
            Reaction::Answer(Answer::granted(waited))
        }
        Op::Renew(_) if !claims_answered => Reaction::Silence,
        op => else_answered(op),
    })
    .await
}

#[tokio::test]
async fn a_lock_out_of_the_queue_is_held_only_once_its_claim_is_acknowledged() {
    let wait = || AcquireOptions::new("n").ttl(LONG).wait(100 * MS);
    let fake = queueing(true).await;
    let guard = client(&[&fake.endpoint()], LONG).lock(wait()).await.unwrap();
    assert!(guard.is_valid());
    assert_eq!(acquires(&fake)[0].claim_ttl_ms, 10_000);
    assert_eq!(fake.count(|op| matches!(op, Op::Renew(_))), 1);

    let deaf = queueing(false).await;
    let unclaimed = client(&[&deaf.endpoint()], 300 * MS).lock(wait()).await.unwrap_err();
    assert!(unclaimed.is_outcome_unknown(), "{unclaimed}");
    within("it is let go", deaf.until_seen(1, is_release)).await;
}

#[tokio::test]
async fn a_plain_acquire_claims_if_it_asked_for_that() {
    let fake = queueing(true).await;
    let client = client(&[&fake.endpoint()], LONG);
    let wait = AcquireOptions::new("n").ttl(LONG).wait(LONG);
    assert_eq!(client.acquire(wait.clone()).await.unwrap().claim_within_ms, 0);
    assert_eq!(fake.count(|op| matches!(op, Op::Renew(_))), 0, "its TTL runs already");
    let claimed = client.acquire(wait.claim_ttl(500 * MS)).await.unwrap();
    let ttl_ms = LONG.as_millis() as u32;
    assert_eq!((claimed.claim_within_ms, claimed.ttl_ms), (0, ttl_ms));
    assert_eq!(claimed.remaining_ms, ttl_ms, "it showed what was left of the unclaimed lease");
    assert_eq!(fake.count(|op| matches!(op, Op::Renew(_))), 1);
    assert_eq!(acquires(&fake)[1].claim_ttl_ms, 500);
}

/// The acquire had its timeout, and the renewal after it had another one.
#[tokio::test]
async fn the_timeout_of_a_lock_covers_all_of_its_requests() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Later(1_000 * MS, grant(request, 3)),
        op => else_answered(op),
    })
    .await;
    let client = client(&[&fake.endpoint()], 3_000 * MS);
    client.lock(AcquireOptions::new("n").ttl(LONG).request_id([1; 16])).await.unwrap();
    let session = client.open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    session.acquire("n").await.unwrap();
    let told = fake.operations();
    let told = |what: fn(&Op) -> bool| {
        told.iter().find(|operation| what(operation.op.as_ref().unwrap())).unwrap()
    };
    assert!(told(|op| matches!(op, Op::Renew(_))).timeout_ms <= 2_000);
    assert!(told(|op| matches!(op, Op::Heartbeat(_))).timeout_ms <= 2_000);
}

#[tokio::test]
async fn frames_say_when_they_were_sent() {
    let fake = Fake::start(else_answered).await;
    let client = client(&[&fake.endpoint()], LONG);
    for _ in 0..3 {
        client.acquire("n").await.unwrap();
        tokio::time::sleep(2 * MS).await;
    }
    let sent_ms = fake.sent_ms();
    assert!(sent_ms[0] > 0 && sent_ms.is_sorted_by(|a, b| a < b), "{sent_ms:?}");
}
