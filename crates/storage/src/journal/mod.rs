//! The journal: where the logs of all shards of a node are written first, and most of their entries live and die.
//!
//! One record for each call, one sync for each record. An entry is read again at start only, and by then most are truncated: they
//! never reach the database. What outlives its segment is moved there (see [`Journal::retire`]), so that the segment can be used again.
//!
//! It promises that what [`append`](Journal::append) has returned for is on disk, and that bytes that were and are now gone or changed
//! are reported, never skipped. It knows nothing of lock tables and history.

pub(crate) mod record;
mod segment;

pub(crate) use segment::Slot;

use crate::{ShardWrite, StorageError, keys};
use record::Part;
use routing::ShardId;
use segment::{Header, RECORDS_AT, io};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// So many segments are retired at a time, drawn anew each time: it takes a flush of the database. All nodes have the same to write: with one
/// number they would all flush at the same moments, and operations wait for a quorum of nodes that are busy with that.
const RETIRED_AT_ONCE: RangeInclusive<usize> = 4..=7;
/// With more segments than this, entries that are still needed are moved to the database: those of shards that are idle or have no
/// quorum. A busy shard needs little more than one segment, at the default settings and size.
const SEGMENTS_MAX: RangeInclusive<usize> = 16..=256;
const SEGMENTS_PER_SHARD: usize = 2;
/// Files kept for use: as many as are retired at once, and one to begin with meanwhile.
const FREE_MAX: usize = 8;

/// Where an entry's sealed value lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    offset: u64,
    bytes: u32,
}

/// What the journal holds of a shard.
///
/// * `entries` are those that are neither replaced, nor deleted, nor moved to the database. They lie in live segments.
/// * `hard_state` is the latest that a record has. `None`: the latest stands in the database, or there is none.
/// * The database holds no entry above `in_database`; 0: none.
#[derive(Debug, Default)]
struct ShardLog {
    entries: BTreeMap<u64, Place>,
    hard_state: Option<HardState>,
    in_database: u64,
}

/// * It stands in `segment`, and in none after it. That is the active one, but for a shard whose reset a crash cut off: while
///   the reset was under way, segments were begun without it.
#[derive(Debug)]
struct HardState {
    bytes: Vec<u8>,
    segment: u64,
}

#[derive(Debug)]
struct Segment {
    slot: Slot,
    salt: u32,
    /// How many places point to it.
    live: usize,
}

/// Where a shard's log begins, as the database says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Begin {
    /// Records before this say nothing of the shard any more.
    pub record: u64,
    /// Entries up to this are deleted.
    pub truncated: u64,
    /// The last entry in the database; 0: none.
    pub in_database: u64,
}

/// What [`Journal::open`] needs to know of the database and the mark.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The oldest segment that counts.
    pub oldest: u64,
    /// A record that was on disk.
    pub synced: u64,
    pub begins: HashMap<ShardId, Begin>,
}

/// Shard, index, sealed value of an entry.
pub(crate) type Moved = (ShardId, u64, Vec<u8>);

/// A segment that is not needed once the database has these entries, that the journal begins with `oldest`, and all else that it was told
/// so far, on disk.
#[derive(Debug)]
pub(crate) struct Retired {
    pub moved: Vec<Moved>,
    pub slot: Slot,
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
    /// On disk when this returns.
    pub(crate) fn make(self) -> Result<Slot, std::io::Error> {
        Slot::create(&self.dir, self.name, self.size_bytes)
    }
}

