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

/// Tries until there is an answer or the retry machine gives up.
///
/// `send` sends one try; `targets` gives those that can be asked, best first, and is asked anew after each failure.
/// Once `abandoned` says so, what fails is not tried again.
pub async fn drive<A, S, F, T>(
    policy: Policy,
    first: u64,
    targets: T,
    abandoned: impl Fn() -> bool,
    mut send: S,
) -> Result<Driven<A>, Box<Error>>
where
    S: FnMut(Try) -> F,
    F: Future<Output = Result<A, Failure>>,
    T: AsRef<[u64]>,
{
    let started = Instant::now();
    let now_ms = || started.elapsed().as_millis() as u64;
    let mut attempt = Attempt::new(policy, 0, first);
    let mut decision = attempt.resume(0);
    let mut first_sent = None;
    loop {
        match decision {
            Decision::Send(next) => {
                let sent = Instant::now();
                let first_sent = *first_sent.get_or_insert(sent);
                let failed = match send(next).await {
                    Ok(answer) => {
                        return Ok(Driven { answer, first_sent, sent, tries: attempt.tries(), target: next.target });
                    }
                    Err(failed) => failed,
                };
                let failure = match &failed {
                    Failure::Refused(error) => retry::Failure::Answer(error),
                    Failure::NotSent(why) => retry::Failure::NotSent(why),
                    Failure::Lost(why) => retry::Failure::Lost(why),
                };
                decision = attempt.next(now_ms(), rand::random(), failure, targets.as_ref());
            }
            Decision::RetryAfter { ms } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                decision = attempt.resume(now_ms());
            }
            Decision::GiveUp(error) => return Err(error),
        }
        if abandoned() && !matches!(decision, Decision::GiveUp(_)) {
            return Err(Box::new(Error::outcome_unknown("given up: whoever asked is gone")));
        }
    }
}
