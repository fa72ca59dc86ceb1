//! Invariant 3: if a waiter queues, a silent holder is replaced within its TTL, a failover and a
//! tick.
//!
//! The module judges within calm stretches only. A waiter must wait through a stretch longer than
//! the bound, while no operation touches the name or a session that holds it. The bound allows for
//! one more holder between the two: an abandoned waiter, granted in its grace period, holds the
//! lock for a TTL.

use super::{Call, Index, Invariant, NameOperations, Outcome, Violation};

pub(super) fn check(
    index: &Index<'_>,
    name: &str,
    operations: &NameOperations,
    found: &mut Vec<Violation>,
) {
    let bounds = &index.history.bounds;
    if bounds.calm.is_empty() {
        return;
    }
    let mut longest_ttl_ms = 0;
    let mut waits: Vec<usize> = Vec::new();
    for &at in &operations.all {
        if let Call::Acquire { ttl_ms, wait_ms, .. } = index.operation(at).call {
            longest_ttl_ms = longest_ttl_ms.max(ttl_ms);
            if wait_ms > 0 {
                waits.push(at);
            }
        }
        if let Outcome::Granted { ttl_ms, .. } = index.operation(at).result {
            longest_ttl_ms = longest_ttl_ms.max(ttl_ms);
        }
    }
    let bound_us =
        2 * bounds.longest_us(longest_ttl_ms) + bounds.failover_us + bounds.waiter_grace_us;
    let mut news: Option<Vec<u64>> = None;
    for at in waits {
        let operation = index.operation(at);
        let until_us = operation.return_us.unwrap_or(operation.invoke_us);
        for &(calm_from_us, calm_to_us) in &bounds.calm {
            let (from_us, to_us) =
                (operation.invoke_us.max(calm_from_us), until_us.min(calm_to_us));
            if to_us.saturating_sub(from_us) <= bound_us {
                continue;
            }
            let news = news.get_or_insert_with(|| news_of(index, operations));
            let first = news.partition_point(|us| *us < from_us);
            let mut before_us = from_us;
            for us in news[first..].iter().copied().take_while(|us| *us < to_us).chain([to_us]) {
                if us - before_us > bound_us {
                    found.push(Violation {
                        invariant: Invariant::BoundedLateExpiry,
                        what: format!(
                            "{name:?}: nothing happened from {before_us} to {us} us, all calm, \
                             with a waiter and TTLs of at most {longest_ttl_ms} ms; {bound_us} us \
                             are the bound"
                        ),
                        operations: vec![at],
                    });
                    break;
                }
                before_us = us;
            }
        }
    }
}

/// The times of all operations that can keep or change the set of holders.
fn news_of(index: &Index<'_>, operations: &NameOperations) -> Vec<u64> {
    let mut news = Vec::new();
    let mut note = |at: usize| {
        let operation = index.operation(at);
        news.push(operation.invoke_us);
        news.extend(operation.return_us);
    };
    for &at in &operations.all {
        let operation = index.operation(at);
        if !matches!(operation.call, Call::Check { .. }) && operation.result != Outcome::Fenced {
            note(at);
        }
        if let Call::Acquire { session, .. } = operation.call
            && session != 0
        {
            index
                .sessions
                .get(&(operation.shard, session))
                .into_iter()
                .flatten()
                .for_each(|&at| note(at));
        }
    }
    news.sort_unstable();
    news.dedup();
    news
}

#[cfg(test)]
mod tests {
    use crate::checker::Invariant;
    use crate::checker::testing::*;

    fn waiter(until_ms: u64, calm: &[(u64, u64)]) -> Build {
        let mut h = Build::new();
        h.history.bounds.failover_us = 5_000_000;
        h.history.bounds.waiter_grace_us = 1_000_000;
        h.history.bounds.calm = calm.iter().map(|(from, to)| (from * 1_000, to * 1_000)).collect();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire_waiting(2, "a", 20..until_ms, 2, 1_000);
        h
    }

    #[test]
    fn a_holder_that_never_expires_is_found() {
        waiter(60_000, &[(0, 100_000)]).expect(Invariant::BoundedLateExpiry);
    }

    #[test]
    fn in_time_or_amid_faults_or_kept_alive_is_fine() {
        waiter(5_000, &[(0, 100_000)]).expect_fine();
        waiter(60_000, &[(0, 7_000), (20_000, 27_000)]).expect_fine();
        let mut h = waiter(60_000, &[(0, 100_000)]);
        for at in 1..60 {
            h.renew(1, "a", at * 900..at * 900 + 5, 1);
        }
        h.expect_fine();
    }
}
