//! The journal: the logs of all shards of a node, in one sequence of records.
//!
//! A call writes one record, and a record takes one sync. Entries are read again only at start.
//! Most are truncated by then and never reach the database. Entries that outlive their segment move
//! to the database (see [`Journal::retire`]), so that the segment can be used again:
//!
//! ```text
//!  segment 7            segment 8            segment 9 (active)
//! [ full, no entry  ]  [ full, some entries] [ records ... | room ]
//!   is needed            are needed             ^ append
//!       |                    |
//!       | retire             | moved to the database, if the journal is too long
//!       v                    v
//!  flush the database, then reuse the file
//! ```
//!
//! Bytes for which [`append`](Journal::append) has returned are on disk. If such bytes are gone or
//! changed, [`Journal::open`] reports it and never skips them. This module knows nothing of lock
//! tables and history.

mod open;
pub(crate) mod record;
mod segment;

pub(crate) use open::{Begin, Known};
pub(crate) use segment::SegmentFile;

use crate::write_error::WriteError;
use crate::{ShardWrite, StorageError, keys};
use record::Part;
use routing::ShardId;
use segment::{Header, RECORDS_AT, io};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Number of segments retired at once, drawn anew each time. Retiring takes a flush of the
/// database.
///
/// All nodes write the same. With one fixed number they would all flush at the same moments, and
/// operations would wait for a quorum of busy nodes.
const RETIRED_AT_ONCE: RangeInclusive<usize> = 4..=7;
/// With more segments than this, entries that are still needed move to the database. They belong to
/// shards that are idle or have no quorum. At the default settings and size, a busy shard needs
/// little more than one segment.
const SEGMENTS_MAX: RangeInclusive<usize> = 16..=256;
const SEGMENTS_PER_SHARD: usize = 2;
/// Most free files that are kept: as many as are retired at once, and one to write to meanwhile.
const FREE_MAX: usize = 8;

/// The place of an entry's sealed value.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    offset: u64,
    bytes: u32,
}

/// The part of a shard's log that the journal holds.
///
/// - `entries` are those neither replaced, nor deleted, nor moved to the database. They are in live
///   segments.
/// - `hard_state` is the latest one in a record. If it is `None`, the latest one is in the
///   database, or there is none.
/// - The database holds no entry above `in_database`; 0 if it holds none.
#[derive(Debug, Default)]
struct ShardLog {
    entries: BTreeMap<u64, Place>,
    hard_state: Option<HardState>,
    in_database: u64,
}

/// A shard's latest hard state.
///
/// - It is in `segment` and in no later segment. That is the active segment, with one exception: if
///   a crash cut off a reset of the shard, segments that began during the reset lack it.
#[derive(Debug)]
struct HardState {
    bytes: Vec<u8>,
    segment: u64,
}

#[derive(Debug)]
struct Segment {
    segment_file: SegmentFile,
    salt: u32,
    /// Number of places that point into this segment.
    live: usize,
}

/// Shard, index and sealed value of an entry.
pub(crate) type Moved = (ShardId, u64, Vec<u8>);

/// A segment that leaves the journal.
///
/// Its file may be used again once the database has on disk:
///
/// - the `moved` entries,
/// - the fact that the journal begins with `oldest`,
/// - all else that it was given so far.
#[derive(Debug)]
pub(crate) struct Retired {
    pub moved: Vec<Moved>,
    pub segment_file: SegmentFile,
    pub oldest: u64,
}

/// A file that is to be made.
#[derive(Debug)]
pub(crate) struct NewSlot {
    dir: PathBuf,
    name: u64,
    size_bytes: u64,
}

impl NewSlot {
    /// Makes the file. It is on disk when this returns.
    pub(crate) fn make(self) -> Result<SegmentFile, std::io::Error> {
        SegmentFile::create(&self.dir, self.name, self.size_bytes)
    }
}

