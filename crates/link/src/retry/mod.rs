//! Decides whether, where and when to retry an operation: a pure state machine.
//!
//! It promises that nothing is sent at or after the deadline. It also promises that an operation is
//! never reported as not done once a try that got no answer may have taken effect. Only an answer
//! of the lock table itself, to a later try with the same ids, may say so. Such a refusal of an
//! acquire does not rule out that a late try is granted yet: see [`Tries::in_doubt`].
//!
//! It knows nothing of clocks, sockets or randomness. Times are milliseconds on any one monotonic
//! clock, jitter is an argument, and targets are numbers (a client's gateways, a gateway's nodes).

#[cfg(test)]
mod tests;

use crate::planted_bugs::leaves_doubt;
use wire::v1::{Error, ErrorCode};
use wire::{ErrorClass, OperationKind};

/// At most this many moves to another target in a row, without a pause between them.
const HOPS_MAX: u32 = 3;
/// After this many pauses, a move to another target always waits for a pause, unless it follows a
/// hint. By then each target was asked several times, and a server that is down does not come back
/// sooner for being asked more often.
const ROUNDS_WITH_HOPS: u32 = 3;
/// Shortest pause that this state machine chooses. Pauses double up to [`longest_pause_ms`].
const PAUSE_MS: u64 = 10;
/// Longest pause that a server can ask for.
const ASKED_PAUSE_MS_MAX: u64 = 1_000;

/// Longest pause: a twentieth of the operation's time, so that an operation makes tens of tries and
/// not hundreds, however long its time. It is at least 100 ms, and at most 1 s so that a new leader
/// is found soon after its election.
fn longest_pause_ms(timeout_ms: u64) -> u64 {
    (timeout_ms / 20).clamp(100, 1_000)
}

/// The bounds on the tries of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The kind of the operation. It decides whether an unanswered try leaves doubt.
    pub kind: OperationKind,
    /// The time for all tries together, not counting `wait_ms`.
    pub timeout_ms: u64,
    /// How long an acquire may wait in its queue, in addition. 0 if it does not wait.
    pub wait_ms: u32,
    /// The time for the first try. It doubles with each unanswered try, and the wait comes on top.
    pub first_try_timeout_ms: u64,
    /// Whether to retry after BUSY. False if the side that asked for the operation retries it
    /// anyway.
    pub retry_busy: bool,
    /// Whether the targets themselves retry, as gateways do. Each has already looked for a leader by
    /// itself, so each is asked about once: NO_LEADER or OUTCOME_UNKNOWN is final once there were as
    /// many tries as there are targets. It also decides whether an acquire in doubt goes on after
    /// WAIT_CANCELLED. A client does, because it is the last that can find out. A gateway leaves it
    /// to its client, which comes back with the same ids.
    pub targets_retry: bool,
}

