//! The TLS handshakes of a listener.
//!
//! - They run beside each other, and the accepting goes on meanwhile.
//! - There are at most [`HANDSHAKES_MAX`], each ends in time, and in less time while many run. So
//!   clients that begin and do not go on hold up the others for moments only.

use super::counts::{Accepted, Place};
use crate::certificate::{Certificate, NotACertificate};
use crate::tls::ServerSide;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes at the same time. At the bound no connection is accepted until one has ended.
const HANDSHAKES_MAX: usize = 256;
/// Time for a handshake while fewer than half of the places are taken, and after that.
const TIME_MAX: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// Time for a refused client to read the reason. A socket that is closed with unread bytes would
/// take the reason away from it.
const FAREWELL_MAX: Duration = Duration::from_millis(250);
const FAREWELL_BYTES_MAX: usize = 64 << 10;

/// A connection whose handshake is done, with the certificate that the client has shown.
pub(super) type Secured = (Box<TlsStream<TcpStream>>, Option<Arc<Certificate>>, Place);

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it did not speak TLS: dial this port with TLS")]
    NotTls,
    #[error("its handshake took too long")]
    TooLong,
    #[error("its handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("its certificate: {0}")]
    Certificate(#[from] NotACertificate),
}

/// The handshakes under way.
pub(super) struct Handshakes {
    tls: Arc<dyn ServerSide>,
    accepted: Arc<Accepted>,
    running: JoinSet<Option<Secured>>,
}

impl Handshakes {
    pub(super) fn new(tls: Arc<dyn ServerSide>, accepted: Arc<Accepted>) -> Handshakes {
        Handshakes { tls, accepted, running: JoinSet::new() }
    }

    pub(super) fn are_full(&self) -> bool {
        self.running.len() >= HANDSHAKES_MAX
    }

    /// Begins a handshake with the certificate in use now.
    pub(super) fn begin(&mut self, tcp: TcpStream, place: Place) {
        let acceptor = TlsAcceptor::from(self.tls.server().config);
        let few = self.running.len() < HANDSHAKES_MAX / 2;
        let time_max = if few { TIME_MAX.0 } else { TIME_MAX.1 };
        self.running.spawn(async move {
            let shaken = tokio::time::timeout(time_max, shake(&acceptor, tcp)).await;
            match shaken.unwrap_or(Err(Failed::TooLong)) {
                Ok((tls, certificate)) => Some((Box::new(tls), certificate, place)),
                Err(why) => {
                    place.refuse(&why);
                    None
                }
            }
        });
    }

    /// The next connection whose handshake is done. Pending while there is none.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Secured> {
        while let Poll::Ready(Some(ended)) = self.running.poll_join_next(context) {
            match ended {
                Ok(Some(secured)) => return Poll::Ready(secured),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(open = self.accepted.open(), %error, "a handshake failed")
                }
            }
        }
        Poll::Pending
    }
}

async fn shake(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
) -> Result<(TlsStream<TcpStream>, Option<Arc<Certificate>>), Failed> {
    let tls = match acceptor.accept(tcp).into_fallible().await {
        Ok(tls) => tls,
        Err((error, mut tcp)) => {
            let _ = tokio::time::timeout(FAREWELL_MAX, farewell(&mut tcp)).await;
            return Err(failed(error));
        }
    };
    let shown = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.map(|der| Certificate::from_der(der)).transpose()?;
    let certificate = certificate.map(Arc::new);
    Ok((tls, certificate))
}

fn failed(error: io::Error) -> Failed {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => Failed::NotTls,
        _ => Failed::Handshake(error),
    }
}

/// Waits until the client has seen the reason, and has closed.
async fn farewell(tcp: &mut TcpStream) {
    let _ = tcp.shutdown().await;
    let mut rest = [0; 1024];
    let mut read_bytes = 0;
    while read_bytes < FAREWELL_BYTES_MAX {
        match tcp.read(&mut rest).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => read_bytes += bytes,
        }
    }
}
