//! TCP, with TLS or without, of either side.

use crate::recheck::Rechecked;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The bytes of a connection. `T` is the TLS stream of the side.
pub(crate) enum Io<T> {
    Plain(TcpStream),
    Tls(Box<Rechecked<T>>),
}

/// Both as one trait object, so that each method chooses once.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}
impl<B: AsyncRead + AsyncWrite + Unpin> Bytes for B {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io<T> {
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Io::Plain(_))
    }

    fn bytes(self: Pin<&mut Self>) -> Pin<&mut dyn Bytes> {
        match self.get_mut() {
            Io::Plain(tcp) => Pin::new(tcp),
            Io::Tls(tls) => Pin::new(&mut **tls),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.bytes().poll_read(context, into) {
            // A farewell of TLS that is missing is no error: HTTP tells by itself where it ends.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bytes().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Plain(tcp) => tcp.is_write_vectored(),
            Io::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes().poll_shutdown(context)
    }
}
