//! The clients' records, and the way in which the records of several processes become one history
//! for the checker.
//!
//! Every attempt is noted before it is sent, and completed by its answer. An attempt without an
//! answer stays open. Processes write one file per round, and [`merge`] joins the files. The module
//! does not know how an attempt is made.
//!
//! Answers name the owner of a grant. Clients build this owner from the number of their request, or
//! from the session's number if the lock belongs to a session. A session asks for a name only once,
//! so that either number leads to the request.

use crate::clock::now_us;
use palisade_sim::checker::{Belief, Bounds, Call, History, Operation, Outcome, TenureRecord};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The record of one process in one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// The attempts in the order of their notes. [`Belief`] refers to places in this list.
    pub operations: Vec<Operation>,
    /// The beliefs of guards.
    pub beliefs: Vec<Belief>,
    /// The requests with a background release: the SDK releases their grant by itself, if a grant
    /// exists and its answer was lost.
    pub let_go: Vec<u64>,
}

/// An attempt under way.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    round: u32,
    /// Its place in the round's record.
    pub place: usize,
}

/// Takes notes of one round after the other, for any number of tasks.
///
/// * An answer after the end of its round is not noted. The attempt stays open, which is also true.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Current>);

#[derive(Debug, Default)]
struct Current {
    round: u32,
    record: Record,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a new round. Earlier notes are lost, unless they were [taken](Self::take).
    pub fn begin(&self, round: u32) {
        *self.lock() = Current { round, record: Record::default() };
    }

    /// Notes an attempt before it is sent.
    pub fn asked(&self, client: u32, name: &str, shard: u32, call: Call) -> Attempt {
        let mut current = self.lock();
        let place = current.record.operations.len();
        let invoke_us = now_us();
        let (name, result) = (name.to_owned(), Outcome::Unknown);
        let operation =
            Operation { client, name, shard, invoke_us, return_us: None, tries: 0, call, result };
        current.record.operations.push(operation);
        Attempt { round: current.round, place }
    }

    /// Notes the answer of an attempt.
    pub fn answered(&self, attempt: Attempt, result: Outcome) {
        let return_us = now_us();
        self.note(attempt, |record| {
            if result != Outcome::Unknown {
                record.operations[attempt.place].return_us = Some(return_us);
            }
            record.operations[attempt.place].result = result;
        });
    }

    /// Notes that a guard of this attempt's grant believes to hold it for `valid_us` from now.
    pub fn believed(&self, attempt: Attempt, token: u64, valid_us: u64) {
        let from_us = now_us();
        let belief =
            Belief { operation: attempt.place, token, from_us, until_us: from_us + valid_us };
        self.note(attempt, |record| record.beliefs.push(belief));
    }

    /// Notes that the SDK releases this request's grant if its answer is lost.
    pub fn let_go(&self, attempt: Attempt, request: u64) {
        self.note(attempt, |record| record.let_go.push(request));
    }

    fn note(&self, attempt: Attempt, note: impl FnOnce(&mut Record)) {
        let mut current = self.lock();
        if current.round == attempt.round && attempt.place < current.record.operations.len() {
            note(&mut current.record);
        }
    }

    /// Takes the round's record. No more notes are taken until the next round begins.
    pub fn take(&self) -> Record {
        let mut current = self.lock();
        current.round = u32::MAX;
        std::mem::take(&mut current.record)
    }
}

impl Record {
    /// Writes the record to a file.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, serde_json::to_vec(self)?)
    }

    /// Reads a record that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// The error of the file system or the parser.
    pub fn load(path: &Path) -> std::io::Result<Record> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}

/// Merges all records of a round into one history.
///
/// `quiet` are stretches without a fault and without a change of leaders. An attempt within a
/// stretch went straight to the leader in a single try, so the order of a queue can be judged by
/// it. `bounds` are the bounds of the round.
pub fn merge(
    records: &[Record],
    tenures: Vec<TenureRecord>,
    quiet: &[(u64, u64)],
    bounds: Bounds,
) -> History {
    let mut history = History { bounds, ..History::default() };
    for record in records {
        let before = history.operations.len();
        history.operations.extend(record.operations.iter().cloned());
        let beliefs = record.beliefs.iter().cloned();
        history.beliefs.extend(
            beliefs.map(|belief| Belief { operation: before + belief.operation, ..belief }),
        );
    }
    for operation in &mut history.operations {
        let straight = operation.return_us.is_some_and(|return_us| {
            quiet.iter().any(|(from, to)| *from <= operation.invoke_us && return_us <= *to)
        });
        if operation.tries == 0 && straight {
            operation.tries = 1;
        }
    }
    let mut tenures = tenures;
    name_requests(&mut history.operations, &mut tenures);
    let let_go: BTreeSet<u64> =
        records.iter().flat_map(|record| record.let_go.iter().copied()).collect();
    let released = background_releases(&history.operations, &tenures, &let_go);
    history.operations.extend(released);
    history.tenures = Some(tenures);
    history
}

/// Replaces sessions by requests in answers that name sessions.
fn name_requests(operations: &mut [Operation], tenures: &mut [TenureRecord]) {
    let mut requests: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for operation in operations.iter() {
        if let Call::Acquire { request, session, .. } = operation.call
            && session != 0
        {
            let before = requests.insert((session, operation.name.clone()), request);
            assert!(
                before.is_none_or(|other| other == request),
                "session {session} asked twice for {}",
                operation.name
            );
        }
    }
    let request_of = |number: u64, name: &str| {
        requests.get(&(number, name.to_owned())).copied().unwrap_or(number)
    };
    for operation in operations {
        if let Outcome::Holders { holders, .. } = &mut operation.result {
            for holder in holders {
                holder.request = holder.request.map(|number| request_of(number, &operation.name));
            }
        }
    }
    for tenure in tenures {
        tenure.request = tenure.request.map(|number| request_of(number, &tenure.name));
    }
}

