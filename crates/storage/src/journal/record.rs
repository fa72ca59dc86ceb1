//! The bytes of the journal's records. This module knows nothing of files.
//!
//! A record holds the log parts of the writes of one call:
//!
//! ```text
//! record: body_bytes u32 | crc u32 | number u64 | body, padded with zeros to a multiple of 8
//! body:   parts, then an end (flags 0, or no room for a part)
//! part:   flags u8 | shard u32 | [delete_after u64] | [bytes u32 | hard state]
//!         | [count u32 | first index u64 | entries]
//! entry:  bytes u32 | sealed value, as the database would hold it
//! ```
//!
//! All numbers are little-endian. The checksum (CRC-32C) covers the whole record except itself. It
//! begins with a salt that is drawn anew each time a file becomes a segment. So neither a record of
//! the file's earlier use, nor bytes chosen by a client, are ever taken for a record.

use crate::{ShardWrite, keys};
use routing::ShardId;

pub(super) const HEADER_BYTES: usize = 16;
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;

const DELETES: u8 = 1;
const HARD_STATE: u8 = 2;
const ENTRIES: u8 = 4;
const PART_BYTES_MIN: usize = 1 + 4;

/// The part of a write that goes into a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub shard: ShardId,
    pub delete_after: Option<u64>,
    pub hard_state: Option<&'a [u8]>,
    pub entries: &'a [(u64, Vec<u8>)],
}

impl<'a> Part<'a> {
    pub(crate) fn of(write: &'a ShardWrite) -> Self {
        let ShardWrite { shard, delete_after, hard_state, entries, .. } = write;
        Part {
            shard: *shard,
            delete_after: *delete_after,
            hard_state: hard_state.as_deref(),
            entries,
        }
    }

    pub(super) fn of_hard_state(shard: ShardId, bytes: &'a [u8]) -> Self {
        Part { shard, delete_after: None, hard_state: Some(bytes), entries: &[] }
    }

    fn flags(&self) -> u8 {
        let flag = |is: bool, flag| if is { flag } else { 0 };
        flag(self.delete_after.is_some(), DELETES)
            | flag(self.hard_state.is_some(), HARD_STATE)
            | flag(!self.entries.is_empty(), ENTRIES)
    }

    fn size_bytes(&self) -> usize {
        let entries =
            self.entries.iter().map(|(_, bytes)| 4 + keys::CRC_BYTES + bytes.len()).sum::<usize>();
        PART_BYTES_MIN
            + self.delete_after.map_or(0, |_| 8)
            + self.hard_state.map_or(0, |bytes| 4 + bytes.len())
            + if self.entries.is_empty() { 0 } else { 4 + 8 + entries }
    }
}

/// Size of a record of these parts, in bytes.
pub(super) fn size_bytes(parts: &[Part<'_>]) -> usize {
    (HEADER_BYTES + parts.iter().map(Part::size_bytes).sum::<usize>()).next_multiple_of(ALIGN)
}

/// Appends a record to `to`. Calls `each` with the index of each entry, and with offset in `to` and
/// length of its sealed value.
pub(crate) fn encode(
    to: &mut Vec<u8>,
    number: u64,
    salt: u32,
    parts: &[Part<'_>],
    mut each: impl FnMut(u64, usize, usize),
) {
    let start = to.len();
    to.extend_from_slice(&[0; 8]);
    to.extend_from_slice(&number.to_le_bytes());
    for part in parts {
        to.push(part.flags());
        to.extend_from_slice(&part.shard.0.to_le_bytes());
        if let Some(after) = part.delete_after {
            to.extend_from_slice(&after.to_le_bytes());
        }
        if let Some(bytes) = part.hard_state {
            put_length(to, bytes.len());
            to.extend_from_slice(bytes);
        }
        if let Some((first, _)) = part.entries.first() {
            put_length(to, part.entries.len());
            to.extend_from_slice(&first.to_le_bytes());
            for (index, bytes) in part.entries {
                put_length(to, keys::CRC_BYTES + bytes.len());
                each(*index, to.len(), keys::CRC_BYTES + bytes.len());
                to.extend_from_slice(
                    &keys::crc(&keys::log(part.shard, *index), bytes).to_le_bytes(),
                );
                to.extend_from_slice(bytes);
            }
        }
    }
    to.resize(start + (to.len() - start).next_multiple_of(ALIGN), 0);
    debug_assert_eq!(to.len() - start, size_bytes(parts));
    fix_checksum(&mut to[start..], salt);
}

/// Fills in the length and the checksum.
pub(crate) fn fix_checksum(record: &mut [u8], salt: u32) {
    let body_bytes =
        u32::try_from(record.len() - HEADER_BYTES).expect("a write is bounded far below 4 GiB");
    record[..4].copy_from_slice(&body_bytes.to_le_bytes());
    let crc = checksum(salt, record);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn put_length(to: &mut Vec<u8>, length: usize) {
    to.extend_from_slice(
        &u32::try_from(length).expect("a write is bounded far below 4 GiB").to_le_bytes(),
    );
}

/// Checksum of a whole record, header included.
fn checksum(salt: u32, record: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(salt, &record[..4]);
    crc32c::crc32c_append(crc, &record[8..])
}

/// A record with a correct checksum.
pub(crate) struct Record<'a> {
    pub number: u64,
    /// Size of the record with its header.
    pub size_bytes: usize,
    body: &'a [u8],
}

/// The record at the beginning of `bytes`, if there is one.
pub(crate) fn read(bytes: &[u8], salt: u32) -> Option<Record<'_>> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let number = u64::from_le_bytes(*header.last_chunk()?);
    let body_bytes = u32::from_le_bytes(*header.first_chunk()?) as usize;
    let whole = bytes.get(..HEADER_BYTES.checked_add(body_bytes)?)?;
    let stored = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let is_record =
        number > 0 && whole.len().is_multiple_of(ALIGN) && stored == checksum(salt, whole);
    is_record.then(|| Record { number, size_bytes: whole.len(), body: &whole[HEADER_BYTES..] })
}

/// The number that a record at the beginning of `bytes` would have. Its checksum is not checked.
pub(super) fn peek_number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.first_chunk::<HEADER_BYTES>()?.last_chunk()?))
}

