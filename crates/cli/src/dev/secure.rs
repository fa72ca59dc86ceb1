//! The needs of `palisade dev --secure`: authorities, certificates, a token and a policy, in one
//! directory.
//!
//! Certificates are made anew at each start, and the keys of the authorities are written nowhere.
//! So none has to be renewed, and no file can sign. The policy and the token stay as they are
//! once they were made, because a user may have changed them. The module starts nothing.

use crate::cert::authority::{self, Authority, Pair, Signer, Subject};
use crate::cert::files::{PairPaths, put};
use crate::cert::{gateway_hosts, not_made};
use crate::certificates::unusable;
use crate::failure::Failure;
use crate::serve;
use access::{Digest, new_token};
use client::Security;
use local_cluster::Protection;
use net::dial::{ClientSide, Pem};
use net::role::{Process, Role};
use net::tls::{Demand, InsideFiles, ServerFiles};
use routing::{AccessConfig, AuditConfig, ClientCerts, ClientTls, InsideTls, TlsConfig};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The gateway's name among the certificates of the inside.
pub const GATEWAY: &str = "gateway";
/// The identity that looks at the cluster: for this program itself, and to try operators' verbs.
const OPERATOR: &str = "operator";
/// The client with a certificate.
const ALICE: &str = "alice";
/// The client with a token.
const BOB: &str = "bob";
/// Days that the certificates last. A trial that is longer starts again.
const DAYS: u32 = 365;
const SECRET_MODE: u32 = 0o600;
const PLAIN_MODE: u32 = 0o644;

