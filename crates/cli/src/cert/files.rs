//! Files of certificates and keys in one directory.
//!
//! A key is readable by its owner alone, from its first byte on. A file is written beside its name
//! and renamed, so that a process that reloads its files never reads half of one.

use super::authority::Pair;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The mode of a key, and of its directory.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o700;

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The paths of a certificate and of its key.
#[derive(Clone, Debug)]
pub struct PairPaths {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl PairPaths {
    /// `DIR/STEM.pem` and `DIR/STEM.key`.
    pub fn new(dir: &Path, stem: &str) -> PairPaths {
        let path = |ending: &str| dir.join(format!("{stem}.{ending}"));
        PairPaths { certificate: path("pem"), key: path("key") }
    }

    /// Whether one of the files is there.
    pub fn exist(&self) -> bool {
        // A link to nowhere is there, too: it would be replaced.
        [&self.certificate, &self.key].iter().any(|path| path.symlink_metadata().is_ok())
    }

    /// Reads both.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn read(&self) -> Result<Pair, FileError> {
        let text = |path: &Path| {
            let failed = |source| FileError { what: "read", path: path.to_owned(), source };
            std::fs::read_to_string(path).map_err(failed)
        };
        Ok(Pair { certificate: text(&self.certificate)?, key: text(&self.key)? })
    }

    /// Writes both. The directory is made if it is missing. Files that are there are replaced.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn write(&self, pair: &Pair) -> Result<(), FileError> {
        if let Some(dir) = self.key.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir);
            made.map_err(|source| FileError { what: "make", path: dir.to_owned(), source })?;
        }
        put(&self.key, &pair.key, KEY_MODE)?;
        put(&self.certificate, &pair.certificate, CERTIFICATE_MODE)
    }
}

/// Writes a file with this mode, whole or not at all.
///
/// # Errors
/// The file that cannot be written.
pub fn put(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError { what: "write", path: path.to_owned(), source };
    let mut beside = path.to_owned().into_os_string();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // A file of an interrupted run has the mode of that run, and would keep it.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let create = || -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)
    };
    let mut file = create().map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}
