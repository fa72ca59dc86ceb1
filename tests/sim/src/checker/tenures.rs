//! Invariant 10: the service's history has each acknowledged grant once.
//!
//! Each of these grants has an end that a client asked for, or the end of its lease. The history
//! contains no grant and no end that no client asked for.

use super::{Call, End, Index, Invariant, Outcome, TenureRecord, Violation};
use std::collections::BTreeMap;

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    let Some(tenures) = &index.history.tenures else { return };
    let mut by_token: BTreeMap<(u32, &str, u64), &TenureRecord> = BTreeMap::new();
    for tenure in tenures {
        let key = (tenure.shard, tenure.name.as_str(), tenure.token);
        if by_token.insert(key, tenure).is_some() {
            found.push(violation(
                format!("{:?}: token {} stands twice in the history", tenure.name, tenure.token),
                vec![],
            ));
        }
    }
    for ((shard, name), operations) in &index.names {
        for hold in &operations.holds {
            if !by_token.contains_key(&(*shard, *name, hold.token)) {
                let what =
                    format!("{name:?}: token {} was granted and is not in the history", hold.token);
                found.push(violation(what, vec![hold.operation]));
            }
        }
        for &at in &operations.all {
            ended_as_told(index, at, *shard, name, &by_token, found);
        }
    }
    for tenure in by_token.values() {
        asked_for(index, tenure, found);
        end_asked_for(index, tenure, found);
    }
}

/// Checks that the history contains each end that a client was told of.
fn ended_as_told(
    index: &Index<'_>,
    at: usize,
    shard: u32,
    name: &str,
    by_token: &BTreeMap<(u32, &str, u64), &TenureRecord>,
    found: &mut Vec<Violation>,
) {
    let operation = index.operation(at);
    let (token, end) = match (&operation.call, &operation.result) {
        (Call::Release { token }, Outcome::Released { .. }) => (*token, End::Released),
        (Call::Break { token }, Outcome::Broken) => (*token, End::Broken),
        _ => return,
    };
    match by_token.get(&(shard, name, token)) {
        Some(tenure) if tenure.end == Some(end) => {}
        other => {
            let has = other.map(|tenure| tenure.end);
            let what = format!(
                "{name:?}: a client was told that token {token} ended as {end:?}; the history has \
                 {has:?}"
            );
            found.push(violation(what, vec![at]));
        }
    }
}

/// Checks that a client asked for this grant, and was not told that nothing was done.
fn asked_for(index: &Index<'_>, tenure: &TenureRecord, found: &mut Vec<Violation>) {
    let TenureRecord { name, token, .. } = tenure;
    match tenure.request {
        Some(request) => match index.requests.get(&request) {
            None => {
                let what = format!(
                    "{name:?}: the history has token {token} for request {request}, which nobody \
                     made"
                );
                found.push(violation(what, vec![]));
            }
            Some(all) if all.iter().all(|&at| index.operation(at).result == Outcome::NotDone) => {
                let what = format!(
                    "{name:?}: request {request} was answered as not done, and got token {token}"
                );
                found.push(violation(what, all.clone()));
            }
            Some(all) if index.operation(all[0]).name != *name => {
                let what = format!(
                    "the history has request {request} under {name:?}, which it was not made for"
                );
                found.push(violation(what, all.clone()));
            }
            Some(_) => {}
        },
        None => {
            let operations = index.names.get(&(tenure.shard, name.as_str()));
            let asked = operations.is_some_and(|operations| {
                operations.all.iter().any(|&at| {
                    match (&index.operation(at).call, &index.operation(at).result) {
                        (Call::Acquire { .. }, Outcome::Granted { token, .. }) => {
                            token == &tenure.token
                        }
                        (Call::Acquire { .. }, result) => *result != Outcome::NotDone,
                        _ => false,
                    }
                })
            });
            if !asked {
                found.push(violation(
                    format!("{name:?}: the history has token {token}, which nobody asked for"),
                    vec![],
                ));
            }
        }
    }
}

