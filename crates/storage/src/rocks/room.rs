//! Room on the disk that is kept for a start, and how long a sync takes there.
//!
//! A start needs room: for RocksDB's next manifest, for the flush of what the journal gives back. On a disk that others (or
//! the node's own history) have filled, a node that stopped could not even start to be looked at. So a file of some size,
//! the reserve, lies beside the data. It is given up when a start finds the disk full, and kept again once there is room.

use crate::StorageError;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Below the data directory.
const RESERVE_FILE: &str = "RESERVE";
/// Below the data directory, for a moment at each start.
const SYNCS_FILE: &str = "SYNC-TEST";
const SYNCS: usize = 5;
const SYNCED_BYTES: usize = 4 << 10;
/// Of a reserve that is written, at a time.
const FILL_BYTES: usize = 64 << 10;

/// How much room a start found on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The reserve is kept, or none is asked for.
    Enough,
    /// The disk is nearly full, and this start had no need of the reserve, or there was none.
    Little {
        /// For others than root.
        free_bytes: u64,
    },
    /// The disk was full: the reserve was given up for this start.
    ReserveUsed {
        /// With what the reserve took.
        free_bytes: u64,
    },
}

/// * The file has `bytes` bytes, all of them its own blocks, or it is not there.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    pub(super) fn new(dir: &Path, bytes: u64) -> Reserve {
        Reserve { path: dir.join(RESERVE_FILE), bytes }
    }

    /// Before a start writes anything: gives the reserve up if there is less room than that beside it. Whether it did.
    pub(super) fn give_up_if_needed(&self) -> Result<bool, StorageError> {
        let Ok(found) = self.path.metadata() else { return Ok(false) };
        let is_needed = self.free_bytes().is_some_and(|free| free < self.bytes);
        // Another size than it had: the setting was changed, or the process died while it was made.
        if is_needed || found.len() != self.bytes {
            std::fs::remove_file(&self.path)
                .map_err(|error| StorageError::Io(format!("removing {}: {error}", self.path.display())))?;
        }
        Ok(is_needed)
    }

    /// Keeps the reserve, if as much room is left beside it. What does not fit is not kept: that is no failure.
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
            // It was the last room there was.
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

    /// `None`: the system does not tell.
    fn free_bytes(&self) -> Option<u64> {
        free_bytes(self.path.parent()?)
    }
}

#[cfg(target_os = "linux")]
fn free_bytes(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(target_os = "linux"))]
fn free_bytes(_: &Path) -> Option<u64> {
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

/// Where blocks cannot be had unwritten.
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

/// Writes a little and syncs, a few times, in a file of its own: how long each took. Calls `next` before each sync. Empty if there is
/// no room to try.
pub(super) fn measure_syncs(dir: &Path, next: &dyn Fn()) -> Result<Vec<Duration>, StorageError> {
    let path = dir.join(SYNCS_FILE);
    let measured = time_syncs(&path, next);
    // What is left of it is overwritten by the next start.
    let _ = std::fs::remove_file(&path);
    match measured {
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Ok(Vec::new()),
        measured => measured.map_err(|error| StorageError::Io(format!("{}: {error}", path.display()))),
    }
}

fn time_syncs(path: &Path, next: &dyn Fn()) -> Result<Vec<Duration>, Error> {
    let file = File::options().write(true).create(true).truncate(true).open(path)?;
    let bytes = [0x5a; SYNCED_BYTES];
    // The first also makes the file known: a record of the journal goes to a file that is there.
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

    /// Some file systems have no `fallocate`: each start there said that the disk is nearly full, and kept no reserve.
    #[test]
    fn a_reserve_is_written_where_blocks_cannot_be_had_unwritten() {
        for unsupported in [Error::from(ErrorKind::Unsupported), Error::from_raw_os_error(95)] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let reserve = Reserve::new(dir.path(), (2 << 20) + 1);
            assert_eq!(reserve.keep_by(|_, _| Err(unsupported)), Room::Enough);
            let found = reserve.path.metadata().expect("it is kept");
            assert_eq!(found.len(), reserve.bytes);
            assert!(found.blocks() * 512 >= reserve.bytes, "its room is not taken");
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let reserve = Reserve::new(dir.path(), 2 << 20);
        let full = |_: &File, _| Err(Error::from(ErrorKind::StorageFull));
        assert!(matches!(reserve.keep_by(full), Room::Little { .. }));
        assert!(!reserve.path.exists());
    }
}
