//! From a replica's reply to an operation's result: the facts that the caller should know, and its
//! next step.

use crate::limits::ROWS_BYTES_MAX;
use crate::planted_bugs::leaves_doubt;
use locks::{Bound, EndKind, Grant, Holdings, Mode, Outcome, SessionAlive, Tenure, Token, Waiter};
use routing::{NodeId, ShardId};
use shard::{Answer, Reply, Role, Status};
use wire::OperationKind;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::{NotLeader, ShardPage};
use wire::v1::{self, Error, ErrorCode, GrantState};

/// An identity at its quota is asked to try again after this long, in milliseconds. Until it lets
/// something go, sooner tries are refused as well.
const QUOTA_RETRY_MS: u32 = 1_000;

/// The outcome under which a result is counted.
pub fn counted(result: &OpResult) -> wire::Outcome {
    match result {
        OpResult::Error(error) => wire::Outcome::of(Some(error.code())),
        OpResult::NotLeader(_) | OpResult::StaleRoute(_) => wire::Outcome::NotServed,
        _ => wire::Outcome::Ok,
    }
}

/// The result of an operation of this kind, from the reply of its replica on `node`. A history
/// answer also needs the part on disk: see [`history`]. The status of a shard also needs the state
/// of its node's disk, because a replica knows nothing of it.
pub fn result(shard: ShardId, node: NodeId, kind: OperationKind, reply: Reply) -> OpResult {
    match reply {
        Reply::Done(outcome) => done(shard, kind, outcome),
        // No operation is for the topology.
        Reply::Applied(_) => not_asked(shard),
        Reply::Read { answer, applied_index, stale_by_ms } => {
            read(shard, node, answer, applied_index, stale_by_ms)
        }
        Reply::WaitTimeout => fail(
            ErrorCode::WaitTimeout,
            "the wait ran out, and this request does not hold the lock",
        ),
        Reply::WaitCancelled => fail(
            ErrorCode::WaitCancelled,
            "the wait was cancelled, or its session ended: nothing is held",
        ),
        Reply::Superseded => fail(
            ErrorCode::WaitCancelled,
            "a newer attempt of the same request waits in this one's place: await that one",
        ),
        Reply::NotLeader { hint, term } => {
            let message = format!("node {node} does not lead shard {shard}: ask the leader");
            OpResult::NotLeader(NotLeader { message, leader: hint.map_or(0, |node| node.0), term })
        }
        Reply::NoLeader => OpResult::Error(Error {
            retry_after_ms: 200,
            ..Error::no_leader(format!(
                "shard {shard} has no leader or no quorum right now: try again"
            ))
        }),
        Reply::Busy => OpResult::Error(Error::busy(
            format!(
                "shard {shard} has too much queued and did not do this: back off, then try again"
            ),
            100,
        )),
        Reply::Unknown if leaves_doubt(!kind.is_read()) => fail(
            ErrorCode::OutcomeUnknown,
            "leadership moved meanwhile: this may or may not have been done. Try again with the same ids, or check",
        ),
        Reply::Unknown => {
            fail(ErrorCode::NoLeader, format!("shard {shard} lost its leader meanwhile: try again"))
        }
    }
}

/// The result of an operation if its node stops before the replica has replied.
pub fn unanswered(kind: OperationKind) -> OpResult {
    match leaves_doubt(!kind.is_read()) {
        true => fail(
            ErrorCode::OutcomeUnknown,
            "this node is shutting down: this may or may not have been done. Try again with the same ids",
        ),
        false => fail(ErrorCode::ShuttingDown, "this node is shutting down: ask another replica"),
    }
}

