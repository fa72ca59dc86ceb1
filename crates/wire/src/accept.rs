//! The listening side of a server. Connections are accepted one by one, within the descriptors that
//! the process has.
//!
//! - A server that cannot take a connection pauses before it tries again, logs that once per spell,
//!   and goes on by itself.
//! - Some descriptors are left for the server's own use.
//! - A connection that sends nothing is closed.
//!
//! This module knows nothing of the protocol on a connection.

use futures_core::Stream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

/// First and longest pause after an accept that failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Shortest time between two log lines about spells.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// Time for a connection to send its first byte. After it the connection is closed.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(10);

/// The counts of a listener.
#[derive(Debug, Default)]
pub struct Accepted {
    open: AtomicUsize,
    spells: AtomicU64,
}

impl Accepted {
    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How often the listener stopped taking connections because descriptors were short.
    pub fn spells(&self) -> u64 {
        self.spells.load(Ordering::Relaxed)
    }
}

/// The number of connections that may be open so that `reserve` descriptors are left, but at least
/// half of all descriptors. Only the process's own soft limit counts.
pub fn connections_max(reserve: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    limit.saturating_sub(reserve).max(limit / 2).max(1)
}

/// Raises this process's soft limit on descriptors to its hard limit. Each connection takes a
/// descriptor, and the soft limit is 1,024 on many systems. Returns the limit that holds.
///
/// # Errors
/// If the system refuses. The limit stays as it was.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}

/// The connections of one listener, as a stream for a tonic server. Each connection has its own
/// state, which its requests find in their extensions as [`Peer`].
pub struct Incoming<S> {
    listener: TcpListener,
    accepted: Arc<Accepted>,
    open_max: usize,
    first_byte_max: Duration,
    state: Box<dyn Fn() -> S + Send>,
    pause: Option<Pin<Box<Sleep>>>,
    /// The next pause, while a spell of failures lasts.
    spell: Option<Duration>,
    /// The last spell that was logged, and whether it lasts. Kept because spells can follow each
    /// other within moments.
    said: Option<(Instant, bool)>,
}

impl<S> Incoming<S> {
    /// Takes connections while fewer than `open_max` are open.
    pub fn new(
        listener: TcpListener,
        accepted: Arc<Accepted>,
        open_max: usize,
        state: impl Fn() -> S + Send + 'static,
    ) -> Incoming<S> {
        let first_byte_max = FIRST_BYTE_MAX;
        Incoming {
            listener,
            accepted,
            open_max,
            first_byte_max,
            state: Box::new(state),
            pause: None,
            spell: None,
            said: None,
        }
    }

    fn wait(&mut self, why: &dyn std::fmt::Display) {
        let pause = match self.spell {
            Some(pause) => pause,
            None => {
                self.accepted.spells.fetch_add(1, Ordering::Relaxed);
                if self.said.is_none_or(|(at, _)| at.elapsed() >= SAID_EVERY) {
                    self.said = Some((Instant::now(), true));
                    let open = self.accepted.open();
                    tracing::warn!(
                        %why,
                        open,
                        "no more connections are taken for now: raise the limit on open files \
                         (ulimit -n, LimitNOFILE), or find out which client opens so many"
                    );
                }
                PAUSE.0
            }
        };
        self.spell = Some((pause * 2).min(PAUSE.1));
        self.pause = Some(Box::pin(tokio::time::sleep(pause)));
    }
}

impl<S> Stream for Incoming<S> {
    type Item = io::Result<Connection<S>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if self.accepted.open() >= self.open_max {
                let open_max = self.open_max;
                self.wait(&format_args!("{open_max} connections are open"));
                continue;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((tcp, remote)) => {
                    if self.spell.take().is_some()
                        && let Some((_, lasts)) = &mut self.said
                        && std::mem::take(lasts)
                    {
                        tracing::info!(open = self.accepted.open(), "connections are taken again");
                    }
                    let _ = tcp.set_nodelay(true); // a connection that is gone already says so when it is read
                    let open = Open::new(self.accepted.clone());
                    let silent = Some(Box::pin(tokio::time::sleep(self.first_byte_max)));
                    return Poll::Ready(Some(Ok(Connection {
                        tcp,
                        remote,
                        state: (self.state)(),
                        silent,
                        _open: open,
                    })));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => self.wait(&error),
            }
        }
    }
}

/// Whether an error concerns only the connection that was to be taken. The next one may then be
/// taken at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | BrokenPipe | Interrupted | TimedOut
    )
}

struct Open(Arc<Accepted>);

impl Open {
    fn new(accepted: Arc<Accepted>) -> Open {
        accepted.open.fetch_add(1, Ordering::Relaxed);
        Open(accepted)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An accepted connection, closed if it stays silent.
pub struct Connection<S> {
    tcp: TcpStream,
    remote: SocketAddr,
    state: S,
    /// Set until the first byte arrives. The connection is closed when it fires.
    silent: Option<Pin<Box<Sleep>>>,
    _open: Open,
}

/// The connection of a request, as the request's extensions show it.
#[derive(Clone, Debug)]
pub struct Peer<S> {
    /// The address of the other end.
    pub remote: SocketAddr,
    /// The state of the connection.
    pub state: S,
}

impl<S: Clone + Send + Sync + 'static> Connected for Connection<S> {
    type ConnectInfo = Peer<S>;

    fn connect_info(&self) -> Peer<S> {
        Peer { remote: self.remote, state: self.state.clone() }
    }
}

impl<S: Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.tcp).poll_read(context, into);
        if let Some(silent) = &mut self.silent {
            if read.is_ready() {
                self.silent = None;
            } else if silent.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<S: Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    async fn listening(open_max: usize) -> (Incoming<()>, SocketAddr, Arc<Accepted>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(Accepted::default()));
        (Incoming::new(listener, accepted.clone(), open_max, || ()), address, accepted)
    }

    async fn next(incoming: &mut Incoming<()>) -> Connection<()> {
        poll_fn(|context| Pin::new(&mut *incoming).poll_next(context)).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn above_its_share_of_descriptors_it_waits_and_then_goes_on() {
        let (mut incoming, address, accepted) = listening(2).await;
        let _clients = [0; 3].map(|_| std::net::TcpStream::connect(address).unwrap());
        let first = next(&mut incoming).await;
        let _second = next(&mut incoming).await;
        assert!(tokio::time::timeout(3 * PAUSE.0, next(&mut incoming)).await.is_err());
        assert_eq!(
            (accepted.open(), accepted.spells()),
            (2, 1),
            "one spell, however often it looked"
        );
        drop(first);
        let _third = next(&mut incoming).await;
        assert_eq!((accepted.open(), accepted.spells()), (2, 1));
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed() {
        let (mut incoming, address, _) = listening(2).await;
        incoming.first_byte_max = Duration::from_millis(10);
        let _client = std::net::TcpStream::connect(address).unwrap();
        let mut connection = next(&mut incoming).await;
        let read = connection.read_u8().await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn half_of_the_descriptors_are_for_connections_at_least() {
        let all = connections_max(0);
        assert!(connections_max(1) <= all && connections_max(usize::MAX) >= all / 2);
    }
}
