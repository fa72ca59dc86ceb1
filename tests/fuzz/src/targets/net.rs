//! What comes with a connection, and with its files: roles and certificates.

use net::certificate::Certificate;
use net::reload::File;
use net::role::{Process, Role};
use net::tls::{InsideTls, certificates};

/// An accepted role comes back as the same text.
pub(super) fn role(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(role) = text.parse::<Role>() else { return false };
    assert_eq!(role.to_string(), text, "does not come back the same");
    true
}

/// One file as certificate, key and authorities of a process. Whether it is accepted, its
/// certificates can be read and shown.
pub(super) fn pem(bytes: &[u8]) -> bool {
    let file = File { name: "pair.pem".into(), bytes: bytes.into() };
    for der in certificates(&file).unwrap_or_default() {
        if let Ok(certificate) = Certificate::from_der(&der) {
            let _ = Role::of(&certificate);
            assert!(!certificate.to_string().is_empty());
        }
        // A listener reads what a client sends, too.
        let _ = Certificate::from_der(&der[..der.len() / 2]);
    }
    let role = Role { cluster: "prod".into(), process: Process::Node(1) };
    InsideTls::load(&file, &file, &file, &role).is_ok()
}
