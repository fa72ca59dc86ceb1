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
mod pending;
mod protocol;
mod reply;

#[cfg(test)]
mod tests;

pub use dial::is_meant;
pub use protocol::{Locks, Protocol, Shards, node_outcome};
pub use reply::{Outcome, Port};

use crate::retry;
use driver::Driver;
use reply::Reply;
use routing::NodeId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Endpoint;
use wire::internal::v1::ClusterIdentity;
use wire::v1::{Error, operation_result};

/// A gateway's answer. As the `Ok` of a result it is never [`Answer::Error`]: see
/// [`Failure::Refused`].
pub type Answer = operation_result::Result;

/// The settings of a link.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Whether to connect at once, retry the connection, and refuse operations while there is none.
    /// Otherwise the first operation connects, and later ones wait for the connection.
    pub eager: bool,
    /// Most operations that wait to be sent. The excess is refused.
    pub queue_ops_max: usize,
    /// The time to connect and to open the stream.
    pub connect_timeout: Duration,
    /// How often a silent connection is probed.
    pub keepalive_interval: Duration,
    /// How long a probe may go unanswered before the connection is given up.
    pub keepalive_timeout: Duration,
    /// A frame of operations is closed once it holds this many bytes.
    pub frame_bytes: usize,
    /// Set towards nodes: the cluster of this side, and the node at the other end. A node of
    /// another cluster, or another node, gets no operations.
    pub identity: Option<ClusterIdentity>,
}

impl Default for LinkOptions {
    fn default() -> LinkOptions {
        LinkOptions {
            eager: false,
            queue_ops_max: 16_384,
            connect_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(5),
            frame_bytes: 256 << 10,
            identity: None,
        }
    }
}

/// How a try failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The server answered with an error.
    Refused(Box<Error>),
    /// The node does not lead the shard. Nothing was done.
    NotLeader {
        /// The leader as far as the node knows.
        leader: Option<NodeId>,
        /// The term of that leader, or the latest without one.
        term: u64,
        /// The reason, for people.
        why: Arc<str>,
    },
    /// By the node's map the shard is not served there. Nothing was done.
    StaleRoute {
        /// The version of the node's map.
        map_version: u64,
        /// The reason, for people.
        why: Arc<str>,
    },
    /// The operation was not sent: there was no connection, the queue was full, or its time ran
    /// out.
    NotSent(Arc<str>),
    /// The operation was sent, and the connection was lost or the time ran out. It may or may not
    /// have been done.
    Lost(Arc<str>),
}

impl Failure {
    /// The failure as the retry machine takes it.
    pub fn for_retry(&self) -> retry::Failure<'_> {
        match self {
            Failure::Refused(error) => retry::Failure::Answer(error),
            Failure::NotLeader { leader, why, .. } => {
                retry::Failure::NotLeader { leader: leader.map(|node| node.0), why }
            }
            Failure::StaleRoute { why, .. } => retry::Failure::StaleRoute(why),
            Failure::NotSent(why) => retry::Failure::NotSent(why),
            Failure::Lost(why) => retry::Failure::Lost(why),
        }
    }
}

/// A handle to one server's stream. Cheap to clone; the connection ends with the last clone.
#[derive(Debug)]
pub struct Link<P: Protocol> {
    queue: mpsc::Sender<Submission<P>>,
    connected: Arc<AtomicBool>,
    endpoint: Arc<Mutex<Endpoint>>,
}

impl<P: Protocol> Clone for Link<P> {
    fn clone(&self) -> Link<P> {
        Link {
            queue: self.queue.clone(),
            connected: self.connected.clone(),
            endpoint: self.endpoint.clone(),
        }
    }
}

/// An operation on its way to the driver.
#[derive(Debug)]
pub(crate) struct Submission<P: Protocol> {
    operation: P::Operation,
    deadline: Instant,
    reply: Reply<P::Answer>,
}

impl<P: Protocol> Link<P> {
    /// Starts a link's task on the current Tokio runtime.
    pub fn start(endpoint: Endpoint, options: LinkOptions) -> Link<P> {
        let (queue, submissions) = mpsc::channel(options.queue_ops_max);
        let connected = Arc::new(AtomicBool::new(false));
        let endpoint = Arc::new(Mutex::new(endpoint));
        tokio::spawn(Driver::new(endpoint.clone(), options, submissions, connected.clone()).run());
        Link { queue, connected, endpoint }
    }

    /// Sets the server's address for the next connection. A connection that is up goes on.
    pub fn redirect(&self, endpoint: Endpoint) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = endpoint;
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
    /// The operation goes on when this future is dropped after the first poll.
    pub async fn call(&self, operation: P::Operation, timeout_ms: u64) -> Outcome<P::Answer> {
        let (reply, answer) = oneshot::channel();
        self.queue(operation, timeout_ms, Reply::Once(reply));
        answer.await.unwrap_or_else(|_| Err(closed()))
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
                Err(mpsc::error::TrySendError::Closed(refused)) => (refused, closed()),
            };
        refused.reply.send(Err(failure));
    }
}

/// The failure of a link whose task or runtime has ended.
fn closed() -> Failure {
    Failure::Lost("the connection's task has ended".into())
}
