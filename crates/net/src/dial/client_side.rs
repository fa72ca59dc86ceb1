//! A client's side of TLS: where its certificates come from.

use crate::reload::{File, LoadError, Unreadable};
use crate::tls::{ClientTls, TlsError};
use std::fmt;
use std::path::PathBuf;

/// Where PEM comes from.
#[derive(Clone)]
pub enum Pem {
    /// A file, read again for each connection.
    File(PathBuf),
    /// The text itself.
    Text(String),
}

impl Pem {
    fn read(&self) -> Result<File, Unreadable> {
        match self {
            Pem::File(path) => File::read(path),
            Pem::Text(text) => {
                Ok(File { name: "the given PEM".into(), bytes: text.clone().into() })
            }
        }
    }
}

/// Without the text, which may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pem::File(path) => path.fmt(f),
            Pem::Text(_) => f.write_str("text"),
        }
    }
}

/// A client's side of TLS, read again for each connection. So a client needs no task that watches
/// its files.
#[derive(Clone, Debug)]
pub struct ClientSide {
    /// The authorities of the servers' certificates.
    pub ca: Pem,
    /// The certificate that the client shows, and its key.
    pub own: Option<(Pem, Pem)>,
}

impl ClientSide {
    /// Reads the files.
    ///
    /// # Errors
    /// If they cannot be read or used.
    pub fn load(&self) -> Result<ClientTls, LoadError<TlsError>> {
        let own = match &self.own {
            Some((cert, key)) => Some((cert.read()?, key.read()?)),
            None => None,
        };
        let own = own.as_ref().map(|(cert, key)| (cert, key));
        ClientTls::load(&self.ca.read()?, own).map_err(LoadError::Unusable)
    }
}