/// How one try failed.
#[derive(Clone, Copy, Debug)]
pub enum TryFailure<'a> {
    /// The target answered with this error.
    Refused(&'a Error),
    /// The target is not the leader.
    NotLeader {
        /// The leader as far as the target knows.
        leader: Option<u64>,
        /// The reason, for people.
        why: &'a str,
    },
    /// According to its own map, the target does not serve the shard. With the reason.
    StaleRoute(&'a str),
    /// The try was not sent. With the reason.
    NotSent(&'a str),
    /// The try was sent, and no answer came. With the reason.
    Lost(&'a str),
}

/// The next step of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Send this try now.
    Send(Try),
    /// Call [`Tries::start_or_resume`] after a pause.
    RetryAfter {
        /// The pause, counted from now.
        ms: u64,
    },
    /// The operation has ended with this error.
    GiveUp(Box<Error>),
}

/// One try of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Try {
    /// The target to send it to.
    pub target: u64,
    /// How long to wait for the answer, in addition to `wait_ms`. At least 1.
    pub timeout_ms: u64,
    /// The time left of an acquire's wait. At least 1 for an acquire that waits, because with 0 it
    /// would turn into one that does not wait and lose its place. 0 for everything else.
    pub wait_ms: u32,
}

/// The tries of one operation.
///
/// * `tries` counts the decisions to [`Decision::Send`].
/// * `in_doubt` is set by an unanswered try of an operation that changes something, and is never
///   cleared.
#[derive(Clone, Debug)]
pub struct Tries {
    policy: Policy,
    started_ms: u64,
    target: u64,
    /// The latest target, since the last pause, that could not be reached, did not answer, or is
    /// shutting down. Hints to it are ignored until the next pause.
    silent: Option<u64>,
    /// The target that let a try time out, and until when others are preferred. Until then no hint
    /// to it is followed either: the hint may date from before it hung.
    hung: Option<(u64, u64)>,
    /// When the time of the latest try is up.
    try_ends_ms: u64,
    tries: u32,
    /// Moves to another target since the last pause.
    hops: u32,
    /// Pauses so far.
    pauses: u32,
    /// Tries so far that got no answer. Each doubles the time for the next try.
    unanswered: u32,
    in_doubt: bool,
    /// Tries that left doubt.
    doubts: u32,
    /// How many tries were answered WAIT_CANCELLED while the acquire was in doubt. Compared with
    /// `doubts`: see `after_error`.
    cancelled: u32,
    /// The latest failure that may be retried, for the error at the end.
    latest: Option<Box<Latest>>,
    /// Whether any target has answered.
    any_answer: bool,
    /// The reason why the latest unsent try was not sent.
    unreachable: Option<Box<str>>,
}

#[derive(Clone, Debug)]
struct Latest {
    code: ErrorCode,
    what: String,
}

impl Tries {
    /// Starts an operation with its first target.
    pub fn new(policy: Policy, now_ms: u64, first: u64) -> Tries {
        Tries {
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
            latest: None,
            any_answer: false,
            unreachable: None,
        }
    }

    /// The deadline of the whole operation, its wait included.
    pub fn deadline_ms(&self) -> u64 {
        self.started_ms + u64::from(self.policy.wait_ms) + self.policy.timeout_ms
    }

    /// The number of tries so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Whether a try so far may have taken effect without a certain answer.
    ///
    /// An acquire that was refused while in doubt may still be granted, when its lost try arrives
    /// late. So its caller cancels it.
    pub fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Makes `target` the next one, because the operation has another route now.
    pub fn turn_to(&mut self, target: u64) {
        self.target = target;
    }

    /// Decides at the start, and when a pause is over.
    pub fn start_or_resume(&mut self, now_ms: u64) -> Decision {
        self.hops = 0;
        self.silent = None;
        self.send(now_ms)
    }

    /// Decides after a failed try. `targets` has the targets in order of preference, and `jitter`
    /// is from 0 to 1.
    pub fn after_failure(
        &mut self,
        now_ms: u64,
        jitter: f64,
        failure: TryFailure<'_>,
        targets: &[u64],
    ) -> Decision {
        let (code, what) = match failure {
            TryFailure::Refused(error) => (error.code(), error.message.as_str()),
            TryFailure::NotLeader { why, .. }
            | TryFailure::StaleRoute(why)
            | TryFailure::NotSent(why) => (ErrorCode::NoLeader, why),
            TryFailure::Lost(why) => (ErrorCode::OutcomeUnknown, why),
        };
        if !matches!(failure, TryFailure::Refused(_))
            || matches!(code.class(), ErrorClass::Retry | ErrorClass::Unknown)
        {
            self.latest = Some(Box::new(Latest { code, what: what.to_owned() }));
        }
        match failure {
            TryFailure::NotSent(why) => {
                self.unreachable = Some(why.into());
                self.silent = Some(self.target);
                self.try_next_target(now_ms, jitter, targets)
            }
            TryFailure::Lost(_) => {
                self.doubt();
                self.unanswered += 1;
                self.silent = Some(self.target);
                if now_ms >= self.try_ends_ms {
                    self.hung = Some((self.target, now_ms + self.policy.first_try_timeout_ms));
                }
                self.try_next_target(now_ms, jitter, targets)
            }
            TryFailure::NotLeader { leader, .. } => {
                self.any_answer = true;
                self.not_leader(now_ms, jitter, leader, targets)
            }
            TryFailure::StaleRoute(_) => {
                self.any_answer = true;
                self.target = self.next_target(now_ms, targets);
                self.pause(now_ms, jitter, 0)
            }
            TryFailure::Refused(error) => {
                self.any_answer = true;
                self.after_error(now_ms, jitter, error, targets)
            }
        }
    }

    /// Follows a hint, unless its target was silent or hangs.
    fn not_leader(
        &mut self,
        now_ms: u64,
        jitter: f64,
        hint: Option<u64>,
        targets: &[u64],
    ) -> Decision {
        let good = hint.filter(|hint| {
            let known = targets.contains(hint) && *hint != self.target;
            known && self.silent != Some(*hint) && !self.is_hung(*hint, now_ms)
        });
        if let Some(leader) = good
            && self.hops < HOPS_MAX
        {
            self.hops += 1;
            self.target = leader;
            return self.send(now_ms);
        }
        self.target = good.unwrap_or_else(|| self.next_target(now_ms, targets));
        self.pause(now_ms, jitter, 0)
    }

    fn after_error(
        &mut self,
        now_ms: u64,
        jitter: f64,
        error: &Error,
        targets: &[u64],
    ) -> Decision {
        match error.code() {
            ErrorCode::NoLeader | ErrorCode::OutcomeUnknown
                if self.policy.targets_retry && self.tries as usize >= targets.len() =>
            {
                if error.code() == ErrorCode::OutcomeUnknown {
                    self.doubt();
                } else if self.in_doubt {
                    return self.give_up(now_ms);
                }
                Decision::GiveUp(Box::new(error.clone()))
            }
            ErrorCode::NoLeader => {
                self.target = self.next_target(now_ms, targets);
                self.pause(now_ms, jitter, 0)
            }
            ErrorCode::ShuttingDown => {
                // A gateway that ends leaves a wait in its queue for a while, so that its client can
                // come back to it. It may be granted there.
                if self.policy.targets_retry && self.policy.wait_ms > 0 {
                    self.doubt();
                }
                self.silent = Some(self.target);
                self.try_next_target(now_ms, jitter, targets)
            }
            ErrorCode::Busy if self.policy.retry_busy => {
                self.pause(now_ms, jitter, error.retry_after_ms.into())
            }
            ErrorCode::Busy => self.give_up(now_ms),
            // The access policy may have changed since an earlier try, which may have been done.
            ErrorCode::Unauthenticated | ErrorCode::PermissionDenied if self.in_doubt => {
                self.give_up(now_ms)
            }
            ErrorCode::OutcomeUnknown => {
                self.doubt();
                self.target = self.next_target(now_ms, targets);
                self.pause(now_ms, jitter, 0)
            }
            // WAIT_CANCELLED has three causes: a cancel, the end of the session, or a later-arriving
            // copy of this request that replaced this try in the queue. After an unanswered try we
            // cannot tell which, and in the last case the lock may still be granted.
            ErrorCode::WaitCancelled
                if self.policy.kind == OperationKind::Acquire && self.in_doubt =>
            {
                self.cancelled += 1;
                // Each try in doubt takes over the place at most once. So with more cancellations
                // than tries in doubt, the wait was really cancelled, and another try would be
                // refused too. Even then the outcome is unknown: the cancel of a gateway that cleans
                // up after a client leaves no tombstone, so a try in doubt may still queue anew.
                if self.policy.targets_retry && self.cancelled <= self.doubts {
                    return self.pause(now_ms, jitter, 0);
                }
                Decision::GiveUp(Box::new(Error::outcome_unknown(
                    "this wait was ended, by a cancel or by an earlier try that got no answer and \
                     took its place. The lock may still be granted: try again with the same ids",
                )))
            }
            ErrorCode::Held | ErrorCode::NotOwner | ErrorCode::Expired
                if self.policy.kind == OperationKind::Break && self.in_doubt =>
            {
                Decision::GiveUp(Box::new(Error {
                    current_token: error.current_token,
                    ..Error::outcome_unknown(
                        "an earlier try of this break got no answer, and the token no longer holds \
                         the lock: most likely that try broke it. The history of the lock says who \
                         ended the grant",
                    )
                }))
            }
            _ => Decision::GiveUp(Box::new(error.clone())),
        }
    }

    fn doubt(&mut self) {
        if leaves_doubt(!self.policy.kind.is_read()) {
            self.in_doubt = true;
            self.doubts += 1;
        }
    }

    /// Moves to the next target: at once while there are hops left, otherwise after a pause.
    fn try_next_target(&mut self, now_ms: u64, jitter: f64, targets: &[u64]) -> Decision {
        let others = targets.iter().filter(|t| **t != self.target).count() as u32;
        self.target = self.next_target(now_ms, targets);
        if self.hops < HOPS_MAX.min(others) && self.pauses < ROUNDS_WITH_HOPS {
            self.hops += 1;
            return self.send(now_ms);
        }
        self.pause(now_ms, jitter, 0)
    }

    /// The next target, in the order of `targets` and round to its start, that does not hang. If
    /// all others hang, the one after the current. The first if the current is not in the list.
    fn next_target(&self, now_ms: u64, targets: &[u64]) -> u64 {
        let Some(at) = targets.iter().position(|t| *t == self.target) else {
            return targets.first().copied().unwrap_or(self.target);
        };
        let after = (1..=targets.len()).map(|step| targets[(at + step) % targets.len()]);
        let next =
            after.clone().find(|target| *target != self.target && !self.is_hung(*target, now_ms));
        next.or_else(|| after.clone().next()).unwrap_or(self.target)
    }

    fn is_hung(&self, target: u64, now_ms: u64) -> bool {
        self.hung.is_some_and(|(hung, until_ms)| hung == target && now_ms < until_ms)
    }

    fn pause(&mut self, now_ms: u64, jitter: f64, asked_ms: u64) -> Decision {
        let longest = longest_pause_ms(self.policy.timeout_ms);
        let ceiling =
            longest.min((2 * PAUSE_MS) << self.pauses.min(8)).max(asked_ms.min(ASKED_PAUSE_MS_MAX));
        // Jitter takes up to half off, also off a pause that the server asked for: a server asks many
        // clients for the same pause, and they should not come back at one moment.
        let floor = PAUSE_MS.max(ceiling / 2);
        let ms = floor + ((ceiling - floor) as f64 * jitter.clamp(0.0, 1.0)) as u64;
        if now_ms + ms >= self.deadline_ms() {
            return self.give_up(now_ms);
        }
        self.pauses += 1;
        Decision::RetryAfter { ms }
    }

    fn send(&mut self, now_ms: u64) -> Decision {
        let deadline_ms = self.deadline_ms();
        if now_ms >= deadline_ms {
            return self.give_up(now_ms);
        }
        let wait_ms = match self.policy.wait_ms {
            0 => 0,
            all => u64::from(all).saturating_sub(now_ms - self.started_ms).max(1),
        };
        let left_ms = (deadline_ms - now_ms).saturating_sub(wait_ms).max(1);
        let timeout_ms =
            left_ms.min(self.policy.first_try_timeout_ms << self.unanswered.min(8)).max(1);
        self.tries += 1;
        self.try_ends_ms = now_ms + timeout_ms + wait_ms;
        Decision::Send(Try { target: self.target, timeout_ms, wait_ms: wait_ms as u32 })
    }

    /// Ends the operation, with the error that fits all that is known of its tries.
    fn give_up(&self, now_ms: u64) -> Decision {
        let tries =
            if self.tries == 1 { "1 try".to_owned() } else { format!("{} tries", self.tries) };
        let spent = format!("within {} ms and {tries}", now_ms - self.started_ms);
        let (code, seen) = match &self.latest {
            Some(latest) => (latest.code, latest.what.as_str()),
            None => (ErrorCode::NoLeader, "nothing was answered"),
        };
        let error = if self.in_doubt {
            Error::outcome_unknown(format!(
                "no certain answer {spent} (last: {seen}). It may or may not have been done: try \
                 again with the same ids, or check"
            ))
        } else if code == ErrorCode::Busy {
            // A server's own figure is for one more try; all tries were in vain.
            let retry_after_ms = longest_pause_ms(self.policy.timeout_ms) as u32;
            Error::busy(
                format!(
                    "too busy to do this {spent} (last: {seen}). Nothing was done: try again later"
                ),
                retry_after_ms,
            )
        } else if !self.any_answer && code == ErrorCode::NoLeader {
            Error::no_leader(format!(
                "no server could be reached {spent} (last: {seen}). Nothing was done: start what \
                 does not run, or correct the addresses"
            ))
        } else {
            // The unreachable target is named as well, because it may be the leader, or the one node
            // that a quorum lacks.
            let unreachable = self.unreachable.as_deref().filter(|why| *why != seen);
            let unreachable = unreachable.map(|why| format!("; {why}")).unwrap_or_default();
            Error::no_leader(format!(
                "no leader with a quorum answered {spent} (last: {seen}{unreachable}). Nothing was \
                 done: try again later, see the cluster's status"
            ))
        };
        Decision::GiveUp(Box::new(error))
    }
}
