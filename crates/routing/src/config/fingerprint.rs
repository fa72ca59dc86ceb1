//! The hash on which two processes must agree to be of one cluster.
//!
//! It is SHA-256, cut to 16 bytes. A peer with another fingerprint is refused, so two
//! configurations must not have the same one by chance. A CRC does not promise that, and a
//! hash-table hash may change between versions.

use super::{ClusterConfig, Fingerprint};
use crate::ids::{NodeId, SLOTS};
use sha2::{Digest, Sha256};
use std::fmt;

/// Part of the hashed bytes. It changes when the set of hashed values, or their form, changes.
const FORMAT: &[u8] = b"palisade cluster 1";

impl ClusterConfig {
    /// The hash of the frozen part: see [`Fingerprint`].
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        // Every text and list is preceded by its length, so that no two configurations give the
        // same bytes.
        let mut number = |value: u64| hash.update(value.to_le_bytes());
        number(u64::from(SLOTS));
        number(u64::from(self.shards));
        number(u64::from(self.replicas));
        let mut ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        ids.sort();
        number(ids.len() as u64);
        ids.iter().for_each(|id| number(id.0));
        for (shard, replicas) in self.shard_map().shards() {
            number(u64::from(shard.0));
            number(replicas.preferred_leader.0);
            let mut nodes = replicas.nodes.clone();
            nodes.sort();
            number(nodes.len() as u64);
            nodes.iter().for_each(|id| number(id.0));
        }
        for text in [FORMAT, self.cluster.as_bytes()] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let digest = hash.finalize();
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&digest[..16]);
        Fingerprint(fingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