const POLICY: &str = "\
# alice has a certificate and bob has a token. Change this file while the cluster runs: it is read
# again within a second or two.
roles:
  a: { hold: [\"a/\"], read: [\"a/\"] }
  b: { hold: [\"b/\"], read: [\"b/\"] }
  operator: { observe: true, operate: true, break: [\"\"], read: [\"\"] }
bindings:
  - { identities: [alice], roles: [a] }
  - { identities: [bob], roles: [b] }
  - { identities: [operator], roles: [operator] }
";

/// The files of a secured trial cluster, as sections of its cluster file.
#[derive(Clone, Debug)]
pub struct Secured {
    dir: PathBuf,
    pub tls: TlsConfig,
    pub access: AccessConfig,
    pub audit: AuditConfig,
}

impl Secured {
    /// Makes the files in `dir`, for this cluster with nodes from 1 to `nodes`, and a gateway that
    /// listens at `listen`.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn make(dir: &Path, cluster: &str, nodes: u32, listen: &str) -> Result<Secured, Failure> {
        // The processes and clients may have another working directory.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let now = SystemTime::now();
        let [inside, clients] =
            Authority::ALL.map(|authority| authority::make(authority, DAYS, now).map_err(not_made));
        let (inside, clients) = (inside?, clients?);
        let mut subjects: Vec<Subject> =
            (1..=nodes).map(|id| Subject::node(cluster, id.into())).collect();
        subjects.push(Subject::gateway(cluster, GATEWAY));
        let hosts = gateway_hosts(listen);
        subjects.push(Subject::Server { name: "server".into(), hosts });
        subjects.extend([ALICE, OPERATOR].map(|identity| Subject::Client(identity.into())));
        let signers = (signer(&inside)?, signer(&clients)?);
        for subject in &subjects {
            let signer = match subject.authority() {
                Authority::Inside => &signers.0,
                Authority::Clients => &signers.1,
            };
            let pair = signer.issue(subject, DAYS, now).map_err(not_made)?;
            PairPaths::new(&dir, &subject.stem()).write(&pair)?;
        }
        put(&dir.join("inside-ca.pem"), &inside.certificate, PLAIN_MODE)?;
        put(&dir.join("ca.pem"), &clients.certificate, PLAIN_MODE)?;
        let (policy, tokens) = (dir.join("policy.yaml"), dir.join("tokens.yaml"));
        if !policy.exists() {
            put(&policy, POLICY, PLAIN_MODE)?;
        }
        let token_file = dir.join("bob.token");
        if !tokens.exists() || !token_file.exists() {
            let token = new_token(rand::random());
            let hash = Digest::of(token.as_bytes());
            put(&token_file, &format!("{token}\n"), SECRET_MODE)?;
            put(&tokens, &format!("- {{ identity: {BOB}, sha256: {hash} }}\n"), SECRET_MODE)?;
        }
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        Ok(Secured {
            tls: TlsConfig {
                inside: Some(InsideTls {
                    cert: path("{process}.pem"),
                    key: path("{process}.key"),
                    ca: path("inside-ca.pem"),
                }),
                clients: Some(ClientTls {
                    cert: path("server.pem"),
                    key: path("server.key"),
                    client_ca: Some(path("ca.pem")),
                    client_certs: ClientCerts::Allow,
                }),
            },
            access: AccessConfig {
                policy: path("policy.yaml"),
                tokens: Some(path("tokens.yaml")),
                jwt: None,
            },
            audit: AuditConfig {
                file: path("audit-{process}.log"),
                bytes_max: 16 << 20,
                hours_max: 24,
                keep: 3,
                operations: false,
            },
            dir,
        })
    }

    /// Loads the files, for this cluster with nodes from 1 to `nodes`.
    ///
    /// # Errors
    /// The file that cannot be used.
    pub fn open(&self, cluster: &str, nodes: u32) -> Result<Protection, Failure> {
        let inside = |process: Process| {
            let PairPaths { certificate, key } = self.pair(&process.to_string());
            let role = Role { cluster: cluster.to_owned(), process };
            let ca = self.dir.join("inside-ca.pem");
            InsideFiles { cert: certificate, key, ca, role }.open().map_err(unusable)
        };
        let gateway = Process::Gateway(GATEWAY.into());
        let (server, operator) = (self.pair("server"), self.pair(OPERATOR));
        let clients = ServerFiles {
            cert: server.certificate,
            key: server.key,
            clients: Some((self.dir.join("ca.pem"), Demand::Allow)),
        };
        let observer = ClientSide {
            ca: Pem::File(self.dir.join("ca.pem")),
            own: Some((Pem::File(operator.certificate), Pem::File(operator.key))),
        };
        Ok(Protection {
            tls: self.tls.clone(),
            access: self.access.clone(),
            audit: self.audit.clone(),
            gateway_audit: serve::audit(Some(&self.audit), &gateway.to_string())?,
            nodes: (1..=nodes)
                .map(|id| inside(Process::Node(id.into())))
                .collect::<Result<_, _>>()?,
            gateway: inside(gateway)?,
            clients: clients.open().map_err(unusable)?,
            observer: Security { tls: Some(observer.into()), ..Security::default() },
        })
    }

    fn pair(&self, stem: &str) -> PairPaths {
        PairPaths::new(&self.dir, stem)
    }

    /// The file of the policy.
    pub fn policy_file(&self) -> PathBuf {
        self.dir.join("policy.yaml")
    }

    /// Commands to try, without the name of the program: alice's and bob's.
    pub fn commands(&self, endpoint: &str) -> [String; 2] {
        let dir = self.dir.display();
        [
            format!(
                "acquire a/1{endpoint} --ca {dir}/ca.pem --cert {dir}/alice.pem --key {dir}/alice.key"
            ),
            format!("acquire b/1{endpoint} --ca {dir}/ca.pem --token-file {dir}/bob.token"),
        ]
    }
}

fn signer(authority: &Pair) -> Result<Signer, Failure> {
    Signer::of(authority).map_err(not_made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use access::{Policy, Principal, Tokens, Verb};

    fn make(dir: &Path) -> Secured {
        Secured::make(dir, "dev", 3, "127.0.0.1:7400").expect("made")
    }

    #[test]
    fn the_policy_gives_alice_a_and_bob_b_and_nothing_else() {
        let policy = Policy::parse(POLICY).expect("a policy");
        let may = |identity: &str, verb: Verb, name: &str| {
            let principal: Principal = identity.parse().expect("a principal");
            policy.explain(&principal, verb, Some(name)).permitted
        };
        assert!(may(ALICE, Verb::Hold, "a/1") && may(BOB, Verb::Hold, "b/1"));
        assert!(!may(ALICE, Verb::Hold, "b/1") && !may(BOB, Verb::Read, "a/1"));
        assert!(may(OPERATOR, Verb::Break, "a/1") && !may(OPERATOR, Verb::Hold, "a/1"));
        assert!(!may("mallory", Verb::Read, "a/1"));
    }

    #[test]
    fn a_second_start_keeps_the_policy_and_the_token_and_no_key_of_an_authority_is_on_disk() {
        let dir = tempfile::tempdir().expect("temporary directory");
        make(dir.path());
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect(name);
        std::fs::write(dir.path().join("policy.yaml"), "roles: {}\n").expect("changed");
        let (token, ca) = (read("bob.token"), read("ca.pem"));
        make(dir.path());
        assert_eq!((read("policy.yaml").as_str(), read("bob.token")), ("roles: {}\n", token));
        assert_ne!(read("ca.pem"), ca, "certificates are new");
        Tokens::parse(&read("tokens.yaml")).expect("a tokens file");
        let keys: Vec<String> = std::fs::read_dir(dir.path())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".key") && name.contains("ca"))
            .collect();
        assert_eq!(keys, [""; 0]);
    }
}
