//! The sites of the bugs that are planted in this crate, one hook for each. A build without planted
//! bugs has nothing but the first argument of each hook.

use crate::types::{LeaseId, Outcome, SessionAlive, Stamp, Token};
use planted::Bug;

/// The request that an acquire repeats. With [`Bug::RetryGrantedTwice`] a request that was granted
/// and has ended counts as unknown, so it is granted again.
#[inline]
pub(crate) fn repeated<R>(shipped: Option<R>, has_ended: impl FnOnce(&R) -> bool) -> Option<R> {
    shipped.filter(|request| !planted::is(Bug::RetryGrantedTwice) || !has_ended(request))
}

/// The mode that is compared with those of shared holders. With [`Bug::SharedWithExclusive`] an
/// exclusive holder joins them.
#[inline]
pub(crate) fn joins_shared(shipped: bool, is_exclusive: bool) -> bool {
    shipped || is_exclusive && planted::is(Bug::SharedWithExclusive)
}

/// The limit of a semaphore. With [`Bug::PermitTooMany`] it is one too high.
#[inline]
pub(crate) fn permit_limit(shipped: u32) -> u32 {
    if planted::is(Bug::PermitTooMany) { shipped + 1 } else { shipped }
}

/// The terms of a grant. With [`Bug::ClaimIgnored`] every waiter gets a full TTL at once.
#[inline]
pub(crate) fn granted_terms<T>(mut shipped: T, claim: impl FnOnce(&mut T)) -> T {
    if planted::is(Bug::ClaimIgnored) {
        claim(&mut shipped);
    }
    shipped
}

/// The part of the hash of a deleted record that the sum loses. With [`Bug::HashOfGoneKept`] the
/// record still counts.
#[inline]
pub(crate) fn hash_of_gone(shipped: u64) -> u64 {
    if planted::is(Bug::HashOfGoneKept) { 0 } else { shipped }
}

/// The waiter that is served next. With [`Bug::LastComeFirstServed`] it is the last to come.
#[inline]
pub(crate) fn served_next(shipped: u32, last: u32) -> u32 {
    if planted::is(Bug::LastComeFirstServed) { last } else { shipped }
}

/// Whether the request of a cancelled wait is buried. With [`Bug::TombstoneForgotten`] a late copy
/// counts as a new request.
#[inline]
pub(crate) fn is_buried(shipped: bool) -> bool {
    shipped && !planted::is(Bug::TombstoneForgotten)
}

/// Whether a record is in a snapshot. With [`Bug::SnapshotWithoutQueue`] those of waiters are not, so
/// a replica that catches up forgets them.
#[inline]
pub(crate) fn is_saved(of_a_waiter: bool) -> bool {
    !(of_a_waiter && planted::is(Bug::SnapshotWithoutQueue))
}

/// The last token of a restored table. With [`Bug::TokenCounterLostBySnapshot`] tokens continue
/// from the highest one that is held.
#[inline]
pub(crate) fn restored_last_token(shipped: u64, held: impl Iterator<Item = u64>) -> u64 {
    if planted::is(Bug::TokenCounterLostBySnapshot) { held.max().unwrap_or(0) } else { shipped }
}

/// The token that a release ends. With [`Bug::StaleRelease`] any token ends the oldest hold.
#[inline]
pub(crate) fn released_token(shipped: Token, oldest: impl FnOnce() -> Token) -> Token {
    if planted::is(Bug::StaleRelease) { oldest() } else { shipped }
}

/// The identity that releases a grant. With [`Bug::OtherIdentityReleases`] any identity releases the
/// grants of all.
#[inline]
pub(crate) fn releasing_principal(shipped: &str) -> &str {
    if planted::is(Bug::OtherIdentityReleases) { "" } else { shipped }
}

/// The identity that gives up a request. With [`Bug::OtherIdentityCancels`] any identity ends the
/// waits of all.
#[inline]
pub(crate) fn cancelling_principal(shipped: &str) -> &str {
    if planted::is(Bug::OtherIdentityCancels) { "" } else { shipped }
}

