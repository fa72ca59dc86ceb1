//! The persisted layout of history from format 6 on: rows of many tenures, and an index of their names.
//!
//! All keys are in the column family of history, behind those of single tenures (see [`keys`]): a
//! mark stands where those have their day.
//!
//! ```text
//! shard u32 BE | MARK | 1 | place                                        -> the tenures of an entry
//! shard u32 BE | MARK | 2 | day u32 BE | bucket u16 BE | index | token    -> names of many rows
//! shard u32 BE | MARK | 3                                                -> how far rows are named
//! ```
//!
//! A place is `day u32 BE | index u64 BE | token u64 BE`: of an entry, and of the first tenure in its
//! row. So rows sort as they are written, and nothing is sorted or merged for the sake of its name.
//! The key of names has the day, index and token of the first of their rows, with the bucket after the
//! day. A bucket that is written again under its key was read from that row on once more. So it names
//! what the former one named, or the rows that it leaves out are in the tail again.
//!
//! All values are sealed. This module knows nothing of RocksDB.

use crate::{HistoryRecord, StorageError, keys};
use routing::ShardId;

/// Stands in place of the day of a single tenure. No tenure has this day.
const MARK: u32 = u32::MAX;
/// The last day that history tells apart. Later ones are as this one.
pub(crate) const DAY_MAX: u32 = MARK - 1;
const ROW: u8 = 1;
const NAMES: u8 = 2;
const NAMED: u8 = 3;
/// Length of what all keys here begin with: shard, mark and kind.
const HEAD_BYTES: usize = 4 + 4 + 1;
pub(crate) const PLACE_BYTES: usize = 4 + 8 + 8;
/// A row takes no more tenures once it has so many bytes: a reader of one tenure reads its row.
const ROW_BYTES: usize = 64 << 10;
/// Buckets of an index, by the first bits of a name's hash.
const BUCKET_BITS: u32 = 10;

/// Of an entry, and of a tenure in it: `day | index | token`, all big-endian.
pub(crate) type Place = [u8; PLACE_BYTES];

pub(crate) fn place(day: u32, index: u64, token: u64) -> Place {
    let mut place = [0; PLACE_BYTES];
    place[..4].copy_from_slice(&day.to_be_bytes());
    place[4..12].copy_from_slice(&index.to_be_bytes());
    place[12..].copy_from_slice(&token.to_be_bytes());
    place
}

/// Day, index and token of a place.
pub(crate) fn parts(place: &Place) -> (u32, u64, u64) {
    let at = |from: usize| u64::from_be_bytes(place[from..from + 8].try_into().expect("8 bytes"));
    (u32::from_be_bytes(place[..4].try_into().expect("4 bytes")), at(4), at(12))
}

fn head(shard: ShardId, kind: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(HEAD_BYTES + PLACE_BYTES);
    key.extend_from_slice(&keys::shard_start(shard));
    key.extend_from_slice(&MARK.to_be_bytes());
    key.push(kind);
    key
}

/// The key of a row, or the first key of all rows at a place and after it.
pub(crate) fn row(shard: ShardId, place: &[u8]) -> Vec<u8> {
    let mut key = head(shard, ROW);
    key.extend_from_slice(place);
    key
}

/// The first key of a day's index, or of one of its buckets.
pub(crate) fn names(shard: ShardId, day: u32, bucket: Option<u16>) -> Vec<u8> {
    let mut key = head(shard, NAMES);
    key.extend_from_slice(&day.to_be_bytes());
    bucket.iter().for_each(|bucket| key.extend_from_slice(&bucket.to_be_bytes()));
    key
}

/// The key of the record that tells how far rows are named.
pub(crate) fn named(shard: ShardId) -> Vec<u8> {
    head(shard, NAMED)
}

/// What a key of this layout is of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Row(Place),
    /// With the lowest index of its rows.
    Names {
        day: u32,
        bucket: u16,
        base: u64,
    },
    Named,
}

/// Parses a key, of whatever shard. `None` for a key of a single tenure.
pub(crate) fn parse(key: &[u8]) -> Option<Key> {
    let (head, rest) = key.split_first_chunk::<HEAD_BYTES>()?;
    if head[4..8] != MARK.to_be_bytes() {
        return None;
    }
    match head[8] {
        ROW => Some(Key::Row(rest.try_into().ok()?)),
        NAMES => {
            let (day, rest) = rest.split_first_chunk()?;
            let (bucket, rest) = rest.split_first_chunk()?;
            let (base, token) = rest.split_first_chunk()?;
            (token.len() == 8).then_some(Key::Names {
                day: u32::from_be_bytes(*day),
                bucket: u16::from_be_bytes(*bucket),
                base: u64::from_be_bytes(*base),
            })
        }
        NAMED if rest.is_empty() => Some(Key::Named),
        _ => None,
    }
}

