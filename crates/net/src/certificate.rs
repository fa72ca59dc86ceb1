//! The statements of a certificate about its owner. The verifiers of TLS have decided before
//! whether they are true: this module only reads.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use std::fmt;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// The names, times and fingerprint of a certificate.
///
/// The order of names is that of the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The URIs among its alternative names, as `palisade://prod/node/3`.
    pub uris: Vec<String>,
    /// The DNS names among its alternative names.
    pub dns_names: Vec<String>,
    /// The first common name of its subject.
    pub common_name: Option<String>,
    /// When it becomes valid, in seconds since 1970.
    pub not_before_s: i64,
    /// The last second at which it is valid, in seconds since 1970.
    pub not_after_s: i64,
    /// SHA-256 over the whole certificate (DER).
    pub fingerprint: [u8; 32],
}

/// These bytes are no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not an X.509 certificate: {0}")]
pub struct NotACertificate(String);

/// A certificate is used outside of its time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInTime {
    /// Its time is over.
    #[error("it is expired since {}: issue a new one", Day(*not_after_s))]
    Expired {
        /// In seconds since 1970.
        not_after_s: i64,
    },
    /// Its time has not come.
    #[error("it is not valid before {}: look at the clocks of both machines", Day(*not_before_s))]
    NotYetValid {
        /// In seconds since 1970.
        not_before_s: i64,
    },
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn from_der(der: &[u8]) -> Result<Certificate, NotACertificate> {
        let bad = |why: String| NotACertificate(why);
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| bad(error.to_string()))?;
        let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
        let names = parsed.subject_alternative_name().map_err(|error| bad(error.to_string()))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                _ => {}
            }
        }
        let mut common_names = parsed.subject().iter_common_name();
        let common_name = common_names.next().and_then(|name| name.as_str().ok());
        Ok(Certificate {
            uris,
            dns_names,
            common_name: common_name.map(str::to_owned),
            not_before_s: parsed.validity().not_before.timestamp(),
            not_after_s: parsed.validity().not_after.timestamp(),
            fingerprint: Sha256::digest(der).into(),
        })
    }

    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// If there is none.
    pub fn from_pem(pem: &str) -> Result<Certificate, NotACertificate> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        Certificate::from_der(&der.map_err(|error| NotACertificate(error.to_string()))?)
    }

    /// The name of its owner: the first URI, else the first DNS name, else the common name.
    pub fn name(&self) -> Option<&str> {
        let name = self.uris.first().or(self.dns_names.first()).or(self.common_name.as_ref());
        name.map(String::as_str)
    }

    /// Whether it is valid at this time, in seconds since 1970.
    ///
    /// # Errors
    /// [`NotInTime`] if it is not.
    pub fn check_time(&self, now_s: i64) -> Result<(), NotInTime> {
        if now_s > self.not_after_s {
            return Err(NotInTime::Expired { not_after_s: self.not_after_s });
        }
        if now_s < self.not_before_s {
            return Err(NotInTime::NotYetValid { not_before_s: self.not_before_s });
        }
        Ok(())
    }

    /// The fingerprint as 64 hexadecimal digits.
    pub fn fingerprint_hex(&self) -> String {
        self.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} until {}", self.name().unwrap_or("without a name"), Day(self.not_after_s))
    }
}

/// A time in seconds since 1970, shown as people write it.
pub(crate) struct Day(pub(crate) i64);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ASN1Time::from_timestamp(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "second {} after 1970", self.0),
        }
    }
}
