//! The guard file: a record of the data directory that a node keeps outside of it.
//!
//! Peers detect an older copy of one node's directory. If the directories of all nodes are put back
//! together, no peer knows better, and tokens are issued a second time. A file that is not copied
//! with the directory does know.
//!
//! The module promises that the file on disk names each run of the directory before that run takes
//! part. It knows nothing of the rule that makes a directory unfit: see `lineage`.

use crate::error::NodeError;
use crate::lineage::{Claim, Known, StoreId, UnfitDirectory, judge};
use routing::NodeId;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use storage::Identity;

/// The first line of the file.
const TITLE: &str = "palisade guard file, version 1";
const FIELDS: [&str; 7] = ["cluster", "node", "incarnation", "store", "boot", "life", "record"];

/// The guard file of one node.
#[derive(Debug)]
pub(crate) struct Guard {
    path: PathBuf,
    cluster: String,
    node: u64,
    /// The knowledge that was last written, or the reason why it could not be written.
    last: Mutex<Option<Result<Known, String>>>,
}

/// The reason why a guard file cannot be used, or forbids the directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    /// The file cannot be read.
    #[error("cannot read the guard file {}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file cannot be written. The former file remains.
    #[error("cannot write the guard file {}: {source}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is not this node's guard file.
    #[error(
        "the guard file {} {flaw}: name the right file, or move this one away if you know that the data directory \
         is the newest one",
        path.display()
    )]
    Flawed {
        path: PathBuf,
        #[source]
        flaw: Flaw,
    },
    /// The directory is not as far as the file says.
    #[error(
        "{0}. If all nodes are to go on from a backup, knowing that what was acknowledged since is lost and that fencing \
         tokens may be issued again, start with --accept-copy once"
    )]
    Behind(#[source] UnfitDirectory),
}

/// The reason why a text is not the guard file of a node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("is no guard file of this version")]
    Version,
    #[error("is damaged")]
    Damaged,
    #[error("belongs to node {node} of the cluster with fingerprint {cluster}")]
    OfAnother { node: u64, cluster: String },
}

impl From<GuardError> for NodeError {
    fn from(error: GuardError) -> NodeError {
        NodeError::Config(error.to_string())
    }
}

impl Guard {
    pub(crate) fn new(path: PathBuf, identity: &Identity) -> Guard {
        let cluster = identity.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        Guard { path, cluster, node: identity.node, last: Mutex::new(None) }
    }