fn done(shard: ShardId, kind: OperationKind, outcome: Outcome) -> OpResult {
    match outcome {
        // The acquire was granted before the cancel came: the caller holds the lock, and must know.
        Outcome::Granted(granted) if kind == OperationKind::CancelWait => {
            let grant = Some(grant(shard, granted));
            OpResult::CancelWait(v1::CancelWaitResponse { cancelled: false, grant })
        }
        Outcome::Granted(granted) => OpResult::Grant(grant(shard, granted)),
        Outcome::Renewed { ttl_ms, expires_wall_ms, renewals } => {
            OpResult::Renew(v1::RenewResponse {
                expires_at_ms: expires_wall_ms,
                ttl_ms,
                renewal_count: renewals,
                shard: shard.0,
            })
        }
        Outcome::Released { already } => {
            OpResult::Release(v1::ReleaseResponse { already_released: already, shard: shard.0 })
        }
        Outcome::HeartbeatOk(alive) => OpResult::Heartbeat(session_lease(shard, alive)),
        Outcome::Closed { released } => {
            OpResult::CloseSession(v1::CloseSessionResponse { released })
        }
        Outcome::Cancelled => {
            OpResult::CancelWait(v1::CancelWaitResponse { cancelled: true, grant: None })
        }
        Outcome::NotWaiting => {
            OpResult::CancelWait(v1::CancelWaitResponse { cancelled: false, grant: None })
        }
        Outcome::Broken(ended) => {
            OpResult::BreakLock(v1::BreakLockResponse { tenure: Some(tenure(shard, *ended)) })
        }
        // A break that meets this outcome named a token that holds no lock any more. It is fenced,
        // like a release by that token.
        Outcome::Held { token, owner } if kind == OperationKind::Break => OpResult::Error(Error {
            holder: owner,
            ..Error::not_owner(
                "this token does not hold the lock (any more): nothing was broken. Check who does",
                token.0,
            )
        }),
        Outcome::Held { token, owner } => {
            let message =
                format!("held by {owner:?} with token {token}: wait for it, or try later");
            OpResult::Error(Error::held(message, token.0, owner))
        }
        Outcome::NotOwner { current } => OpResult::Error(Error::not_owner(
            "this token does not hold the lock: stop acting on it, and acquire anew",
            current.0,
        )),
        Outcome::LeaseExpired { current } => OpResult::Error(Error {
            current_token: current.0,
            ..Error::new(
                ErrorCode::Expired,
                "the lease of this token ran out: stop acting on the lock, and acquire anew",
            )
        }),
        Outcome::SessionLost => fail(
            ErrorCode::SessionLost,
            format!("shard {shard} does not know this session (any more): open a new one"),
        ),
        Outcome::AlreadyEnded { token, end } => {
            let how = match end {
                EndKind::Released => "was released",
                EndKind::Expired => "expired",
                EndKind::Broken => "was broken",
            };
            let message = format!(
                "this request was granted token {token}, and that grant {how}: acquire anew with a new request id"
            );
            fail(ErrorCode::Expired, message)
        }
        Outcome::CancelledBefore => fail(
            ErrorCode::WaitCancelled,
            "this request was cancelled, and holds nothing: acquire anew with a new request id",
        ),
        Outcome::Conflict(why) => fail(ErrorCode::InvalidArgument, why),
        Outcome::Full(why) => {
            OpResult::Error(Error::busy(format!("{why}: try again later"), 1_000))
        }
        Outcome::OverQuota { principal, bound, quota, has } => {
            OpResult::Error(over_quota(shard, &principal, bound, quota, has))
        }
        // A leader answers none of these to a client.
        Outcome::Queued | Outcome::Expired(_) | Outcome::Unheard => fail(
            ErrorCode::Internal,
            format!(
                "shard {shard} answered what was not asked; this is a bug: report it. Check before trying again"
            ),
        ),
    }
}

/// The refusal of an acquire that would exceed the quota of its identity.
fn over_quota(shard: ShardId, principal: &str, bound: Bound, quota: u32, has: Holdings) -> Error {
    let counted = |count: u32, one: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    };
    let (has, way_out) = match bound {
        Bound::Locks => (
            format!("holds {} and has {}", counted(has.locks, "lock"), counted(has.waits, "wait")),
            "release some locks",
        ),
        Bound::Sessions => (format!("has {}", counted(has.sessions, "session")), "close some"),
        Bound::Waits => (format!("has {}", counted(has.waits, "wait")), "cancel some"),
    };
    let message = format!(
        "identity {principal:?} {has} on shard {shard}, and its quota there is {quota}: {way_out}, \
         or ask for a higher quota"
    );
    Error::busy(message, QUOTA_RETRY_MS)
}

