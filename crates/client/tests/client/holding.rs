//! Guards and sessions against a small gateway: renewal, loss, release.

use crate::fake::{Fake, Reaction, error, grant};
use palisade_client::{
    AcquireOptions, Client, ClientOptions, ErrorCode, Held, LostReason, SessionOptions,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{CloseSessionResponse, HeartbeatResponse, ReleaseResponse, RenewResponse};

const TTL: Duration = Duration::from_millis(1_500);

fn renewed() -> Reaction {
    Reaction::Answer(Answer::Renew(RenewResponse {
        ttl_ms: TTL.as_millis() as u32,
        ..Default::default()
    }))
}

fn released() -> Reaction {
    Reaction::Answer(Answer::Release(ReleaseResponse::default()))
}

fn is_renew(op: &Op) -> bool {
    matches!(op, Op::Renew(_))
}

fn is_release(op: &Op) -> bool {
    matches!(op, Op::Release(_))
}

fn options() -> AcquireOptions {
    AcquireOptions::new("n").ttl(TTL)
}

#[tokio::test]
async fn a_guard_renews_until_it_is_released() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 3)),
        Op::Renew(_) => renewed(),
        _ => released(),
    })
    .await;
    let client = Client::connect([fake.endpoint()]);
    let guard = client.lock(options()).await.unwrap();
    assert_eq!((guard.token(), guard.name()), (3, "n"));
    assert!(!fake.seen().iter().any(is_renew), "answered at once: nothing to renew yet");
    fake.until_seen(4, is_renew).await;
    assert!(guard.is_valid(), "four thirds of its TTL later");
    assert!(guard.valid_for() <= TTL);
    guard.release().await.unwrap();
    assert_eq!(fake.seen().iter().filter(|op| is_release(op)).count(), 1);
}

#[tokio::test]
async fn a_dropped_guard_lets_go() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 3)),
        _ => released(),
    })
    .await;
    let client = Client::connect([fake.endpoint()]);
    drop(client.lock(options()).await.unwrap());
    fake.until_seen(1, is_release).await;
}

#[tokio::test]
async fn a_guard_that_is_fenced_says_so() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 3)),
        _ => error(ErrorCode::NotOwner),
    })
    .await;
    let client = Client::connect([fake.endpoint()]);
    let guard = client.lock(options()).await.unwrap();
    assert_eq!(guard.lost().await, LostReason::Fenced("says the fake".into()));
    assert!(!guard.is_valid());
    assert_eq!(guard.valid_for(), Duration::ZERO);
    assert!(guard.release().await.unwrap_err().is_fenced());
}

#[tokio::test]
async fn a_guard_whose_renewals_go_unanswered_is_lost_before_its_ttl_and_stays_so() {
    let answering = Arc::new(AtomicBool::new(false));
    let fake = Fake::start({
        let answering = answering.clone();
        move |op| match op {
            Op::Acquire(request) => Reaction::Answer(grant(request, 3)),
            Op::Renew(_) if answering.load(Ordering::SeqCst) => renewed(),
            Op::Renew(_) => Reaction::Silence,
            _ => released(),
        }
    })
    .await;
    let client = Client::connect([fake.endpoint()]);
    let guard = client.lock(options()).await.unwrap();
    assert_eq!(guard.lost().await, LostReason::NotRenewed);
    answering.store(true, Ordering::SeqCst);
    client.renew("n", 3).await.unwrap();
    assert!(!guard.is_valid(), "an answer that comes later revives nothing");
}

#[tokio::test]
async fn a_lock_that_waited_is_renewed_before_it_is_handed_out() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => {
            let mut waited = grant(request, 3).into_grant().expect("a grant");
            waited.waited_ms = 1_600;
            // The delay is longer than the TTL. Counted from the request, the lock would be lost by
            // now.
            Reaction::Later(Duration::from_millis(1_600), Answer::granted(waited))
        }
        Op::Renew(_) => renewed(),
        _ => released(),
    })
    .await;
    let client = Client::connect([fake.endpoint()]);
    let guard = client.lock(options().wait(Duration::from_secs(60))).await.unwrap();
    assert_eq!(fake.seen().iter().filter(|op| is_renew(op)).count(), 1);
    assert!(guard.is_valid());
}

#[tokio::test]
async fn a_lock_under_an_id_of_the_callers_may_be_old_and_is_renewed_before_it_is_handed_out() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 3)),
        Op::Renew(_) => renewed(),
        _ => released(),
    })
    .await;
    let client = Client::connect([fake.endpoint()]);
    let guard = client.lock(options().request_id([1; 16])).await.unwrap();
    assert_eq!(fake.seen().iter().filter(|op| is_renew(op)).count(), 1);
    assert!(guard.is_valid());
}

/// Such a grant was reported as "nothing was done", because the second of its two requests was not.
#[tokio::test]
async fn a_grant_that_cannot_be_confirmed_is_not_reported_as_not_done() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 3)),
        Op::Renew(_) | Op::Heartbeat(_) => error(ErrorCode::NoLeader),
        _ => released(),
    })
    .await;
    let brief = ClientOptions::new().timeout(Duration::from_millis(200));
    let client = Client::with_options([fake.endpoint()], brief);
    let session = client.open_session(SessionOptions::new().ttl(TTL)).await.unwrap();
    for in_doubt in [
        client.lock(options().request_id([1; 16])).await.unwrap_err(),
        session.acquire(options()).await.unwrap_err(),
    ] {
        assert!(in_doubt.is_outcome_unknown() && !in_doubt.is_retryable(), "{in_doubt}");
        assert!(in_doubt.message.starts_with("granted with token 3"), "{in_doubt}");
    }
}

