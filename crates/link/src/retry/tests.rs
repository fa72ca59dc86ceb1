//! The rules of trying again, as a table and under random failures.

use super::*;
use proptest::prelude::*;

const NODES: [u64; 3] = [1, 2, 3];

fn policy(kind: OperationKind) -> Policy {
    Policy {
        kind,
        timeout_ms: 5_000,
        wait_ms: 0,
        first_try_timeout_ms: 1_000,
        retry_busy: true,
        targets_retry: false,
    }
}

fn started(kind: OperationKind) -> Tries {
    let mut retry = Tries::new(policy(kind), 0, 1);
    assert_eq!(
        retry.start_or_resume(0),
        Decision::Send(Try { target: 1, timeout_ms: 1_000, wait_ms: 0 })
    );
    retry
}

fn sent_to(decision: &Decision) -> Option<u64> {
    match decision {
        Decision::Send(next) => Some(next.target),
        _ => None,
    }
}

fn code(decision: &Decision) -> Option<ErrorCode> {
    match decision {
        Decision::GiveUp(error) => Some(error.code()),
        _ => None,
    }
}

/// Regression: a wait that its gateway gave up at its end, and that met no leader after that, was
/// reported as not done, and could be granted yet.
#[test]
fn a_wait_that_a_gateway_leaves_in_its_queue_is_in_doubt() {
    let ending = Error::new(ErrorCode::ShuttingDown, "so");
    let waits = Policy { wait_ms: 1_000, targets_retry: true, ..policy(OperationKind::Acquire) };
    for (policy, in_doubt) in [
        (waits, true),
        (Policy { wait_ms: 0, ..waits }, false),
        (Policy { targets_retry: false, ..waits }, false),
    ] {
        let mut retry = Tries::new(policy, 0, 1);
        retry.start_or_resume(0);
        let next = retry.after_failure(10, 0.5, TryFailure::Refused(&ending), &NODES);
        assert_eq!(sent_to(&next), Some(2), "{policy:?}");
        assert_eq!(retry.in_doubt(), in_doubt, "{policy:?}");
    }
}

#[test]
fn one_answer_at_a_time() {
    use OperationKind::*;
    enum Then {
        Sends(u64),
        Pauses,
        Ends(ErrorCode),
    }
    use Then::*;
    for (case, leader, then) in [
        ("a hint is followed at once", Some(3), Some(3)),
        ("no hint: another, after a pause", None, None),
        ("a hint to itself is none", Some(1), None),
        ("a hint to a stranger is none", Some(99), None),
    ] {
        let decision = started(Acquire).after_failure(
            10,
            0.5,
            TryFailure::NotLeader { leader, why: "so" },
            &NODES,
        );
        assert_eq!(sent_to(&decision), then, "{case}");
        assert!(
            then.is_some() || matches!(decision, Decision::RetryAfter { ms: 10..=100 }),
            "{case}: {decision:?}"
        );
    }
    let stale = started(Renew).after_failure(10, 0.5, TryFailure::StaleRoute("so"), &NODES);
    assert!(matches!(stale, Decision::RetryAfter { ms: 10..=100 }), "{stale:?}");
    let answer = |code| Error::new(code, "so");
    let table: [(&str, OperationKind, Error, Then); 10] = [
        ("no leader", Renew, answer(ErrorCode::NoLeader), Pauses),
        ("shutting down", Release, answer(ErrorCode::ShuttingDown), Sends(2)),
        ("busy", Acquire, answer(ErrorCode::Busy), Pauses),
        ("unknown", Acquire, answer(ErrorCode::OutcomeUnknown), Pauses),
        ("held", Acquire, answer(ErrorCode::Held), Ends(ErrorCode::Held)),
        ("wait over", Acquire, answer(ErrorCode::WaitTimeout), Ends(ErrorCode::WaitTimeout)),
        ("fenced", Renew, answer(ErrorCode::NotOwner), Ends(ErrorCode::NotOwner)),
        ("session lost", Heartbeat, answer(ErrorCode::SessionLost), Ends(ErrorCode::SessionLost)),
        ("bad input", Break, answer(ErrorCode::InvalidArgument), Ends(ErrorCode::InvalidArgument)),
        ("internal", Check, answer(ErrorCode::Internal), Ends(ErrorCode::Internal)),
    ];
    for (case, kind, error, then) in table {
        let decision = started(kind).after_failure(10, 0.5, TryFailure::Refused(&error), &NODES);
        match then {
            Sends(node) => assert_eq!(sent_to(&decision), Some(node), "{case}"),
            Pauses => assert!(
                matches!(decision, Decision::RetryAfter { ms: 10..=100 }),
                "{case}: {decision:?}"
            ),
            Ends(with) => assert_eq!(code(&decision), Some(with), "{case}"),
        }
    }
}

