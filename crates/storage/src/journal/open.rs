//! Opening the journal: its records are found and read, and missing or changed ones are reported.
//!
//! Replicas will rely on the records read here. So the journal is synced again before `open`
//! returns.

use super::segment::{Header, RECORDS_AT, SegmentFile, io};
use super::{Journal, Place, RETIRED_AT_ONCE, Segment};
use crate::StorageError;
use routing::ShardId;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

/// Where a shard's log begins, according to the database.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Begin {
    /// Number of the first record that counts for the shard: its last reset voided those before.
    pub record: u64,
    /// Entries up to this index were cut off from the front of the log; 0 if none was.
    pub truncated: u64,
    /// Index of the last entry in the database; 0 if there is none.
    pub in_database: u64,
}

/// The facts that [`Journal::open`] needs before it reads the journal. They come from the database,
/// and from the mark: a file that tells how far the journal was synced.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Ordinal of the oldest segment that counts; 0 if the database names none.
    pub oldest: u64,
    /// Number of the last record that is known to have been synced; 0 if none is known.
    pub synced: u64,
    pub begins: HashMap<ShardId, Begin>,
}

impl Journal {
    /// Opens the journal in `dir`, creates the directory if needed, and reads all records.
    ///
    /// Calls `deletes(shard, after)` for each record that deletes the shard's entries after index
    /// `after`, if the database may still hold some of them.
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
        // Older segments were retired, so the numbers start with those of the first one left.
        if let Some((first, _)) = found.values().next() {
            journal.next = first.first;
        }
        for (place, ordinal) in found.keys().copied().enumerate().collect::<Vec<_>>() {
            let (header, segment_file) =
                found.remove(&ordinal).expect("the ordinal is a key of found");
            let due = journal.oldest + place as u64;
            if ordinal != due || header.first != journal.next {
                return Err(StorageError::Damaged(format!(
                    "{}: segment {ordinal} begins with record {}, where segment {due} with record \
                     {} is due",
                    dir.display(),
                    header.first,
                    journal.next
                )));
            }
            journal.segments.insert(ordinal, Segment { segment_file, salt: header.salt, live: 0 });
            journal.replay(ordinal, header, known, &mut deletes)?;
        }
        // All records that a reset voided were on disk when it began. So the journal must reach at
        // least to the last of them, even if the mark is older.
        let void =
            known.begins.values().map(|begin| begin.record.saturating_sub(1)).max().unwrap_or(0);
        let last = known.synced.max(void);
        if journal.next <= last {
            return Err(StorageError::Damaged(format!(
                "{}: the journal ends before record {}, but records up to {last} were on disk",
                dir.display(),
                journal.next
            )));
        }
        journal.sync_what_was_read().map_err(|error| io(dir, &error))?;
        if journal.segments.is_empty() && known.oldest > 0 {
            let what =
                format!("{}: segment {} of the journal is missing", dir.display(), known.oldest);
            return Err(StorageError::Damaged(what));
        }
        for (shard, begin) in &known.begins {
            journal.truncate(*shard, begin.truncated);
        }
        // `give_back` keeps free files of the usual size, up to its limit. It deletes the others:
        // files for one large record, and files that were incomplete when the process died.
        for segment_file in std::mem::take(&mut journal.free) {
            journal.give_back(segment_file)?;
        }
        Ok(journal)
    }

    /// Syncs the bytes that were read, because replicas will rely on them.
    ///
    /// If the process was killed, they may be only in the kernel's memory. If a sync failed, the
    /// kernel may have marked pages as clean that never reached the disk, and would skip them in
    /// the next sync. So the bytes are first written again.
    ///
    /// A last segment without a record is removed. The first record of a segment must repeat the
    /// hard states of all shards, and `append` adds them only when it begins a new segment.
    fn sync_what_was_read(&mut self) -> Result<(), std::io::Error> {
        if let Some(last) = self.segments.last_entry()
            && self.end == RECORDS_AT
        {
            let segment_file = last.remove().segment_file;
            segment_file.end_life()?;
            self.free.push(segment_file);
            self.end = self.end_before;
        }
        if let Some((_, active)) = self.segments.last_key_value() {
            active.segment_file.write_again(self.end)?;
        }
        File::open(&self.dir)?.sync_all()
    }

    /// Finds the segments that count, by ordinal. Puts all other journal files into `free`. Creates
    /// the directory if needed.
    fn find_segments(&mut self) -> Result<BTreeMap<u64, (Header, SegmentFile)>, StorageError> {
        let failed = |error: std::io::Error| io(&self.dir, &error);
        std::fs::create_dir_all(&self.dir).map_err(failed)?;
        // Sync the parent directory too, in case `dir` was just made.
        self.dir
            .parent()
            .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
            .map_err(failed)?;
        let mut found = BTreeMap::new();
        for file in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(name) =
                name.strip_suffix(".journal").and_then(|number| number.parse::<u64>().ok())
            else {
                continue;
            };
            self.next_name = self.next_name.max(name + 1);
            let segment_file = SegmentFile::open(path).map_err(failed)?;
            match segment_file.header().map_err(failed)? {
                Some(header) if header.ordinal >= self.oldest => {
                    if found.insert(header.ordinal, (header, segment_file)).is_some() {
                        let what = format!(
                            "{}: two segments with ordinal {}",
                            self.dir.display(),
                            header.ordinal
                        );
                        return Err(StorageError::Damaged(what));
                    }
                }
                _ => self.free.push(segment_file),
            }
        }
        Ok(found)
    }

    /// Reads one segment, and takes in those parts of its records that count for their shards.
    fn replay(
        &mut self,
        ordinal: u64,
        header: Header,
        known: &Known,
        deletes: &mut impl FnMut(ShardId, u64) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let segment_file = &self.segments[&ordinal].segment_file;
        let path = segment_file.path.clone();
        // Taken in after the loop, because reading borrows the segment.
        let mut parts = Vec::new();
        let (end, next) = segment_file.replay(header, |at, record| {
            let read = record.parts().ok_or_else(|| {
                StorageError::Damaged(format!(
                    "{}: record {} has a correct checksum, but cannot be decoded",
                    path.display(),
                    record.number
                ))
            })?;
            for part in read {
                // Records before the shard's last reset no longer count.
                if record.number >= known.begins.get(&part.shard).map_or(0, |begin| begin.record) {
                    let place = |(index, offset, bytes): (u64, usize, usize)| {
                        (
                            index,
                            Place {
                                segment: ordinal,
                                offset: at + offset as u64,
                                bytes: bytes as u32,
                            },
                        )
                    };
                    let entries: Vec<(u64, Place)> = part.entries.into_iter().map(place).collect();
                    parts.push((
                        part.shard,
                        part.delete_after,
                        part.hard_state.map(<[u8]>::to_vec),
                        entries,
                    ));
                }
            }
            Ok(())
        })?;
        (self.end_before, self.end, self.next) = (self.end, end, next);
        for (shard, delete_after, hard_state, entries) in parts {
            // The caller must delete these entries from the database too: a crash may have kept
            // them there.
            if let Some(after) = delete_after
                && self.in_database(shard) > after
            {
                deletes(shard, after)?;
            }
            self.take_part(
                ordinal,
                shard,
                delete_after,
                hard_state.as_deref(),
                entries.into_iter(),
            );
        }
        Ok(())
    }
}
