//! Whether, where and when to try an operation again: a pure state machine.
//!
//! It promises: nothing is sent at or after the deadline; once an attempt may have been done without an answer, the
//! operation is never reported as not done, unless the lock table itself said so to a later attempt with the same ids. It
//! knows nothing of clocks, sockets and randomness: times are milliseconds on any one monotonic clock, jitter is an
//! argument, targets are numbers (a client's gateways, a gateway's nodes).

#[cfg(test)]
mod tests;

use crate::planted::{self, Bug};
use wire::v1::{Error, ErrorCode};
use wire::{ErrorClass, OperationKind};

/// Moves to another target without a pause, in a row.
const HOPS_MAX: u32 = 3;
/// So many rounds of hops follow each other; after them a pause stands between any two tries, hints aside. All of the targets were
/// asked several times by then, and what is down is found no sooner by asking more often.
const ROUNDS_AT_ONCE: u32 = 3;
/// Shortest pause of our own choice. They double up to [`longest_pause_ms`].
const PAUSE_MS: u64 = 10;
/// Longest pause that a server can ask for.
const ASKED_PAUSE_MS_MAX: u64 = 1_000;

/// A twentieth of the time that there is, so that one operation makes tens of tries and not hundreds, whatever its patience; but
/// 100 ms to 1 s, so that a new leader is found soon after its election.
fn longest_pause_ms(timeout_ms: u64) -> u64 {
    (timeout_ms / 20).clamp(100, 1_000)
}

/// What bounds the tries of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// What it is: decides what doubt an unanswered attempt leaves.
    pub kind: OperationKind,
    /// All tries together, the wait not counted.
    pub timeout_ms: u64,
    /// How long an acquire may wait in its queue, on top; 0: it does not wait.
    pub wait_ms: u32,
    /// The first try; doubled with each one that stays unanswered. The wait comes on top.
    pub attempt_timeout_ms: u64,
    /// Try again after BUSY. Off where someone before us does.
    pub retry_busy: bool,
    /// The targets try by themselves for as long as they were given: what they could not do is asked of each once, and
    /// the last one's word is final.
    pub relays: bool,
}

