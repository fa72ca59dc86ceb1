//! An accepted connection, with TLS or without.

use super::counts::Place;
use crate::certificate::Certificate;
use crate::io::Io;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// The first byte of a client that speaks TLS. HTTP/2 begins with `PRI`.
const TLS_HANDSHAKE: u8 = 0x16;

/// An accepted connection, closed if it stays silent, or speaks TLS where there is none.
pub struct Connection<S> {
    io: Io<TlsStream<TcpStream>>,
    peer: Peer<S>,
    /// Set until the first byte arrives. The connection is closed when it fires.
    silent: Option<Pin<Box<Sleep>>>,
    place: Place,
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
}

impl<S> Connection<S> {
    pub(super) fn new(
        io: Io<TlsStream<TcpStream>>,
        peer: Peer<S>,
        place: Place,
        first_byte_max: Duration,
    ) -> Connection<S> {
        let silent = Some(Box::pin(tokio::time::sleep(first_byte_max)));
        Connection { io, peer, silent, place }
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
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, into);
        if let Some(silent) = &mut self.silent {
            if read.is_ready() {
                self.silent = None;
                let first = into.filled().get(before);
                if self.io.is_plain() && first == Some(&TLS_HANDSHAKE) {
                    self.place.refuse(&"it spoke TLS: dial this port without");
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
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
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
