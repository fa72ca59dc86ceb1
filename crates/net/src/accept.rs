//! The listening side of a server. Connections are accepted one by one, within the descriptors that
//! the process has, and with TLS where a listener has a certificate.
//!
//! - A server that cannot take a connection pauses before it tries again, logs that once per spell,
//!   and goes on by itself.
//! - Some descriptors are left for the server's own use, and no source address takes all others.
//! - A connection that takes none of the bytes written to it for 30 s is closed.
//! - A connection that does not send as much as HTTP/2 begins with is closed. HTTP/1.1 has a time
//!   for its headers too, which the server on the connection keeps.
//! - TLS handshakes run beside each other and beside the accepting, bounded in number and time. A
//!   source that begins many of them takes no place from the others.
//!
//! This module knows nothing of the protocol on a connection.

mod connection;
mod counts;
mod gather;
mod handshake;
mod pages;

pub use connection::{Connection, Cut, Peer, Speaks};
pub use counts::{Accepted, source_of};

use crate::io::Io;
use crate::tls::ServerSide;
use connection::TAKES_WITHIN;
use counts::Place;
use handshake::Handshakes;

use crate::certificate::Certificate;
use futures_core::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

/// First and longest pause after an accept that failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Shortest time between two log lines about spells.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// Time for a connection to send the preface of HTTP/2. After it the connection is closed.
const PREFACE_MAX: Duration = Duration::from_secs(10);
/// The silence after which a connection is probed, the time between two probes, and how many may be
/// lost. HTTP/2 has probes of its own. A client of HTTP/1.1 that is lost without a word would
/// otherwise stay in a queue for as long as it wanted to wait.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(20), Duration::from_secs(5), 3);
/// Connections from one source, but no more than half of all. The excess is closed at once. The
/// bound is high, because many clients can share one address.
const SOURCE_MAX: usize = 4_096;

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

/// Makes the state of a connection from the certificate that its client has shown.
type MakeState<S> = Box<dyn Fn(Option<&Arc<Certificate>>) -> S + Send>;

/// The connections of one listener, as a stream for a tonic server, or for an axum server. Each
/// connection has its own state, which its requests find in their extensions as [`Peer`].
pub struct Incoming<S> {
    listener: TcpListener,
    accepted: Arc<Accepted>,
    open_max: usize,
    source_max: usize,
    preface_max: Duration,
    takes_within: Duration,
    state: MakeState<S>,
    handshakes: Option<Handshakes>,
    pause: Option<Pin<Box<Sleep>>>,
    /// The next pause, while a spell of failures lasts.
    spell: Option<Duration>,
    /// The last spell that was logged, and whether it lasts. Kept because spells can follow each
    /// other within moments.
    said: Option<(Instant, bool)>,
}