/// The journal: see the module's page.
///
/// - Records are numbered from 1, without gaps. Segments are as well.
/// - The last of `segments` is written to. The others are full.
/// - A record is in one segment.
/// - The first record of a segment repeats the hard states of all shards, so that none is needed
///   from an older segment. The database holds those of shards that were reset, until a record has
///   a later one.
/// - While a shard is being reset, no segment is retired. A segment is never retired while a
///   shard's latest hard state is in it.
///
/// The last rule exists because of this failure:
///
/// 1. A shard's vote is in segment 3. A reset of the shard begins, so segments 4 to 15 start
///    without the vote.
/// 2. A crash takes the reset back. The vote in segment 3 counts again.
/// 3. Segment 3 is retired. It has no entries that are needed, so nothing of it moves to the
///    database.
/// 4. After a restart the shard has forgotten its vote, and may vote twice in one term.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    segment_bytes: u64,
    segments: BTreeMap<u64, Segment>,
    /// Ordinal of the first of `segments`, or of the next segment if there is none.
    oldest: u64,
    /// Number of segments to retire next time.
    at_once: usize,
    free: Vec<SegmentFile>,
    next_name: u64,
    /// End of the active segment, where the next record goes. `end_before` is that of the segment
    /// before it, while the journal is read.
    end: u64,
    end_before: u64,
    /// Number of the next record.
    next: u64,
    shards: BTreeMap<ShardId, ShardLog>,
    resets: usize,
    buffer: Vec<u8>,
}

impl Journal {
    /// Writes the log parts of these writes as one record, which is on disk when this returns. None
    /// of them may be a reset.
    pub(crate) fn append(&mut self, writes: &[&ShardWrite]) -> Result<(), WriteError> {
        let failed = || WriteError::disk("writing the journal");
        let mut parts: Vec<Part<'_>> = writes.iter().map(|write| Part::of(write)).collect();
        let full = |active: &Segment| {
            self.end + record::size_bytes(&parts) as u64 > active.segment_file.size_bytes
        };
        let states: Vec<(ShardId, Vec<u8>)>;
        if self.segments.last_key_value().is_none_or(|(_, active)| full(active)) {
            let known = self
                .shards
                .iter()
                .filter_map(|(shard, log)| Some((*shard, log.hard_state.as_ref()?.bytes.clone())));
            states = known.collect();
            parts.splice(
                0..0,
                states.iter().map(|(shard, bytes)| Part::of_hard_state(*shard, bytes)),
            );
            self.begin_segment(record::size_bytes(&parts) as u64).map_err(failed())?;
        }
        self.write(&parts).map_err(failed())?;
        let (_, active) = self.segments.last_key_value().expect("one was begun");
        active.segment_file.file.sync_data().map_err(WriteError::disk("syncing the journal"))
    }