#[test]
fn hops_are_bounded() {
    let mut retry = started(OperationKind::Acquire);
    let mut at = 1;
    let mut hops = 0;
    loop {
        let to = at % 3 + 1;
        let hint = TryFailure::NotLeader { leader: Some(to), why: "round and round" };
        match retry.after_failure(1, 0.0, hint, &NODES) {
            Decision::Send(next) => {
                assert_eq!(next.target, to);
                at = to;
                hops += 1;
            }
            Decision::RetryAfter { .. } => break,
            other => panic!("{other:?}"),
        }
        assert!(hops <= HOPS_MAX, "it goes round for ever");
    }
    assert_eq!(hops, HOPS_MAX);
}

#[test]
fn what_was_not_sent_goes_elsewhere_at_once_and_then_pauses() {
    let mut retry = started(OperationKind::Acquire);
    assert_eq!(
        sent_to(&retry.after_failure(0, 0.0, TryFailure::NotSent("refused"), &NODES)),
        Some(2)
    );
    assert_eq!(
        sent_to(&retry.after_failure(0, 0.0, TryFailure::NotSent("refused"), &NODES)),
        Some(3)
    );
    assert_eq!(
        retry.after_failure(0, 0.0, TryFailure::NotSent("refused"), &NODES),
        Decision::RetryAfter { ms: 10 }
    );
    assert_eq!(sent_to(&retry.start_or_resume(10)), Some(1));
    assert!(!retry.in_doubt());
    let end = retry.after_failure(4_995, 0.0, TryFailure::NotSent("refused"), &[1]);
    assert_eq!(code(&end), Some(ErrorCode::NoLeader));
}

/// A call that failed for its five seconds made 372 tries. Many such calls at once kept servers
/// from starting.
#[test]
fn one_failing_call_makes_tens_of_tries() {
    let no_leader = Error::no_leader("no quorum");
    let failures = [
        TryFailure::NotSent("refused"),
        TryFailure::Lost("reset"),
        TryFailure::Refused(&no_leader),
    ];
    for (timeout_ms, jitter) in [(1_000, 0.0), (5_000, 0.0), (5_000, 1.0), (60_000, 0.0)] {
        for failure in failures {
            let mut retry =
                Tries::new(Policy { timeout_ms, ..policy(OperationKind::Acquire) }, 0, 1);
            let (mut now_ms, mut decision) = (0, retry.start_or_resume(0));
            loop {
                decision = match decision {
                    Decision::Send(_) => {
                        retry.after_failure(now_ms, jitter, failure, &[1, 2, 3, 4, 5])
                    }
                    Decision::RetryAfter { ms } => {
                        now_ms += ms;
                        retry.start_or_resume(now_ms)
                    }
                    Decision::GiveUp(_) => break,
                };
            }
            let tries = retry.tries();
            assert!((5..150).contains(&tries), "{tries} tries in {timeout_ms} ms of {failure:?}");
            assert!(
                timeout_ms > 5_000 || tries < 60,
                "{tries} tries in {timeout_ms} ms of {failure:?}"
            );
        }
    }
}

#[test]
fn who_could_not_be_reached_is_said() {
    let mut alone = started(OperationKind::Acquire);
    let Decision::GiveUp(error) =
        alone.after_failure(4_999, 0.0, TryFailure::NotSent("node 1 at a:1 refused"), &[1])
    else {
        panic!()
    };
    assert!(
        error.message.contains("no server could be reached") && error.message.contains("a:1"),
        "{error}"
    );
    let mut retry = started(OperationKind::Acquire);
    retry.after_failure(1, 0.0, TryFailure::NotSent("node 1 at a:1 refused"), &NODES);
    let no_leader = Error::no_leader("no quorum");
    let Decision::GiveUp(error) =
        retry.after_failure(4_999, 0.0, TryFailure::Refused(&no_leader), &NODES)
    else {
        panic!()
    };
    assert!(error.message.contains("no quorum; node 1 at a:1 refused"), "{error}");
}

