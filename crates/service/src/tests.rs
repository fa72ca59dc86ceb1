//! From operations to requests, and from replies to results.

use crate::plan::{Plan, check};
use crate::refusal::Refused;
use crate::route::route;
use crate::{Caller, Callers, Follow, Request, admit, history, result, stale_route, unanswered};
use locks::{
    Bound, Command, EndKind, Grant, Holdings, LeaseId, Mode, Outcome, Quota, RequestId, Tenure,
    Token,
};
use routing::{MapVersion, NodeId, Replicas, ShardId, ShardMap, Slot};
use shard::{Answer, Input, Query, Reply, Wait};
use wire::OperationKind;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::{
    CancelWait, Heartbeat, NotLeader, Operation, ReadStatus, Route, StaleRoute,
};
use wire::v1::{self, ErrorCode};

const SHARD: ShardId = ShardId(1);
const NODE: NodeId = NodeId(2);

/// Version 3, two shards on nodes 1 and 2.
fn map() -> ShardMap {
    let replicas = Replicas { nodes: vec![NodeId(1), NodeId(2)], preferred_leader: NodeId(1) };
    let shards = [ShardId(0), ShardId(1)].map(|shard| (shard, replicas.clone()));
    ShardMap::even(MapVersion(3), shards.into())
}

/// The plan for the only operation of a frame.
fn plan(operation: Operation) -> Result<Plan, Refused> {
    let mut callers = Callers::default();
    crate::plan::plan(operation.clone(), callers.of(&operation)?)
}

fn acquire() -> v1::AcquireRequest {
    v1::AcquireRequest { name: "a".into(), request_id: vec![1; 16], ..Default::default() }
}

fn held(token: u64) -> Grant {
    Grant {
        name: "a".into(),
        owner: "me".into(),
        principal: "ann".into(),
        token: Token(token),
        mode: Mode::Permits { count: 2, limit: 5 },
        session: "s".into(),
        metadata: "m".into(),
        ttl_ms: 1_000,
        claim_within_ms: 500,
        acquired_wall_ms: 10,
        rest_ms: 700,
        expires_wall_ms: 1_010,
        renewals: 3,
        waited_ms: 4,
        request_id: RequestId(7),
        lease: LeaseId(1),
    }
}

fn ended(token: u64, end: EndKind) -> Tenure {
    let (broken_by, break_reason) = (String::new(), String::new());
    let (grant, broken_by_principal) = (held(token), "root".into());
    Tenure { grant, ended_wall_ms: 99, end, broken_by, break_reason, broken_by_principal }
}

fn unrouted(op: Op) -> Operation {
    Operation { op: Some(op), ..Default::default() }
}

