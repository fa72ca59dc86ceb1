//! A replica's log and lock table as the trace knows them: built from what the replica writes and
//! how far it says that it applied.
//!
//! It tells what each applied command came to, which the replica's outputs do not say of others
//! than who asked. It promises to be no second opinion on anything: `compare` holds it against the
//! replica's own state hash.

use crate::words::{self, WhoAsked};
use locks::{Batch, Effects, LockTable};
use raft::eraftpb::{Entry, EntryType, SnapshotMetadata};
use raft_prost::Message as _;
use std::collections::BTreeMap;
use storage::{Recovered, ShardWrite};

#[derive(Default)]
pub struct Twin {
    table: LockTable,
    log: BTreeMap<u64, Entry>,
    pub applied_index: u64,
}

impl Twin {
    pub fn recovered(recovered: Recovered) -> Twin {
        Twin {
            log: recovered.entries.iter().map(|(index, bytes)| (*index, entry(bytes))).collect(),
            applied_index: recovered.applied.as_deref().map_or(0, applied_index),
            table: LockTable::load(recovered.table).expect("a checkpoint of the replica's own"),
        }
    }

    /// Takes in a write. Returns the entries that gave way to others: first, last, and the term of
    /// the first.
    pub fn write(&mut self, write: &ShardWrite) -> Option<(u64, u64, u64)> {
        if write.reset {
            let records =
                write.table.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
            self.table = LockTable::load(records).expect("a checkpoint of the replica's own");
            self.applied_index = write.applied.as_deref().map_or(0, applied_index);
            self.log.clear();
        }
        let (first, _) = write.entries.first()?;
        let gone = self.log.split_off(first);
        self.log.extend(write.entries.iter().map(|(index, bytes)| (*index, entry(bytes))));
        let lost = gone
            .values()
            .filter(|old| self.log.get(&old.index).is_none_or(|new| new.term != old.term));
        let lost: Vec<&Entry> = lost.collect();
        Some((lost.first()?.index, lost.last()?.index, lost.first()?.term))
    }

    /// Applies up to `index`: what each command of each entry came to.
    pub fn apply_to(&mut self, index: u64, who_asked: WhoAsked<'_>) -> Vec<(u64, Vec<String>)> {
        let mut told = Vec::new();
        while self.applied_index < index {
            self.applied_index += 1;
            let entry = self
                .log
                .get(&self.applied_index)
                .expect("only what was written is applied")
                .clone();
            told.push((entry.index, self.apply(&entry, who_asked)));
        }
        told
    }

    fn apply(&mut self, entry: &Entry, who_asked: WhoAsked<'_>) -> Vec<String> {
        let Some(batch) = batch(entry) else { return contents(entry, who_asked) };
        let mut said = Vec::new();
        for (caller, command) in &batch.commands {
            let mut effects = Effects::default();
            let outcome = self.table.apply_as(batch.stamp, *caller, command, &mut effects);
            said.push(words::applied(command, &outcome, &effects, who_asked));
        }
        said
    }

    pub fn state_hash(&self) -> u64 {
        self.table.state_hash()
    }
}

/// What each command of an entry asks for.
pub fn contents(entry: &Entry, who_asked: WhoAsked<'_>) -> Vec<String> {
    match batch(entry) {
        Some(batch) => {
            batch.commands.iter().map(|(_, command)| words::command(command, who_asked)).collect()
        }
        None => vec![words::special_entry(entry)],
    }
}

pub fn entry(bytes: &[u8]) -> Entry {
    Entry::decode(bytes).expect("an entry of the replica's own")
}

fn batch(entry: &Entry) -> Option<Batch<'_>> {
    let is_batch = entry.entry_type() == EntryType::EntryNormal
        && !entry.data.is_empty()
        && ![words::WISH, words::LEVEL].contains(&entry.data[0]);
    is_batch.then(|| Batch::decode(&entry.data).expect("a batch of the replica's own"))
}

/// The index in an applied record, which has what the group keeps before it.
fn applied_index(bytes: &[u8]) -> u64 {
    let position = &bytes[words::kept_len(bytes)..];
    SnapshotMetadata::decode(position).expect("an applied record of the replica's own").index
}