#[tokio::test]
async fn a_lock_that_is_lost_before_it_is_handed_out_is_not_handed_out() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => {
            let mut waited = grant(request, 3).into_grant().expect("a grant");
            waited.waited_ms = 1;
            Reaction::Answer(Answer::granted(waited))
        }
        Op::Renew(_) => error(ErrorCode::Expired),
        _ => released(),
    })
    .await;
    let client = Client::connect([fake.endpoint()]);
    assert!(client.lock(options().wait(Duration::from_secs(1))).await.unwrap_err().is_fenced());
    fake.until_seen(1, is_release).await;
}

/// Names end in their shard. Shards in `lost` do not know the session, and shards in `failed` do
/// not answer.
fn shards(lost: Arc<AtomicU64>, failed: Arc<AtomicU64>) -> impl Fn(&Op) -> Reaction + Send + Sync {
    let tokens = AtomicU64::new(1);
    move |op| match op {
        Op::Acquire(request) => {
            let mut held = grant(request, tokens.fetch_add(1, Ordering::SeqCst))
                .into_grant()
                .expect("a grant");
            held.shard = request.name.rsplit('/').next().unwrap().parse().unwrap();
            Reaction::Answer(Answer::granted(held))
        }
        Op::Heartbeat(request) => {
            let among = |set: &AtomicU64| {
                let set = set.load(Ordering::SeqCst);
                request
                    .leases
                    .iter()
                    .map(|lease| lease.shard)
                    .filter(|shard| set & (1 << shard) != 0)
                    .collect::<Vec<u32>>()
            };
            Reaction::Answer(Answer::Heartbeat(HeartbeatResponse {
                lost_shards: among(&lost),
                failed_shards: among(&failed),
                ..Default::default()
            }))
        }
        Op::CloseSession(_) => {
            Reaction::Answer(Answer::CloseSession(CloseSessionResponse { released: 2 }))
        }
        _ => released(),
    }
}

#[tokio::test]
async fn one_heartbeat_names_all_shards_and_one_that_loses_the_session_takes_only_its_own_locks() {
    let (lost, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let fake = Fake::start(shards(lost.clone(), failed)).await;
    let client = Client::connect([fake.endpoint()]);
    let session = client.open_session(SessionOptions::new().ttl(TTL)).await.unwrap();
    assert_eq!((session.id(), session.ttl()), ("s-1", TTL));
    let a = session.acquire("a/1").await.unwrap();
    let b = session.acquire("b/2").await.unwrap();
    let c = session.acquire("c/2").await.unwrap();
    assert_eq!((a.shard(), b.shard(), c.shard()), (1, 2, 2));
    assert_eq!(c.grant().session_id, "s-1");
    fake.until_seen(
        4,
        |op| matches!(op, Op::Heartbeat(request) if request.leases.iter().map(|lease| lease.shard).eq([1, 2])),
    )
    .await;
    assert!(a.is_valid() && b.is_valid() && c.is_valid());

    lost.store(1 << 2, Ordering::SeqCst);
    assert!(matches!(b.lost().await, LostReason::Fenced(_)));
    assert!(matches!(c.lost().await, LostReason::Fenced(_)));
    assert!(a.is_valid());
    assert_eq!(session.shards(), [1]);

    a.release().await.unwrap();
    assert_eq!(session.close().await.unwrap(), 2);
    let closed = |op: &Op| matches!(op, Op::CloseSession(request) if request.shards == [1]);
    assert_eq!(fake.seen().iter().filter(|op| closed(op)).count(), 1);
}

#[tokio::test]
async fn a_shard_that_cannot_be_asked_for_a_ttl_loses_its_locks_and_the_others_stay() {
    let (lost, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let fake = Fake::start(shards(lost, failed.clone())).await;
    let client = Client::connect([fake.endpoint()]);
    let session = client.open_session(SessionOptions::new().ttl(TTL)).await.unwrap();
    let a = session.acquire("a/1").await.unwrap();
    let b = session.acquire("b/2").await.unwrap();
    failed.store(1 << 2, Ordering::SeqCst);
    assert_eq!(b.lost().await, LostReason::NotRenewed);
    assert!(a.is_valid());
    // The shard is back. A new lock begins a new lease, and the old one stays lost.
    failed.store(0, Ordering::SeqCst);
    let again = session.acquire("again/2").await.unwrap();
    assert!(again.is_valid() && !b.is_valid());
}

#[tokio::test]
async fn a_dropped_session_closes_itself() {
    let fake = Fake::start(shards(Arc::default(), Arc::default())).await;
    let client = Client::connect([fake.endpoint()]);
    let session = client.open_session(SessionOptions::new().ttl(TTL)).await.unwrap();
    let lock = session.acquire("a/1").await.unwrap();
    drop(session);
    fake.until_seen(1, |op| matches!(op, Op::CloseSession(_))).await;
    assert_eq!(lock.lost().await, LostReason::Released);
    drop(lock);
}
