//! The journal's keeper: a thread that makes room in it, so that those who write need not wait for that.
//!
//! It has the database on disk before segments are used again whose entries only it has, and makes files ahead of need.

use super::{Store, put_in_memory};
use crate::{StorageError, keys};
use rocksdb::WriteBatch;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

#[derive(Debug)]
pub(super) struct Keeper {
    /// `None`: it was stopped.
    running: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Keeper {
    pub(super) fn start(store: Arc<Store>) -> Result<Keeper, StorageError> {
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new().name("journal-keeper".into()).spawn(move || run(&store, &woken));
        let thread = thread.map_err(|error| StorageError::Io(format!("cannot start a thread: {error}")))?;
        Ok(Keeper { running: Some((wake, thread)) })
    }

    /// There may be something to do.
    pub(super) fn wake(&self) {
        if let Some((wake, _)) = &self.running {
            // One that waits already stands for all; if the thread has ended, writes are refused.
            let _ = wake.try_send(());
        }
    }

    /// Returns when it does nothing any more.
    pub(super) fn stop(&mut self) {
        if let Some((wake, thread)) = self.running.take() {
            drop(wake);
            // If it panicked, whatever it held back stays in the journal.
            let _ = thread.join();
        }
    }
}

fn run(store: &Store, woken: &Receiver<()>) {
    loop {
        // What fails is kept as the reason why the next write is refused.
        if make_file(store).and_then(|()| make_room(store)).is_err() || woken.recv().is_err() {
            return;
        }
    }
}

fn make_file(store: &Store) -> Result<(), StorageError> {
    let Some(make) = store.writer().journal.spare() else { return Ok(()) };
    let made = make();
    store.change(|writer| {
        writer.journal.give_back(made.map_err(|error| format!("making a file for the journal: {error}"))?)
    })
}

/// What is written while the database is flushed goes on in other segments.
fn make_room(store: &Store) -> Result<(), StorageError> {
    let mut retired = None;
    store.change(|writer| {
        if !writer.journal.is_long() {
            return Ok(());
        }
        let taken = writer.journal.retire().map_err(|error| error.to_string())?;
        let mut batch = WriteBatch::default();
        for (shard, index, sealed) in &taken.moved {
            batch.put_cf(store.cf(keys::CF_LOG), keys::log(*shard, *index), sealed);
        }
        let key = keys::oldest_segment();
        batch.put_cf(store.cf(keys::CF_META), &key, keys::seal(&key, &taken.oldest.to_le_bytes()));
        put_in_memory(&store.db, batch)?;
        retired = Some(taken.slots);
        Ok(())
    })?;
    let Some(slots) = retired else { return Ok(()) };
    let flushed = store.flush();
    store.change(|writer| {
        flushed?;
        slots.into_iter().try_for_each(|slot| writer.journal.give_back(slot))
    })
}
