//! Runs the retry machine with a clock, jitter and pauses, for clients and gateways alike.

use crate::mux::Failure;
use crate::retry::{self, Attempt, Decision, Policy, Try};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use wire::v1::Error;

/// An answered operation, with the times when its tries were sent. A holder counts its validity
/// from there.
#[derive(Clone, Debug)]
pub struct Driven<A> {
    /// The answer of the server.
    pub answer: A,
    /// When the first try was sent.
    pub first_sent: Instant,
    /// When the answered try was sent.
    pub sent: Instant,
    /// The number of tries.
    pub tries: u32,
    /// The target that answered.
    pub target: u64,
}

/// An operation that did not succeed.
#[derive(Debug)]
pub struct GivenUp {
    /// The error for the caller.
    pub error: Box<Error>,
    /// A try was sent and not answered, so it may have been done, or may yet be. This holds for any
    /// `error`. If the operation is an acquire that was refused, cancel it. Otherwise a late copy
    /// may be granted, and no client would know of the grant.
    pub in_doubt: bool,
}

impl From<GivenUp> for Box<Error> {
    fn from(given_up: GivenUp) -> Box<Error> {
        given_up.error
    }
}

/// The tries of one operation.
#[derive(Clone, Debug)]
pub struct Course {
    attempt: Attempt,
    started: Instant,
    first_sent: Option<Instant>,
}

impl Course {
    /// Begins an operation, now.
    pub fn new(policy: Policy, first: u64) -> Course {
        Course {
            attempt: Attempt::new(policy, 0, first),
            started: Instant::now(),
            first_sent: None,
        }
    }

    /// The time left to the operation, its wait included.
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.attempt.deadline_ms()).saturating_sub(self.started.elapsed())
    }

    /// The first try, for a caller that sends it by other means. Call this once.
    ///
    /// # Errors
    /// If there is no time for a try.
    pub fn first(&mut self) -> Result<Try, Box<Error>> {
        self.first_sent = Some(self.started);
        match self.attempt.resume(0) {
            Decision::Send(first) => Ok(first),
            Decision::GiveUp(error) => Err(error),
            Decision::RetryAfter { .. } => unreachable!("nothing has failed yet"),
        }
    }

    /// Tries until there is an answer or the retry machine gives up. If the [`first`](Self::first)
    /// try was already made and failed, `failed` has its failure.
    ///
    /// `send` sends one try. `targets` has the targets, best first, and is read anew after each
    /// failure. Once `abandoned` returns true, a failure is not retried.
    pub async fn drive<A, S, F, T>(
        mut self,
        failed: Option<Failure>,
        targets: T,
        abandoned: impl Fn() -> bool,
        mut send: S,
    ) -> Result<Driven<A>, GivenUp>
    where
        S: FnMut(Try) -> F,
        F: Future<Output = Result<A, Failure>>,
        T: AsRef<[u64]>,
    {
        let mut decision = match failed {
            Some(failed) => self.after(&failed, targets.as_ref()),
            None => self.attempt.resume(0),
        };
        loop {
            if self.first_sent.is_some() && abandoned() && !matches!(decision, Decision::GiveUp(_))
            {
                let error =
                    Box::new(Error::outcome_unknown("given up: the client that asked is gone"));
                return Err(GivenUp { error, in_doubt: true });
            }
            match decision {
                Decision::Send(next) => {
                    let sent = Instant::now();
                    let first_sent = *self.first_sent.get_or_insert(sent);
                    let failed = match send(next).await {
                        Ok(answer) => {
                            let tries = self.attempt.tries();
                            return Ok(Driven {
                                answer,
                                first_sent,
                                sent,
                                tries,
                                target: next.target,
                            });
                        }
                        Err(failed) => failed,
                    };
                    decision = self.after(&failed, targets.as_ref());
                }
                Decision::RetryAfter { ms } => {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    let now_ms = self.now_ms();
                    decision = self.attempt.resume(now_ms);
                }
                Decision::GiveUp(error) => {
                    return Err(GivenUp { error, in_doubt: self.attempt.in_doubt() });
                }
            }
        }
    }

    fn after(&mut self, failed: &Failure, targets: &[u64]) -> Decision {
        let failure = match failed {
            Failure::Refused(error) => retry::Failure::Answer(error),
            Failure::NotLeader { leader, why, .. } => {
                retry::Failure::NotLeader { leader: *leader, why }
            }
            Failure::StaleRoute(why) => retry::Failure::StaleRoute(why),
            Failure::NotSent(why) => retry::Failure::NotSent(why),
            Failure::Lost(why) => retry::Failure::Lost(why),
        };
        let now_ms = self.now_ms();
        self.attempt.next(now_ms, rand::random(), failure, targets)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}
