//! The names in a client's certificate, and the identity that they prove.

use crate::digest::Digest;
use crate::principal::{Principal, PrincipalError};

/// The names in a certificate that a TLS handshake has accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The URIs among its subject alternative names, in order.
    pub uris: Vec<String>,
    /// The DNS names among them.
    pub dns_names: Vec<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// SHA-256 of its DER encoding.
    pub sha256: Option<Digest>,
}

impl Certificate {
    /// The identity that the certificate proves: its first URI, else its first DNS name, else its
    /// common name. `None` if it has none of them.
    ///
    /// A certificate cannot prove the principal `anonymous`, because that name stands for clients
    /// without any identity.
    ///
    /// # Errors
    /// If the name is too long or has control characters.
    pub fn principal(&self) -> Result<Option<Principal>, PrincipalError> {
        let name = self.uris.first().or(self.dns_names.first()).or(self.common_name.as_ref());
        let principal = name.map(|name| name.parse::<Principal>()).transpose()?;
        Ok(principal.filter(|principal| !principal.is_anonymous()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_comes_before_a_dns_name_and_that_before_the_common_name() {
        let mut certificate = Certificate {
            uris: vec!["spiffe://corp/a".into(), "spiffe://corp/b".into()],
            dns_names: vec!["a.corp".into()],
            common_name: Some("a".into()),
            sha256: None,
        };
        let name = |certificate: &Certificate| {
            certificate.principal().unwrap().map(|principal| principal.to_string())
        };
        assert_eq!(name(&certificate).as_deref(), Some("spiffe://corp/a"));
        certificate.uris.clear();
        assert_eq!(name(&certificate).as_deref(), Some("a.corp"));
        certificate.dns_names.clear();
        assert_eq!(name(&certificate).as_deref(), Some("a"));
        certificate.common_name = Some("anonymous".into());
        assert_eq!(name(&certificate), None);
        certificate.common_name = None;
        assert_eq!(name(&certificate), None);
    }
}
