//! The parts of a cluster file about TLS, identities and the audit log: which files there are.
//!
//! This module only names files. The crates `net`, `access` and `audit` read them.

use super::{ClusterConfig, parse};
use serde::{Deserialize, Serialize};

/// The word in a path that stands for the process: `node-3`, or `gateway-NAME`. With it one cluster
/// file serves all machines.
const PROCESS: &str = "{process}";

/// Upper limit for `clock_skew_s`. A token is valid for that much longer than it says.
const CLOCK_SKEW_MAX_S: u64 = 300;
/// Lower limit for the size of a file of the audit log. In smaller ones, any client could soon push
/// out the lines before.
const AUDIT_BYTES_LEAST: u64 = 64 << 10;
/// Upper limit for the same.
const AUDIT_BYTES_LIMIT: u64 = 1 << 40;
/// Upper limit for the age of a file of the audit log: ten years.
const AUDIT_HOURS_LIMIT: u64 = 87_600;
/// Upper limit for the closed files of the audit log. All are renamed when one is closed.
const AUDIT_KEEP_LIMIT: u64 = 1_000;

/// TLS of both sides of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Between gateways and nodes, and between nodes. Without it they speak without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<InsideTls>,
    /// Between clients and gateways. Without it gateways speak without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientTls>,
}

/// TLS between the processes of a cluster: always with certificates on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InsideTls {
    /// PEM file of the process's certificate, which names its role and cluster. In all paths,
    /// `{process}` stands for `node-3` or `gateway-NAME`.
    pub cert: String,
    /// PEM file of the certificate's private key.
    pub key: String,
    /// PEM file of the certificate authorities of the inside. They should issue nothing else.
    pub ca: String,
}

/// TLS between clients and gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    /// PEM file of the gateway's certificate, for the name that clients dial.
    pub cert: String,
    /// PEM file of the certificate's private key.
    pub key: String,
    /// PEM file of the certificate authorities of clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// Whether clients show certificates: `require`, `allow` or `no`.
    #[serde(default)]
    pub client_certs: ClientCerts,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCerts {
    /// None connects without one.
    Require,
    /// Clients without one may show a token.
    Allow,
    /// None is asked for.
    #[default]
    No,
}

/// Identities of clients, and what they may do. With this section every client needs an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// YAML file of roles, bindings and quotas.
    pub policy: String,
    /// YAML file of hashed bearer tokens and their identities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<String>,
    /// Signed bearer tokens (JWT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtConfig>,
}

/// Which signed bearer tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// JSON file of the issuer's public keys (JWKS). It is read from disk only.
    pub jwks: String,
    /// The `iss` that a token must have.
    pub issuer: String,
    /// The `aud` that a token must have.
    pub audience: String,
    /// How far the issuer's clock may be off, for `exp` and `nbf`.
    #[serde(default = "sixty")]
    pub clock_skew_s: u64,
    /// Stands before each subject (`sub`) in the identity: with `jwt:`, the subject `alice` is the
    /// identity `jwt:alice`. Without it, whoever signs tokens can name every identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

fn sixty() -> u64 {
    60
}

/// The audit log of each gateway and node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Path of the file, or `-` for standard output. `{process}` stands for `node-3` or
    /// `gateway-NAME`.
    pub file: String,
    /// Size at which a file is closed and the next one begun.
    #[serde(default = "hundred_mib")]
    pub bytes_max: u64,
    /// Age at which a file is closed and the next one begun.
    #[serde(default = "one_day")]
    pub hours_max: u64,
    /// Number of closed files that are kept.
    #[serde(default = "thirty")]
    pub keep: u32,
    /// Whether every operation is recorded, and not only what was refused, broken or changed.
    #[serde(default, deserialize_with = "parse::empty_is_default")]
    pub operations: bool,
}

fn hundred_mib() -> u64 {
    100 << 20
}

fn one_day() -> u64 {
    24
}

fn thirty() -> u32 {
    30
}

/// Finds values that cannot be meant. The files themselves are read elsewhere.
pub(super) fn check(config: &ClusterConfig, problems: &mut Vec<String>) {
    let ClusterConfig { tls, access, audit, .. } = config;
    let inside = tls.iter().flat_map(|tls| &tls.inside);
    let clients = tls.iter().flat_map(|tls| &tls.clients);
    let jwt = access.iter().flat_map(|access| &access.jwt);
    let mut texts: Vec<(&str, &String)> = Vec::new();
    for tls in inside {
        texts.extend([("tls.inside.cert", &tls.cert), ("tls.inside.key", &tls.key)]);
        texts.push(("tls.inside.ca", &tls.ca));
    }
    for tls in clients {
        texts.extend([("tls.clients.cert", &tls.cert), ("tls.clients.key", &tls.key)]);
        texts.extend(tls.client_ca.iter().map(|ca| ("tls.clients.client_ca", ca)));
        if tls.client_certs != ClientCerts::No && tls.client_ca.is_none() {
            problems.push(
                "`tls.clients` asks for certificates of clients: name the file of their \
                 authorities as `client_ca`, or set `client_certs` to no"
                    .to_owned(),
            );
        }
    }
    if let Some(access) = access {
        texts.push(("access.policy", &access.policy));
        texts.extend(access.tokens.iter().map(|tokens| ("access.tokens", tokens)));
    }
    let mut numbers: Vec<(&str, u64, u64, u64)> = Vec::new();
    for jwt in jwt {
        texts.extend([("access.jwt.jwks", &jwt.jwks), ("access.jwt.issuer", &jwt.issuer)]);
        texts.push(("access.jwt.audience", &jwt.audience));
        texts.extend(jwt.prefix.iter().map(|prefix| ("access.jwt.prefix", prefix)));
        numbers.push(("access.jwt.clock_skew_s", jwt.clock_skew_s, 0, CLOCK_SKEW_MAX_S));
    }
    if let Some(audit) = audit {
        texts.push(("audit.file", &audit.file));
        numbers.push(("audit.bytes_max", audit.bytes_max, AUDIT_BYTES_LEAST, AUDIT_BYTES_LIMIT));
        numbers.push(("audit.hours_max", audit.hours_max, 1, AUDIT_HOURS_LIMIT));
        numbers.push(("audit.keep", audit.keep.into(), 0, AUDIT_KEEP_LIMIT));
    }
    for (key, text) in texts {
        if text.trim().is_empty() {
            problems.push(format!("`{key}` is empty: fill it in, or leave its section out"));
        }
    }
    for (key, value, least, most) in numbers {
        if !(least..=most).contains(&value) {
            problems.push(format!("`{key}` is {value}: choose {least} to {most}"));
        }
    }
}

/// A path for one process: `{process}` replaced by its name, as `node-3` or `gateway-NAME`.
pub fn for_process(path: &str, process: &str) -> String {
    path.replace(PROCESS, process)
}