/// Checks that a client asked for each release or break in the history.
fn end_asked_for(index: &Index<'_>, tenure: &TenureRecord, found: &mut Vec<Violation>) {
    let operations = index.names.get(&(tenure.shard, tenure.name.as_str()));
    let mut all = operations
        .into_iter()
        .flat_map(|operations| &operations.all)
        .map(|&at| &index.operation(at).call);
    let asked = match tenure.end {
        None | Some(End::Expired) => true,
        Some(End::Broken) => {
            all.any(|call| matches!(call, Call::Break { token } if *token == tenure.token))
        }
        Some(End::Released) => {
            all.any(|call| matches!(call, Call::Release { token } if *token == tenure.token))
                || closed(index, tenure)
        }
    };
    if !asked {
        let TenureRecord { name, token, end, .. } = tenure;
        found.push(violation(
            format!("{name:?}: token {token} ended as {end:?}, which nobody asked for"),
            vec![],
        ));
    }
}

/// Whether a session that may have held this grant was closed.
fn closed(index: &Index<'_>, tenure: &TenureRecord) -> bool {
    let session_of = |at: &usize| match index.operation(*at).call {
        Call::Acquire { session, .. } => session,
        _ => 0,
    };
    let closes = |session: u64| {
        let all = index.sessions.get(&(tenure.shard, session)).into_iter().flatten();
        all.into_iter().any(|&at| matches!(index.operation(at).call, Call::CloseSession { .. }))
    };
    match tenure.request {
        Some(request) => index
            .requests
            .get(&request)
            .is_some_and(|all| all.iter().any(|at| closes(session_of(at)))),
        None => true,
    }
}

fn violation(what: String, operations: Vec<usize>) -> Violation {
    Violation { invariant: Invariant::Tenures, what, operations }
}

#[cfg(test)]
mod tests {
    use crate::checker::testing::*;
    use crate::checker::{End, Invariant};

    #[test]
    fn a_missing_a_doubled_and_a_phantom_tenure_are_found() {
        let mut h = Build::new();
        h.acquire_request(1, 50, "a", 0..10, 1, 1_000);
        h.history.tenures = Some(Vec::new());
        h.expect(Invariant::Tenures);
        h.tenure("a", 1, Some(50), None);
        h.expect_fine();
        h.tenure("a", 1, Some(50), Some(End::Expired));
        h.expect(Invariant::Tenures);
        let mut h = Build::new();
        h.tenure("a", 1, Some(50), Some(End::Expired));
        h.expect(Invariant::Tenures);
        let mut h = Build::new();
        h.tenure("a", 1, None, Some(End::Expired));
        h.expect(Invariant::Tenures);
    }

    #[test]
    fn an_end_that_is_not_as_told_or_that_nobody_asked_for_is_found() {
        let mut h = Build::new();
        h.acquire_request(1, 50, "a", 0..10, 1, 1_000);
        h.release(1, "a", 20..30, 1);
        h.tenure("a", 1, Some(50), Some(End::Expired));
        h.expect(Invariant::Tenures);
        let mut h = Build::new();
        h.acquire_request(1, 50, "a", 0..10, 1, 1_000);
        h.tenure("a", 1, Some(50), Some(End::Released));
        h.expect(Invariant::Tenures);
    }

    #[test]
    fn a_request_answered_as_not_done_may_not_have_been() {
        let mut h = Build::new();
        h.acquire_not_done(1, 50, "a", 0..10);
        h.tenure("a", 1, Some(50), Some(End::Expired));
        h.expect(Invariant::Tenures);
    }

    #[test]
    fn unanswered_acquires_may_or_may_not_stand_there() {
        let mut h = Build::new();
        h.acquire_unanswered(1, 50, "a", 0);
        h.acquire_unanswered(1, 51, "a", 0);
        h.tenure("a", 1, Some(50), Some(End::Expired));
        h.expect_fine();
    }
}
