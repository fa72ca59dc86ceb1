//! Regressions of the client. Each test has the name of the fault.

use crate::fake::{Fake, Reaction, error, grant};
use palisade_client::{
    AcquireOptions, Client, ClientOptions, ErrorCode, Held, LostReason, SessionOptions,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{
    AcquireRequest, CancelWaitResponse, CloseSessionResponse, HeartbeatResponse, ReleaseResponse,
};
use wire::v1::{RenewResponse, operation_result};

const TTL: Duration = Duration::from_millis(1_500);
const LONG: Duration = Duration::from_secs(600);

fn client(endpoints: &[&str], timeout: Duration) -> Client {
    Client::with_options(
        endpoints.iter().copied(),
        ClientOptions::new().timeout(timeout).owner("me"),
    )
}

fn released() -> Reaction {
    Reaction::Answer(Answer::Release(ReleaseResponse::default()))
}

fn cancelled(cancelled: bool, grant: Option<operation_result::Result>) -> Reaction {
    let grant = grant.and_then(Answer::into_grant);
    Reaction::Answer(Answer::CancelWait(CancelWaitResponse { cancelled, grant }))
}

/// The only try took all the rest of the validity, so no time was left for a second.
#[tokio::test]
async fn one_renewal_that_goes_unanswered_does_not_lose_the_lock() {
    let renewals = AtomicU32::new(0);
    let fake = Fake::start(move |op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 3)),
        Op::Renew(_) if renewals.fetch_add(1, Ordering::SeqCst) == 0 => Reaction::Silence,
        Op::Renew(_) => Reaction::Answer(Answer::Renew(RenewResponse {
            ttl_ms: TTL.as_millis() as u32,
            ..Default::default()
        })),
        _ => released(),
    })
    .await;
    let client = Client::connect([fake.endpoint()]);
    let guard = client.lock(AcquireOptions::new("n").ttl(TTL)).await.unwrap();
    tokio::select! {
        reason = guard.lost() => panic!("{reason}"),
        () = fake.until_seen(4, |op| matches!(op, Op::Renew(_))) => {}
    }
    assert!(guard.is_valid());
}

/// The session forgot its shards before they were told, so the next close closed nothing.
#[tokio::test]
async fn a_session_whose_close_is_given_up_is_closed_in_the_background() {
    let closes = AtomicU32::new(0);
    let fake = Fake::start(move |op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 3)),
        Op::Heartbeat(_) => Reaction::Answer(Answer::Heartbeat(HeartbeatResponse {
            renewed_shards: 1,
            ..Default::default()
        })),
        Op::CloseSession(_) if closes.fetch_add(1, Ordering::SeqCst) == 0 => Reaction::Silence,
        Op::CloseSession(_) => {
            Reaction::Answer(Answer::CloseSession(CloseSessionResponse { released: 1 }))
        }
        _ => released(),
    })
    .await;
    let client = client(&[&fake.endpoint()], LONG);
    let session = client.open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    let lock = session.acquire("a").await.unwrap();
    tokio::select! {
        closed = session.close() => panic!("{closed:?}"),
        () = fake.until_seen(1, |op| matches!(op, Op::CloseSession(_))) => {}
    }
    assert_eq!(lock.lost().await, LostReason::Released);
    let again =
        fake.until_seen(2, |op| matches!(op, Op::CloseSession(request) if request.shards == [0]));
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("closed again");
}

/// A socket that takes connections up to its backlog and drops the rest, as a stopped process does.
async fn stopped_process() -> (String, Vec<tokio::net::TcpStream>, tokio::net::TcpListener) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    let patience = Duration::from_millis(200);
    while let Ok(Ok(stream)) =
        tokio::time::timeout(patience, tokio::net::TcpStream::connect(address)).await
    {
        filling.push(stream);
    }
    (address.to_string(), filling, listener)
}

/// Calls queued for each other's attempts to connect, and the last call waited for all of them.
#[tokio::test]
async fn calls_to_a_server_that_takes_no_connections_keep_their_deadlines() {
    let (endpoint, _filling, _listener) = stopped_process().await;
    let client = Client::with_options(
        [endpoint],
        ClientOptions::new().timeout(Duration::from_millis(400)).unary(true),
    );
    let began = Instant::now();
    let calls = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.cluster_status().await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap_err().code, ErrorCode::NoLeader);
    }
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "20 deadlines of 400 ms, at the same time: {:?}",
        began.elapsed()
    );
}

/// Only a success counted as an answer, so under contention every acquire began at a gateway that
/// hung.
#[tokio::test]
async fn the_gateway_that_refused_is_asked_first_the_next_time() {
    let silent = Fake::start(|_| Reaction::Silence).await;
    let answering = Fake::start(|_| error(ErrorCode::Held)).await;
    let client = client(&[&silent.endpoint(), &answering.endpoint()], Duration::from_secs(1));
    for _ in 0..3 {
        assert!(client.acquire("n").await.unwrap_err().is_held());
    }
    let acquires = silent.seen().iter().filter(|op| matches!(op, Op::Acquire(_))).count();
    assert_eq!(acquires, 1, "it hung once");
}

/// Acquires and cancels take different ways through a gateway. A cancel that came first found no
/// acquire to cancel.
#[tokio::test]
async fn a_cancel_that_overtakes_its_acquire_is_repeated() {
    let cancels = AtomicU32::new(0);
    let fake = Fake::start(move |op| match op {
        Op::CancelWait(_) if cancels.fetch_add(1, Ordering::SeqCst) == 0 => cancelled(false, None),
        Op::CancelWait(request) => {
            let acquire = AcquireRequest { name: request.name.clone(), ..Default::default() };
            cancelled(false, Some(grant(&acquire, 5)))
        }
        Op::Release(_) => released(),
        _ => Reaction::Silence,
    })
    .await;
    let client = client(&[&fake.endpoint()], LONG);
    tokio::select! {
        acquired = client.acquire("n") => panic!("{acquired:?}"),
        () = fake.until_seen(1, |op| matches!(op, Op::Acquire(_))) => {}
    }
    let let_go =
        fake.until_seen(1, |op| matches!(op, Op::Release(request) if request.fencing_token == 5));
    tokio::time::timeout(Duration::from_secs(10), let_go).await.expect("released");
}

/// The first try, believed lost, arrived after the second and took its place. The end of the second
/// was taken for the end of the wait.
#[tokio::test]
async fn a_wait_whose_place_was_taken_by_its_own_lost_try_is_taken_up_again() {
    let dying = Fake::start(|_| Reaction::Hangup).await;
    let tries = AtomicU32::new(0);
    let other = Fake::start(move |op| match op {
        Op::Acquire(_) if tries.fetch_add(1, Ordering::SeqCst) == 0 => {
            error(ErrorCode::WaitCancelled)
        }
        Op::Acquire(request) => Reaction::Answer(grant(request, 9)),
        _ => released(),
    })
    .await;
    let client = client(&[&dying.endpoint(), &other.endpoint()], LONG);
    let held = client.acquire(AcquireOptions::new("n").wait(LONG)).await.unwrap();
    assert_eq!(held.fencing_token, 9);
}

#[tokio::test]
async fn a_wait_that_was_cancelled_without_any_doubt_has_ended() {
    let fake = Fake::start(|_| error(ErrorCode::WaitCancelled)).await;
    let client = client(&[&fake.endpoint()], LONG);
    let ended = client.acquire(AcquireOptions::new("n").wait(LONG)).await.unwrap_err();
    assert_eq!((ended.code, fake.seen().len()), (ErrorCode::WaitCancelled, 1));
}
