//! Runs the retry machine with real time, jitter and pauses, for clients.

use crate::mux::Failure;
use crate::retry::{Decision, Policy, Tries, Try};
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

/// Tries until there is an answer or the retry machine gives up, beginning with the target `first`.
///
/// `send` sends one try. `targets` has the targets, best first.
///
/// # Errors
/// The reason why there is no answer, and whether a try is in doubt.
pub async fn drive<A, S, F>(
    policy: Policy,
    first: u64,
    targets: &[u64],
    mut send: S,
) -> Result<Driven<A>, GivenUp>
where
    S: FnMut(Try) -> F,
    F: Future<Output = Result<A, Failure>>,
{
    let started = Instant::now();
    let now_ms = || started.elapsed().as_millis() as u64;
    let mut retry = Tries::new(policy, 0, first);
    let mut first_sent = None;
    let mut decision = retry.start_or_resume(0);
    loop {
        match decision {
            Decision::Send(next) => {
                let sent = Instant::now();
                let first_sent = *first_sent.get_or_insert(sent);
                match send(next).await {
                    Ok(answer) => {
                        return Ok(Driven { answer, first_sent, sent, tries: retry.tries() });
                    }
                    Err(failed) => {
                        decision = retry.after_failure(
                            now_ms(),
                            rand::random(),
                            failed.for_retry(),
                            targets,
                        );
                    }
                }
            }
            Decision::RetryAfter { ms } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                decision = retry.start_or_resume(now_ms());
            }
            Decision::GiveUp(error) => {
                return Err(GivenUp { error, in_doubt: retry.in_doubt() });
            }
        }
    }
}
