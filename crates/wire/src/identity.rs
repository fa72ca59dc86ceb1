//! The cluster identity of a caller or a node. Each stream between them carries it in a header, and
//! the other side compares.

use crate::internal::v1::ClusterIdentity;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};

/// The header that carries the identity.
const HEADER: &str = "palisade-cluster-bin";
/// Most characters of a foreign name in a message.
const SHOWN_MAX: usize = 64;

/// The version of the protocol between gateways and nodes. The other side is refused if it speaks
/// another one. Version 0 was not said, and names each caller in full.
const PROTOCOL: u32 = 1;

impl ClusterIdentity {
    /// The identity of a process of this build, which speaks for no node.
    pub fn new(fingerprint: [u8; 16], cluster: String, shards: u32) -> ClusterIdentity {
        let fingerprint = fingerprint.to_vec();
        ClusterIdentity { fingerprint, cluster, shards, node: 0, protocol: PROTOCOL }
    }

    /// Puts the identity into the headers of a call or an answer.
    pub fn put(&self, headers: &mut MetadataMap) {
        headers.insert_bin(HEADER, MetadataValue::from_bytes(&self.encode_to_vec()));
    }

    /// The identity of the other side, if its headers have one.
    pub fn of(headers: &MetadataMap) -> Option<ClusterIdentity> {
        let bytes = headers.get_bin(HEADER)?.to_bytes().ok()?;
        ClusterIdentity::decode(bytes).ok()
    }

    /// The reason why `other` belongs to another cluster, or `None` if it does not. Node ids are
    /// not compared.
    pub fn differs(&self, other: Option<&ClusterIdentity>) -> Option<String> {
        match other {
            None => Some(
                "it does not say of which cluster it is: run the same version on both sides".into(),
            ),
            Some(other) if other.fingerprint == self.fingerprint => {
                (other.protocol != self.protocol).then(|| {
                    format!(
                        "it speaks protocol {} between gateways and nodes, and here it is {}: run \
                         the same version on both sides",
                        other.protocol, self.protocol
                    )
                })
            }
            Some(other) if other.cluster != self.cluster => {
                Some(format!("it is of cluster {}, and this is {}", other.shown(), self.shown()))
            }
            Some(other) if other.shards != self.shards => Some(format!(
                "it has cluster {} with {}, and here it has {}",
                self.shown(),
                other.counted(),
                self.counted()
            )),
            Some(_) => Some(format!(
                "it has other cluster-frozen settings of cluster {} (nodes, replicas or \
                 placement): give both sides the same cluster file",
                self.shown()
            )),
        }
    }

    fn shown(&self) -> String {
        format!("{:?}", self.cluster.chars().take(SHOWN_MAX).collect::<String>())
    }

    fn counted(&self) -> String {
        match self.shards {
            1 => "1 shard".into(),
            shards => format!("{shards} shards"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: &str, shards: u32, fingerprint: u8) -> ClusterIdentity {
        ClusterIdentity::new([fingerprint; 16], cluster.into(), shards)
    }

    #[test]
    fn it_travels_in_a_header() {
        let mut headers = MetadataMap::new();
        assert_eq!(ClusterIdentity::of(&headers), None);
        let said = identity("Müll\n", 4, 7);
        said.put(&mut headers);
        assert_eq!(ClusterIdentity::of(&headers), Some(said));
        headers.insert_bin(HEADER, MetadataValue::from_bytes(&[0xff; 9]));
        assert_eq!(ClusterIdentity::of(&headers), None);
    }

    #[test]
    fn each_difference_has_its_words() {
        let ours = identity("prod", 4, 1);
        assert_eq!(ours.differs(Some(&ClusterIdentity { node: 3, ..ours.clone() })), None);
        for (theirs, words) in [
            (None, "does not say"),
            (
                Some(identity("staging\u{1b}[2J", 4, 2)),
                r#"is of cluster "staging\u{1b}[2J", and this is "prod""#,
            ),
            (
                Some(identity("prod", 1, 2)),
                r#"cluster "prod" with 1 shard, and here it has 4 shards"#,
            ),
            (Some(identity("prod", 4, 2)), "the same cluster file"),
            (Some(ClusterIdentity { protocol: 0, ..ours.clone() }), "protocol 0"),
        ] {
            let why = ours.differs(theirs.as_ref()).expect("another cluster");
            assert!(why.contains(words), "{why}");
        }
    }
}
