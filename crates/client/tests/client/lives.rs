//! The object of a lock shows each event that ends or moves it: breaks, former lives of a session,
//! shorter TTLs, suspends.

use crate::fake::{Fake, Reaction, error, grant};
use palisade_client::clock::SuspendClock;
use palisade_client::{
    AcquireOptions, Client, ClientOptions, ErrorCode, Held, LostReason, Session, SessionOptions,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{
    CloseSessionResponse, HeartbeatRequest, HeartbeatResponse, ReleaseResponse, RenewResponse,
};
use wire::v1::{SessionLease, SessionLeaseState};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3_600);
/// A test that hangs fails after this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shard 0 with one session, as a server keeps it.
#[derive(Debug, Default)]
struct Shard {
    tokens: u64,
    /// The life of the session, or 0 before there is one.
    life: u64,
    /// The life to show with the next grant instead.
    former_life: Option<u64>,
    /// The session of the next grant, if it is not the caller's.
    of_session: Option<String>,
    claim_within_ms: u32,
    ttl_ms: u32,
    /// Whether the session has ended.
    ended: bool,
    broken: Vec<u64>,
    /// Releases fail, and the lock stays held.
    keeps: bool,
    overflow: bool,
    silent: bool,
    /// Answers have no lives, like those of an older gateway.
    old: bool,
    acquires_take: Duration,
}

type Shared = Arc<Mutex<Shard>>;

fn heartbeat(shard: &Shard, request: &HeartbeatRequest) -> HeartbeatResponse {
    if shard.old {
        return HeartbeatResponse { renewed_shards: 1, ..Default::default() };
    }
    let named = request.leases[0];
    assert_eq!((named.shard, request.leases.len()), (0, 1));
    if named.life != shard.life {
        return HeartbeatResponse { lost_shards: vec![0], ..Default::default() };
    }
    let state = SessionLeaseState {
        shard: 0,
        life: shard.life,
        ttl_ms: shard.ttl_ms,
        broken_count: shard.broken.len() as u64,
        broken_tokens: shard.broken[named.broken_seen as usize..].to_vec(),
        broken_overflow: shard.overflow,
    };
    HeartbeatResponse { renewed_shards: 1, leases: vec![state], ..Default::default() }
}

async fn serve(shard: &Shared) -> Fake {
    let shard = shard.clone();
    Fake::start(move |op| {
        let mut shard = shard.lock().unwrap();
        match op {
            Op::Acquire(_) if shard.ended => error(ErrorCode::SessionLost),
            Op::Acquire(request) => {
                shard.tokens += 1;
                if shard.life == 0 {
                    shard.life = shard.tokens;
                }
                let mut granted = grant(request, shard.tokens).into_grant().expect("a grant");
                granted.session_life = shard.former_life.take().unwrap_or(shard.life);
                granted.session_id = shard.of_session.take().unwrap_or(granted.session_id);
                granted.claim_within_ms = shard.claim_within_ms;
                Reaction::Later(shard.acquires_take, Answer::granted(granted))
            }
            Op::Heartbeat(_) | Op::Renew(_) if shard.silent => Reaction::Silence,
            Op::Heartbeat(request) => {
                Reaction::Answer(Answer::Heartbeat(heartbeat(&shard, request)))
            }
            Op::Renew(request) if shard.broken.contains(&request.fencing_token) => {
                error(ErrorCode::NotOwner)
            }
            Op::Renew(_) => Reaction::Answer(Answer::Renew(RenewResponse {
                ttl_ms: shard.ttl_ms,
                ..Default::default()
            })),
            Op::CloseSession(_) => {
                Reaction::Answer(Answer::CloseSession(CloseSessionResponse { released: 1 }))
            }
            Op::Release(request) => {
                let own = request.session_life == shard.life;
                if shard.keeps && own {
                    return error(ErrorCode::NoLeader);
                }
                if !own {
                    shard.broken.push(request.fencing_token);
                }
                Reaction::Answer(Answer::Release(ReleaseResponse::default()))
            }
            other => panic!("{other:?}"),
        }
    })
    .await
}

fn shard() -> Shared {
    Arc::new(Mutex::new(Shard { ttl_ms: LONG.as_millis() as u32, ..Shard::default() }))
}

/// Options that renew ten times a second.
fn options() -> ClientOptions {
    ClientOptions::new().owner("me").renew_interval_max(100 * MS)
}

