//! The client against small fake gateways: retries with the same ids, failover, cancelled futures,
//! unary mode.

use crate::fake::{Fake, Reaction, error, grant, nobody};
use palisade_client::{AcquireOptions, Client, ClientOptions, Consistency, ErrorCode};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{AcquireRequest, CancelWaitResponse, CheckResponse, ReleaseResponse};

const LONG: Duration = Duration::from_secs(600);

fn client(endpoints: &[&str], timeout: Duration) -> Client {
    Client::with_options(
        endpoints.iter().copied(),
        ClientOptions::new().timeout(timeout).owner("me"),
    )
}

fn acquires(fake: &Fake) -> Vec<AcquireRequest> {
    let acquire = |op| if let Op::Acquire(request) = op { Some(request) } else { None };
    fake.seen().into_iter().filter_map(acquire).collect()
}

#[tokio::test]
async fn a_lost_acquire_is_tried_on_the_next_gateway_with_the_same_request_id() {
    let first = Fake::start(|_| Reaction::Hangup).await;
    let second = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 7)),
        _ => Reaction::Answer(Answer::Release(ReleaseResponse::default())),
    })
    .await;
    let client = client(&[&first.endpoint(), &second.endpoint()], LONG);
    let held = client.acquire(AcquireOptions::new("n").ttl(Duration::from_secs(2))).await.unwrap();
    assert_eq!((held.fencing_token, held.owner_id.as_str(), held.ttl_ms), (7, "me", 2_000));
    let (lost, kept) = (acquires(&first), acquires(&second));
    assert_eq!((lost.len(), kept.len()), (1, 1));
    assert_eq!(lost[0].request_id.len(), 16);
    assert_eq!(lost[0].request_id, kept[0].request_id);

    client.release("n", 7).await.unwrap();
    assert_eq!(first.seen().len(), 1, "the gateway that answered last is asked first");
}

#[tokio::test]
async fn a_gateway_that_is_down_costs_nothing_but_a_hop() {
    let fake = Fake::start(|_| {
        Reaction::Answer(Answer::Check(CheckResponse { last_token: 3, ..Default::default() }))
    })
    .await;
    let client = client(&[&nobody().await, &fake.endpoint()], LONG);
    assert_eq!(client.check("n", Consistency::Linearizable).await.unwrap().last_token, 3);
}

#[tokio::test]
async fn what_may_have_been_done_is_never_reported_as_not_done() {
    let silent = Fake::start(|_| Reaction::Silence).await;
    let client = client(&[&silent.endpoint()], Duration::from_millis(200));
    let unknown = client.renew("n", 1).await.unwrap_err();
    assert!(unknown.is_outcome_unknown(), "{unknown}");
    let unread = client.check("n", Consistency::Stale).await.unwrap_err();
    assert!(unread.is_retryable(), "a read leaves no doubt: {unread}");

    let down = self::client(&[&nobody().await], Duration::from_millis(200));
    let refused = down.acquire("n").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoLeader, "it was never sent");
    assert!(refused.message.contains("cannot connect to"), "{refused}");
    assert!(
        refused.is_unreachable() && refused.message.contains("could not be reached"),
        "{refused}"
    );
    assert!(!refused.message.contains("leader"), "nobody was there to say so: {refused}");
    let neither = self::client(&[&nobody().await, &nobody().await], Duration::from_millis(200));
    let refused = neither.cluster_status().await.unwrap_err();
    assert!(
        refused.is_unreachable() && refused.message.starts_with("none of the gateways at"),
        "{refused}"
    );
    assert!(refused.message.contains("cannot connect to"), "{refused}");

    let leaderless = Fake::start(|_| error(ErrorCode::NoLeader)).await;
    let client =
        self::client(&[&leaderless.endpoint(), &nobody().await], Duration::from_millis(200));
    let refused = client.check("n", Consistency::Stale).await.unwrap_err();
    assert!(
        !refused.is_unreachable() && refused.code == ErrorCode::NoLeader,
        "one gateway did answer: {refused}"
    );
}

#[tokio::test]
async fn busy_is_tried_again_and_refusals_are_not() {
    let calls = AtomicU32::new(0);
    let fake = Fake::start(move |op| match op {
        Op::Release(_) => error(ErrorCode::NotOwner),
        Op::Acquire(request) if calls.fetch_add(1, Ordering::SeqCst) == 2 => {
            Reaction::Answer(grant(request, 1))
        }
        _ => error(ErrorCode::Busy),
    })
    .await;
    let client = client(&[&fake.endpoint()], LONG);
    client.acquire("n").await.unwrap();
    let ids: Vec<_> = acquires(&fake).into_iter().map(|request| request.request_id).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(client.release("n", 9).await.unwrap_err().is_fenced());
    assert_eq!(fake.seen().len(), 4);
}

