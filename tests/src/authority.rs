//! Certificates for tests: an authority, and what it issues.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use std::path::{Path, PathBuf};

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Clone, Debug, Default)]
pub struct Says<'a> {
    /// URIs among its alternative names.
    pub uris: &'a [&'a str],
    /// DNS names and addresses among its alternative names.
    pub hosts: &'a [&'a str],
    /// The common name.
    pub common_name: &'a str,
    /// When it is valid.
    pub time: Time,
}

/// The time at which a certificate is valid.
#[derive(Clone, Copy, Debug, Default)]
pub enum Time {
    /// Today.
    #[default]
    Now,
    /// It was.
    Past,
    /// It will be.
    Future,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate in PEM.
    pub cert: String,
    /// The key in PEM.
    pub key: String,
}

impl Authority {
    /// A new authority of this name.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name = named(name);
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    /// The authority's own certificate in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a certificate.
    pub fn issue(&self, says: &Says<'_>) -> Pair {
        let hosts: Vec<String> = says.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("host names");
        for uri in says.uris {
            let uri = (*uri).try_into().expect("a URI in ASCII");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.distinguished_name = named(says.common_name);
        (params.not_before, params.not_after) = match says.time {
            Time::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(4000, 1, 1)),
            Time::Past => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Time::Future => (date_time_ymd(3000, 1, 1), date_time_ymd(4000, 1, 1)),
        };
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// Issues the certificate of a process, as in `palisade://test/node/1`.
    pub fn issue_role(&self, role: &str) -> Pair {
        self.issue(&Says { uris: &[role], ..Says::default() })
    }
}

impl Pair {
    /// Writes both as `NAME.crt` and `NAME.key`.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, &self.cert).expect("write a certificate");
        std::fs::write(&key, &self.key).expect("write a key");
        (cert, key)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    if !name.is_empty() {
        names.push(DnType::CommonName, name);
    }
    names
}
