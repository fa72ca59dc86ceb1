//! An accepted connection, with TLS or without.

use super::counts::Place;
use super::gather::Gathering;
use crate::certificate::Certificate;
use crate::frames::PREFACE;
use crate::io::Io;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// The first byte of a client that speaks TLS. HTTP/2 begins with `PRI`, and HTTP/1.1 with a
/// method.
const TLS_HANDSHAKE: u8 = 0x16;
/// The length of the preface with which each HTTP/2 connection begins. The shortest request of
/// HTTP/1.1 is about as long.
const PREFACE_BYTES: usize = 24;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP, or nothing that is known.
    Http,
    /// Frames: the preface was read.
    Frames,
}

/// How each HTTP/2 connection begins. No method that HTTP/1.1 serves here does.
const HTTP2_BEGINS: &[u8] = b"PRI";

/// Time for the other end to take some of the written bytes. An end that takes nothing would keep
/// its answers in memory for as long as it likes.
pub(super) const TAKES_WITHIN: Duration = Duration::from_secs(30);

/// An accepted connection. It is closed if it does not begin in time, if it speaks TLS where there
/// is none, or if its other end takes no bytes for `TAKES_WITHIN`.
///
/// Small writes of HTTP/2 are gathered, as `gather.rs` tells.
pub struct Connection<S> {
    io: Io<TlsStream<TcpStream>>,
    peer: Peer<S>,
    /// Set until [`PREFACE_BYTES`] have come. The connection is closed when it fires.
    unbegun: Option<Pin<Box<Sleep>>>,
    /// The number of bytes that have come, counted while `unbegun` is set.
    read_bytes: usize,
    /// What [`speaks`](Connection::speaks) has read, for the next reader.
    seen: Vec<u8>,
    /// Set for HTTP/2, where each request is a task of its own.
    gathering: Option<Gathering>,
    /// Set while a write waits for the other end. The connection is closed when it fires.
    stalled: Option<Pin<Box<Sleep>>>,
    takes_within: Duration,
    place: Place,
}

/// Ends a connection from outside of it: its server sees an error the next time that it reads.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Ends the connection.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to end.
    pub fn is_made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The connection of a request, as the request's extensions show it.
#[derive(Clone, Debug)]
pub struct Peer<S> {
    /// The address of the other end.
    pub remote: SocketAddr,
    /// The state of the connection.
    pub state: S,
    /// The certificate that the other end has shown, verified by the rules of the listener.
    pub certificate: Option<Arc<Certificate>>,
    /// Ends the connection.
    pub cut: Cut,
}

impl<S> Connection<S> {
    pub(super) fn new(
        io: Io<TlsStream<TcpStream>>,
        peer: Peer<S>,
        place: Place,
        preface_max: Duration,
        takes_within: Duration,
    ) -> Connection<S> {
        let unbegun = Some(Box::pin(tokio::time::sleep(preface_max)));
        Connection {
            io,
            peer,
            unbegun,
            read_bytes: 0,
            seen: Vec::new(),
            gathering: None,
            stalled: None,
            takes_within,
            place,
        }
    }

    /// Whether a write of so many bytes is put off. The task of the connection is then woken behind
    /// the tasks that are ready.
    fn puts_off(&mut self, bytes: usize, context: &Context<'_>) -> bool {
        let puts_off = self.gathering.as_mut().is_some_and(|writes| writes.puts_off(bytes));
        if puts_off {
            context.waker().wake_by_ref();
        }
        puts_off
    }

    /// Takes the outcome of a write: one that waits for too long becomes an error.
    fn written<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let within = self.takes_within;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits for the first bytes, and tells what the other end speaks. A preface of frames is taken
    /// from the connection, and all else is left for its reader.
    ///
    /// # Errors
    /// If the connection is lost, does not begin in time, or begins like frames and goes on
    /// otherwise.
    pub async fn speaks(&mut self) -> io::Result<Speaks>
    where
        S: Unpin,
    {
        let mut begins = [0; PREFACE.len()];
        let read_bytes = self.read(&mut begins).await?;
        if begins[0] != PREFACE[0] {
            self.seen = begins[..read_bytes].to_vec();
            return Ok(Speaks::Http);
        }
        self.read_exact(&mut begins[read_bytes..]).await?;
        match begins == *PREFACE {
            true => Ok(Speaks::Frames),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "frames of another version")),
        }
    }

    /// The other end.
    pub fn peer(&self) -> &Peer<S> {
        &self.peer
    }
}

impl<S: Clone + Send + Sync + 'static> Connected for Connection<S> {
    type ConnectInfo = Peer<S>;

    fn connect_info(&self) -> Peer<S> {
        self.peer.clone()
    }
}

impl<S: Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.peer.cut.is_made() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !self.seen.is_empty() {
            let bytes = self.seen.len().min(into.remaining());
            into.put_slice(&self.seen[..bytes]);
            self.seen.drain(..bytes);
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, into);
        let this = &mut *self;
        if let Some(unbegun) = &mut this.unbegun {
            if read.is_ready() {
                let new = &into.filled()[before..];
                let is_first = this.read_bytes == 0;
                if is_first && this.io.is_plain() && new.first() == Some(&TLS_HANDSHAKE) {
                    this.place.refuse(&"it spoke TLS: dial this port without");
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                if is_first && new.starts_with(HTTP2_BEGINS) {
                    this.gathering = Some(Gathering::default());
                }
                this.read_bytes += new.len();
                if this.read_bytes >= PREFACE_BYTES {
                    this.unbegun = None;
                }
            } else if unbegun.as_mut().poll(context).is_ready() {
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
        if self.puts_off(bytes.len(), context) {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.puts_off(bytes.iter().map(|slice| slice.len()).sum(), context) {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(writes) = &mut self.gathering {
            writes.flushed();
        }
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        // Without TLS there is nothing to flush, so it says nothing of the other end.
        if self.io.is_plain() { flushed } else { self.written(flushed, context) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
