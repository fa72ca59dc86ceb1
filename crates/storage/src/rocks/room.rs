//! Room on the disk that is kept for a start, and the duration of a sync there.
//!
//! A start needs room, for RocksDB's next manifest and for the flush of entries replayed from the
//! journal. Suppose other programs, or the node's own history, fill the disk:
//!
//! 1. The node stops, because a write fails.
//! 2. It is started again, so that an operator can look at it and free some room.
//! 3. The start fails as well, since it cannot write a manifest.
//!
//! So a file of some size, the reserve, is kept beside the data. A start that finds the disk full
//! deletes it, and it is made again once there is room.

use crate::StorageError;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The reserve's file, below the data directory.
const RESERVE_FILE: &str = "RESERVE";
/// The file for measuring syncs, below the data directory, for a moment at each start.
const SYNCS_FILE: &str = "SYNC-TEST";
const SYNCS: usize = 5;
const SYNCED_BYTES: usize = 4 << 10;
/// Size of one write to the reserve.
const FILL_BYTES: usize = 64 << 10;

/// The room that a start found on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The reserve is kept, or none is asked for.
    Enough,
    /// The disk is nearly full. This start did not need the reserve, or there was none.
    Little {
        /// Free bytes for users other than root.
        free_bytes: u64,
    },
    /// The disk was full, so this start deleted the reserve.
    ReserveUsed {
        /// Free bytes, with those that the reserve took.
        free_bytes: u64,
    },
}

/// The reserve.
///
/// - The file has `bytes` bytes, all of them in blocks of its own, or it does not exist.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    pub(super) fn new(dir: &Path, bytes: u64) -> Reserve {
        Reserve { path: dir.join(RESERVE_FILE), bytes }
    }

    /// Deletes the reserve if less room than its size is left beside it. To be called before a
    /// start writes anything. Returns whether the room was needed.
    pub(super) fn give_up_if_needed(&self) -> Result<bool, StorageError> {
        let Ok(found) = self.path.metadata() else { return Ok(false) };
        let is_needed = self.free_bytes().is_some_and(|free| free < self.bytes);
        // The size differs if the setting was changed, or if the process died while it made the
        // file.
        if is_needed || found.len() != self.bytes {
            std::fs::remove_file(&self.path).map_err(|error| {
                StorageError::Io(format!("removing {}: {error}", self.path.display()))
            })?;
        }
        Ok(is_needed)
    }

    /// Makes the reserve, if as much room would be left beside it. Too little room is no failure.
    pub(super) fn keep(&self) -> Room {
        self.keep_by(allocate)
    }

    fn keep_by(&self, allocate: impl FnOnce(&File, u64) -> Result<(), Error>) -> Room {
        if self.bytes == 0 || self.path.exists() {
            return Room::Enough;
        }
        let Some(free_bytes) = self.free_bytes() else { return Room::Enough };
        if free_bytes < 2 * self.bytes {
            return Room::Little { free_bytes };
        }
        if self.make(allocate).is_err() {
            // Its writing took the last room.
            let _ = std::fs::remove_file(&self.path);
            return Room::Little { free_bytes };
        }
        Room::Enough
    }

    fn make(&self, allocate: impl FnOnce(&File, u64) -> Result<(), Error>) -> Result<(), Error> {
        let file = File::options().write(true).create_new(true).open(&self.path)?;
        match allocate(&file, self.bytes) {
            Err(error) if is_unsupported(&error) => fill(&file, self.bytes)?,
            allocated => allocated?,
        }
        file.sync_all()
    }

    /// Free bytes; `None` if the system does not tell.
    fn free_bytes(&self) -> Option<u64> {
        free_bytes(self.path.parent()?)
    }
}

fn free_bytes(dir: &Path) -> Option<u64> {
    room_of(dir).map(|(free_bytes, _, _)| free_bytes)
}

/// The free and all bytes of the file system, for users other than root, and whether it is
/// read-only. `None` if the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn room_of(dir: &Path) -> Option<(u64, u64, bool)> {
    let found = rustix::fs::statvfs(dir).ok()?;
    let read_only = found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some((bytes(found.f_bavail), bytes(found.f_blocks), read_only))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn room_of(_: &Path) -> Option<(u64, u64, bool)> {
    None
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> Result<(), Error> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> Result<(), Error> {
    Err(Error::from(ErrorKind::Unsupported))
}

fn is_unsupported(error: &Error) -> bool {
    #[cfg(target_os = "linux")]
    if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) {
        return true;
    }
    error.kind() == ErrorKind::Unsupported
}

/// Writes zeros, on file systems that cannot allocate blocks without writing them.
fn fill(file: &File, bytes: u64) -> Result<(), Error> {
    let zeros = vec![0; FILL_BYTES];
    let mut at = 0;
    while at < bytes {
        let part = &zeros[..usize::try_from(bytes - at).unwrap_or(usize::MAX).min(FILL_BYTES)];
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Writes a little and syncs, a few times, to a file of its own. Returns the time that each sync
/// took; nothing if there is no room for the file. Calls `next` before each sync.
pub(super) fn measure_syncs(dir: &Path, next: &dyn Fn()) -> Result<Vec<Duration>, StorageError> {
    let path = dir.join(SYNCS_FILE);
    let measured = time_syncs(&path, next);
    // If the file stays, the next start overwrites it.
    let _ = std::fs::remove_file(&path);
    match measured {
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            Ok(Vec::new())
        }
        measured => {
            measured.map_err(|error| StorageError::Io(format!("{}: {error}", path.display())))
        }
    }
}

fn time_syncs(path: &Path, next: &dyn Fn()) -> Result<Vec<Duration>, Error> {
    let file = File::options().write(true).create(true).truncate(true).open(path)?;
    let bytes = [0x5a; SYNCED_BYTES];
    // The first sync makes the file itself durable. It is not timed, because a record of the
    // journal goes to a file that exists.
    file.write_all_at(&bytes, 0)?;
    next();
    file.sync_all()?;
    let time = |_| {
        next();
        file.write_all_at(&bytes, 0)?;
        let began = Instant::now();
        file.sync_data()?;
        Ok(began.elapsed())
    };
    (0..SYNCS).map(time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Regression: some file systems have no `fallocate`. Each start there reported a nearly full
    /// disk and kept no reserve.
    #[test]
    fn a_reserve_is_written_where_blocks_cannot_be_allocated() {
        for unsupported in [Error::from(ErrorKind::Unsupported), Error::from_raw_os_error(95)] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let reserve = Reserve::new(dir.path(), (2 << 20) + 1);
            assert_eq!(reserve.keep_by(|_, _| Err(unsupported)), Room::Enough);
            let found = reserve.path.metadata().expect("it is kept");
            assert_eq!(found.len(), reserve.bytes);
            assert!(found.blocks() * 512 >= reserve.bytes, "its blocks are not allocated");
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let reserve = Reserve::new(dir.path(), 2 << 20);
        let full = |_: &File, _| Err(Error::from(ErrorKind::StorageFull));
        assert!(matches!(reserve.keep_by(full), Room::Little { .. }));
        assert!(!reserve.path.exists());
    }
}
