//! The record of the position that a checkpoint stands at: index, term and members, and the wish for
//! members if there is one.

use crate::parts::group::{Wanted, WantedError};
use raft::eraftpb::SnapshotMetadata;
use raft_prost::Message as _;

/// Bytes that are no applied record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppliedError {
    #[error("{0}")]
    Wanted(#[from] WantedError),
    #[error("{0}")]
    Position(#[from] raft_prost::DecodeError),
}

/// Encodes a position, after the wish if there is one. No position begins with the first byte of a
/// wish, because Protocol Buffers have no field 0.
pub(crate) fn encode_applied(position: &SnapshotMetadata, wanted: Option<&Wanted>) -> Vec<u8> {
    let mut bytes = wanted.map(Wanted::encode).unwrap_or_default();
    bytes.extend(position.encode_to_vec());
    bytes
}

/// Decodes an applied record.
///
/// # Errors
/// If the bytes are damaged.
pub(crate) fn decode_applied(
    bytes: &[u8],
) -> Result<(SnapshotMetadata, Option<Wanted>), AppliedError> {
    let (wanted, position) = Wanted::decode_before(bytes)?;
    Ok((SnapshotMetadata::decode(position)?, wanted))
}