impl<S> Incoming<S> {
    /// Takes connections while fewer than `open_max` are open. With `tls` they are encrypted, and
    /// `state` gets the certificate that the client has shown and proved.
    pub fn new(
        listener: TcpListener,
        accepted: Arc<Accepted>,
        open_max: usize,
        tls: Option<Arc<dyn ServerSide>>,
        state: impl Fn(Option<&Arc<Certificate>>) -> S + Send + 'static,
    ) -> Incoming<S> {
        if let Err(error) = probe_silent(&listener) {
            tracing::warn!(%error, "clients that are lost without a word are not noticed");
        }
        Incoming {
            handshakes: tls.map(|tls| Handshakes::new(tls, accepted.clone())),
            listener,
            accepted,
            open_max,
            source_max: SOURCE_MAX.min(open_max / 2).max(1),
            preface_max: PREFACE_MAX,
            takes_within: TAKES_WITHIN,
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
                self.accepted.begin_spell();
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

    /// Notes that a connection was taken from the system.
    fn taken(&mut self, tcp: &TcpStream) {
        if self.spell.take().is_some()
            && let Some((_, lasts)) = &mut self.said
            && std::mem::take(lasts)
        {
            tracing::info!(open = self.accepted.open(), "connections are taken again");
        }
        let _ = tcp.set_nodelay(true); // a connection that is gone already says so when it is read
    }

    fn connection(
        &self,
        io: Io<TlsStream<TcpStream>>,
        certificate: Option<Arc<Certificate>>,
        place: Place,
    ) -> Connection<S> {
        let remote = place.remote();
        let state = (self.state)(certificate.as_ref());
        let peer = Peer { remote, state, certificate, cut: Cut::default() };
        Connection::new(io, peer, place, self.preface_max, self.takes_within)
    }
}

impl<S> Stream for Incoming<S> {
    type Item = io::Result<Connection<S>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(handshakes) = &mut self.handshakes
                && let Poll::Ready(secured) = handshakes.poll_next(context)
            {
                let (tls, certificate, place) = secured;
                let connection = self.connection(Io::Tls(tls), certificate, place);
                return Poll::Ready(Some(Ok(connection)));
            }
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
                    self.taken(&tcp);
                    let source_max = self.source_max;
                    let Some(place) = self.accepted.place(remote, source_max) else { continue };
                    match &mut self.handshakes {
                        Some(handshakes) => handshakes.begin(tcp, place),
                        None => {
                            let connection = self.connection(Io::Plain(tcp), None, place);
                            return Poll::Ready(Some(Ok(connection)));
                        }
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => self.wait(&error),
            }
        }
    }
}

