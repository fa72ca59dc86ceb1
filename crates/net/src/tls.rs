//! Files of certificates, made into the settings of both sides of TLS.
//!
//! - [`InsideFiles`]: between the processes of a cluster, always with certificates on both sides.
//! - [`ServerFiles`]: of a gateway towards clients.
//! - [`ClientSide`](crate::dial::ClientSide): of a client towards gateways.
//!
//! All are PEM. A file of authorities may hold several, so that certificates can move from one
//! authority to the next. Each loaded certificate is in its time, and its key fits.

use crate::certificate::{Certificate, NotACertificate, NotInTime};
use crate::recheck::Changes;
use crate::reload::{File, LoadError, Reloading};
use crate::role::{NotARole, Role};
use crate::verify::{Expected, OfCluster, PROVIDER, ServesAs};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::PathBuf;
use std::sync::Arc;

/// HTTP/2, the protocol of gRPC.
const ALPN: &[u8] = b"h2";
/// The protocols on the port for clients. The first one is taken if a client speaks both.
const ALPN_OF_CLIENTS: [&[u8]; 2] = [ALPN, b"http/1.1"];

/// Why files cannot be used for TLS. Each names the file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// It has no certificate.
    #[error("{0} has no certificate: write PEM, with -----BEGIN CERTIFICATE----- lines")]
    NoCertificate(String),
    /// It has no private key.
    #[error("{0} has no private key: write PEM, with a -----BEGIN PRIVATE KEY----- line")]
    NoKey(String),
    /// It is not PEM.
    #[error("{0} is not PEM: {1}")]
    NotPem(String, String),
    /// A certificate in it cannot be read.
    #[error("{0}: {1}")]
    NotACertificate(String, #[source] NotACertificate),
    /// An authority in it cannot be used.
    #[error("{0}: an authority cannot be used: {1}")]
    NoAuthority(String, #[source] rustls::Error),
    /// The private key cannot be used.
    #[error("{0}: the private key cannot be used: {1}")]
    BadKey(String, #[source] rustls::Error),
    /// The private key is that of another certificate.
    #[error(
        "the key in {key} is not that of the certificate in {cert}: give both files of one pair"
    )]
    OtherKey {
        /// The file of the certificate.
        cert: String,
        /// The file of the key.
        key: String,
    },
    /// The certificate is used outside of its time.
    #[error("the certificate in {0}: {1}")]
    NotInTime(String, #[source] NotInTime),
    /// The certificate names no process of a cluster.
    #[error("{0}: {1}")]
    NoRole(String, #[source] NotARole),
    /// The certificate is that of another process.
    #[error("{file}: its certificate is for {found}, not for {own}: give each process its own")]
    OtherRole {
        /// The file of the certificate.
        file: String,
        /// The process that the certificate names.
        found: Box<Role>,
        /// The process that loads it.
        own: Box<Role>,
    },
    /// The other processes of the cluster would refuse the certificate.
    #[error("the certificate in {cert} is refused with the authorities in {ca}: {why}")]
    NotOurs {
        /// The file of the certificate.
        cert: String,
        /// The file of the authorities.
        ca: String,
        /// The verifier's reason.
        #[source]
        why: rustls::Error,
    },
    /// The settings do not fit together.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// A server's side: its certificate, and the certificates that it asks of clients.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    /// As in `config`, which does not show it.
    verifier: Arc<dyn ClientCertVerifier>,
    certificate: Arc<Certificate>,
}

/// A client's side: the authorities that it trusts, and its certificate if it has one.
#[derive(Clone, Debug)]
pub struct ClientTls {
    roots: Arc<RootCertStore>,
    own: Option<Arc<SingleCertAndKey>>,
}

/// Both sides of a process of a cluster, which shows the same certificate on both.
#[derive(Clone, Debug)]
pub struct InsideTls {
    server: ServerTls,
    client: ClientTls,
    role: Role,
}

/// [`InsideTls`] that follows its files.
pub type Inside = Reloading<InsideTls, TlsError>;
/// [`ServerTls`] that follows its files.
pub type Server = Reloading<ServerTls, TlsError>;

/// The current settings of a listener.
pub trait ServerSide: Send + Sync {
    /// The settings for the next handshake.
    fn server(&self) -> ServerTls;

    /// The moments at which open connections are checked against the settings.
    fn changes(&self) -> &Arc<Changes>;
}

/// The certificates that a server asks of its clients.
#[derive(Clone, Copy, Debug)]
pub enum ClientCertificates<'a> {
    /// None is asked for.
    No,
    /// One of these authorities, or none.
    Allow(&'a File),
    /// One of these authorities.
    Require(&'a File),
}

impl ServerTls {
    /// Loads a gateway's certificate, and the authorities of its clients.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be used.
    pub fn load(
        cert: &File,
        key: &File,
        clients: ClientCertificates<'_>,
    ) -> Result<ServerTls, TlsError> {
        let (own, certificate) = pair(cert, key)?;
        let verifier = match clients {
            ClientCertificates::No => WebPkiClientVerifier::no_client_auth(),
            ClientCertificates::Allow(ca) => {
                client_verifier(authorities(ca)?, |builder| builder.allow_unauthenticated())?
            }
            ClientCertificates::Require(ca) => {
                client_verifier(authorities(ca)?, |builder| builder)?
            }
        };
        ServerTls::new(own, certificate, verifier, &ALPN_OF_CLIENTS)
    }

    fn new(
        own: CertifiedKey,
        certificate: Certificate,
        verifier: Arc<dyn ClientCertVerifier>,
        protocols: &[&[u8]],
    ) -> Result<ServerTls, TlsError> {
        let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(ServerTls { config: Arc::new(config), verifier, certificate: Arc::new(certificate) })
    }

    /// Whether a handshake at this time would accept a client that shows this chain.
    ///
    /// # Errors
    /// The verifier's reason. An empty chain is refused.
    pub(crate) fn check_client(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some((leaf, others)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        self.verifier.verify_client_cert(leaf, others, now).map(drop)
    }

    /// The certificate that the server shows.
    pub fn certificate(&self) -> &Arc<Certificate> {
        &self.certificate
    }
}

impl ClientTls {
    /// Loads the authorities to trust, and a certificate and its key to show.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be used.
    pub fn load(ca: &File, own: Option<(&File, &File)>) -> Result<ClientTls, TlsError> {
        let own = own.map(|(cert, key)| pair(cert, key)).transpose()?;
        let own = own.map(|(own, _)| Arc::new(SingleCertAndKey::from(own)));
        Ok(ClientTls { roots: authorities(ca)?, own })
    }

    /// The settings towards a server that proves its DNS name or address.
    pub(crate) fn named(&self) -> Result<ClientConfig, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots.clone());
        Ok(self.finish(|none| match none {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_cert_resolver(own),
        }))
    }

    /// The settings towards a process of a cluster, which proves its role.
    fn serving_as(&self, expected: Expected) -> Result<ClientConfig, rustls::Error> {
        let verifier = ServesAs { roots: self.roots.clone(), expected };
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = self.finish(|own| match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_cert_resolver(own),
        });
        config.enable_sni = false; // the role is the name
        Ok(config)
    }

    fn finish(
        &self,
        build: impl FnOnce(Option<Arc<dyn ResolvesClientCert>>) -> ClientConfig,
    ) -> ClientConfig {
        let mut config = build(self.own.clone().map(|own| own as Arc<dyn ResolvesClientCert>));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config
    }
}

impl InsideTls {
    /// Loads the certificate of a process, and the authorities of its cluster.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be used, or are not for `role`.
    pub fn load(cert: &File, key: &File, ca: &File, role: &Role) -> Result<InsideTls, TlsError> {
        let (own, certificate) = pair(cert, key)?;
        let found =
            Role::of(&certificate).map_err(|error| TlsError::NoRole(cert.name.clone(), error))?;
        if found != *role {
            let (found, own) = (Box::new(found), Box::new(role.clone()));
            return Err(TlsError::OtherRole { file: cert.name.clone(), found, own });
        }
        let roots = authorities(ca)?;
        let mut verifier = client_verifier(roots.clone(), |builder| builder)?;
        // Checked as both sides will check it, so that a pair of another authority replaces none
        // that works.
        let (leaf, others) = own.cert.split_first().expect("there is a leaf");
        let trial = ServesAs {
            roots: roots.clone(),
            expected: Expected { cluster: role.cluster.clone(), node: None },
        };
        trial
            .check_chain(leaf, others, UnixTime::now())
            .and_then(|()| verifier.verify_client_cert(leaf, others, UnixTime::now()))
            .map_err(|why| TlsError::NotOurs {
                cert: cert.name.clone(),
                ca: ca.name.clone(),
                why,
            })?;
        verifier = Arc::new(OfCluster { inner: verifier, cluster: role.cluster.clone() });
        let client = ClientTls { roots, own: Some(Arc::new(SingleCertAndKey::from(own.clone()))) };
        let server = ServerTls::new(own, certificate, verifier, &[ALPN])?;
        Ok(InsideTls { server, client, role: role.clone() })
    }

    /// The certificate that the process shows.
    pub fn certificate(&self) -> &Arc<Certificate> {
        &self.server.certificate
    }

    /// The role of the process.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The settings towards a node of the cluster: one of them, or the one with this id.
    pub(crate) fn towards_node(&self, node: Option<u64>) -> Result<ClientConfig, rustls::Error> {
        self.client.serving_as(Expected { cluster: self.role.cluster.clone(), node })
    }

    /// Whether a handshake at this time would accept a node that shows this chain.
    ///
    /// # Errors
    /// The verifier's reason. An empty chain is refused.
    pub(crate) fn check_node(
        &self,
        node: Option<u64>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some((leaf, others)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        let expected = Expected { cluster: self.role.cluster.clone(), node };
        let verifier = ServesAs { roots: self.client.roots.clone(), expected };
        verifier.verify_server_cert(leaf, others, &unsent_name(), &[], now).map(drop)
    }
}

impl ServerSide for Inside {
    fn server(&self) -> ServerTls {
        self.current().server.clone()
    }

    fn changes(&self) -> &Arc<Changes> {
        Reloading::changes(self)
    }
}

impl ServerSide for Server {
    fn server(&self) -> ServerTls {
        (*self.current()).clone()
    }

    fn changes(&self) -> &Arc<Changes> {
        Reloading::changes(self)
    }
}

/// The name in a handshake with a process of a cluster, which is not sent.
pub(crate) fn unsent_name() -> ServerName<'static> {
    ServerName::try_from("palisade").expect("a name")
}

/// The files of a process of a cluster.
#[derive(Clone, Debug)]
pub struct InsideFiles {
    /// The certificate, with those between it and its authority.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities of the cluster's inside.
    pub ca: PathBuf,
    /// The process that loads them.
    pub role: Role,
}

impl InsideFiles {
    /// Loads the files.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn open(self) -> Result<Arc<Inside>, LoadError<TlsError>> {
        let InsideFiles { cert, key, ca, role } = self;
        let load = move |files: &[File]| InsideTls::load(&files[0], &files[1], &files[2], &role);
        Ok(Arc::new(Reloading::open("TLS inside the cluster", vec![cert, key, ca], load)?))
    }
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// None connects without one.
    Require,
    /// Some do.
    Allow,
}

