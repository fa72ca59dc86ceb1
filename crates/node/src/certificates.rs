//! What the audit log is told of certificates: those of callers that are refused, and new ones of
//! this node.

use audit::{Audit, Event, Kind};
use net::accept::{Accepted, source_of};
use net::reload::Outcome;
use net::tls::TlsError;

/// Counts of connections that tell the audit log of each refused certificate.
pub(crate) fn accepted(audit: Audit) -> Accepted {
    Accepted::telling(move |remote, why| {
        let (source, why) = (source_of(remote).to_string(), why.to_owned());
        let remote = remote.to_string();
        audit.record(Event { remote, source, why, ..Event::of(Kind::PeerRefused) });
    })
}

/// Records the outcome of reading certificates again.
pub(crate) fn record_certificates(audit: &Audit, outcome: &Outcome<TlsError>) {
    audit.record(match outcome {
        Outcome::Same => return,
        Outcome::Taken => Event::of(Kind::CertificatesChanged),
        Outcome::Refused(error) => {
            Event { why: error.to_string(), ..Event::of(Kind::CertificatesRefused) }
        }
    });
}
