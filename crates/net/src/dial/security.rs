//! How a connection is secured, with the certificates that are in use when it is made.

use super::client_side::ClientSide;
use super::words::DialError;
use crate::tls::Inside;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;

/// How a connection is secured, and what the server has to prove.
#[derive(Clone, Debug)]
pub(super) enum Security {
    Plain,
    Named { tls: Arc<ClientSide>, name: ServerName<'static> },
    Inside { tls: Arc<Inside>, node: Option<u64> },
}

impl Security {
    /// The settings of a connection, and the name that is greeted.
    pub(super) fn config(&self) -> Result<Option<(ClientConfig, ServerName<'static>)>, DialError> {
        let (config, name) = match self {
            Security::Plain => return Ok(None),
            Security::Named { tls, name } => {
                let loaded = tls.load().map_err(|error| DialError::Files(error.to_string()))?;
                (loaded.named(), name.clone())
            }
            Security::Inside { tls, node } => {
                let name = ServerName::try_from("palisade").expect("a name"); // not sent
                (tls.current().towards_node(*node), name)
            }
        };
        config
            .map(|config| Some((config, name)))
            .map_err(|error| DialError::Files(error.to_string()))
    }
}
