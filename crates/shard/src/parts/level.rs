//! The level of a group: which formats and commands may stand in its log and its records.
//!
//! The topology activates a level for the whole cluster, and each node hears of that at its own
//! time. How it goes wrong if each replica goes by what its node has heard:
//!
//! 1. Level 2 is active. Node 1 has heard of it, and nodes 2 and 3 have not.
//! 2. All apply entry 50. The replica on node 1 writes its checkpoint of it in the form of level 2,
//!    and those on nodes 2 and 3 in that of level 1.
//! 3. Equal states have different bytes, so no hash or snapshot can be compared any more. And if the
//!    command in entry 50 is one of level 2, the replicas on nodes 2 and 3 cannot apply it at all.
//!
//! So the change-over is an entry in the group's own log. The leader proposes it once its node has
//! heard of the level. From that entry on the group has reached the level, on every replica:
//!
//! ```text
//! +------+------------+---------------+
//! | kind | CRC-32C    | level         |     the entry
//! | 1 B  | 4 bytes LE | 4 bytes LE    |
//! +------+------------+---------------+---------------------------+
//! | kind | CRC-32C    | level         | last change of members    |     in an applied record, and in
//! | 1 B  | 4 bytes LE | 4 bytes LE    | 8 bytes LE: its index     |     a snapshot (`parts/kept.rs`)
//! +------+------------+---------------+---------------------------+
//!                     |<----- covered by the CRC ---------------->|
//! ```
//!
//! The record of a group below level 2 is as if there were no levels, so a build that knows none can
//! go on from it.
//!
//! This knows nothing of the topology, and of the way by which a level reaches the host.

use crate::parts::group::WantedError;
use topology::{FIRST_LEVEL, Levels};

/// The first byte of the entry, and of the record.
pub(crate) const KIND: u8 = 5;
/// The level that brought both.
const BROUGHT_BY: u32 = 2;

const CRC_AT: usize = 1;
const BODY_AT: usize = CRC_AT + 4;
const ENTRY_BYTES: usize = BODY_AT + 4;
const RECORD_BYTES: usize = ENTRY_BYTES + 8;

/// The level that a group has reached by an entry of its log.
///
/// * The level is above the first one, because a group has that one without an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    pub level: u32,
    /// The index of the last change of members, or of the entry by which the group first reached a
    /// level with this record, if that is later.
    pub conf_index: u64,
}

impl Reached {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let conf_index = self.conf_index.to_le_bytes();
        framed(&[&self.level.to_le_bytes()[..], &conf_index].concat())
    }

    /// Decodes the record before other bytes, if there is one, and returns those bytes.
    ///
    /// # Errors
    /// If any byte of it is wrong.
    pub(crate) fn decode_before(bytes: &[u8]) -> Result<(Option<Reached>, &[u8]), WantedError> {
        if bytes.first() != Some(&KIND) {
            return Ok((None, bytes));
        }
        let cut_off = WantedError("a level that is cut off");
        let (record, rest) = bytes.split_at_checked(RECORD_BYTES).ok_or(cut_off)?;
        let (level, conf_index) = body(record)?.split_first_chunk().ok_or(cut_off)?;
        let level = level_of(*level)?;
        let conf_index = u64::from_le_bytes(conf_index.try_into().map_err(|_| cut_off)?);
        Ok((Some(Reached { level, conf_index }), rest))
    }
}

/// The entry by which a group reaches a level.
pub(crate) fn entry(level: u32) -> Vec<u8> {
    framed(&level.to_le_bytes())
}

/// The level that a group reaches by this entry.
///
/// # Errors
/// If any byte is wrong.
pub(crate) fn decode(entry: &[u8]) -> Result<u32, WantedError> {
    if entry.len() != ENTRY_BYTES || entry[0] != KIND {
        return Err(WantedError("not a level"));
    }
    level_of(body(entry)?.try_into().map_err(|_| WantedError("not a level"))?)
}

