//! The identity record of a store as bytes, and the refusal of a stranger. The same for every
//! engine.
//!
//! A store begins with the first of [`FORMATS`]. It is raised to a later one when a level of the
//! cluster brings bytes that the build before could misread. So until then the build before may open
//! the store again.
//!
//! This module knows nothing of the place where the bytes are kept.

use crate::{Identity, StorageError};
use std::ops::RangeInclusive;

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
/// - Code of version 5 knows no levels. It would end at the first entry or applied record that has
///   one. Nor can it read history in rows of many tenures.
///
/// This code reads and writes all of these. A store has the first one until it is raised.
pub const FORMATS: RangeInclusive<u32> = 5..=6;

/// `format u32 LE | node u64 LE | fingerprint [16]`
const IDENTITY_BYTES: usize = 4 + 8 + 16;

/// The record of a new store.
pub(crate) fn encode(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IDENTITY_BYTES);
    bytes.extend_from_slice(&FORMATS.start().to_le_bytes());
    bytes.extend_from_slice(&identity.node.to_le_bytes());
    bytes.extend_from_slice(&identity.fingerprint);
    bytes
}

/// Checks that `claimant` may use the store with this identity record. `place` names the store in
/// error messages.
pub(crate) fn check(stored: &[u8], claimant: &Identity, place: &str) -> Result<(), StorageError> {
    let (format, rest) = split(stored, place)?;
    if !FORMATS.contains(&format) {
        let (first, last) = FORMATS.into_inner();
        return Err(StorageError::Identity(format!(
            "{place} has format version {format}, and this build reads versions {first} to {last}: \
             start it with a build of that version, or re-seed this node (see `palisade node \
             --help`)"
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

/// The format after it was raised to this one, and the record with it if that is a later one.
///
/// # Panics
/// If this code does not know the format.
pub(crate) fn raised(
    stored: &[u8],
    format: u32,
    place: &str,
) -> Result<(u32, Option<Vec<u8>>), StorageError> {
    assert!(FORMATS.contains(&format), "format version {format} is not one of {FORMATS:?}");
    let (is, rest) = split(stored, place)?;
    let record = (format > is).then(|| [&format.to_le_bytes(), rest].concat());
    Ok((format.max(is), record))
}

/// The format of a store with this identity record.
pub(crate) fn format(stored: &[u8], place: &str) -> Result<u32, StorageError> {
    split(stored, place).map(|(format, _)| format)
}

/// The format, and the rest of the record.
fn split<'a>(stored: &'a [u8], place: &str) -> Result<(u32, &'a [u8]), StorageError> {
    let (format, rest) = stored.split_first_chunk().ok_or_else(|| {
        StorageError::Damaged(format!("{place}: its identity record is cut short"))
    })?;
    Ok((u32::from_le_bytes(*format), rest))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_is_not_known_is_refused_with_those_that_are() {
        let identity = Identity { fingerprint: [7; 16], node: 3 };
        let stored = encode(&identity);
        assert_eq!(stored[..4], 5_u32.to_le_bytes(), "the build before opens a new store");
        let (now, record) = raised(&stored, 6, "it").unwrap();
        let record = record.expect("a later format");
        assert_eq!((now, &record[..4], &record[4..]), (6, &6_u32.to_le_bytes()[..], &stored[4..]));
        assert!(check(&record, &identity, "it").is_ok());
        for format in [4_u32, 7] {
            let other = [&format.to_le_bytes(), &stored[4..]].concat();
            let refused = check(&other, &identity, "it").unwrap_err().to_string();
            let expected =
                format!("it has format version {format}, and this build reads versions 5 to 6");
            assert!(refused.starts_with(&expected), "{refused}");
        }
    }
}
