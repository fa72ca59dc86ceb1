//! The events of the entries that are applied, while the host watches.
//!
//! This module knows nothing of the watchers, nor of the purpose of events.

use crate::api::{EntryEvents, Watched};
use locks::Event;

/// The events of the step under way.
///
/// * While it is off, it is empty.
/// * Entries rise, and are above `begins_after`.
#[derive(Default)]
pub(crate) struct Watching {
    on: bool,
    begins_after: Option<u64>,
    entries: Vec<EntryEvents>,
    /// The applied index that the host was told last.
    told_index: u64,
}

impl Watching {
    /// The host watches from now on, or no more.
    pub(crate) fn set(&mut self, on: bool, applied_index: u64) {
        if on == self.on {
            return;
        }
        *self = Watching { on, ..Watching::default() };
        if on {
            self.begins_after = Some(applied_index);
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// An entry with these events was applied.
    pub(crate) fn add(&mut self, index: u64, wall_ms: u64, events: &mut Vec<Event>) {
        if !events.is_empty() {
            self.entries.push(EntryEvents { index, wall_ms, events: std::mem::take(events) });
        }
    }

    /// The table was replaced, and its changes before this index are not known.
    pub(crate) fn reset_to(&mut self, index: u64) {
        if self.on {
            self.entries.clear();
            self.begins_after = Some(index);
        }
    }

    /// The news for the host at the end of a step.
    pub(crate) fn take(&mut self, applied_index: u64) -> Option<Watched> {
        let is_news = self.begins_after.is_some() || self.told_index != applied_index;
        if !self.on || !is_news {
            return None;
        }
        self.told_index = applied_index;
        Some(Watched {
            begins_after: self.begins_after.take(),
            entries: std::mem::take(&mut self.entries),
            applied_index,
        })
    }
}
