//! Certificates that lose their right while their connections are open, on both sides.

use super::connector::{Connector, Dialled};
use super::*;
use crate::accept::{Accepted, Connection, Incoming};
use crate::reload::{File, Outcome};
use crate::tls::{InsideFiles, ServerSide, certificates};
use crate::verify::why_refused;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::UnixTime;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Uri;
use tower_service::Service;

/// A test that takes this long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(20);
/// As many bytes as a connection must begin with.
const BEGINS: [u8; 24] = [b'x'; 24];

/// An authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }
}

/// The files of one process: `cert`, `key` and `ca`.
struct Process {
    dir: tempfile::TempDir,
    tls: Arc<Inside>,
}

impl Process {
    /// A process with this role, certified by `issuer`, that trusts these authorities.
    fn new(role: &str, issuer: &Authority, trusts: &[&Authority]) -> Process {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), role, issuer, trusts);
        let path = |name: &str| dir.path().join(name);
        let role = role.parse().unwrap();
        let files = InsideFiles { cert: path("cert"), key: path("key"), ca: path("ca"), role };
        let tls = files.open().unwrap();
        Process { dir, tls }
    }

    /// Changes its files, and takes them.
    fn change(&self, issuer: &Authority, trusts: &[&Authority]) {
        let role = self.tls.current().role().to_string();
        write(self.dir.path(), &role, issuer, trusts);
        assert!(matches!(self.tls.reload(), Outcome::Taken));
    }

    fn chain(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        certificates(&File::read(&self.dir.path().join("cert")).unwrap()).unwrap()
    }
}

fn write(dir: &Path, role: &str, issuer: &Authority, trusts: &[&Authority]) {
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(role.try_into().unwrap()));
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &issuer.0).unwrap();
    std::fs::write(dir.join("cert"), cert.pem()).unwrap();
    std::fs::write(dir.join("key"), key.serialize_pem()).unwrap();
    let trusts: String = trusts.iter().map(|authority| authority.0.pem()).collect();
    std::fs::write(dir.join("ca"), trusts).unwrap();
}

/// The reports of a listener about certificates.
type Told = Arc<Mutex<Vec<(SocketAddr, String)>>>;

/// A node that takes connections.
struct Node {
    incoming: Incoming<()>,
    address: SocketAddr,
    accepted: Arc<Accepted>,
    told: Told,
}

impl Node {
    async fn listen(process: &Process) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, told) = (listener.local_addr().unwrap(), Told::default());
        let tells = told.clone();
        let accepted = Arc::new(Accepted::telling(move |remote, why| {
            tells.lock().unwrap().push((remote, why.to_owned()));
        }));
        let tls = Some(process.tls.clone() as Arc<dyn ServerSide>);
        let incoming = Incoming::new(listener, accepted.clone(), 100, tls, |_| ());
        Node { incoming, address, accepted, told }
    }

    async fn next(&mut self) -> Connection<()> {
        let incoming = &mut self.incoming;
        let next = poll_fn(|c| futures_core::Stream::poll_next(Pin::new(&mut *incoming), c));
        next.await.unwrap().unwrap()
    }

    /// A connection of this process, at both ends. Some bytes went each way.
    async fn connect(&mut self, from: &Process) -> (Connection<()>, Dialled) {
        let address = self.address;
        let both = async { tokio::join!(self.next(), dial(address, from)) };
        let (mut taken, dialled) = tokio::time::timeout(HANGS_AFTER, both).await.unwrap();
        let mut dialled = dialled.unwrap();
        exchange(&mut taken, &mut dialled).await.unwrap();
        (taken, dialled)
    }
}

async fn dial(address: SocketAddr, from: &Process) -> Result<Dialled, DialError> {
    let security = Security::Inside { tls: from.tls.clone(), node: Some(1) };
    let mut connector = Connector::new(security, Arc::default(), HANGS_AFTER);
    let uri: Uri = format!("http://{address}").parse().unwrap();
    connector.call(uri).await.map(hyper_util::rt::TokioIo::into_inner)
}

/// Sends some bytes each way.
async fn exchange(taken: &mut Connection<()>, dialled: &mut Dialled) -> io::Result<()> {
    let mut bytes = BEGINS;
    dialled.write_all(&BEGINS).await?;
    taken.read_exact(&mut bytes).await?;
    taken.write_all(&BEGINS).await?;
    dialled.read_exact(&mut bytes).await?;
    Ok(())
}

