//! What a certificate says of its owner.

/// The names and fingerprint of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The URIs among its alternative names.
    pub uris: Vec<String>,
    /// The DNS names among its alternative names.
    pub dns_names: Vec<String>,
    /// The first common name of its subject.
    pub common_name: Option<String>,
    /// SHA-256 over the whole certificate (DER).
    pub fingerprint: [u8; 32],
}