    /// Checks that the directory with this claim is as far as the file says. Without a file the
    /// check succeeds.
    ///
    /// # Errors
    /// [`GuardError`] with advice, if the directory is behind, or the file cannot be read or belongs
    /// to another node.
    pub(crate) fn check(&self, claim: &Claim) -> Result<(), GuardError> {
        let path = || self.path.clone();
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(GuardError::Read { path: path(), source }),
        };
        let known = self.decode(&text).map_err(|flaw| GuardError::Flawed { path: path(), flaw })?;
        judge(&known, claim).map_err(|unfit| {
            let knower = format!("the guard file {}", self.path.display());
            let node = NodeId(self.node);
            GuardError::Behind(UnfitDirectory::new(node, &knower, &known, claim, unfit))
        })
    }

    /// Keeps the file up to date while the node runs. Blocks on the disk.
    pub(crate) fn follow(&self, known: &Known) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(&Ok(*known)) {
            return;
        }
        let written = self.write(known).map(|()| *known).map_err(|error| error.to_string());
        if let Err(reason) = &written
            && last.as_ref() != Some(&written)
        {
            tracing::warn!(
                "{reason}; until it can be, the file does not tell of what is acknowledged from here on"
            );
        }
        *last = Some(written);
    }

    /// Writes the file, which is on disk when this returns.
    ///
    /// # Errors
    /// [`GuardError::Write`].
    pub(crate) fn write(&self, known: &Known) -> Result<(), GuardError> {
        let failed = |source| GuardError::Write { path: self.path.clone(), source };
        let written = self.beside();
        let mut file = File::create(&written).map_err(failed)?;
        file.write_all(self.encode(known).as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        std::fs::rename(&written, &self.path).map_err(failed)?;
        let parent = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// The path of the file while it is written. Other nodes of this machine may have files in the
    /// same directory, so the name is derived from this file's own.
    fn beside(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        name.into()
    }

    fn encode(&self, known: &Known) -> String {
        let Known { id, boot, life, record } = known;
        format!(
            "{TITLE}\ncluster {}\nnode {}\nincarnation {}\nstore {:016x}\nboot {boot}\nlife {life:016x}\nrecord {record}\n",
            self.cluster, self.node, id.incarnation, id.store
        )
    }

    fn decode(&self, text: &str) -> Result<Known, Flaw> {
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(Flaw::Version);
        }
        let mut values = [""; FIELDS.len()];
        for (value, field) in values.iter_mut().zip(FIELDS) {
            let line = lines.next().and_then(|line| line.strip_prefix(field)?.strip_prefix(' '));
            *value = line.ok_or(Flaw::Damaged)?;
        }
        let [cluster, node, incarnation, store, boot, life, record] = values;
        let decimal = |value: &str| value.parse::<u64>().map_err(|_| Flaw::Damaged);
        let hex = |value: &str| u64::from_str_radix(value, 16).map_err(|_| Flaw::Damaged);
        let node = decimal(node)?;
        if cluster != self.cluster || node != self.node {
            return Err(Flaw::OfAnother { node, cluster: cluster.to_owned() });
        }
        let incarnation = incarnation.parse().map_err(|_| Flaw::Damaged)?;
        let id = StoreId { incarnation, store: hex(store)? };
        if lines.next().is_some() {
            return Err(Flaw::Damaged);
        }
        Ok(Known { id, boot: decimal(boot)?, life: hex(life)?, record: decimal(record)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::Run;

    fn claim(boot: u64, opened: u64) -> Claim {
        let id = StoreId { incarnation: 0, store: u64::MAX };
        Claim { id, runs: vec![Run { boot, life: boot << 60, opened }], record: opened + 5 }
    }

    fn guard(path: &Path, node: u64) -> Guard {
        Guard::new(path.to_owned(), &Identity { fingerprint: [0xa7; 16], node })
    }

    #[test]
    fn a_directory_that_is_older_than_the_file_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("node-1.guard");
        let guard_of = |node| guard(&path, node);
        let guard = guard_of(1);
        guard.check(&claim(1, 0)).expect("there is no file yet");
        guard.write(&claim(1, 0).known()).expect("written");
        guard.write(&claim(2, 40).known()).expect("written over");
        guard.check(&claim(3, 45)).expect("as far as it was");
        let refused = guard.check(&claim(3, 44)).expect_err("one record is missing").to_string();
        for words in [
            "older copy",
            "node-1.guard",
            "--accept-copy",
            "start number 2 with record 45",
            "began with record 44",
        ] {
            assert!(refused.contains(words), "{words:?} is not in {refused}");
        }
        let refused = guard_of(2).check(&claim(3, 45)).expect_err("another node's").to_string();
        assert!(refused.contains("belongs to node 1"), "{refused}");
    }

    /// `guard.1` and `guard.2` were both written as `guard.new`, so one node could put the other's
    /// file in its place.
    #[test]
    fn guard_files_that_differ_in_their_ending_are_written_apart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let beside =
            [1, 2].map(|node| guard(&dir.path().join(format!("guard.{node}")), node).beside());
        assert_eq!(beside, [1, 2].map(|node| dir.path().join(format!("guard.{node}.new"))));
        // The other file was written under this name, and it must stay as it is.
        std::fs::write(dir.path().join("guard.new"), "another's").expect("write");
        guard(&dir.path().join("guard.1"), 1).write(&claim(1, 0).known()).expect("written");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("guard.new")).expect("read"),
            "another's"
        );
    }

    #[test]
    fn a_file_that_was_cut_or_changed_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("guard");
        let guard = guard(&path, 1);
        guard.write(&claim(2, 40).known()).expect("written");
        let whole = std::fs::read_to_string(&path).expect("read");
        assert_eq!(guard.decode(&whole), Ok(claim(2, 40).known()));
        let lines: Vec<&str> = whole.lines().collect();
        for gone in 0..lines.len() {
            let mut rest = lines.clone();
            rest.remove(gone);
            std::fs::write(&path, rest.join("\n")).expect("write");
            assert!(guard.check(&claim(3, 45)).is_err(), "without line {gone}");
        }
        assert!(guard.decode(&format!("{whole}more\n")).is_err() && guard.decode("").is_err());
    }
}
