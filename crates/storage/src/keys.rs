//! The persisted layout: column families, keys and sealed values, all in one place.
//!
//! - A key begins with its shard, so that no range of one shard reaches into another's.
//! - Keys sort as their contents do.
//! - Every value carries a CRC-32C over its key and its bytes. This finds a flipped bit, and also a
//!   value that landed under another key.
//!
//! Tags and names are permanent: a retired one is never used again. This module knows nothing of
//! RocksDB.

use crate::StorageError;
use routing::ShardId;

/// Log entries that outlived their segment of the journal: `shard u32 BE | index u64 BE` -> sealed
/// entry.
pub(crate) const CF_LOG: &str = "log";
/// `shard u32 BE | tag | …` -> sealed record of the lock table, or the applied record.
pub(crate) const CF_STATE: &str = "state";
/// `shard u32 BE | day u32 BE | name | 0 | token u64 BE` -> sealed `index u64 LE | tenure`. From
/// format 6 on also what [`packed`](crate::packed) lays out.
pub(crate) const CF_HISTORY: &str = "history";
/// `shard u32 BE | tag` -> sealed record of a shard's log beside its entries; or, under [`NODE`], a
/// record of the whole node.
pub(crate) const CF_META: &str = "meta";

/// In `state`: a record of the lock table. The record's own key follows.
const TAG_TABLE: u8 = 1;
/// In `state`: the applied record.
const TAG_APPLIED: u8 = 2;
/// In `meta`: the hard state of a shard as of its last reset. A later one is in the journal.
const TAG_HARD_STATE: u8 = 1;
/// In `meta` under [`NODE`]: the identity of the store's owner.
const TAG_IDENTITY: u8 = 2;
/// In `meta` under [`NODE`]: the count of starts.
const TAG_BOOT: u8 = 3;
/// In `meta` under [`NODE`]: a record that the node keeps for itself. Its name follows.
const TAG_NODE_RECORD: u8 = 4;
/// In `meta`: the first record of the journal that counts for a shard. A reset has wiped the
/// records before it.
const TAG_JOURNAL_FROM: u8 = 5;
/// In `meta`: the index up to which the log entries of a shard are deleted.
const TAG_TRUNCATED: u8 = 6;
/// In `meta` under [`NODE`]: the oldest segment of the journal that counts.
const TAG_OLDEST_SEGMENT: u8 = 7;
/// In `meta`: the birth of the replica that is hosted, `u32 LE`. It is on disk before the replica
/// has any data, and so before the replica says anything. Nothing of another life is here with it.
const TAG_BIRTH: u8 = 8;
/// In `meta`: the tombstone, which is the birth of the last replica that was destroyed here,
/// `u32 LE`. It came to disk in the batch that deleted all of that replica, and it stays. No replica
/// of this birth or a lower one is ever hosted again. Without a birth beside it, the node has no
/// data of the shard.
const TAG_TOMBSTONE: u8 = 9;

/// Stands in place of a shard id in records of the whole node. No shard has this number.
const NODE: ShardId = ShardId(u32::MAX);

const SHARD_BYTES: usize = 4;
pub(crate) const CRC_BYTES: usize = 4;

/// The first key of a shard, in any column family.
pub(crate) fn shard_start(shard: ShardId) -> Vec<u8> {
    assert!(shard < NODE, "shard {shard} is reserved for the node's own records");
    shard.0.to_be_bytes().to_vec()
}

/// The key just past the last one of a shard, in any column family.
pub(crate) fn shard_end(shard: ShardId) -> Vec<u8> {
    assert!(shard < NODE, "shard {shard} is reserved for the node's own records");
    (shard.0 + 1).to_be_bytes().to_vec()
}

