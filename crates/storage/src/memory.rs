//! The engine in memory, for the simulator: the promises of the engine on disk, and a crash on
//! demand.
//!
//! It is deterministic. [`MemoryEngine::crash`] loses everything that the engine on disk could
//! lose. It keeps no checksums, because no bit can flip here.

use crate::{
    Engine, HistoryRecord, Identity, LifeRefused, Lives, Recovered, ShardWrite, StorageError,
    identity, keys,
};
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most writes after which the parts that follow from the log are on disk as well.
const FLUSH_EVERY: usize = 32;

/// A store in memory. The crate's page has an example.
///
/// - Logs go to `durable` and `current` at once.
/// - `current` is `durable` plus the parts of `unflushed` that follow from the log, in order.
/// - Reads see `current`. A crash leaves `durable`.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    durable: Tables,
    unflushed: Vec<ShardWrite>,
    current: Tables,
    fail_next: bool,
    failed: bool,
}

#[derive(Clone, Debug, Default)]
struct Tables {
    identity: Option<Vec<u8>>,
    boot: u64,
    records: u64,
    node_records: BTreeMap<Vec<u8>, Vec<u8>>,
    shards: BTreeMap<ShardId, ShardTables>,
    lives: BTreeMap<ShardId, Lives>,
}

#[derive(Clone, Debug, Default)]
struct ShardTables {
    log: BTreeMap<u64, Vec<u8>>,
    hard_state: Option<Vec<u8>>,
    applied: Option<Vec<u8>>,
    table: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By the key that the record would have on disk, so that both engines return pages in the same
    /// order.
    history: BTreeMap<Vec<u8>, HistoryRecord>,
}

impl MemoryEngine {
    /// Makes an empty store.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// Simulates the death of the process: everything that follows from the log and was not flushed
    /// is lost.
    ///
    /// Afterwards the engine is as if opened anew. A failure is over as well.
    pub fn crash(&self) {
        let mut inner = self.lock();
        inner.current = inner.durable.clone();
        inner.unflushed.clear();
        inner.fail_next = false;
        inner.failed = false;
    }

    /// Makes everything durable, as a clean stop does.
    pub fn flush(&self) {
        self.lock().flush();
    }

    /// Makes the next write fail, and all writes after it until a crash, like a disk with a failed
    /// sync.
    pub fn fail_next_write(&self) {
        self.lock().fail_next = true;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic inside leaves the tables half-written. Only tests use this engine, and they fail
        // by that panic already.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn check_writable(&mut self) -> Result<(), StorageError> {
        if std::mem::take(&mut self.fail_next) {
            self.failed = true;
            return Err(StorageError::Io("the write failed, as the test requested".into()));
        }
        if self.failed {
            return Err(StorageError::Io("an earlier write failed, so this one is refused".into()));
        }
        Ok(())
    }

    fn lives_of(&self, shard: ShardId) -> Lives {
        self.durable.lives.get(&shard).copied().unwrap_or_default()
    }

    /// Changes the lives of a shard, which are durable at once. Returns whether they changed.
    fn change_lives(
        &mut self,
        shard: ShardId,
        change: impl FnOnce(Lives) -> Result<Option<Lives>, LifeRefused>,
    ) -> Result<bool, StorageError> {
        self.check_writable()?;
        let Some(lives) = change(self.lives_of(shard))? else { return Ok(false) };
        for tables in [&mut self.current, &mut self.durable] {
            tables.lives.insert(shard, lives);
        }
        Ok(true)
    }

    /// Makes everything durable.
    fn flush(&mut self) {
        for write in self.unflushed.drain(..) {
            self.durable.follow(&write);
        }
    }
}

impl Tables {
    fn apply(&mut self, write: &ShardWrite) {
        if write.reset {
            let tables = self.shards.entry(write.shard).or_default();
            *tables = ShardTables {
                history: std::mem::take(&mut tables.history),
                ..ShardTables::default()
            };
        }
        self.log(write);
        self.follow(write);
    }

    fn log(&mut self, write: &ShardWrite) {
        let tables = self.shards.entry(write.shard).or_default();
        if let Some(after) = write.delete_after {
            tables.log.retain(|index, _| *index <= after);
        }
        tables.log.extend(write.entries.iter().cloned());
        if let Some(hard_state) = &write.hard_state {
            tables.hard_state = Some(hard_state.clone());
        }
    }

    /// Applies the parts that follow from the log.
    fn follow(&mut self, write: &ShardWrite) {
        let tables = self.shards.entry(write.shard).or_default();
        if let Some(to) = write.truncate_to {
            tables.log.retain(|index, _| *index > to);
        }
        if let Some(applied) = &write.applied {
            tables.applied = Some(applied.clone());
        }
        for (key, value) in &write.table {
            match value {
                Some(value) => tables.table.insert(key.clone(), value.clone()),
                None => tables.table.remove(key),
            };
        }
        for record in write.history.iter().chain(&write.received) {
            let key = keys::history(write.shard, record.day, &record.name, record.token);
            tables.history.insert(key, record.clone());
        }
    }
}