    /// Writes a record at the end of the active segment.
    fn write(&mut self, parts: &[Part<'_>]) -> Result<(), std::io::Error> {
        let at = self.end;
        let (&segment, active) = self.segments.last_key_value().expect("one was begun");
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut places = Vec::new();
        record::encode(&mut buffer, self.next, active.salt, parts, |index, offset, bytes| {
            places
                .push((index, Place { segment, offset: at + offset as u64, bytes: bytes as u32 }));
        });
        active.segment_file.file.write_all_at(&buffer, at)?;
        self.end += buffer.len() as u64;
        self.next += 1;
        self.buffer = buffer;
        let mut places = places.into_iter();
        for part in parts {
            let entries = places.by_ref().take(part.entries.len());
            self.take_part(segment, part.shard, part.delete_after, part.hard_state, entries);
        }
        Ok(())
    }

    /// Begins a segment in another file, with room for a record of this size.
    fn begin_segment(&mut self, record_bytes: u64) -> Result<(), std::io::Error> {
        let needed = RECORDS_AT + record_bytes;
        let segment_file =
            match self.free.iter().position(|segment_file| segment_file.size_bytes >= needed) {
                Some(at) => self.free.swap_remove(at),
                None => {
                    let name = self.take_name();
                    SegmentFile::create(&self.dir, name, needed.max(self.segment_bytes))?
                }
            };
        let ordinal = self.segments.last_key_value().map_or(self.oldest, |(last, _)| last + 1);
        let header = Header { ordinal, first: self.next, salt: rand::random() };
        segment_file.begin(header)?;
        self.segments.insert(ordinal, Segment { segment_file, salt: header.salt, live: 0 });
        self.end = RECORDS_AT;
        Ok(())
    }

    /// Takes in one shard's part of a record in this segment, just written or read at start.
    fn take_part(
        &mut self,
        segment: u64,
        shard: ShardId,
        delete_after: Option<u64>,
        hard_state: Option<&[u8]>,
        entries: impl Iterator<Item = (u64, Place)>,
    ) {
        let log = self.shards.entry(shard).or_default();
        let mut gone = Vec::new();
        if let Some(after) = delete_after {
            log.in_database = log.in_database.min(after);
            gone.extend(
                after
                    .checked_add(1)
                    .map(|first| log.entries.split_off(&first))
                    .unwrap_or_default()
                    .into_values(),
            );
        }
        for (index, place) in entries {
            self.segments.get_mut(&place.segment).expect("of a live segment").live += 1;
            gone.extend(log.entries.insert(index, place));
        }
        if let Some(bytes) = hard_state {
            log.hard_state = Some(HardState { bytes: bytes.to_vec(), segment });
        }
        self.let_go(gone);
    }

    fn let_go(&mut self, places: impl IntoIterator<Item = Place>) {
        for place in places {
            self.segments.get_mut(&place.segment).expect("it had live entries").live -= 1;
        }
    }

    /// Drops the places of entries up to this index. The caller must have the truncation in the
    /// database on disk before their segment is used again.
    pub(crate) fn truncate(&mut self, shard: ShardId, to: u64) {
        let Some(log) = self.shards.get_mut(&shard) else { return };
        if log.in_database <= to {
            log.in_database = 0;
        }
        let kept = to.checked_add(1).map(|first| log.entries.split_off(&first)).unwrap_or_default();
        let deleted = std::mem::replace(&mut log.entries, kept);
        self.let_go(deleted.into_values());
    }

    /// Begins a reset. Returns the number of the first record that counts for the shard, once the
    /// database says so.
    ///
    /// No record mentions the shard before [`reset`](Self::reset). Otherwise its former hard state,
    /// repeated after that number, would count as a later one.
    pub(crate) fn begin_reset(&mut self, shard: ShardId) -> u64 {
        self.resets += 1;
        if let Some(log) = self.shards.get_mut(&shard) {
            log.hard_state = None;
        }
        self.next
    }

    /// Ends a reset. By now the database has in memory the whole shard, with this write's entries
    /// and hard state, and the fact that records so far do not count.
    pub(crate) fn reset(&mut self, write: &ShardWrite) {
        assert!(self.resets > 0, "a reset begins before it is done");
        self.resets -= 1;
        let in_database = write.entries.last().map_or(0, |(index, _)| *index);
        self.forget(write.shard);
        self.shards.insert(write.shard, ShardLog { in_database, ..ShardLog::default() });
    }

    /// Forgets a shard. By now the database has on disk the fact that records so far do not count
    /// for it, and it has no entry of the shard.
    pub(crate) fn forget(&mut self, shard: ShardId) {
        let former = self.shards.remove(&shard).unwrap_or_default();
        self.let_go(former.entries.into_values());
    }

    /// The latest hard state, if a record has it.
    pub(crate) fn hard_state(&self, shard: ShardId) -> Option<&[u8]> {
        Some(&self.shards.get(&shard)?.hard_state.as_ref()?.bytes)
    }

    /// Number of the last record; 0 if there is none.
    pub(crate) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Whether the keeper has work: room to make, or a file.
    pub(crate) fn wants_keeper(&self) -> bool {
        self.free.is_empty() || self.is_long()
    }

    /// Last index of the shard for which the database may have an entry; 0 if there is none.
    pub(crate) fn in_database(&self, shard: ShardId) -> u64 {
        self.shards.get(&shard).map_or(0, |log| log.in_database)
    }

    /// Reads the shard's entries in the journal as (index, sealed value), in order.
    pub(crate) fn read(&self, shard: ShardId) -> Result<Vec<(u64, Vec<u8>)>, StorageError> {
        let entries = self.shards.get(&shard).into_iter().flat_map(|log| &log.entries);
        entries.map(|(index, place)| Ok((*index, self.read_place(*place)?))).collect()
    }

    fn read_place(&self, place: Place) -> Result<Vec<u8>, StorageError> {
        let segment_file = &self.segments[&place.segment].segment_file;
        let mut bytes = vec![0; place.bytes as usize];
        segment_file
            .file
            .read_exact_at(&mut bytes, place.offset)
            .map_err(|error| io(&segment_file.path, &error))?;
        Ok(bytes)
    }

    /// Whether [`retire`](Self::retire) is worth a flush of the database.
    pub(crate) fn is_long(&self) -> bool {
        if self.resets > 0 {
            return false;
        }
        let full = self.segments.len().saturating_sub(1);
        let unneeded =
            self.segments.values().take(full).take_while(|segment| segment.live == 0).count();
        (unneeded >= self.at_once || self.is_too_long())
            && self
                .segments
                .first_key_value()
                .is_some_and(|(oldest, _)| !self.has_hard_state(*oldest))
    }

    /// Whether a shard's latest hard state is in this segment or an older one. The next segment
    /// that begins repeats it.
    fn has_hard_state(&self, segment: u64) -> bool {
        self.shards
            .values()
            .filter_map(|log| log.hard_state.as_ref())
            .any(|state| state.segment <= segment)
    }

    fn is_too_long(&self) -> bool {
        let max = SEGMENTS_MAX.start() + SEGMENTS_PER_SHARD * self.shards.len();
        self.segments.len() > max.min(*SEGMENTS_MAX.end())
    }

    /// Takes the oldest segment out of the journal, if it is no longer needed.
    ///
    /// If the journal is too long, it also takes out segments that are needed and moves their
    /// entries, until `so_far` has reached the number retired at once.
    pub(crate) fn retire(&mut self, so_far: usize) -> Result<Option<Retired>, StorageError> {
        let Some((&ordinal, oldest)) = self.segments.first_key_value() else { return Ok(None) };
        if self.resets > 0 || self.has_hard_state(ordinal) {
            return Ok(None);
        }
        let makes_room = so_far < self.at_once && (so_far > 0 || self.is_too_long());
        if self.segments.len() == 1 || oldest.live > 0 && !makes_room {
            self.at_once = rand::random_range(RETIRED_AT_ONCE);
            return Ok(None);
        }
        let moved = if oldest.live > 0 { self.move_all_of(ordinal)? } else { Vec::new() };
        let Segment { segment_file, live, .. } = self.segments.remove(&ordinal).expect("just seen");
        assert_eq!(live, 0, "{} still has entries that are needed", segment_file.path.display());
        self.oldest = ordinal + 1;
        Ok(Some(Retired { moved, segment_file, oldest: self.oldest }))
    }

    fn move_all_of(&mut self, segment: u64) -> Result<Vec<Moved>, StorageError> {
        let bytes = self.segments[&segment].segment_file.read()?;
        let entries = self
            .shards
            .iter()
            .flat_map(|(shard, log)| log.entries.iter().map(|entry| (*shard, entry)));
        let of_it = entries.filter(|(_, (_, place))| place.segment == segment);
        let moved = of_it.map(|(shard, (index, place))| {
            let sealed = bytes
                .get(place.offset as usize..)
                .and_then(|rest| rest.get(..place.bytes as usize));
            let sealed = sealed.unwrap_or_default().to_vec();
            unseal(shard, *index, &sealed).map(|_| (shard, *index, sealed))
        });
        let moved = moved.collect::<Result<Vec<Moved>, StorageError>>()?;
        for (shard, index, _) in &moved {
            let log = self.shards.get_mut(shard).expect("an entry of it was moved");
            log.in_database = log.in_database.max(*index);
            let place = log.entries.remove(index).expect("it was moved");
            self.let_go([place]);
        }
        Ok(moved)
    }

    /// Takes a file for later use: a new one, or a retired one once the database has on disk all
    /// that [`Retired`] says. The file is deleted if its size differs from the usual one or enough
    /// files are free.
    pub(crate) fn give_back(&mut self, segment_file: SegmentFile) -> Result<(), WriteError> {
        if segment_file.size_bytes == self.segment_bytes && self.free.len() < FREE_MAX {
            self.free.push(segment_file);
            return Ok(());
        }
        std::fs::remove_file(&segment_file.path)
            .map_err(WriteError::disk(segment_file.path.display().to_string()))
    }

    /// The file to make ahead of need, if no file is free.
    pub(crate) fn spare(&mut self) -> Option<NewSlot> {
        let (dir, size_bytes) = (self.dir.clone(), self.segment_bytes);
        self.free.is_empty().then(|| NewSlot { dir, name: self.take_name(), size_bytes })
    }

    fn take_name(&mut self) -> u64 {
        self.next_name += 1;
        self.next_name - 1
    }
}

/// Checks an entry's sealed value and returns its bytes.
pub(crate) fn unseal(shard: ShardId, index: u64, sealed: &[u8]) -> Result<Vec<u8>, StorageError> {
    keys::unseal(&keys::log(shard, index), sealed, || format!("shard {shard}, log entry {index}"))
        .map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests;
