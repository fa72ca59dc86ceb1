//! Early, typed refusals of input that can never succeed. Each says how to change the input.
//!
//! An empty owner passes. On the wire it cannot be told from an unset owner, and a client need not
//! name one. The SDK and the command line can tell the two apart, and refuse an empty owner.

use crate::cursor::decode_cursor;
use crate::internal;
use crate::internal::v1::operation::Op as Routed;
use crate::limits::*;
use crate::v1::operation::Op;
use crate::v1::{
    self, AcquireRequest, BreakLockRequest, CheckRequest, Consistency, Error, EventKind,
    ListRequest, Mode, WatchFilter,
};

/// Refuses a name that is empty, too long, or has control characters.
pub fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid("the name is empty: name the resource to lock"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the name has {} bytes: use at most {NAME_BYTES_MAX}, a digest for longer ones",
            name.len()
        )));
    }
    if let Some(at) = name.char_indices().find(|(_, c)| c.is_control()).map(|(at, _)| at) {
        return Err(Error::invalid(format!(
            "the name has a control character at byte {at}: take it out"
        )));
    }
    Ok(())
}

/// Refuses options that no session can be opened with. TTL 0 stands for the default.
pub fn check_session_options(owner: &str, ttl_ms: u32, metadata: &str) -> Result<(), Error> {
    at_most("owner", owner, OWNER_BYTES_MAX)?;
    at_most("metadata", metadata, METADATA_BYTES_MAX)?;
    check_ttl(ttl_ms)
}

/// Refuses an operation that no shard would accept. Zero values that stand for defaults pass.
pub fn check_operation(operation: &v1::Operation) -> Result<(), Error> {
    let Some(op) = &operation.op else { return Err(empty()) };
    at_most("traceparent", &operation.traceparent, TRACEPARENT_BYTES_MAX)?;
    if let Some(name) = op.name() {
        check_name(name)?;
    }
    match op {
        Op::Acquire(r) => check_acquire(r),
        Op::Renew(r) => check_token(r.fencing_token),
        Op::Release(r) => check_token(r.fencing_token),
        Op::Check(r) => check_check(r),
        Op::Heartbeat(r) => check_session(&r.session_id, r.leases.len()),
        Op::CloseSession(r) => check_session(&r.session_id, r.shards.len()),
        Op::CancelWait(r) => check_request_id(&r.request_id, false),
        Op::BreakLock(r) => check_break(r),
        Op::History(r) => check_rows(r.limit),
        Op::List(r) => check_list(r),
    }
}

/// Refuses a filter that no watch can have.
pub fn check_watch_filter(filter: &WatchFilter) -> Result<(), Error> {
    if !filter.name.is_empty() {
        check_name(&filter.name)?;
        if !filter.prefix.is_empty() {
            return Err(Error::invalid("a watch has a name or a prefix: leave one of them out"));
        }
    }
    at_most("prefix", &filter.prefix, NAME_BYTES_MAX)?;
    at_most("session id", &filter.session_id, SESSION_BYTES_MAX)?;
    at_most("owner", &filter.owner, OWNER_BYTES_MAX)?;
    let is_kind =
        |kind: &i32| EventKind::try_from(*kind).is_ok_and(|kind| kind != EventKind::Unspecified);
    if filter.kinds.len() > WATCH_KINDS_MAX || !filter.kinds.iter().all(is_kind) {
        return Err(Error::invalid(
            "unknown kind of event: use granted, queued, released, expired, broken and cancelled, \
             each once, or none for all",
        ));
    }
    Ok(())
}

