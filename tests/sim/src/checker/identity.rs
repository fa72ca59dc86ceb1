//! Invariant 15: an operation on a grant, wait or session of another identity is refused, as if that
//! did not exist.
//!
//! No answer to a thief differs from the answer to a token, request or session that never was. The
//! run records that answer as [`Outcome::Refused`], and any other as what it is. That the operation
//! changes nothing is judged by the other invariants, from the answers to the owner, and by probes of
//! the replicas' tables (`tests/sim/src/world/probes.rs`).

use super::{Call, Index, Invariant, Outcome, Violation};

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for (at, operation) in index.history.operations.iter().enumerate() {
        let Call::Attack(call) = &operation.call else { continue };
        match operation.result {
            Outcome::Unknown | Outcome::NotDone | Outcome::Refused => {}
            _ => found.push(Violation {
                invariant: Invariant::Identity,
                what: format!(
                    "{:?}: {call:?} by another identity came to {:?}",
                    operation.name, operation.result
                ),
                operations: vec![at],
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::testing::*;
    use crate::checker::{Call, Invariant, Outcome};

    #[test]
    fn an_attack_that_succeeds_is_found_and_a_refused_one_is_fine() {
        let of = |result: Outcome| {
            let mut h = Build::new();
            h.acquire(1, "a", 0..10, 1, 100);
            let attack = Call::Attack(Box::new(Call::Release { token: 1 }));
            h.answered(2, "a", 20..30, attack, result);
            h
        };
        for result in [Outcome::Refused, Outcome::NotDone, Outcome::Unknown] {
            of(result).expect_fine();
        }
        // It is told that the token has expired, so it knows that the token was right.
        of(Outcome::Fenced).expect(Invariant::Identity);
        for already in [false, true] {
            of(Outcome::Released { already }).expect(Invariant::Identity);
        }
        of(Outcome::Renewed).expect(Invariant::Identity);
        of(Outcome::Cancelled { held: false }).expect(Invariant::Identity);
    }
}
