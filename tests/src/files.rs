//! The files of a cluster with TLS: authorities, and a pair for each process and client.

use crate::authority::{Authority, Says};
use client::{ClientSide, Pem, Security};
use net::role::{Process, Role};
use net::tls::{Demand, Inside, InsideFiles, Server, ServerFiles};
use routing::{AccessConfig, ClientCerts, ClientTls, InsideTls, TlsConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// The processes of the inside that have a pair.
const PROCESSES: [&str; 5] = ["node/1", "node/2", "node/3", "gateway/a", "gateway/gateway"];

/// The files of a cluster with the name `test`: `inside-ca.crt`, `clients-ca.crt`, a pair for each
/// process, `server` for the gateways, and `client` for the identity `spiffe://jobs/nightly`.
pub struct Files {
    dir: TempDir,
    /// The first authority of the inside.
    pub inside: Authority,
    /// The first authority of clients, and of what gateways show to them.
    pub clients: Authority,
}

impl Default for Files {
    fn default() -> Files {
        Files::new()
    }
}

impl Files {
    /// Makes all files anew, in a directory of their own.
    ///
    /// # Panics
    /// If a file cannot be made.
    pub fn new() -> Files {
        let (inside, clients) = (Authority::new("inside"), Authority::new("clients"));
        let files = Files { dir: tempfile::tempdir().expect("a directory"), inside, clients };
        files.write("inside-ca.crt", &files.inside.pem());
        files.write("clients-ca.crt", &files.clients.pem());
        files.issue_all(&files.inside, &files.clients);
        files
    }

    /// The directory of the files. It is removed with this value.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("write a file");
    }

    /// Issues all pairs, over those that were there.
    pub fn issue_all(&self, inside: &Authority, clients: &Authority) {
        for process in PROCESSES {
            let pair = inside.issue_role(&format!("palisade://test/{process}"));
            pair.write(self.dir(), &process.replace('/', "-"));
        }
        let server = Says { hosts: &["127.0.0.1", "localhost"], ..Says::default() };
        clients.issue(&server).write(self.dir(), "server");
        let client = Says { uris: &["spiffe://jobs/nightly"], ..Says::default() };
        clients.issue(&client).write(self.dir(), "client");
    }

    /// Issues a pair for a client, with the identity as its common name and as the name of its
    /// files.
    pub fn issue_client(&self, identity: &str) {
        let client = Says { common_name: identity, ..Says::default() };
        self.clients.issue(&client).write(self.dir(), identity);
    }

    /// What a process of the inside loads.
    ///
    /// # Panics
    /// If its files cannot be used.
    pub fn inside(&self, process: Process) -> Arc<Inside> {
        let name = process.to_string();
        InsideFiles {
            cert: self.path(&format!("{name}.crt")),
            key: self.path(&format!("{name}.key")),
            ca: self.path("inside-ca.crt"),
            role: Role { cluster: "test".into(), process },
        }
        .open()
        .expect("files of the inside")
    }

    /// What a gateway loads for its clients, which must have certificates.
    ///
    /// # Panics
    /// If the files cannot be used.
    pub fn server(&self) -> Arc<Server> {
        let (cert, key) = (self.path("server.crt"), self.path("server.key"));
        let clients = Some((self.path("clients-ca.crt"), Demand::Require));
        ServerFiles { cert, key, clients }.open().expect("files of a server")
    }

    /// What a client with the pair `name` uses.
    pub fn client_side(&self, name: &str) -> ClientSide {
        let file = |kind: &str| Pem::File(self.path(&format!("{name}.{kind}")));
        ClientSide {
            ca: Pem::File(self.path("clients-ca.crt")),
            own: Some((file("crt"), file("key"))),
        }
    }

    /// The same, for the options of a client.
    pub fn security(&self, name: &str) -> Security {
        Security { tls: Some(self.client_side(name).into()), ..Security::default() }
    }

    /// The section `tls` of the cluster file, with TLS between its processes only.
    pub fn tls_inside(&self) -> TlsConfig {
        let inside = InsideTls {
            cert: self.text("{process}.crt"),
            key: self.text("{process}.key"),
            ca: self.text("inside-ca.crt"),
        };
        TlsConfig { inside: Some(inside), clients: None }
    }

    /// The section `tls` of the cluster file, with certificates of clients required.
    pub fn tls(&self) -> TlsConfig {
        let clients = ClientTls {
            cert: self.text("server.crt"),
            key: self.text("server.key"),
            client_ca: Some(self.text("clients-ca.crt")),
            client_certs: ClientCerts::Require,
        };
        TlsConfig { clients: Some(clients), ..self.tls_inside() }
    }

    /// Writes a policy. Returns the section `access` of the cluster file.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn access(&self, policy: &str) -> AccessConfig {
        self.write("policy.yaml", policy);
        AccessConfig { policy: self.text("policy.yaml"), tokens: None, jwt: None }
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }
}
