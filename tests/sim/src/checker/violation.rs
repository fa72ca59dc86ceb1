//! The invariants, their violations, and the result of a check. The module does not know how a
//! history is judged.

use std::fmt;

/// The invariants, numbered as in `docs/safety.md`. Number 11 has no check of its own, because it
/// is all of these across a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Invariant 1: safe intervals of incompatible grants are disjoint.
    Exclusion,
    /// Invariant 2: a next grant returns after the former safe interval.
    NoEarlyExpiry,
    /// Invariant 3: a silent holder is replaced within a bound.
    BoundedLateExpiry,
    /// Invariant 4: a token is issued once, and tokens rise.
    Tokens,
    /// Invariant 5: an acknowledged grant shows in every linearizable check.
    Durability,
    /// Invariant 6: an outdated token has no effect.
    Fencing,
    /// Invariant 7: one request id comes to one grant.
    Idempotency,
    /// Invariant 8: linearizable checks fit one order in real time.
    Linearizability,
    /// Invariant 9: waiters are granted in the order of their queue.
    Fifo,
    /// Invariant 10: the service's history agrees with its answers.
    Tenures,
    /// Invariant 12: equal applied indexes have equal states.
    Convergence,
    /// Invariant 13: a heartbeat of a former life is refused.
    SessionLife,
    /// Invariant 14: a cancelled request is never granted.
    GivenUp,
    /// Invariant 15: an operation on what another identity has is refused.
    Identity,
    /// Invariant 16: no identity exceeds its quota.
    Quota,
    /// Invariant 17: a watch tells each committed change once and in order, on whichever replicas.
    Watch,
    /// Invariant 18: no two lives of replicas have one peer id.
    OneLife,
    /// Invariant 19: a change of members leaves a quorum of voters with their data.
    Quorums,
    /// Invariant 21: no entry is applied above the group's level, and no group is above the cluster's.
    Level,
    /// Without a number: no process goes back to an older topology.
    Topology,
    /// Without a number: when faults stop, every shard serves again.
    Liveness,
    /// Without a number: no replica stops by itself.
    NoCrash,
}

impl Invariant {
    /// The title of the invariant, as in `docs/safety.md`.
    pub fn title(self) -> &'static str {
        match self {
            Invariant::Exclusion => "1 exclusion",
            Invariant::NoEarlyExpiry => "2 no early expiry",
            Invariant::BoundedLateExpiry => "3 bounded late expiry",
            Invariant::Tokens => "4 tokens",
            Invariant::Durability => "5 acknowledged, never lost",
            Invariant::Fencing => "6 stale holder refused",
            Invariant::Idempotency => "7 one request, one grant",
            Invariant::Linearizability => "8 linearizable checks",
            Invariant::Fifo => "9 first come, first granted",
            Invariant::Tenures => "10 history",
            Invariant::Convergence => "12 equal index, equal state",
            Invariant::SessionLife => "13 sessions hear what they lost",
            Invariant::GivenUp => "14 given up, never granted",
            Invariant::Identity => "15 other identities touch nothing",
            Invariant::Quota => "16 quotas",
            Invariant::Watch => "17 watches",
            Invariant::OneLife => "18 one life, one id",
            Invariant::Quorums => "19 quorums",
            Invariant::Level => "21 levels",
            Invariant::Topology => "topology newer only",
            Invariant::Liveness => "liveness",
            Invariant::NoCrash => "no crash of its own",
        }
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant that does not hold.
    pub invariant: Invariant,
    /// A description of the violation, for people.
    pub what: String,
    /// The operations that show it, as places in the history.
    pub operations: Vec<usize>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant.title(), self.what)
    }
}

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The violations found. Empty if every invariant holds.
    pub violations: Vec<Violation>,
    /// The names with a search for a linearization that grew too large. Such a name is neither a
    /// violation nor a proof.
    pub undecided_names: Vec<String>,
}
