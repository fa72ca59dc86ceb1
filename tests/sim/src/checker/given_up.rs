//! Invariant 14: a request is never granted after its cancel was answered without its grant.
//!
//! Two kinds of record show a violation: later checks, and copies that a server took in later and
//! granted, if the run recorded them.

use super::{Call, Index, Invariant, Outcome, Violation};
use std::collections::BTreeMap;

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut given_up: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for (at, operation) in index.history.operations.iter().enumerate() {
        if let (Call::CancelWait { request }, Outcome::Cancelled { held: false }, Some(us)) =
            (&operation.call, &operation.result, operation.return_us)
        {
            given_up.entry(*request).or_insert((us, at));
        }
    }
    if given_up.is_empty() {
        return;
    }
    let mut note = |request: u64, token: u64, from_us: u64, at: Option<usize>| {
        let Some((by_us, cancel)) =
            given_up.get(&request).copied().filter(|(by_us, _)| *by_us < from_us)
        else {
            return;
        };
        let what = format!(
            "request {request} was given up by {by_us} us, and has token {token} by what began at \
             {from_us} us"
        );
        let operations = [cancel].into_iter().chain(at).collect();
        found.push(Violation { invariant: Invariant::GivenUp, what, operations });
    };
    for late in &index.history.late_grants {
        note(late.request, late.token, late.taken_us, None);
    }
    for (at, operation) in index.history.operations.iter().enumerate() {
        if let (Call::Check { linearizable: true }, Outcome::Holders { holders, .. }) =
            (&operation.call, &operation.result)
        {
            for holder in holders {
                if let Some(request) = holder.request {
                    note(request, holder.token, operation.invoke_us, Some(at));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::testing::*;
    use crate::checker::{Invariant, LateGrant};

    #[test]
    fn a_grant_of_what_was_given_up_is_found_in_copies_and_checks() {
        let mut h = Build::new();
        h.acquire_unanswered(1, 50, "a", 0);
        h.cancel(1, 50, "a", 20..30, false);
        h.check_requests(2, "a", 25..40, &[]);
        h.expect_fine();
        let mut late = Build::new();
        late.acquire_unanswered(1, 50, "a", 0);
        late.cancel(1, 50, "a", 20..30, false);
        late.check_requests(2, "a", 40..50, &[(1, 50)]);
        late.expect(Invariant::GivenUp);
        let copy = |taken_us| LateGrant { request: 50, token: 1, taken_us };
        h.history.late_grants = vec![copy(29_000)];
        h.expect_fine();
        h.history.late_grants = vec![copy(31_000)];
        h.expect(Invariant::GivenUp);
    }

    #[test]
    fn a_cancel_that_told_of_the_grant_gives_up_nothing() {
        let mut h = Build::new();
        h.acquire_unanswered(1, 50, "a", 0);
        h.cancel(1, 50, "a", 20..30, true);
        h.check_requests(2, "a", 40..50, &[(1, 50)]);
        h.expect_fine();
    }
}
