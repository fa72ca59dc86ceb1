//! The files of certificates that a cluster file names, loaded for one process.

use crate::failure::{Exit, Failure};
use net::reload::LoadError;
use net::role::{Process, Role};
use net::tls::{Demand, Inside, InsideFiles, Server, ServerFiles, TlsError};
use routing::{ClientCerts, ClusterConfig, for_process};
use std::path::PathBuf;
use std::sync::Arc;

/// TLS between the processes of the cluster, if the cluster file has it.
///
/// # Errors
/// If the files cannot be used, or are another process's.
pub fn inside(cluster: &ClusterConfig, process: &Process) -> Result<Option<Arc<Inside>>, Failure> {
    let Some(files) = cluster.tls.as_ref().and_then(|tls| tls.inside.as_ref()) else {
        return Ok(None);
    };
    let path = |path: &str| path_for(path, process);
    let files = InsideFiles {
        cert: path(&files.cert),
        key: path(&files.key),
        ca: path(&files.ca),
        role: Role { cluster: cluster.cluster.clone(), process: process.clone() },
    };
    files.open().map(Some).map_err(unusable)
}

/// TLS between clients and a gateway, if the cluster file has it.
///
/// # Errors
/// If the files cannot be used.
pub fn clients(cluster: &ClusterConfig, process: &Process) -> Result<Option<Arc<Server>>, Failure> {
    let Some(files) = cluster.tls.as_ref().and_then(|tls| tls.clients.as_ref()) else {
        return Ok(None);
    };
    let demand = match files.client_certs {
        ClientCerts::Require => Some(Demand::Require),
        ClientCerts::Allow => Some(Demand::Allow),
        ClientCerts::No => None,
    };
    let clients = match (demand, &files.client_ca) {
        (None, _) => None,
        (Some(demand), Some(ca)) => Some((path_for(ca, process), demand)),
        (Some(_), None) => {
            let what = "`tls.clients` asks for certificates of clients, and has no `client_ca`";
            let next = "name the file of the authorities of clients, or set client_certs to no";
            return Err(Failure::new(Exit::Usage, "TLS", what, next));
        }
    };
    let (cert, key) = (path_for(&files.cert, process), path_for(&files.key, process));
    ServerFiles { cert, key, clients }.open().map(Some).map_err(unusable)
}

fn path_for(path: &str, process: &Process) -> PathBuf {
    for_process(path, &process.to_string()).into()
}

/// The failure of files that cannot be used.
pub fn unusable(error: LoadError<TlsError>) -> Failure {
    Failure::new(
        Exit::Error,
        "TLS",
        error.to_string(),
        "correct the file, or `tls` in the cluster file",
    )
}