/// Reads on, in a task that waits already when this returns.
async fn read_on<R: AsyncRead + Unpin + Send + 'static>(mut from: R) -> JoinHandle<io::Error> {
    let reading = tokio::spawn(async move { from.read_u8().await.expect_err("nothing comes") });
    tokio::task::yield_now().await; // the other task of this thread runs until it waits
    reading
}

async fn ended(reading: JoinHandle<io::Error>) -> io::Error {
    tokio::time::timeout(HANGS_AFTER, reading).await.expect("it ends").unwrap()
}

/// Regression: an authority that was left out had its connections as long as they lasted.
#[tokio::test]
async fn a_listener_ends_the_connections_of_an_authority_that_was_left_out() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let node = Process::new("palisade://test/node/1", &old, &[&old, &new]);
    let stays = Process::new("palisade://test/gateway/a", &new, &[&old, &new]);
    let goes = Process::new("palisade://test/gateway/b", &old, &[&old, &new]);
    let mut listener = Node::listen(&node).await;
    let (mut taken, mut dialled) = listener.connect(&stays).await;
    let (lost, _dialled) = listener.connect(&goes).await;
    let remote = lost.peer().remote;
    let reading = read_on(lost).await;

    node.change(&new, &[&old, &new]);
    exchange(&mut taken, &mut dialled).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!reading.is_finished(), "its authority is known still");
    node.change(&new, &[&new]);
    let error = ended(reading).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert!(error.to_string().contains("not accepted any more"), "{error}");
    exchange(&mut taken, &mut dialled).await.expect("its authority stays");
    assert_eq!(listener.accepted.refused(), 1);
    assert_eq!(*listener.told.lock().unwrap(), [(remote, error.to_string())]);
}

/// Regression: so had the nodes that a process had dialled.
#[tokio::test]
async fn a_dial_ends_its_connections_to_an_authority_that_was_left_out() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let [goes, stays] =
        [&old, &new].map(|by| Process::new("palisade://test/node/1", by, &[&old, &new]));
    let gateway = Process::new("palisade://test/gateway/a", &new, &[&old, &new]);
    let (mut first, mut second) = (Node::listen(&goes).await, Node::listen(&stays).await);
    let (_taken, lost) = first.connect(&gateway).await;
    let (mut taken, mut dialled) = second.connect(&gateway).await;
    let reading = read_on(lost).await;

    gateway.change(&new, &[&new]);
    let error = ended(reading).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert!(error.to_string().contains("authorities"), "{error}");
    exchange(&mut taken, &mut dialled).await.expect("its authority stays");
}

/// The check of a connection is that of a handshake, also when its time comes.
#[tokio::test]
async fn both_sides_check_the_time_and_the_role_of_an_open_connection() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let node = Process::new("palisade://test/node/1", &ours, &[&ours]);
    let (tls, server) = (node.tls.current(), ServerSide::server(&*node.tls));
    let now = UnixTime::now();
    let later = UnixTime::since_unix_epoch(Duration::from_secs(5_000 * 366 * 86_400));
    let client =
        |of: &Process, at| server.check_client(&of.chain(), at).map_err(|e| why_refused(&e));
    let of_node = |id, of: &Process, at| tls.check_node(id, &of.chain(), at);
    assert_eq!(client(&node, now), Ok(()));
    assert_eq!(of_node(None, &node, now), Ok(()));
    assert_eq!(of_node(Some(1), &node, now), Ok(()));
    assert!(of_node(Some(2), &node, now).is_err());
    assert!(of_node(None, &node, later).is_err());
    assert!(client(&node, later).unwrap_err().contains("expired since"));

    let stranger = Process::new("palisade://test/node/1", &other, &[&other]);
    assert!(client(&stranger, now).unwrap_err().contains("authorities"));
    assert!(of_node(None, &stranger, now).is_err());
    let elsewhere = Process::new("palisade://else/node/1", &ours, &[&ours]);
    assert!(client(&elsewhere, now).unwrap_err().contains("another cluster"));
    assert!(of_node(None, &elsewhere, now).is_err());
    assert!(server.check_client(&[], now).is_err() && tls.check_node(None, &[], now).is_err());
}
