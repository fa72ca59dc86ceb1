//! Invariant 8: linearizable checks read a register of holders. Grants and ends write the register,
//! in some order that fits real time.
//!
//! The module runs a just-in-time search (Wing and Gong's, as Lowe arranged it). The search goes
//! through the invocations and returns of a name in order, with the set of all states that are
//! still possible. Tokens of a name rise in the order of its grants, so the states stay few. An
//! operation with an unknown outcome may take effect at any later time, or never. A lease may end
//! by itself at any time after its TTL.

use super::exclusion::compatible;
use super::{Call, Index, Mode, NameOperations, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// The largest number of states that the search considers at once.
const STATES_MAX: usize = 20_000;

/// The result of a search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// An order exists.
    Fine,
    /// No order explains the operation at this place.
    Violated {
        /// The operation, as a place in the history.
        at: usize,
        /// The sets of holders that were possible before the operation.
        holders: Vec<Vec<u64>>,
    },
    /// The search reached too many states.
    GivenUp,
}

#[derive(Debug)]
enum Step {
    Grant { token: u64, mode: Mode },
    End { token: u64 },
    Check { tokens: Vec<u64> },
}

#[derive(Debug)]
struct Event {
    step: Step,
    invoke_us: u64,
    /// The time by which the event must have happened. `u64::MAX` if it need never happen.
    return_us: u64,
    /// The operation, as a place in the history.
    at: usize,
}

/// * `holders` rises.
/// * `done` rises, and holds only events that have begun and not returned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    holders: Vec<u64>,
    last_token: u64,
    done: Vec<u32>,
}

pub(super) fn check(index: &Index<'_>, shard: u32, operations: &NameOperations) -> Search {
    let (events, modes) = events(index, shard, operations);
    if !events.iter().any(|event| matches!(event.step, Step::Check { .. })) {
        return Search::Fine;
    }
    search(&events, &modes)
}

fn search(events: &[Event], modes: &BTreeMap<u64, Mode>) -> Search {
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        moments.push((event.invoke_us, false, number));
        if event.return_us != u64::MAX {
            moments.push((event.return_us, true, number));
        }
    }
    // Invocations come before returns of the same moment, because the two may overlap.
    moments.sort_unstable();
    let mut pending: BTreeSet<usize> = BTreeSet::new();
    let mut states =
        BTreeSet::from([State { holders: Vec::new(), last_token: 0, done: Vec::new() }]);
    for (_, is_return, number) in moments {
        if !is_return {
            pending.insert(number);
            continue;
        }
        let mut next = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open: Vec<State> = states.iter().cloned().collect();
        while let Some(mut state) = open.pop() {
            if let Ok(place) = state.done.binary_search(&(number as u32)) {
                state.done.remove(place);
                next.insert(state);
                continue;
            }
            if !seen.insert(state.clone()) {
                continue;
            }
            if seen.len() + next.len() > STATES_MAX {
                return Search::GivenUp;
            }
            for &other in &pending {
                if let Some(reached) = state.take(events, modes, other) {
                    // A check changes nothing, so it is never wrong to take it as soon as it fits.
                    let is_check = matches!(events[other].step, Step::Check { .. });
                    if is_check {
                        open.push(reached);
                        break;
                    }
                    open.push(reached);
                }
            }
        }
        pending.remove(&number);
        if next.is_empty() {
            let holders: BTreeSet<Vec<u64>> =
                states.into_iter().map(|state| state.holders).collect();
            return Search::Violated {
                at: events[number].at,
                holders: holders.into_iter().take(5).collect(),
            };
        }
        // These events are settled or never will be: ends of grants that hold in no state, and
        // grants below every state's last token.
        let floor = next.iter().map(|state| state.last_token).min().unwrap_or(0);
        pending.retain(|&other| match events[other].step {
            Step::Grant { token, .. } => events[other].return_us != u64::MAX || token > floor,
            Step::End { token } => {
                events[other].return_us != u64::MAX
                    || token > floor
                    || next.iter().any(|state| state.holders.contains(&token))
            }
            Step::Check { .. } => true,
        });
        let settled = |done: &u32| pending.contains(&(*done as usize));
        states = next
            .into_iter()
            .map(|mut state| {
                state.done.retain(settled);
                state
            })
            .collect();
    }
    Search::Fine
}

