//! The identity record of a store as bytes, and the refusal of a stranger. The same for every
//! engine.
//!
//! This module knows nothing of the place where the bytes are kept.

use crate::{Identity, StorageError};

/// Format version of everything in a data directory. It is raised when older code could misread
/// newer data:
///
/// - Code of version 1 took every directory for its node's first. It would vote and acknowledge
///   with a directory that replaced a lost one.
/// - Code of version 2 knows no journal. It would start with an empty log.
/// - Code of version 3 cannot read entries that name a caller by its number. It would end at each.
/// - Code of version 4 knows no tombstones. It would bring a destroyed replica back under its old
///   Raft id, with an empty log. Nor can it read the wish for members, in an entry or in an applied
///   record.
const FORMAT: u32 = 5;

/// `format u32 LE | node u64 LE | fingerprint [16]`
const IDENTITY_BYTES: usize = 4 + 8 + 16;

pub(crate) fn encode(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IDENTITY_BYTES);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&identity.node.to_le_bytes());
    bytes.extend_from_slice(&identity.fingerprint);
    bytes
}

/// Checks that `claimant` may use the store with this identity record. `place` names the store in
/// error messages.
pub(crate) fn check(stored: &[u8], claimant: &Identity, place: &str) -> Result<(), StorageError> {
    let Some((format, rest)) = stored.split_first_chunk::<4>() else {
        return Err(StorageError::Damaged(format!("{place}: its identity record is cut short")));
    };
    let format = u32::from_le_bytes(*format);
    if format != FORMAT {
        return Err(StorageError::Identity(format!(
            "{place} has format version {format}, and this build reads version {FORMAT}: start it \
             with a build of that version, or re-seed this node (see `palisade node --help`)"
        )));
    }
    let Some((node, fingerprint)) = rest.split_first_chunk::<8>() else {
        return Err(StorageError::Damaged(format!("{place}: its identity record is cut short")));
    };
    if fingerprint != claimant.fingerprint {
        return Err(StorageError::Identity(format!(
            "{place} belongs to a cluster with fingerprint {}, but the cluster file has \
             fingerprint {}: the data directory is another cluster's, or a frozen setting (cluster \
             name, shards, replicas, placement, node ids) was changed. Restore the cluster file, \
             or choose another data directory",
            hex(fingerprint),
            hex(&claimant.fingerprint)
        )));
    }
    let node = u64::from_le_bytes(*node);
    if node != claimant.node {
        return Err(StorageError::Identity(format!(
            "{place} belongs to node {node}, and this is node {}: two nodes may not share a data \
             directory. Start it with `--id {node}`, or choose another data directory",
            claimant.node
        )));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
