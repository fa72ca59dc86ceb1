//! A reset: a snapshot replaces all that a shard has, in one piece, while other shards are being
//! written.
//!
//! It is on disk only after a flush of the database, which takes seconds. These are the steps, and
//! the state that a crash after each leaves:
//!
//! 1. *Begin* (under the lock). From here on no segment repeats the shard's former hard state, and
//!    no segment is retired. A crash finds the former shard.
//! 2. *Put* the new records into the database's memory, in one batch, with the number of the
//!    journal's next record: earlier records no longer count for the shard. Nothing has changed on
//!    disk, so a crash still finds the former shard.
//! 3. *Forget* (under the lock) the shard's entries in the journal. Segments may be retired again,
//!    because retiring takes a flush of the database, and that flush writes the batch too.
//! 4. *Flush*. With it the reset is on disk. A crash before its end loses all of the reset.
//! 5. *Record* the hard state in the journal, so that the number of the last record shows that the
//!    store has advanced.
//!
//! No other write of this shard happens between steps 1 and 4. Otherwise:
//!
//! 1. The snapshot at index 900 is put into memory.
//! 2. Entry 901 is written to the journal and acknowledged.
//! 3. A crash takes the snapshot back. The log now has entry 901 after entry 500, which recovery
//!    reports as damage.

use super::store::{Store, put_in_memory};
use crate::{ShardWrite, StorageError, keys};
use rocksdb::WriteBatch;
use std::sync::atomic::Ordering;

/// What a record takes in a batch beside key and value, at most: its shard, its checksum, and lengths.
const RECORD_OVERHEAD: usize = 32;

/// Writes a reset, which is on disk when this returns.
///
/// # Errors
/// [`StorageError::Io`] if a write failed. The engine takes no writes any more then.
pub(super) fn reset(store: &Store, write: &ShardWrite) -> Result<(), StorageError> {
    assert!(write.reset, "only a reset replaces a shard");
    let records_bytes: usize = write
        .table
        .iter()
        .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len) + RECORD_OVERHEAD)
        .sum();
    let mut batch = WriteBatch::with_capacity_bytes(records_bytes);
    store.add_to_batch(&mut batch, write, u64::MAX);
    let mut next = 0;
    store.change(|writer| {
        writer.lives_of(write.shard).assert_writable(write.shard);
        next = writer.journal.begin_reset(write.shard);
        // History stays in a reset, so it may come before it.
        let mut history = WriteBatch::default();
        store.add_history(writer, &mut history, write)?;
        put_in_memory(&store.db, history)
    })?;
    let key = keys::journal_from(write.shard);
    batch.put_cf(store.cf(keys::CF_META), &key, keys::seal(&key, &next.to_le_bytes()));
    // Other writes to the database wait for this one, which does not use the disk.
    store.loading.store(true, Ordering::Relaxed);
    let put = put_in_memory(&store.db, batch);
    store.loading.store(false, Ordering::Relaxed);
    store.change(|writer| {
        put?;
        writer.journal.reset(write);
        Ok(())
    })?;
    let flushed = store.flush();
    store.change(|writer| {
        flushed?;
        // A reset is acknowledged as well, so it gets a record of its own. Otherwise a copy of the
        // directory from before the reset would have the same number, and peers could not tell that
        // it is older.
        match write.hard_state.clone() {
            Some(bytes) => {
                let hard_state = Some(bytes);
                store.append(
                    writer,
                    &[&ShardWrite { shard: write.shard, hard_state, ..ShardWrite::default() }],
                )
            }
            None => writer.mark.advance(writer.journal.last(), None),
        }
    })
}
