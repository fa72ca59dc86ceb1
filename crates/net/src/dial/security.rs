//! How a connection is secured, with the certificates that are in use when it is made.

use super::client_side::ClientSide;
use super::words::DialError;
use crate::recheck::Rechecked;
use crate::tls::{Inside, unsent_name};
use rustls::ClientConfig;
use rustls::pki_types::{ServerName, UnixTime};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How a connection is secured, and the proof that the server has to give.
#[derive(Clone, Debug)]
pub(super) enum Security {
    Plain,
    Named { tls: Arc<ClientSide>, name: ServerName<'static> },
    Inside { tls: Arc<Inside>, node: Option<u64> },
}

/// The settings of one handshake.
pub(super) struct Settings {
    pub(super) config: Arc<ClientConfig>,
    /// The name that is greeted.
    pub(super) name: ServerName<'static>,
    /// The moment of the files that the settings are made of, or an earlier one.
    seen: u64,
}

impl Security {
    /// The settings of the next handshake, if there is one.
    pub(super) fn settings(&self) -> Result<Option<Settings>, DialError> {
        let (config, name, seen) = match self {
            Security::Plain => return Ok(None),
            Security::Named { tls, name } => {
                let loaded = tls.load().map_err(|error| DialError::Files(error.to_string()))?;
                (loaded.named(), name.clone(), 0)
            }
            Security::Inside { tls, node } => {
                let seen = tls.changes().number();
                (tls.current().towards_node(*node), unsent_name(), seen)
            }
        };
        let config = config.map_err(|error| DialError::Files(error.to_string()))?;
        Ok(Some(Settings { config: Arc::new(config), name, seen }))
    }

    /// A connection that was made with these settings. Inside the cluster it ends when the node's
    /// certificate is not accepted any more. A client watches no files, so its connections do not.
    pub(super) fn keep(
        &self,
        stream: TlsStream<TcpStream>,
        settings: &Settings,
    ) -> Rechecked<TlsStream<TcpStream>> {
        let Security::Inside { tls, node } = self else { return Rechecked::unchecked(stream) };
        let (inside, node, changes) = (tls.clone(), *node, tls.changes().clone());
        let check = move |stream: &TlsStream<TcpStream>, now: UnixTime| {
            let (tcp, tls) = stream.get_ref();
            let chain = tls.peer_certificates().unwrap_or_default();
            inside.current().check_node(node, chain, now).map_err(|error| {
                let (remote, why) = (tcp.peer_addr().ok(), DialError::of_tls(&error));
                tracing::warn!(?remote, %why, "ended the connection to a node");
                why.to_string()
            })
        };
        Rechecked::new(stream, changes, settings.seen, Box::new(check))
    }
}
