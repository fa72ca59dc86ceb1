//! Who is told of an outcome.

use super::{Answer, Failure, closed};
use tokio::sync::{mpsc, oneshot};

/// What came of one try.
pub type Outcome = Result<Answer, Failure>;

/// For one who waits for one operation, or one who waits for many.
#[derive(Debug)]
pub(super) enum Reply {
    Once(oneshot::Sender<Outcome>),
    Port(Port),
}

impl Reply {
    /// Whoever asked may have gone.
    pub(super) fn send(self, outcome: Outcome) {
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
pub struct Port {
    outcomes: Option<mpsc::UnboundedSender<(usize, Outcome)>>,
    number: usize,
}

impl Port {
    /// Of the operation with this number. The queue holds at most an outcome for each operation under way.
    pub fn new(outcomes: &mpsc::UnboundedSender<(usize, Outcome)>, number: usize) -> Port {
        Port { outcomes: Some(outcomes.clone()), number }
    }

    /// Whoever asked may have gone.
    pub fn send(mut self, outcome: Outcome) {
        if let Some(outcomes) = self.outcomes.take() {
            let _ = outcomes.send((self.number, outcome));
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(outcomes) = self.outcomes.take() {
            let _ = outcomes.send((self.number, Err(closed())));
        }
    }
}
