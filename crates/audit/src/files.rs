//! The file of the log, and the closed files before it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where the log is written, and for how long lines are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The path of the file, or `-` for standard output.
    pub file: String,
    /// Size at which the file is closed, in bytes.
    pub bytes_max: u64,
    /// Age at which the file is closed.
    pub age_max: Duration,
    /// Number of closed files that are kept, as `FILE.1` (the newest) to `FILE.N`.
    pub keep: u32,
}

/// The open end of the log.
#[derive(Debug)]
pub(crate) enum Sink {
    Stdout,
    File(OpenFile),
}

/// * `bytes` is the size of the file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    settings: Settings,
    file: File,
    bytes: u64,
    began: SystemTime,
}

impl Sink {
    /// Opens the log for appending, and makes the directory of the file if it is missing.
    pub(crate) fn open(settings: Settings) -> io::Result<Sink> {
        if settings.file == "-" {
            return Ok(Sink::Stdout);
        }
        if let Some(parent) = Path::new(&settings.file).parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = append(&settings.file)?;
        let metadata = file.metadata()?;
        let bytes = metadata.len();
        // A file that a former process began keeps its age, where the system knows it.
        let began = match bytes {
            0 => SystemTime::now(),
            _ => metadata.created().unwrap_or_else(|_| SystemTime::now()),
        };
        Ok(Sink::File(OpenFile { settings, file, bytes, began }))
    }

    /// Appends whole lines.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Sink::File(file) => file.write(lines),
        }
    }
}

impl OpenFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if !self.is_in_place()? {
            // logrotate has moved it away. What is written from now on belongs into a new file.
            self.file = append(&self.settings.file)?;
            (self.bytes, self.began) = (self.file.metadata()?.len(), SystemTime::now());
        }
        let Settings { bytes_max, age_max, .. } = self.settings;
        let is_full = self.bytes + lines.len() as u64 > bytes_max;
        let is_old = self.began.elapsed().is_ok_and(|age| age >= age_max);
        if self.bytes > 0 && (is_full || is_old) {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Whether the open file is still the one at its path.
    fn is_in_place(&self) -> io::Result<bool> {
        let open = self.file.metadata()?;
        Ok(std::fs::metadata(&self.settings.file)
            .is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino())))
    }

    /// Closes the file as `FILE.1`, after each closed file has moved up by one.
    fn rotate(&mut self) -> io::Result<()> {
        let path = |number: u32| match number {
            0 => PathBuf::from(&self.settings.file),
            number => PathBuf::from(format!("{}.{number}", self.settings.file)),
        };
        if self.settings.keep == 0 {
            std::fs::remove_file(path(0))?;
        }
        for number in (0..self.settings.keep).rev() {
            match std::fs::rename(path(number), path(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = append(&self.settings.file)?;
        (self.bytes, self.began) = (0, SystemTime::now());
        Ok(())
    }
}

/// Only the owner can read the log, because it tells which identity holds which lock.
fn append(path: &str) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> Settings {
        let file = dir.join("logs/audit.log").to_string_lossy().into_owned();
        Settings { file, bytes_max: 10, age_max: Duration::from_secs(3_600), keep: 2 }
    }

    fn read(settings: &Settings, end: &str) -> Option<String> {
        std::fs::read_to_string(format!("{}{end}", settings.file)).ok()
    }

    #[test]
    fn a_full_file_is_closed_and_the_oldest_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mut sink = Sink::open(settings.clone()).unwrap();
        for line in ["one\n", "two\n", "three\n", "fourfour\n", "five five\n", "six\n"] {
            sink.write(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&settings, ""), Some("six\n".into()));
        assert_eq!(read(&settings, ".1"), Some("five five\n".into()));
        assert_eq!(read(&settings, ".2"), Some("fourfour\n".into()));
        assert_eq!(read(&settings, ".3"), None);
    }

    /// Regression: after logrotate, lines went into the file that it had moved, and later deletes.
    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mut sink = Sink::open(settings.clone()).unwrap();
        sink.write(b"one\n").unwrap();
        std::fs::rename(&settings.file, format!("{}-20261201", settings.file)).unwrap();
        sink.write(b"two\n").unwrap();
        assert_eq!(read(&settings, "-20261201"), Some("one\n".into()));
        assert_eq!(read(&settings, ""), Some("two\n".into()));
        // As with logrotate's `create`.
        std::fs::remove_file(&settings.file).unwrap();
        std::fs::write(&settings.file, "").unwrap();
        sink.write(b"three\n").unwrap();
        assert_eq!(read(&settings, ""), Some("three\n".into()));
    }

    #[test]
    fn an_old_file_is_closed_and_a_new_process_goes_on_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        Sink::open(settings.clone()).unwrap().write(b"one\n").unwrap();
        Sink::open(settings.clone()).unwrap().write(b"two\n").unwrap();
        assert_eq!(read(&settings, ""), Some("one\ntwo\n".into()));
        let old = Settings { age_max: Duration::ZERO, ..settings.clone() };
        Sink::open(old).unwrap().write(b"three\n").unwrap();
        assert_eq!(read(&settings, ""), Some("three\n".into()));
        assert_eq!(read(&settings, ".1"), Some("one\ntwo\n".into()));
    }
}
