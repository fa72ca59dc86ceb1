//! Names of tenures in rows: the index of them, who writes it, and how a name is found.
//!
//! Rows are written in the order of their entries. The last rows of a shard are its *tail*: they are
//! not in the index yet, and a reader looks through all of them. Once the tail is long, the journal's
//! keeper reads it and writes an index of its names in parts. Last it writes the record that tells
//! how far rows are named. A crash in between leaves parts that are written again, or that name a row
//! twice. A reader then reads that row twice, and tells its tenures once.
//!
//! A row may come at a place that is named already, because entries are applied again after a crash.
//! Then the batch of the row takes that record back to the row's place. The keeper does the same at
//! its end for rows that came into the tail while it read.

use super::history::{Newest, finished, key_of, row_bytes};
use super::store::{Store, put_in_memory};
use super::tails::{Next, ROW_WEIGHT, TAIL_MAX, Tail, Tails};
use crate::packed::{self, Bucket, Key, Named, Names};
use crate::write_error::WriteError;
use crate::{HistoryRecord, StorageError, keys};
use rocksdb::{ColumnFamily, DBRawIterator, WriteBatch};
use routing::ShardId;

/// Most records of an index that are put at once. Writers of the journal wait meanwhile.
const PUT_MAX: usize = 256;

impl Store {
    /// Puts tenures in rows into a batch for the database's memory.
    pub(super) fn add_rows(
        &self,
        tails: &mut Tails,
        batch: &mut WriteBatch,
        (shard, records): (ShardId, &[HistoryRecord]),
    ) -> Result<(), WriteError> {
        let history = self.cf(keys::CF_HISTORY);
        let (mut sealed, mut rows, mut lowest) = (Vec::new(), 0, None);
        packed::pack(records, |place, bytes| {
            let key = packed::row(shard, place);
            keys::seal_into(&mut sealed, &key, [bytes, &[]]);
            batch.put_cf(history, key, &sealed);
            lowest.get_or_insert(*place); // They come in order.
            rows += 1;
        });
        let Some(lowest) = lowest else { return Ok(()) };
        if !tails.tails.contains_key(&shard) {
            let key = packed::named(shard);
            let what = || format!("shard {shard}, how far history is named");
            let named = self.get(keys::CF_HISTORY, &key, &what).map_err(WriteError::Unreadable)?;
            let named = named.map_or(Some(Named::NONE), |bytes| Named::decode(&bytes));
            let named = named.ok_or_else(|| WriteError::Unreadable(damaged(shard, &key)))?;
            tails.begin(shard, named);
        }
        if let Some(named) = tails.wrote(shard, (rows, records.len() as u64), lowest) {
            put_named(batch, history, shard, &named);
        }
        Ok(())
    }

    /// Names rows of one tail that is long, about as many as a reader looks through. Returns whether
    /// there was one.
    pub(super) fn name_a_long_tail(&self) -> Result<bool, StorageError> {
        let Some(next) = self.next_tail() else { return Ok(false) };
        match self.read_tail(&next) {
            Ok(read) => self.put_names(&next, read)?,
            // The keeper ends with this, so the engine must take no more writes.
            Err(error) => self.change(|_| Err(WriteError::Unreadable(error)))?,
        }
        Ok(true)
    }

    fn next_tail(&self) -> Option<Next> {
        self.writer().tails.next_long()
    }

    /// Reads rows of a tail: all of them, if it is not longer than a reader looks through.
    fn read_tail(&self, next: &Next) -> Result<Read, StorageError> {
        let whole = (keys::shard_start(next.shard), keys::shard_end(next.shard));
        read_tail(&mut self.range(keys::CF_HISTORY, whole.0, whole.1), next.shard)
    }

    /// Writes the index of these rows, and then how far rows are named with it.
    fn put_names(&self, next: &Next, read: Read) -> Result<(), StorageError> {
        let Read { names, mut named, is_all } = read;
        let (shard, history) = (next.shard, self.cf(keys::CF_HISTORY));
        let (mut batch, mut batches) = (WriteBatch::default(), Vec::new());
        for names in names {
            names.encode(shard, named.token_max, |key, bytes| {
                batch.put_cf(history, key, keys::seal(key, bytes));
                if batch.len() >= PUT_MAX {
                    batches.push(std::mem::take(&mut batch));
                }
            });
        }
        batches.push(batch);
        for batch in batches {
            self.with_tail(next, |_| put_in_memory(&self.db, batch))?;
        }
        self.with_tail(next, |tail| {
            named.before = named.before.min(tail.lowest);
            let mut batch = WriteBatch::default();
            put_named(&mut batch, history, shard, &named);
            put_in_memory(&self.db, batch)?;
            tail.named = named;
            if is_all {
                tail.before = next.written;
            }
            Ok(())
        })
    }

