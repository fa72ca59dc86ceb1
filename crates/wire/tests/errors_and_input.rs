//! Errors keep all their fields on the way through a status. Only bad input is refused, and with
//! the right words.

use palisade_wire::v1::{operation::Op, *};
use palisade_wire::{ErrorClass, check_name, check_operation, fill_defaults};
use tonic::{Code, Status};

const CODES: [(ErrorCode, Code, ErrorClass); 16] = [
    (ErrorCode::InvalidArgument, Code::InvalidArgument, ErrorClass::FixInput),
    (ErrorCode::VersionMoved, Code::FailedPrecondition, ErrorClass::FixInput),
    (ErrorCode::Held, Code::Aborted, ErrorClass::TryLater),
    (ErrorCode::WaitTimeout, Code::Aborted, ErrorClass::TryLater),
    (ErrorCode::WaitCancelled, Code::Aborted, ErrorClass::TryLater),
    (ErrorCode::NotOwner, Code::FailedPrecondition, ErrorClass::Fenced),
    (ErrorCode::Expired, Code::FailedPrecondition, ErrorClass::Fenced),
    (ErrorCode::SessionLost, Code::FailedPrecondition, ErrorClass::Fenced),
    (ErrorCode::Busy, Code::ResourceExhausted, ErrorClass::Retry),
    (ErrorCode::NoLeader, Code::Unavailable, ErrorClass::Retry),
    (ErrorCode::ShuttingDown, Code::Unavailable, ErrorClass::Retry),
    (ErrorCode::OutcomeUnknown, Code::Unknown, ErrorClass::Unknown),
    (ErrorCode::Unauthenticated, Code::Unauthenticated, ErrorClass::Denied),
    (ErrorCode::PermissionDenied, Code::PermissionDenied, ErrorClass::Denied),
    (ErrorCode::Internal, Code::Internal, ErrorClass::Internal),
    (ErrorCode::Unspecified, Code::Internal, ErrorClass::Internal),
];

#[test]
fn every_code_has_its_class_and_survives_a_status() {
    for (code, status_code, class) in CODES {
        let error = Error {
            current_token: 7,
            holder: "alice".into(),
            retry_after_ms: 40,
            ..Error::new(code, "what to do")
        };
        assert_eq!(error.class(), class, "{code:?}");
        let status = Status::from(error.clone());
        assert_eq!(status.code(), status_code, "{code:?}");
        assert_eq!(status.message(), "what to do");
        let back = Error::from_status(&status);
        assert_eq!(back, (code != ErrorCode::Unspecified).then_some(error), "{code:?}");
    }
    // Every code of the proto stands in the table above.
    let listed = (0..=99).filter(|n| ErrorCode::try_from(*n).is_ok()).count();
    assert_eq!(listed, CODES.len());
}

/// Libraries of other languages read these details.
#[test]
fn details_are_a_google_rpc_status() {
    use tonic_types::StatusExt;
    let held = Status::from(Error::held("bob has it", 41, "bob"));
    let details = held.check_error_details().expect("a google.rpc.Status");
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("HELD", "palisade"));
    assert_eq!(info.metadata.get("current_token").map(String::as_str), Some("41"));
    assert_eq!(info.metadata.get("holder").map(String::as_str), Some("bob"));
    assert!(details.retry_info().is_none(), "nobody knows when it is free");

    let busy = Status::from(Error::busy("full", 1_250));
    let details = busy.check_error_details().expect("a google.rpc.Status");
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    assert_eq!(delay, Some(std::time::Duration::from_millis(1_250)));
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("BUSY"));
}

#[test]
fn statuses_of_grpc_itself_hold_no_typed_error() {
    assert_eq!(Error::from_status(&Status::unavailable("connection reset")), None);
    let garbage = Status::with_details(Code::Unknown, "x", vec![0xff; 9].into());
    assert_eq!(Error::from_status(&garbage), None);
}

#[test]
fn retryable_is_what_was_not_done_or_may_have_been() {
    assert!(Error::busy("full", 10).is_retryable());
    assert!(Error::outcome_unknown("?").is_retryable());
    assert!(!Error::invalid("no").is_retryable());
    assert!(!Error::held("no", 1, "bob").is_retryable());
    assert!(!Error::not_owner("no", 1).is_retryable());
}