/// A count that must exist, because its row does. With [`Bug::QuotaNotRestored`] it may be missing.
#[inline]
pub(crate) fn counted<T>(shipped: Option<T>) -> Option<T> {
    assert!(
        shipped.is_some() || planted::is(Bug::QuotaNotRestored),
        "a row of an identity was never counted"
    );
    shipped
}

/// Loading a table counts the rows of all identities. With [`Bug::QuotaNotRestored`] a replica that
/// restarts or catches up forgets the counts.
#[inline]
pub(crate) fn forget_counts(forget: impl FnOnce()) {
    if planted::is(Bug::QuotaNotRestored) {
        forget();
    }
}

/// The session that hears of a release. With [`Bug::ReleaseNotTold`] it still counts on the grant.
#[inline]
pub(crate) fn told_of_release(shipped: Option<u32>) -> Option<u32> {
    shipped.filter(|_| !planted::is(Bug::ReleaseNotTold))
}

/// The session that hears of a break. With [`Bug::BreakNotTold`] it still counts on the grant.
#[inline]
pub(crate) fn told_of_break(shipped: Option<u32>) -> Option<u32> {
    shipped.filter(|_| !planted::is(Bug::BreakNotTold))
}

/// The answer to a renewal by a token that does not hold the lock. With [`Bug::ExpiredRenewed`] the
/// caller is told that its expired lease lives.
#[inline]
pub(crate) fn refused_renewal(shipped: Outcome, at: Stamp) -> Outcome {
    match shipped {
        Outcome::LeaseExpired { .. } if planted::is(Bug::ExpiredRenewed) => {
            Outcome::Renewed { ttl_ms: 1_000, expires_wall_ms: at.wall_ms + 1_000, renewals: 1 }
        }
        shipped => shipped,
    }
}

/// The answer to the heartbeat of a session that has ended. With [`Bug::DeadSessionHeartbeat`] the
/// caller is told that its session lives.
#[inline]
pub(crate) fn dead_sessions_heartbeat(shipped: Outcome, life: LeaseId) -> Outcome {
    if !planted::is(Bug::DeadSessionHeartbeat) {
        return shipped;
    }
    Outcome::HeartbeatOk(SessionAlive {
        life,
        ttl_ms: 1_000,
        broken_count: 0,
        broken: Vec::new(),
        broken_overflow: false,
    })
}

/// Whether a heartbeat is for any life of its session. With [`Bug::HeartbeatAnyLife`] every one is.
#[inline]
pub(crate) fn is_for_any_life(shipped: bool) -> bool {
    shipped || planted::is(Bug::HeartbeatAnyLife)
}

/// Whether an expiry names the life that the lease has now. With [`Bug::ExpiryIgnoresRenewal`] it
/// ends any life.
#[inline]
pub(crate) fn is_timed_life(shipped: bool) -> bool {
    shipped || planted::is(Bug::ExpiryIgnoresRenewal)
}

/// The lock that is settled once its lease has expired. With [`Bug::WaiterStarved`] it is none if
/// any waiter is in its queue, so that no waiter is granted the lock.
#[inline]
pub(crate) fn settled_after_expiry(shipped: u32, queue_len: u32, none: u32) -> u32 {
    if planted::is(Bug::WaiterStarved) && queue_len > 0 { none } else { shipped }
}

/// The waiters that leave their queues with their session. With [`Bug::GrantToDeadWaiter`] they
/// stay there, though the session is dead.
#[inline]
pub(crate) fn waiters_that_leave(shipped: Vec<u32>) -> Vec<u32> {
    if planted::is(Bug::GrantToDeadWaiter) { Vec::new() } else { shipped }
}

/// The row at which a new leader goes on. With [`Bug::RowNotTakenOver`] it passes over one.
#[inline]
pub(crate) fn next_row(shipped: u32) -> u32 {
    if planted::is(Bug::RowNotTakenOver) { shipped + 1 } else { shipped }
}
