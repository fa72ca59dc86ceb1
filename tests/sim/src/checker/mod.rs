//! The checker: takes a recorded history and returns violations of the safety invariants.
//!
//! There is one small module per invariant, numbered as in `docs/safety.md`. The same code judges
//! simulated and real runs. The checker does not know how the history came about. It trusts only
//! the answers that clients received.

mod convergence;
mod durability;
mod early_expiry;
mod exclusion;
mod fencing;
mod fifo;
mod given_up;
pub(crate) mod groups;
mod history;
mod idempotency;
mod identity;
mod index;
mod late_expiry;
mod linearizable;
pub(crate) mod plans;
mod session_life;
mod tenures;
#[cfg(test)]
mod testing;
mod tokens;
mod violation;
pub mod watch;
mod watched;

pub use convergence::{Sample, check_convergence};
pub use history::*;
pub use index::{Hold, Index, NameOperations};
pub use violation::{Invariant, Verdict, Violation};
pub use watched::*;

/// Judges a history by invariants 1 to 10 and 13 to 15.
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
    identity::check(&index, found);
    for (key, operations) in &index.names {
        match linearizable::check(&index, key.0, operations) {
            linearizable::Search::Fine => {}
            linearizable::Search::Violated { at, holders } => {
                let shown = &index.operation(at).result;
                let what = format!(
                    "{:?}: no order of its operations explains {shown:?} (possible then: \
                     {holders:?})",
                    key.1
                );
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
