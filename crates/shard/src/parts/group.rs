//! The members that a group shall have: the wish of the host, kept in the group's own log.
//!
//! A wish reaches a leader as [`Input::Want`](crate::Input::Want). The leader puts it into the log
//! as an entry of a kind of its own. So the next leader goes on with it, and a leader that was away
//! cannot act on an older one. It outlives cuts of the log, because each checkpoint and each
//! snapshot has it.
//!
//! ```text
//! +------+------------+---------+---------+-----------------------+
//! | kind | CRC-32C    | version | count   | count × Raft's id     |
//! | 1 B  | 4 bytes LE | 8 bytes | 4 bytes | 8 bytes each          |
//! +------+------------+---------+---------+-----------------------+
//!                     |<------------ covered by the CRC --------->|
//! ```
//!
//! The first byte tells such an entry from a batch of commands, which begins with 1. The same bytes
//! stand before the position in an applied record, and in the context of a snapshot's header
//! (`parts/kept.rs`). A group that never had a wish writes nothing there.
//!
//! This knows nothing of the changes that follow from a wish (`parts/membership.rs`).

use crate::raft::peer_id::{incarnation_of, node_of, peer_id};
use routing::NodeId;
use std::collections::BTreeMap;

/// The first byte of an entry with a wish, where a batch of commands has its version.
pub(crate) const KIND: u8 = 2;

const CRC_AT: usize = 1;
const BODY_AT: usize = CRC_AT + 4;
const COUNT_AT: usize = BODY_AT + 8;
const IDS_AT: usize = COUNT_AT + 4;

/// A wish that cannot be, or bytes that are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WantedError(pub(crate) &'static str);

/// The members that a group shall have.
///
/// * It has at least one member, and one at most on each node.
///
/// ```
/// use palisade_shard::Wanted;
/// use routing::NodeId;
///
/// let before = Wanted::new(7, [(NodeId(1), 0), (NodeId(2), 0), (NodeId(3), 0)]).unwrap();
/// // Node 3 is gone for good. Node 4 takes its place, with a birth that it has never had.
/// let after = Wanted::new(8, [(NodeId(1), 0), (NodeId(2), 0), (NodeId(4), 1_767_225_600)]).unwrap();
/// assert!(after.supersedes(Some(&before)) && !before.supersedes(Some(&after)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    version: u64,
    members: BTreeMap<NodeId, u32>,
}

impl Wanted {
    /// A wish of this version, for a replica on each of these nodes with its birth.
    ///
    /// # Errors
    /// If there is no member, a node twice, or a node whose number a cluster file does not allow.
    pub fn new(
        version: u64,
        members: impl IntoIterator<Item = (NodeId, u32)>,
    ) -> Result<Wanted, WantedError> {
        let mut wanted = Wanted { version, members: BTreeMap::new() };
        for (node, birth) in members {
            if node.0 == 0 || node.0 > u64::from(u32::MAX) {
                return Err(WantedError("a wish for a node that cannot be"));
            }
            if wanted.members.insert(node, birth).is_some() {
                return Err(WantedError("a wish for two members on one node"));
            }
        }
        match wanted.members.is_empty() {
            true => Err(WantedError("a wish for no members")),
            false => Ok(wanted),
        }
    }

    /// The version of the wish. A later wish has a higher one.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The node of each member, with the birth of the replica there.
    pub fn members(&self) -> &BTreeMap<NodeId, u32> {
        &self.members
    }

    /// Whether a group that has `known` takes this wish: it is of a higher version, or of the same
    /// one with higher births on the same nodes.
    pub fn supersedes(&self, known: Option<&Wanted>) -> bool {
        let Some(known) = known else { return true };
        let is_later = self.version > known.version;
        let is_reborn = || {
            self.version == known.version
                && self != known
                && self.members.keys().eq(known.members.keys())
                && self.members.values().zip(known.members.values()).all(|(own, of)| own >= of)
        };
        is_later || is_reborn()
    }

