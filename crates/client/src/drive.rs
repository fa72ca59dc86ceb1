//! The shell around the retry machine: clock, jitter and pauses, for clients and gateways alike.

use crate::mux::Failure;
use crate::retry::{self, Attempt, Decision, Policy, Try};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use wire::v1::Error;

/// An operation that was answered, with when its tries were sent: a holder counts its validity from there.
#[derive(Clone, Debug)]
pub struct Driven<A> {
    /// What was answered.
    pub answer: A,
    /// The first try.
    pub first_sent: Instant,
    /// The try that was answered.
    pub sent: Instant,
    /// How many there were.
    pub tries: u32,
    /// Who answered.
    pub target: u64,
}

/// An operation that came to no success.
#[derive(Debug)]
pub struct GivenUp {
    /// For the caller.
    pub error: Box<Error>,
    /// A try may have been done, or may be done yet, whatever `error` says: it was sent, and not answered. An acquire that was
    /// refused is to be cancelled then, or a late copy of it may be granted to nobody.
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
    /// Begins now.
    pub fn new(policy: Policy, first: u64) -> Course {
        Course { attempt: Attempt::new(policy, 0, first), started: Instant::now(), first_sent: None }
    }

    /// What is left of the operation's time, its wait included.
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.attempt.deadline_ms()).saturating_sub(self.started.elapsed())
    }

    /// The first try, for who makes it in another way; call it once.
    ///
    /// # Errors
    /// There is no time for any.
    pub fn first(&mut self) -> Result<Try, Box<Error>> {
        self.first_sent = Some(self.started);
        match self.attempt.resume(0) {
            Decision::Send(first) => Ok(first),
            Decision::GiveUp(error) => Err(error),
            Decision::RetryAfter { .. } => unreachable!("nothing has failed yet"),
        }
    }

    /// Tries until there is an answer or the retry machine gives up; from after the [`first`](Self::first) try on if that was made
    /// and `failed`.
    ///
    /// `send` sends one try; `targets` gives those that can be asked, best first, and is asked anew after each failure.
    /// Once `abandoned` says so, what fails is not tried again.
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
            if self.first_sent.is_some() && abandoned() && !matches!(decision, Decision::GiveUp(_)) {
                let error = Box::new(Error::outcome_unknown("given up: the client that asked is gone"));
                return Err(GivenUp { error, in_doubt: true });
            }
            match decision {
                Decision::Send(next) => {
                    let sent = Instant::now();
                    let first_sent = *self.first_sent.get_or_insert(sent);
                    let failed = match send(next).await {
                        Ok(answer) => {
                            let tries = self.attempt.tries();
                            return Ok(Driven { answer, first_sent, sent, tries, target: next.target });
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
                Decision::GiveUp(error) => return Err(GivenUp { error, in_doubt: self.attempt.in_doubt() }),
            }
        }
    }

    fn after(&mut self, failed: &Failure, targets: &[u64]) -> Decision {
        let failure = match failed {
            Failure::Refused(error) => retry::Failure::Answer(error),
            Failure::NotLeader { leader, why, .. } => retry::Failure::NotLeader { leader: *leader, why },
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
