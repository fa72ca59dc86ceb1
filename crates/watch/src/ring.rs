//! The ring of recent events. It knows nothing of watchers.

use crate::place::{Limits, Place};
use crate::planted_bugs;
use locks::Event;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// One event with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The index of its entry in the shard's log.
    pub index: u64,
    /// Its place among the events of the entry, from 0.
    pub ordinal: u32,
    /// When the entry was proposed, in Unix milliseconds by the leader's wall clock. For display.
    pub wall_ms: u64,
    /// The event.
    pub event: Event,
}

impl Told {
    /// The place after this event.
    pub(crate) fn after(&self) -> Place {
        Place { index: self.index, ordinals: self.ordinal + 1 }
    }
}

/// Events in their order, each with a number of its own. Numbers have no meaning outside.
///
/// - All events from `from` on, up to the end of the entry `applied_index`, are in it.
/// - `names` has the numbers of each name that is kept, and no other name.
#[derive(Debug)]
pub(crate) struct Ring {
    limits: Limits,
    kept: VecDeque<Arc<Told>>,
    names: BTreeMap<Box<str>, VecDeque<u64>>,
    /// The number of the first event that is kept.
    first: u64,
    bytes: usize,
    from: Place,
    applied_index: u64,
}

impl Ring {
    pub(crate) fn new(limits: Limits) -> Ring {
        let from = Place::after_entry(0);
        Ring {
            limits,
            kept: VecDeque::new(),
            names: BTreeMap::new(),
            first: 0,
            bytes: 0,
            from,
            applied_index: 0,
        }
    }

    /// Forgets all, and goes on after this entry.
    pub(crate) fn begin(&mut self, after_index: u64) {
        self.first = self.end();
        self.kept.clear();
        self.names.clear();
        self.bytes = 0;
        (self.from, self.applied_index) = (Place::after_entry(after_index), after_index);
    }

    pub(crate) fn push(&mut self, told: Arc<Told>) {
        self.bytes += told.event.bytes();
        let (number, name) = (self.end(), told.event.name());
        match self.names.get_mut(name) {
            Some(numbers) => numbers.push_back(number),
            None => _ = self.names.insert(name.into(), VecDeque::from([number])),
        }
        self.kept.push_back(told);
        while self.kept.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.event.bytes();
            self.forget_name(oldest.event.name());
            self.first += 1;
            self.from = oldest.after();
        }
    }

    /// The oldest event goes, and is of this name.
    fn forget_name(&mut self, name: &str) {
        if let Some(numbers) = self.names.get_mut(name) {
            numbers.pop_front();
            if numbers.is_empty() {
                self.names.remove(name);
            }
        }
    }

    pub(crate) fn applied(&mut self, index: u64) {
        self.applied_index = self.applied_index.max(index);
    }

    /// The number of the first event that is kept.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next event to come.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// The place after all events.
    pub(crate) fn end_place(&self) -> Place {
        Place::after_entry(self.applied_index)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The event of a number that is kept.
    pub(crate) fn get(&self, number: u64) -> Option<&Arc<Told>> {
        self.kept.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The number of the first event of a name from `number` on; that of the next event to come if
    /// there is none.
    pub(crate) fn next_of(&self, name: &str, number: u64) -> u64 {
        let numbers = self.names.get(name);
        let next = numbers.and_then(|all| all.get(all.partition_point(|one| *one < number)));
        next.copied().unwrap_or(self.end())
    }

    /// The number of the first event after a place. `None` if events after it are lost, or if the
    /// place is after the end.
    pub(crate) fn number_at(&self, place: Place) -> Option<u64> {
        if place < self.from || place > self.end_place() {
            return None;
        }
        let before = self.kept.partition_point(|told| told.after() <= place);
        let before = planted_bugs::events_before(before).min(self.kept.len());
        Some(self.first + before as u64)
    }
}
