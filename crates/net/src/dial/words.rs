//! The failures of a dial, in words that name the change to make.

use crate::verify::{NotExpected, why_invalid};
use rustls::{AlertDescription, CertificateError, Error as Tls};
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// No TCP connection.
    #[error("it cannot be reached")]
    Unreachable(#[source] Arc<dyn Error + Send + Sync>),
    /// The time was up.
    #[error("no connection in {ms} ms")]
    TimedOut {
        /// The time that there was.
        ms: u64,
    },
    /// This side's own files cannot be used.
    #[error("{0}")]
    Files(String),
    /// The server speaks TLS, and this side does not.
    #[error(
        "the server speaks TLS: give the authority of its certificate (--ca FILE; between gateways \
         and nodes tls.inside in the cluster file)"
    )]
    ServerSpeaksTls,
    /// This side speaks TLS, and the server does not.
    #[error(
        "the server does not speak TLS: dial it without (http://, no --ca), or turn TLS on there"
    )]
    ServerIsPlain,
    /// The server's certificate is not accepted.
    #[error("the server's certificate is refused: {0}")]
    ServerRefused(String),
    /// The process at the other end is not the one that was meant.
    #[error("{0}")]
    NotExpected(NotExpected),
    /// The server does not accept this side's certificate.
    #[error("the server refuses this side: {0}")]
    Refused(&'static str),
    /// Anything else between two sides that speak TLS.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

impl DialError {
    pub(super) fn unreachable(error: impl Error + Send + Sync + 'static) -> DialError {
        DialError::Unreachable(Arc::new(error))
    }

    /// The dial's own error, out of those that tonic put around it.
    pub(super) fn of(error: &tonic::transport::Error) -> DialError {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(dial) = error.downcast_ref::<DialError>() {
                return dial.clone();
            }
            cause = error.source();
        }
        DialError::Handshake(innermost(error))
    }

    /// An error of the handshake, before there is a connection.
    pub(super) fn of_handshake(error: io::Error) -> DialError {
        match tls_of(&error) {
            Some(Tls::InvalidMessage(_)) => DialError::ServerIsPlain,
            Some(error) => DialError::of_tls(error),
            // A server that speaks TLS says why it ends a handshake.
            None if is_end(&error) => DialError::ServerIsPlain,
            None => DialError::Handshake(error.to_string()),
        }
    }

    /// The failure that TLS reports of the server.
    pub(super) fn of_tls(error: &Tls) -> DialError {
        match error {
            Tls::InvalidCertificate(why) => DialError::ServerRefused(certificate(why)),
            Tls::Other(other) => match other.0.downcast_ref::<NotExpected>() {
                Some(why) => DialError::NotExpected(why.clone()),
                None => DialError::Handshake(other.to_string()),
            },
            Tls::AlertReceived(alert) => match refusal(*alert) {
                Some(why) => DialError::Refused(why),
                None => DialError::Handshake(format!("the server ended it ({alert:?})")),
            },
            error => DialError::Handshake(error.to_string()),
        }
    }
}

/// The reason for which a server ended a connection that was made.
#[derive(Debug, Default)]
pub(super) struct Refusal(Mutex<Option<DialError>>);

impl Refusal {
    pub(super) fn set(&self, why: DialError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    pub(super) fn take(&self) -> Option<DialError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An error of a connection that was made. The server's opinion of this side's certificate comes
/// only then.
pub(super) fn of_read(error: io::Error) -> io::Error {
    let Some(Tls::AlertReceived(alert)) = tls_of(&error) else { return error };
    match refusal(*alert) {
        Some(why) => io::Error::other(DialError::Refused(why)),
        None => error,
    }
}

/// The meaning of a server's alert about this side's certificate.
fn refusal(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription::*;
    Some(match alert {
        CertificateRequired => "it requires a certificate: give one (--cert FILE --key FILE)",
        UnknownCA => "it does not know the authority of this side's certificate",
        CertificateExpired => {
            "this side's certificate is expired or not yet valid: issue a new one, and look at the \
             clocks of both machines"
        }
        AccessDenied => "this side's certificate is for another cluster, or for no process of one",
        BadCertificate
        | UnsupportedCertificate
        | CertificateUnknown
        | CertificateRevoked
        | DecryptError => "this side's certificate is not fit for it",
        _ => return None,
    })
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "none of the given authorities issued it: give the right one (--ca FILE; between \
             gateways and nodes tls.inside.ca in the cluster file)"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "it is for {}, not for {}: dial a name that it has, or say which one is meant \
             (--server-name NAME)",
            if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") },
            expected.to_str()
        ),
        why => why_invalid(why),
    }
}

fn tls_of(error: &io::Error) -> Option<&Tls> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe | ConnectionAborted)
}

fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
