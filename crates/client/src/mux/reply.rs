//! Who is told of an outcome.

use super::{Failure, closed};
use tokio::sync::{mpsc, oneshot};

/// What came of one try.
pub type Outcome<A> = Result<A, Failure>;

/// For one who waits for one operation, or one who waits for many.
#[derive(Debug)]
pub(super) enum Reply<A> {
    Once(oneshot::Sender<Outcome<A>>),
    Port(Port<A>),
}

impl<A> Reply<A> {
    /// Whoever asked may have gone.
    pub(super) fn send(self, outcome: Outcome<A>) {
        match self {
            Reply::Once(reply) => drop(reply.send(outcome)),
            Reply::Port(port) => port.send(outcome),
        }
    }

    /// Nobody waits any more.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Reply::Once(reply) => reply.is_closed(),
            Reply::Port(Port { outcomes, .. }) => outcomes.as_ref().is_none_or(mpsc::UnboundedSender::is_closed),
        }
    }
}

/// Where the outcome of one operation goes, under its sender's number, in one queue with those of its others.
///
/// - Exactly one outcome comes of each, whatever becomes of the link.
#[derive(Debug)]
pub struct Port<A> {
    outcomes: Option<mpsc::UnboundedSender<(usize, Outcome<A>)>>,
    number: usize,
}

impl<A> Port<A> {
    /// Of the operation with this number. The queue holds at most an outcome for each operation under way.
    pub fn new(outcomes: &mpsc::UnboundedSender<(usize, Outcome<A>)>, number: usize) -> Port<A> {
        Port { outcomes: Some(outcomes.clone()), number }
    }

    /// Whoever asked may have gone.
    pub fn send(mut self, outcome: Outcome<A>) {
        if let Some(outcomes) = self.outcomes.take() {
            let _ = outcomes.send((self.number, outcome));
        }
    }
}

impl<A> Drop for Port<A> {
    fn drop(&mut self) {
        if let Some(outcomes) = self.outcomes.take() {
            let _ = outcomes.send((self.number, Err(closed())));
        }
    }
}
