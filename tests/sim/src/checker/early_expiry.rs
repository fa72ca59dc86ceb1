//! Invariant 2: the next grant of a name returns no earlier than the end of the former holder's
//! safe interval.

use super::{Hold, Invariant, Mode, NameOperations, Violation};

pub(super) fn check(name: &str, operations: &NameOperations, found: &mut Vec<Violation>) {
    // Holds stand in order of their tokens, so the former holds are a prefix. These are the latest
    // ends so far of each kind of holder.
    let (mut exclusive, mut shared, mut permits): (Option<&Hold>, Option<&Hold>, Option<&Hold>) =
        (None, None, None);
    for hold in &operations.holds {
        let in_the_way = match hold.mode {
            Mode::Exclusive => [exclusive, shared, permits],
            Mode::Shared => [exclusive, permits, None],
            Mode::Permits { .. } => [exclusive, shared, None],
        };
        if let Some(former) =
            in_the_way.into_iter().flatten().find(|former| former.end_us > hold.start_us)
        {
            found.push(Violation {
                invariant: Invariant::NoEarlyExpiry,
                what: format!(
                    "{name:?}: token {} was granted by {} us, while token {} was good until {} us",
                    hold.token, hold.start_us, former.token, former.end_us
                ),
                operations: vec![former.operation, hold.operation],
            });
        }
        let latest = match hold.mode {
            Mode::Exclusive => &mut exclusive,
            Mode::Shared => &mut shared,
            Mode::Permits { .. } => &mut permits,
        };
        if latest.is_none_or(|other| other.end_us < hold.end_us) {
            *latest = Some(hold);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::Invariant;
    use crate::checker::testing::*;

    #[test]
    fn a_grant_within_the_former_ttl_is_found_even_if_its_own_hold_is_over_at_once() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire(2, "a", 500..990, 2, 1_000);
        h.release(2, "a", 991..995, 2);
        h.expect(Invariant::NoEarlyExpiry);
    }

    #[test]
    fn a_former_holder_whose_answer_came_late_counts_too() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..700, 1, 1_000);
        h.acquire(2, "a", 100..600, 2, 1_000);
        h.expect(Invariant::NoEarlyExpiry);
    }

    #[test]
    fn a_break_or_an_unanswered_release_ends_a_hold() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.break_hold(3, "a", 50..400, 1);
        h.acquire(2, "a", 60..70, 2, 1_000);
        h.expect_fine();
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.release_unanswered(1, "a", 20, 1);
        h.acquire(2, "a", 60..70, 2, 1_000);
        h.expect_fine();
    }
}
