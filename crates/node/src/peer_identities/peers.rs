//! The knowledge that this node has of one peer's data directory.

use crate::lineage::{Known, StoreId};
use routing::NodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use storage::StorageError;

/// A peer that was heard within this time, in milliseconds, is alive. A living peer sends a frame
/// every second.
pub(crate) const ALIVE_MS: u64 = 4_000;

/// `incarnation u32 LE | store u64 LE`, and in later versions also `boot u64 LE | life u64 LE |
/// record u64 LE`.
const PEER_BYTES: usize = FORMER_PEER_BYTES + 3 * 8;
const FORMER_PEER_BYTES: usize = 4 + 8;

/// A peer's former directory is in use, so no other directory may take its place.
#[derive(Debug, thiserror::Error)]
#[error(
    "node {peer} is running with its former data directory (it was heard of {ago_ms} ms ago), and a re-seed would take \
     its votes away: stop that process first, and start it again if its directory is sound. If it runs and cannot be \
     stopped, add --force to --reseed"
)]
pub(crate) struct StillAlive {
    peer: NodeId,
    /// The time since the peer was last heard, in milliseconds.
    ago_ms: u64,
}

/// One run of a peer, as far as this node heard of it. The tasks that hear the peer share it, and
/// take no lock for a frame.
///
/// * `record` never falls.
/// * Once `ended`, no frame of the run counts.
#[derive(Debug)]
pub(crate) struct PeerRun {
    id: StoreId,
    boot: u64,
    life: u64,
    record: AtomicU64,
    /// Time on this node's clock; 0 means that the run was not heard since this node started.
    heard_ms: AtomicU64,
    ended: AtomicBool,
}

/// * `stored` is the part of the knowledge that is on disk.
/// * `told` is a later run of the same directory than `live`: other peers have heard of it, but
///   this node has not.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stored: Known,
    pub(super) live: Arc<PeerRun>,
    pub(super) told: Option<Known>,
}

impl Peer {
    /// A peer as it was read from disk at the start.
    pub(super) fn found(known: Known) -> Peer {
        Peer { stored: known, live: Arc::new(PeerRun::new(known)), told: None }
    }

    /// A peer with a directory that may be an older one on purpose. The name of the directory still
    /// counts, and its progress does not. This is on disk with the next
    /// [`keep`](super::PeerIdentities::keep).
    pub(super) fn put_back(stored: Known) -> Peer {
        let known = Known { boot: 0, life: 0, record: 0, ..stored };
        Peer { stored, ..Peer::found(known) }
    }
}

impl PeerRun {
    pub(super) fn new(known: Known) -> PeerRun {
        let Known { id, boot, life, record } = known;
        let (record, heard_ms, ended) =
            (AtomicU64::new(record), AtomicU64::new(0), AtomicBool::new(false));
        PeerRun { id, boot, life, record, heard_ms, ended }
    }

    pub(super) fn known(&self) -> Known {
        Known {
            id: self.id,
            boot: self.boot,
            life: self.life,
            record: self.record.load(Ordering::Relaxed),
        }
    }

    /// Notes that the run sent a frame, and that its journal has `record` on disk. `false` means
    /// that another run of the node has been accepted since, so this node ignores the frame.
    pub(crate) fn heard(&self, record: u64, now_ms: u64) -> bool {
        self.raise(record);
        self.heard_ms.store(now_ms.max(1), Ordering::Relaxed);
        !self.ended.load(Ordering::Acquire)
    }

    /// Raises the record to the one that other peers have heard of.
    pub(super) fn raise(&self, record: u64) {
        self.record.fetch_max(record, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Refuses a directory that would take the place of one in use.
    ///
    /// # Errors
    /// [`StillAlive`], unless `forced`.
    pub(super) fn check_silent(
        &self,
        peer: NodeId,
        forced: bool,
        now_ms: u64,
    ) -> Result<(), StillAlive> {
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        let ago_ms = now_ms.saturating_sub(heard_ms);
        if forced || heard_ms == 0 || ago_ms >= ALIVE_MS {
            return Ok(());
        }
        Err(StillAlive { peer, ago_ms })
    }
}

pub(super) fn record_name(peer: NodeId) -> Vec<u8> {
    format!("peer {peer}").into_bytes()
}

pub(super) fn encode(known: &Known) -> Vec<u8> {
    let mut bytes = known.id.incarnation.to_le_bytes().to_vec();
    [known.id.store, known.boot, known.life, known.record]
        .iter()
        .for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Known, StorageError> {
    let damaged = || StorageError::Damaged(format!("{} bytes do not name a store", bytes.len()));
    let mut padded = [0; PEER_BYTES];
    match bytes.len() {
        PEER_BYTES | FORMER_PEER_BYTES => padded[..bytes.len()].copy_from_slice(bytes),
        _ => return Err(damaged()),
    }
    let (incarnation, rest) = padded.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (words, _) = rest.as_chunks::<8>();
    let [store, boot, life, record] = [0, 1, 2, 3].map(|at| u64::from_le_bytes(words[at]));
    Ok(Known {
        id: StoreId { incarnation: u32::from_le_bytes(*incarnation), store },
        boot,
        life,
        record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_are_none_are_damage() {
        let known = Known {
            id: StoreId { incarnation: 3, store: u64::MAX },
            boot: 5,
            life: 1 << 63,
            record: 7,
        };
        let bytes = encode(&known);
        assert_eq!(decode(&bytes).expect("own bytes"), known);
        let former = decode(&bytes[..FORMER_PEER_BYTES]).expect("bytes of an earlier version");
        assert_eq!(former, Known { boot: 0, life: 0, record: 0, ..known });
        for bytes in [&[][..], &[0; 11], &[0; 13], &[0; 35], &[0; 37]] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
