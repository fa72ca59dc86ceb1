//! Invariant 13: a heartbeat that names a former life of its session is refused.
//!
//! An accepted heartbeat has told of every lock that another client had broken or released by then.
//! The module judges by the notes on session operations. Without notes it finds nothing.

use super::{Call, Index, Invariant, LifeNote, Outcome, Violation};
use std::collections::{BTreeMap, BTreeSet};

type Key = (u32, u64);

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut grants: BTreeMap<Key, Vec<&LifeNote>> = BTreeMap::new();
    let mut beats: BTreeMap<Key, Vec<&LifeNote>> = BTreeMap::new();
    for note in &index.history.lives {
        let operation = index.operation(note.operation);
        match operation.call {
            Call::Acquire { session, .. } => {
                grants.entry((operation.shard, session)).or_default().push(note)
            }
            Call::Heartbeat { session } => {
                beats.entry((operation.shard, session)).or_default().push(note)
            }
            _ => {}
        }
    }
    let ends = ends(index);
    for (key, beats) in &mut beats {
        let grants = grants.get(key).map_or(&[][..], Vec::as_slice);
        beats.sort_by_key(|beat| index.operation(beat.operation).return_us);
        former_lives(index, grants, beats, found);
        ends_told(index, grants, beats, &ends, found);
    }
}

fn former_lives(
    index: &Index<'_>,
    grants: &[&LifeNote],
    beats: &[&LifeNote],
    found: &mut Vec<Violation>,
) {
    for beat in beats.iter().filter(|beat| beat.life != 0) {
        let invoke_us = index.operation(beat.operation).invoke_us;
        let later = grants.iter().find(|grant| {
            grant.life > beat.life
                && index.operation(grant.operation).return_us.is_some_and(|us| us < invoke_us)
        });
        if let Some(later) = later {
            let what = format!(
                "a heartbeat of life {} was accepted, asked for at {invoke_us} us, when the \
                 session had begun life {}",
                beat.life, later.life
            );
            let operations = vec![later.operation, beat.operation];
            found.push(Violation { invariant: Invariant::SessionLife, what, operations });
        }
    }
}

/// The client that ended each grant by a break or a release, and the return of that operation. The
/// key is (shard, name, token).
type Ends<'a> = BTreeMap<(u32, &'a str, u64), (u32, u64)>;

fn ends<'a>(index: &Index<'a>) -> Ends<'a> {
    let mut ends = BTreeMap::new();
    for operation in &index.history.operations {
        if let (Call::Break { token }, Outcome::Broken, Some(us))
        | (Call::Release { token }, Outcome::Released { already: false }, Some(us)) =
            (&operation.call, &operation.result, operation.return_us)
        {
            ends.insert((operation.shard, operation.name.as_str(), *token), (operation.client, us));
        }
    }
    ends
}

fn ends_told(
    index: &Index<'_>,
    grants: &[&LifeNote],
    beats: &[&LifeNote],
    ends: &Ends<'_>,
    found: &mut Vec<Violation>,
) {
    for grant in grants {
        let operation = index.operation(grant.operation);
        let Outcome::Granted { token, .. } = operation.result else { continue };
        let Some(&(by, ended_us)) = ends.get(&(operation.shard, operation.name.as_str(), token))
        else {
            continue;
        };
        if by == operation.client {
            continue;
        }
        let (mut told, mut overflow) = (BTreeSet::<u64>::new(), false);
        for beat in beats.iter().filter(|beat| beat.life == grant.life) {
            told.extend(beat.broken.iter().copied());
            overflow |= beat.overflow;
            if index.operation(beat.operation).invoke_us > ended_us
                && !overflow
                && !told.contains(&token)
            {
                let what = format!(
                    "{:?}: client {by} had ended token {token} by {ended_us} us, and a later \
                     heartbeat of its session did not tell",
                    operation.name
                );
                let operations = vec![grant.operation, beat.operation];
                found.push(Violation { invariant: Invariant::SessionLife, what, operations });
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::checker::testing::*;
    use crate::checker::{Call, Invariant, LifeNote, Outcome};

    fn note(h: &mut Build, operation: usize, life: u64, broken: &[u64]) {
        h.history.lives.push(LifeNote {
            operation,
            life,
            broken: broken.to_vec(),
            overflow: false,
        });
    }

    #[test]
    fn a_heartbeat_of_a_former_life_that_is_accepted_is_found() {
        let mut h = Build::new();
        h.acquire_in_session(1, 7, "a", 0..10, 1, 1_000);
        h.acquire_in_session(1, 7, "b", 40_000..40_010, 5, 1_000);
        h.heartbeat(1, 7, 40_020..40_030);
        note(&mut h, 0, 1, &[]);
        note(&mut h, 1, 5, &[]);
        note(&mut h, 2, 5, &[]);
        h.expect_fine();
        h.history.lives[2].life = 1;
        h.expect(Invariant::SessionLife);
        h.history.lives[2].life = 0;
        h.expect_fine();
    }

    #[test]
    fn an_end_by_another_that_a_later_heartbeat_does_not_tell_is_found() {
        let mut h = Build::new();
        h.acquire_in_session(1, 7, "a", 0..10, 1, 1_000);
        h.break_hold(3, "a", 20..30, 1);
        h.heartbeat(1, 7, 25..40); // may have come first
        h.heartbeat(1, 7, 50..60);
        h.heartbeat(1, 7, 70..80);
        note(&mut h, 0, 1, &[]);
        note(&mut h, 2, 1, &[]);
        note(&mut h, 3, 1, &[1]);
        note(&mut h, 4, 1, &[]);
        h.expect_fine();
        h.history.lives[2].broken.clear();
        h.expect(Invariant::SessionLife);
        h.history.lives[2].overflow = true;
        h.expect_fine();
        h.history.lives[2].overflow = false;
        h.history.operations[1].call = Call::Release { token: 1 };
        h.history.operations[1].result = Outcome::Released { already: false };
        h.expect(Invariant::SessionLife);
        h.history.operations[1].client = 1;
        h.expect_fine();
    }
}