async fn session(fake: &Fake, options: ClientOptions, ttl: Duration) -> Session {
    let client = Client::with_options([fake.endpoint()], options);
    client.open_session(SessionOptions::new().ttl(ttl)).await.unwrap()
}

fn leases(op: &Op) -> Option<&[SessionLease]> {
    if let Op::Heartbeat(request) = op { Some(&request.leases) } else { None }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

/// Heartbeats named no tokens, so a broken lock stayed valid for as long as its session lived.
#[tokio::test]
async fn a_session_lock_that_is_broken_is_lost_by_the_next_heartbeat() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options(), LONG).await;
    let (broken, other) =
        (session.acquire("a").await.unwrap(), session.acquire("b").await.unwrap());
    shard.lock().unwrap().broken.push(broken.token());
    let reason = within("the break is heard of", broken.lost()).await;
    assert!(matches!(&reason, LostReason::Fenced(why) if why.contains("broken")), "{reason}");
    assert!(!broken.is_valid() && broken.valid_for().is_zero());
    assert!(other.is_valid(), "that was the other's");
    let seen = |op: &Op| leases(op).is_some_and(|leases| leases[0].broken_seen == 1);
    within("what was told is not asked for again", fake.until_seen(1, seen)).await;
    drop(broken);
    assert_eq!(fake.count(|op| matches!(op, Op::Release(_))), 0, "it holds nothing");
}

/// The shard told only how many locks the session had there. A lock that was being released hid the
/// loss of another, which stayed valid for as long as the session lived.
#[tokio::test]
async fn a_session_lock_that_another_releases_is_lost_by_the_next_heartbeat() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options(), LONG).await;
    let (released, other) =
        (session.acquire("a").await.unwrap(), session.acquire("b").await.unwrap());
    shard.lock().unwrap().keeps = true;
    drop(session.acquire("c").await.unwrap());
    within("it is being let go", fake.until_seen(1, |op| matches!(op, Op::Release(_)))).await;
    let operator = Client::with_options([fake.endpoint()], options());
    operator.release("a", released.token()).await.unwrap();
    let reason = within("the release is heard of", released.lost()).await;
    assert!(matches!(&reason, LostReason::Fenced(why) if why.contains("released")), "{reason}");
    assert!(!released.is_valid() && other.is_valid());
    assert_eq!(fake.count(|op| matches!(op, Op::Renew(_))), 0, "the heartbeat said which");
}

#[tokio::test]
async fn whatever_a_session_lets_go_itself_is_let_go_in_the_name_of_its_life() {
    let shard = shard();
    shard.lock().unwrap().life = 7;
    let fake = serve(&shard).await;
    let session = session(&fake, options(), LONG).await;
    let (released, dropped) =
        (session.acquire("a").await.unwrap(), session.acquire("b").await.unwrap());
    let (lost, kept) = (session.acquire("c").await.unwrap(), session.acquire("d").await.unwrap());
    within("it is released", released.release()).await.unwrap();
    drop(dropped);
    // The overflow puts all locks in doubt, so the session releases them.
    shard.lock().unwrap().overflow = true;
    within("it is in doubt", lost.lost()).await;
    within("it is in doubt", kept.lost()).await;
    drop((lost, kept));
    within("all are released", fake.until_seen(4, |op| matches!(op, Op::Release(_)))).await;
    let own = |op: &Op| matches!(op, Op::Release(request) if request.session_life == 7);
    assert_eq!(fake.count(own), 4);
}

/// A lock that was broken between its grant and its first heartbeat was in no list when the answer
/// came.
#[tokio::test]
async fn a_lock_that_is_broken_before_its_grant_arrives_is_not_handed_out() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options(), LONG).await;
    let _first = session.acquire("a").await.unwrap();
    shard.lock().unwrap().acquires_take = 600 * MS;
    let (refused, ()) = within(
        "it is granted, and the beats go on",
        futures_util::future::join(session.acquire("b"), async {
            fake.until_seen(2, |op| matches!(op, Op::Acquire(_))).await;
            shard.lock().unwrap().broken.push(2);
            let seen = |op: &Op| leases(op).is_some_and(|leases| leases[0].broken_seen == 1);
            fake.until_seen(1, seen).await;
        }),
    )
    .await;
    assert!(refused.unwrap_err().is_fenced());
}

