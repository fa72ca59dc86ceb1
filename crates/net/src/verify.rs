//! The checks of certificates of the inside, in both directions: an authority of the cluster issued
//! it, and it names a process of the cluster, instead of a DNS name.

use crate::certificate::{Certificate, Day};
use crate::role::{NotARole, Process, Role};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use std::sync::{Arc, LazyLock};

/// The algorithms of all our connections.
pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// The process at the other end is not the one that was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExpected {
    /// Its certificate names no process.
    #[error("{0}")]
    NoRole(#[from] NotARole),
    /// Its certificate names another process.
    #[error(
        "its certificate is for {found}, not for {expected}: correct the addresses in the cluster file"
    )]
    Other {
        /// The process that the certificate names.
        found: Box<Role>,
        /// The process that was meant.
        expected: Expected,
    },
}

/// The nodes that a dial accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub(crate) cluster: String,
    /// `None` for any node of the cluster.
    pub(crate) node: Option<u64>,
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.node {
            Some(node) => write!(f, "node {node} of cluster {:?}", self.cluster),
            None => write!(f, "a node of cluster {:?}", self.cluster),
        }
    }
}

/// Accepts the expected nodes.
#[derive(Debug)]
pub(crate) struct ServesAs {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) expected: Expected,
}

impl ServesAs {
    /// Whether an authority of the cluster issued the certificate, for now and for a server.
    pub(crate) fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = PROVIDER.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, others, now, algorithms)
    }
}

impl ServerCertVerifier for ServesAs {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_chain(leaf, others, now)?;
        let refused = |why: NotExpected| Error::Other(OtherError(Arc::new(why)));
        let found = role_of(leaf)?.map_err(|why| refused(why.into()))?;
        let meant = match found.process {
            Process::Node(id) => self.expected.node.is_none_or(|node| node == id),
            Process::Gateway(_) => false,
        };
        if meant && found.cluster == self.expected.cluster {
            return Ok(ServerCertVerified::assertion());
        }
        let (found, expected) = (Box::new(found), self.expected.clone());
        Err(refused(NotExpected::Other { found, expected }))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts the processes of one cluster, out of all that `inner` accepts.
#[derive(Debug)]
pub(crate) struct OfCluster {
    pub(crate) inner: Arc<dyn ClientCertVerifier>,
    pub(crate) cluster: String,
}

impl ClientCertVerifier for OfCluster {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, others, now)?;
        match role_of(leaf)? {
            Ok(role) if role.cluster == self.cluster => Ok(verified),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Why a client's certificate is refused, for people at the server.
pub(crate) fn why_refused(error: &Error) -> String {
    use CertificateError::*;
    match error {
        Error::NoCertificatesPresented => "there is none, and this port requires one".to_owned(),
        Error::InvalidCertificate(UnknownIssuer) => {
            "none of the authorities that are trusted here issued it".to_owned()
        }
        Error::InvalidCertificate(ApplicationVerificationFailure) => {
            "it is for another cluster, or for no process of one".to_owned()
        }
        Error::InvalidCertificate(error) => why_invalid(error),
        error => error.to_string(),
    }
}

/// The reason why a certificate of either side is invalid.
pub(crate) fn why_invalid(error: &CertificateError) -> String {
    let day = |time: &UnixTime| Day(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it is expired since {}: issue a new one", day(not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let day = day(not_before);
            format!("it is not valid before {day}: look at the clocks of both machines")
        }
        error => error.to_string(),
    }
}

fn role_of(leaf: &CertificateDer<'_>) -> Result<Result<Role, NotARole>, Error> {
    let certificate =
        Certificate::from_der(leaf).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    Ok(Role::of(&certificate))
}

fn only_tls13() -> Error {
    Error::General("TLS 1.2 is not spoken here".into())
}