/// How one try failed.
#[derive(Clone, Copy, Debug)]
pub enum Failure<'a> {
    /// The target answered so.
    Answer(&'a Error),
    /// The target does not lead. Who does as far as it knows; 0: it knows of none.
    NotLeader {
        /// A target.
        leader: u64,
        /// For people.
        why: &'a str,
    },
    /// The target's map says that the shard is not served there; why.
    StaleRoute(&'a str),
    /// It did not leave here; why.
    NotSent(&'a str),
    /// It left, and no answer came; why.
    Lost(&'a str),
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Send it.
    Send(Try),
    /// Call [`Attempt::resume`] in so many milliseconds.
    RetryAfter {
        /// From now.
        ms: u64,
    },
    /// It is over.
    GiveUp(Box<Error>),
}

/// One try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Try {
    /// Where to.
    pub target: u64,
    /// How long to wait for the answer, beside `wait_ms`. At least 1.
    pub timeout_ms: u64,
    /// What is left of a waiting acquire's wait: at least 1 for one that waits, so that it does not lose its place by
    /// turning into one that does not; 0 for everything else.
    pub wait_ms: u32,
}

/// One operation's tries.
///
/// * `tries` counts what [`Decision::Send`] was decided for.
/// * `in_doubt` is set by an unanswered try of an operation that changes something, and never cleared.
#[derive(Clone, Debug)]
pub struct Attempt {
    policy: Policy,
    started_ms: u64,
    target: u64,
    /// Failed since the last pause without an answer: not hopped to again before the next pause.
    silent: Option<u64>,
    /// Let a whole try go by without a word, and until when others are asked instead: hints to it may be of before it hung.
    hung: Option<(u64, u64)>,
    /// When the last try's time is up.
    try_ends_ms: u64,
    tries: u32,
    hops: u32,
    pauses: u32,
    unanswered: u32,
    in_doubt: bool,
    /// How often a try left doubt, and how often one was told that its wait was cancelled.
    doubts: u32,
    cancelled: u32,
    last: Option<Box<Last>>,
    /// Some target said something.
    heard: bool,
    /// Why the last try that did not leave here did not.
    unreachable: Option<Box<str>>,
}

#[derive(Clone, Debug)]
struct Last {
    code: ErrorCode,
    what: String,
}

impl Attempt {
    /// Starts with a first target.
    pub fn new(policy: Policy, now_ms: u64, first: u64) -> Attempt {
        Attempt {
            policy,
            started_ms: now_ms,
            target: first,
            silent: None,
            hung: None,
            try_ends_ms: 0,
            tries: 0,
            hops: 0,
            pauses: 0,
            unanswered: 0,
            in_doubt: false,
            doubts: 0,
            cancelled: 0,
            last: None,
            heard: false,
            unreachable: None,
        }
    }

    /// When the last try's answer must be here.
    pub fn deadline_ms(&self) -> u64 {
        self.started_ms + u64::from(self.policy.wait_ms) + self.policy.timeout_ms
    }

    /// Tries so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// An earlier try may have been done without an answer.
    pub fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// At the start, and when a pause is over.
    pub fn resume(&mut self, now_ms: u64) -> Decision {
        self.hops = 0;
        self.silent = None;
        self.send(now_ms)
    }

    /// A try has failed. `targets` are those that can be asked, in order of preference; `jitter` is from 0 to 1.
    pub fn next(&mut self, now_ms: u64, jitter: f64, failure: Failure<'_>, targets: &[u64]) -> Decision {
        let (code, what) = match failure {
            Failure::Answer(error) => (error.code(), error.message.as_str()),
            Failure::NotLeader { why, .. } | Failure::StaleRoute(why) | Failure::NotSent(why) => {
                (ErrorCode::NoLeader, why)
            }
            Failure::Lost(why) => (ErrorCode::OutcomeUnknown, why),
        };
        if !matches!(failure, Failure::Answer(_)) || matches!(code.class(), ErrorClass::Retry | ErrorClass::Unknown) {
            self.last = Some(Box::new(Last { code, what: what.to_owned() }));
        }
        match failure {
            Failure::NotSent(why) => {
                self.unreachable = Some(why.into());
                self.silent = Some(self.target);
                self.elsewhere(now_ms, jitter, targets)
            }
            Failure::Lost(_) => {
                self.doubt();
                self.unanswered += 1;
                self.silent = Some(self.target);
                if now_ms >= self.try_ends_ms {
                    self.hung = Some((self.target, now_ms + self.policy.attempt_timeout_ms));
                }
                self.elsewhere(now_ms, jitter, targets)
            }
            Failure::NotLeader { leader, .. } => {
                self.heard = true;
                self.not_leader(now_ms, jitter, leader, targets)
            }
            Failure::StaleRoute(_) => {
                self.heard = true;
                self.target = self.following(now_ms, targets);
                self.pause(now_ms, jitter, 0)
            }
            Failure::Answer(error) => {
                self.heard = true;
                self.answered(now_ms, jitter, error, targets)
            }
        }
    }

    /// Follows a hint to a target that may well lead.
    fn not_leader(&mut self, now_ms: u64, jitter: f64, hint: u64, targets: &[u64]) -> Decision {
        let known = targets.contains(&hint) && hint != self.target;
        let good = known && self.silent != Some(hint) && !self.is_hung(hint, now_ms);
        if good && self.hops < HOPS_MAX {
            self.hops += 1;
            self.target = hint;
            return self.send(now_ms);
        }
        self.target = if good { hint } else { self.following(now_ms, targets) };
        self.pause(now_ms, jitter, 0)
    }

    fn answered(&mut self, now_ms: u64, jitter: f64, error: &Error, targets: &[u64]) -> Decision {
        match error.code() {
            ErrorCode::NoLeader | ErrorCode::OutcomeUnknown
                if self.policy.relays && self.tries as usize >= targets.len() =>
            {
                if error.code() == ErrorCode::OutcomeUnknown {
                    self.doubt();
                } else if self.in_doubt {
                    return self.over(now_ms);
                }
                Decision::GiveUp(Box::new(error.clone()))
            }
            ErrorCode::NoLeader => {
                self.target = self.following(now_ms, targets);
                self.pause(now_ms, jitter, 0)
            }
            ErrorCode::ShuttingDown => {
                self.silent = Some(self.target);
                self.elsewhere(now_ms, jitter, targets)
            }
            ErrorCode::Busy if self.policy.retry_busy => self.pause(now_ms, jitter, error.retry_after_ms.into()),
            ErrorCode::Busy => self.over(now_ms),
            ErrorCode::OutcomeUnknown => {
                self.doubt();
                self.target = self.following(now_ms, targets);
                self.pause(now_ms, jitter, 0)
            }
            // Perhaps by an earlier try, which came late and took the place over: it may be granted yet.
            ErrorCode::WaitCancelled if self.policy.kind == OperationKind::Acquire && self.in_doubt => {
                self.cancelled += 1;
                // A try in doubt takes the place over once. A cancel ends every later try too.
                if self.policy.relays && self.cancelled <= self.doubts {
                    return self.pause(now_ms, jitter, 0);
                }
                Decision::GiveUp(Box::new(Error::outcome_unknown(
                    "this wait was ended, by a cancel or by an earlier try that got no answer and took its place: it may be \
                     granted yet. Try again with the same ids",
                )))
            }
            ErrorCode::Held | ErrorCode::NotOwner | ErrorCode::Expired
                if self.policy.kind == OperationKind::Break && self.in_doubt =>
            {
                Decision::GiveUp(Box::new(Error {
                    current_token: error.current_token,
                    ..Error::outcome_unknown(
                        "an earlier try of this break got no answer, and by now its token holds nothing: most likely this \
                         broke it; its history says by whom it was ended",
                    )
                }))
            }
            _ => Decision::GiveUp(Box::new(error.clone())),
        }
    }

    fn doubt(&mut self) {
        if !self.policy.kind.is_read() && !planted::is(Bug::DoubtForgotten) {
            // planted: what got no answer was not done
            self.in_doubt = true;
            self.doubts += 1;
        }
    }

    /// Where to next, at once if there is somewhere else that was not tried a moment ago.
    fn elsewhere(&mut self, now_ms: u64, jitter: f64, targets: &[u64]) -> Decision {
        let others = targets.iter().filter(|t| **t != self.target).count() as u32;
        self.target = self.following(now_ms, targets);
        if self.hops < HOPS_MAX.min(others) && self.pauses < ROUNDS_AT_ONCE {
            self.hops += 1;
            return self.send(now_ms);
        }
        self.pause(now_ms, jitter, 0)
    }

    /// The target after the current one, in a ring, that does not hang; the same if there is no other.
    fn following(&self, now_ms: u64, targets: &[u64]) -> u64 {
        let Some(at) = targets.iter().position(|t| *t == self.target) else {
            return targets.first().copied().unwrap_or(self.target);
        };
        let after = (1..=targets.len()).map(|step| targets[(at + step) % targets.len()]);
        let next = after.clone().find(|target| *target != self.target && !self.is_hung(*target, now_ms));
        next.or_else(|| after.clone().next()).unwrap_or(self.target)
    }

    fn is_hung(&self, target: u64, now_ms: u64) -> bool {
        self.hung.is_some_and(|(hung, until_ms)| hung == target && now_ms < until_ms)
    }

    fn pause(&mut self, now_ms: u64, jitter: f64, asked_ms: u64) -> Decision {
        let longest = longest_pause_ms(self.policy.timeout_ms);
        let ceiling = longest.min((2 * PAUSE_MS) << self.pauses.min(8)).max(asked_ms.min(ASKED_PAUSE_MS_MAX));
        let floor = PAUSE_MS.max(ceiling / 2);
        let ms = floor + ((ceiling - floor) as f64 * jitter.clamp(0.0, 1.0)) as u64;
        if now_ms + ms >= self.deadline_ms() {
            return self.over(now_ms);
        }
        self.pauses += 1;
        Decision::RetryAfter { ms }
    }

    fn send(&mut self, now_ms: u64) -> Decision {
        let deadline_ms = self.deadline_ms();
        if now_ms >= deadline_ms {
            return self.over(now_ms);
        }
        let wait_ms = match self.policy.wait_ms {
            0 => 0,
            all => u64::from(all).saturating_sub(now_ms - self.started_ms).max(1),
        };
        let left_ms = (deadline_ms - now_ms).saturating_sub(wait_ms).max(1);
        let timeout_ms = left_ms.min(self.policy.attempt_timeout_ms << self.unanswered.min(8)).max(1);
        self.tries += 1;
        self.try_ends_ms = now_ms + timeout_ms + wait_ms;
        Decision::Send(Try { target: self.target, timeout_ms, wait_ms: wait_ms as u32 })
    }

    /// Out of time, or of patience.
    fn over(&self, now_ms: u64) -> Decision {
        let tries = if self.tries == 1 { "1 try".to_owned() } else { format!("{} tries", self.tries) };
        let spent = format!("within {} ms and {tries}", now_ms - self.started_ms);
        let (code, seen) = match &self.last {
            Some(last) => (last.code, last.what.as_str()),
            None => (ErrorCode::NoLeader, "nothing was answered"),
        };
        let error = if self.in_doubt {
            Error::outcome_unknown(format!(
                "no certain answer {spent} (last: {seen}). It may or may not have been done: try again with the same ids, or check"
            ))
        } else if code == ErrorCode::Busy {
            let retry_after_ms = longest_pause_ms(self.policy.timeout_ms) as u32;
            Error::busy(
                format!("too busy to do this {spent} (last: {seen}). Nothing was done: try again later"),
                retry_after_ms,
            )
        } else if !self.heard && code == ErrorCode::NoLeader {
            Error::no_leader(format!(
                "no server could be reached {spent} (last: {seen}). Nothing was done: start what does not run, or correct the addresses"
            ))
        } else {
            // The one that leads, or that a quorum lacks, may be the one that is not reached.
            let unreachable = self.unreachable.as_deref().filter(|why| *why != seen);
            let unreachable = unreachable.map(|why| format!("; {why}")).unwrap_or_default();
            Error::no_leader(format!(
                "no leader with a quorum answered {spent} (last: {seen}{unreachable}). Nothing was done: try again later, see the \
                 cluster's status"
            ))
        };
        Decision::GiveUp(Box::new(error))
    }
}
