//! Values that are made from files, and made again when the files change.
//!
//! - New files that cannot be used change nothing: the value in use stays, and the failure is
//!   reported once.
//! - Users take the value when they need it ([`Reloading::current`]). A value that they have taken
//!   stays as it is.
//! - Open connections are told when to check themselves against the value (`Reloading::changes`):
//!   when there is a new one, and each minute, because certificates end with time.
//!
//! The module knows nothing of the content of the files.

use crate::recheck::Changes;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often [`Reloading::watch`] looks at the files.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// How often open connections are checked without a change of files.
const CHECKS_EVERY: Duration = Duration::from_secs(60);
/// Largest file that is read. Certificates, keys and policies have a few kilobytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The content of a file, with its name for messages.
#[derive(Clone)]
pub struct File {
    /// The path, or another name that tells people where the content is from.
    pub name: String,
    /// The content, which may be secret.
    pub bytes: Vec<u8>,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is larger than 4 MiB.
    pub fn read(path: &std::path::Path) -> Result<File, Unreadable> {
        let name = path.display().to_string();
        let unreadable = |source| Unreadable { name: name.clone(), source };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > FILE_BYTES_MAX {
            return Err(unreadable(io::Error::other(format!(
                "it has {length} bytes, more than {FILE_BYTES_MAX}"
            ))));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        Ok(File { name, bytes })
    }
}

/// Without the content, which may be a key.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be read: {source}")]
pub struct Unreadable {
    /// The file.
    pub name: String,
    /// The system's reason.
    pub source: io::Error,
}

/// Why files were not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError<E> {
    /// One cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// They were read, and cannot be used.
    #[error("{0}")]
    Unusable(E),
}

/// The outcome of reading the files again.
#[derive(Debug)]
pub enum Outcome<E> {
    /// They are the same as before, or the same as were refused before.
    Same,
    /// They are in use now.
    Taken,
    /// They cannot be used, and those before stay in use.
    Refused(LoadError<E>),
}

type Load<T, E> = Box<dyn Fn(&[File]) -> Result<T, E> + Send + Sync>;

/// A value made from files.
pub struct Reloading<T, E> {
    /// The purpose of the files, in messages.
    what: &'static str,
    paths: Vec<PathBuf>,
    load: Load<T, E>,
    state: Mutex<State<T>>,
    changes: Arc<Changes>,
}

struct State<T> {
    current: Arc<T>,
    /// The content that `current` is made of.
    taken: [u8; 32],
    /// The content that was refused last, or `None` for files that could not be read. It is not
    /// reported again.
    refused: Option<Option<[u8; 32]>>,
    failures: u64,
}