/// The SDK's background releases, as attempts without an answer. A token is known only if a check
/// or the history showed it.
fn background_releases(
    operations: &[Operation],
    tenures: &[TenureRecord],
    let_go: &BTreeSet<u64>,
) -> Vec<Operation> {
    let asked: BTreeMap<u64, &Operation> = operations
        .iter()
        .filter_map(|operation| match operation.call {
            Call::Acquire { request, .. } if let_go.contains(&request) => {
                Some((request, operation))
            }
            _ => None,
        })
        .filter(|(_, operation)| !matches!(operation.result, Outcome::Granted { .. }))
        .collect();
    let in_history = tenures.iter().filter_map(|tenure| Some((tenure.request?, tenure.token)));
    let in_checks = operations.iter().flat_map(|operation| match &operation.result {
        Outcome::Holders { holders, .. } => holders.as_slice(),
        _ => &[],
    });
    let in_checks = in_checks.filter_map(|holder| Some((holder.request?, holder.token)));
    let tokens: BTreeSet<(u64, u64)> = in_history.chain(in_checks).collect();
    let release = |(request, token): (u64, u64)| {
        let asked = asked.get(&request)?;
        Some(Operation {
            client: asked.client,
            name: asked.name.clone(),
            shard: asked.shard,
            invoke_us: asked.invoke_us,
            return_us: None,
            tries: 0,
            call: Call::Release { token },
            result: Outcome::Unknown,
        })
    };
    tokens.into_iter().filter_map(release).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_sim::checker::{Holder, Mode};

    const ASK: Call =
        Call::Acquire { request: 7, mode: Mode::Shared, ttl_ms: 1_000, wait_ms: 0, session: 5 };

    #[test]
    fn places_of_several_records_stay_with_their_operations() {
        let recorder = Recorder::default();
        let record = |round| {
            recorder.begin(round);
            recorder.asked(1, "a", 0, Call::Check { linearizable: true });
            let attempt = recorder.asked(1, "a", 0, ASK);
            recorder.answered(attempt, Outcome::Granted { token: 3, ttl_ms: 1_000 });
            recorder.believed(attempt, 3, 500);
            recorder.take()
        };
        let history = merge(&[record(1), record(2)], Vec::new(), &[], Bounds::default());
        let places: Vec<usize> = history.beliefs.iter().map(|belief| belief.operation).collect();
        assert_eq!(places, [1, 3]);
        assert!(
            history.operations[3].return_us.is_some() && history.operations[2].return_us.is_none()
        );
    }

    #[test]
    fn an_answer_after_the_round_is_not_noted_and_spoils_no_other() {
        let recorder = Recorder::default();
        recorder.begin(1);
        let late = recorder.asked(1, "a", 0, ASK);
        assert!(recorder.take().operations[0].return_us.is_none());
        recorder.begin(2);
        recorder.asked(1, "b", 0, ASK);
        recorder.answered(late, Outcome::Granted { token: 3, ttl_ms: 1_000 });
        assert_eq!(recorder.take().operations[0].result, Outcome::Unknown);
    }

    #[test]
    fn sessions_in_answers_are_told_by_their_requests() {
        let recorder = Recorder::default();
        recorder.begin(1);
        recorder.asked(1, "a", 0, ASK);
        let check = recorder.asked(2, "a", 0, Call::Check { linearizable: true });
        let holders =
            vec![Holder { token: 3, request: Some(5) }, Holder { token: 2, request: Some(6) }];
        recorder.answered(check, Outcome::Holders { holders, waiters: 0 });
        let tenure =
            TenureRecord { shard: 0, name: "a".into(), token: 3, request: Some(5), end: None };
        let history = merge(&[recorder.take()], vec![tenure], &[], Bounds::default());
        let Outcome::Holders { holders, .. } = &history.operations[1].result else {
            panic!("a check")
        };
        assert_eq!(
            holders.iter().map(|holder| holder.request).collect::<Vec<_>>(),
            [Some(7), Some(6)]
        );
        assert_eq!(history.tenures.expect("given")[0].request, Some(7));
    }

    #[test]
    fn what_the_sdk_lets_go_counts_as_let_go_only_if_nobody_heard_of_it() {
        let tenures = || {
            vec![TenureRecord { shard: 0, name: "a".into(), token: 3, request: Some(7), end: None }]
        };
        for (granted, releases) in [(false, 1), (true, 0)] {
            let recorder = Recorder::default();
            recorder.begin(1);
            let attempt = recorder.asked(
                1,
                "a",
                0,
                Call::Acquire {
                    request: 7,
                    mode: Mode::Exclusive,
                    ttl_ms: 1_000,
                    wait_ms: 0,
                    session: 0,
                },
            );
            recorder.let_go(attempt, 7);
            if granted {
                recorder.answered(attempt, Outcome::Granted { token: 3, ttl_ms: 1_000 });
            }
            let history = merge(&[recorder.take()], tenures(), &[], Bounds::default());
            let released =
                history.operations.iter().filter(|o| o.call == Call::Release { token: 3 }).count();
            assert_eq!(released, releases);
        }
    }
}