/// Checks that an entry may be applied in a group that has reached level `group`, by a build with
/// these levels. No entry is applied above the group's level, but the one that raises it.
///
/// # Errors
/// What is wrong with the entry, and what to do.
pub(crate) fn check(entry: &[u8], group: u32, known: Levels) -> Result<(), String> {
    let kind = entry[0];
    let Some(needed) = brought_by(kind) else {
        return Err(format!(
            "it is of kind {kind}, which no level up to {} has: start the newer build that the \
             other nodes run",
            known.max
        ));
    };
    let reached = match kind {
        KIND => {
            let level = decode(entry).map_err(|error| error.to_string())?;
            known.check(level).map_err(|error| error.to_string())?;
            level.max(group)
        }
        _ => group,
    };
    if needed > reached {
        return Err(format!(
            "it is of level {needed}, and its group has reached level {reached}: keep the data \
             directory, and report this as a bug"
        ));
    }
    Ok(())
}

/// The level that brought entries of a kind, by their first byte: a batch of commands, a wish for
/// members, proposals of the topology, the founding of META, and a level.
fn brought_by(kind: u8) -> Option<u32> {
    match kind {
        1..=4 => Some(FIRST_LEVEL),
        KIND => Some(BROUGHT_BY),
        _ => None,
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&[KIND][..], &crc32c::crc32c(body).to_le_bytes(), body].concat()
}

fn body(framed: &[u8]) -> Result<&[u8], WantedError> {
    let (crc, body) = framed[CRC_AT..].split_at(BODY_AT - CRC_AT);
    match crc == crc32c::crc32c(body).to_le_bytes() {
        true => Ok(body),
        false => Err(WantedError("a level whose checksum does not match")),
    }
}

fn level_of(bytes: [u8; 4]) -> Result<u32, WantedError> {
    match u32::from_le_bytes(bytes) {
        level if level > FIRST_LEVEL => Ok(level),
        _ => Err(WantedError("a level that a group has without an entry")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::{founding, group};

    const KNOWN: Levels = Levels { min: 1, max: 2 };

    #[test]
    fn a_level_is_read_as_it_was_written_and_any_changed_byte_is_found() {
        let (entry, reached) = (entry(2), Reached { level: 2, conf_index: 7 });
        assert_eq!((decode(&entry), entry.len()), (Ok(2), ENTRY_BYTES));
        let record = reached.encode();
        let more = [&record[..], &[9]].concat();
        assert_eq!(Reached::decode_before(&more), Ok((Some(reached), &[9][..])));
        assert_eq!(Reached::decode_before(&[10, 9]), Ok((None, &[10, 9][..])), "below level 2");
        for bytes in [&entry, &record] {
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 1 << bit;
                    assert!(decode(&damaged).is_err(), "bit {bit} of byte {at}");
                    let read = Reached::decode_before(&damaged);
                    assert!(!matches!(read, Ok((Some(_), _))), "bit {bit} of byte {at}");
                }
                assert!(decode(&bytes[..at]).is_err(), "cut off after {at}");
            }
        }
        assert!(decode(&super::entry(1)).is_err(), "it needs no entry");
    }

    #[test]
    fn no_entry_is_applied_above_the_level_of_its_group() {
        for kind in [1, group::KIND, 3, founding::KIND] {
            assert_eq!(check(&[kind], 1, KNOWN), Ok(()), "kind {kind}");
        }
        assert_eq!(check(&entry(2), 1, KNOWN), Ok(()), "it raises the group");
        assert_eq!(check(&entry(2), 2, KNOWN), Ok(()), "two leaders proposed it");
        let later = check(&entry(3), 2, KNOWN).unwrap_err();
        assert_eq!(later, "level 3 is active, this build knows 1 to 2: start the newer one");
        let unknown = check(&[6], 2, KNOWN).unwrap_err();
        assert!(unknown.contains("start the newer build"), "{unknown}");
        let mut damaged = entry(2);
        damaged[CRC_AT] ^= 1;
        assert!(check(&damaged, 2, KNOWN).is_err());
    }
}