fn tagged(shard: ShardId, tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(SHARD_BYTES + 1 + rest.len());
    key.extend_from_slice(&shard.0.to_be_bytes());
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

pub(crate) fn log(shard: ShardId, index: u64) -> [u8; SHARD_BYTES + 8] {
    let mut key = [0; SHARD_BYTES + 8];
    key[..SHARD_BYTES].copy_from_slice(&shard.0.to_be_bytes());
    key[SHARD_BYTES..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The shard that a key begins with.
pub(crate) fn shard(key: &[u8]) -> Option<ShardId> {
    Some(ShardId(u32::from_be_bytes(*key.first_chunk()?)))
}

/// The index in a log key.
pub(crate) fn log_index(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(SHARD_BYTES..)?.try_into().ok()?))
}

pub(crate) fn table(shard: ShardId, record: &[u8]) -> Vec<u8> {
    tagged(shard, TAG_TABLE, record)
}

/// The first key of a shard's table, and the key just past its last one.
pub(crate) fn table_range(shard: ShardId) -> (Vec<u8>, Vec<u8>) {
    (tagged(shard, TAG_TABLE, &[]), tagged(shard, TAG_TABLE + 1, &[]))
}

/// The record's own key in a table key.
pub(crate) fn table_record(key: &[u8]) -> Option<&[u8]> {
    key.get(SHARD_BYTES + 1..)
}

pub(crate) fn applied(shard: ShardId) -> Vec<u8> {
    tagged(shard, TAG_APPLIED, &[])
}

pub(crate) fn hard_state(shard: ShardId) -> Vec<u8> {
    tagged(shard, TAG_HARD_STATE, &[])
}

pub(crate) fn journal_from(shard: ShardId) -> Vec<u8> {
    tagged(shard, TAG_JOURNAL_FROM, &[])
}

pub(crate) fn truncated(shard: ShardId) -> Vec<u8> {
    tagged(shard, TAG_TRUNCATED, &[])
}

pub(crate) fn birth(shard: ShardId) -> Vec<u8> {
    tagged(shard, TAG_BIRTH, &[])
}

pub(crate) fn tombstone(shard: ShardId) -> Vec<u8> {
    tagged(shard, TAG_TOMBSTONE, &[])
}

/// For a key in `meta` that tells of a life: the shard, and what the birth stored there tells.
pub(crate) fn life(key: &[u8]) -> Option<(ShardId, LifeRecord)> {
    let (shard, tag) = key.split_first_chunk::<SHARD_BYTES>()?;
    let shard = ShardId(u32::from_be_bytes(*shard));
    match *tag {
        [TAG_BIRTH] if shard != NODE => Some((shard, LifeRecord::Birth)),
        [TAG_TOMBSTONE] if shard != NODE => Some((shard, LifeRecord::Tombstone)),
        _ => None,
    }
}

/// The meaning of a birth in `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LifeRecord {
    Birth,
    Tombstone,
}

/// Decodes a birth that is the value of a record.
pub(crate) fn birth_number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn oldest_segment() -> Vec<u8> {
    tagged(NODE, TAG_OLDEST_SEGMENT, &[])
}

/// Decodes a number that is the value of a record.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// For a key in `meta` that tells where a shard's log begins: the shard, and the unit of the number
/// stored there.
pub(crate) fn log_begin(key: &[u8]) -> Option<(ShardId, LogBegin)> {
    let (shard, tag) = key.split_first_chunk::<SHARD_BYTES>()?;
    let shard = ShardId(u32::from_be_bytes(*shard));
    match *tag {
        [TAG_JOURNAL_FROM] if shard != NODE => Some((shard, LogBegin::Record)),
        [TAG_TRUNCATED] if shard != NODE => Some((shard, LogBegin::Entry)),
        _ => None,
    }
}

/// Unit of a number in `meta` that tells where a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogBegin {
    Record,
    Entry,
}

pub(crate) fn identity() -> Vec<u8> {
    tagged(NODE, TAG_IDENTITY, &[])
}

pub(crate) fn boot() -> Vec<u8> {
    tagged(NODE, TAG_BOOT, &[])
}

pub(crate) fn node_record(name: &[u8]) -> Vec<u8> {
    tagged(NODE, TAG_NODE_RECORD, name)
}

/// The first history key of a day.
pub(crate) fn history_day(shard: ShardId, day: u32) -> Vec<u8> {
    let mut key = shard_start(shard);
    key.extend_from_slice(&day.to_be_bytes());
    key
}

/// The prefix of all history keys of a name on a day. A token follows it.
pub(crate) fn history_name(shard: ShardId, day: u32, name: &str) -> Vec<u8> {
    // Names have no control characters. Otherwise one name could be read as the beginning of
    // another's key.
    assert!(!name.as_bytes().contains(&0), "a resource name may not contain NUL: {name:?}");
    let mut key = Vec::with_capacity(SHARD_BYTES + 4 + name.len() + 1 + 8); // With room for a token.
    key.extend_from_slice(&shard_start(shard));
    key.extend_from_slice(&day.to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key
}

/// The key just past the last one that begins with this result of [`history_name`].
pub(crate) fn history_name_end(prefix: &[u8]) -> Vec<u8> {
    // The separator is 0, so the next prefix of the same length ends with 1. No name has a
    // character below that.
    let mut end = prefix.to_vec();
    if let Some(separator) = end.last_mut() {
        *separator = 1;
    }
    end
}

pub(crate) fn history(shard: ShardId, day: u32, name: &str, token: u64) -> Vec<u8> {
    let mut key = history_name(shard, day, name);
    key.extend_from_slice(&token.to_be_bytes());
    key
}

/// The parts of a history key after its shard.
pub(crate) struct HistoryKey<'a> {
    pub(crate) day: u32,
    pub(crate) name: &'a str,
    pub(crate) token: u64,
}

