//! The files of the journal: of fixed size, written from front to back, and used again and again.
//!
//! A file that is overwritten in place needs no new blocks and no new size, so a sync of it writes
//! only data. Such a sync takes half the time, and half the processor time, of a sync of a growing
//! file. This module knows nothing of the contents of records.
//!
//! ```text
//! file:   header | records
//! header: magic [8] | format u32 | salt u32 | ordinal u64 | first record's number u64 | crc u32 |
//!         zeros, to 64 bytes in all
//! ```

use super::record::{self, Record};
use crate::StorageError;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"palisjrn";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 64;
/// Offset of the first record.
pub(super) const RECORDS_AT: u64 = HEADER_BYTES as u64;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file with room for a segment.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) size_bytes: u64,
}

/// The header that makes a file a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Number of the segment. Segments have consecutive ordinals.
    pub ordinal: u64,
    /// Number of the first record in the segment.
    pub first: u64,
    pub salt: u32,
}

impl SegmentFile {
    /// Makes a new file in `dir` with all of its blocks written. It is on disk when this returns.
    pub(super) fn create(dir: &Path, name: u64, size_bytes: u64) -> Result<SegmentFile, Error> {
        let path = dir.join(format!("{name:06}.journal"));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let mut at = 0;
        while at < size_bytes {
            let part = &ZEROS[..(size_bytes - at).min(ZEROS.len() as u64) as usize];
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(SegmentFile { path, file, size_bytes })
    }

    pub(super) fn open(path: PathBuf) -> Result<SegmentFile, Error> {
        let file = File::options().read(true).write(true).open(&path)?;
        let size_bytes = file.metadata()?.len();
        Ok(SegmentFile { path, file, size_bytes })
    }

    /// Makes the file a new segment. The header is on disk only after the sync of the first record.
    pub(super) fn begin(&self, header: Header) -> Result<(), Error> {
        self.file.write_all_at(&encode(header), 0)
    }

    /// Takes [`begin`](Self::begin) back. This is on disk when it returns.
    pub(super) fn end_life(&self) -> Result<(), Error> {
        self.file.write_all_at(&[0; HEADER_BYTES], 0)?;
        self.file.sync_data()
    }

    /// Writes the first `bytes` bytes once more, unchanged. They are on disk when this returns.
    pub(super) fn write_again(&self, bytes: u64) -> Result<(), Error> {
        let mut buffer = vec![0; bytes as usize];
        self.file.read_exact_at(&mut buffer, 0)?;
        self.file.write_all_at(&buffer, 0)?;
        self.file.sync_data()
    }

    /// Reads the whole file.
    pub(super) fn read(&self) -> Result<Vec<u8>, StorageError> {
        let mut bytes = vec![0; self.size_bytes as usize];
        self.file.read_exact_at(&mut bytes, 0).map_err(|error| io(&self.path, &error))?;
        Ok(bytes)
    }

    /// Reads the header. `None` if the segment was never begun or its header is damaged.
    pub(super) fn header(&self) -> Result<Option<Header>, Error> {
        let mut bytes = [0; HEADER_BYTES];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(decode(&bytes)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` with the offset of each record, in order, from the first. Returns the end of
    /// the records and the number of the next one.
    ///
    /// The first bad record is either a torn write or damage. Records are written one at a time,
    /// and each is synced before the next. So:
    ///
    /// 1. A bad record with no good record after it may be torn. Its sync never returned, no one
    ///    was told of it, and the journal ends before it.
    /// 2. A bad record with a good record after it was synced before that one was written. It is
    ///    damage.
    pub(super) fn replay(
        &self,
        header: Header,
        mut each: impl FnMut(u64, Record<'_>) -> Result<(), StorageError>,
    ) -> Result<(u64, u64), StorageError> {
        let damaged =
            |what: String| StorageError::Damaged(format!("{}: {what}", self.path.display()));
        let bytes = self.read()?;
        let (mut at, mut next) = (RECORDS_AT as usize, header.first);
        while let Some(record) = bytes.get(at..).and_then(|rest| record::read(rest, header.salt)) {
            if record.number != next {
                return Err(damaged(format!(
                    "record {} at byte {at} where {next} is due",
                    record.number
                )));
            }
            let size_bytes = record.size_bytes;
            each(at as u64, record)?;
            (at, next) = (at + size_bytes, next + 1);
        }
        // A good record after a bad one proves that the bad one was on disk.
        for later in (at..bytes.len()).step_by(record::ALIGN) {
            let number = record::peek_number(&bytes[later..]);
            if number.is_some_and(|number| number > next && number - next < u64::from(u32::MAX))
                && record::read(&bytes[later..], header.salt).is_some()
            {
                return Err(damaged(format!(
                    "record {next} at byte {at} has a checksum that does not match"
                )));
            }
        }
        Ok((at as u64, next))
    }
}

pub(super) fn io(path: &Path, error: &Error) -> StorageError {
    StorageError::Io(format!("{}: {error}", path.display()))
}

fn encode(header: Header) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..16].copy_from_slice(&header.salt.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.ordinal.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.first.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let header = Header { ordinal: number(16), first: number(24), salt: short(12) };
    (*bytes == encode(header)).then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_intact_headers_decode() {
        let header = Header { ordinal: 3, first: 0x0102_0304_0506, salt: 0xdead_beef };
        let bytes = encode(header);
        assert_eq!(decode(&bytes), Some(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&changed), None, "bit {bit}");
        }
        assert_eq!(decode(&[0; HEADER_BYTES]), None, "a file that was never begun");
    }
}
