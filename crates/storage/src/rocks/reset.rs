//! A reset: a snapshot takes the place of all that a shard has, in one piece, while other shards' writes go on.
//!
//! It is on disk only after a flush of the database, which takes seconds. The steps, and what a crash after each finds:
//!
//! 1. *Begin* (under the lock): from here on no segment repeats the shard's former hard state, and none is retired. Nothing
//!    has changed.
//! 2. *Put* the new records into the database's memory, in one batch, with the number of the journal's next record: what
//!    stands before that in the journal says nothing of the shard any more. Still nothing has changed on disk.
//! 3. *Forget* (under the lock) what the journal has of the shard. Segments may be retired again, since that takes a flush of
//!    the database, and with it the batch is on disk.
//! 4. *Flush*. With it the reset is on disk; before, all of it is lost and the shard stands where it stood.
//! 5. *Record* the hard state in the journal, so that the last record tells that the store went further.
//!
//! Nobody writes anything of this shard between 1 and 4: its log would follow a snapshot that a crash can take back.

use super::{Store, put_in_memory};
use crate::{ShardWrite, StorageError, keys};
use rocksdb::WriteBatch;
use std::sync::atomic::Ordering;

/// Writes a reset; on disk when this returns.
///
/// # Errors
/// [`StorageError::Io`]: the engine takes no writes any more.
pub(super) fn reset(store: &Store, write: &ShardWrite) -> Result<(), StorageError> {
    assert!(write.reset, "only a reset replaces a shard");
    let mut batch = WriteBatch::default();
    store.add_to_batch(&mut batch, write, u64::MAX);
    let mut next = 0;
    store.change(|writer| {
        next = writer.journal.begin_reset(write.shard);
        Ok(())
    })?;
    let key = keys::journal_from(write.shard);
    batch.put_cf(store.cf(keys::CF_META), &key, keys::seal(&key, &next.to_le_bytes()));
    // Other writes to the database wait for this one, and the disk has no part in it.
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
        // What a reset brings is acknowledged, too. With a record for it, a copy of the directory from before is an older one by
        // its number.
        match write.hard_state.clone() {
            Some(bytes) => {
                let hard_state = Some(bytes);
                store.append(writer, &[&ShardWrite { shard: write.shard, hard_state, ..ShardWrite::default() }])
            }
            None => writer.mark.advance(writer.journal.last(), None),
        }
    })
}