impl Engine for MemoryEngine {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.check_writable()?;
        match &inner.current.identity {
            Some(stored) => identity::check(stored, identity, "this in-memory store")?,
            None => inner.current.identity = Some(identity::encode(identity)),
        }
        inner.current.boot += 1;
        (inner.durable.identity, inner.durable.boot) =
            (inner.current.identity.clone(), inner.current.boot);
        Ok(inner.current.boot)
    }

    fn raise_format(&self, format: u32) -> Result<u32, StorageError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.check_writable()?;
        let stored = inner.current.identity.as_ref().expect("the store was claimed");
        let (format, record) = identity::raised(stored, format, "this in-memory store")?;
        if record.is_some() {
            inner.durable.identity = record.clone();
            inner.current.identity = record;
        }
        Ok(format)
    }

    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.check_writable()?;
        for write in writes {
            inner.lives_of(write.shard).assert_writable(write.shard);
        }
        let resets = writes.iter().any(|write| write.reset);
        if writes.iter().any(|write| write.has_log() || write.reset) {
            inner.current.records += 1;
            inner.durable.records = inner.current.records;
        }
        if resets || inner.unflushed.len() >= FLUSH_EVERY {
            inner.flush();
        }
        for write in writes {
            write.assert_well_formed();
            inner.current.apply(write);
            if resets {
                inner.durable.apply(write);
            } else {
                inner.durable.log(write);
                let follows = ShardWrite {
                    entries: Vec::new(),
                    delete_after: None,
                    hard_state: None,
                    ..write.clone()
                };
                inner.unflushed.push(follows);
            }
        }
        Ok(())
    }

    fn host_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.lock().change_lives(shard, |lives| lives.host(shard, birth)).map(drop)
    }

    fn drop_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if inner.change_lives(shard, |lives| lives.destroy(shard, birth))? {
            for tables in [&mut inner.current, &mut inner.durable] {
                tables.shards.remove(&shard);
                tables.records += 1;
            }
            inner.unflushed.retain(|write| write.shard != shard);
        }
        Ok(())
    }

    fn lives(&self) -> BTreeMap<ShardId, Lives> {
        self.lock().durable.lives.clone()
    }

    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        let inner = self.lock();
        let Some(tables) = inner.current.shards.get(&shard) else {
            return Ok(Recovered::default());
        };
        let mut entries: Vec<(u64, Vec<u8>)> = Vec::with_capacity(tables.log.len());
        for (index, bytes) in &tables.log {
            if let Some((last, _)) = entries.last() {
                crate::engine::check_consecutive(shard, *last, *index)?;
            }
            entries.push((*index, bytes.clone()));
        }
        Ok(Recovered {
            entries,
            hard_state: tables.hard_state.clone(),
            applied: tables.applied.clone(),
            table: tables.table.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        })
    }

    fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError> {
        let inner = self.lock();
        let records =
            inner.current.shards.get(&shard).into_iter().flat_map(|tables| tables.history.values());
        let mut found: Vec<HistoryRecord> =
            records.filter(|record| record.name == name).cloned().collect();
        found.sort_by_key(|record| std::cmp::Reverse(record.token));
        found.truncate(limit);
        Ok(found)
    }

    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        let inner = self.lock();
        let records =
            inner.current.shards.get(&shard).into_iter().flat_map(|tables| tables.history.iter());
        let mut rest = records
            .filter(|(key, record)| {
                cursor.as_ref().is_none_or(|at| *key > at) && record.index > after_index
            })
            .peekable();
        let (mut page, mut last) = (Vec::new(), cursor.clone());
        while page.len() < limit
            && let Some((key, record)) = rest.next()
        {
            page.push(record.clone());
            last = Some(key.clone());
        }
        let next = rest.peek().is_some().then(|| last.unwrap_or_default());
        Ok((page, next))
    }

    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.check_writable()?;
        // Retention needs no order: days that a crash brings back are dropped again.
        for tables in [&mut inner.current, &mut inner.durable] {
            if let Some(tables) = tables.shards.get_mut(&shard) {
                tables.history.retain(|_, record| record.day >= day);
            }
        }
        inner.unflushed.iter_mut().filter(|write| write.shard == shard).for_each(|write| {
            write.history.retain(|record| record.day >= day);
            write.received.retain(|record| record.day >= day);
        });
        Ok(())
    }

    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.lock().current.node_records.get(name).cloned())
    }

    fn last_record(&self) -> u64 {
        self.lock().durable.records
    }

    fn born(&self) -> Option<u128> {
        None
    }

    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.check_writable()?;
        for tables in [&mut inner.current, &mut inner.durable] {
            tables.node_records.extend(records.iter().cloned());
        }
        Ok(())
    }
}