    /// Writes an index, if the replica whose tail was read is still here.
    fn with_tail(
        &self,
        next: &Next,
        write: impl FnOnce(&mut Tail) -> Result<(), WriteError>,
    ) -> Result<(), StorageError> {
        self.change(|writer| {
            let tail = writer.tails.tails.get_mut(&next.shard);
            tail.filter(|tail| tail.number == next.number).map_or(Ok(()), write)
        })
    }

    /// Adds the tenures of a name that are in rows.
    pub(super) fn history_in_rows(
        &self,
        iterator: &mut DBRawIterator<'_>,
        shard: ShardId,
        name: &str,
        newest: &mut Newest,
    ) -> Result<(), StorageError> {
        let named = read_named(iterator, shard)?;
        iterator.seek(packed::row(shard, &named.before));
        while tenures_of(iterator, shard, name, newest)?.is_some() {
            iterator.next();
        }
        let hash = packed::hash(name);
        let bucket = packed::bucket(hash);
        // The newest day first. An older one may have a higher token: see `Bucket::token_max`. Most
        // days have one seek, backwards from the end of the bucket: a seek reads a block of each file.
        let mut next_day = Some(packed::DAY_MAX);
        while let Some(day) = next_day {
            iterator.seek_for_prev(packed::names(shard, day, Some(bucket + 1)));
            let Some(at) = names_at(iterator, shard)? else { break };
            if at.0 < day && at.1 > bucket {
                next_day = Some(at.0); // The day has none, and this is the end of one before it.
                continue;
            }
            let day = at.0;
            while names_at(iterator, shard)? == Some((day, bucket)) {
                let entries = entries_of(iterator, (shard, hash), newest)?;
                // All of the day: names that were written again may reach behind these.
                add_entries(iterator, (shard, day, name), &entries, newest)?;
                iterator.prev();
            }
            finished(iterator, shard)?;
            // The day before is a guess, unless this was the first bucket of the day.
            next_day = names_at(iterator, shard)?.and_then(|(before, _)| match before < day {
                true => Some(before),
                false => day.checked_sub(1),
            });
        }
        finished(iterator, shard)
    }
}

/// Day and bucket of the names where the iterator is.
fn names_at(
    iterator: &DBRawIterator<'_>,
    shard: ShardId,
) -> Result<Option<(u32, u16)>, StorageError> {
    let Some(key) = iterator.key() else { return Ok(None) };
    Ok(match key_of(shard, key)? {
        Some(Key::Names { day, bucket, .. }) => Some((day, bucket)),
        _ => None,
    })
}

/// The entries that have tenures of names with this hash, ascending, by the names where the iterator
/// is. None if no tenure there may be among the newest.
fn entries_of(
    iterator: &DBRawIterator<'_>,
    (shard, hash): (ShardId, u32),
    newest: &Newest,
) -> Result<Vec<u64>, StorageError> {
    let Some((key, value)) = iterator.item() else { return Ok(Vec::new()) };
    let Some(Key::Names { base, .. }) = key_of(shard, key)? else { return Ok(Vec::new()) };
    let bytes =
        keys::unseal(key, value, || format!("shard {shard}, names of history, {key:02x?}"))?;
    let indices =
        Bucket::decode(base, bytes).and_then(|bucket| match newest.wants(bucket.token_max) {
            true => bucket.indices(hash),
            false => Some(Vec::new()),
        });
    indices.ok_or_else(|| damaged(shard, key))
}

/// Adds the tenures of a name that are in rows of these entries, and leaves the iterator where it was.
fn add_entries(
    iterator: &mut DBRawIterator<'_>,
    (shard, day, name): (ShardId, u32, &str),
    entries: &[u64],
    newest: &mut Newest,
) -> Result<(), StorageError> {
    let Some(here) = iterator.key().filter(|_| !entries.is_empty()).map(<[u8]>::to_vec) else {
        return Ok(());
    };
    // The newest entries first: they likely have the highest tokens.
    for index in entries.iter().rev() {
        iterator.seek(packed::row(shard, &packed::place(day, *index, 0)));
        while tenures_of(iterator, shard, name, newest)? == Some(*index) {
            iterator.next();
        }
    }
    iterator.seek(here);
    Ok(())
}