/// Has silent connections probed. Each connection gets the settings of its listener.
fn probe_silent(listener: &TcpListener) -> io::Result<()> {
    use rustix::net::sockopt;
    let (after, every, lost_max) = PROBES;
    sockopt::set_tcp_keepidle(listener, after)?;
    sockopt::set_tcp_keepintvl(listener, every)?;
    sockopt::set_tcp_keepcnt(listener, lost_max)?;
    Ok(sockopt::set_socket_keepalive(listener, true)?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::PREFACE as FRAMES_PREFACE;
    use crate::recheck::Changes;
    use crate::reload::File;
    use crate::tls::{ClientCertificates, ClientTls, ServerTls};
    use rustls::ClientConfig;
    use std::future::poll_fn;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    /// Longer than any test.
    const NEVER: Duration = Duration::from_secs(3_600);
    /// The first bytes of each HTTP/2 connection.
    const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// A test that takes this long hangs.
    const HANGS_AFTER: Duration = Duration::from_secs(20);

    async fn listening(open_max: usize) -> (Incoming<()>, SocketAddr, Arc<Accepted>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(Accepted::default()));
        let mut incoming = Incoming::new(listener, accepted.clone(), open_max, None, |_| ());
        incoming.source_max = open_max;
        (incoming, address, accepted)
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

    /// Regression: one byte was enough for a connection to stay open for ever.
    #[tokio::test]
    async fn a_connection_that_does_not_send_the_preface_is_closed() {
        let (mut incoming, address, _) = listening(2).await;
        incoming.preface_max = Duration::from_millis(10);
        for begins in [&b""[..], b"P", &PREFACE[..23]] {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            std::io::Write::write_all(&mut client, begins).unwrap();
            let mut all = Vec::new();
            let mut connection = next(&mut incoming).await;
            let read = connection.read_to_end(&mut all);
            let read = tokio::time::timeout(HANGS_AFTER, read).await.expect("closed");
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut, "{begins:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_sent_the_preface_may_be_silent() {
        let (mut incoming, address, _) = listening(2).await;
        incoming.preface_max = Duration::from_secs(1);
        let mut client = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut client, PREFACE).unwrap();
        let mut connection = next(&mut incoming).await;
        connection.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        let more = tokio::time::timeout(2 * incoming.preface_max, connection.read_u8()).await;
        assert!(more.is_err(), "it waits for more: {more:?}");
    }

    /// Regression: a client that read nothing kept its answers in memory for ever.
    #[tokio::test]
    async fn a_connection_whose_client_reads_nothing_is_closed() {
        let (mut incoming, address, _) = listening(2).await;
        incoming.takes_within = Duration::from_millis(50);
        let _client = std::net::TcpStream::connect(address).unwrap();
        let mut connection = next(&mut incoming).await;
        let write = async {
            loop {
                connection.write_all(&[0; 64 << 10]).await?;
                connection.flush().await?;
            }
        };
        let written: io::Result<()> =
            tokio::time::timeout(HANGS_AFTER, write).await.expect("closed");
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// Regression: answers that were ready together left one by one, with a system call for each.
    #[tokio::test]
    async fn a_small_write_of_http2_yields_once_before_it_goes() {
        let (mut incoming, address, _) = listening(2).await;
        for (begins, bytes, yields) in [
            (&PREFACE[..], 100, true),
            (&PREFACE[..], 10_000, false),
            (b"POST /v1/acquire HTTP/1.1\r\n", 100, false),
        ] {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            std::io::Write::write_all(&mut client, begins).unwrap();
            let mut connection = next(&mut incoming).await;
            connection.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
            let answer = vec![0; bytes];
            for _ in 0..2 {
                let mut polls = 0;
                let written = poll_fn(|context| {
                    polls += 1;
                    Pin::new(&mut connection).poll_write(context, &answer)
                });
                let written = tokio::time::timeout(HANGS_AFTER, written).await.expect("woken");
                assert_eq!((written.unwrap(), polls > 1), (bytes, yields), "{begins:?}");
                connection.flush().await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_preface_of_frames_is_taken_and_all_else_is_left_for_its_reader() {
        let (mut incoming, address, _) = listening(2).await;
        let mut other_version = *FRAMES_PREFACE;
        other_version[20] += 1;
        for (begins, spoken, left) in [
            (&FRAMES_PREFACE[..], Some(Speaks::Frames), &b"and more"[..]),
            (&PREFACE[..], Some(Speaks::Http), b"PRI * HTTP/2.0"),
            (b"GET /", Some(Speaks::Http), b"GET /and more"),
            (&other_version[..], None, b""),
        ] {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            std::io::Write::write_all(&mut client, begins).unwrap();
            std::io::Write::write_all(&mut client, b"and more").unwrap();
            let mut connection = next(&mut incoming).await;
            assert_eq!(connection.speaks().await.ok(), spoken, "{begins:?}");
            let mut read = vec![0; left.len()];
            connection.read_exact(&mut read).await.unwrap();
            assert_eq!(read, left);
        }
    }

    #[tokio::test]
    async fn a_connection_is_cut_from_outside() {
        let (mut incoming, address, _) = listening(2).await;
        let _client = std::net::TcpStream::connect(address).unwrap();
        let mut connection = next(&mut incoming).await;
        connection.peer().cut.now();
        let read = connection.read_u8().await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn silent_connections_are_probed() {
        use rustix::net::sockopt;
        let (incoming, address, _) = listening(2).await;
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (tcp, _) = incoming.listener.accept().await.unwrap();
        assert!(sockopt::socket_keepalive(&tcp).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&tcp).unwrap(), PROBES.0);
    }

    /// Regression: a machine has as many IPv6 addresses as it likes, and counted as many sources.
    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let accepted = Arc::new(Accepted::default());
        let place = |address: &str| accepted.place(address.parse().unwrap(), 1);
        let places = ["[2001:db8::1]:1", "[2001:db8:0:1::1]:1", "10.0.0.1:1"].map(place);
        assert!(places.iter().all(Option::is_some));
        for another in ["[2001:db8::2:3:4:5]:1", "[::ffff:10.0.0.1]:2"] {
            assert!(place(another).is_none(), "{another}");
        }
        drop(places);
        assert!(place("[2001:db8::2:3:4:5]:1").is_some(), "dropping frees the same source's place");
    }

    #[tokio::test]
    async fn one_source_has_at_most_half_of_the_connections() {
        for (open_max, source_max) in [(1, 1), (9, 4), (usize::MAX, SOURCE_MAX)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let incoming = Incoming::new(listener, Arc::default(), open_max, None, |_| ());
            assert_eq!(incoming.source_max, source_max);
        }
    }

    #[tokio::test]
    async fn a_client_that_speaks_tls_to_a_port_without_it_is_refused_and_counted() {
        let (mut incoming, address, accepted) = listening(2).await;
        let mut client = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut client, b"\x16\x03\x01").unwrap();
        let read = next(&mut incoming).await.read_u8().await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!((accepted.refused(), accepted.open()), (1, 0));
    }

    #[tokio::test]
    async fn one_source_takes_no_more_than_its_share() {
        let (mut incoming, address, accepted) = listening(100).await;
        incoming.source_max = 2;
        let _clients = [0; 3].map(|_| std::net::TcpStream::connect(address).unwrap());
        let first = next(&mut incoming).await;
        let _second = next(&mut incoming).await;
        let fourth = async {
            while accepted.refused() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(first);
            std::net::TcpStream::connect(address).unwrap()
        };
        let (taken, fourth) = tokio::join!(next(&mut incoming), fourth);
        assert_eq!(taken.peer().remote, fourth.local_addr().unwrap());
        assert_eq!(accepted.open(), 2);
    }

    /// A listener with TLS, and the settings of its clients.
    async fn listening_with_tls() -> (Incoming<()>, SocketAddr, Arc<Accepted>, ClientConfig) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = |name: &str, text: String| File { name: name.into(), bytes: text.into() };
        let cert = file("cert", made.cert.pem());
        let key = file("key", made.signing_key.serialize_pem());
        let tls = ServerTls::load(&cert, &key, ClientCertificates::No).unwrap();
        let client = ClientTls::load(&cert, None).unwrap().named().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(Accepted::default()));
        let tls: Arc<dyn ServerSide> = Arc::new(Always(tls, Arc::default()));
        let incoming = Incoming::new(listener, accepted.clone(), 100, Some(tls), |_| ());
        (incoming, address, accepted, client)
    }

    struct Always(ServerTls, Arc<Changes>);

    impl ServerSide for Always {
        fn server(&self) -> ServerTls {
            self.0.clone()
        }

        fn changes(&self) -> &Arc<Changes> {
            &self.1
        }
    }

    /// Regression: one address took all places of handshakes, and nothing was accepted until one
    /// of its handshakes ran out of time.
    #[tokio::test]
    async fn handshakes_of_one_source_take_no_place_from_another() {
        let (mut incoming, address, accepted, client) = listening_with_tls().await;
        let handshakes = incoming.handshakes.as_mut().unwrap();
        (handshakes.most, handshakes.time_max) = (4, (NEVER, NEVER));
        let silent = [0; 9].map(|_| std::net::TcpStream::connect(address).unwrap());
        let other = async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            let tcp = socket.connect(address).await.unwrap();
            let late = [0; 9].map(|_| std::net::TcpStream::connect(address).unwrap());
            while accepted.refused() < 15 {
                tokio::time::sleep(Duration::from_millis(1)).await; // 19 began, and 4 have a place
            }
            let name = "localhost".try_into().unwrap();
            let tls = TlsConnector::from(Arc::new(client)).connect(name, tcp).await.unwrap();
            (tls.get_ref().0.local_addr().unwrap(), tls, late)
        };
        let both = async { tokio::join!(next(&mut incoming), other) };
        let (taken, (remote, _tls, _late)) =
            tokio::time::timeout(HANGS_AFTER, both).await.expect("the other source is served");
        assert_eq!(taken.peer().remote, remote);
        drop(silent);
    }

    #[test]
    fn half_of_the_descriptors_are_for_connections_at_least() {
        let all = connections_max(0);
        assert!(connections_max(1) <= all && connections_max(usize::MAX) >= all / 2);
    }
}
