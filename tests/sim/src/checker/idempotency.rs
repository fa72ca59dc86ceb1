//! Invariant 7: one request id comes to at most one grant, always told with the same token.

use super::{Call, Index, Invariant, Outcome, Violation};
use std::collections::BTreeMap;

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut tokens: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    let mut reported = std::collections::BTreeSet::new();
    let mut note = |request: u64, token: u64, at: usize, whence: &str| {
        let (first, first_at) = *tokens.entry(request).or_insert((token, at));
        if first != token && reported.insert(request) {
            found.push(Violation {
                invariant: Invariant::Idempotency,
                what: format!(
                    "request {request} got token {first}, and by {whence} token {token} too"
                ),
                operations: [first_at, at].into_iter().filter(|at| *at != usize::MAX).collect(),
            });
        }
    };
    for (at, operation) in index.history.operations.iter().enumerate() {
        match (&operation.call, &operation.result) {
            (Call::Acquire { request, .. }, Outcome::Granted { token, .. }) => {
                note(*request, *token, at, "an answer")
            }
            (Call::Check { .. }, Outcome::Holders { holders, .. }) => {
                for holder in holders {
                    if let Some(request) = holder.request {
                        note(request, holder.token, at, "a check");
                    }
                }
            }
            _ => {}
        }
    }
    for tenure in index.history.tenures.iter().flatten() {
        if let Some(request) = tenure.request {
            let at = index.requests.get(&request).map_or(usize::MAX, |all| all[0]);
            note(request, tenure.token, at, "the history");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::testing::*;
    use crate::checker::{End, Invariant};

    #[test]
    fn a_retry_that_is_granted_anew_is_found_in_answers_and_in_the_history() {
        let mut h = Build::new();
        h.acquire_request(1, 50, "a", 0..10, 1, 100);
        h.release(1, "a", 20..30, 1);
        h.acquire_request(1, 50, "a", 40..50, 2, 100);
        h.expect_among(Invariant::Idempotency);
        let mut h = Build::new();
        h.acquire_request(1, 50, "a", 0..10, 1, 100);
        h.tenure("a", 1, Some(50), Some(End::Expired));
        h.tenure("a", 2, Some(50), Some(End::Expired));
        h.expect(Invariant::Idempotency);
    }

    #[test]
    fn a_retry_with_the_same_token_is_as_it_should_be() {
        let mut h = Build::new();
        h.acquire_request(1, 50, "a", 0..10, 1, 100);
        h.acquire_request(1, 50, "a", 40..50, 1, 100);
        h.expect_fine();
    }
}