/// Parses a history key.
pub(crate) fn parse_history(key: &[u8]) -> Option<HistoryKey<'_>> {
    let day = u32::from_be_bytes(key.get(SHARD_BYTES..SHARD_BYTES + 4)?.try_into().ok()?);
    let (rest, token) = key.get(SHARD_BYTES + 4..)?.split_last_chunk::<8>()?;
    let (&separator, name) = rest.split_last()?;
    let name = std::str::from_utf8(name).ok()?;
    (separator == 0).then_some(HistoryKey { day, name, token: u64::from_be_bytes(*token) })
}

/// A value as stored: `crc32c(key, bytes) u32 LE | bytes`.
pub(crate) fn seal(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    seal_into(&mut value, key, [bytes, &[]]);
    value
}

/// The same for bytes in two parts, into a buffer that is used again.
pub(crate) fn seal_into(value: &mut Vec<u8>, key: &[u8], parts: [&[u8]; 2]) {
    let crc = parts.iter().fold(crc32c::crc32c(key), |crc, part| crc32c::crc32c_append(crc, part));
    value.clear();
    value.reserve(CRC_BYTES + parts[0].len() + parts[1].len());
    value.extend_from_slice(&crc.to_le_bytes());
    parts.iter().for_each(|part| value.extend_from_slice(part));
}

/// Checks a sealed value and returns its bytes. `what` names the value in the error, for example
/// "shard 3, log entry 17".
pub(crate) fn unseal<'a>(
    key: &[u8],
    value: &'a [u8],
    what: impl FnOnce() -> String,
) -> Result<&'a [u8], StorageError> {
    match value.split_first_chunk::<CRC_BYTES>() {
        None => Err(StorageError::Damaged(format!(
            "{}: {} bytes are too few for a checksum",
            what(),
            value.len()
        ))),
        Some((stored, bytes)) => match (u32::from_le_bytes(*stored), crc(key, bytes)) {
            (stored, computed) if stored == computed => Ok(bytes),
            (stored, computed) => Err(StorageError::Damaged(format!(
                "{}: its checksum is {computed:08x} where {stored:08x} was written",
                what()
            ))),
        },
    }
}

/// The checksum that seals a value.
pub(crate) fn crc(key: &[u8], bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes on disk outlive the code. A change here needs a new format version and a way to read
    /// the old one.
    #[test]
    fn persisted_bytes_stay_as_they_are() {
        let shard = ShardId(0x01020304);
        assert_eq!(log(shard, 0x1122), [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0x11, 0x22]);
        assert_eq!(table(shard, b"k"), [1, 2, 3, 4, 1, b'k']);
        assert_eq!(applied(shard), [1, 2, 3, 4, 2]);
        assert_eq!(hard_state(shard), [1, 2, 3, 4, 1]);
        assert_eq!(identity(), [255, 255, 255, 255, 2]);
        assert_eq!(boot(), [255, 255, 255, 255, 3]);
        assert_eq!(node_record(b"n"), [255, 255, 255, 255, 4, b'n']);
        assert_eq!(journal_from(shard), [1, 2, 3, 4, 5]);
        assert_eq!(truncated(shard), [1, 2, 3, 4, 6]);
        assert_eq!(oldest_segment(), [255, 255, 255, 255, 7]);
        assert_eq!(birth(shard), [1, 2, 3, 4, 8]);
        assert_eq!(tombstone(shard), [1, 2, 3, 4, 9]);
        assert_eq!(birth_number(&[4, 3, 2, 1]), Some(0x01020304));
        assert_eq!(
            history(shard, 7, "ab", 9),
            [1, 2, 3, 4, 0, 0, 0, 7, b'a', b'b', 0, 0, 0, 0, 0, 0, 0, 0, 9]
        );
        // CRC-32C of "123456789" is the well-known check value 0xE3069283.
        assert_eq!(seal(b"1234", b"56789"), [0x83, 0x92, 0x06, 0xe3, b'5', b'6', b'7', b'8', b'9']);
    }

    #[test]
    fn a_history_key_parses_back_and_nonsense_does_not() {
        let key = history(ShardId(3), 20_000, "a/ü", u64::MAX);
        let parsed = parse_history(&key).expect("own key");
        assert_eq!((parsed.day, parsed.name, parsed.token), (20_000, "a/ü", u64::MAX));
        for cut in 0..history(ShardId(3), 20_000, "", 0).len() {
            assert!(parse_history(&key[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_sealed_value_opens_only_under_its_key_and_whole() {
        let sealed = seal(b"key", b"bytes");
        assert_eq!(unseal(b"key", &sealed, String::new).expect("intact"), b"bytes");
        assert!(unseal(b"kex", &sealed, String::new).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(b"key", &flipped, String::new).is_err(), "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert!(unseal(b"key", &sealed[..cut], String::new).is_err(), "cut at {cut}");
        }
    }
}
