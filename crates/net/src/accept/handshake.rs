//! The TLS handshakes of a listener.
//!
//! - They run beside each other, and the accepting goes on meanwhile.
//! - Each ends in time, and in less time while its source has many under way.
//! - There are at most [`HANDSHAKES_MAX`]. At the bound, the oldest one of the source with the most
//!   makes room for the next. So clients that begin and do not go on take the places of their own
//!   source, and the accepting never waits for them.

use super::counts::{Accepted, Place, source_of};
use crate::certificate::{Certificate, NotACertificate};
use crate::recheck::Rechecked;
use crate::tls::ServerSide;
use crate::verify::why_refused;
use rustls::pki_types::UnixTime;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes at the same time. Each takes some KiB until it ends.
const HANDSHAKES_MAX: usize = 1_024;
/// Handshakes of one source with the longer time. The others of it have the shorter one. Many
/// clients behind one address may well begin at the same time, so this closes none of them.
const UNHURRIED_MAX: usize = 16;
/// Time for a handshake while its source has fewer than [`UNHURRIED_MAX`] others, and after that.
const TIME_MAX: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// Time for a refused client to read the reason. A socket that is closed with unread bytes would
/// take the reason away from it.
const FAREWELL_MAX: Duration = Duration::from_millis(250);
const FAREWELL_BYTES_MAX: usize = 64 << 10;

/// A connection after its handshake, with the certificate that the client has shown.
pub(super) type Secured = (Box<Rechecked<TlsStream<TcpStream>>>, Option<Arc<Certificate>>, Place);

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it did not speak TLS: dial this port with TLS")]
    NotTls,
    #[error("its handshake took too long")]
    TooLong,
    #[error("its handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("its certificate is refused: {0}")]
    Refused(String),
    #[error("its certificate: {0}")]
    Certificate(#[from] NotACertificate),
}

impl Failed {
    /// Whether the client was not let in because of its certificate.
    fn is_of_the_certificate(&self) -> bool {
        matches!(self, Failed::Refused(_) | Failed::Certificate(_))
    }
}

/// The handshakes of a listener.
pub(super) struct Handshakes {
    tls: Arc<dyn ServerSide>,
    accepted: Arc<Accepted>,
    running: JoinSet<Option<Secured>>,
    /// Those under way, the oldest first. Some of them may have ended since the last one began.
    under_way: Vec<UnderWay>,
    /// How many may be under way.
    pub(super) most: usize,
    /// The longer and the shorter time for one.
    pub(super) time_max: (Duration, Duration),
}

struct UnderWay {
    remote: SocketAddr,
    task: AbortHandle,
}

impl Handshakes {
    pub(super) fn new(tls: Arc<dyn ServerSide>, accepted: Arc<Accepted>) -> Handshakes {
        Handshakes {
            tls,
            accepted,
            running: JoinSet::new(),
            under_way: Vec::new(),
            most: HANDSHAKES_MAX,
            time_max: TIME_MAX,
        }
    }

    /// Begins a handshake with the certificate in use now.
    pub(super) fn begin(&mut self, tcp: TcpStream, place: Place) {
        self.under_way.retain(|one| !one.task.is_finished());
        let remote = place.remote();
        let is_of_its_source = |one: &&UnderWay| source_of(one.remote) == source_of(remote);
        let of_its_source = self.under_way.iter().filter(is_of_its_source).count();
        if self.under_way.len() >= self.most {
            self.make_room();
        }
        let (unhurried, hurried) = self.time_max;
        let time_max = if of_its_source < UNHURRIED_MAX { unhurried } else { hurried };
        let side = self.tls.clone();
        let seen = side.changes().number();
        let acceptor = TlsAcceptor::from(side.server().config);
        let task = self.running.spawn(async move {
            let shaken = tokio::time::timeout(time_max, shake(&acceptor, tcp)).await;
            match shaken.unwrap_or(Err(Failed::TooLong)) {
                Ok((tls, None)) => Some((Box::new(Rechecked::unchecked(tls)), None, place)),
                Ok((tls, certificate)) => {
                    Some((Box::new(keep(tls, side, seen, &place)), certificate, place))
                }
                Err(why) if why.is_of_the_certificate() => {
                    place.accepted().refuse_certificate(remote, &why);
                    None
                }
                Err(why) => {
                    place.refuse(&why);
                    None
                }
            }
        });
        self.under_way.push(UnderWay { remote, task });
    }

    /// Closes the oldest handshake of a source that has the most of them.
    fn make_room(&mut self) {
        let mut of_source: HashMap<_, usize> = HashMap::new();
        for one in &self.under_way {
            *of_source.entry(source_of(one.remote)).or_default() += 1;
        }
        let most = of_source.values().copied().max();
        let has_most = |one: &UnderWay| of_source.get(&source_of(one.remote)).copied() == most;
        if let Some(at) = self.under_way.iter().position(has_most) {
            let UnderWay { remote, task } = self.under_way.remove(at);
            task.abort();
            self.accepted.refuse(remote, &"its source has the most of too many handshakes");
        }
    }

    /// The next connection after its handshake. Pending while there is none.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Secured> {
        while let Poll::Ready(Some(ended)) = self.running.poll_join_next(context) {
            match ended {
                Ok(Some(secured)) => return Poll::Ready(secured),
                Ok(None) => {}
                Err(error) if error.is_cancelled() => {} // it made room for another
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

/// A connection that ends when the certificate of its client is not accepted any more. `seen` is a
/// moment before its handshake.
fn keep(
    tls: TlsStream<TcpStream>,
    side: Arc<dyn ServerSide>,
    seen: u64,
    place: &Place,
) -> Rechecked<TlsStream<TcpStream>> {
    let (accepted, remote) = (place.accepted().clone(), place.remote());
    let changes = side.changes().clone();
    let check = move |tls: &TlsStream<TcpStream>, now: UnixTime| {
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
        side.server().check_client(chain, now).map_err(|error| {
            let why = format!("its certificate is not accepted any more: {}", why_refused(&error));
            accepted.refuse_certificate(remote, &why);
            why
        })
    };
    Rechecked::new(tls, changes, seen, Box::new(check))
}

fn failed(error: io::Error) -> Failed {
    use rustls::Error::*;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(InvalidMessage(_)) => Failed::NotTls,
        Some(refused @ (InvalidCertificate(_) | NoCertificatesPresented)) => {
            Failed::Refused(why_refused(refused))
        }
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
