//! The multiplexer against a small server: packing, loss of the stream, refusals, deadlines.

#[path = "../../client/tests/client/fake/mod.rs"]
mod fake;

use fake::{Fake, Reaction, grant, nobody};
use futures_util::future::join_all;
use net::dial::Target;
use palisade_link::mux::{Failure, Link, LinkOptions, Locks};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::{AcquireRequest, Operation};

fn link(address: &str) -> Link<Locks> {
    link_with(address, LinkOptions::default())
}

fn link_with(address: &str, options: LinkOptions) -> Link<Locks> {
    Link::start(Target::plain(address).unwrap(), options)
}

fn acquire(name: &str) -> Operation {
    Operation::of(Op::Acquire(AcquireRequest { name: name.into(), ..Default::default() }))
}

fn granting(op: &Op) -> Reaction {
    match op {
        Op::Acquire(request) => Reaction::Answer(grant(request, 1)),
        _ => Reaction::Silence,
    }
}

#[tokio::test]
async fn many_operations_share_few_frames_and_each_gets_its_own_answer() {
    let fake = Fake::start(granting).await;
    let link = link(&fake.endpoint());
    let names: Vec<String> = (0..2_000).map(|n| format!("name-{n}")).collect();
    let answers = join_all(names.iter().map(|name| link.call(acquire(name), 60_000))).await;
    for (name, answer) in names.iter().zip(answers) {
        let grant = answer.expect("an answer").into_grant().expect("a grant");
        assert_eq!(&grant.resource_name, name);
    }
    let frames = fake.frames();
    assert_eq!(frames.iter().sum::<usize>(), 2_000);
    assert!(frames.len() <= 200, "{} frames for 2,000 operations", frames.len());
    assert_eq!(fake.streams(), 1);
    assert!(link.is_connected());
}

/// Regression: the runtime ran the link right after the first task that submitted an operation, so
/// frames of single calls held one operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn operations_of_tasks_that_are_ready_together_share_a_frame() {
    let fake = Fake::start(granting).await;
    let link = link(&fake.endpoint());
    link.call(acquire("connects"), 60_000).await.expect("an answer");
    // The tasks begin together, on the worker.
    let all = tokio::spawn(async move {
        let one = |n| {
            let link = link.clone();
            tokio::spawn(async move { link.call(acquire(&format!("name-{n}")), 60_000).await })
        };
        join_all((0..64).map(one).collect::<Vec<_>>()).await
    });
    let answers = all.await.expect("no panic");
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Ok(_)))), "{answers:?}");
    assert_eq!(fake.frames(), [1, 64]);
}

#[tokio::test]
async fn a_frame_stays_below_its_size() {
    let fake = Fake::start(granting).await;
    let link =
        link_with(&fake.endpoint(), LinkOptions { frame_bytes: 1_000, ..LinkOptions::default() });
    let name = "n".repeat(300);
    let answers = join_all((0..20).map(|_| link.call(acquire(&name), 60_000))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(fake.frames().iter().all(|count| *count <= 3), "{:?}", fake.frames());
}

/// Regression: while nobody answered, what did not fit the first frame was not sent.
#[tokio::test]
async fn all_frames_go_though_nobody_answers() {
    let fake = Fake::start(|_| Reaction::Silence).await;
    let link =
        link_with(&fake.endpoint(), LinkOptions { frame_bytes: 1_000, ..LinkOptions::default() });
    let name = "n".repeat(300);
    let all = join_all((0..20).map(|_| link.call(acquire(&name), 60_000)));
    let seen = tokio::time::timeout(Duration::from_secs(20), fake.until_seen(20, |_| true));
    tokio::select! {
        _ = all => unreachable!("nobody answers"),
        seen = seen => seen.expect("all are sent"),
    }
}

#[tokio::test]
async fn a_dead_stream_leaves_doubt_about_what_was_sent_and_the_next_operation_connects_anew() {
    static ALIVE: AtomicBool = AtomicBool::new(false);
    let fake = Fake::start(|op| match op {
        Op::Acquire(request) if request.name == "kill" => Reaction::Hangup,
        op if ALIVE.load(Ordering::SeqCst) => granting(op),
        _ => Reaction::Silence,
    })
    .await;
    let link = link(&fake.endpoint());
    let (silent, killed) = tokio::join!(link.call(acquire("silent"), 60_000), async {
        fake.until_seen(1, |_| true).await;
        link.call(acquire("kill"), 60_000).await
    });
    assert!(matches!(silent, Err(Failure::Lost(_))), "{silent:?}");
    assert!(matches!(killed, Err(Failure::Lost(_))), "{killed:?}");
    ALIVE.store(true, Ordering::SeqCst);
    let again = link.call(acquire("again"), 60_000).await;
    assert!(again.is_ok(), "{again:?}");
    assert_eq!(fake.streams(), 2);
}

#[tokio::test]
async fn what_finds_no_server_was_not_sent() {
    let address = nobody().await;
    for eager in [false, true] {
        let link = link_with(&address, LinkOptions { eager, ..LinkOptions::default() });
        let outcome = link.call(acquire("n"), 60_000).await;
        assert!(matches!(outcome, Err(Failure::NotSent(_))), "{outcome:?}");
        assert!(!link.is_connected());
    }
}

#[tokio::test]
async fn an_operation_ends_with_its_time() {
    let fake = Fake::start(|_| Reaction::Silence).await;
    let link = link(&fake.endpoint());
    let outcome = link.call(acquire("n"), 300).await;
    assert!(matches!(outcome, Err(Failure::Lost(_))), "{outcome:?}");
    assert!(fake.operations()[0].timeout_ms <= 270, "told less than what we wait");
}

#[tokio::test]
async fn a_full_queue_refuses() {
    // The kernel accepts connections here, but no byte is ever sent.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = LinkOptions { queue_ops_max: 4, ..LinkOptions::default() };
    let link = link_with(&deaf.local_addr().unwrap().to_string(), options);
    let outcomes = join_all((0..50).map(|_| link.call(acquire("n"), 300))).await;
    let full = |outcome: &&Result<_, Failure>| matches!(outcome, Err(Failure::NotSent(why)) if why.contains("too many"));
    let refused = outcomes.iter().filter(full).count();
    assert!(
        (42..50).contains(&refused),
        "{refused} of 50 refused with room for 4 in the queue and 4 on the way there"
    );
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, Err(Failure::NotSent(_)))),
        "nothing was sent"
    );
}
