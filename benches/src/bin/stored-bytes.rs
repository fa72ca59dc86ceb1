//! The size of a node's column families on disk: flushed, compacted, and as bare keys and values.
//!
//! The program opens the given RocksDB directory with the node's options and compacts it, so give
//! it a copy. It does not know the meaning of the records.
//!
//! `stored-bytes DIR` prints one JSON object with an object per column family.

use rocksdb::{BottommostLevelCompaction, Cache, CompactOptions, DB, Env, Options};
use std::path::Path;
use std::process::ExitCode;

const CACHE_BYTES: usize = 8 << 20;

/// One column family, with sizes in bytes.
struct Stored {
    name: String,
    flushed_bytes: usize,
    compacted_bytes: usize,
    /// The number of entries after compaction.
    entries: u64,
    /// The bytes of keys and values after compaction, without compression and without the overhead
    /// of a table.
    raw_bytes: u64,
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("usage: stored-bytes DIR, a copy of a node's RocksDB directory");
        return ExitCode::from(2);
    };
    match measure(Path::new(&dir)) {
        Ok(families) => {
            println!("{{{}}}", families.iter().map(json).collect::<Vec<_>>().join(","));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("stored-bytes: {dir}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn json(stored: &Stored) -> String {
    let Stored { name, flushed_bytes, compacted_bytes, entries, raw_bytes } = stored;
    format!(
        "{name:?}:{{\"flushed_bytes\":{flushed_bytes},\"compacted_bytes\":{compacted_bytes},\"entries\":{entries},\
         \"raw_bytes\":{raw_bytes}}}"
    )
}

fn measure(dir: &Path) -> Result<Vec<Stored>, String> {
    let rocks = |error: rocksdb::Error| error.into_string();
    let env = Env::new().map_err(rocks)?;
    let (options, families) =
        Options::load_latest(dir, env, true, Cache::new_lru_cache(CACHE_BYTES)).map_err(rocks)?;
    let names: Vec<String> = families.iter().map(|family| family.name().to_owned()).collect();
    let db = DB::open_cf_descriptors(&options, dir, families).map_err(rocks)?;
    names.into_iter().map(|name| measure_family(&db, name)).collect()
}

fn measure_family(db: &DB, name: String) -> Result<Stored, String> {
    let rocks = |error: rocksdb::Error| error.into_string();
    let cf = db.cf_handle(&name).ok_or_else(|| format!("{name} was not opened"))?;
    let file_bytes = || {
        let files = db.live_files().map_err(rocks)?;
        Ok::<usize, String>(
            files.iter().filter(|file| file.column_family_name == name).map(|file| file.size).sum(),
        )
    };
    db.flush_cf(&cf).map_err(rocks)?;
    let flushed_bytes = file_bytes()?;
    let mut how = CompactOptions::default();
    // The bottom level is rewritten as well, because its data may have been compressed as young
    // data.
    how.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    db.compact_range_cf_opt(&cf, None::<&[u8]>, None::<&[u8]>, &how);
    let (compacted_bytes, tables) = (file_bytes()?, table_properties(db, &name)?);
    let property = |key: &str| -> Result<u64, String> {
        let (_, value) = tables
            .split(';')
            .filter_map(|part| part.split_once('='))
            .find(|(name, _)| name.trim() == key)
            .ok_or_else(|| format!("RocksDB does not tell {key:?} of {name}: {tables}"))?;
        value.trim().parse().map_err(|_| format!("{key:?} of {name} is {value:?}"))
    };
    let (entries, raw_bytes) = match tables.is_empty() {
        true => (0, 0),
        false => (property("# entries")?, property("raw key size")? + property("raw value size")?),
    };
    Ok(Stored { name, flushed_bytes, compacted_bytes, entries, raw_bytes })
}

/// The properties of all tables of a column family together, as RocksDB prints them. Empty without
/// tables.
fn table_properties(db: &DB, name: &str) -> Result<String, String> {
    let cf = db.cf_handle(name).ok_or_else(|| format!("{name} was not opened"))?;
    let found = db.property_value_cf(&cf, "rocksdb.aggregated-table-properties");
    found.map(Option::unwrap_or_default).map_err(|error| error.into_string())
}