fn refusal(op: Op) -> v1::Error {
    let operation = unrouted(op);
    match *check(&operation).and_then(|()| plan(operation)).expect_err("it was taken") {
        OpResult::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

fn error_of(kind: OperationKind, reply: Reply) -> v1::Error {
    match result(SHARD, NODE, kind, reply) {
        OpResult::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_acquire_is_encoded_with_its_defaults() {
    let op = Op::Acquire(v1::AcquireRequest { wait_ms: 50, owner: "me".into(), ..acquire() });
    let planned = plan(unrouted(op)).unwrap();
    let Request::Propose { command, wait } = planned.request else { panic!("a read") };
    let request_id = RequestId(u128::from_be_bytes([1; 16]));
    assert_eq!(wait, Some(Wait { request_id, wait_ms: 50 }));
    let expected = Command::Acquire {
        request_id,
        name: "a",
        owner: "me",
        ttl_ms: 30_000,
        mode: Mode::Exclusive,
        wait: true,
        session: "",
        metadata: "",
        claim_ttl_ms: 0,
    };
    assert_eq!(Command::decode(&command).unwrap(), expected);
    assert_eq!(planned.follow, Follow::Nothing);
}

#[test]
fn every_change_carries_its_caller_with_its_quota() {
    let name = || "a".to_owned();
    let quota = wire::internal::v1::Quota { locks: 3, sessions: 2, waits: 1 };
    let changes = [
        Op::Acquire(acquire()),
        Op::Renew(v1::RenewRequest { name: name(), fencing_token: 1 }),
        Op::Release(v1::ReleaseRequest { name: name(), fencing_token: 1, session_life: 0 }),
        Op::Heartbeat(Heartbeat { session_id: "s".into(), life: 0, broken_seen: 0 }),
        Op::CloseSession(wire::internal::v1::CloseSession { session_id: "s".into() }),
        Op::CancelWait(CancelWait { name: name(), request_id: vec![1; 16], abandoned: true }),
        Op::BreakLock(v1::BreakLockRequest {
            name: name(),
            fencing_token: 1,
            reason: "stuck".into(),
            broken_by: String::new(),
        }),
    ];
    for op in changes {
        let asked = |principal: &str| Operation {
            principal: principal.into(),
            quota: Some(quota),
            ..unrouted(op.clone())
        };
        for principal in ["ann", ""] {
            let Request::Propose { command, .. } = plan(asked(principal)).unwrap().request else {
                panic!("a read")
            };
            let (caller, _) = Command::decode_as(&command).unwrap();
            // A quota means nothing without an identity.
            let expected = match principal {
                "" => locks::Caller::default(),
                _ => locks::Caller { principal, quota: Quota { locks: 3, sessions: 2, waits: 1 } },
            };
            assert_eq!(caller, expected);
        }
    }
}

#[test]
fn an_identity_at_its_quota_is_told_what_it_has_and_to_come_back() {
    let has = Holdings { locks: 2, sessions: 1, waits: 1 };
    for (bound, quota, told) in [
        (
            Bound::Locks,
            3,
            "identity \"ann\" holds 2 locks and has 1 wait on shard 1, and its quota there is 3: \
             release some locks, or ask for a higher quota",
        ),
        (
            Bound::Sessions,
            1,
            "identity \"ann\" has 1 session on shard 1, and its quota there is 1: close some, or ask \
             for a higher quota",
        ),
        (
            Bound::Waits,
            1,
            "identity \"ann\" has 1 wait on shard 1, and its quota there is 1: cancel some, or ask \
             for a higher quota",
        ),
    ] {
        let outcome = Outcome::OverQuota { principal: "ann".into(), bound, quota, has };
        let error = error_of(OperationKind::Acquire, Reply::Done(outcome));
        assert_eq!((error.code(), error.message.as_str()), (ErrorCode::Busy, told));
        assert!(error.retry_after_ms > 0);
    }
}

#[test]
fn a_heartbeat_names_a_life() {
    let heartbeat = Heartbeat { session_id: "s".into(), life: 7, broken_seen: 3 };
    let Request::Propose { command, .. } =
        plan(unrouted(Op::Heartbeat(heartbeat))).unwrap().request
    else {
        panic!()
    };
    let expected = Command::Heartbeat { session: "s", life: LeaseId(7), broken_seen: 3 };
    assert_eq!(Command::decode(&command).unwrap(), expected);
}

#[test]
fn a_heartbeat_tells_life_ttl_and_breaks() {
    let (life, ttl_ms, broken) = (LeaseId(7), 5_000, vec![Token(9)]);
    let alive =
        locks::SessionAlive { life, ttl_ms, broken_count: 3, broken, broken_overflow: true };
    let reply = Reply::Done(Outcome::HeartbeatOk(alive));
    let OpResult::Heartbeat(told) = result(SHARD, NODE, OperationKind::Heartbeat, reply) else {
        panic!()
    };
    let expected = v1::SessionLeaseState {
        shard: 1,
        life: 7,
        ttl_ms: 5_000,
        broken_count: 3,
        broken_tokens: vec![9],
        broken_overflow: true,
    };
    assert_eq!(told, expected);
}

#[test]
fn a_cancel_is_for_good_unless_a_gateway_lost_its_client() {
    for (abandoned, expected) in [(false, true), (true, false)] {
        let request = CancelWait { name: "a".into(), request_id: vec![1; 16], abandoned };
        let planned = plan(unrouted(Op::CancelWait(request))).unwrap();
        let Request::Propose { command, .. } = planned.request else { panic!("a read") };
        let Command::CancelWait { given_up, .. } = Command::decode(&command).unwrap() else {
            panic!()
        };
        assert_eq!(given_up, expected);
    }
    let reply = Reply::Done(Outcome::CancelledBefore);
    let OpResult::Error(late) = result(SHARD, NODE, OperationKind::Acquire, reply) else {
        panic!()
    };
    assert_eq!(late.code(), ErrorCode::WaitCancelled);
}

#[test]
fn a_semaphore_takes_one_permit_by_default() {
    let op = Op::Acquire(v1::AcquireRequest {
        mode: v1::Mode::Semaphore.into(),
        permit_limit: 3,
        ..acquire()
    });
    let Request::Propose { command, wait: None } = plan(unrouted(op)).unwrap().request else {
        panic!()
    };
    let Command::Acquire { mode, wait: false, .. } = Command::decode(&command).unwrap() else {
        panic!()
    };
    assert_eq!(mode, Mode::Permits { count: 1, limit: 3 });
}

#[test]
fn bad_input_is_refused_before_anything_is_proposed() {
    let long = "x".repeat(513);
    let bad = [
        Op::Acquire(v1::AcquireRequest { name: String::new(), ..acquire() }),
        Op::Acquire(v1::AcquireRequest { name: "a\nb".into(), ..acquire() }),
        Op::Acquire(v1::AcquireRequest { name: long, ..acquire() }),
        Op::Acquire(v1::AcquireRequest { ttl_ms: 99, ..acquire() }),
        Op::Acquire(v1::AcquireRequest { ttl_ms: 86_400_001, ..acquire() }),
        Op::Acquire(v1::AcquireRequest { request_id: vec![], ..acquire() }),
        Op::Acquire(v1::AcquireRequest { request_id: vec![1; 15], ..acquire() }),
        Op::Acquire(v1::AcquireRequest { claim_ttl_ms: 60_001, ..acquire() }),
        Op::Acquire(v1::AcquireRequest { mode: 9, ..acquire() }),
        Op::Acquire(v1::AcquireRequest { wait_ms: u32::MAX, ..acquire() }),
        Op::Acquire(v1::AcquireRequest { mode: v1::Mode::Semaphore.into(), ..acquire() }),
        Op::Acquire(v1::AcquireRequest { metadata: "m".repeat(70_000), ..acquire() }),
        Op::Release(v1::ReleaseRequest {
            name: "a".into(),
            fencing_token: 1 << 53,
            session_life: 0,
        }),
        Op::BreakLock(v1::BreakLockRequest {
            name: "a".into(),
            fencing_token: 1,
            ..Default::default()
        }),
        Op::Check(v1::CheckRequest { name: "a".into(), consistency: 5, ..Default::default() }),
        Op::Check(v1::CheckRequest { name: "a".into(), limit: 1_001, ..Default::default() }),
        Op::List(v1::ListRequest { cursor: "b".into(), ..Default::default() }),
        Op::History(v1::HistoryRequest { name: "a".into(), limit: 1_001 }),
        Op::Heartbeat(Heartbeat::default()),
    ];
    for op in bad {
        let error = refusal(op.clone());
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{op:?}");
        assert!(!error.message.is_empty());
    }
    assert!(check(&Operation::default()).is_err(), "an operation of a later version");
}

#[test]
fn reads_and_follow_ups_are_planned() {
    let planned = |consistency: v1::Consistency| {
        let op = Op::Check(v1::CheckRequest {
            name: "a".into(),
            consistency: consistency.into(),
            ..Default::default()
        });
        plan(unrouted(op)).unwrap().request
    };
    let query = || Query::Check { name: "a".into(), after: Token(0), limit: 1_000, waiters: 0 };
    assert_eq!(
        planned(v1::Consistency::Linearizable),
        Request::Read { query: query(), linearizable: true }
    );
    assert_eq!(
        planned(v1::Consistency::Stale),
        Request::Read { query: query(), linearizable: false }
    );
    let history =
        plan(unrouted(Op::History(v1::HistoryRequest { name: "a".into(), limit: 0 }))).unwrap();
    assert_eq!(history.follow, Follow::History { name: "a".into(), limit: 20 });
}

fn routed(name: &str, shard: u32, slot: u32, map_version: u64) -> Operation {
    let op = Op::Acquire(v1::AcquireRequest { name: name.into(), ..acquire() });
    Operation::routed(op, Route { shard, slot, map_version })
}

#[test]
fn a_name_reaches_only_the_shard_that_owns_it() {
    let map = map();
    let (slot, owner) = (u32::from(Slot::of("a").index()), map.route("a").shard);
    let other = 1 - owner.0;
    let refused = |operation: &Operation| *route(&map, operation).unwrap_err();
    let is_stale = |operation: &Operation| matches!(refused(operation), OpResult::StaleRoute(_));
    let code = |operation: &Operation| match refused(operation) {
        OpResult::Error(error) => error.code(),
        other => panic!("{other:?}"),
    };
    assert_eq!(route(&map, &routed("a", owner.0, slot, 3)), Ok(owner));
    assert_eq!(
        route(&map, &routed("a", owner.0, slot, 1)),
        Ok(owner),
        "an older map that still says so"
    );
    assert!(is_stale(&routed("a", other, slot, 1)), "an older map that says otherwise");
    assert!(is_stale(&routed("a", other, slot, 3)));
    assert!(is_stale(&routed("a", 77, slot, 3)));
    assert_eq!(
        code(&routed("a", owner.0, slot + 1, 3)),
        ErrorCode::InvalidArgument,
        "a router that hashes otherwise"
    );
    assert_eq!(code(&routed("a", owner.0, slot, 4)), ErrorCode::Busy, "a newer map");
    assert_eq!(code(&unrouted(Op::Acquire(acquire()))), ErrorCode::InvalidArgument, "no route");
    assert!(matches!(
        *stale_route(&map, owner),
        OpResult::StaleRoute(StaleRoute { map_version: 3, .. })
    ));
    let status = |shard| {
        Operation::routed(Op::ReadStatus(ReadStatus {}), Route { shard, slot: 0, map_version: 3 })
    };
    assert_eq!(route(&map, &status(1)), Ok(ShardId(1)));
    assert!(is_stale(&status(2)));
}

#[test]
fn a_grant_keeps_all_its_fields() {
    let reply = Reply::Done(Outcome::Granted(held(9)));
    let OpResult::Grant(grant) = result(SHARD, NODE, OperationKind::Acquire, reply) else {
        panic!()
    };
    let expected = v1::Grant {
        resource_name: "a".into(),
        owner_id: "me".into(),
        fencing_token: 9,
        acquired_at_ms: 10,
        expires_at_ms: 1_010,
        ttl_ms: 1_000,
        renewal_count: 3,
        state: v1::GrantState::Acquired.into(),
        shard: 1,
        mode: v1::Mode::Semaphore.into(),
        permits: 2,
        session_id: "s".into(),
        waited_ms: 4,
        metadata: "m".into(),
        permit_limit: 5,
        session_life: 1,
        claim_within_ms: 500,
        remaining_ms: 700,
        due: false,
        principal: "ann".into(),
    };
    assert_eq!(grant, expected);
}

#[test]
fn a_cancel_that_comes_after_the_grant_shows_it() {
    let cancelled =
        |outcome| match result(SHARD, NODE, OperationKind::CancelWait, Reply::Done(outcome)) {
            OpResult::CancelWait(v1::CancelWaitResponse { cancelled, grant }) => {
                (cancelled, grant.map(|g| g.fencing_token))
            }
            other => panic!("{other:?}"),
        };
    assert_eq!(cancelled(Outcome::Granted(held(9))), (false, Some(9)));
    assert_eq!(cancelled(Outcome::Cancelled), (true, None));
    assert_eq!(cancelled(Outcome::NotWaiting), (false, None));
}

#[test]
fn refusals_say_what_to_do() {
    let done = |kind, outcome| error_of(kind, Reply::Done(outcome));
    use OperationKind::*;
    let held_by = || Outcome::Held { token: Token(5), owner: "you".into() };
    for (error, code, current) in [
        (done(Acquire, held_by()), ErrorCode::Held, 5),
        (done(Break, held_by()), ErrorCode::NotOwner, 5),
        (done(Renew, Outcome::NotOwner { current: Token(6) }), ErrorCode::NotOwner, 6),
        (done(Release, Outcome::LeaseExpired { current: Token(0) }), ErrorCode::Expired, 0),
        (done(Heartbeat, Outcome::SessionLost), ErrorCode::SessionLost, 0),
        (
            done(Acquire, Outcome::AlreadyEnded { token: Token(4), end: EndKind::Released }),
            ErrorCode::Expired,
            0,
        ),
        (done(Acquire, Outcome::Conflict("limit")), ErrorCode::InvalidArgument, 0),
        (done(Acquire, Outcome::Full("queue")), ErrorCode::Busy, 0),
        (error_of(Acquire, Reply::WaitTimeout), ErrorCode::WaitTimeout, 0),
        (error_of(Acquire, Reply::WaitCancelled), ErrorCode::WaitCancelled, 0),
        (error_of(Acquire, Reply::Superseded), ErrorCode::WaitCancelled, 0),
        (error_of(Acquire, Reply::NoLeader), ErrorCode::NoLeader, 0),
        (error_of(Acquire, Reply::Busy), ErrorCode::Busy, 0),
        (error_of(Acquire, Reply::Unknown), ErrorCode::OutcomeUnknown, 0),
        (error_of(Check, Reply::Unknown), ErrorCode::NoLeader, 0),
    ] {
        assert_eq!((error.code(), error.current_token), (code, current), "{error}");
        assert!(!error.message.is_empty());
    }
    let elsewhere =
        result(SHARD, NODE, Acquire, Reply::NotLeader { hint: Some(NodeId(3)), term: 8 });
    assert!(
        matches!(elsewhere, OpResult::NotLeader(NotLeader { leader: 3, term: 8, .. })),
        "{elsewhere:?}"
    );
    assert_eq!(done(Acquire, held_by()).holder, "you");
    assert!(
        done(Acquire, Outcome::AlreadyEnded { token: Token(4), end: EndKind::Broken })
            .message
            .contains("token 4")
    );
}

#[test]
fn a_check_says_who_answered_and_how_old_it_is() {
    let answer = Answer::Check {
        holders: vec![held(9)],
        holder_count: 3,
        more: true,
        waiters: 2,
        last_token: 11,
        queue: Vec::new(),
    };
    let reply = Reply::Read { answer, applied_index: 40, stale_by_ms: 6 };
    let OpResult::Check(check) = result(SHARD, NODE, OperationKind::Check, reply) else { panic!() };
    assert_eq!((check.waiters, check.last_token, check.answered_by), (2, 11, 2));
    assert_eq!((check.applied_index, check.stale_by_ms, check.holders.len()), (40, 6, 1));
    assert_eq!((check.holder_count, check.more), (3, true));
}

#[test]
fn history_is_newest_first_and_shows_each_token_once() {
    let current = vec![held(8), held(7)];
    // Token 7 ended between the read of the table and that of the disk. Token 5 is on the disk too.
    let all = vec![
        ended(5, EndKind::Expired),
        ended(7, EndKind::Broken),
        ended(5, EndKind::Expired),
        ended(3, EndKind::Released),
    ];
    let shown = |limit| {
        let OpResult::History(history) = history(SHARD, current.clone(), all.clone(), limit) else {
            panic!()
        };
        let row = |tenure: &v1::Tenure| (tenure.fencing_token, tenure.ended_at_ms, tenure.state());
        history.tenures.iter().map(row).collect::<Vec<_>>()
    };
    use v1::GrantState::*;
    assert_eq!(shown(10), [(8, 0, Acquired), (7, 99, Broken), (5, 99, Expired), (3, 99, Released)]);
    assert_eq!(shown(2), [(8, 0, Acquired), (7, 99, Broken)]);
}

#[test]
fn an_answer_with_very_many_rows_is_cut_and_says_so() {
    let grants = (0..120_000).map(held).collect();
    let reply = Reply::Read {
        answer: Answer::List { grants, next: None, waiters: Vec::new() },
        applied_index: 1,
        stale_by_ms: 0,
    };
    let listed = result(SHARD, NODE, OperationKind::List, reply);
    let OpResult::List(list) = &listed else { panic!() };
    assert!(!list.next_cursor.is_empty() && list.grants.len() > 1_000);
    let last = list.grants.last().expect("rows");
    let cursor = wire::decode_cursor(&list.next_cursor).expect("a cursor");
    assert_eq!(
        cursor,
        (last.resource_name.clone(), last.fencing_token),
        "the next page begins after what is shown"
    );
    assert!(
        wire::encoded_bytes(list) < 4 << 20,
        "no receiver takes {} bytes",
        wire::encoded_bytes(list)
    );
}

#[test]
fn a_request_keeps_its_fields_as_an_input() {
    let wait = Some(Wait { request_id: RequestId(7), wait_ms: 50 });
    let proposed = Request::Propose { command: vec![1, 2], wait }.into_input(3, 400);
    assert!(
        matches!(
            &proposed,
            Input::Propose { ticket: 3, command, wait: told, give_up_at_ms: 400 }
                if *command == [1, 2] && *told == wait
        ),
        "{proposed:?}"
    );
    let read = Request::Read { query: Query::Status, linearizable: true }.into_input(4, 400);
    assert!(
        matches!(read, Input::Read { ticket: 4, query: Query::Status, linearizable: true }),
        "{read:?}"
    );
}

#[test]
fn an_operation_without_a_timeout_gets_the_usual_one() {
    let check = Op::Check(v1::CheckRequest { name: "a".into(), ..Default::default() });
    let timeout_ms =
        |timeout_ms| plan(Operation { timeout_ms, ..unrouted(check.clone()) }).unwrap().timeout_ms;
    assert_eq!(timeout_ms(0), wire::limits::DEFAULT_TIMEOUT_MS);
    assert_eq!(timeout_ms(70), 70);
}

#[test]
fn a_late_operation_is_admitted_with_the_time_that_is_left() {
    let (map, slot) = (map(), Slot::of("a").index().into());
    let shard = map.route("a").shard;
    let waiting = Operation {
        timeout_ms: 100,
        ..Operation::routed(
            Op::Acquire(v1::AcquireRequest { wait_ms: 50, ..acquire() }),
            Route { shard: shard.0, slot, map_version: 3 },
        )
    };
    let left = |late_ms| {
        let admitted =
            admit(&map, waiting.clone(), &Caller::NOBODY, late_ms).expect("its sender still waits");
        assert_eq!((admitted.shard, admitted.kind), (shard, OperationKind::Acquire));
        assert!(admitted.waits());
        let Request::Propose { wait: Some(wait), .. } = admitted.request else { panic!("a read") };
        (wait.wait_ms, admitted.timeout_ms)
    };
    assert_eq!(left(0), (50, 100));
    assert_eq!(left(20), (30, 100));
    assert_eq!(left(70), (1, 79));
    match *admit(&map, waiting.clone(), &Caller::NOBODY, 149)
        .expect_err("its sender has given it up")
    {
        OpResult::Error(error) => assert_eq!(error.code(), ErrorCode::Busy),
        other => panic!("{other:?}"),
    }
}

/// A change that its replica has may be in the log already, even if the node knows nothing of that.
#[test]
fn no_change_with_an_unknown_outcome_is_told_as_not_done() {
    for kind in OperationKind::ALL {
        let without_reply = match unanswered(kind) {
            OpResult::Error(error) => error.code(),
            other => panic!("{other:?}"),
        };
        let codes = (error_of(kind, Reply::Unknown).code(), without_reply);
        let expected = match kind.is_read() {
            true => (ErrorCode::NoLeader, ErrorCode::ShuttingDown),
            false => (ErrorCode::OutcomeUnknown, ErrorCode::OutcomeUnknown),
        };
        assert_eq!(codes, expected, "{kind:?}");
    }
}

#[test]
fn a_page_of_a_list_has_the_waiters_of_the_grants_that_fit() {
    let metadata = "m".repeat(1_000);
    let waiter = |grant: &Grant| locks::Waiter {
        name: grant.name.clone(),
        owner: "bob".into(),
        principal: String::new(),
        number: 3,
        place: 1,
        mode: Mode::Exclusive,
        session: metadata.clone(),
        metadata: String::new(),
        queued_wall_ms: 5,
    };
    let of = |n| Grant { name: format!("n{n:04}"), metadata: metadata.clone(), ..held(9) };
    let grants: Vec<Grant> = (0..4_000).map(of).collect();
    let answer = Answer::List { waiters: grants.iter().map(waiter).collect(), grants, next: None };
    let reply = Reply::Read { answer, applied_index: 40, stale_by_ms: 0 };
    let OpResult::List(page) = result(SHARD, NODE, OperationKind::List, reply) else { panic!() };
    assert!(wire::encoded_bytes(&page) <= crate::ROWS_BYTES_MAX && page.grants.len() > 1_000);
    let last = &page.grants[page.waiters.len() - 1].resource_name;
    assert_eq!(page.next_cursor, wire::encode_cursor(last, 9));
}
