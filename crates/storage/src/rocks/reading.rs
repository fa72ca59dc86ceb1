//! Reading from the database: history records, the beginnings of logs, and the kinds of errors.

use super::options::cf;
use crate::journal::{Begin, Known};
use crate::keys::{self, LifeRecord, LogBegin};
use crate::{HistoryRecord, Lives, StorageError, identity};
use rocksdb::{DB, ErrorKind, IteratorMode};
use routing::ShardId;
use std::collections::BTreeMap;
use std::path::Path;

/// Collects the facts from the database that the journal needs before it is read. `synced` is the
/// number of a record that was on disk.
pub(super) fn known(db: &DB, synced: u64) -> Result<Known, StorageError> {
    let mut known = Known { synced, ..Known::default() };
    let number = |key: &[u8], value: &[u8]| {
        let what = || format!("the record {key:02x?} of the beginning of a log");
        let bytes = keys::unseal(key, value, what)?;
        keys::number(bytes)
            .ok_or_else(|| StorageError::Damaged(format!("{}: {} bytes", what(), bytes.len())))
    };
    for record in db.iterator_cf(cf(db, keys::CF_META), IteratorMode::Start) {
        let (key, value) = record.map_err(|error| read_error("the beginnings of logs", &error))?;
        if *key == *keys::oldest_segment() {
            known.oldest = number(&key, &value)?;
        }
        if let Some((shard, what)) = keys::log_begin(&key) {
            let begin: &mut Begin = known.begins.entry(shard).or_default();
            match what {
                LogBegin::Record => begin.record = number(&key, &value)?,
                LogBegin::Entry => begin.truncated = number(&key, &value)?,
            }
        }
    }
    for record in db.iterator_cf(cf(db, keys::CF_LOG), IteratorMode::Start) {
        let (key, _) = record.map_err(|error| read_error("the logs", &error))?;
        if let (Some(shard), Some(index)) = (keys::shard(&key), keys::log_index(&key)) {
            known.begins.entry(shard).or_default().in_database = index;
        }
    }
    Ok(known)
}

/// The format of a store that was claimed.
pub(super) fn format(db: &DB) -> Result<Option<u32>, StorageError> {
    let (key, what) = (keys::identity(), "the identity of the store");
    let stored =
        db.get_cf(cf(db, keys::CF_META), &key).map_err(|error| read_error(what, &error))?;
    let Some(stored) = stored else { return Ok(None) };
    identity::format(keys::unseal(&key, &stored, || what.into())?, what).map(Some)
}

/// Reads the lives of all shards.
pub(super) fn lives(db: &DB) -> Result<BTreeMap<ShardId, Lives>, StorageError> {
    let mut all: BTreeMap<ShardId, Lives> = BTreeMap::new();
    for record in db.iterator_cf(cf(db, keys::CF_META), IteratorMode::Start) {
        let (key, value) = record.map_err(|error| read_error("the lives of shards", &error))?;
        let Some((shard, told)) = keys::life(&key) else { continue };
        let what = || format!("shard {shard}, the record {key:02x?} of a life");
        let bytes = keys::unseal(&key, &value, what)?;
        let birth = keys::birth_number(bytes)
            .ok_or_else(|| StorageError::Damaged(format!("{}: {} bytes", what(), bytes.len())))?;
        let lives = all.entry(shard).or_default();
        match told {
            LifeRecord::Birth => lives.hosted = Some(birth),
            LifeRecord::Tombstone => lives.destroyed = Some(birth),
        }
    }
    Ok(all)
}

pub(super) fn parse_history(
    shard: ShardId,
    key: &[u8],
) -> Result<keys::HistoryKey<'_>, StorageError> {
    keys::parse_history(key).ok_or_else(|| {
        StorageError::Damaged(format!("shard {shard}: {key:02x?} is not a key of a history record"))
    })
}

pub(super) fn history_record(
    shard: ShardId,
    key: &[u8],
    value: &[u8],
) -> Result<HistoryRecord, StorageError> {
    history_parts(shard, key, value).map(HistoryParts::record)
}

/// A history record in RocksDB's memory, not yet copied.
pub(super) struct HistoryParts<'a> {
    key: keys::HistoryKey<'a>,
    pub(super) index: u64,
    tenure: &'a [u8],
}

impl HistoryParts<'_> {
    pub(super) fn record(self) -> HistoryRecord {
        let HistoryParts { key, index, tenure } = self;
        HistoryRecord {
            day: key.day,
            name: key.name.to_owned(),
            token: key.token,
            index,
            tenure: tenure.to_vec(),
        }
    }
}

pub(super) fn history_parts<'a>(
    shard: ShardId,
    key: &'a [u8],
    value: &'a [u8],
) -> Result<HistoryParts<'a>, StorageError> {
    let parsed = parse_history(shard, key)?;
    let what = || format!("shard {shard}, history of {:?}, token {}", parsed.name, parsed.token);
    let bytes = keys::unseal(key, value, what)?;
    match bytes.split_first_chunk::<8>() {
        Some((index, tenure)) => {
            Ok(HistoryParts { index: u64::from_le_bytes(*index), tenure, key: parsed })
        }
        None => {
            Err(StorageError::Damaged(format!("{}: {} bytes are too few", what(), bytes.len())))
        }
    }
}

pub(super) fn read_error(what: &str, error: &rocksdb::Error) -> StorageError {
    match error.kind() {
        ErrorKind::Corruption => StorageError::Damaged(format!("{what}: {error}")),
        _ => StorageError::Io(format!("reading {what}: {error}")),
    }
}

/// The error of a failed open. `exists` tells whether the database was there before.
pub(super) fn open_error(dir: &Path, exists: bool, error: &rocksdb::Error) -> StorageError {
    let (dir, message) = (dir.display(), error.to_string());
    // RocksDB has no kind of its own for a lock that is taken.
    if message.contains("While lock file") || message.contains("lock hold by current process") {
        return StorageError::Identity(format!(
            "data directory {dir} is in use by another process: stop that one first, or choose \
             another directory ({message})"
        ));
    }
    match error.kind() {
        ErrorKind::Corruption => StorageError::Damaged(format!("{dir}: {message}")),
        ErrorKind::InvalidArgument if message.contains("Column famil") => {
            StorageError::Identity(format!(
                "data directory {dir} was written by another version of palisade: start it with \
                 that version ({message})"
            ))
        }
        ErrorKind::IOError if exists && message.contains("No such file") => {
            StorageError::Damaged(format!("{dir}: a file of its database is missing: {message}"))
        }
        _ => StorageError::Io(format!("cannot open {dir}: {message}")),
    }
}