impl<T, E: fmt::Display> Reloading<T, E> {
    /// Reads the files and makes the first value. `load` gets them in the order of `paths`.
    ///
    /// # Errors
    /// If they cannot be read or used.
    pub fn open(
        what: &'static str,
        paths: Vec<PathBuf>,
        load: impl Fn(&[File]) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Reloading<T, E>, LoadError<E>> {
        let (files, taken) = read(&paths)?;
        let current = Arc::new(load(&files).map_err(LoadError::Unusable)?);
        let state = Mutex::new(State { current, taken, refused: None, failures: 0 });
        Ok(Reloading { what, paths, load: Box::new(load), state, changes: Arc::default() })
    }

    /// The value in use.
    pub fn current(&self) -> Arc<T> {
        self.state().current.clone()
    }

    /// The moments at which connections that were checked against a former value are to be checked
    /// again. Those of time come while a task [watches](Self::watch).
    pub(crate) fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// How often files were refused since the start.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Reads the files now, and takes them if they can be used. Logs the outcome. This blocks on
    /// the disk.
    pub fn reload(&self) -> Outcome<E> {
        match read(&self.paths) {
            Ok((files, content)) => self.take(&files, content),
            Err(error) => self.refuse(None, LoadError::Unreadable(error)),
        }
    }

    /// Looks at the files about every second, for ever, and reports each change that is taken or
    /// refused. A change is taken once two looks have seen the same, because a certificate and its
    /// key are two files that do not change at one moment.
    pub async fn watch(self: Arc<Self>, report: impl Fn(&Outcome<E>))
    where
        T: Send + Sync + 'static,
        E: Send + 'static,
    {
        let passing = async {
            loop {
                tokio::time::sleep(CHECKS_EVERY).await;
                self.changes.check_again();
            }
        };
        tokio::join!(passing, self.clone().follow(report)); // a disk that hangs stops no time
    }

    async fn follow(self: Arc<Self>, report: impl Fn(&Outcome<E>))
    where
        T: Send + Sync + 'static,
        E: Send + 'static,
    {
        let mut last = None;
        loop {
            tokio::time::sleep(LOOKS_EVERY).await;
            let reloading = self.clone();
            let look = move || {
                let seen = read(&reloading.paths).map(|(_, content)| content).ok();
                let settled = last.replace(seen) == Some(seen);
                (last, if settled { reloading.reload() } else { Outcome::Same })
            };
            let Ok((seen, outcome)) = tokio::task::spawn_blocking(look).await else { continue };
            last = seen;
            if !matches!(outcome, Outcome::Same) {
                report(&outcome);
            }
        }
    }

    fn take(&self, files: &[File], content: [u8; 32]) -> Outcome<E> {
        if self.state().taken == content {
            self.state().refused = None;
            return Outcome::Same;
        }
        match (self.load)(files) {
            Ok(value) => {
                let mut state = self.state();
                (state.current, state.taken, state.refused) = (Arc::new(value), content, None);
                drop(state);
                self.changes.check_again();
                tracing::info!(what = self.what, "new files are in use");
                Outcome::Taken
            }
            Err(error) => self.refuse(Some(content), LoadError::Unusable(error)),
        }
    }

    fn refuse(&self, content: Option<[u8; 32]>, error: LoadError<E>) -> Outcome<E> {
        let mut state = self.state();
        if state.refused.replace(content) == Some(content) {
            return Outcome::Same;
        }
        state.failures += 1;
        drop(state);
        tracing::error!(
            what = self.what, %error,
            "new files cannot be used: those before stay in use. Correct the files"
        );
        Outcome::Refused(error)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, E> fmt::Debug for Reloading<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("what", &self.what).field("paths", &self.paths).finish()
    }
}

/// Reads the files, with a digest of them all.
fn read(paths: &[PathBuf]) -> Result<(Vec<File>, [u8; 32]), Unreadable> {
    let files = paths.iter().map(|path| File::read(path)).collect::<Result<Vec<File>, _>>()?;
    let mut digest = Sha256::new();
    for file in &files {
        digest.update((file.bytes.len() as u64).to_le_bytes());
        digest.update(&file.bytes);
    }
    Ok((files, digest.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(path: PathBuf) -> Result<Reloading<i64, std::num::ParseIntError>, String> {
        let load = |files: &[File]| String::from_utf8_lossy(&files[0].bytes).trim().parse();
        Reloading::open("numbers", vec![path], load).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bad_file_changes_nothing_and_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        assert!(numbers(path.clone()).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, "1").unwrap();
        let number = numbers(path.clone()).unwrap();
        assert!(matches!(number.reload(), Outcome::Same));

        std::fs::write(&path, "one").unwrap();
        assert!(matches!(number.reload(), Outcome::Refused(LoadError::Unusable(_))));
        assert!(matches!(number.reload(), Outcome::Same), "told already");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(number.reload(), Outcome::Refused(LoadError::Unreadable(_))));
        assert_eq!((*number.current(), number.failures()), (1, 2));

        std::fs::write(&path, "2").unwrap();
        assert!(matches!(number.reload(), Outcome::Taken));
        assert_eq!(*number.current(), 2);
        std::fs::write(&path, "one").unwrap();
        assert!(matches!(number.reload(), Outcome::Refused(_)), "it was well in between");
    }

    #[tokio::test(start_paused = true)]
    async fn open_connections_are_checked_with_new_files_and_each_minute() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let number = Arc::new(numbers(path.clone()).unwrap());
        assert!(matches!(number.reload(), Outcome::Same));
        assert_eq!(number.changes().number(), 0);
        std::fs::write(&path, "2").unwrap();
        assert!(matches!(number.reload(), Outcome::Taken));
        assert_eq!(number.changes().number(), 1);

        let watching = tokio::spawn(number.clone().watch(|_| ()));
        while number.changes().number() < 3 {
            tokio::time::sleep(CHECKS_EVERY).await;
        }
        watching.abort();
    }

    #[tokio::test]
    async fn a_watched_file_is_taken_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let number = Arc::new(numbers(path.clone()).unwrap());
        let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
        let watching = tokio::spawn(number.clone().watch(move |outcome| {
            let _ = report.send(matches!(outcome, Outcome::Taken));
        }));
        std::fs::write(&path, "2").unwrap();
        assert_eq!(reports.recv().await, Some(true));
        assert_eq!(*number.current(), 2);
        watching.abort();
    }
}
