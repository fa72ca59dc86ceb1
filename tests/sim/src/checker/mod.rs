//! The judge: a recorded history in, violations of the safety invariants out.
//!
//! One small module per invariant, numbered as in `docs/safety.md`. Simulated and real runs are judged by the same code. It
//! knows nothing of how the history came about, and trusts nothing but what clients were told.

mod convergence;
mod durability;
mod early_expiry;
mod exclusion;
mod fencing;
mod fifo;
mod given_up;
mod history;
mod idempotency;
mod index;
mod late_expiry;
mod linearizable;
mod session_life;
mod tenures;
#[cfg(test)]
mod testing;
mod tokens;

pub use convergence::{Sample, check_convergence};
pub use history::*;
pub use index::{Hold, Index, NameOperations};

use std::fmt;

/// What must hold. Numbers as in `docs/safety.md`; 11 is all of these across a move, and no check of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// 1
    Exclusion,
    /// 2
    NoEarlyExpiry,
    /// 3
    BoundedLateExpiry,
    /// 4
    Tokens,
    /// 5
    Durability,
    /// 6
    Fencing,
    /// 7
    Idempotency,
    /// 8
    Linearizability,
    /// 9
    Fifo,
    /// 10
    Tenures,
    /// 12
    Convergence,
    /// 13
    SessionLife,
    /// 14
    GivenUp,
    /// Not numbered: when faults stop, everything serves again.
    Liveness,
    /// Not numbered: no replica stops by its own doing.
    NoCrash,
}

impl Invariant {
    /// As in `docs/safety.md`.
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
            Invariant::Liveness => "liveness",
            Invariant::NoCrash => "no crash of its own",
        }
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What does not hold.
    pub invariant: Invariant,
    /// How, for people.
    pub what: String,
    /// The operations that show it, as places in the history.
    pub operations: Vec<usize>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant.title(), self.what)
    }
}

/// What the judge came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Empty: all is well.
    pub violations: Vec<Violation>,
    /// Names whose search for a linearization was given up for its size. Not a violation, and not a proof.
    pub undecided_names: Vec<String>,
}

/// Judges a history by invariants 1 to 10, 13 and 14.
pub fn check(history: &History) -> Verdict {
    let index = Index::new(history);
    let mut verdict = Verdict::default();
    let found = &mut verdict.violations;
    for ((_, name), operations) in &index.names {
        exclusion::check(name, operations, found);
        early_expiry::check(name, operations, found);
        late_expiry::check(&index, name, operations, found);
        tokens::check(name, operations, found);
        durability::check(&index, name, operations, found);
        fencing::check(&index, name, operations, found);
        fifo::check(&index, name, operations, found);
    }
    exclusion::check_beliefs(&index, found);
    tokens::check_shards(&index, found);
    fencing::check_closed_sessions(&index, found);
    idempotency::check(&index, found);
    tenures::check(&index, found);
    session_life::check(&index, found);
    given_up::check(&index, found);
    for (key, operations) in &index.names {
        match linearizable::check(&index, key.0, operations) {
            linearizable::Search::Fine => {}
            linearizable::Search::Violated { at, holders } => {
                let shown = &index.operation(at).result;
                let what =
                    format!("{:?}: no order of its operations explains {shown:?} (possible then: {holders:?})", key.1);
                verdict.violations.push(Violation {
                    invariant: Invariant::Linearizability,
                    what,
                    operations: vec![at],
                });
            }
            linearizable::Search::GivenUp => verdict.undecided_names.push(key.1.to_owned()),
        }
    }
    verdict
}
