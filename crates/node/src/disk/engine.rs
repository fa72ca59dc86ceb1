//! The node's store, with a watch on the writes of the node's own records.
//!
//! The log writer watches its own writes. Other shard writes, a snapshot for example, run beside it
//! and are not watched, because they may take long on a disk that works.

use super::DiskWatch;
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{Engine, HistoryRecord, Identity, Lives, Recovered, ShardWrite, Sizes, StorageError};

/// An engine with a watch on the writes of records.
pub(crate) struct Watched {
    pub(crate) inner: Arc<dyn Engine>,
    pub(crate) disk: Arc<DiskWatch>,
}

impl Engine for Watched {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        self.disk.during(|| self.inner.claim(identity))
    }

    fn raise_format(&self, format: u32) -> Result<u32, StorageError> {
        self.disk.during(|| self.inner.raise_format(format))
    }

    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError> {
        self.inner.write(writes)
    }

    fn host_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.disk.during(|| self.inner.host_shard(shard, birth))
    }

    fn drop_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.disk.during(|| self.inner.drop_shard(shard, birth))
    }

    fn lives(&self) -> BTreeMap<ShardId, Lives> {
        self.inner.lives()
    }

    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        self.inner.recover(shard)
    }

    fn table(
        &self,
        shard: ShardId,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.table(shard, each)
    }

    fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError> {
        self.inner.history(shard, name, limit)
    }

    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        self.inner.history_since(shard, after_index, cursor, limit)
    }

    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        self.inner.drop_history_before(shard, day)
    }

    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.node_record(name)
    }

    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        self.disk.during(|| self.inner.put_node_records(records))
    }

    fn last_record(&self) -> u64 {
        self.inner.last_record()
    }

    fn born(&self) -> Option<u128> {
        self.inner.born()
    }

    fn is_loading(&self) -> bool {
        self.inner.is_loading()
    }

    fn sizes(&self) -> Option<Sizes> {
        self.inner.sizes()
    }

    fn measure_syncs(&self, next: &dyn Fn()) -> Result<Vec<Duration>, StorageError> {
        // Each sync is watched by itself, because five syncs of a slow disk take as long as one of
        // a disk that hangs.
        self.disk.during_each(|again| {
            self.inner.measure_syncs(&|| {
                again();
                next();
            })
        })
    }
}
