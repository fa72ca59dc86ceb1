//! A mark of how far the journal, and RocksDB's own logs, were known to be on disk.
//!
//! A log that ends early has three possible causes, and they look the same:
//!
//! 1. A power loss tore a write. No one was told that it is on disk, so the log is complete without
//!    it.
//! 2. The end of the file was cut off, with acknowledged writes in it. The store is damaged.
//! 3. A flipped bit in the length of a record made the rest unreadable. The store is damaged.
//!
//! RocksDB drops such a tail silently in every mode that survives a power loss. It does so for its
//! write-ahead log, and for its manifest, which lists its tables. This mark tells the first cause
//! from the others: if the log ends before the mark, acknowledged writes are gone.
//!
//! ```text
//! journal:  | 1 | 2 | 3 | 4 | 5 ~        mark: 4   a torn write, the log is complete
//! journal:  | 1 | 2 | 3 ~                mark: 4   record 4 was on disk: damaged
//! ```
//!
//! This module knows of RocksDB only that it numbers its writes and that a file names the current
//! manifest.

use crate::StorageError;
use crate::write_error::WriteError;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `sequence u64 LE | manifest u64 LE | manifest_bytes u64 LE | record u64 LE | crc32c of these u32
/// LE`
const MARK_BYTES: usize = 4 * 8 + 4;
/// Size of the mark in format version 2, which had no journal.
const FORMER_MARK_BYTES: usize = 3 * 8 + 4;

/// Bytes that were on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    /// Number of the last write to RocksDB that was synced.
    sequence: u64,
    /// Number of the current manifest.
    manifest: u64,
    /// Length of that manifest, in bytes.
    manifest_bytes: u64,
    /// Number of the journal's last record.
    record: u64,
}

/// The file with the mark.
///
/// - It is written after the sync that it reports. So it is never ahead of the journal and the
///   write-ahead log, whichever writes a crash takes back.
/// - Only for the manifest it may be ahead, because RocksDB syncs that by itself. A power loss at
///   just that moment would make the store refused although nothing is lost.
/// - It is hardly ever synced itself. After a killed process it is exact; after a power loss it may
///   be some writes behind.
#[derive(Debug)]
pub(super) struct SyncedMark {
    file: File,
    extent: Extent,
    /// The manifest of the open database: its number and file.
    manifest: Option<(u64, File)>,
}