/// The files of a gateway towards clients.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// The certificate, with those between it and its authority.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities of clients, and whether clients need a certificate. Without them none is
    /// asked for.
    pub clients: Option<(PathBuf, Demand)>,
}

impl ServerFiles {
    /// Loads the files.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn open(self) -> Result<Arc<Server>, LoadError<TlsError>> {
        let ServerFiles { cert, key, clients } = self;
        let demand = clients.as_ref().map(|(_, demand)| *demand);
        let paths = [cert, key].into_iter().chain(clients.map(|(ca, _)| ca)).collect();
        let load = move |files: &[File]| {
            let clients = match demand {
                None => ClientCertificates::No,
                Some(Demand::Allow) => ClientCertificates::Allow(&files[2]),
                Some(Demand::Require) => ClientCertificates::Require(&files[2]),
            };
            ServerTls::load(&files[0], &files[1], clients)
        };
        Ok(Arc::new(Reloading::open("TLS towards clients", paths, load)?))
    }
}

/// The certificates in a file.
///
/// # Errors
/// If it is not PEM, or has none.
pub fn certificates(file: &File) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.bytes).collect();
    let found = found.map_err(|error| TlsError::NotPem(file.name.clone(), error.to_string()))?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate(file.name.clone()));
    }
    Ok(found)
}

