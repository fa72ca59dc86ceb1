//! Invariant 6: a token that a later, incompatible grant has outdated has no effect.
//!
//! No renewal or release of such a token succeeds if it was asked for after the later grant
//! returned. No heartbeat keeps a session alive after such a grant shows that the session is dead.

use super::exclusion::compatible;
use super::{Call, Hold, Index, Invariant, Mode, NameOperations, Outcome, Violation};
use std::collections::BTreeMap;

pub(super) fn check(
    index: &Index<'_>,
    name: &str,
    operations: &NameOperations,
    found: &mut Vec<Violation>,
) {
    let modes: BTreeMap<u64, Mode> =
        operations.holds.iter().map(|hold| (hold.token, hold.mode)).collect();
    let mut by_return: Vec<&Hold> = operations.holds.iter().collect();
    by_return.sort_by_key(|hold| hold.start_us);
    let mut returned = by_return.iter().copied().peekable();
    let mut highest: [Option<&Hold>; 3] = [None; 3];
    for &at in &operations.all {
        let operation = index.operation(at);
        while let Some(hold) = returned.next_if(|hold| hold.start_us < operation.invoke_us) {
            let latest = &mut highest[kind(hold.mode)];
            if latest.is_none_or(|other| other.token < hold.token) {
                *latest = Some(hold);
            }
        }
        let (Call::Renew { token } | Call::Release { token } | Call::Break { token }) =
            operation.call
        else {
            continue;
        };
        let succeeded = matches!(
            operation.result,
            Outcome::Renewed | Outcome::Released { already: false } | Outcome::Broken
        );
        if !succeeded {
            continue;
        }
        // No client was told of this token. Only a grant that excludes every other holder proves
        // that the token was over.
        let later = highest.iter().flatten().find(|later| {
            later.token > token
                && match modes.get(&token) {
                    Some(mode) => !compatible(*mode, later.mode),
                    None => later.mode == Mode::Exclusive,
                }
        });
        if let Some(later) = later {
            found.push(Violation {
                invariant: Invariant::Fencing,
                what: format!(
                    "{name:?}: {:?} succeeded, asked for at {} us, when token {} had been granted \
                     by {} us",
                    operation.call, operation.invoke_us, later.token, later.start_us
                ),
                operations: vec![later.operation, at],
            });
        }
    }
    check_sessions(index, name, &by_return, found);
}

/// A closed session holds nothing. No later check shows a grant of it, and no acquire of it that
/// was asked for later is granted.
pub(super) fn check_closed_sessions(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut closed: BTreeMap<(u32, u64), (u64, usize)> = BTreeMap::new();
    for (key, all) in &index.sessions {
        for &at in all {
            let operation = index.operation(at);
            if let (Call::CloseSession { .. }, Outcome::Closed, Some(us)) =
                (&operation.call, &operation.result, operation.return_us)
            {
                closed.entry(*key).or_insert((us, at));
            }
        }
    }
    let session_of = |request: u64| match index
        .requests
        .get(&request)
        .map(|all| &index.operation(all[0]).call)
    {
        Some(Call::Acquire { session, .. }) => *session,
        _ => 0,
    };
    for (at, operation) in index.history.operations.iter().enumerate() {
        let session = match (&operation.call, &operation.result) {
            (Call::Acquire { session, .. }, Outcome::Granted { .. }) => *session,
            (Call::Check { linearizable: true }, Outcome::Holders { holders, .. }) => {
                let sessions = holders.iter().filter_map(|holder| holder.request).map(session_of);
                sessions
                    .filter(|session| closed.contains_key(&(operation.shard, *session)))
                    .max()
                    .unwrap_or(0)
            }
            _ => 0,
        };
        if let Some(&(closed_us, close)) = closed.get(&(operation.shard, session))
            && closed_us < operation.invoke_us
        {
            found.push(Violation {
                invariant: Invariant::Fencing,
                what: format!(
                    "{:?}: session {session} was closed by {closed_us} us, and holds by an answer \
                     to what was asked at {} us",
                    operation.name, operation.invoke_us
                ),
                operations: vec![close, at],
            });
        }
    }
}

