//! How far the write-ahead log was known to be on disk, kept beside it.
//!
//! A log that ends early looks the same whether a power loss tore a write that nobody was told of, or acknowledged writes
//! were cut off, or a flipped bit in a length made the rest unreadable. RocksDB drops such a tail silently in every mode
//! that survives a power loss. This mark tells them apart.
//!
//! It knows nothing of RocksDB but that its writes are numbered.

use crate::StorageError;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `sequence u64 LE | crc32c of it u32 LE`
const MARK_BYTES: usize = 8 + 4;

/// A file with the number of the last write known to be on disk.
///
/// * It is written after the sync that it tells of, so it is never ahead of the log, whatever is lost.
/// * It is not synced itself: after a killed process it is exact, after a power loss it may be some writes behind.
#[derive(Debug)]
pub(super) struct SyncedMark {
    file: File,
    sequence: u64,
}

impl SyncedMark {
    /// Opens the mark, or creates it for a database that does not exist yet.
    pub(super) fn open(path: &Path, database_exists: bool) -> Result<SyncedMark, StorageError> {
        let io = |error: std::io::Error| StorageError::Io(format!("{}: {error}", path.display()));
        let mut found = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(MARK_BYTES as u64 + 1).read_to_end(&mut found).map(drop).map_err(io)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        if let Some(sequence) = decode(&found) {
            let file = File::options().write(true).open(path).map_err(io)?;
            return Ok(SyncedMark { file, sequence });
        }
        if database_exists {
            return Err(StorageError::Damaged(format!(
                "{}: this mark of what is on disk is missing or unreadable",
                path.display()
            )));
        }
        // The process died while it created the store, or never did.
        let file = File::options().write(true).create(true).truncate(true).open(path).map_err(io)?;
        file.write_all_at(&encode(0), 0).and_then(|()| file.sync_all()).map_err(io)?;
        let parent = path.parent().unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(io)?;
        Ok(SyncedMark { file, sequence: 0 })
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// All writes up to `sequence` are on disk.
    pub(super) fn advance(&mut self, sequence: u64) -> Result<(), String> {
        assert!(sequence >= self.sequence, "write numbers fell from {} to {sequence}", self.sequence);
        // 12 bytes at the start of a file lie in one sector: they are replaced as a whole.
        self.file.write_all_at(&encode(sequence), 0).map_err(|error| format!("marking what is on disk: {error}"))?;
        self.sequence = sequence;
        Ok(())
    }
}

fn encode(sequence: u64) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes[8..].copy_from_slice(&crc32c::crc32c(&sequence.to_le_bytes()).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let (sequence, crc) = bytes.split_first_chunk::<8>()?;
    let crc = u32::from_le_bytes(crc.try_into().ok()?);
    (crc == crc32c::crc32c(sequence)).then(|| u64::from_le_bytes(*sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_intact_bytes_decode() {
        let bytes = encode(0x0102_0304_0506_0708);
        assert_eq!(decode(&bytes), Some(0x0102_0304_0506_0708));
        for cut in 0..MARK_BYTES {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
        for bit in 0..MARK_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
    }
}
