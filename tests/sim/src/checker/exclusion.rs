//! Invariant 1: safe intervals of incompatible grants of a name are disjoint. Permits add up to no
//! more than their limit.

use super::{Hold, Index, Invariant, Mode, NameOperations, Violation};
use std::collections::BTreeMap;

/// The largest difference of clock rates that an SDK can allow for. Beyond it fencing still holds,
/// but a holder's belief may be wrong.
const BELIEF_RATE_MAX: f64 = 1.01;

/// Checks that no two holders believe in incompatible grants at the same time, because the SDK's
/// answer must be as good as the safe intervals.
pub(super) fn check_beliefs(index: &Index<'_>, found: &mut Vec<Violation>) {
    if index.history.bounds.server_rate_max > BELIEF_RATE_MAX {
        return;
    }
    let mut believed: BTreeMap<(u32, &str), Vec<Hold>> = BTreeMap::new();
    for belief in &index.history.beliefs {
        let operation = index.operation(belief.operation);
        let key = (operation.shard, operation.name.as_str());
        let Some(hold) = index.names.get(&key).and_then(|all| all.hold(belief.token)) else {
            continue;
        };
        // A break cuts the belief off here, because the holder did not cause it and cannot know of
        // it.
        let (start_us, end_us) = (belief.from_us, belief.until_us.min(hold.let_go_us));
        believed.entry(key).or_default().push(Hold { start_us, end_us, ..hold.clone() });
    }
    for ((_, name), mut holds) in believed {
        holds.retain(|hold| hold.start_us < hold.end_us);
        holds.sort_by_key(|hold| (hold.start_us, hold.token));
        let mut current: Vec<&Hold> = Vec::new();
        for hold in &holds {
            current.retain(|other| other.end_us > hold.start_us);
            let other = current
                .iter()
                .find(|other| other.token != hold.token && !compatible(other.mode, hold.mode));
            if let Some(other) = other {
                found.push(overlap(name, other, hold));
                break;
            }
            current.push(hold);
        }
    }
}

pub(super) fn check(name: &str, operations: &NameOperations, found: &mut Vec<Violation>) {
    let mut holds: Vec<&Hold> =
        operations.holds.iter().filter(|hold| hold.start_us < hold.end_us).collect();
    holds.sort_by_key(|hold| (hold.start_us, hold.token));
    let mut current: Vec<&Hold> = Vec::new();
    for hold in holds {
        current.retain(|other| other.end_us > hold.start_us);
        if let Some(other) = current.iter().find(|other| !compatible(other.mode, hold.mode)) {
            found.push(overlap(name, other, hold));
        } else if let Mode::Permits { count, limit } = hold.mode {
            let others: u32 = current.iter().map(|other| permits(other.mode)).sum();
            if others + count > limit {
                found.push(overlap(name, current.last().unwrap_or(&hold), hold));
            }
        }
        current.push(hold);
    }
}

pub(super) fn compatible(one: Mode, other: Mode) -> bool {
    match (one, other) {
        (Mode::Shared, Mode::Shared) => true,
        (Mode::Permits { limit, .. }, Mode::Permits { limit: other, .. }) => limit == other,
        _ => false,
    }
}

fn permits(mode: Mode) -> u32 {
    if let Mode::Permits { count, .. } = mode { count } else { 0 }
}

fn overlap(name: &str, first: &Hold, second: &Hold) -> Violation {
    Violation {
        invariant: Invariant::Exclusion,
        what: format!(
            "{name:?}: token {} ({:?}, safe from {} to {} us) and token {} ({:?}, safe from {} to {} us) hold together",
            first.token,
            first.mode,
            first.start_us,
            first.end_us,
            second.token,
            second.mode,
            second.start_us,
            second.end_us
        ),
        operations: vec![first.operation, second.operation],
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::testing::*;
    use crate::checker::{Invariant, Mode};

    #[test]
    fn two_exclusive_holders_at_once_are_found() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire(2, "a", 500..510, 2, 1_000);
        h.expect(Invariant::Exclusion);
    }

    #[test]
    fn after_a_release_or_expiry_the_next_may_hold() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.release(1, "a", 100..900, 1);
        h.acquire(2, "a", 90..150, 2, 1_000); // granted while the release was on its way back
        h.acquire(3, "a", 500..1_100, 3, 1_000); // token 2's lease ran from 90
        h.expect_fine();
    }

    #[test]
    fn renewals_and_heartbeats_lengthen_a_hold_only_when_acknowledged() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.renew_unanswered(1, "a", 900, 1);
        h.acquire(2, "a", 1_000..1_010, 2, 1_000);
        h.expect_fine();
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.renew(1, "a", 900..910, 1);
        h.acquire(2, "a", 1_000..1_010, 2, 1_000);
        h.expect(Invariant::Exclusion);
        let mut h = Build::new();
        h.acquire_in_session(1, 7, "a", 0..10, 1, 1_000);
        h.heartbeat(1, 7, 900..910);
        h.acquire(2, "a", 1_100..1_110, 2, 1_000);
        h.expect(Invariant::Exclusion);
    }

    #[test]
    fn shared_holders_and_permits_stand_together_within_the_limit() {
        let mut h = Build::new();
        for client in 1..4 {
            h.acquire_as(client, "s", 0..10, u64::from(client), 1_000, Mode::Shared);
            h.acquire_as(
                client,
                "p",
                20..30,
                10 + u64::from(client),
                1_000,
                Mode::Permits { count: 1, limit: 3 },
            );
        }
        h.expect_fine();
        h.acquire_as(9, "p", 40..50, 20, 1_000, Mode::Permits { count: 1, limit: 3 });
        h.expect(Invariant::Exclusion);
        let mut h = Build::new();
        h.acquire_as(1, "s", 0..10, 1, 1_000, Mode::Shared);
        h.acquire(2, "s", 20..30, 2, 1_000);
        h.expect(Invariant::Exclusion);
    }

    #[test]
    fn a_holder_that_believes_for_too_long_is_found_and_one_that_was_broken_is_excused() {
        let belief = |token, operation, from_us, until_us| crate::checker::Belief {
            operation,
            token,
            from_us,
            until_us,
        };
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire(2, "a", 1_100..1_110, 2, 1_000);
        h.history.beliefs =
            vec![belief(1, 0, 10_000, 1_000_000), belief(2, 1, 1_110_000, 2_000_000)];
        h.expect_fine();
        h.history.beliefs[0].until_us = 1_200_000;
        h.expect(Invariant::Exclusion);
        h.break_hold(3, "a", 1_000..1_010, 1);
        h.expect_fine();
    }

    #[test]
    fn a_fast_server_clock_shortens_what_a_holder_may_count_on() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire(2, "a", 590..600, 2, 1_000);
        h.history.bounds.server_rate_max = 2.0;
        h.expect_fine();
    }
}