/// The rows of a tail, read.
struct Read {
    /// By day.
    names: Vec<Names>,
    /// How far rows are named with these.
    named: Named,
    /// Whether these are all rows of the tail.
    is_all: bool,
}

fn read_tail(iterator: &mut DBRawIterator<'_>, shard: ShardId) -> Result<Read, StorageError> {
    let (mut names, mut weight, mut last) = (Vec::new(), 0, None);
    let mut named = read_named(iterator, shard)?;
    iterator.seek(packed::row(shard, &named.before));
    while let Some((key, value)) = iterator.item() {
        let Some(Key::Row(place)) = key_of(shard, key)? else { break };
        let (day, index, _) = packed::parts(&place);
        // Rows of one entry stay together.
        if weight >= TAIL_MAX && last != Some((day, index)) {
            return Ok(Read { names, named, is_all: false });
        }
        if last.is_none_or(|(before, _)| before != day) {
            names.push(Names::new(place));
        }
        last = Some((day, index));
        weight += ROW_WEIGHT;
        let of_day: &mut Names = names.last_mut().expect("one was pushed for the first row");
        packed::unpack(shard, &place, row_bytes(shard, key, value)?, |tenure| {
            of_day.add(tenure.name, index);
            named.token_max = named.token_max.max(tenure.token);
            weight += 1;
            true
        })?;
        named.before = packed::after(&place);
        iterator.next();
    }
    finished(iterator, shard)?;
    Ok(Read { names, named, is_all: true })
}

fn read_named(iterator: &mut DBRawIterator<'_>, shard: ShardId) -> Result<Named, StorageError> {
    let own = packed::named(shard);
    iterator.seek(&own);
    match iterator.item().filter(|(key, _)| *key == own) {
        None => finished(iterator, shard).map(|()| Named::NONE),
        Some((key, value)) => {
            let bytes =
                keys::unseal(key, value, || format!("shard {shard}, how far history is named"))?;
            Named::decode(bytes).ok_or_else(|| damaged(shard, key))
        }
    }
}

/// Adds the tenures of a name in the row where the iterator is. Returns the row's entry, or `None`
/// if this is no row.
fn tenures_of(
    iterator: &DBRawIterator<'_>,
    shard: ShardId,
    name: &str,
    newest: &mut Newest,
) -> Result<Option<u64>, StorageError> {
    let Some((key, value)) = iterator.item() else {
        return finished(iterator, shard).map(|()| None);
    };
    let Some(Key::Row(place)) = key_of(shard, key)? else { return Ok(None) };
    packed::unpack(shard, &place, row_bytes(shard, key, value)?, |tenure| {
        if tenure.name == name {
            newest.add(tenure.record());
        }
        true
    })?;
    Ok(Some(packed::parts(&place).1))
}

fn put_named(batch: &mut WriteBatch, history: &ColumnFamily, shard: ShardId, named: &Named) {
    let key = packed::named(shard);
    batch.put_cf(history, &key, keys::seal(&key, &named.encode()));
}

