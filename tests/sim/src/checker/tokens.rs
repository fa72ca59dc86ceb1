//! Invariant 4: a token is issued once. A grant that returned before another was asked for has the
//! lower token.

use super::{Index, Invariant, NameOperations, Violation};
use std::collections::BTreeMap;

pub(super) fn check(name: &str, operations: &NameOperations, found: &mut Vec<Violation>) {
    let mut by_return: Vec<_> = operations.holds.iter().collect();
    by_return.sort_by_key(|hold| hold.start_us);
    let mut by_invoke = by_return.clone();
    by_invoke.sort_by_key(|hold| hold.invoke_us);
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<&super::Hold> = None;
    for hold in by_invoke {
        while let Some(earlier) = returned.next_if(|earlier| earlier.start_us < hold.invoke_us) {
            if highest.is_none_or(|other| other.token < earlier.token) {
                highest = Some(earlier);
            }
        }
        if let Some(earlier) = highest
            && earlier.token >= hold.token
            && earlier.request != hold.request
        {
            found.push(Violation {
                invariant: Invariant::Tokens,
                what: format!(
                    "{name:?}: token {} had been handed out when what got token {} was asked for",
                    earlier.token, hold.token
                ),
                operations: vec![earlier.operation, hold.operation],
            });
        }
    }
}

/// Each token of a shard belongs to one request of one name.
pub(super) fn check_shards(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut seen: BTreeMap<(u32, u64), (u64, &str, usize)> = BTreeMap::new();
    for (&(shard, name), operations) in &index.names {
        for hold in &operations.holds {
            let (request, first_name, at) =
                *seen.entry((shard, hold.token)).or_insert((hold.request, name, hold.operation));
            if (request, first_name) != (hold.request, name) {
                found.push(Violation {
                    invariant: Invariant::Tokens,
                    what: format!(
                        "shard {shard}: token {} was given for {first_name:?} and for {name:?}",
                        hold.token
                    ),
                    operations: vec![at, hold.operation],
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
    fn a_token_that_fell_back_is_found() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 5, 1_000);
        h.release(1, "a", 20..30, 5);
        h.acquire(2, "a", 40..50, 4, 1_000);
        h.expect(Invariant::Tokens);
    }

    #[test]
    fn a_token_given_twice_is_found_even_for_two_names() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 5, 1_000);
        h.acquire(2, "b", 40..50, 5, 1_000);
        h.expect(Invariant::Tokens);
    }

    #[test]
    fn overlapping_acquires_may_be_granted_in_any_order() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..2_000, 5, 1_000);
        h.acquire(2, "a", 10..30, 4, 100);
        h.release(2, "a", 40..50, 4);
        h.expect_fine();
    }
}