    /// The bytes of the entry, in the module's layout.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(KIND)
    }

    /// The same bytes for a list of another kind.
    pub(crate) fn encode_as(&self, kind: u8) -> Vec<u8> {
        let mut bytes = vec![0; COUNT_AT];
        bytes[0] = kind;
        bytes[BODY_AT..COUNT_AT].copy_from_slice(&self.version.to_le_bytes());
        bytes.extend((self.members.len() as u32).to_le_bytes());
        for (node, birth) in &self.members {
            bytes.extend(peer_id(*node, *birth).to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[BODY_AT..]);
        bytes[CRC_AT..BODY_AT].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// If any byte is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Wanted, WantedError> {
        match Wanted::decode_before(bytes)? {
            (Some(wanted), []) => Ok(wanted),
            (Some(_), _) => Err(WantedError("bytes after a wish")),
            (None, _) => Err(WantedError("not a wish")),
        }
    }

    /// Decodes the wish before other bytes, if there is one, and returns those bytes.
    ///
    /// # Errors
    /// If any byte of the wish is wrong.
    pub(crate) fn decode_before(bytes: &[u8]) -> Result<(Option<Wanted>, &[u8]), WantedError> {
        Wanted::decode_as(KIND, bytes)
    }

    /// The same for a list of another kind.
    pub(crate) fn decode_as(
        kind: u8,
        bytes: &[u8],
    ) -> Result<(Option<Wanted>, &[u8]), WantedError> {
        if bytes.first() != Some(&kind) {
            return Ok((None, bytes));
        }
        let cut_off = WantedError("a wish that is cut off");
        let crc = u32::from_le_bytes(fixed(bytes, CRC_AT).ok_or(cut_off)?);
        let version = u64::from_le_bytes(fixed(bytes, BODY_AT).ok_or(cut_off)?);
        let count = u32::from_le_bytes(fixed(bytes, COUNT_AT).ok_or(cut_off)?) as usize;
        let end = count.checked_mul(8).and_then(|ids| ids.checked_add(IDS_AT)).ok_or(cut_off)?;
        let (wish, rest) = bytes.split_at_checked(end).ok_or(cut_off)?;
        if crc != crc32c::crc32c(&wish[BODY_AT..]) {
            return Err(WantedError("a wish whose checksum does not match"));
        }
        let ids = wish[IDS_AT..].as_chunks().0.iter().map(|id| u64::from_le_bytes(*id));
        if !ids.clone().map(node_of).is_sorted() {
            return Err(WantedError("a wish whose members do not rise"));
        }
        let wanted = Wanted::new(version, ids.map(|id| (node_of(id), incarnation_of(id))))?;
        Ok((Some(wanted), rest))
    }
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(version: u64, members: &[(u64, u32)]) -> Wanted {
        Wanted::new(version, members.iter().map(|(node, birth)| (NodeId(*node), *birth)))
            .expect("a wish that can be")
    }

    #[test]
    fn a_wish_is_read_as_it_was_written_and_any_changed_byte_is_found() {
        let wish = wanted(u64::MAX, &[(1, 0), (2, u32::MAX), (u64::from(u32::MAX), 7)]);
        let bytes = wish.encode();
        assert_eq!(Wanted::decode(&bytes), Ok(wish.clone()));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Wanted::decode(&damaged).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Wanted::decode(&bytes[..at]).is_err(), "cut off after {at}");
        }
        let more = [&bytes[..], &[9]].concat();
        assert!(Wanted::decode(&more).is_err());
        assert_eq!(Wanted::decode_before(&more), Ok((Some(wish), &[9][..])));
        assert_eq!(Wanted::decode_before(&[10, 9]), Ok((None, &[10, 9][..])), "no wish was ever");
    }

    /// Regression: such a wish was taken, and its bytes did not come back the same. A checkpoint of it
    /// would have differed from the entry.
    #[test]
    fn a_wish_with_members_in_another_order_is_refused() {
        let mut bytes = wanted(7, &[(1, 0), (2, 4)]).encode();
        bytes[IDS_AT..].rotate_left(8);
        let crc = crc32c::crc32c(&bytes[BODY_AT..]);
        bytes[CRC_AT..BODY_AT].copy_from_slice(&crc.to_le_bytes());
        assert!(Wanted::decode(&bytes).is_err());
    }

    #[test]
    fn a_wish_that_cannot_be_is_refused() {
        let none: [(NodeId, u32); 0] = [];
        assert!(Wanted::new(1, none).is_err());
        assert!(Wanted::new(1, [(NodeId(1), 0), (NodeId(1), 4)]).is_err());
        assert!(Wanted::new(1, [(NodeId(0), 0)]).is_err());
        assert!(Wanted::new(1, [(NodeId(1 << 32), 0)]).is_err());
    }

    #[test]
    fn a_later_wish_is_taken_and_no_older_one() {
        let known = wanted(5, &[(1, 0), (2, 4)]);
        let taken = |wish: Wanted| wish.supersedes(Some(&known));
        assert!(known.supersedes(None));
        assert!(taken(wanted(6, &[(3, 0)])) && taken(wanted(6, &[(1, 0), (2, 1)])));
        assert!(taken(wanted(5, &[(1, 0), (2, 5)])), "a replica there was born again");
        assert!(!taken(known.clone()) && !taken(wanted(4, &[(1, 9), (2, 9)])));
        assert!(!taken(wanted(5, &[(1, 9), (2, 3)])), "one birth fell");
        assert!(!taken(wanted(5, &[(1, 9), (3, 9)])), "other nodes");
    }
}