#[test]
fn a_hint_to_a_leader_that_just_fell_silent_waits_for_the_election() {
    let mut retry = started(OperationKind::Acquire);
    assert_eq!(sent_to(&retry.after_failure(0, 0.0, TryFailure::Lost("reset"), &NODES)), Some(2));
    let hint = TryFailure::NotLeader { leader: Some(1), why: "still believes" };
    assert!(matches!(retry.after_failure(0, 0.0, hint, &NODES), Decision::RetryAfter { .. }));
    assert_eq!(sent_to(&retry.start_or_resume(10)), Some(3));
}

#[test]
fn hints_to_a_leader_that_hung_are_not_followed_until_an_election_had_its_time() {
    let mut retry = started(OperationKind::Acquire);
    let mut now = 1_000;
    let mut decision = retry.after_failure(now, 0.5, TryFailure::Lost("no answer in time"), &NODES);
    let hint = TryFailure::NotLeader { leader: Some(1), why: "still believes" };
    while now < 1_900 {
        decision = match decision {
            Decision::Send(next) => {
                assert_ne!(next.target, 1, "at {now} ms");
                retry.after_failure(now, 0.5, hint, &NODES)
            }
            Decision::RetryAfter { ms } => {
                now += ms;
                retry.start_or_resume(now)
            }
            other => panic!("{other:?}"),
        };
    }
    // The target may have been slow, and may still lead.
    now = 2_100;
    assert_eq!(sent_to(&retry.after_failure(now, 0.5, hint, &NODES)), Some(1));
}

#[test]
fn a_wait_that_ends_in_doubt_may_live_on_in_an_earlier_try() {
    let cancelled = Error::new(ErrorCode::WaitCancelled, "another took its place");
    for targets_retry in [false, true] {
        let policy = Policy { wait_ms: 60_000, targets_retry, ..policy(OperationKind::Acquire) };
        let mut retry = Tries::new(policy, 0, 1);
        assert_eq!(sent_to(&retry.start_or_resume(0)), Some(1));
        assert_eq!(
            sent_to(&retry.after_failure(0, 0.5, TryFailure::Lost("reset"), &NODES)),
            Some(2)
        );
        let decision = retry.after_failure(5, 0.5, TryFailure::Refused(&cancelled), &NODES);
        match targets_retry {
            true => assert!(matches!(decision, Decision::RetryAfter { .. }), "{decision:?}"),
            false => assert_eq!(code(&decision), Some(ErrorCode::OutcomeUnknown)),
        }
    }
}

/// A wait that its own client had cancelled was retried again and again until the wait was over.
#[test]
fn a_wait_that_was_cancelled_for_good_is_not_asked_for_until_its_end() {
    let cancelled = Error::new(ErrorCode::WaitCancelled, "cancelled");
    let policy =
        Policy { wait_ms: 3_600_000, targets_retry: true, ..policy(OperationKind::Acquire) };
    let mut retry = Tries::new(policy, 0, 1);
    retry.start_or_resume(0);
    let mut decision = retry.after_failure(0, 0.5, TryFailure::Lost("reset"), &NODES);
    for now_ms in (0..).step_by(100).take(5) {
        decision = match decision {
            Decision::Send(_) => {
                retry.after_failure(now_ms, 0.5, TryFailure::Refused(&cancelled), &NODES)
            }
            Decision::RetryAfter { .. } => retry.start_or_resume(now_ms),
            Decision::GiveUp(_) => break,
        };
    }
    assert_eq!(code(&decision), Some(ErrorCode::OutcomeUnknown), "{decision:?}");
}

#[test]
fn a_lost_answer_leaves_doubt_for_writes_and_none_for_reads() {
    for (kind, expected) in [
        (OperationKind::Acquire, ErrorCode::OutcomeUnknown),
        (OperationKind::Renew, ErrorCode::OutcomeUnknown),
        (OperationKind::Release, ErrorCode::OutcomeUnknown),
        (OperationKind::Heartbeat, ErrorCode::OutcomeUnknown),
        (OperationKind::Check, ErrorCode::NoLeader),
        (OperationKind::History, ErrorCode::NoLeader),
    ] {
        let mut retry = started(kind);
        assert_eq!(
            sent_to(&retry.after_failure(1_000, 0.0, TryFailure::Lost("reset"), &NODES)),
            Some(2)
        );
        let end = retry.after_failure(
            4_999,
            0.0,
            TryFailure::Refused(&Error::no_leader("no quorum")),
            &NODES,
        );
        assert_eq!(code(&end), Some(expected), "{kind:?}");
        let Decision::GiveUp(error) = end else { unreachable!() };
        assert!(
            error.message.contains("no quorum") && error.message.contains("4999 ms"),
            "{}",
            error.message
        );
    }
}

