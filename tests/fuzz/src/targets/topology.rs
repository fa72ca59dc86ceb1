//! Proposals, states and deltas of the topology, as they are in a log, on a disk and on the wire.

use ::topology::{Delta, Proposal, Seed, Topology};
use routing::ClusterConfig;
use std::sync::LazyLock;

/// The bytes before the checksum, and the first byte after it.
const KIND_AT: usize = 1;
const CRC_AT: usize = 2;
const BODY_AT: usize = 6;
/// Wall time, in seconds.
const NOW_S: u64 = 1_700_000_000;

/// A topology of five nodes and four shards.
pub(crate) static FOUNDED: LazyLock<Topology> = LazyLock::new(|| {
    let seed = Seed::of(&ClusterConfig::dev(4, 5, 20_000).expect("valid"));
    let mut topology = Topology::default();
    let bootstrap = ::topology::Command::Bootstrap { seed };
    topology.apply(&Proposal::new(NOW_S, bootstrap)).expect("founded");
    topology
});

/// Decodes a command and applies it. It changes all it has to, or nothing.
pub(super) fn proposal(bytes: &[u8]) -> bool {
    let bytes = mended(bytes);
    let Ok(proposal) = Proposal::decode(&bytes) else { return false };
    assert_eq!(proposal.encode(), bytes, "does not come back the same");
    for before in [&Topology::default(), &*FOUNDED] {
        let mut topology = before.clone();
        match topology.apply(&proposal) {
            Ok(Some(delta)) => {
                assert_eq!(topology.check(), Ok(()));
                let mut copy = before.clone();
                copy.follow(&delta).expect("it follows");
                assert_eq!(copy.encode(), topology.encode());
            }
            Ok(None) | Err(_) => assert_eq!(&topology, before),
        }
    }
    true
}

/// Decodes a state.
pub(super) fn topology_state(bytes: &[u8]) -> bool {
    let bytes = mended(bytes);
    let Ok(topology) = Topology::decode(&bytes) else { return false };
    assert_eq!(topology.encode(), bytes, "does not come back the same");
    assert_eq!(topology.check(), Ok(()));
    true
}

/// Decodes a delta and follows it.
pub(super) fn topology_delta(bytes: &[u8]) -> bool {
    let bytes = mended(bytes);
    let Ok(delta) = Delta::decode(&bytes) else { return false };
    assert_eq!(delta.encode(), bytes, "does not come back the same");
    let mut topology = FOUNDED.clone();
    let followed = topology.follow(&delta);
    assert!(followed.is_err() || topology.version() == delta.version.max(FOUNDED.version()));
    true
}

/// The bytes with a right checksum, so that those behind it are read at all.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= BODY_AT {
        let kind = crc32c::crc32c(&bytes[KIND_AT..CRC_AT]);
        let crc = crc32c::crc32c_append(kind, &bytes[BODY_AT..]);
        bytes[CRC_AT..BODY_AT].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}
