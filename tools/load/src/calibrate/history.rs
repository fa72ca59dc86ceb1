//! The size of history on disk, from the records of a stopped node and the files that hold them.

use super::error::CalibrateError;
use routing::ShardId;
use std::path::{Path, PathBuf};
use storage::{Engine, RocksEngine, RocksOptions};

/// Limit of records that are read. More are not needed, because they are alike.
const SAMPLE: usize = 20_000;
/// Fewest records for a result. With fewer, the files hold mostly other data.
const RECORDS_MIN: usize = 10_000;
/// Bytes of a record's key beside the name: shard, token, and the separator after the name.
const KEY_BYTES: usize = 16;

/// The size of history: of a record before compression, and of the tables on disk.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Bytes of a record with its name, before compression.
    pub record_bytes: f64,
    /// Bytes of all tables per byte of history, at most 1. Other records in the tables count too.
    pub stored_ratio: f64,
}

/// Measures the data of a stopped node. `None` means that there is too little of it.
///
/// # Errors
/// If the data cannot be read.
pub async fn measure(data: PathBuf) -> Result<Option<History>, CalibrateError> {
    // This runs outside the async threads, because there may be a log to replay and much to read.
    let measured = tokio::task::spawn_blocking(move || look(&data)).await;
    measured.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

fn look(data: &Path) -> Result<Option<History>, CalibrateError> {
    let engine =
        RocksEngine::open_with(data, RocksOptions { reserve_bytes: 0, ..RocksOptions::default() })?;
    let (mut cursor, mut records, mut bytes) = (None, 0, 0);
    loop {
        let (page, next) = engine.history_since(ShardId(0), 0, cursor, SAMPLE)?;
        records += page.len();
        bytes += page
            .iter()
            .map(|record| record.name.len() + record.tenure.len() + KEY_BYTES)
            .sum::<usize>();
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    drop(engine);
    if records < RECORDS_MIN {
        return Ok(None);
    }
    let tables = tables_bytes(data).map_err(CalibrateError::file("read", data))?;
    let stored_ratio = (tables as f64 / bytes as f64).clamp(0.001, 1.0);
    Ok(Some(History { record_bytes: bytes as f64 / records as f64, stored_ratio }))
}

/// Size of all tables below a directory.
fn tables_bytes(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let (entry, is_table) = entry
            .map(|entry| (entry.path(), entry.path().extension().is_some_and(|e| e == "sst")))?;
        let metadata = entry.metadata()?;
        bytes += match (metadata.is_dir(), is_table) {
            (true, _) => tables_bytes(&entry)?,
            (false, true) => metadata.len(),
            (false, false) => 0,
        };
    }
    Ok(bytes)
}