#[test]
fn a_break_that_may_have_worked_is_not_reported_as_refused() {
    let gone = Error::not_owner("not any more", 9);
    let mut retry = started(OperationKind::Break);
    assert_eq!(
        code(&retry.clone().after_failure(1, 0.0, TryFailure::Refused(&gone), &NODES)),
        Some(ErrorCode::NotOwner)
    );
    retry.after_failure(1, 0.0, TryFailure::Lost("reset"), &NODES);
    let Decision::GiveUp(error) = retry.after_failure(2, 0.0, TryFailure::Refused(&gone), &NODES)
    else {
        panic!()
    };
    assert_eq!((error.code(), error.current_token), (ErrorCode::OutcomeUnknown, 9));
}

#[test]
fn busy_is_passed_on_where_someone_behind_tries_again() {
    let mut retry =
        Tries::new(Policy { retry_busy: false, ..policy(OperationKind::Acquire) }, 0, 1);
    retry.start_or_resume(0);
    assert_eq!(
        code(&retry.after_failure(1, 0.0, TryFailure::Refused(&Error::busy("full", 5)), &NODES)),
        Some(ErrorCode::Busy)
    );
    let mut patient = started(OperationKind::Acquire);
    let asked = Error::busy("full", 400);
    assert_eq!(
        patient.after_failure(1, 1.0, TryFailure::Refused(&asked), &NODES),
        Decision::RetryAfter { ms: 400 }
    );
    assert_eq!(sent_to(&patient.start_or_resume(401)), Some(1), "the same one");
}

#[test]
fn relays_have_tried_already_so_each_is_asked_once() {
    let targets_retry = Policy { targets_retry: true, ..policy(OperationKind::Acquire) };
    let refused = Error::no_leader("no quorum, and I tried for long");
    let mut retry = Tries::new(targets_retry, 0, 1);
    retry.start_or_resume(0);
    assert_eq!(
        retry.after_failure(1, 0.0, TryFailure::Refused(&refused), &[1]),
        Decision::GiveUp(Box::new(refused.clone()))
    );

    let mut retry = Tries::new(targets_retry, 0, 1);
    retry.start_or_resume(0);
    assert_eq!(
        retry.after_failure(1, 0.0, TryFailure::Refused(&refused), &[1, 2]),
        Decision::RetryAfter { ms: 10 }
    );
    assert_eq!(sent_to(&retry.start_or_resume(11)), Some(2));
    assert_eq!(
        code(&retry.after_failure(12, 0.0, TryFailure::Refused(&refused), &[1, 2])),
        Some(ErrorCode::NoLeader)
    );

    let mut in_doubt = Tries::new(targets_retry, 0, 1);
    in_doubt.start_or_resume(0);
    assert_eq!(
        sent_to(&in_doubt.after_failure(1, 0.0, TryFailure::Lost("reset"), &[1, 2])),
        Some(2)
    );
    assert_eq!(
        code(&in_doubt.after_failure(2, 0.0, TryFailure::Refused(&refused), &[1, 2])),
        Some(ErrorCode::OutcomeUnknown)
    );
}

#[test]
fn a_waiting_acquire_is_sent_again_with_what_is_left_of_its_wait() {
    let waiting = Policy { wait_ms: 10_000, ..policy(OperationKind::Acquire) };
    let mut retry = Tries::new(waiting, 100, 1);
    assert_eq!(retry.deadline_ms(), 15_100);
    assert_eq!(
        retry.start_or_resume(100),
        Decision::Send(Try { target: 1, timeout_ms: 1_000, wait_ms: 10_000 })
    );
    let again = retry.after_failure(4_100, 0.0, TryFailure::Lost("reset"), &NODES);
    assert_eq!(again, Decision::Send(Try { target: 2, timeout_ms: 2_000, wait_ms: 6_000 }));
    let late = retry.after_failure(14_100, 0.0, TryFailure::Lost("reset"), &NODES);
    assert_eq!(late, Decision::Send(Try { target: 3, timeout_ms: 999, wait_ms: 1 }));
}