#[tokio::test]
async fn more_breaks_than_the_server_remembers_put_all_locks_in_doubt_and_they_are_let_go() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options(), 1_500 * MS).await;
    let (a, b) = (session.acquire("a").await.unwrap(), session.acquire("b").await.unwrap());
    shard.lock().unwrap().overflow = true;
    for lock in [&a, &b] {
        assert!(matches!(within("it is in doubt", lock.lost()).await, LostReason::InDoubt(_)));
    }
    shard.lock().unwrap().overflow = false;
    // The locks are still in the caller's hands, and heartbeats would keep them for ever.
    for token in [a.token(), b.token()] {
        let released =
            |op: &Op| matches!(op, Op::Release(request) if request.fencing_token == token);
        within("it is let go", fake.until_seen(1, released)).await;
    }
}

/// An overflow did not cover locks with grants in flight.
#[tokio::test]
async fn a_grant_that_arrives_after_an_overflow_is_confirmed_by_its_own_renewal() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options(), LONG).await;
    let _first = session.acquire("a").await.unwrap();
    shard.lock().unwrap().acquires_take = 600 * MS;
    let beats = |fake: &Fake| fake.count(|op| leases(op).is_some());
    let (held, ()) = within(
        "it is granted, and the beats go on",
        futures_util::future::join(session.acquire("b"), async {
            fake.until_seen(2, |op| matches!(op, Op::Acquire(_))).await;
            shard.lock().unwrap().overflow = true;
            let before = beats(&fake);
            fake.until_seen(before + 2, |op| leases(op).is_some()).await;
            shard.lock().unwrap().overflow = false;
        }),
    )
    .await;
    assert!(held.unwrap().is_valid());
    assert_eq!(fake.count(|op| matches!(op, Op::Renew(request) if request.fencing_token == 2)), 1);
}

/// The session had one lease per shard for all its lives, so heartbeats revived locks that had
/// ended.
#[tokio::test]
async fn a_session_begun_anew_revives_nothing_of_its_former_life() {
    let shard = shard();
    let fake = serve(&shard).await;
    // The interval is long, so that no heartbeat but only the acquire meets the new life.
    let session = session(&fake, options().renew_interval_max(LONG), LONG).await;
    let old = session.acquire("a").await.unwrap();
    shard.lock().unwrap().life = 2;
    let new = session.acquire("b").await.unwrap();
    assert!(!old.is_valid() && new.is_valid());
    assert!(matches!(old.lost().await, LostReason::Fenced(_)));
    let named: Vec<u64> = fake.seen().iter().filter_map(|op| Some(leases(op)?[0].life)).collect();
    assert_eq!(named, [1, 2], "each life by a heartbeat of its own");
}

#[tokio::test]
async fn a_heartbeat_that_meets_another_life_loses_the_locks_of_the_one_it_named() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options(), LONG).await;
    let old = session.acquire("a").await.unwrap();
    shard.lock().unwrap().life = 7;
    assert!(matches!(within("the life is over", old.lost()).await, LostReason::Fenced(_)));
    assert!(session.shards().is_empty());
}

#[tokio::test]
async fn an_acquire_that_meets_the_end_of_its_session_loses_what_the_session_held() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options().renew_interval_max(LONG), LONG).await;
    let held = session.acquire("a").await.unwrap();
    shard.lock().unwrap().life = 0;
    shard.lock().unwrap().ended = true;
    assert_eq!(session.acquire("b").await.unwrap_err().code, ErrorCode::SessionLost);
    assert!(!held.is_valid());
}

#[tokio::test]
async fn a_grant_of_a_former_life_that_arrives_late_is_not_handed_out() {
    let shard = shard();
    let fake = serve(&shard).await;
    shard.lock().unwrap().life = 5;
    let session = session(&fake, options(), LONG).await;
    let held = session.acquire("a").await.unwrap();
    shard.lock().unwrap().former_life = Some(3);
    assert!(session.acquire("b").await.unwrap_err().is_fenced());
    assert!(held.is_valid());
}

/// One request id was used in two sessions. The second took the life of the first for a later one
/// of its own, and gave up all its locks on that shard.
#[tokio::test]
async fn a_grant_of_another_session_loses_nothing_of_this_one() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options(), LONG).await;
    let held = session.acquire("a").await.unwrap();
    for of_session in ["another", ""] {
        {
            let mut shard = shard.lock().unwrap();
            (shard.former_life, shard.of_session) = (Some(9), Some(of_session.into()));
        }
        let refused =
            session.acquire(AcquireOptions::new("b").request_id([9; 16])).await.unwrap_err();
        assert!(refused.is_invalid(), "{refused}");
        assert!(held.is_valid());
    }
}