impl SyncedMark {
    /// Opens the mark, or creates it for a database that does not exist yet.
    pub(super) fn open(path: &Path, database_exists: bool) -> Result<SyncedMark, StorageError> {
        let io = |error: std::io::Error| StorageError::Io(format!("{}: {error}", path.display()));
        let mut found = Vec::new();
        match File::open(path) {
            Ok(file) => {
                file.take(MARK_BYTES as u64 + 1).read_to_end(&mut found).map(drop).map_err(io)?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        if let Some(extent) = decode(&found) {
            let file = File::options().write(true).open(path).map_err(io)?;
            return Ok(SyncedMark { file, extent, manifest: None });
        }
        if database_exists && found.len() == FORMER_MARK_BYTES {
            return Err(StorageError::Identity(format!(
                "{}: this data directory is of an earlier version of palisade: start it with that \
                 version, or re-seed this node (see `palisade node --help`)",
                path.display()
            )));
        }
        if database_exists {
            return Err(StorageError::Damaged(format!(
                "{}: the mark of durable bytes is missing or unreadable",
                path.display()
            )));
        }
        // The process died while it created the store, or there never was one.
        let file =
            File::options().write(true).create(true).truncate(true).open(path).map_err(io)?;
        let extent = Extent::default();
        file.write_all_at(&encode(extent), 0).and_then(|()| file.sync_all()).map_err(io)?;
        let parent = path.parent().unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(io)?;
        Ok(SyncedMark { file, extent, manifest: None })
    }

    /// Checks that the manifest of the closed database in `dir` is as long as it was. RocksDB finds
    /// all other damage to it.
    pub(super) fn check_manifest(&self, dir: &Path) -> Result<(), StorageError> {
        let Some((number, file)) = current_manifest(dir) else { return Ok(()) };
        let bytes = file
            .metadata()
            .map_err(|error| StorageError::Io(format!("{}: {error}", dir.display())))?
            .len();
        let Extent { manifest, manifest_bytes, .. } = self.extent;
        // A manifest with a higher number has replaced the known one.
        if (number, bytes) < (manifest, manifest_bytes) {
            return Err(StorageError::Damaged(format!(
                "{}: manifest {number} has {bytes} bytes, but {manifest_bytes} of manifest \
                 {manifest} were on disk",
                dir.display()
            )));
        }
        Ok(())
    }

    /// Checks that the write-ahead log of the database in `dir`, which was read up to `sequence`,
    /// is complete. From here on it is written to.
    pub(super) fn database_opened(
        &mut self,
        dir: &Path,
        sequence: u64,
    ) -> Result<(), StorageError> {
        if sequence < self.extent.sequence {
            return Err(StorageError::Damaged(format!(
                "{}: the write-ahead log ends at write {sequence}, but writes up to {} were on \
                 disk",
                dir.display(),
                self.extent.sequence
            )));
        }
        self.manifest = current_manifest(dir);
        Ok(())
    }

    /// Number of the journal's last record that was on disk when the mark was opened, or since.
    pub(super) fn record(&self) -> u64 {
        self.extent.record
    }

    /// Syncs the mark itself.
    pub(super) fn sync(&self) -> Result<(), WriteError> {
        self.file.sync_data().map_err(WriteError::disk("syncing the mark"))
    }

    /// Marks the journal's records up to `record` as durable, and RocksDB's writes up to
    /// `sequence`, if given.
    pub(super) fn advance(&mut self, record: u64, sequence: Option<u64>) -> Result<(), WriteError> {
        let sequence = sequence.unwrap_or(self.extent.sequence);
        assert!(
            sequence >= self.extent.sequence,
            "write numbers fell from {} to {sequence}",
            self.extent.sequence
        );
        assert!(
            record >= self.extent.record,
            "record numbers fell from {} to {record}",
            self.extent.record
        );
        let failed = || WriteError::disk("marking what is on disk");
        let mut extent = Extent { sequence, record, ..self.extent };
        if let Some((number, file)) = &self.manifest {
            (extent.manifest, extent.manifest_bytes) =
                (*number, file.metadata().map_err(failed())?.len());
        }
        // These few bytes at the start of the file are in one sector, so they are replaced as a
        // whole.
        self.file.write_all_at(&encode(extent), 0).map_err(failed())?;
        self.extent = extent;
        Ok(())
    }
}

/// Number and file of the manifest that `CURRENT` names. `None` if it names none; RocksDB reports
/// the reason then.
fn current_manifest(dir: &Path) -> Option<(u64, File)> {
    let current = std::fs::read_to_string(dir.join("CURRENT")).ok()?;
    let name = current.trim_end();
    let number = name.strip_prefix("MANIFEST-")?.parse().ok()?;
    Some((number, File::open(dir.join(name)).ok()?))
}

fn encode(extent: Extent) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    for (at, value) in [extent.sequence, extent.manifest, extent.manifest_bytes, extent.record]
        .into_iter()
        .enumerate()
    {
        bytes[at * 8..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[..MARK_BYTES - 4]);
    bytes[MARK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Extent> {
    let (values, crc) = bytes.split_first_chunk::<{ MARK_BYTES - 4 }>()?;
    let crc = u32::from_le_bytes(crc.try_into().ok()?);
    let (words, _) = values.as_chunks::<8>();
    let value = |at: usize| u64::from_le_bytes(words[at]);
    (crc == crc32c::crc32c(values)).then(|| Extent {
        sequence: value(0),
        manifest: value(1),
        manifest_bytes: value(2),
        record: value(3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_intact_bytes_decode() {
        let extent = Extent {
            sequence: 0x0102_0304_0506_0708,
            manifest: 13,
            manifest_bytes: u64::MAX,
            record: 77,
        };
        let bytes = encode(extent);
        assert_eq!(decode(&bytes), Some(extent));
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
