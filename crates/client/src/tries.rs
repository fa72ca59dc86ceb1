//! The tries of one operation, or of one unary RPC: each goes to a gateway, and all together have
//! one answer.
//!
//! It knows nothing of the meaning of an answer, and keeps nothing from one operation to the next.

use crate::options::whole_ms;
use crate::servers::{Connected, Servers};
use crate::{Error, trace, unary};
use link::drive::{Driven, drive};
use link::mux::{Answer, Failure};
use link::retry::{Policy, Try};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use wire::OperationKind;
use wire::v1::operation::Op;
use wire::v1::{self, Operation};

/// The least time for a request that still has to be made when the caller's time is up.
pub(crate) const LEAST_TIME: Duration = Duration::from_millis(1);

/// Retries one operation within `timeout`, over streams or as `unary` calls. The error tells
/// whether a try is still in doubt: see [`GivenUp`](link::drive::GivenUp).
pub(crate) async fn operation(
    servers: &Servers,
    unary: bool,
    op: Op,
    timeout: Duration,
) -> Result<Driven<Answer>, (Error, bool)> {
    let not_tried = |error: Error| (error, false);
    let operation = Operation { traceparent: trace::traceparent(), ..Operation::of(op) };
    wire::check_operation(&operation).map_err(|error| not_tried(error.into()))?;
    let op =
        operation.op.as_ref().ok_or_else(|| not_tried(Error::invalid("the operation is empty")))?;
    let policy = policy(op.kind(), op.wait_ms(), timeout, servers);
    let reach = &Reach::default();
    let send = |next: Try| {
        let mut operation = operation.clone();
        if let Some(Op::Acquire(acquire)) = &mut operation.op {
            acquire.wait_ms = next.wait_ms;
        }
        async move {
            let outcome = if unary {
                let timeout = Duration::from_millis(next.timeout_ms);
                servers.call_unary(next.target, operation, timeout).await
            } else {
                servers.call(next.target, operation, next.timeout_ms).await
            };
            servers.heard(next.target, &outcome);
            reach.heard(&outcome);
            outcome
        }
    };
    let driven = drive(policy, servers.first(), servers.targets(), send).await;
    driven.map_err(|given_up| (reach.explain(*given_up.error, servers), given_up.in_doubt))
}

/// Retries a unary RPC that is not an operation of the stream. `kind` tells whether a try without
/// an answer leaves doubt.
pub(crate) async fn rpc<T, F>(
    servers: &Servers,
    kind: OperationKind,
    timeout: Duration,
    send: impl Fn(unary::Authorized, Duration) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let policy = policy(kind, 0, timeout, servers);
    let (send, reach) = (&send, &Reach::default());
    let sent = |next: Try| async move {
        let timeout = Duration::from_millis(next.timeout_ms);
        let began = Instant::now();
        let outcome = match servers.channel(next.target, timeout).await {
            // The time to connect is part of the time of the operation.
            Ok(Connected { channel, generation }) => {
                let left = timeout.saturating_sub(began.elapsed()).max(LEAST_TIME);
                let sent = send(channel, left).await.map_err(|status| unary::failed(&status));
                if matches!(sent, Err(Failure::Lost(_))) {
                    servers.forget_channel(next.target, generation);
                }
                sent
            }
            Err(not_sent) => Err(not_sent),
        };
        servers.heard(next.target, &outcome);
        reach.heard(&outcome);
        outcome
    };
    let driven = drive(policy, servers.first(), servers.targets(), sent).await;
    driven.map(|driven| driven.answer).map_err(|given_up| reach.explain(*given_up.error, servers))
}

/// The bounds of the retries. With one gateway a try may take all the time, because the gateway
/// itself retries. With several, a gateway that hangs must leave time for the next.
fn policy(kind: OperationKind, wait_ms: u32, timeout: Duration, servers: &Servers) -> Policy {
    let timeout_ms = u64::from(whole_ms(timeout)).max(1);
    let first_try_timeout_ms =
        if servers.targets().len() > 1 { timeout_ms.div_ceil(2) } else { timeout_ms };
    Policy {
        kind,
        timeout_ms,
        wait_ms,
        first_try_timeout_ms,
        retry_busy: true,
        targets_retry: true,
    }
}

/// Whether any try of one operation reached a gateway.
#[derive(Debug)]
struct Reach {
    since: Instant,
    got_through: AtomicBool,
    /// The reason why the last unsent try was not sent.
    not_sent: Mutex<Option<Arc<str>>>,
}

impl Default for Reach {
    fn default() -> Self {
        Reach {
            since: Instant::now(),
            got_through: AtomicBool::new(false),
            not_sent: Mutex::default(),
        }
    }
}

impl Reach {
    fn heard<T>(&self, outcome: &Result<T, Failure>) {
        match outcome {
            Err(Failure::NotSent(why)) => {
                *self.not_sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
            }
            _ => self.got_through.store(true, Ordering::Relaxed),
        }
    }

    /// The error of a failed operation. If no gateway was reached, it says so, because nothing is
    /// known of the cluster then.
    fn explain(&self, error: v1::Error, servers: &Servers) -> Error {
        let not_sent = self.not_sent.lock().unwrap_or_else(PoisonError::into_inner);
        match not_sent.as_deref() {
            Some(why) if !self.got_through.load(Ordering::Relaxed) && !servers.is_connected() => {
                Error::unreachable(&servers.addresses(), self.since.elapsed().as_millis(), why)
            }
            _ => error.into(),
        }
    }
}