impl State {
    /// Returns this state after the event, if the event can happen now.
    fn take(&self, events: &[Event], modes: &BTreeMap<u64, Mode>, number: usize) -> Option<State> {
        let place = self.done.binary_search(&(number as u32)).err()?;
        let mut state = self.clone();
        match &events[number].step {
            Step::Grant { token, mode } => {
                let fits = self
                    .holders
                    .iter()
                    .all(|holder| modes.get(holder).is_none_or(|m| compatible(*m, *mode)));
                if *token <= self.last_token || !fits {
                    return None;
                }
                state.holders.push(*token);
                state.last_token = *token;
            }
            Step::End { token } => {
                let held = self.holders.binary_search(token).ok()?;
                state.holders.remove(held);
            }
            Step::Check { tokens } => {
                if *tokens != self.holders {
                    return None;
                }
            }
        }
        state.done.insert(place, number as u32);
        Some(state)
    }
}

/// The grants, ends and checks of the name.
fn events(
    index: &Index<'_>,
    shard: u32,
    operations: &NameOperations,
) -> (Vec<Event>, BTreeMap<u64, Mode>) {
    let bounds = &index.history.bounds;
    let mut events = Vec::new();
    let mut modes = BTreeMap::new();
    for hold in &operations.holds {
        let (token, mode, at) = (hold.token, hold.mode, hold.operation);
        modes.insert(token, mode);
        let (invoke_us, return_us) = (hold.invoke_us, hold.start_us);
        events.push(Event { step: Step::Grant { token, mode }, invoke_us, return_us, at });
        // Ends lie after begins. An end stays open if its interval is empty, because it was asked
        // for and answered out of order.
        let invoke_us = hold.end_us.max(hold.invoke_us);
        let return_us = if hold.gone_by_us > invoke_us { hold.gone_by_us } else { u64::MAX };
        events.push(Event { step: Step::End { token }, invoke_us, return_us, at });
    }
    let mut unacknowledged: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    for &at in &operations.all {
        let operation = index.operation(at);
        let (Call::Check { linearizable: true }, Outcome::Holders { holders, .. }, Some(return_us)) =
            (&operation.call, &operation.result, operation.return_us)
        else {
            continue;
        };
        let mut tokens: Vec<u64> = holders.iter().map(|holder| holder.token).collect();
        tokens.sort_unstable();
        for holder in holders.iter().filter(|holder| !modes.contains_key(&holder.token)) {
            unacknowledged.entry(holder.token).or_insert(holder.request);
        }
        events.push(Event {
            step: Step::Check { tokens },
            invoke_us: operation.invoke_us,
            return_us,
            at,
        });
    }
    for (token, request) in unacknowledged {
        let asked =
            request.and_then(|request| index.requests.get(&request)).and_then(|all| all.first());
        let (at, from_us) = asked.map_or((0, 0), |&at| (at, index.operation(at).invoke_us));
        let (mode, ttl_ms) = match asked.map(|&at| &index.operation(at).call) {
            Some(Call::Acquire { mode, ttl_ms, wait_ms, session: 0, .. }) => {
                (*mode, bounds.unclaimed_ms(*ttl_ms, *wait_ms))
            }
            Some(Call::Acquire { mode, .. }) => (*mode, 0),
            _ => (Mode::Shared, 0),
        };
        modes.insert(token, mode);
        let let_go_us = (operations.all.iter().map(|&at| index.operation(at)))
            .filter(|operation| matches!(operation.call, Call::Break { token: t } | Call::Release { token: t } if t == token))
            .map(|operation| operation.invoke_us);
        let ends_us = let_go_us
            .min()
            .unwrap_or(u64::MAX)
            .min(from_us + bounds.shortest_us(ttl_ms))
            .max(from_us);
        let ends_us = if closed_session(index, shard, asked) { from_us } else { ends_us };
        events.push(Event {
            step: Step::Grant { token, mode },
            invoke_us: from_us,
            return_us: u64::MAX,
            at,
        });
        events.push(Event {
            step: Step::End { token },
            invoke_us: ends_us,
            return_us: u64::MAX,
            at,
        });
    }
    (events, modes)
}