/// Whether the key belongs to this layout, or stands where only its keys do.
pub(crate) fn is_marked(key: &[u8]) -> bool {
    key.get(4..8).is_some_and(|day| day == MARK.to_be_bytes())
}

/// The hash of a name in the index: CRC-32C.
pub(crate) fn hash(name: &str) -> u32 {
    crc32c::crc32c(name.as_bytes())
}

/// The bucket of a hash.
pub(crate) fn bucket(hash: u32) -> u16 {
    (hash >> (u32::BITS - BUCKET_BITS)) as u16
}

/// Packs tenures into rows, and calls `put` with the place and the bytes of each, in order.
pub(crate) fn pack(records: &[HistoryRecord], mut put: impl FnMut(&Place, &[u8])) {
    let of = |record: &HistoryRecord| (record.day.min(DAY_MAX), record.index, record.token);
    let mut sorted: Vec<&HistoryRecord> = records.iter().collect();
    sorted.sort_by_key(|record| of(record)); // They come almost sorted.
    let mut bytes = Vec::new();
    for entry in sorted.chunk_by(|a, b| (a.index, a.day) == (b.index, b.day)) {
        let (mut first, mut before) = (place(0, 0, 0), 0);
        bytes.clear();
        for record in entry {
            let (day, index, token) = of(record);
            if bytes.is_empty() {
                (first, before) = (place(day, index, token), token);
            }
            put_varint(&mut bytes, token - before);
            before = token;
            for part in [record.name.as_bytes(), &record.tenure] {
                put_varint(&mut bytes, part.len() as u64);
                bytes.extend_from_slice(part);
            }
            if bytes.len() >= ROW_BYTES {
                put(&first, &bytes);
                bytes.clear();
            }
        }
        if !bytes.is_empty() {
            put(&first, &bytes);
        }
    }
}

/// A tenure in a row, not yet copied.
#[derive(Debug)]
pub(crate) struct Tenure<'a> {
    pub(crate) name: &'a str,
    pub(crate) token: u64,
    tenure: &'a [u8],
    place: &'a Place,
}

impl Tenure<'_> {
    pub(crate) fn record(&self) -> HistoryRecord {
        let (day, index, _) = parts(self.place);
        let (name, tenure) = (self.name.to_owned(), self.tenure.to_vec());
        HistoryRecord { day, name, token: self.token, index, tenure }
    }
}

/// Calls `each` with the tenures of a row until it returns `false`.
pub(crate) fn unpack<'a>(
    shard: ShardId,
    place: &'a Place,
    mut bytes: &'a [u8],
    mut each: impl FnMut(Tenure<'a>) -> bool,
) -> Result<(), StorageError> {
    let (_, index, mut token) = parts(place);
    let mut next = || {
        let more = varint(&mut bytes)?;
        token = token.checked_add(more)?;
        let name = std::str::from_utf8(part(&mut bytes)?).ok()?;
        let tenure = part(&mut bytes)?;
        Some((Tenure { name, token, tenure, place }, bytes.is_empty()))
    };
    loop {
        let (tenure, is_last) = next().ok_or_else(|| {
            StorageError::Damaged(format!(
                "shard {shard}: a row of history of entry {index} is not one of tenures"
            ))
        })?;
        if !each(tenure) || is_last {
            return Ok(());
        }
    }
}

fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(bytes)?).ok()?;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

/// Seven bits per byte, the lowest first. All but the last byte have the highest bit.
fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The names of some rows: which entries have tenures of which names, by hashes.
#[derive(Debug)]
pub(crate) struct Names {
    /// The place of the first of the rows. They are of one day.
    first: Place,
    /// `hash | index`, to be sorted.
    entries: Vec<(u32, u64)>,
}