/// An older gateway passes no lives on, and renews any life that the session has.
#[tokio::test]
async fn an_answer_that_names_no_life_renews_none() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options(), 600 * MS).await;
    let held = session.acquire("a").await.unwrap();
    shard.lock().unwrap().old = true;
    assert_eq!(within("its time is up", held.lost()).await, LostReason::NotRenewed);
}

#[tokio::test]
async fn the_shorter_ttl_of_the_server_counts() {
    let shard = shard();
    shard.lock().unwrap().ttl_ms = 900;
    let fake = serve(&shard).await;
    let session = session(&fake, options(), LONG).await;
    let held = session.acquire("a").await.unwrap();
    let first = held.valid_for();
    within("heartbeats go on", fake.until_seen(4, |op| leases(op).is_some())).await;
    assert!(first <= 900 * MS && held.valid_for() <= 900 * MS);
    shard.lock().unwrap().silent = true;
    assert_eq!(within("its time is up", held.lost()).await, LostReason::NotRenewed);
}

/// A guard with a TTL of 24 h heard of a break after 8 h.
#[tokio::test]
async fn a_guard_with_a_long_ttl_hears_of_a_break_within_an_interval() {
    let shard = shard();
    let fake = serve(&shard).await;
    let client = Client::with_options([fake.endpoint()], options());
    let guard = client.lock(AcquireOptions::new("a").ttl(24 * LONG)).await.unwrap();
    shard.lock().unwrap().broken.push(guard.token());
    assert!(matches!(within("the break is heard of", guard.lost()).await, LostReason::Fenced(_)));
}

/// The clock of validity stands still while a machine sleeps.
#[tokio::test]
async fn locks_are_lost_by_a_suspend_of_this_machine_and_let_go() {
    let shard = shard();
    let fake = serve(&shard).await;
    let asleep = Arc::new(Mutex::new(Duration::ZERO));
    let clock = SuspendClock::from_fn({
        let asleep = asleep.clone();
        move || *asleep.lock().unwrap()
    });
    let options = ClientOptions::new().owner("me").suspend_clock(clock);
    let client = Client::with_options([fake.endpoint()], options);
    let guard = client.lock(AcquireOptions::new("a").ttl(LONG)).await.unwrap();
    let session = client.open_session(SessionOptions::new().ttl(LONG)).await.unwrap();
    let lock = session.acquire("b").await.unwrap();
    assert!(guard.is_valid() && lock.is_valid());
    *asleep.lock().unwrap() += Duration::from_secs(7);
    assert!(
        !guard.is_valid() && !lock.is_valid() && lock.valid_for().is_zero(),
        "without an answer or a timer"
    );
    let suspended = LostReason::Suspended(Duration::from_secs(7));
    assert_eq!(within("the guard notices", guard.lost()).await, suspended);
    assert_eq!(within("the lock notices", lock.lost()).await, suspended);
    assert!(suspended.to_string().contains("suspended for 7.0 s"), "{suspended}");
    let again = session.acquire("c").await.unwrap();
    assert!(again.is_valid() && !lock.is_valid(), "a new lease, by a new heartbeat");
    let (private, of_session) = (guard.token(), lock.token());
    drop((guard, lock));
    for token in [private, of_session] {
        let released =
            |op: &Op| matches!(op, Op::Release(request) if request.fencing_token == token);
        within("the server may hold it still", fake.until_seen(1, released)).await;
    }
}

#[tokio::test]
async fn a_session_lock_out_of_the_queue_is_claimed_by_a_heartbeat() {
    let shard = shard();
    let fake = serve(&shard).await;
    let session = session(&fake, options().renew_interval_max(LONG), LONG).await;
    let _first = session.acquire("a").await.unwrap();
    shard.lock().unwrap().claim_within_ms = 10_000;
    let _second = session.acquire(AcquireOptions::new("b").wait(LONG)).await.unwrap();
    assert_eq!(fake.count(|op| leases(op).is_some()), 2);
    let claims: Vec<u32> = fake
        .seen()
        .iter()
        .filter_map(
            |op| if let Op::Acquire(request) = op { Some(request.claim_ttl_ms) } else { None },
        )
        .collect();
    assert_eq!(claims, [0, 10_000], "only what may wait needs a claim");
}
