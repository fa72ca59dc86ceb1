//! The processes of a cluster, as their certificates name them: `palisade://prod/node/3` and
//! `palisade://prod/gateway/a`.
//!
//! A certificate of the inside has exactly one such name. The node decides about the rights of a
//! role.

use crate::certificate::Certificate;
use std::fmt::{self, Write};
use std::str::FromStr;

const SCHEME: &str = "palisade://";

/// A process of a cluster.
///
/// * Each role has one spelling, and nothing else parses. So equal texts are equal roles.
///
/// ```
/// use palisade_net::role::{Process, Role};
///
/// let role: Role = "palisade://prod/node/3".parse()?;
/// assert_eq!(role, Role { cluster: "prod".into(), process: Process::Node(3) });
/// assert_eq!(role.to_string(), "palisade://prod/node/3");
/// assert_eq!(role.process.to_string(), "node-3");
/// assert!("palisade://prod/node/03".parse::<Role>().is_err());
/// # Ok::<(), palisade_net::role::NotARole>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// The name of the cluster.
    pub cluster: String,
    /// The process in it.
    pub process: Process,
}

/// A process, whichever its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Process {
    /// The node with this id.
    Node(u64),
    /// The gateway of this name. Several gateways may share a name.
    Gateway(String),
}

/// Why something names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARole {
    /// The text has another form.
    #[error(
        "{0:?} names no process of a cluster: write palisade://CLUSTER/node/ID or \
         palisade://CLUSTER/gateway/NAME"
    )]
    Form(String),
    /// The certificate has no such name.
    #[error(
        "its certificate ({0}) names no process of a cluster: it needs one URI \
         palisade://CLUSTER/node/ID or palisade://CLUSTER/gateway/NAME among its alternative names"
    )]
    None(String),
    /// The certificate has several such names.
    #[error("its certificate names {0} processes of clusters: issue one for each")]
    Several(usize),
}

impl Role {
    /// The role that a certificate gives its owner.
    ///
    /// # Errors
    /// If it gives none, or several.
    pub fn of(certificate: &Certificate) -> Result<Role, NotARole> {
        let roles: Vec<&String> =
            certificate.uris.iter().filter(|uri| uri.starts_with(SCHEME)).collect();
        match roles[..] {
            [role] => role.parse(),
            [] => Err(NotARole::None(certificate.name().unwrap_or("without a name").to_owned())),
            _ => Err(NotARole::Several(roles.len())),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = Escaped(&self.cluster);
        match &self.process {
            Process::Node(id) => write!(f, "{SCHEME}{cluster}/node/{id}"),
            Process::Gateway(name) => write!(f, "{SCHEME}{cluster}/gateway/{}", Escaped(name)),
        }
    }
}

/// As in file names and messages: `node-3` or `gateway-NAME`.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Node(id) => write!(f, "node-{id}"),
            Process::Gateway(name) => write!(f, "gateway-{name}"),
        }
    }
}

impl FromStr for Role {
    type Err = NotARole;

    fn from_str(text: &str) -> Result<Role, NotARole> {
        let role = text.strip_prefix(SCHEME).and_then(|rest| {
            let mut parts = rest.split('/');
            let (cluster, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
            let process = match kind {
                "node" => Process::Node(name.parse().ok().filter(|id| *id > 0)?),
                "gateway" => Process::Gateway(unescape(name)?),
                _ => return None,
            };
            Some(Role { cluster: unescape(cluster)?, process })
        });
        // The comparison refuses other spellings of the same role, such as `node/03`, and parts
        // after it.
        role.filter(|role| role.to_string() == text).ok_or_else(|| NotARole::Form(text.to_owned()))
    }
}

/// A name in a URI: all but letters, digits, `-`, `.`, `_` and `~` as `%XX`, because a cluster may
/// have any name.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    f.write_char(char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

/// `None` if it is empty, or no text that [`Escaped`] writes.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (char::from(rest.next()?), char::from(rest.next()?));
                u8::try_from(high.to_digit(16)? << 4 | low.to_digit(16)?).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_comes_back_from_its_one_spelling() {
        for cluster in ["prod", "a b/c", "ünï", "%41"] {
            for process in [Process::Node(1), Process::Node(u64::MAX), Process::Gateway("é".into())]
            {
                let role = Role { cluster: cluster.into(), process };
                assert_eq!(role.to_string().parse(), Ok(role.clone()), "{role}");
            }
        }
        for bad in [
            "",
            "palisade://",
            "palisade:///node/1",
            "palisade://prod/node/0",
            "palisade://prod/node/01",
            "palisade://prod/node/+1",
            "palisade://prod/node/1/",
            "palisade://prod/node/1?x",
            "palisade://prod/gateway/",
            "palisade://prod/shard/1",
            "palisade://pr%6Fd/node/1",
            "palisade://prod%/node/1",
            "PALISADE://prod/node/1",
            "spiffe://prod/node/1",
        ] {
            assert!(bad.parse::<Role>().is_err(), "{bad}");
        }
    }
}
