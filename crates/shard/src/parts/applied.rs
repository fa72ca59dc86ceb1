//! The record of the position that a checkpoint stands at: index, term and members, and what the
//! group keeps of itself.

use crate::parts::group::WantedError;
use crate::parts::kept::Kept;
use raft::eraftpb::SnapshotMetadata;
use raft_prost::Message as _;

/// Bytes that are no applied record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppliedError {
    #[error("{0}")]
    Kept(#[from] WantedError),
    #[error("{0}")]
    Position(#[from] raft_prost::DecodeError),
}

/// Encodes a position, after what the group keeps. No position begins with the first byte of that,
/// because Protocol Buffers have no field 0.
pub(crate) fn encode_applied(position: &SnapshotMetadata, kept: &Kept) -> Vec<u8> {
    let mut bytes = kept.encode();
    bytes.extend(position.encode_to_vec());
    bytes
}

/// Decodes an applied record.
///
/// # Errors
/// If the bytes are damaged.
pub(crate) fn decode_applied(bytes: &[u8]) -> Result<(SnapshotMetadata, Kept), AppliedError> {
    let (kept, position) = Kept::decode_before(bytes)?;
    Ok((SnapshotMetadata::decode(position)?, kept))
}
