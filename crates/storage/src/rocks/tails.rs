//! The tails of all shards: the last rows of history, whose names are not in an index yet.
//!
//! Only what is known of them in memory. The module knows nothing of RocksDB.

use crate::packed::{self, Named, Place};
use routing::ShardId;
use std::collections::BTreeMap;

/// How much of a tail a reader looks through, about: tenures, and each row as this many of them.
pub(super) const TAIL_MAX: u64 = 1 << 16;
pub(super) const ROW_WEIGHT: u64 = 4;
/// No row has a place behind it.
const LAST: Place = [u8::MAX; packed::PLACE_BYTES];

/// The tails of the shards that were written since the start.
#[derive(Debug, Default)]
pub(super) struct Tails {
    pub(super) tails: BTreeMap<ShardId, Tail>,
    begun: u64,
}

/// The rows of a shard that are not named yet.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) named: Named,
    /// The lowest place that was written since the keeper began to read the tail.
    pub(super) lowest: Place,
    /// The weight of all rows that were written since the start.
    pub(super) written: u64,
    /// The weight of those of them that are named.
    pub(super) before: u64,
    /// Of this life of the replica, and since the start: no other tail has the number.
    pub(super) number: u64,
}

impl Tail {
    fn is_long(&self) -> bool {
        self.written - self.before >= TAIL_MAX
    }
}

impl Tails {
    pub(super) fn is_long(&self, shard: ShardId) -> bool {
        self.tails.get(&shard).is_some_and(Tail::is_long)
    }

    /// Forgets a shard that is destroyed.
    pub(super) fn forget(&mut self, shard: ShardId) {
        self.tails.remove(&shard);
    }

    /// So many rows with so many tenures were written, the first of them at `lowest`. Returns how
    /// far rows are named from now on, if that is less far than before.
    pub(super) fn wrote(
        &mut self,
        shard: ShardId,
        (rows, tenures): (u64, u64),
        lowest: Place,
    ) -> Option<Named> {
        let tail = self.tails.get_mut(&shard).expect("it was begun");
        tail.written += rows * ROW_WEIGHT + tenures;
        tail.lowest = tail.lowest.min(lowest);
        (lowest < tail.named.before).then(|| {
            tail.named.before = lowest;
            tail.named
        })
    }

    /// Notes that a tail is read from now on, and returns it, if any is long.
    pub(super) fn next_long(&mut self) -> Option<Next> {
        let (shard, tail) = self.tails.iter_mut().find(|(_, tail)| tail.is_long())?;
        tail.lowest = LAST;
        Some(Next { shard: *shard, number: tail.number, written: tail.written })
    }

    /// Begins with the tail that the start found, which may be long.
    pub(super) fn begin(&mut self, shard: ShardId, named: Named) {
        self.begun += 1;
        let (written, number) = (TAIL_MAX, self.begun);
        let tail = Tail { named, lowest: LAST, written, before: 0, number };
        self.tails.insert(shard, tail);
    }
}

/// A tail that is going to be read.
pub(super) struct Next {
    pub(super) shard: ShardId,
    pub(super) number: u64,
    /// The weight that was written before.
    pub(super) written: u64,
}