fn damaged(shard: ShardId, key: &[u8]) -> StorageError {
    StorageError::Damaged(format!("shard {shard}, history: the record {key:02x?} has other bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, Identity, RocksEngine, ShardWrite};

    const SHARD: ShardId = ShardId(5);

    fn engine(dir: &std::path::Path) -> RocksEngine {
        let engine = RocksEngine::open(dir).expect("a new store");
        engine.claim(&Identity { fingerprint: [7; 16], node: 1 }).expect("claim");
        engine.raise_format(super::super::history::PACKED_FORMAT).expect("raise");
        engine
    }

    fn tenure(day: u32, index: u64, token: u64) -> HistoryRecord {
        HistoryRecord { day, name: "n".into(), token, index, tenure: vec![1] }
    }

    fn end(engine: &RocksEngine, records: Vec<HistoryRecord>) {
        let write = ShardWrite { shard: SHARD, history: records, ..ShardWrite::default() };
        engine.write(&[write]).expect("write");
    }

    fn tokens(engine: &RocksEngine, limit: usize) -> Vec<u64> {
        let found = engine.history(SHARD, "n", limit).expect("history");
        found.into_iter().map(|record| record.token).collect()
    }

    fn named(engine: &RocksEngine) -> Named {
        let whole = (keys::shard_start(SHARD), keys::shard_end(SHARD));
        read_named(&mut engine.store.range(keys::CF_HISTORY, whole.0, whole.1), SHARD)
            .expect("read")
    }

    /// The keeper has done what the first write of a start made it do.
    fn keeper_rests(engine: &RocksEngine) {
        while engine.store.writer().tails.is_long(SHARD) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Regression: a row between those that the keeper had read was named by nobody, and its tenures
    /// were not found.
    #[test]
    fn a_row_that_comes_while_its_tail_is_named_is_found() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let engine = engine(dir.path());
        end(&engine, vec![tenure(1, 10, 1)]);
        keeper_rests(&engine);
        let other = HistoryRecord { name: "m".into(), ..tenure(1, 25, 5) };
        end(&engine, vec![tenure(1, 20, 2), other, tenure(1, 40, 4)]);
        engine.store.writer().tails.tails.get_mut(&SHARD).expect("a tail").written += TAIL_MAX;
        let next = engine.store.next_tail().expect("it is long");
        let read = engine.store.read_tail(&next).expect("read");
        end(&engine, vec![tenure(1, 30, 3)]);
        engine.store.put_names(&next, read).expect("put");
        assert_eq!(tokens(&engine, 9), [4, 3, 2, 1]);
        assert_eq!(named(&engine).before, packed::place(1, 30, 3));
    }

    #[test]
    fn an_index_of_a_destroyed_replica_is_not_written_into_the_next_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let engine = engine(dir.path());
        engine.host_shard(SHARD, 1).expect("host");
        end(&engine, vec![tenure(1, 10, 1)]);
        keeper_rests(&engine);
        engine.store.writer().tails.tails.get_mut(&SHARD).expect("a tail").written += TAIL_MAX;
        let next = engine.store.next_tail().expect("it is long");
        let read = engine.store.read_tail(&next).expect("read");
        engine.drop_shard(SHARD, 1).expect("drop");
        engine.host_shard(SHARD, 2).expect("host");
        engine.store.put_names(&next, read).expect("given up");
        assert_eq!(named(&engine), Named::NONE);
        end(&engine, vec![tenure(1, 5, 7)]);
        assert_eq!(tokens(&engine, 9), [7]);
    }

    /// Regression: the keeper ended at a damaged row and said nothing. Nobody made room in the journal
    /// any more.
    #[test]
    fn a_damaged_row_that_the_keeper_meets_closes_the_engine() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let engine = engine(dir.path());
        end(&engine, vec![tenure(1, 10, 1)]);
        keeper_rests(&engine);
        end(&engine, vec![tenure(1, 20, 2)]);
        let key = packed::row(SHARD, &packed::place(1, 20, 2));
        let history = engine.store.cf(keys::CF_HISTORY);
        engine.store.db.put_cf(history, &key, b"no seal").expect("put");
        engine.store.writer().tails.tails.get_mut(&SHARD).expect("a tail").written += TAIL_MAX;
        let write =
            ShardWrite { history: vec![tenure(1, 30, 3)], shard: SHARD, ..Default::default() };
        engine.write(std::slice::from_ref(&write)).expect("the keeper is woken");
        let refused = (0..10_000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            engine.write(std::slice::from_ref(&write)).err()
        });
        let refused = refused.expect("the engine takes no more writes").to_string();
        assert!(refused.contains("a row of history"), "{refused}");
    }

    /// A tail of more rows than a reader looks through is named in several parts, whole entries each.
    #[test]
    fn a_long_tail_is_named_by_and_by() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let engine = engine(dir.path());
        let of = |index: u64| {
            let other = (0..4_000).map(move |at| HistoryRecord {
                name: format!("of {index}/{at}"),
                ..tenure((index / 9) as u32, index, index * 10_000 + at)
            });
            other.chain([tenure((index / 9) as u32, index, index * 10_000 + 5_000)]).collect()
        };
        for index in 1..=40 {
            end(&engine, of(index));
        }
        keeper_rests(&engine);
        assert!(named(&engine).before > packed::place(1, 17, 0), "{:?}", named(&engine));
        let all: Vec<u64> = (1..=40).rev().map(|index| index * 10_000 + 5_000).collect();
        assert_eq!(tokens(&engine, 99), all);
        assert_eq!(tokens(&engine, 3), all[..3]);
        for (index, at) in [(1, 0), (9, 3_999), (17, 1_024), (40, 2_000)] {
            let found = engine.history(SHARD, &format!("of {index}/{at}"), 9).expect("history");
            assert_eq!(found.len(), 1, "{index}/{at}");
        }
        let mut cursor = None;
        let mut told = 0;
        loop {
            let (page, next) = engine.history_since(SHARD, 15, cursor, 1_500).expect("a page");
            told += page.len();
            if next.is_none() {
                break;
            }
            cursor = next;
        }
        assert_eq!(told, 25 * 4_001);
    }
}