#[test]
fn names() {
    for good in ["a", "jobs/nightly", "käse", "{tag}x", &"x".repeat(512)] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in ["", &"x".repeat(513), "a\nb", "a\0", "\u{85}"] {
        assert_eq!(
            check_name(bad).map_err(|e| e.code()),
            Err(ErrorCode::InvalidArgument),
            "{bad:?}"
        );
    }
}

fn acquire(change: impl FnOnce(&mut AcquireRequest)) -> Operation {
    let mut request = AcquireRequest { name: "n".into(), ..Default::default() };
    change(&mut request);
    Operation::of(Op::Acquire(request))
}

#[test]
fn operations() {
    let good = [
        acquire(|_| ()),
        acquire(|r| r.ttl_ms = 100),
        acquire(|r| r.ttl_ms = 86_400_000),
        acquire(|r| r.request_id = vec![1; 16]),
        acquire(|r| (r.mode, r.permit_limit) = (Mode::Semaphore.into(), 3)),
        Operation::of(Op::List(ListRequest { limit: 1000, ..Default::default() })),
    ];
    for operation in &good {
        assert_eq!(check_operation(operation), Ok(()), "{operation:?}");
    }
    let bad = [
        Operation::default(),
        acquire(|r| r.name.clear()),
        acquire(|r| r.ttl_ms = 99),
        acquire(|r| r.ttl_ms = 86_400_001),
        acquire(|r| r.request_id = vec![1; 15]),
        acquire(|r| r.request_id = vec![0; 16]),
        acquire(|r| r.wait_ms = 86_400_001),
        acquire(|r| r.owner = "o".repeat(257)),
        acquire(|r| r.mode = 77),
        acquire(|r| r.permits = 1),
        acquire(|r| r.mode = Mode::Semaphore.into()),
        acquire(|r| (r.mode, r.permits, r.permit_limit) = (Mode::Semaphore.into(), 4, 3)),
        Operation::of(Op::Renew(RenewRequest { name: "n".into(), fencing_token: 0 })),
        Operation::of(Op::Release(ReleaseRequest {
            name: "n".into(),
            fencing_token: 1 << 53,
            session_life: 0,
        })),
        Operation::of(Op::Check(CheckRequest {
            name: "n".into(),
            consistency: 9,
            ..Default::default()
        })),
        Operation::of(Op::Heartbeat(HeartbeatRequest::default())),
        Operation::of(Op::CancelWait(CancelWaitRequest { name: "n".into(), ..Default::default() })),
        Operation::of(Op::BreakLock(BreakLockRequest {
            name: "n".into(),
            fencing_token: 1,
            ..Default::default()
        })),
        Operation::of(Op::Check(CheckRequest {
            name: "n".into(),
            limit: 1001,
            ..Default::default()
        })),
        Operation::of(Op::Check(CheckRequest {
            name: "n".into(),
            after_token: 1 << 53,
            ..Default::default()
        })),
        Operation::of(Op::List(ListRequest { cursor: "user:5".into(), ..Default::default() })),
        Operation::of(Op::History(HistoryRequest { name: "n".into(), limit: 1001 })),
    ];
    for operation in &bad {
        let refused = check_operation(operation).expect_err(&format!("{operation:?}"));
        assert_eq!(refused.code(), ErrorCode::InvalidArgument, "{operation:?}");
        assert!(
            refused.message.contains(':') || refused.message.contains(','),
            "says what to do: {}",
            refused.message
        );
    }
}

#[test]
fn defaults_fill_only_what_was_left_out() {
    let mut op = acquire(|r| r.mode = Mode::Semaphore.into()).op.unwrap();
    fill_defaults(&mut op, || [9; 16]);
    let Op::Acquire(filled) = op else { unreachable!() };
    assert_eq!((filled.ttl_ms, filled.permits, filled.request_id), (30_000, 1, vec![9; 16]));

    let mut op = acquire(|r| (r.ttl_ms, r.request_id) = (500, vec![1; 16])).op.unwrap();
    fill_defaults(&mut op, || unreachable!("it has one"));
    let Op::Acquire(kept) = op else { unreachable!() };
    assert_eq!((kept.ttl_ms, kept.permits, kept.request_id), (500, 0, vec![1; 16]));
}