/// Like [`check_operation`], for an operation between a gateway and a node.
pub fn check_routed(operation: &internal::v1::Operation) -> Result<(), Error> {
    let Some(op) = &operation.op else { return Err(empty()) };
    if let Some(name) = op.name() {
        check_name(name)?;
    }
    match op {
        Routed::Acquire(r) => check_acquire(r),
        Routed::Renew(r) => check_token(r.fencing_token),
        Routed::Release(r) => check_token(r.fencing_token),
        Routed::Check(r) => check_check(r),
        Routed::Heartbeat(r) => check_session(&r.session_id, 1),
        Routed::CloseSession(r) => check_session(&r.session_id, 1),
        Routed::CancelWait(r) => check_request_id(&r.request_id, false),
        Routed::BreakLock(r) => check_break(r),
        Routed::History(r) => check_rows(r.limit),
        Routed::List(r) => check_list(r),
        Routed::ReadStatus(_) => Ok(()),
    }
}

/// Replaces zero values by the defaults. `fresh_id` makes the request id of an acquire that has
/// none.
pub fn fill_defaults(op: &mut Op, fresh_id: impl FnOnce() -> [u8; REQUEST_ID_BYTES]) {
    match op {
        Op::Acquire(r) => {
            if r.request_id.is_empty() {
                r.request_id = fresh_id().to_vec();
            }
            fill_acquire(r);
        }
        Op::Check(r) => default_to(&mut r.limit, ROWS_MAX),
        Op::History(r) => default_to(&mut r.limit, HISTORY_ROWS_DEFAULT),
        Op::List(r) => default_to(&mut r.limit, LIST_ROWS_DEFAULT),
        _ => {}
    }
}

/// Like [`fill_defaults`], at a node. It makes no request id, because an acquire could not be
/// retried through another node with an id that only this node knows.
pub fn fill_routed_defaults(op: &mut Routed) {
    match op {
        Routed::Acquire(r) => fill_acquire(r),
        Routed::Check(r) => default_to(&mut r.limit, ROWS_MAX),
        Routed::History(r) => default_to(&mut r.limit, HISTORY_ROWS_DEFAULT),
        Routed::List(r) => default_to(&mut r.limit, LIST_ROWS_DEFAULT),
        _ => {}
    }
}

fn fill_acquire(r: &mut AcquireRequest) {
    default_to(&mut r.ttl_ms, DEFAULT_TTL_MS);
    if r.mode() == Mode::Semaphore {
        default_to(&mut r.permits, 1);
    }
}

fn default_to(value: &mut u32, default: u32) {
    if *value == 0 {
        *value = default;
    }
}

fn empty() -> Error {
    Error::invalid("the operation is empty, or of a kind that this version does not know")
}

fn check_check(r: &CheckRequest) -> Result<(), Error> {
    if Consistency::try_from(r.consistency).is_err() {
        return Err(Error::invalid("unknown consistency: use linearizable or stale"));
    }
    if r.after_token >= TOKEN_END {
        return Err(Error::invalid(format!(
            "the token to go on after is {}: give the last one of the page before",
            r.after_token
        )));
    }
    check_rows(r.waiters_limit)?;
    check_rows(r.limit)
}

fn check_break(r: &BreakLockRequest) -> Result<(), Error> {
    check_token(r.fencing_token)?;
    if r.reason.trim().is_empty() {
        return Err(Error::invalid(
            "the reason is empty: say why the lock is broken, it is kept in its history",
        ));
    }
    at_most("reason", &r.reason, METADATA_BYTES_MAX)?;
    at_most("breaker", &r.broken_by, METADATA_BYTES_MAX)
}

fn check_list(r: &ListRequest) -> Result<(), Error> {
    at_most("prefix", &r.prefix, NAME_BYTES_MAX)?;
    at_most("owner", &r.owner, OWNER_BYTES_MAX)?;
    if !r.cursor.is_empty() && decode_cursor(&r.cursor).is_none() {
        return Err(Error::invalid(
            "the cursor is not one that a list answered: hand back its next_cursor as it is, or \
             begin without one",
        ));
    }
    check_rows(r.limit)
}