#[derive(Clone, Debug)]
enum Event {
    Answer(i32),
    NotLeader(Option<u64>),
    StaleRoute,
    NotSent,
    Lost,
}

fn event() -> impl Strategy<Value = Event> {
    let codes = prop::sample::select(vec![1, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 50]);
    prop_oneof![
        3 => codes.prop_map(Event::Answer),
        1 => prop::option::of(1..5u64).prop_map(Event::NotLeader),
        1 => Just(Event::StaleRoute),
        1 => Just(Event::NotSent),
        1 => Just(Event::Lost),
    ]
}

fn kind() -> impl Strategy<Value = OperationKind> {
    prop::sample::select(OperationKind::ALL.to_vec())
}

proptest! {
    /// Nothing is sent at or after the deadline, and tries fit into it. An operation that may have
    /// been done is never reported as "not done".
    #[test]
    fn rules_hold_under_any_failures(
        kind in kind(),
        wait_ms in prop_oneof![Just(0u32), 1..20_000u32],
        timeout_ms in 1..8_000u64,
        retry_busy: bool,
        targets_retry: bool,
        nodes in 1..6u64,
        events in prop::collection::vec((event(), 0..3_000u64, 0.0..1.0f64), 1..80),
    ) {
        let targets: Vec<u64> = (1..=nodes).collect();
        let policy = Policy { kind, timeout_ms, wait_ms, first_try_timeout_ms: 700, retry_busy, targets_retry };
        let mut now_ms = 1_000;
        let deadline_ms = now_ms + timeout_ms + u64::from(wait_ms);
        let mut retry = Tries::new(policy, now_ms, 1);
        prop_assert_eq!(retry.deadline_ms(), deadline_ms);
        let mut decision = retry.start_or_resume(now_ms);
        let mut in_doubt = false;
        let mut sent_in_a_row = 0;
        for (event, passed_ms, jitter) in events {
            if let Decision::RetryAfter { ms } = decision {
                prop_assert!(now_ms + ms < deadline_ms, "a pause beyond the deadline");
                sent_in_a_row = 0;
                now_ms += ms;
                decision = retry.start_or_resume(now_ms);
            }
            let Decision::Send(sent) = decision else { break };
            sent_in_a_row += 1;
            prop_assert!(sent_in_a_row <= 1 + HOPS_MAX, "without a pause for ever");
            prop_assert!(now_ms < deadline_ms, "sent at {} of {}", now_ms, deadline_ms);
            prop_assert!(sent.timeout_ms >= 1 && targets.contains(&sent.target));
            prop_assert!(now_ms + sent.timeout_ms + u64::from(sent.wait_ms) <= deadline_ms + 1);
            prop_assert_eq!(sent.wait_ms > 0, wait_ms > 0);
            now_ms += passed_ms;
            decision = match event {
                Event::NotSent => retry.after_failure(now_ms, jitter, TryFailure::NotSent("refused"), &targets),
                Event::Lost => {
                    in_doubt |= !kind.is_read();
                    retry.after_failure(now_ms, jitter, TryFailure::Lost("reset"), &targets)
                }
                Event::NotLeader(leader) => {
                    retry.after_failure(now_ms, jitter, TryFailure::NotLeader { leader, why: "so" }, &targets)
                }
                Event::StaleRoute => retry.after_failure(now_ms, jitter, TryFailure::StaleRoute("so"), &targets),
                Event::Answer(code) => {
                    // A wait stays in the queue for a while when its gateway ends.
                    let may_be_granted = code == 32 && targets_retry && wait_ms > 0;
                    in_doubt |= (code == 40 || may_be_granted) && !kind.is_read();
                    let error = Error { code, ..Error::default() };
                    retry.after_failure(now_ms, jitter, TryFailure::Refused(&error), &targets)
                }
            };
            prop_assert_eq!(retry.in_doubt(), in_doubt);
            if let Decision::GiveUp(error) = &decision {
                prop_assert!(!(in_doubt && error.class() == ErrorClass::Retry), "in doubt, and told {}", error);
                prop_assert!(in_doubt || error.code() != ErrorCode::OutcomeUnknown || kind.is_read());
            }
        }
    }
}
