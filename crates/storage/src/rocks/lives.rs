//! The beginning and the end of a replica's life: its birth, and the write that destroys it.
//!
//! Both are one synced batch in the database's write-ahead log, under the writer's lock. An end has
//! these steps, and a crash after each leaves this state:
//!
//! 1. *Put* the batch. It deletes all that the database has of the shard, says that the journal's
//!    records so far do not count for it, and has the tombstone. A crash before its end finds the
//!    whole replica, and a crash after it finds nothing but the tombstone.
//! 2. *Forget* the shard's entries and hard state in the journal's memory. So no segment that begins
//!    later repeats that hard state, which would count for the next life.
//! 3. *Append* a record without content, so that the number of the last record shows that the store
//!    has advanced. Otherwise peers could not tell a copy of the directory from before the drop, in
//!    which the replica is alive.
//!
//! In contrast to a [reset](super::reset), nothing of this needs a flush. A reset may be too large
//! for the write-ahead log. This batch is small, because it deletes whole ranges. The journal's
//! records that it voids are on disk, because each is synced before the lock is free. Entries that
//! moved to the database's memory, checkpoints and history come before the batch there, whether they
//! were flushed or not, so the deletion covers them.
//!
//! A record of the next life has a number from this one on, so it counts, also in the same segment.

use super::store::{Store, Writer};
use crate::write_error::WriteError;
use crate::{LifeRefused, Lives, StorageError, keys};
use rocksdb::WriteBatch;
use routing::ShardId;

/// See [`Engine::host_shard`](crate::Engine::host_shard).
pub(super) fn host(store: &Store, shard: ShardId, birth: u32) -> Result<(), StorageError> {
    change(
        store,
        shard,
        |lives| lives.host(shard, birth),
        |writer| {
            let mut batch = WriteBatch::default();
            put(store, &mut batch, &keys::birth(shard), &birth.to_le_bytes());
            store.put_synced(writer, batch)
        },
    )
}

/// See [`Engine::drop_shard`](crate::Engine::drop_shard).
pub(super) fn drop(store: &Store, shard: ShardId, birth: u32) -> Result<(), StorageError> {
    change(
        store,
        shard,
        |lives| lives.destroy(shard, birth),
        |writer| {
            let mut batch = WriteBatch::default();
            for family in [keys::CF_LOG, keys::CF_STATE, keys::CF_HISTORY] {
                let (start, end) = (keys::shard_start(shard), keys::shard_end(shard));
                batch.delete_range_cf(store.cf(family), start, end);
            }
            for key in [keys::hard_state(shard), keys::truncated(shard), keys::birth(shard)] {
                batch.delete_cf(store.cf(keys::CF_META), key);
            }
            let next = writer.journal.last() + 1;
            put(store, &mut batch, &keys::journal_from(shard), &next.to_le_bytes());
            put(store, &mut batch, &keys::tombstone(shard), &birth.to_le_bytes());
            store.put_synced(writer, batch)?;
            writer.tails.forget(shard);
            writer.journal.forget(shard);
            store.append(writer, &[])
        },
    )
}

fn put(store: &Store, batch: &mut WriteBatch, key: &[u8], bytes: &[u8]) {
    batch.put_cf(store.cf(keys::CF_META), key, keys::seal(key, bytes));
}

/// Changes the lives of a shard on disk by `write`, and then in memory, if `judge` allows a change.
fn change(
    store: &Store,
    shard: ShardId,
    judge: impl FnOnce(Lives) -> Result<Option<Lives>, LifeRefused>,
    write: impl FnOnce(&mut Writer) -> Result<(), WriteError>,
) -> Result<(), StorageError> {
    // A refusal is no failure of the store, so it does not close it.
    let mut refused = None;
    store.change(|writer| {
        match judge(writer.lives_of(shard)) {
            Ok(None) => {}
            Ok(Some(lives)) => {
                write(writer)?;
                writer.lives.insert(shard, lives);
            }
            Err(why) => refused = Some(why),
        }
        Ok(())
    })?;
    refused.map_or(Ok(()), |why| Err(why.into()))
}