#[tokio::test]
async fn bad_input_is_refused_here() {
    let client = client(&["127.0.0.1:1"], LONG);
    assert!(client.acquire("").await.unwrap_err().is_invalid());
    assert!(
        client
            .acquire(AcquireOptions::new("n").ttl(Duration::from_millis(99)))
            .await
            .unwrap_err()
            .is_invalid()
    );
    assert!(
        client
            .acquire(AcquireOptions::new("n").ttl(Duration::ZERO))
            .await
            .unwrap_err()
            .is_invalid()
    );
    assert!(client.release("n", 0).await.unwrap_err().is_invalid());
    assert!(client.break_lock("n", 1, " ", "me").await.unwrap_err().is_invalid());
    assert!(
        Client::connect(["nonsense"])
            .check("n", Consistency::Stale)
            .await
            .unwrap_err()
            .is_invalid()
    );
}

/// Answers a cancel with a grant that came too late. Acquires get no answer.
fn waiting_room(op: &Op) -> Reaction {
    match op {
        Op::CancelWait(request) => {
            let late = AcquireRequest { name: request.name.clone(), ..Default::default() };
            let late = grant(&late, 5).into_grant().expect("a grant");
            Reaction::Answer(Answer::CancelWait(CancelWaitResponse {
                cancelled: false,
                grant: Some(late),
            }))
        }
        Op::Release(_) => Reaction::Answer(Answer::Release(ReleaseResponse::default())),
        _ => Reaction::Silence,
    }
}

#[tokio::test]
async fn an_acquire_that_nobody_waits_for_any_more_leaves_the_queue_and_lets_go() {
    let fake = Fake::start(waiting_room).await;
    let client = client(&[&fake.endpoint()], LONG);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.acquire(AcquireOptions::new("n").wait(LONG)).await }
    });
    fake.until_seen(1, |op| matches!(op, Op::Acquire(_))).await;
    waiting.abort();
    fake.until_seen(1, |op| matches!(op, Op::CancelWait(_))).await;
    fake.until_seen(1, |op| matches!(op, Op::Release(request) if request.fencing_token == 5)).await;
    let id = acquires(&fake)[0].request_id.clone();
    assert!(
        fake.seen()
            .iter()
            .any(|op| matches!(op, Op::CancelWait(request) if request.request_id == id))
    );
}

#[tokio::test]
async fn an_acquire_with_an_id_of_the_callers_is_left_to_the_caller() {
    let fake = Fake::start(waiting_room).await;
    let client = client(&[&fake.endpoint()], Duration::from_millis(100));
    let unknown = client.acquire(AcquireOptions::new("n").request_id([4; 16])).await.unwrap_err();
    assert!(unknown.is_outcome_unknown());
    // The caller cancels by itself. Operations arrive in order, so a cancel of the client's own
    // would have come before.
    let cancelled = client.cancel_wait("n", [4; 16]).await.unwrap();
    assert_eq!(cancelled.grant.unwrap().fencing_token, 5);
    let cancels = fake.seen().iter().filter(|op| matches!(op, Op::CancelWait(_))).count();
    assert_eq!(cancels, 1);
}

#[tokio::test]
async fn unary_mode_gives_the_same_answers_and_errors() {
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 7)),
        Op::Renew(_) => Reaction::Answer(Answer::Error(wire::v1::Error::not_owner("gone", 8))),
        _ => Reaction::Silence,
    })
    .await;
    let options = ClientOptions::new().timeout(Duration::from_millis(500)).unary(true);
    let client = Client::with_options([fake.endpoint()], options);
    assert_eq!(client.acquire("n").await.unwrap().fencing_token, 7);
    let fenced = client.renew("n", 7).await.unwrap_err();
    assert_eq!(
        (fenced.code, fenced.current_token, fenced.message.as_str()),
        (ErrorCode::NotOwner, Some(8), "gone")
    );
    assert!(client.release("n", 7).await.unwrap_err().is_outcome_unknown());
    assert_eq!(fake.streams(), 0);

    let down = Client::with_options(
        [nobody().await],
        ClientOptions::new().timeout(Duration::from_millis(100)).unary(true),
    );
    assert_eq!(down.acquire("n").await.unwrap_err().code, ErrorCode::NoLeader);
}

#[tokio::test]
async fn what_is_no_operation_of_the_stream_fails_over_too() {
    let fake = Fake::start(|_| Reaction::Silence).await;
    let client = client(&[&nobody().await, &fake.endpoint()], LONG);
    assert_eq!(client.cluster_status().await.unwrap().cluster, "fake");
    let opened = client.open_session_raw(Default::default()).await.unwrap();
    assert_eq!(opened.session_id, "s-1");
}
