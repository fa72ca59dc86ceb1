//! The ways in which an outcome reaches its caller.

use super::failure::Failure;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::{mpsc, oneshot};

/// The outcome of one try.
pub type Outcome<A> = Result<A, Failure>;

/// The receiver of an outcome: a caller with one operation, or a caller with many.
#[derive(Debug)]
pub(super) enum Reply<A> {
    Once(oneshot::Sender<Outcome<A>>),
    Port(Port<A>),
}

impl<A> Reply<A> {
    /// Sends the outcome. A caller that has gone does not get it.
    pub(super) fn send(self, outcome: Outcome<A>) {
        match self {
            Reply::Once(reply) => drop(reply.send(outcome)),
            Reply::Port(port) => port.send(outcome),
        }
    }

    /// Whether the caller has gone.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Reply::Once(reply) => reply.is_closed(),
            Reply::Port(Port { outcomes, .. }) => {
                outcomes.as_ref().is_none_or(mpsc::UnboundedSender::is_closed)
            }
        }
    }
}

/// The outcome of one operation that is on its way. It holds nothing of the operation, so it is as
/// small as a pointer.
#[derive(Debug)]
pub struct Awaited<A>(pub(super) oneshot::Receiver<Outcome<A>>);

impl<A> Awaited<A> {
    /// The outcome of an operation that cannot be sent.
    pub fn failed(failure: Failure) -> Awaited<A> {
        let (reply, answer) = oneshot::channel();
        let _ = reply.send(Err(failure)); // `answer` is open
        Awaited(answer)
    }
}

impl<A> Future for Awaited<A> {
    type Output = Outcome<A>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome<A>> {
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(Failure::closed())))
    }
}

/// The queue that an outcome goes to, under its operation's number. Operations of one caller share
/// the queue.
///
/// - Each operation gets exactly one outcome, even if the link ends.
#[derive(Debug)]
pub struct Port<A> {
    outcomes: Option<mpsc::UnboundedSender<(usize, Outcome<A>)>>,
    number: usize,
}

impl<A> Port<A> {
    /// A port for the operation with this number. The queue holds at most one outcome for each
    /// operation in flight.
    pub fn new(outcomes: &mpsc::UnboundedSender<(usize, Outcome<A>)>, number: usize) -> Port<A> {
        Port { outcomes: Some(outcomes.clone()), number }
    }

    /// Sends the outcome. A caller that has gone does not get it.
    pub fn send(mut self, outcome: Outcome<A>) {
        if let Some(outcomes) = self.outcomes.take() {
            let _ = outcomes.send((self.number, outcome));
        }
    }
}

impl<A> Drop for Port<A> {
    fn drop(&mut self) {
        if let Some(outcomes) = self.outcomes.take() {
            let _ = outcomes.send((self.number, Err(Failure::closed())));
        }
    }
}
