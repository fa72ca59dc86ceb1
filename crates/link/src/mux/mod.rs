//! Carries many operations over one stream: the multiplexer between this side and one server.
//!
//! One task per [`Link`] owns the connection. It packs all waiting operations into one frame, and
//! hands each result to its caller. It serves clients towards gateways and gateways towards nodes,
//! with different messages ([`Protocol`]).
//!
//! The link promises one outcome for each operation taken, at the latest when its time is up. It
//! says truly whether an operation may have reached the server. It knows nothing of retries: a lost
//! connection fails all operations in flight.

mod dial;
mod driver;
mod failure;
mod options;
mod pending;
mod protocol;
mod reply;
mod stream;

#[cfg(test)]
mod tests;

pub use dial::{NotMeant, is_meant};
pub use failure::Failure;
pub use options::LinkOptions;
pub use protocol::{Locks, Protocol, Shards, node_outcome};
pub use reply::{Awaited, Outcome, Port};

use driver::Driver;
use net::dial::Target;
use pending::Submission;
use reply::Reply;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wire::v1::operation_result;

/// A gateway's answer. As the `Ok` of a result it is never [`Answer::Error`]: see
/// [`Failure::Refused`].
pub type Answer = operation_result::Result;

/// A handle to one server's stream. Cheap to clone; the connection ends with the last clone.
#[derive(Debug)]
pub struct Link<P: Protocol> {
    queue: mpsc::Sender<Submission<P>>,
    connected: Arc<AtomicBool>,
    target: Arc<Mutex<Target>>,
}

impl<P: Protocol> Clone for Link<P> {
    fn clone(&self) -> Link<P> {
        Link {
            queue: self.queue.clone(),
            connected: self.connected.clone(),
            target: self.target.clone(),
        }
    }
}

impl<P: Protocol> Link<P> {
    /// Starts a link's task on the current Tokio runtime.
    pub fn start(target: Target, options: LinkOptions) -> Link<P> {
        let (queue, submissions) = mpsc::channel(options.queue_ops_max);
        let connected = Arc::new(AtomicBool::new(false));
        let target = Arc::new(Mutex::new(target));
        tokio::spawn(Driver::new(target.clone(), options, submissions, connected.clone()).run());
        Link { queue, connected, target }
    }

    /// Sets the server for the next connection. A connection that is up goes on.
    pub fn redirect(&self, target: Target) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Whether a connection was up a moment ago.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Sends an operation and waits for its answer: for `timeout_ms`, and in addition for the wait
    /// of a waiting acquire. Sets the operation's number and timeout.
    ///
    /// The server gets a little less time, so that its own answer arrives before the deadline. The
    /// time in the queue is subtracted too.
    ///
    /// If this future is dropped, the operation is taken back unless it was sent before.
    pub async fn call(&self, operation: P::Operation, timeout_ms: u64) -> Outcome<P::Answer> {
        self.begin(operation, timeout_ms).await
    }

    /// Like [`call`](Self::call), for a caller that waits later. Dropping the future before the
    /// operation is sent takes it back, and otherwise the operation goes on.
    pub fn begin(&self, operation: P::Operation, timeout_ms: u64) -> Awaited<P::Answer> {
        let (reply, answer) = oneshot::channel();
        self.queue(operation, timeout_ms, Reply::Once(reply));
        Awaited(answer)
    }

    /// Like [`call`](Self::call), without waiting: the outcome comes to the port.
    pub fn submit(&self, operation: P::Operation, timeout_ms: u64, port: Port<P::Answer>) {
        self.queue(operation, timeout_ms, Reply::Port(port));
    }

    fn queue(&self, operation: P::Operation, timeout_ms: u64, reply: Reply<P::Answer>) {
        let wait_ms = P::wait_ms(&operation);
        let deadline =
            Instant::now() + Duration::from_millis(timeout_ms.saturating_add(wait_ms.into()));
        let (refused, failure) =
            match self.queue.try_send(Submission { operation, deadline, reply }) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(refused)) => (
                    refused,
                    Failure::NotSent(
                        "too many operations wait to be sent on this connection".into(),
                    ),
                ),
                Err(mpsc::error::TrySendError::Closed(refused)) => (refused, Failure::closed()),
            };
        refused.reply.send(Err(failure));
    }
}
