//! The journal's keeper: a thread that makes room in the journal, so that writers need not wait for
//! it.
//!
//! It flushes the database before segments are used again, because until then only they have some
//! of the entries. It also makes files ahead of need, and writes the index of history.

use super::store::{Store, put_in_memory};
use crate::journal::SegmentFile;
use crate::write_error::WriteError;
use crate::{StorageError, keys};
use rocksdb::WriteBatch;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

#[derive(Debug)]
pub(super) struct Keeper {
    /// The channel that wakes the thread, and the thread. `None` once it was stopped.
    running: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Keeper {
    pub(super) fn start(store: Arc<Store>) -> Result<Keeper, StorageError> {
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("journal-keeper".into())
            .spawn(move || run(&store, &woken));
        let thread =
            thread.map_err(|error| StorageError::Io(format!("cannot start a thread: {error}")))?;
        Ok(Keeper { running: Some((wake, thread)) })
    }

    /// Tells the thread that there may be work.
    pub(super) fn wake(&self) {
        if let Some((wake, _)) = &self.running {
            // A wake-up that is already queued stands for all. If the thread has ended, writes are
            // refused.
            let _ = wake.try_send(());
        }
    }

    /// Stops the thread and waits for its end.
    pub(super) fn stop(&mut self) {
        if let Some((wake, thread)) = self.running.take() {
            drop(wake);
            // If it panicked, its unfinished segments stay in the journal.
            let _ = thread.join();
        }
    }
}

fn run(store: &Store, woken: &Receiver<()>) {
    let _guard = PanicGuard(store);
    loop {
        // A failure closes the engine for writes, with its text as the reason. A tail is named in
        // parts, with a look at the journal and at the end after each.
        let kept = make_file(store)
            .and_then(|()| make_room(store))
            .and_then(|()| store.name_a_long_tail());
        let is_over = match kept {
            Ok(true) => woken.try_recv() == Err(TryRecvError::Disconnected),
            Ok(false) => woken.recv().is_err(),
            Err(_) => true,
        };
        if is_over {
            return;
        }
    }
}

/// Closes the engine if the keeper panics. Without a keeper the journal would only grow.
struct PanicGuard<'a>(&'a Store);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.writer().failed.get_or_insert_with(|| "the journal's keeper panicked".into());
        }
    }
}

fn make_file(store: &Store) -> Result<(), StorageError> {
    let Some(new) = store.writer().journal.spare() else { return Ok(()) };
    let made = new.make();
    store.change(|writer| {
        writer.journal.give_back(made.map_err(WriteError::disk("making a file for the journal"))?)
    })
}

/// Retires segments, flushes the database and frees their files. Writes meanwhile go to other
/// segments.
fn make_room(store: &Store) -> Result<(), StorageError> {
    if !store.writer().journal.is_long() {
        return Ok(());
    }
    let mut segment_files = Vec::new();
    // One segment at a time, so that writes get in between.
    while let Some(retired) = retire(store, segment_files.len())? {
        segment_files.push(retired);
    }
    let flushed = store.flush();
    // Deleted files may have made room for the reserve.
    let _ = store.reserve.keep();
    store.change(|writer| {
        flushed?;
        writer.mark.sync()?;
        segment_files
            .into_iter()
            .try_for_each(|segment_file| writer.journal.give_back(segment_file))
    })
}

fn retire(store: &Store, so_far: usize) -> Result<Option<SegmentFile>, StorageError> {
    let mut segment_file = None;
    store.change(|writer| {
        let Some(retired) = writer.journal.retire(so_far).map_err(WriteError::Unreadable)? else {
            return Ok(());
        };
        let mut batch = WriteBatch::default();
        for (shard, index, sealed) in &retired.moved {
            batch.put_cf(store.cf(keys::CF_LOG), keys::log(*shard, *index), sealed);
        }
        let key = keys::oldest_segment();
        batch.put_cf(
            store.cf(keys::CF_META),
            &key,
            keys::seal(&key, &retired.oldest.to_le_bytes()),
        );
        segment_file = Some(retired.segment_file);
        put_in_memory(&store.db, batch)
    })?;
    Ok(segment_file)
}
