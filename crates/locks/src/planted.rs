//! Bugs planted on purpose, to show that the checker can fail: in builds with the feature `planted-bugs` only, one at a time,
//! chosen per thread. Without the feature there is nothing here to choose, and [`is`] is `false` at compile time.
//!
//! Those of the crate above (`shard`) are chosen here, too, so that there is one switch.

/// What can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // each says what it is where it is planted
pub enum Bug {
    // Here.
    TokenCounterLostBySnapshot,
    SnapshotWithoutQueue,
    RetryGrantedTwice,
    GrantToDeadWaiter,
    WaiterStarved,
    LastComeFirstServed,
    StaleRelease,
    ExpiredRenewed,
    ExpiryIgnoresRenewal,
    DeadSessionHeartbeat,
    SharedWithExclusive,
    PermitTooMany,
    HeartbeatAnyLife,
    BreakNotTold,
    TombstoneForgotten,
    ClaimIgnored,
    HashOfGoneKept,
    // In `shard`.
    ReadContextReused,
    ReadsWhileDeposed,
    AckBeforeFsync,
    VoteNotWritten,
    ExpiryWithoutQuorum,
    EarlyTtlAfterFailover,
    EarlyRest,
    StampBeforeClock,
    RestartsFullTtl,
    AppliedAheadOfState,
    HistoryEndMissing,
    WaiterToldNotDone,
    AppendsBatchedByRaft,
    ReseededUnderOldName,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 31] = [
        Bug::TokenCounterLostBySnapshot,
        Bug::SnapshotWithoutQueue,
        Bug::RetryGrantedTwice,
        Bug::GrantToDeadWaiter,
        Bug::WaiterStarved,
        Bug::LastComeFirstServed,
        Bug::StaleRelease,
        Bug::ExpiredRenewed,
        Bug::ExpiryIgnoresRenewal,
        Bug::DeadSessionHeartbeat,
        Bug::SharedWithExclusive,
        Bug::PermitTooMany,
        Bug::HeartbeatAnyLife,
        Bug::BreakNotTold,
        Bug::TombstoneForgotten,
        Bug::ClaimIgnored,
        Bug::HashOfGoneKept,
        Bug::ReadContextReused,
        Bug::ReadsWhileDeposed,
        Bug::AckBeforeFsync,
        Bug::VoteNotWritten,
        Bug::ExpiryWithoutQuorum,
        Bug::EarlyTtlAfterFailover,
        Bug::EarlyRest,
        Bug::StampBeforeClock,
        Bug::RestartsFullTtl,
        Bug::AppliedAheadOfState,
        Bug::HistoryEndMissing,
        Bug::WaiterToldNotDone,
        Bug::AppendsBatchedByRaft,
        Bug::ReseededUnderOldName,
    ];
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// From now on this thread has this bug, and no other.
    pub fn choose(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    /// Whether this thread has this bug.
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod switch {
    /// Never: this build has no planted bugs.
    #[inline(always)]
    pub const fn is(_: super::Bug) -> bool {
        false
    }
}

pub use switch::*;