/// A part of a stored record.
pub(crate) struct StoredPart<'a> {
    pub shard: ShardId,
    pub delete_after: Option<u64>,
    pub hard_state: Option<&'a [u8]>,
    /// Index of each entry, with offset in the record and length of its sealed value.
    pub entries: Vec<(u64, usize, usize)>,
}

impl<'a> Record<'a> {
    /// Decodes all parts, in order. `None` if the record is not of this format, although its
    /// checksum is correct.
    pub(crate) fn parts(&self) -> Option<Vec<StoredPart<'a>>> {
        let mut rest = self.body;
        let mut parts = Vec::new();
        while rest.len() >= PART_BYTES_MIN && rest[0] != 0 {
            let flags = take::<1>(&mut rest)?[0];
            let shard = ShardId(u32::from_le_bytes(*take(&mut rest)?));
            let mut part =
                StoredPart { shard, delete_after: None, hard_state: None, entries: Vec::new() };
            if flags & DELETES != 0 {
                part.delete_after = Some(u64::from_le_bytes(*take(&mut rest)?));
            }
            if flags & HARD_STATE != 0 {
                part.hard_state = Some(take_bytes(&mut rest)?);
            }
            if flags & ENTRIES != 0 {
                let count = u64::from(u32::from_le_bytes(*take(&mut rest)?));
                let first = u64::from_le_bytes(*take(&mut rest)?);
                for index in first..first.checked_add(count)? {
                    let sealed = take_bytes(&mut rest)?;
                    part.entries.push((
                        index,
                        self.size_bytes - rest.len() - sealed.len(),
                        sealed.len(),
                    ));
                }
            }
            (flags <= DELETES | HARD_STATE | ENTRIES).then(|| parts.push(part))?;
        }
        rest.iter().all(|byte| *byte == 0).then_some(parts)
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(taken)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(*take(rest)?) as usize;
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(number: u64, salt: u32) -> (Vec<u8>, Vec<(u64, usize, usize)>) {
        let entries = [(7, b"seven".to_vec()), (8, vec![]), (9, vec![9; 100])];
        let parts = [
            Part {
                shard: ShardId(3),
                delete_after: Some(6),
                hard_state: Some(b"hard"),
                entries: &entries,
            },
            Part { shard: ShardId(0), delete_after: None, hard_state: Some(b""), entries: &[] },
        ];
        let (mut bytes, mut places) = (vec![1, 2, 3], Vec::new());
        encode(&mut bytes, number, salt, &parts, |index, offset, length| {
            places.push((index, offset - 3, length))
        });
        (bytes.split_off(3), places)
    }

    #[test]
    fn an_encoded_record_is_read_back() {
        let (bytes, places) = encoded(42, 5);
        let record = read(&bytes, 5).expect("a record");
        assert_eq!((record.number, record.size_bytes), (42, bytes.len()));
        let parts = record.parts().expect("parts");
        let shown: Vec<_> =
            parts.iter().map(|part| (part.shard.0, part.delete_after, part.hard_state)).collect();
        assert_eq!(shown, [(3, Some(6), Some(&b"hard"[..])), (0, None, Some(&b""[..]))]);
        assert_eq!(parts[0].entries, places);
        let (index, offset, length) = places[0];
        let sealed = &bytes[offset..offset + length];
        assert_eq!(
            keys::unseal(&keys::log(ShardId(3), index), sealed, String::new).expect("sealed"),
            b"seven"
        );
    }

    #[test]
    fn a_changed_or_cut_record_or_one_of_another_salt_is_none() {
        let (bytes, _) = encoded(42, 5);
        assert!(read(&bytes, 6).is_none(), "another salt");
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], 5).is_none(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed, 5).is_none(), "bit {bit}");
        }
        assert!(read(&[0; 64], 0).is_none(), "an empty file holds no records, whatever its salt");
    }

    /// Bytes on disk outlive the code. A change here needs a new format version.
    #[test]
    fn persisted_bytes_stay_as_they_are() {
        let entries = [(0x11, b"ab".to_vec())];
        let part = Part {
            shard: ShardId(0x0102),
            delete_after: Some(0x10),
            hard_state: Some(b"h"),
            entries: &entries,
        };
        let mut bytes = Vec::new();
        encode(&mut bytes, 9, 0, &[part], |_, _, _| ());
        let seal = keys::seal(&keys::log(ShardId(0x0102), 0x11), b"ab");
        let body = [
            &[
                7, 2, 1, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'h', 1, 0, 0, 0, 0x11, 0, 0,
                0, 0, 0, 0, 0, 6, 0, 0, 0,
            ][..],
            &seal,
        ]
        .concat();
        assert_eq!(bytes[..4], [40, 0, 0, 0]);
        assert_eq!(bytes[8..16], [9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..], body[..]);
    }
}
