//! Makes certificates: the two authorities of a cluster, and what they sign.
//!
//! The authority of the inside signs nodes and gateways, and nothing else. The one of clients signs
//! clients, and the certificates that gateways show to them. Every key is new, and no key is written
//! or logged here. The module knows nothing of files and of the command line, and reads no clock:
//! time is an argument.

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
    lasts(&mut params, days, now);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

/// An authority that can sign.
pub struct Signer(Issuer<'static, KeyPair>);

impl Signer {
    /// Takes the authority's certificate and key, both as PEM.
    ///
    /// # Errors
    /// If one of them is not what it should be.
    pub fn of(pair: &Pair) -> Result<Signer, rcgen::Error> {
        let key = KeyPair::from_pem(&pair.key)?;
        Ok(Signer(Issuer::from_ca_cert_pem(&pair.certificate, key)?))
    }

    /// Makes a key, and a certificate for it that is valid for `days` from `now`.
    ///
    /// # Errors
    /// If a name cannot stand in a certificate.
    pub fn issue(
        &self,
        subject: &Subject,
        days: u32,
        now: SystemTime,
    ) -> Result<Pair, rcgen::Error> {
        let mut params = subject.params()?;
        lasts(&mut params, days, now);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

fn lasts(params: &mut CertificateParams, days: u32, now: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + since_epoch.saturating_sub(BEGINS_BEFORE);
    params.not_after = epoch + since_epoch + DAY * days;
}

#[cfg(test)]
mod tests {
    use super::*;

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
