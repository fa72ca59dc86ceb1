//! The queue and slab by themselves; links against a small server are tested in `tests/mux.rs`.

use super::pending::told_ms;
use super::*;
use wire::v1::operation::Op;
use wire::v1::{AcquireRequest, CheckRequest, CheckResponse, Operation};

type Pending = super::pending::Pending<Locks>;
type Waiting = oneshot::Receiver<Result<Answer, Failure>>;

fn submit(pending: &mut Pending, name: &str, deadline: Instant) -> Waiting {
    let (reply, waiting) = oneshot::channel();
    let operation =
        Operation::of(Op::Check(CheckRequest { name: name.into(), ..Default::default() }));
    pending.push(Submission { operation, deadline, reply: Reply::Once(reply) });
    waiting
}

fn answer() -> Outcome<Answer> {
    Ok(Answer::Check(CheckResponse::default()))
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

#[test]
fn everything_that_waits_goes_in_one_frame_up_to_its_size() {
    let mut pending = Pending::default();
    let _waiting: Vec<Waiting> =
        (0..10).map(|_| submit(&mut pending, &"n".repeat(100), later())).collect();
    let now = Instant::now();
    let all = pending.pack(now, 1, 1 << 20).unwrap();
    assert_eq!((all.operations.len(), pending.in_flight(), pending.queued()), (10, 10, 0));
    assert!(pending.pack(now, 1, 1 << 20).is_none());

    let _more: Vec<Waiting> =
        (0..10).map(|_| submit(&mut pending, &"n".repeat(100), later())).collect();
    let some = pending.pack(now, 1, 300).unwrap().operations.len();
    assert!((1..10).contains(&some), "{some}");
    assert_eq!(
        pending.pack(now, 1, 1).unwrap().operations.len(),
        1,
        "one that is larger than a frame goes alone"
    );
}

#[test]
fn a_late_result_never_meets_a_later_operation() {
    let mut pending = Pending::default();
    let now = Instant::now();
    let mut first = submit(&mut pending, "a", now + Duration::from_millis(1));
    let old = pending.pack(now, 1, 1 << 20).unwrap().operations[0].id;
    pending.expire(now + Duration::from_millis(1));
    assert!(matches!(first.try_recv(), Ok(Err(Failure::Lost(_)))));

    let mut second = submit(&mut pending, "b", later());
    let new = pending.pack(now, 1, 1 << 20).unwrap().operations[0].id;
    assert_eq!(old as u32, new as u32, "the same place");
    pending.settle(old, answer());
    assert!(second.try_recv().is_err(), "not its result");
    pending.settle(new, answer());
    assert!(matches!(second.try_recv(), Ok(Ok(_))));
    pending.settle(new, answer());
    pending.settle(u64::MAX, answer());
    assert_eq!(pending.in_flight(), 0);
}

#[test]
fn what_was_sent_is_in_doubt_and_what_was_not_is_not() {
    let mut pending = Pending::default();
    let mut sent = submit(&mut pending, "a", later());
    pending.pack(Instant::now(), 1, 1 << 20).unwrap();
    let mut queued = submit(&mut pending, "b", later());
    pending.fail_all("cut");
    assert_eq!(sent.try_recv().unwrap().unwrap_err(), Failure::Lost("cut".into()));
    assert_eq!(queued.try_recv().unwrap().unwrap_err(), Failure::NotSent("cut".into()));
    assert_eq!((pending.in_flight(), pending.queued(), pending.soonest()), (0, 0, None));
}

#[test]
fn deadlines_hold_in_the_queue_too() {
    let mut pending = Pending::default();
    let now = Instant::now();
    let mut early = submit(&mut pending, "a", now + Duration::from_millis(10));
    let mut late = submit(&mut pending, "b", now + Duration::from_millis(20));
    assert_eq!(pending.soonest(), Some(now + Duration::from_millis(10)));
    pending.expire(now + Duration::from_millis(10));
    assert!(matches!(early.try_recv(), Ok(Err(Failure::NotSent(_)))));
    assert!(late.try_recv().is_err());
    assert_eq!((pending.queued(), pending.soonest()), (1, Some(now + Duration::from_millis(20))));
    assert!(
        pending.pack(now + Duration::from_millis(20), 1, 1 << 20).is_none(),
        "too late to send"
    );
    assert!(matches!(late.try_recv(), Ok(Err(Failure::NotSent(_)))));
}

#[test]
fn what_nobody_waits_for_any_more_is_not_sent() {
    let mut pending = Pending::default();
    drop(submit(&mut pending, "a", later()));
    assert!(pending.pack(Instant::now(), 1, 1 << 20).is_none());
}

#[test]
fn the_server_is_told_less_than_we_wait() {
    assert_eq!(
        [1, 10, 500, 5_000].map(|ms| told_ms(Duration::from_millis(ms))),
        [1, 9, 450, 4_900]
    );
}

/// An operation that was sent late was carried out long after its sender had given it up.
#[test]
fn time_in_the_queue_is_part_of_what_the_server_is_told() {
    let mut pending = Pending::default();
    let now = Instant::now();
    let _plain = submit(&mut pending, "a", now + Duration::from_millis(5_000));
    let (reply, _waiting) = oneshot::channel();
    let acquire = AcquireRequest { name: "b".into(), wait_ms: 60_000, ..Default::default() };
    let deadline = now + Duration::from_millis(65_000);
    pending.push(Submission {
        operation: Operation::of(Op::Acquire(acquire)),
        deadline,
        reply: Reply::Once(reply),
    });
    let frame = pending.pack(now + Duration::from_millis(2_000), 2_001, 1 << 20).unwrap();
    assert_eq!(frame.sent_ms, 2_001);
    let told: Vec<u32> = frame.operations.iter().map(|operation| operation.timeout_ms).collect();
    assert_eq!(told, [2_900, 2_900], "2 s went by in the queue");
}