fn read(
    shard: ShardId,
    node: NodeId,
    answer: Answer,
    applied_index: u64,
    stale_by_ms: u64,
) -> OpResult {
    match answer {
        Answer::Check { holders, holder_count, more, waiters, last_token, queue } => {
            let (holders, cut) =
                fit(holders.into_iter().map(|held| grant(shard, held)), wire::encoded_bytes);
            let (queue, _) =
                fit(queue.into_iter().map(|one| waiter(shard, one)), wire::encoded_bytes);
            OpResult::Check(v1::CheckResponse {
                holders,
                waiters,
                last_token,
                shard: shard.0,
                answered_by: node.0,
                applied_index,
                stale_by_ms,
                holder_count,
                more: more || cut,
                queue,
            })
        }
        Answer::List { grants, next, waiters } => {
            OpResult::List(page(shard, grants, next, waiters))
        }
        Answer::History { current, ended } => history(shard, current, ended, usize::MAX),
        Answer::Status(status) => OpResult::Status(Box::new(shard_status(*status))),
        // No operation asks for these.
        Answer::Picture(_) | Answer::Position | Answer::Topology(_) | Answer::Unsuited => {
            not_asked(shard)
        }
    }
}

fn not_asked(shard: ShardId) -> OpResult {
    let message = format!("shard {shard} answered what was not asked; this is a bug: report it");
    fail(ErrorCode::Internal, message)
}

/// A page of a listing: as many grants as fit with the waiters of their names.
fn page(
    shard: ShardId,
    grants: Vec<Grant>,
    next: Option<(String, Token)>,
    waiters: Vec<Waiter>,
) -> ShardPage {
    let mut waiters: Vec<v1::Waiter> = waiters.into_iter().map(|one| waiter(shard, one)).collect();
    let mut untold = waiters.as_slice();
    // The waiters of a name count with its first grant, because both stand in order.
    let bytes = |grant: &v1::Grant| {
        let of = untold.partition_point(|waiter| waiter.resource_name <= grant.resource_name);
        let (here, rest) = untold.split_at(of);
        untold = rest;
        wire::encoded_bytes(grant)
            + here.iter().map(|waiter| wire::encoded_bytes(waiter) + 8).sum::<usize>()
    };
    let (grants, cut) = fit(grants.into_iter().map(|held| grant(shard, held)), bytes);
    let last = grants.last();
    let next_cursor = match (last, next) {
        (Some(last), _) if cut => wire::encode_cursor(&last.resource_name, last.fencing_token),
        (_, Some((name, token))) => wire::encode_cursor(&name, token.0),
        (_, None) => String::new(),
    };
    let told = last.map_or("", |last| &last.resource_name);
    waiters.retain(|waiter| *waiter.resource_name <= *told);
    ShardPage { grants, next_cursor, waiters }
}

/// The result of a history: the tenures newest first, with each token once, and at most `limit` of
/// them. `current` are those of the replica's answer that have not ended, and `ended` are the
/// others of that answer and those on disk.
pub fn history(shard: ShardId, current: Vec<Grant>, ended: Vec<Tenure>, limit: usize) -> OpResult {
    let mut tenures: Vec<v1::Tenure> =
        current.into_iter().map(|held| holding(shard, held)).collect();
    tenures.extend(ended.into_iter().map(|ended| tenure(shard, ended)));
    // Ended tenures sort before holding ones, because the disk was read later than the table.
    tenures.sort_by_key(|tenure| std::cmp::Reverse((tenure.fencing_token, tenure.ended_at_ms)));
    tenures.dedup_by_key(|tenure| tenure.fencing_token);
    tenures.truncate(limit);
    let (tenures, _) = fit(tenures, wire::encoded_bytes);
    OpResult::History(v1::HistoryResponse { tenures })
}

pub(crate) fn grant(shard: ShardId, held: Grant) -> v1::Grant {
    let (mode, permits, permit_limit) = mode(held.mode);
    let session_life = if held.session.is_empty() { 0 } else { held.lease.0 };
    v1::Grant {
        resource_name: held.name,
        owner_id: held.owner,
        fencing_token: held.token.0,
        acquired_at_ms: held.acquired_wall_ms,
        expires_at_ms: held.expires_wall_ms,
        ttl_ms: held.ttl_ms,
        renewal_count: held.renewals,
        state: GrantState::Acquired.into(),
        shard: shard.0,
        mode: mode.into(),
        permits,
        session_id: held.session,
        waited_ms: held.waited_ms,
        metadata: held.metadata,
        permit_limit,
        session_life,
        claim_within_ms: held.claim_within_ms,
        remaining_ms: held.rest_ms,
        due: held.rest_ms == 0,
        principal: held.principal,
    }
}