/// If a session's grant ended although no client ended it, then the session itself ended.
fn check_sessions(index: &Index<'_>, name: &str, by_return: &[&Hold], found: &mut Vec<Violation>) {
    // The last grants before each, by return, are enough, because a dead session is not used for
    // new grants for long.
    for (place, later) in by_return.iter().enumerate() {
        for former in by_return[..place].iter().rev().take(4) {
            if former.session == 0
                || former.token >= later.token
                || compatible(former.mode, later.mode)
                || former.let_go_us <= later.start_us
            {
                continue;
            }
            let shard = index.operation(former.operation).shard;
            for &at in index.sessions.get(&(shard, former.session)).into_iter().flatten() {
                let operation = index.operation(at);
                if matches!(operation.call, Call::Heartbeat { .. })
                    && operation.result == Outcome::HeartbeatOk
                    && operation.invoke_us > later.start_us
                {
                    found.push(Violation {
                        invariant: Invariant::Fencing,
                        what: format!(
                            "{name:?}: session {} had lost token {} by {} us (token {} was \
                             granted), and its heartbeat of {} us was accepted",
                            former.session,
                            former.token,
                            later.start_us,
                            later.token,
                            operation.invoke_us
                        ),
                        operations: vec![former.operation, later.operation, at],
                    });
                    return;
                }
            }
        }
    }
}

fn kind(mode: Mode) -> usize {
    match mode {
        Mode::Exclusive => 0,
        Mode::Shared => 1,
        Mode::Permits { .. } => 2,
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::testing::*;
    use crate::checker::{Invariant, Mode};

    #[test]
    fn a_stale_release_or_renewal_that_succeeds_is_found() {
        for renew in [true, false] {
            let mut h = Build::new();
            h.acquire(1, "a", 0..10, 1, 1_000);
            h.acquire(2, "a", 1_500..1_510, 2, 1_000);
            if renew {
                h.renew(1, "a", 1_520..1_530, 1)
            } else {
                h.release(1, "a", 1_520..1_530, 1)
            };
            h.expect(Invariant::Fencing);
        }
    }

    #[test]
    fn what_was_asked_for_before_the_next_grant_returned_may_have_come_first() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.release(1, "a", 1_400..1_600, 1);
        h.acquire(2, "a", 1_300..1_510, 2, 1_000);
        h.expect_fine();
    }

    #[test]
    fn a_repeated_release_is_no_success_of_a_stale_holder_and_shared_holders_do_not_fence_each_other()
     {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.release(1, "a", 20..30, 1);
        h.acquire(2, "a", 40..50, 2, 1_000);
        h.release_again(1, "a", 60..70, 1);
        h.acquire_as(1, "s", 100..110, 3, 1_000, Mode::Shared);
        h.acquire_as(2, "s", 120..130, 4, 1_000, Mode::Shared);
        h.release(1, "s", 140..150, 3);
        h.expect_fine();
    }

    #[test]
    fn a_heartbeat_of_a_dead_session_that_is_accepted_is_found() {
        let mut h = Build::new();
        h.acquire_in_session(1, 7, "a", 0..10, 1, 1_000);
        h.acquire(2, "a", 1_500..1_510, 2, 1_000);
        h.heartbeat(1, 7, 3_000..3_010);
        // A client that is told that its session lives may rely on its lock, so other invariants
        // fail too.
        h.expect_among(Invariant::Fencing);
    }

    #[test]
    fn a_grant_of_a_closed_session_is_found() {
        let mut h = Build::new();
        h.acquire_in_session(1, 7, "a", 0..10, 1, 1_000);
        h.close(1, 7, 20..30);
        h.check(2, "a", 25..40, &[1]); // may have come before
        h.expect_fine();
        h.acquire_in_session(1, 7, "a", 50..60, 2, 1_000);
        h.expect(Invariant::Fencing);
    }

    #[test]
    fn a_session_lives_on_after_its_lock_was_released() {
        let mut h = Build::new();
        h.acquire_in_session(1, 7, "a", 0..10, 1, 1_000);
        h.release(1, "a", 20..30, 1);
        h.acquire(2, "a", 40..50, 2, 1_000);
        h.heartbeat(1, 7, 60..70);
        h.expect_fine();
    }
}
