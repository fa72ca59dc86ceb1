//! The connector under a channel: TCP as tonic's own makes it, and our TLS on top.

use super::security::Security;
use super::words::{DialError, Refusal, of_read};
use crate::io::Io;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;
use tower_service::Service;

/// The first byte of a TLS record with an alert, which no HTTP/2 frame of a server begins with: its
/// frame would have more than a megabyte.
const TLS_ALERT: u8 = 0x15;

/// Makes the connections of one target.
pub(super) struct Connector {
    http: HttpConnector,
    security: Security,
    refusal: Arc<Refusal>,
}

impl Connector {
    pub(super) fn new(security: Security, refusal: Arc<Refusal>, timeout: Duration) -> Connector {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(timeout));
        Connector { http, security, refusal }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Dialled>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Dialled>, DialError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        self.http.poll_ready(context).map_err(DialError::unreachable)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, security) = (self.http.call(uri), self.security.clone());
        let refusal = self.refusal.clone();
        Box::pin(async move {
            // Files are read before the server is bothered.
            let settings = security.settings()?;
            let tcp = connecting.await.map_err(DialError::unreachable)?.into_inner();
            let io = match settings {
                None => Io::Plain(tcp),
                Some(settings) => {
                    let connector = TlsConnector::from(settings.config.clone());
                    let connected = connector.connect(settings.name.clone(), tcp).await;
                    let connected = connected.map_err(DialError::of_handshake)?;
                    Io::Tls(Box::new(security.keep(connected, &settings)))
                }
            };
            Ok(TokioIo::new(Dialled { io, is_new: true, refusal }))
        })
    }
}

/// A connection that was made. The first bytes and errors that it reads may be the server's reason
/// for refusing it.
pub struct Dialled {
    io: Io<TlsStream<TcpStream>>,
    /// Whether nothing was read yet.
    is_new: bool,
    refusal: Arc<Refusal>,
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, into).map_err(of_read);
        if self.is_new && read.is_ready() {
            self.is_new = false;
            if self.io.is_plain() && into.filled().get(before) == Some(&TLS_ALERT) {
                self.refusal.set(DialError::ServerSpeaksTls);
                return Poll::Ready(Err(io::Error::other(DialError::ServerSpeaksTls)));
            }
        }
        if let Poll::Ready(Err(error)) = &read
            && let Some(why) = error.get_ref().and_then(|inner| inner.downcast_ref::<DialError>())
        {
            self.refusal.set(why.clone());
        }
        read
    }
}

impl AsyncWrite for Dialled {
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
