//! Bugs planted on purpose, to show that the checker of the simulator can fail.
//!
//! Only builds with the feature `planted-bugs` have them. A test chooses at most one per thread.
//! Without the feature there is nothing to choose, and [`is`] is `false` at compile time.
//!
//! The crate knows nothing of the bugs but their names. Each crate that has some keeps its hooks in
//! a file of its own, one hook for each site, so that its other files show only code that ships.

/// The bugs that a test can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // described where they are planted
pub enum Bug {
    // Planted in `locks`.
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
    ReleaseNotTold,
    TombstoneForgotten,
    ClaimIgnored,
    HashOfGoneKept,
    OtherIdentityReleases,
    OtherIdentityCancels,
    QuotaNotRestored,
    RowNotTakenOver,
    // Planted in `shard`.
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
    WatchMissesNewTerm,
    WatchTellsProposed,
    LearnerPromotedEarly,
    LeaderRemovesItself,
    OldWishWins,
    TwoChangesAtOnce,
    LiveRemovedBeforeDead,
    SnapshotWithoutReceiver,
    DestroyedByHearsay,
    ProposalToldEarly,
    FoundersOfTheFile,
    CommandAheadOfLevel,
    // Planted in `watch`.
    WatchSkipsOnResume,
    // Planted in `service`.
    UnknownToldAsNotDone,
    // Planted in `link`.
    DoubtForgotten,
    // Planted in `gateway`.
    RetriedUnderNewId,
    // Planted in `client`.
    ValidityTooLong,
    // Planted in `routing`.
    OlderRoutesTaken,
    // Planted in the simulator, which gives births.
    BirthReused,
}

impl Bug {
    /// Every bug, in the order of declaration.
    pub const ALL: &[Bug] = &[
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
        Bug::ReleaseNotTold,
        Bug::TombstoneForgotten,
        Bug::ClaimIgnored,
        Bug::HashOfGoneKept,
        Bug::OtherIdentityReleases,
        Bug::OtherIdentityCancels,
        Bug::QuotaNotRestored,
        Bug::RowNotTakenOver,
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
        Bug::WatchMissesNewTerm,
        Bug::WatchTellsProposed,
        Bug::LearnerPromotedEarly,
        Bug::LeaderRemovesItself,
        Bug::OldWishWins,
        Bug::TwoChangesAtOnce,
        Bug::LiveRemovedBeforeDead,
        Bug::SnapshotWithoutReceiver,
        Bug::DestroyedByHearsay,
        Bug::ProposalToldEarly,
        Bug::FoundersOfTheFile,
        Bug::CommandAheadOfLevel,
        Bug::WatchSkipsOnResume,
        Bug::UnknownToldAsNotDone,
        Bug::DoubtForgotten,
        Bug::RetriedUnderNewId,
        Bug::ValidityTooLong,
        Bug::OlderRoutesTaken,
        Bug::BirthReused,
    ];

    /// Whether the bug is one of META, the group of the topology. All other bugs must be caught
    /// without META.
    pub fn is_of_meta(self) -> bool {
        matches!(self, Bug::ProposalToldEarly | Bug::FoundersOfTheFile)
    }
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Gives this thread the bug `bug`, or none. It has at most one at a time.
    pub fn choose(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    /// Whether this thread was given the bug `bug`.
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod switch {
    /// Always `false`: this build has no planted bugs.
    #[inline(always)]
    pub const fn is(_: super::Bug) -> bool {
        false
    }
}

pub use switch::*;

/// Whether this build has planted bugs.
pub const AVAILABLE: bool = cfg!(feature = "planted-bugs");
