//! Invariant 9: a waiter known to be in the queue before another one asked is granted first.
//!
//! From outside, the number of waiters in a check shows a place in the queue. If this number equals
//! the number of all requests that can be waiting, then all of them are waiting. Only acquires of a
//! single try count, because an acquire that was tried again may have lost its place between the
//! tries. It loses its place when its stream is gone for longer than the grace period.

use super::{Call, Index, Invariant, NameOperations, Outcome, Violation};
use std::collections::BTreeMap;

/// The longest time after its end for which an acquire of several tries may leave a try behind.
/// Such a try queues anew.
const STRAY_TRY_US: u64 = 60_000_000;

pub(super) fn check(
    index: &Index<'_>,
    name: &str,
    operations: &NameOperations,
    found: &mut Vec<Violation>,
) {
    let queued_by = queued_by(index, operations);
    let mut queued: Vec<(u64, u64, usize)> = Vec::new();
    let mut granted: Vec<(u64, u64, usize)> = Vec::new();
    for hold in &operations.holds {
        if let Some(by_us) = queued_by.get(&hold.operation) {
            queued.push((*by_us, hold.token, hold.operation));
        }
        granted.push((hold.invoke_us, hold.token, hold.operation));
    }
    queued.sort_unstable();
    granted.sort_unstable();
    let mut queued = queued.into_iter().peekable();
    let mut last: Option<(u64, u64, usize)> = None;
    for (invoke_us, token, at) in granted {
        while let Some(first) = queued.next_if(|first| first.0 < invoke_us) {
            if last.is_none_or(|other| other.1 < first.1) {
                last = Some(first);
            }
        }
        if let Some((by_us, later_token, first_at)) = last
            && later_token > token
        {
            found.push(Violation {
                invariant: Invariant::Fifo,
                what: format!(
                    "{name:?}: what got token {later_token} had queued by {by_us} us, and what was \
                     asked for at {invoke_us} us got token {token} before it"
                ),
                operations: vec![first_at, at],
            });
        }
    }
}

/// The time by which each acquire is known to be in the queue. Acquires without such a time are
/// left out.
fn queued_by(index: &Index<'_>, operations: &NameOperations) -> BTreeMap<usize, u64> {
    let mut known = BTreeMap::new();
    let mut begun = operations.all.iter().copied().filter(|&at| may_queue(index, at)).peekable();
    let mut maybe_waiting: Vec<usize> = Vec::new();
    let mut checks: Vec<(u64, u64, u32)> = Vec::new();
    for &at in &operations.all {
        let operation = index.operation(at);
        if let (
            Call::Check { linearizable: true },
            Outcome::Holders { waiters, .. },
            Some(return_us),
        ) = (&operation.call, &operation.result, operation.return_us)
        {
            checks.push((return_us, operation.invoke_us, *waiters));
        }
    }
    checks.sort_unstable();
    for (return_us, invoke_us, waiters) in checks {
        while let Some(at) = begun.next_if(|&at| index.operation(at).invoke_us <= return_us) {
            maybe_waiting.push(at);
        }
        // Checks overlap a little, so acquires that are over are kept for a while.
        maybe_waiting.retain(|&at| gone_us(index, at).saturating_add(STRAY_TRY_US) >= invoke_us);
        let candidates: Vec<usize> =
            maybe_waiting.iter().copied().filter(|&at| gone_us(index, at) >= invoke_us).collect();
        if waiters > 0 && candidates.len() == waiters as usize {
            for at in candidates {
                let operation = index.operation(at);
                if operation.tries == 1 && matches!(operation.result, Outcome::Granted { .. }) {
                    known.entry(at).or_insert(return_us);
                }
            }
        }
    }
    known
}

fn may_queue(index: &Index<'_>, at: usize) -> bool {
    let operation = index.operation(at);
    matches!(operation.call, Call::Acquire { wait_ms, .. } if wait_ms > 0)
        && operation.result != Outcome::NotDone
}

/// The time after which an acquire is surely no longer in the queue.
fn gone_us(index: &Index<'_>, at: usize) -> u64 {
    let operation = index.operation(at);
    match (operation.return_us, operation.tries) {
        (None, _) => u64::MAX,
        (Some(us), 1) => us,
        (Some(us), _) => us.saturating_add(STRAY_TRY_US),
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::Invariant;
    use crate::checker::testing::*;

    #[test]
    fn overtaking_is_found_once_the_queue_was_seen() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire_waiting(2, "a", 20..900, 3, 1_000);
        h.check_waiters(3, "a", 100..110, &[1], 1);
        h.acquire_waiting(4, "a", 200..600, 2, 1_000);
        h.release(1, "a", 500..510, 1);
        h.release(4, "a", 700..710, 2);
        h.expect(Invariant::Fifo);
    }

    #[test]
    fn without_proof_of_a_place_any_order_is_fine() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire_waiting(2, "a", 20..900, 3, 1_000);
        h.check_waiters(3, "a", 100..110, &[1], 0); // not there yet: its request is on its way
        h.acquire_waiting(4, "a", 200..600, 2, 1_000);
        h.release(1, "a", 500..510, 1);
        h.release(4, "a", 700..710, 2);
        h.expect_fine();
    }

    #[test]
    fn a_waiter_that_came_by_two_tries_may_have_lost_its_place() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire_waiting(2, "a", 20..900, 3, 1_000);
        h.history.operations.last_mut().unwrap().tries = 2;
        h.check_waiters(3, "a", 100..110, &[1], 1);
        h.acquire_waiting(4, "a", 200..600, 2, 1_000);
        h.release(1, "a", 500..510, 1);
        h.release(4, "a", 700..710, 2);
        h.expect_fine();
    }
}