fn check_acquire(r: &AcquireRequest) -> Result<(), Error> {
    at_most("owner", &r.owner, OWNER_BYTES_MAX)?;
    at_most("session id", &r.session_id, SESSION_BYTES_MAX)?;
    at_most("metadata", &r.metadata, METADATA_BYTES_MAX)?;
    check_ttl(r.ttl_ms)?;
    if r.claim_ttl_ms != 0 && !CLAIM_TTL_MS.contains(&r.claim_ttl_ms) {
        return Err(Error::invalid(format!(
            "the claim TTL is {} ms: use {} ms to {} s, or 0 for none",
            r.claim_ttl_ms,
            CLAIM_TTL_MS.start(),
            CLAIM_TTL_MS.end() / 1_000
        )));
    }
    check_request_id(&r.request_id, true)?;
    if r.wait_ms > WAIT_MS_MAX {
        return Err(Error::invalid(format!(
            "the wait is {} ms: at most {WAIT_MS_MAX} (24 h)",
            r.wait_ms
        )));
    }
    match Mode::try_from(r.mode) {
        Ok(Mode::Semaphore) if r.permit_limit == 0 || r.permits > r.permit_limit => {
            Err(Error::invalid(format!(
                "{} permits of a semaphore of {}: take at least 1 and at most its limit",
                r.permits.max(1),
                r.permit_limit
            )))
        }
        Ok(Mode::Exclusive | Mode::Shared | Mode::Unspecified)
            if r.permits > 0 || r.permit_limit > 0 =>
        {
            Err(Error::invalid(
                "permits are for mode semaphore only: leave them out, or change the mode",
            ))
        }
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid("unknown mode: use exclusive, shared or semaphore")),
    }
}

fn check_ttl(ttl_ms: u32) -> Result<(), Error> {
    if ttl_ms == 0 || TTL_MS.contains(&ttl_ms) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the TTL is {ttl_ms} ms: use {} ms to {} h ({} ms)",
        TTL_MS.start(),
        TTL_MS.end() / 3_600_000,
        TTL_MS.end()
    )))
}

fn check_token(token: u64) -> Result<(), Error> {
    if token == 0 {
        return Err(Error::invalid(
            "the fencing token is 0: give the one that the acquire answered",
        ));
    }
    if token >= TOKEN_END {
        return Err(Error::invalid(format!(
            "the fencing token is {token}: all are below 2^53, give it as an integer"
        )));
    }
    Ok(())
}

fn check_request_id(id: &[u8], may_be_empty: bool) -> Result<(), Error> {
    if id.len() == REQUEST_ID_BYTES && id.iter().all(|byte| *byte == 0) {
        return Err(Error::invalid(format!(
            "the request id is all zeros: it is {REQUEST_ID_BYTES} random bytes"
        )));
    }
    if id.len() == REQUEST_ID_BYTES || (may_be_empty && id.is_empty()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the request id has {} bytes: it is {REQUEST_ID_BYTES} random bytes",
        id.len()
    )))
}

fn check_session(id: &str, shards: usize) -> Result<(), Error> {
    if id.is_empty() {
        return Err(Error::invalid("the session id is empty: open a session first"));
    }
    at_most("session id", id, SESSION_BYTES_MAX)?;
    if shards > SESSION_SHARDS_MAX {
        return Err(Error::invalid(format!("{shards} shards named: at most {SESSION_SHARDS_MAX}")));
    }
    Ok(())
}

fn check_rows(limit: u32) -> Result<(), Error> {
    if limit > ROWS_MAX {
        return Err(Error::invalid(format!("the limit is {limit}: at most {ROWS_MAX}")));
    }
    Ok(())
}

fn at_most(what: &str, value: &str, bytes_max: usize) -> Result<(), Error> {
    if value.len() > bytes_max {
        return Err(Error::invalid(format!(
            "the {what} has {} bytes: use at most {bytes_max}",
            value.len()
        )));
    }
    Ok(())
}
