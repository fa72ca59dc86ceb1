//! Invariant 5: within the safe interval of an acknowledged grant, every linearizable check shows
//! its token.

use super::{Call, Hold, Index, Invariant, NameOperations, Outcome, Violation};

pub(super) fn check(
    index: &Index<'_>,
    name: &str,
    operations: &NameOperations,
    found: &mut Vec<Violation>,
) {
    let mut holds: Vec<&Hold> =
        operations.holds.iter().filter(|hold| hold.start_us < hold.end_us).collect();
    holds.sort_by_key(|hold| hold.start_us);
    let mut begun = holds.into_iter().peekable();
    let mut current: Vec<&Hold> = Vec::new();
    for &at in &operations.all {
        let operation = index.operation(at);
        let (Call::Check { linearizable: true }, Outcome::Holders { holders, .. }, Some(return_us)) =
            (&operation.call, &operation.result, operation.return_us)
        else {
            continue;
        };
        while let Some(hold) = begun.next_if(|hold| hold.start_us <= operation.invoke_us) {
            current.push(hold);
        }
        current.retain(|hold| hold.end_us > operation.invoke_us);
        for hold in &current {
            if return_us <= hold.end_us && holders.iter().all(|holder| holder.token != hold.token) {
                found.push(Violation {
                    invariant: Invariant::Durability,
                    what: format!(
                        "{name:?}: token {}, good from {} to {} us, is missing in a check from {} \
                         to {return_us} us, which shows {holders:?}",
                        hold.token, hold.start_us, hold.end_us, operation.invoke_us
                    ),
                    operations: vec![hold.operation, at],
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::Invariant;
    use crate::checker::testing::*;

    #[test]
    fn a_lost_grant_is_found() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.check(2, "a", 20..30, &[]);
        h.expect(Invariant::Durability);
    }

    #[test]
    fn a_check_beside_the_interval_shows_what_it_likes() {
        let mut h = Build::new();
        h.check(2, "a", 0..10, &[]); // before
        h.acquire(1, "a", 5..20, 1, 1_000);
        h.check(2, "a", 15..30, &[1]);
        h.check(2, "a", 900..1_100, &[]); // reaches past the TTL
        h.expect_fine();
        h.stale_check(2, "a", 100..110, &[]); // never claimed to be current
        h.expect_fine();
    }
}