/// A certificate with its chain and key, checked.
fn pair(cert: &File, key: &File) -> Result<(CertifiedKey, Certificate), TlsError> {
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey(key.name.clone()),
        error => TlsError::NotPem(key.name.clone(), error.to_string()),
    })?;
    let leaf = Certificate::from_der(&chain[0])
        .map_err(|error| TlsError::NotACertificate(cert.name.clone(), error))?;
    leaf.check_time(now_s()).map_err(|error| TlsError::NotInTime(cert.name.clone(), error))?;
    let own = CertifiedKey::from_der(chain, private, &PROVIDER).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::OtherKey { cert: cert.name.clone(), key: key.name.clone() }
        }
        error => TlsError::BadKey(key.name.clone(), error),
    })?;
    Ok((own, leaf))
}

fn authorities(ca: &File) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        roots.add(authority).map_err(|error| TlsError::NoAuthority(ca.name.clone(), error))?;
    }
    Ok(Arc::new(roots))
}

fn client_verifier(
    roots: Arc<RootCertStore>,
    finish: impl FnOnce(
        rustls::server::ClientCertVerifierBuilder,
    ) -> rustls::server::ClientCertVerifierBuilder,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots, PROVIDER.clone());
    finish(builder)
        .build()
        .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))
}

fn now_s() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

    #[test]
    fn only_the_port_for_clients_speaks_http_1_1() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::default();
        let uri = "palisade://prod/node/3";
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let file = |name: &str, text: String| File { name: name.into(), bytes: text.into() };
        let cert = file("cert", params.signed_by(&key, &ca).unwrap().pem());
        let (key, ca) = (file("key", key.serialize_pem()), file("ca", ca.pem()));
        let clients = ServerTls::load(&cert, &key, ClientCertificates::No).unwrap();
        assert_eq!(clients.config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        let inside = InsideTls::load(&cert, &key, &ca, &uri.parse().unwrap()).unwrap();
        assert_eq!(inside.server.config.alpn_protocols, [b"h2"]);
    }
}