/// A waiter as clients are told of it.
pub fn waiter(shard: ShardId, waiter: Waiter) -> v1::Waiter {
    let (mode, permits, permit_limit) = mode(waiter.mode);
    v1::Waiter {
        resource_name: waiter.name,
        owner_id: waiter.owner,
        waiter: waiter.number,
        place: waiter.place,
        queued_at_ms: waiter.queued_wall_ms,
        mode: mode.into(),
        permits,
        permit_limit,
        session_id: waiter.session,
        metadata: waiter.metadata,
        principal: waiter.principal,
        shard: shard.0,
    }
}

fn session_lease(shard: ShardId, alive: SessionAlive) -> v1::SessionLeaseState {
    v1::SessionLeaseState {
        shard: shard.0,
        life: alive.life.0,
        ttl_ms: alive.ttl_ms,
        broken_count: alive.broken_count,
        broken_tokens: alive.broken.into_iter().map(|token| token.0).collect(),
        broken_overflow: alive.broken_overflow,
    }
}

fn tenure(shard: ShardId, ended: Tenure) -> v1::Tenure {
    let state = match ended.end {
        EndKind::Released => GrantState::Released,
        EndKind::Expired => GrantState::Expired,
        EndKind::Broken => GrantState::Broken,
    };
    v1::Tenure {
        ended_at_ms: ended.ended_wall_ms,
        state: state.into(),
        broken_by: ended.broken_by,
        break_reason: ended.break_reason,
        broken_by_principal: ended.broken_by_principal,
        ..holding(shard, ended.grant)
    }
}

/// A tenure that has not ended.
fn holding(shard: ShardId, held: Grant) -> v1::Tenure {
    v1::Tenure {
        resource_name: held.name,
        owner_id: held.owner,
        fencing_token: held.token.0,
        acquired_at_ms: held.acquired_wall_ms,
        ended_at_ms: 0,
        state: GrantState::Acquired.into(),
        renewal_count: held.renewals,
        waited_ms: held.waited_ms,
        session_id: held.session,
        mode: mode(held.mode).0.into(),
        broken_by: String::new(),
        break_reason: String::new(),
        shard: shard.0,
        principal: held.principal,
        broken_by_principal: String::new(),
    }
}

pub(crate) fn mode(mode: Mode) -> (v1::Mode, u32, u32) {
    match mode {
        Mode::Exclusive => (v1::Mode::Exclusive, 0, 0),
        Mode::Shared => (v1::Mode::Shared, 0, 0),
        Mode::Permits { count, limit } => (v1::Mode::Semaphore, count, limit),
    }
}

fn shard_status(status: Status) -> v1::ShardStatus {
    let role = match status.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
    };
    v1::ShardStatus {
        shard: status.shard.0,
        node: status.node.0,
        role: role.into(),
        leader: status.leader.map_or(0, |node| node.0),
        term: status.term,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        first_index: status.first_index,
        last_index: status.last_index,
        checkpoint_index: status.checkpoint_index,
        state_hash: status.state_hash,
        last_token: status.last_token,
        active_locks: status.counts.locks,
        waiters: status.counts.waiters,
        sessions: status.counts.sessions,
        snapshots_installed: status.snapshots_installed,
        incarnation: status.incarnation,
        members: status.members.into_iter().map(member).collect(),
        topology_version: status.topology_version.map_or(0, |version| version.0),
        level: status.level,
        ..Default::default()
    }
}

fn member(member: shard::Member) -> v1::Member {
    let shard::Member { node, incarnation, learner } = member;
    v1::Member { node: node.0, incarnation, learner }
}

/// Takes as many rows as fit one result, and tells whether some did not.
fn fit<T>(
    rows: impl IntoIterator<Item = T>,
    mut size_bytes: impl FnMut(&T) -> usize,
) -> (Vec<T>, bool) {
    let mut kept = Vec::new();
    let mut bytes = 0;
    for row in rows {
        bytes += size_bytes(&row) + 8;
        if bytes > ROWS_BYTES_MAX {
            return (kept, true);
        }
        kept.push(row);
    }
    (kept, false)
}

fn fail(code: ErrorCode, message: impl Into<String>) -> OpResult {
    OpResult::Error(Error::new(code, message))
}
