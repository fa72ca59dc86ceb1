//! Many operations over one stream: the multiplexer between here and one server.
//!
//! One task per [`Link`] owns the connection, packs whatever waits into one frame, and hands each
//! result to whoever waits for it. It serves clients towards gateways and gateways towards nodes,
//! whose messages differ ([`Protocol`]). It promises one outcome for each operation taken, at the
//! latest when its time is up, and says truly whether an operation may have reached the server. It
//! knows nothing of retries: a lost connection fails what was in flight.

mod dial;
mod driver;
mod pending;
mod protocol;
mod reply;

#[cfg(test)]
mod tests;

pub use dial::is_meant;
pub use protocol::{Locks, Protocol, Shards};
pub use reply::{Outcome, Port};

use driver::Driver;
use reply::Reply;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Endpoint;
use wire::internal::v1::ClusterIdentity;
use wire::v1::{Error, operation_result};

/// What a gateway answers. Where this is the `Ok` of a result it is never [`Answer::Error`]: see
/// [`Failure::Refused`].
pub type Answer = operation_result::Result;

/// How a link behaves.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Connects at once and keeps trying, and refuses operations while there is no connection. Otherwise the first
    /// operation connects, and those that come meanwhile wait for it.
    pub eager: bool,
    /// Operations that are not sent yet; above, they are refused.
    pub queue_ops_max: usize,
    /// A connection must stand, stream included, within this time.
    pub connect_timeout: Duration,
    /// A silent connection is probed so often.
    pub keepalive_interval: Duration,
    /// And given up when a probe is not answered for so long.
    pub keepalive_timeout: Duration,
    /// A frame of operations is closed once it holds this many bytes.
    pub frame_bytes: usize,
    /// Towards nodes: the cluster that this side is of, and the node that is meant. A server of another cluster, or another
    /// node, is not spoken to.
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
    /// A node answered that it does not lead the shard, and who does as far as it knows; 0: it
    /// knows of none. Nothing was done.
    NotLeader {
        /// Node id.
        leader: u64,
        /// In which that one leads.
        term: u64,
        /// For people.
        why: Arc<str>,
    },
    /// A node answered that by its map the shard is not served there, and why. Nothing was done.
    StaleRoute(Arc<str>),
    /// It never left: there is no connection, the queue is full, its time ran out before.
    NotSent(Arc<str>),
    /// It left, and the connection was lost or its time ran out: it may or may not have been done.
    Lost(Arc<str>),
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
        Link { queue: self.queue.clone(), connected: self.connected.clone(), endpoint: self.endpoint.clone() }
    }
}

/// An operation under way to the driver.
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

    /// From the next connection on, the server is looked for there. A connection that stands goes on.
    pub fn redirect(&self, endpoint: Endpoint) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = endpoint;
    }

    /// Whether a connection stands, as of a moment ago.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Sends an operation and waits for its answer, for `timeout_ms` and, if it is a waiting
    /// acquire, its wait on top. The server is told a little less, so that its own word comes in
    /// time, and less by the time until it is sent. Sets the operation's number and timeout.
    ///
    /// The operation goes on when this future is dropped after the first poll.
    pub async fn call(&self, operation: P::Operation, timeout_ms: u64) -> Outcome<P::Answer> {
        let (reply, answer) = oneshot::channel();
        self.queue(operation, timeout_ms, Reply::Once(reply));
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Likewise, without waiting: the outcome comes to the port.
    pub fn submit(&self, operation: P::Operation, timeout_ms: u64, port: Port<P::Answer>) {
        self.queue(operation, timeout_ms, Reply::Port(port));
    }

    fn queue(&self, operation: P::Operation, timeout_ms: u64, reply: Reply<P::Answer>) {
        let wait_ms = P::wait_ms(&operation);
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.saturating_add(wait_ms.into()));
        let (refused, failure) = match self.queue.try_send(Submission { operation, deadline, reply }) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(refused)) => {
                (refused, Failure::NotSent("too many operations wait to be sent on this connection".into()))
            }
            Err(mpsc::error::TrySendError::Closed(refused)) => (refused, closed()),
        };
        refused.reply.send(Err(failure));
    }
}

/// The runtime ended under the link, or its task did.
fn closed() -> Failure {
    Failure::Lost("the connection's task has ended".into())
}
