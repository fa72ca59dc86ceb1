//! Servers are safe by default: without TLS, or without identities of clients, they listen on this
//! machine only, unless the operator says otherwise.

use crate::failure::{Exit, Failure};
use crate::voice;
use routing::ClusterConfig;
use std::net::{SocketAddr, ToSocketAddrs};

/// The protection that the port of a server lacks.
#[derive(Clone, Copy, Debug)]
pub struct Protection {
    /// The server, in messages.
    pub server: &'static str,
    /// The missing part of the cluster file.
    missing: &'static str,
}

impl Protection {
    /// The protection of a node's port. `None` if nothing is missing.
    pub fn missing_at_node(cluster: &ClusterConfig) -> Option<Protection> {
        let inside = cluster.tls.as_ref().and_then(|tls| tls.inside.as_ref());
        let missing = "TLS (`tls.inside` in the cluster file)";
        inside.is_none().then_some(Protection { server: "the node", missing })
    }

    /// The protection of a gateway's port for clients. `None` if nothing is missing.
    pub fn missing_at_gateway(cluster: &ClusterConfig) -> Option<Protection> {
        let tls = cluster.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let missing = match (tls, &cluster.access) {
            (Some(_), Some(_)) => return None,
            (None, Some(_)) => "TLS (`tls.clients` in the cluster file)",
            (Some(_), None) => "identities of clients (`access` in the cluster file)",
            (None, None) => {
                "TLS and identities of clients (`tls.clients` and `access` in the cluster file)"
            }
        };
        Some(Protection { server: "the gateway", missing })
    }

    /// `palisade dev` has neither.
    pub const DEV: Protection =
        Protection { server: "the cluster", missing: "TLS and identities of clients" };
}

/// Whether a server may listen on an address. Returns whether it does so without protection, which
/// is also a warning.
///
/// # Errors
/// If other machines reach the address, protection is missing, and the operator has not said
/// `--insecure`.
pub fn check(address: &str, missing: Option<Protection>, insecure: bool) -> Result<bool, Failure> {
    let Some(Protection { server, missing }) = missing.filter(|_| is_wide(address)) else {
        return Ok(false);
    };
    let said =
        format!("{server} listens on {address}, which other machines reach, without {missing}");
    if !insecure {
        let message = format!("{said}: any client that reaches it could take and break locks");
        let next = "add what is missing, or listen on 127.0.0.1; in a network that you trust as a whole, say --insecure";
        return Err(Failure::new(Exit::Usage, "INSECURE", message, next));
    }
    voice::say(format!(
        "warning: --insecure: {said}: any client that reaches it can take and break locks\n"
    ));
    Ok(true)
}

/// Whether programs on other machines can reach an address. A name that is not found counts as one
/// that they can.
fn is_wide(address: &str) -> bool {
    let Ok(mut addresses) = address.to_socket_addrs() else { return true };
    addresses.any(|address: SocketAddr| !address.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::{AccessConfig, ClientTls, InsideTls, TlsConfig};

    #[test]
    fn only_what_is_protected_or_on_this_machine_is_served_without_a_word() {
        let mut cluster = ClusterConfig::dev(1, 3, 20_000).unwrap();
        let refused = |missing: Option<Protection>, said: &str| {
            let failure = check("0.0.0.0:7400", missing, false).expect_err(said);
            assert!(failure.message.contains(said), "{}", failure.message);
            assert_eq!((failure.exit, failure.code.as_str()), (Exit::Usage, "INSECURE"));
            assert!(check("0.0.0.0:7400", missing, true).unwrap(), "{said}");
            for own in ["127.0.0.1:7400", "127.9.9.9:0", "[::1]:7400", "[::ffff:127.0.0.1]:1"] {
                assert!(!check(own, missing, false).unwrap(), "{own}");
            }
        };
        refused(Protection::missing_at_node(&cluster), "without TLS (`tls.inside`");
        refused(Protection::missing_at_gateway(&cluster), "without TLS and identities");
        refused(Some(Protection::DEV), "the cluster listens on 0.0.0.0:7400");
        let (cert, key, ca) = (String::new(), String::new(), String::new());
        let client_certs = Default::default();
        let clients =
            ClientTls { cert: cert.clone(), key: key.clone(), client_ca: None, client_certs };
        cluster.tls = Some(TlsConfig { inside: None, clients: Some(clients) });
        refused(Protection::missing_at_node(&cluster), "without TLS (`tls.inside`");
        refused(
            Protection::missing_at_gateway(&cluster),
            "without identities of clients (`access`",
        );
        let access = AccessConfig { policy: String::new(), tokens: None, jwt: None };
        cluster.access = Some(access);
        cluster.tls.as_mut().unwrap().inside = Some(InsideTls { cert, key, ca });
        assert!(Protection::missing_at_node(&cluster).is_none());
        assert!(!check("0.0.0.0:7400", Protection::missing_at_gateway(&cluster), false).unwrap());
    }
}