fn closed_session(index: &Index<'_>, shard: u32, asked: Option<&usize>) -> bool {
    match asked.map(|&at| &index.operation(at).call) {
        Some(Call::Acquire { session, .. }) if *session != 0 => {
            index.sessions.contains_key(&(shard, *session))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::Invariant;
    use crate::checker::testing::*;

    #[test]
    fn a_read_that_went_back_in_time_is_found() {
        let mut h = Build::new();
        h.acquire_unanswered(1, 50, "a", 0);
        h.check_requests(2, "a", 100..110, &[(1, 50)]);
        h.check(3, "a", 120..130, &[]); // within its TTL, without a release
        h.expect(Invariant::Linearizability);
    }

    #[test]
    fn a_read_of_what_was_released_is_found() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.release(1, "a", 20..30, 1);
        h.check(2, "a", 40..50, &[1]);
        h.expect(Invariant::Linearizability);
    }

    #[test]
    fn a_read_of_a_former_holder_is_found() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.acquire(2, "a", 1_500..1_510, 2, 1_000);
        h.check(3, "a", 1_520..1_530, &[1]);
        h.expect_among(Invariant::Linearizability);
    }

    #[test]
    fn two_reads_that_disagree_on_the_order_are_found() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..10, 1, 1_000);
        h.release(1, "a", 20..500, 1);
        h.check(2, "a", 100..110, &[]);
        h.check(3, "a", 120..130, &[1]); // the release had taken effect
        h.expect(Invariant::Linearizability);
    }

    #[test]
    fn overlapping_operations_may_be_seen_either_way() {
        let mut h = Build::new();
        h.acquire(1, "a", 0..200, 1, 1_000);
        h.check(2, "a", 10..20, &[]);
        h.check(3, "a", 15..30, &[1]);
        h.check(4, "a", 16..40, &[]); // overlaps both
        h.release(1, "a", 210..400, 1);
        h.acquire_waiting(2, "a", 50..390, 2, 1_000);
        // The check falls between release and hand-over: one moment, but possible from outside.
        h.check(3, "a", 220..380, &[]);
        h.check(3, "a", 381..385, &[2]);
        h.expect_fine();
    }

    #[test]
    fn unanswered_acquires_may_show_late_or_never_and_leases_run_out() {
        let mut h = Build::new();
        h.acquire_unanswered(1, 50, "a", 0);
        h.acquire_unanswered(1, 51, "a", 0);
        h.check(2, "a", 50..60, &[]);
        h.check_requests(2, "a", 100..110, &[(1, 51)]);
        h.check(2, "a", 5_000..5_010, &[]);
        h.expect_fine();
    }

    #[test]
    fn many_operations_of_many_clients_are_searched() {
        let mut h = Build::new();
        let mut token = 0;
        for round in 0..300u64 {
            let start = round * 100;
            token += 1;
            for client in 0..6 {
                let seen: Vec<u64> = if client % 2 == 0 { Vec::new() } else { vec![round + 1] };
                h.check(10 + client, "a", start + 1..start + 95, &seen);
            }
            h.acquire(1, "a", start + 10..start + 60, token, 1_000);
            h.release(1, "a", start + 61..start + 90, token);
        }
        h.expect_fine();
        h.check(2, "a", 15_070..15_075, &[1]);
        h.expect(Invariant::Linearizability);
    }
}
