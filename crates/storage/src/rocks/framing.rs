//! A check of the records in RocksDB's logs before RocksDB reads them.
//!
//! RocksDB verifies the checksum of every record. Still, one changed byte in a record's header can
//! do harm in two ways:
//!
//! 1. The length leads beyond the end of the file. RocksDB takes this for a torn write and silently
//!    drops this record and all after it. In its manifest, that loses whole tables.
//! 2. The type says that the file was recycled. RocksDB tries to read the record again for ever
//!    (facebook/rocksdb#13333).
//!
//! This check finds both first, so that the directory is refused. All other judgement is left to
//! RocksDB: a write that was really torn is no damage. This module knows nothing of the contents of
//! records.

use crate::StorageError;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Records are in blocks of this size. The rest of a block that is too short for a header is
/// padding.
const BLOCK_BYTES: usize = 32 << 10;
/// `checksum u32 | length u16 LE | type u8`
const HEADER_BYTES: usize = 4 + 2 + 1;
/// Types of records in recycled files. The engine recycles none.
const RECYCLED_TYPES: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Checks the write-ahead logs and manifests in `dir`.
///
/// # Errors
/// [`StorageError::Damaged`] if RocksDB must not read one of them.
pub(super) fn check(dir: &Path) -> Result<(), StorageError> {
    let io = |error: std::io::Error| StorageError::Io(format!("{}: {error}", dir.display()));
    for file in std::fs::read_dir(dir).map_err(io)? {
        let path = file.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(".log") && !name.starts_with("MANIFEST-") {
            continue;
        }
        if let Some((offset, what)) = File::open(&path).and_then(find_damage).map_err(io)? {
            return Err(StorageError::Damaged(format!(
                "{}: the record at byte {offset} {what}",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Finds a record that RocksDB must not read: its offset, and the fault.
fn find_damage(mut file: impl Read) -> std::io::Result<Option<(usize, &'static str)>> {
    let mut block = [0; BLOCK_BYTES];
    let mut start = 0;
    loop {
        let filled = fill(&mut file, &mut block)?;
        let is_last = filled < BLOCK_BYTES;
        let mut rest = &block[..filled];
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let offset = start + filled - rest.len();
            if RECYCLED_TYPES.contains(&header[6]) {
                return Ok(Some((offset, "has a type that is never written")));
            }
            match after.get(usize::from(u16::from_le_bytes([header[4], header[5]]))..) {
                Some(next) => rest = next,
                // In any block but the last, RocksDB reports this itself.
                None if is_last && is_whole_with_another_length(header, after) => {
                    return Ok(Some((offset, "does not have the length that was written")));
                }
                None => break,
            }
        }
        if is_last {
            return Ok(None);
        }
        start += filled;
    }
}

/// Whether the checksum matches some prefix of the bytes after the header. If so, the length was
/// changed. A torn record has lost its end, so its checksum matches no prefix.
fn is_whole_with_another_length(header: &[u8; HEADER_BYTES], after: &[u8]) -> bool {
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let mut crc = crc32c::crc32c(&header[6..]);
    stored == masked(crc)
        || after.iter().any(|byte| {
            crc = crc32c::crc32c_append(crc, std::slice::from_ref(byte));
            stored == masked(crc)
        })
}

/// The form in which RocksDB stores a checksum.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Reads up to a block, as far as there are bytes.
fn fill(file: &mut impl Read, block: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, length: usize) -> Vec<u8> {
        let length_bytes = u16::try_from(length).expect("short").to_le_bytes();
        let payload = vec![5; length];
        let crc = masked(crc32c::crc32c_append(crc32c::crc32c(&[kind]), &payload));
        [&crc.to_le_bytes()[..], &length_bytes, &[kind], &payload].concat()
    }

    /// Three records that fill a block, and two after it.
    fn intact() -> (Vec<u8>, [usize; 5]) {
        let second_block = BLOCK_BYTES;
        let filler = record(2, BLOCK_BYTES - 3 * HEADER_BYTES - 10);
        let bytes = [record(1, 10), record(1, 0), filler, record(4, 300), record(1, 20)].concat();
        (bytes, [0, 17, 24, second_block, second_block + 307])
    }

    fn damage(bytes: &[u8]) -> Option<usize> {
        find_damage(bytes).expect("read").map(|(offset, _)| offset)
    }

    #[test]
    fn a_recycled_type_is_found_wherever_a_record_begins() {
        let (intact, starts) = intact();
        assert_eq!(damage(&intact), None, "payloads are not looked at");
        for start in starts {
            for kind in RECYCLED_TYPES {
                let mut changed = intact.clone();
                changed[start + 6] = kind;
                assert_eq!(damage(&changed), Some(start), "type {kind} at {start}");
            }
        }
    }

    #[test]
    fn a_changed_length_is_told_from_a_torn_record() {
        let (intact, starts) = intact();
        for start in &starts[3..] {
            for bit in 0..16 {
                let mut changed = intact.clone();
                changed[start + 4 + bit / 8] ^= 1 << (bit % 8);
                let length =
                    usize::from(u16::from_le_bytes([changed[start + 4], changed[start + 5]]));
                if start + HEADER_BYTES + length > intact.len() {
                    assert_eq!(
                        damage(&changed),
                        Some(*start),
                        "bit {bit} of the length at {start}"
                    );
                }
            }
        }
        for torn in BLOCK_BYTES..intact.len() {
            assert_eq!(damage(&intact[..torn]), None, "torn at {torn}");
        }
    }
}
