//! Frames of the streams between clients, gateways and nodes.

use prost::Message;
use routing::Slot;
use std::collections::BTreeMap;
use wire::internal::v1 as internal;
use wire::v1;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

fn name() -> String {
    "payment:user:123".to_owned()
}

fn session() -> String {
    "s-1".to_owned()
}

fn acquires() -> [(&'static str, AcquireRequest); 3] {
    let acquire = AcquireRequest {
        name: name(),
        owner: "pod-42".to_owned(),
        ttl_ms: 30_000,
        request_id: (1..=16).collect(),
        wait_ms: 10_000,
        session_id: session(),
        metadata: "zone=a".to_owned(),
        ..Default::default()
    };
    let semaphore = AcquireRequest {
        mode: v1::Mode::Semaphore.into(),
        permits: 2,
        permit_limit: 3,
        ..acquire.clone()
    };
    let shared = AcquireRequest {
        mode: v1::Mode::Shared.into(),
        session_id: String::new(),
        wait_ms: 0,
        ..acquire.clone()
    };
    [("acquire", acquire), ("acquire_permits", semaphore), ("acquire_shared", shared)]
}

/// Operations that go to a shard without a change.
macro_rules! plain_ops {
    ($Op:ident) => {
        acquires().map(|(what, request)| (what, $Op::Acquire(request))).into_iter().chain([
            ("renew", $Op::Renew(RenewRequest { name: name(), fencing_token: 9 })),
            (
                "release",
                $Op::Release(ReleaseRequest {
                    name: name(),
                    fencing_token: (1 << 53) - 1,
                    session_life: 7,
                }),
            ),
            (
                "check",
                $Op::Check(CheckRequest {
                    name: name(),
                    after_token: 7,
                    limit: 3,
                    ..Default::default()
                }),
            ),
            (
                "check_stale",
                $Op::Check(CheckRequest {
                    name: name(),
                    consistency: Consistency::Stale.into(),
                    ..Default::default()
                }),
            ),
            (
                "break",
                $Op::BreakLock(BreakLockRequest {
                    name: name(),
                    fencing_token: 9,
                    reason: "INC-31".to_owned(),
                    broken_by: "alice".to_owned(),
                }),
            ),
            ("history", $Op::History(HistoryRequest { name: name(), limit: 20 })),
            (
                "list",
                $Op::List(ListRequest {
                    prefix: "payment:".to_owned(),
                    limit: 0,
                    cursor: wire::encode_cursor("payment:7", 9),
                    ..Default::default()
                }),
            ),
        ])
    };
}

pub(super) fn operation_frames() -> BTreeMap<String, Vec<u8>> {
    let ops = plain_ops!(Op).chain([
        (
            "heartbeat",
            Op::Heartbeat(HeartbeatRequest {
                session_id: session(),
                leases: vec![
                    SessionLease::default(),
                    SessionLease { shard: 1, life: 7, broken_seen: 1 },
                ],
            }),
        ),
        (
            "close_session",
            Op::CloseSession(CloseSessionRequest { session_id: session(), shards: vec![0] }),
        ),
        (
            "cancel_wait",
            Op::CancelWait(CancelWaitRequest { name: name(), request_id: vec![3; 16] }),
        ),
    ]);
    let operations =
        ops.map(|(what, op)| (what, Operation { id: 7, timeout_ms: 5_000, ..Operation::of(op) }));
    frames(operations, |operations| {
        StreamRequest { operations, ..Default::default() }.encode_to_vec()
    })
}

pub(super) fn operate_requests() -> BTreeMap<String, Vec<u8>> {
    use internal::operation::Op;
    let ops = plain_ops!(Op).chain([
        (
            "heartbeat",
            Op::Heartbeat(internal::Heartbeat { session_id: session(), life: 7, broken_seen: 1 }),
        ),
        ("close_session", Op::CloseSession(internal::CloseSession { session_id: session() })),
        (
            "cancel_wait",
            Op::CancelWait(internal::CancelWait {
                name: name(),
                request_id: vec![3; 16],
                abandoned: true,
            }),
        ),
        ("read_status", Op::ReadStatus(internal::ReadStatus {})),
    ]);
    let operations = ops.map(|(what, op)| {
        let slot = op.name().map_or(0, |name| u32::from(Slot::of(name).index()));
        let route = internal::Route { shard: u32::from(slot >= 8_192), slot, map_version: 1 };
        (
            what,
            internal::Operation {
                id: 7,
                timeout_ms: 5_000,
                op: Some(op),
                route: Some(route),
                ..Default::default()
            },
        )
    });
    let frame =
        |operations| internal::OperateRequest { operations, ..Default::default() }.encode_to_vec();
    let operations: Vec<(&str, internal::Operation)> = operations.collect();
    let mut frames = frames(operations.iter().cloned(), frame);
    frames.insert("all_with_callers".to_owned(), frame(with_callers(&operations)));
    frames
}

/// The operations in one frame, of two identities that take turns.
fn with_callers(operations: &[(&str, internal::Operation)]) -> Vec<internal::Operation> {
    let quota = Some(internal::Quota { locks: 3, sessions: 1, waits: 300 });
    let callers = [("spiffe://example/ann", quota), ("bob", None)];
    let signed = operations.iter().zip(callers.into_iter().cycle());
    let mut all: Vec<internal::Operation> = signed
        .map(|((_, operation), (principal, quota))| internal::Operation {
            principal: principal.to_owned(),
            quota,
            ..operation.clone()
        })
        .collect();
    wire::number_callers(&mut all);
    all
}

/// Each message by itself, and all messages in one frame.
fn frames<M: Clone>(
    messages: impl Iterator<Item = (&'static str, M)>,
    frame: impl Fn(Vec<M>) -> Vec<u8>,
) -> BTreeMap<String, Vec<u8>> {
    let messages: Vec<(&str, M)> = messages.collect();
    let all = frame(messages.iter().map(|(_, message)| message.clone()).collect());
    let each = messages.into_iter().map(|(what, message)| (what.to_owned(), frame(vec![message])));
    each.chain([("all".to_owned(), all)]).collect()
}

fn grant() -> Grant {
    Grant {
        resource_name: name(),
        owner_id: "pod-42".to_owned(),
        fencing_token: 9,
        acquired_at_ms: 1_700_000_000_000,
        expires_at_ms: 1_700_000_030_000,
        ttl_ms: 30_000,
        renewal_count: 3,
        state: GrantState::Acquired.into(),
        shard: 1,
        session_id: session(),
        ..Default::default()
    }
}

fn tenure() -> v1::Tenure {
    v1::Tenure {
        resource_name: name(),
        fencing_token: 9,
        ended_at_ms: 1_700_000_030_000,
        state: GrantState::Broken.into(),
        broken_by: "alice".to_owned(),
        break_reason: "INC-31".to_owned(),
        ..Default::default()
    }
}

fn lease_state() -> SessionLeaseState {
    SessionLeaseState {
        shard: 4,
        life: 7,
        ttl_ms: 30_000,
        broken_count: 2,
        broken_tokens: vec![9],
        broken_overflow: true,
    }
}

/// Answers that a client gets as a node gave them.
macro_rules! plain_answers {
    ($Answer:ident) => {
        [
            ("held", $Answer::Error(Error::held("held by another", 9, "pod-7"))),
            ("busy", $Answer::Error(Error::busy("back off", 50))),
            (
                "renew",
                $Answer::Renew(RenewResponse {
                    expires_at_ms: 1,
                    ttl_ms: 2,
                    renewal_count: 3,
                    shard: 1,
                }),
            ),
            ("release", $Answer::Release(ReleaseResponse { already_released: true, shard: 1 })),
            (
                "check",
                $Answer::Check(CheckResponse {
                    holders: vec![grant(); 2],
                    waiters: 3,
                    ..Default::default()
                }),
            ),
            ("close_session", $Answer::CloseSession(CloseSessionResponse { released: 2 })),
            (
                "cancel_wait",
                $Answer::CancelWait(CancelWaitResponse { cancelled: false, grant: Some(grant()) }),
            ),
            ("break", $Answer::BreakLock(BreakLockResponse { tenure: Some(tenure()) })),
            ("history", $Answer::History(HistoryResponse { tenures: vec![tenure(); 2] })),
        ]
        .into_iter()
    };
}

pub(super) fn result_frames() -> BTreeMap<String, Vec<u8>> {
    let answers = plain_answers!(Answer).chain([
        ("grant", Answer::granted(grant())),
        (
            "heartbeat",
            Answer::Heartbeat(HeartbeatResponse {
                lost_shards: vec![1],
                failed_shards: vec![2, 3],
                renewed_shards: 4,
                leases: vec![lease_state()],
            }),
        ),
        (
            "list",
            Answer::List(ListResponse {
                grants: vec![grant()],
                more: true,
                missing_shards: vec![1],
                next_cursor: wire::encode_cursor("n", 9),
                ..Default::default()
            }),
        ),
    ]);
    let results =
        answers.map(|(what, answer)| (what, OperationResult { id: 7, result: Some(answer) }));
    frames(results, |results| StreamResponse { results }.encode_to_vec())
}

pub(super) fn operate_responses() -> BTreeMap<String, Vec<u8>> {
    use internal::operation_result::Result as Answer;
    let status = ShardStatus {
        shard: 1,
        node: 2,
        role: "leader".to_owned(),
        state_hash: u64::MAX,
        ..Default::default()
    };
    let page = internal::ShardPage {
        grants: vec![grant()],
        next_cursor: wire::encode_cursor("n", 9),
        ..Default::default()
    };
    let answers = plain_answers!(Answer).chain([
        ("grant", Answer::Grant(grant())),
        ("heartbeat", Answer::Heartbeat(lease_state())),
        ("list", Answer::List(page)),
        ("status", Answer::Status(Box::new(status))),
        (
            "not_leader",
            Answer::NotLeader(internal::NotLeader {
                message: "ask node 2".to_owned(),
                leader: 2,
                term: 5,
            }),
        ),
        (
            "stale_route",
            Answer::StaleRoute(internal::StaleRoute {
                message: "another map".to_owned(),
                map_version: 4,
            }),
        ),
    ]);
    let results = answers
        .map(|(what, answer)| (what, internal::OperationResult { id: 7, result: Some(answer) }));
    frames(results, |results| internal::OperateResponse { results }.encode_to_vec())
}
