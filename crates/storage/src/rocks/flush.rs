//! Flushes of the whole database.
//!
//! RocksDB's own wait for an atomic flush is not enough. `DBImpl::AtomicFlushMemTables` waits, for
//! each column family, until the memory table of a certain number is on disk. It takes these numbers
//! from a hash map, in another order than the families (RocksDB 11.8.1). So a family may be awaited
//! by another family's number. While one flush runs, that makes no difference, because all families
//! come to disk at once. Beside another flush it returns early:
//!
//! 1. A reset flushes the database.
//! 2. The journal's keeper notes that segment 1 is retired, and flushes too.
//! 3. The keeper's flush returns when the reset's flush is done. The note is still in memory.
//! 4. The keeper gives the file of segment 1 back, and it is used again.
//! 5. The process is killed. At the next start the database wants segment 1, which is gone.
//!
//! So flushes happen one after another here, and each looks for itself whether anything is left in
//! memory that it should have written.

use super::options;
use super::store::Store;
use crate::write_error::WriteError;
use rocksdb::FlushOptions;
use std::sync::PoisonError;
use std::time::Duration;

/// The count of a family's memory tables that take no writes any more and are not on disk yet.
const UNFLUSHED: &str = "rocksdb.num-immutable-mem-table";
/// The pause before a flush that RocksDB began by itself is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Store {
    /// Flushes the database in one piece. All that it was given before is on disk then.
    pub(super) fn flush(&self) -> Result<(), WriteError> {
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            self.flush_once()?;
            // A flush closes the memory tables of all families. Their content is on disk once no
            // closed table is left. A flush that failed is an error of the next one.
            if self.unflushed()? == 0 {
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn flush_once(&self) -> Result<(), WriteError> {
        let families = options::NAMES.map(|name| self.cf(name));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        Ok(self.db.flush_cfs_opt(&families.each_ref()[..], &options)?)
    }

    fn unflushed(&self) -> Result<u64, WriteError> {
        let mut tables = 0;
        for name in options::NAMES {
            tables += self.db.property_int_value_cf(self.cf(name), UNFLUSHED)?.unwrap_or(0);
        }
        Ok(tables)
    }
}
