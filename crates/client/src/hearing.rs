//! The bounds that the guards and sessions of a client share while they hear of ends: the places of
//! their watches, and what was refused. The module knows nothing of watches.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Guards of one client that are watched at the same time.
const GUARDS_MAX: usize = 64;
/// Sessions of one client that are watched at the same time. The watch of a session asks every
/// shard.
const SESSIONS_MAX: usize = 16;
/// How long no watch is tried after it was refused. Each refusal can be a line of an audit log.
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// Most refusals that are remembered. Above it, the oldest is forgotten.
const REFUSALS_MAX: usize = 1_024;

/// What a watch is about, so far as its refusal says something about the next one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The lock of a guard.
    Name(String),
    /// The locks of a session. No right is about a single session.
    Session,
    /// All watches: the gateways know none.
    Any,
}

/// The state that the guards and sessions of a client share.
#[derive(Debug)]
pub(crate) struct Hearing {
    guards: Semaphore,
    sessions: Semaphore,
    refusals: Mutex<Refusals>,
}

impl Default for Hearing {
    fn default() -> Hearing {
        Hearing {
            guards: Semaphore::new(GUARDS_MAX),
            sessions: Semaphore::new(SESSIONS_MAX),
            refusals: Mutex::default(),
        }
    }
}

impl Hearing {
    /// Waits for a place. Places that become free are given in the order of asking. `None` is never
    /// returned while the client lives.
    pub(crate) async fn place(&self, subject: &Subject) -> Option<SemaphorePermit<'_>> {
        let places = match subject {
            Subject::Session => &self.sessions,
            Subject::Name(_) | Subject::Any => &self.guards,
        };
        places.acquire().await.ok()
    }

    /// Until when this is not to be tried, because it was refused. `None` if it may be tried now.
    pub(crate) fn refused_until(&self, subject: &Subject) -> Option<Instant> {
        self.refusals().until(subject, Instant::now())
    }

    /// Notes that this was refused.
    pub(crate) fn refused(&self, subject: Subject) {
        self.refusals().add(subject, Instant::now());
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was refused, and when.
#[derive(Debug, Default)]
struct Refusals(BTreeMap<Subject, Instant>);

impl Refusals {
    fn add(&mut self, subject: Subject, now: Instant) {
        self.0.insert(subject, now);
        if self.0.len() > REFUSALS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) {
                self.0.remove(&oldest);
            }
        }
    }

    fn until(&self, subject: &Subject, now: Instant) -> Option<Instant> {
        let until = |subject| self.0.get(subject).map(|at| *at + REFUSED_FOR);
        until(subject).max(until(&Subject::Any)).filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn name(name: impl Into<String>) -> Subject {
        Subject::Name(name.into())
    }

    #[test]
    fn a_refusal_holds_for_its_name_alone_and_for_a_time() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.add(name("a"), now);
        assert_eq!(refusals.until(&name("a"), now), Some(now + REFUSED_FOR));
        assert_eq!(refusals.until(&name("b"), now), None);
        assert_eq!(refusals.until(&Subject::Session, now), None);
        assert_eq!(refusals.until(&name("a"), now + REFUSED_FOR), None);
        refusals.add(Subject::Any, now);
        assert_eq!(refusals.until(&name("b"), now), Some(now + REFUSED_FOR));
    }

    #[test]
    fn refusals_are_bounded_and_the_oldest_is_forgotten() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let at = |number: usize| start + Duration::from_millis(number as u64);
        for number in 0..=REFUSALS_MAX {
            refusals.add(name(number.to_string()), at(number));
        }
        let now = at(REFUSALS_MAX);
        assert_eq!(refusals.0.len(), REFUSALS_MAX);
        assert_eq!(refusals.until(&name("0"), now), None);
        assert!(refusals.until(&name("1"), now).is_some());
    }

    #[test]
    fn a_place_that_becomes_free_goes_to_the_next() {
        for (subject, max) in [(name("a"), GUARDS_MAX), (Subject::Session, SESSIONS_MAX)] {
            let hearing = Hearing::default();
            let place = || hearing.place(&subject).now_or_never().flatten();
            let mut places: Vec<_> = (0..max).map(|_| place().expect("a place")).collect();
            let mut next = Box::pin(hearing.place(&subject));
            assert!(next.as_mut().now_or_never().is_none());
            places.pop();
            assert!(next.now_or_never().flatten().is_some());
        }
    }
}