impl Names {
    pub(crate) fn new(first: Place) -> Names {
        Names { first, entries: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &str, index: u64) {
        self.entries.push((hash(name), index));
    }

    /// Calls `put` with key and bytes for each bucket. No tenure of these rows, and of all that were
    /// named before, has a token above `token_max`.
    pub(crate) fn encode(
        mut self,
        shard: ShardId,
        token_max: u64,
        mut put: impl FnMut(&[u8], &[u8]),
    ) {
        self.entries.sort_unstable();
        self.entries.dedup();
        let (day, base, _) = parts(&self.first);
        let mut bytes = Vec::new();
        for entries in self.entries.chunk_by(|a, b| bucket(a.0) == bucket(b.0)) {
            let mut key = names(shard, day, Some(bucket(entries[0].0)));
            key.extend_from_slice(&self.first[4..]);
            bytes.clear();
            bytes.extend_from_slice(&token_max.to_le_bytes());
            for (hash, index) in entries {
                bytes.extend_from_slice(&hash.to_le_bytes());
                put_varint(&mut bytes, index - base);
            }
            put(&key, &bytes);
        }
    }
}

/// The bytes of one bucket, read.
#[derive(Debug)]
pub(crate) struct Bucket<'a> {
    /// No tenure of these rows has a token above it.
    pub(crate) token_max: u64,
    entries: &'a [u8],
    base: u64,
}

impl<'a> Bucket<'a> {
    pub(crate) fn decode(base: u64, bytes: &'a [u8]) -> Option<Bucket<'a>> {
        let (token_max, entries) = bytes.split_first_chunk()?;
        Some(Bucket { token_max: u64::from_le_bytes(*token_max), entries, base })
    }

    /// The indices of the entries that have tenures of names with this hash, ascending. `None` if
    /// the bytes are no bucket.
    pub(crate) fn indices(&self, of: u32) -> Option<Vec<u64>> {
        let (mut entries, mut found) = (self.entries, Vec::new());
        while !entries.is_empty() {
            let (hash, rest) = entries.split_first_chunk()?;
            entries = rest;
            let index = self.base.checked_add(varint(&mut entries)?)?;
            if u32::from_le_bytes(*hash) == of {
                found.push(index);
            }
        }
        Some(found)
    }
}

/// How far the rows of a shard are named: all before this place are, and tokens above this one are
/// only in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) before: Place,
    pub(crate) token_max: u64,
}

impl Named {
    /// Without any row that is named.
    pub(crate) const NONE: Named = Named { before: [0; PLACE_BYTES], token_max: 0 };

    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.before[..], &self.token_max.to_le_bytes()].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Named> {
        let (before, token_max) = bytes.split_first_chunk()?;
        Some(Named { before: *before, token_max: u64::from_le_bytes(token_max.try_into().ok()?) })
    }
}