/// See the module.
///
/// * Records have numbers from 1, one more each. So have segments.
/// * The last of `segments` is written to; the others are full.
/// * A record lies in one segment.
/// * The first record of a segment repeats the hard states of all shards, beside what else is in it: no older segment is needed for them.
///   Those of shards that were reset stand in the database instead, until a record brings a later one.
/// * While a shard is being reset no segment is retired, and none is as long as a shard's latest hard state stands in it.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    segment_bytes: u64,
    segments: BTreeMap<u64, Segment>,
    /// The ordinal of the first of these, now or once there is one.
    oldest: u64,
    /// How many are retired next.
    at_once: usize,
    free: Vec<Slot>,
    next_name: u64,
    /// Where the active segment goes on, and while the journal is read, where the one before it ended.
    end: u64,
    end_before: u64,
    /// The next record's number.
    next: u64,
    shards: BTreeMap<ShardId, ShardLog>,
    resets: usize,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens the journal in `dir`, which is created if it does not exist, and reads what is in it. Says which entries of
    /// which shard in the database a record deletes: all after the index.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] if anything that was on disk is missing or changed.
    pub(crate) fn open(
        dir: &Path,
        segment_bytes: u64,
        known: &Known,
        mut deletes: impl FnMut(ShardId, u64) -> Result<(), StorageError>,
    ) -> Result<Journal, StorageError> {
        let mut journal = Journal {
            dir: dir.to_path_buf(),
            segment_bytes,
            segments: BTreeMap::new(),
            oldest: known.oldest.max(1),
            at_once: rand::random_range(RETIRED_AT_ONCE),
            free: Vec::new(),
            next_name: 0,
            end: 0,
            end_before: 0,
            next: 1,
            shards: BTreeMap::new(),
            resets: 0,
            buffer: Vec::new(),
        };
        for (shard, begin) in &known.begins {
            journal.shards.entry(*shard).or_default().in_database = begin.in_database;
        }
        let mut found = journal.find_segments()?;
        if let Some((first, _)) = found.values().next() {
            journal.next = first.first;
        }
        for (place, ordinal) in found.keys().copied().enumerate().collect::<Vec<_>>() {
            let (header, slot) = found.remove(&ordinal).expect("a key of it");
            let due = journal.oldest + place as u64;
            if ordinal != due || header.first != journal.next {
                return Err(StorageError::Damaged(format!(
                    "{}: segment {ordinal} begins with record {}, where segment {due} with record {} is due",
                    dir.display(),
                    header.first,
                    journal.next
                )));
            }
            journal.segments.insert(ordinal, Segment { slot, salt: header.salt, live: 0 });
            journal.replay(ordinal, header, known, &mut deletes)?;
        }
        // What a reset made void was on disk before it.
        let void = known.begins.values().map(|begin| begin.record.saturating_sub(1)).max().unwrap_or(0);
        let last = known.synced.max(void);
        if journal.next <= last {
            return Err(StorageError::Damaged(format!(
                "{}: the journal ends before record {}, but records up to {last} were on disk",
                dir.display(),
                journal.next
            )));
        }
        journal.settle().map_err(|error| io(dir, &error))?;
        if journal.segments.is_empty() && known.oldest > 0 {
            let what = format!("{}: segment {} of the journal is missing", dir.display(), known.oldest);
            return Err(StorageError::Damaged(what));
        }
        for (shard, begin) in &known.begins {
            journal.truncate(*shard, begin.truncated);
        }
        // Files made for one large record, or not whole when the process died.
        for slot in std::mem::take(&mut journal.free) {
            journal.give_back(slot).map_err(StorageError::Io)?;
        }
        Ok(journal)
    }

    /// Makes durable what was found: what a killed process wrote, or failed to sync, may be in the kernel's memory only, and what was read is
    /// taken for synced from here on. Writing it again reaches the disk even where the kernel takes a page for written that is not.
    ///
    /// A segment that was begun and has no record yet is none: it does not repeat the hard states, so nothing may be added to it.
    fn settle(&mut self) -> Result<(), std::io::Error> {
        if let Some(last) = self.segments.last_entry()
            && self.end == RECORDS_AT
        {
            let slot = last.remove().slot;
            slot.end_life()?;
            self.free.push(slot);
            self.end = self.end_before;
        }
        if let Some((_, active)) = self.segments.last_key_value() {
            active.slot.write_again(self.end)?;
        }
        File::open(&self.dir)?.sync_all()
    }

    /// Segments that count, by ordinal. All other files are free.
    fn find_segments(&mut self) -> Result<BTreeMap<u64, (Header, Slot)>, StorageError> {
        let failed = |error: std::io::Error| io(&self.dir, &error);
        std::fs::create_dir_all(&self.dir).map_err(failed)?;
        // The directory of the directory: of one that was just made.
        self.dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()).map_err(failed)?;
        let mut found = BTreeMap::new();
        for file in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(name) = name.strip_suffix(".journal").and_then(|number| number.parse::<u64>().ok()) else {
                continue;
            };
            self.next_name = self.next_name.max(name + 1);
            let slot = Slot::open(path).map_err(failed)?;
            match slot.header().map_err(failed)? {
                Some(header) if header.ordinal >= self.oldest => {
                    if found.insert(header.ordinal, (header, slot)).is_some() {
                        let what = format!("{}: two segments with ordinal {}", self.dir.display(), header.ordinal);
                        return Err(StorageError::Damaged(what));
                    }
                }
                _ => self.free.push(slot),
            }
        }
        Ok(found)
    }

    fn replay(
        &mut self,
        ordinal: u64,
        header: Header,
        known: &Known,
        deletes: &mut impl FnMut(ShardId, u64) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let slot = &self.segments[&ordinal].slot;
        let path = slot.path.clone();
        let mut parts = Vec::new();
        let (end, next) = slot.replay(header, |at, record| {
            let read = record.parts().ok_or_else(|| {
                StorageError::Damaged(format!("{}: record {} cannot be read", path.display(), record.number))
            })?;
            for part in read {
                if record.number >= known.begins.get(&part.shard).map_or(0, |begin| begin.record) {
                    let place = |(index, offset, bytes): (u64, usize, usize)| {
                        (index, Place { segment: ordinal, offset: at + offset as u64, bytes: bytes as u32 })
                    };
                    let entries: Vec<(u64, Place)> = part.entries.into_iter().map(place).collect();
                    parts.push((part.shard, part.delete_after, part.hard_state.map(<[u8]>::to_vec), entries));
                }
            }
            Ok(())
        })?;
        (self.end_before, self.end, self.next) = (self.end, end, next);
        for (shard, delete_after, hard_state, entries) in parts {
            if let Some(after) = delete_after
                && self.in_database(shard) > after
            {
                deletes(shard, after)?;
            }
            self.take_part(ordinal, shard, delete_after, hard_state.as_deref(), entries.into_iter());
        }
        Ok(())
    }

    /// Writes the log parts of these writes as one record, on disk when this returns. None of them is a reset.
    pub(crate) fn append(&mut self, writes: &[&ShardWrite]) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("writing the journal: {error}");
        let mut parts: Vec<Part<'_>> = writes.iter().map(|write| Part::of(write)).collect();
        let full = |active: &Segment| self.end + record::size_bytes(&parts) as u64 > active.slot.size_bytes;
        let states: Vec<(ShardId, Vec<u8>)>;
        if self.segments.last_key_value().is_none_or(|(_, active)| full(active)) {
            let known =
                self.shards.iter().filter_map(|(shard, log)| Some((*shard, log.hard_state.as_ref()?.bytes.clone())));
            states = known.collect();
            parts.splice(0..0, states.iter().map(|(shard, bytes)| Part::of_hard_state(*shard, bytes)));
            self.begin_segment(record::size_bytes(&parts) as u64).map_err(failed)?;
        }
        self.write(&parts).map_err(failed)?;
        let (_, active) = self.segments.last_key_value().expect("one was begun");
        active.slot.file.sync_data().map_err(|error| format!("syncing the journal: {error}"))
    }

    /// A record at the end of the active segment.
    fn write(&mut self, parts: &[Part<'_>]) -> Result<(), std::io::Error> {
        let at = self.end;
        let (&segment, active) = self.segments.last_key_value().expect("one was begun");
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut places = Vec::new();
        record::encode(&mut buffer, self.next, active.salt, parts, |index, offset, bytes| {
            places.push((index, Place { segment, offset: at + offset as u64, bytes: bytes as u32 }));
        });
        active.slot.file.write_all_at(&buffer, at)?;
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

    /// Goes on in another file, with room for a record of this size.
    fn begin_segment(&mut self, record_bytes: u64) -> Result<(), std::io::Error> {
        let needed = RECORDS_AT + record_bytes;
        let slot = match self.free.iter().position(|slot| slot.size_bytes >= needed) {
            Some(at) => self.free.swap_remove(at),
            None => {
                let name = self.take_name();
                Slot::create(&self.dir, name, needed.max(self.segment_bytes))?
            }
        };
        let ordinal = self.segments.last_key_value().map_or(self.oldest, |(last, _)| last + 1);
        let header = Header { ordinal, first: self.next, salt: rand::random() };
        slot.begin(header)?;
        self.segments.insert(ordinal, Segment { slot, salt: header.salt, live: 0 });
        self.end = RECORDS_AT;
        Ok(())
    }

    /// What a record of this segment says of a shard: written, or read at start.
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
                after.checked_add(1).map(|first| log.entries.split_off(&first)).unwrap_or_default().into_values(),
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

    /// Entries up to this index are not needed any more, once the database has on disk that they are truncated.
    pub(crate) fn truncate(&mut self, shard: ShardId, to: u64) {
        let Some(log) = self.shards.get_mut(&shard) else { return };
        if log.in_database <= to {
            log.in_database = 0;
        }
        let kept = to.checked_add(1).map(|first| log.entries.split_off(&first)).unwrap_or_default();
        let deleted = std::mem::replace(&mut log.entries, kept);
        self.let_go(deleted.into_values());
    }

    /// A reset begins: the number from which on records count for the shard once the database says so. No record says anything of
    /// it before [`reset`](Self::reset): its former hard state, repeated after that number, would be taken for a later one.
    pub(crate) fn begin_reset(&mut self, shard: ShardId) -> u64 {
        self.resets += 1;
        if let Some(log) = self.shards.get_mut(&shard) {
            log.hard_state = None;
        }
        self.next
    }

    /// The database has, in memory, all of the shard that there is, this write's entries and hard state among it, and says that records
    /// so far do not count.
    pub(crate) fn reset(&mut self, write: &ShardWrite) {
        assert!(self.resets > 0, "a reset begins before it is done");
        self.resets -= 1;
        let in_database = write.entries.last().map_or(0, |(index, _)| *index);
        let log = ShardLog { in_database, ..ShardLog::default() };
        let former = self.shards.insert(write.shard, log).unwrap_or_default();
        self.let_go(former.entries.into_values());
    }

    /// The latest, if a record has it.
    pub(crate) fn hard_state(&self, shard: ShardId) -> Option<&[u8]> {
        Some(&self.shards.get(&shard)?.hard_state.as_ref()?.bytes)
    }

    /// The number of the last record; 0: there is none.
    pub(crate) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Whether there is something for the keeper to do: room to make, or a file.
    pub(crate) fn wants_keeper(&self) -> bool {
        self.free.is_empty() || self.is_long()
    }

    /// The last index of the shard that the database may have an entry of; 0: none.
    pub(crate) fn in_database(&self, shard: ShardId) -> u64 {
        self.shards.get(&shard).map_or(0, |log| log.in_database)
    }

    /// Reads what is here of a shard: index and sealed value, in order.
    pub(crate) fn read(&self, shard: ShardId) -> Result<Vec<(u64, Vec<u8>)>, StorageError> {
        let entries = self.shards.get(&shard).into_iter().flat_map(|log| &log.entries);
        entries.map(|(index, place)| Ok((*index, self.read_place(*place)?))).collect()
    }

    fn read_place(&self, place: Place) -> Result<Vec<u8>, StorageError> {
        let slot = &self.segments[&place.segment].slot;
        let mut bytes = vec![0; place.bytes as usize];
        slot.file.read_exact_at(&mut bytes, place.offset).map_err(|error| io(&slot.path, &error))?;
        Ok(bytes)
    }

    /// Whether [`retire`](Self::retire) is worth a flush of the database.
    pub(crate) fn is_long(&self) -> bool {
        if self.resets > 0 {
            return false;
        }
        let full = self.segments.len().saturating_sub(1);
        let unneeded = self.segments.values().take(full).take_while(|segment| segment.live == 0).count();
        (unneeded >= self.at_once || self.is_too_long())
            && self.segments.first_key_value().is_some_and(|(oldest, _)| !self.has_hard_state(*oldest))
    }

    /// Whether a shard's latest hard state stands in this segment. The next segment that is begun repeats it.
    fn has_hard_state(&self, segment: u64) -> bool {
        self.shards.values().filter_map(|log| log.hard_state.as_ref()).any(|state| state.segment <= segment)
    }

    fn is_too_long(&self) -> bool {
        let max = SEGMENTS_MAX.start() + SEGMENTS_PER_SHARD * self.shards.len();
        self.segments.len() > max.min(*SEGMENTS_MAX.end())
    }

    /// Takes out the oldest segment, if it is not needed any more; and also if it is, where the journal is too long, as long as `so_far` fewer
    /// were taken out than are at once.
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
        let Segment { slot, live, .. } = self.segments.remove(&ordinal).expect("just seen");
        assert_eq!(live, 0, "all that was needed of {} was moved", slot.path.display());
        self.oldest = ordinal + 1;
        Ok(Some(Retired { moved, slot, oldest: self.oldest }))
    }

    fn move_all_of(&mut self, segment: u64) -> Result<Vec<Moved>, StorageError> {
        let bytes = self.segments[&segment].slot.read()?;
        let entries = self.shards.iter().flat_map(|(shard, log)| log.entries.iter().map(|entry| (*shard, entry)));
        let of_it = entries.filter(|(_, (_, place))| place.segment == segment);
        let moved = of_it.map(|(shard, (index, place))| {
            let sealed = bytes.get(place.offset as usize..).and_then(|rest| rest.get(..place.bytes as usize));
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

    /// A file for use: again, once the database has on disk what [`Retired`] says, or new. Of another size than all, or with enough of
    /// them free, it is not kept.
    pub(crate) fn give_back(&mut self, slot: Slot) -> Result<(), String> {
        if slot.size_bytes == self.segment_bytes && self.free.len() < FREE_MAX {
            self.free.push(slot);
            return Ok(());
        }
        std::fs::remove_file(&slot.path).map_err(|error| format!("{}: {error}", slot.path.display()))
    }

    /// How to make a file ahead of need, if there is none free.
    pub(crate) fn spare(&mut self) -> Option<NewSlot> {
        let (dir, size_bytes) = (self.dir.clone(), self.segment_bytes);
        self.free.is_empty().then(|| NewSlot { dir, name: self.take_name(), size_bytes })
    }

    fn take_name(&mut self) -> u64 {
        self.next_name += 1;
        self.next_name - 1
    }
}

/// An entry as it was written.
pub(crate) fn unseal(shard: ShardId, index: u64, sealed: &[u8]) -> Result<Vec<u8>, StorageError> {
    keys::unseal(&keys::log(shard, index), sealed, || format!("shard {shard}, log entry {index}")).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests;
