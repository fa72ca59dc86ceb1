//! Makes certificates: the two authorities of a cluster, and the certificates that they sign.
//!
//! The authority of the inside signs nodes and gateways, and nothing else. The one of clients signs
//! clients, and the certificates that gateways show to them. Every key is new, and no key is written
//! or logged here. The module knows nothing of files and of the command line, and reads no clock:
//! time is an argument.

use net::certificate::{Certificate, NotACertificate};
use net::role::{Process, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A certificate begins this much before it was made, because the clocks of other machines may be
/// behind.
const BEGINS_BEFORE: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);

/// One of the two authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Signs nodes and gateways.
    Inside,
    /// Signs clients and the servers that they connect to.
    Clients,
}

impl Authority {
    /// Both of them.
    pub const ALL: [Authority; 2] = [Authority::Inside, Authority::Clients];

    /// The name of its files, without the ending.
    pub const fn stem(self) -> &'static str {
        match self {
            Authority::Inside => "inside-ca",
            Authority::Clients => "clients-ca",
        }
    }
}

/// The owner of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A process of the cluster.
    Process(Role),
    /// A client with this identity.
    Client(String),
    /// A server for clients: the name of its files, and the names and addresses that clients dial.
    Server { name: String, hosts: Vec<String> },
}

impl Subject {
    /// The node of a cluster.
    pub fn node(cluster: &str, id: u64) -> Subject {
        Subject::Process(Role { cluster: cluster.into(), process: Process::Node(id) })
    }

    /// The gateway of a cluster.
    pub fn gateway(cluster: &str, name: &str) -> Subject {
        Subject::Process(Role { cluster: cluster.into(), process: Process::Gateway(name.into()) })
    }

    /// The authority that signs it.
    pub fn authority(&self) -> Authority {
        match self {
            Subject::Process(_) => Authority::Inside,
            Subject::Client(_) | Subject::Server { .. } => Authority::Clients,
        }
    }

    /// The name of its files, without the ending: letters, digits, `-`, `_` and `.` of its name.
    ///
    /// Two identities can have one file name. The files are never overwritten unasked, so this is
    /// noticed.
    pub fn stem(&self) -> String {
        let name = match self {
            Subject::Process(role) => role.process.to_string(),
            Subject::Client(name) | Subject::Server { name, .. } => name.clone(),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let parts: Vec<&str> = name.split(|c| !plain(c)).filter(|part| !part.is_empty()).collect();
        // A name that begins with a dot would be hidden, and `..` is a directory.
        parts.join("-").trim_start_matches('.').to_owned()
    }

    /// The name in the certificate for people, and its alternative names and uses.
    fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        let (common_name, usages) = match self {
            Subject::Process(role) => {
                let uri = role.to_string().try_into()?;
                params.subject_alt_names = vec![SanType::URI(uri)];
                // Each process dials others and is dialled by them.
                let both =
                    [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
                (Some(role.process.to_string()), both.to_vec())
            }
            Subject::Client(identity) => {
                let is_uri = identity.contains("://");
                if is_uri {
                    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
                }
                let common_name = (!is_uri).then(|| identity.clone());
                (common_name, vec![ExtendedKeyUsagePurpose::ClientAuth])
            }
            Subject::Server { hosts, .. } => {
                params.subject_alt_names =
                    hosts.iter().map(|host| host_name(host)).collect::<Result<_, _>>()?;
                (hosts.first().cloned(), vec![ExtendedKeyUsagePurpose::ServerAuth])
            }
        };
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

fn host_name(host: &str) -> Result<SanType, rcgen::Error> {
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(host.try_into()?)),
    }
}

/// A certificate with its private key, both as PEM.
///
/// * It has no `Debug`, so that the key reaches no log.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// Makes a new authority that is valid for `days` from `now`.
///
/// # Errors
/// If the system gives no random numbers.
pub fn make(authority: Authority, days: u32, now: SystemTime) -> Result<Pair, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = match authority {
        Authority::Inside => "palisade: the inside",
        Authority::Clients => "palisade: clients",
    };
    params.distinguished_name.push(DnType::CommonName, name);
    // It signs end entities alone, and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, DAY * days, now);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

/// An authority that can sign.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// When its own certificate ends, since 1970.
    ends: Duration,
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum NotIssued {
    /// The authority's own certificate is over, so none that it signs would be accepted.
    #[error("the authority's own certificate has expired")]
    AuthorityExpired,
    /// A file or a name cannot be used.
    #[error(transparent)]
    Unfit(#[from] rcgen::Error),
    /// The authority's certificate cannot be read.
    #[error(transparent)]
    Unreadable(#[from] NotACertificate),
}

impl Signer {
    /// Takes the authority's certificate and key, both as PEM.
    ///
    /// # Errors
    /// If the certificate or the key cannot be used.
    pub fn of(pair: &Pair) -> Result<Signer, NotIssued> {
        let key = KeyPair::from_pem(&pair.key)?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key)?;
        let not_after_s = Certificate::from_pem(&pair.certificate)?.not_after_s;
        Ok(Signer { issuer, ends: Duration::from_secs(u64::try_from(not_after_s).unwrap_or(0)) })
    }

    /// Makes a key, and a certificate for it that is valid for `days` from `now`, but no longer than
    /// the authority.
    ///
    /// # Errors
    /// If a name cannot stand in a certificate, or the authority has expired.
    pub fn issue(&self, subject: &Subject, days: u32, now: SystemTime) -> Result<Pair, NotIssued> {
        let mut params = subject.params()?;
        let left = self.ends.checked_sub(since_epoch(now)).ok_or(NotIssued::AuthorityExpired)?;
        lasts(&mut params, left.min(DAY * days), now);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

fn lasts(params: &mut CertificateParams, time: Duration, now: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(now).saturating_sub(BEGINS_BEFORE);
    params.not_after = epoch + since_epoch(now) + time;
}

fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: such a certificate looked good, and was refused by each process.
    #[test]
    fn no_certificate_lasts_longer_than_its_authority() {
        let now = SystemTime::now();
        let authority = make(Authority::Clients, 10, now).unwrap();
        let (signer, alice) =
            (Signer::of(&authority).unwrap(), Subject::Client("alice".to_owned()));
        let ends = |pair: &Pair| Certificate::from_pem(&pair.certificate).unwrap().not_after_s;
        let shorter = signer.issue(&alice, 5, now).unwrap();
        assert_eq!(ends(&authority) - ends(&shorter), 5 * DAY.as_secs() as i64);
        let longer = signer.issue(&alice, 90, now).unwrap();
        assert_eq!(ends(&longer), ends(&authority));
        let after = signer.issue(&alice, 1, now + 11 * DAY);
        assert!(matches!(after, Err(NotIssued::AuthorityExpired)));
    }

    #[test]
    fn file_names_stay_in_their_directory() {
        for (identity, stem) in [
            ("alice", "alice"),
            ("spiffe://corp/payments/1", "spiffe-corp-payments-1"),
            ("../../etc/passwd", "-..-etc-passwd"),
            ("..", ""),
            ("ü/ö", ""),
        ] {
            assert_eq!(Subject::Client(identity.into()).stem(), stem, "{identity}");
        }
    }
}