/// The place just after this one.
pub(crate) fn after(place: &Place) -> Place {
    let mut next = *place;
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenure(day: u32, index: u64, token: u64, name: &str) -> HistoryRecord {
        HistoryRecord { day, name: name.into(), token, index, tenure: vec![7, 7] }
    }

    fn packed(records: &[HistoryRecord]) -> Vec<(Place, Vec<u8>)> {
        let mut rows = Vec::new();
        pack(records, |place, bytes| rows.push((*place, bytes.to_vec())));
        rows
    }

    /// Bytes on disk outlive the code. A change here needs a new format version and a way to read
    /// the old one.
    #[test]
    fn persisted_bytes_stay_as_they_are() {
        let shard = ShardId(0x01020304);
        let place = place(7, 0x1122, 9);
        let of_place = [0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x11, 0x22, 0, 0, 0, 0, 0, 0, 0, 9];
        let head = |kind| [1, 2, 3, 4, 255, 255, 255, 255, kind];
        assert_eq!(row(shard, &place), [&head(1)[..], &of_place].concat());
        assert_eq!(names(shard, 7, Some(0x0304)), [&head(2)[..], &[0, 0, 0, 7, 3, 4]].concat());
        assert_eq!(named(shard), head(3));
        let records = [tenure(7, 5, 300, "ab"), tenure(7, 5, 100, "c")];
        let bytes = vec![0, 1, b'c', 2, 7, 7, 200, 1, 2, b'a', b'b', 2, 7, 7];
        assert_eq!(packed(&records), [(super::place(7, 5, 100), bytes)]);
        // CRC-32C of "123456789" is the well-known check value 0xE3069283.
        assert_eq!((hash("123456789"), bucket(0xE3069283)), (0xE3069283, 0x38C));
        let mut index = Names::new(super::place(7, 5, 9));
        index.add("123456789", 6);
        index.add("123456789", 5);
        let mut put = Vec::new();
        index.encode(shard, 8, |key, bytes| put.push((key.to_vec(), bytes.to_vec())));
        let key =
            [&head(2)[..], &[0, 0, 0, 7, 0x03, 0x8C], &of_place[4..10], &[0, 5], &of_place[12..]];
        let hash = [0x83, 0x92, 0x06, 0xe3];
        let bytes = [&[8, 0, 0, 0, 0, 0, 0, 0][..], &hash, &[0], &hash, &[1]].concat();
        assert_eq!(put, [(key.concat(), bytes)]);
        let named = Named { before: place, token_max: 8 };
        assert_eq!(named.encode(), [&of_place[..], &[8, 0, 0, 0, 0, 0, 0, 0]].concat());
    }

    #[test]
    fn what_was_packed_is_unpacked_and_cut_bytes_are_damage() {
        let shard = ShardId(3);
        let mut records: Vec<_> =
            (0..2_500).map(|at| tenure(2, 9, 5_000 - at, &format!("{at:060}"))).collect();
        records.push(tenure(1, 8, u64::MAX, ""));
        records.push(tenure(u32::MAX, 10, 0, "of a clock that is wrong"));
        let rows = packed(&records);
        assert_eq!(rows.len(), 1 + 3 + 1, "a row does not go on for ever");
        assert!(rows.is_sorted());
        let mut found = Vec::new();
        for (place, bytes) in &rows {
            let all = unpack(shard, place, bytes, |tenure| {
                found.push(tenure.record());
                true
            });
            all.expect("whole");
            for cut in (0..bytes.len().min(100)).chain([bytes.len() - 1]) {
                let mut whole = 0;
                let cut = unpack(shard, place, &bytes[..cut], |_| {
                    whole += 1;
                    true
                });
                assert!(cut.is_err() || whole < 1_009, "{place:?}");
            }
        }
        records.sort_by_key(|record| (record.day, record.index, record.token));
        records.last_mut().expect("records").day = DAY_MAX;
        assert_eq!(found, records);
        for nonsense in [&[][..], &[0x80; 11], &[0, 5, b'a'], &[0, 1, 0xFF, 0]] {
            assert!(unpack(shard, &place(1, 1, 1), nonsense, |_| true).is_err(), "{nonsense:?}");
        }
        let overflow = [1, 0, 0];
        assert!(unpack(shard, &place(1, 1, u64::MAX), &overflow, |_| true).is_err());
    }

    #[test]
    fn a_key_parses_back_and_those_of_single_tenures_are_told_apart() {
        let (shard, at) = (ShardId(3), place(20_000, 7, u64::MAX));
        assert_eq!(parse(&row(shard, &at)), Some(Key::Row(at)));
        assert_eq!(parse(&named(shard)), Some(Key::Named));
        let mut key = names(shard, 20_000, Some(4_095));
        key.extend_from_slice(&at[4..]);
        assert_eq!(parse(&key), Some(Key::Names { day: 20_000, bucket: 4_095, base: 7 }));
        for cut in 0..key.len() {
            assert_eq!(parse(&key[..cut]), None, "cut at {cut}");
        }
        let single = keys::history(shard, DAY_MAX, "name", 9);
        assert!(parse(&single).is_none() && !is_marked(&single) && is_marked(&key));
        assert!(
            single < row(shard, &[])
                && row(shard, &at) < names(shard, 0, None)
                && key < named(shard)
        );
    }

    #[test]
    fn a_bucket_is_read_back_and_nonsense_is_none() {
        let mut index = Names::new(place(7, 100, 9));
        for entry in [100, 107, 100, 1 << 40] {
            index.add("n", entry);
        }
        let mut put = Vec::new();
        index.encode(ShardId(0), 8, |_, bytes| put.push(bytes.to_vec()));
        let bucket = Bucket::decode(100, &put[0]).expect("a bucket");
        assert_eq!(bucket.token_max, 8);
        assert_eq!(bucket.indices(hash("n")), Some(vec![100, 107, 1 << 40]));
        assert_eq!(bucket.indices(1), Some(vec![]));
        assert!(Bucket::decode(100, &put[0][..7]).is_none());
        let cut = Bucket::decode(100, &put[0][..put[0].len() - 1]).expect("a bucket");
        assert_eq!(cut.indices(hash("n")), None);
        assert_eq!(Named::decode(&[0; 27]), None);
        assert_eq!(after(&[255; PLACE_BYTES]), [0; PLACE_BYTES]);
        assert_eq!(after(&place(1, 2, u64::MAX)), place(1, 3, 0));
    }
}
