//! The watchers of a run, and what every replica has told them.
//!
//! Nothing here draws a random number or sends a message, so a run does not depend on it.

use crate::checker::{Invariant, Violation};
use locks::{Event, LockTable, PicturePage, PicturePlace, Stamp};
use routing::ShardId;
use shard::Watched;
use std::collections::BTreeMap;
use watch::{Ask, Filter, Limits, Part, Place, Recent, Room, WatcherId};

/// Few, so that a ring passes a watcher now and then.
const LIMITS: Limits = Limits { events: 24, bytes: 1 << 20 };
const ROOM: Room = Room { events: 3, bytes: 1 << 20 };
/// A watcher moves to another replica after so many entries, if there is one.
const MOVES_AFTER: u32 = 40;
/// A watcher does not read for so many entries now and then, so that the ring passes it.
const SLEEPS: u32 = 30;
const ME: WatcherId = WatcherId(0);

/// The watches of a run.
#[derive(Default)]
pub(crate) struct Watches {
    /// What the entry of each index has told, as the first replica told it: nothing, most often.
    told: BTreeMap<(ShardId, u64), Vec<Event>>,
    here: BTreeMap<(u64, ShardId), Here>,
    watchers: BTreeMap<ShardId, Watcher>,
    violations: Vec<String>,
    pub moves: u64,
    pub resyncs: u64,
}

/// The recent events of one replica.
struct Here {
    recent: Recent,
    applied_index: u64,
}

/// Somebody who watches all of one shard, at one replica at a time.
#[derive(Default)]
struct Watcher {
    at: Option<u64>,
    /// The node before.
    was_at: u64,
    entries: u32,
    turns: u32,
    /// `None` while the state is incomplete.
    place: Option<Place>,
    held: BTreeMap<u64, String>,
    queued: BTreeMap<u64, String>,
}

impl Watches {
    /// A replica has told what happened in its table.
    pub(crate) fn take(
        &mut self,
        id: u64,
        shard: ShardId,
        watched: Watched,
        committed_index: u64,
        (table, names, at): (&LockTable, &[String], Stamp),
    ) {
        self.judge(id, shard, &watched, committed_index);
        let Watched { begins_after, entries, applied_index } = watched;
        let here = self
            .here
            .entry((id, shard))
            .or_insert_with(|| Here { recent: Recent::new(LIMITS), applied_index });
        if let Some(after) = begins_after {
            here.recent.begin(after);
        }
        for entry in entries {
            here.recent.push(entry.index, entry.wall_ms, entry.events);
        }
        here.recent.applied(applied_index);
        here.applied_index = applied_index;
        self.watch(id, shard, applied_index);
        let is_awake = self.watchers.get(&shard).is_some_and(|watcher| {
            watcher.at == Some(id) && (watcher.turns % 3 != 0 || watcher.entries > SLEEPS)
        });
        if is_awake {
            self.read(id, shard, table, names, at);
            self.compare(id, shard, table, names, at);
        }
    }

    /// The node is down.
    pub(crate) fn forget(&mut self, id: u64) {
        self.here.retain(|(node, _), _| *node != id);
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.at == Some(id)) {
            watcher.leave(id);
        }
    }

    pub(crate) fn violations(&mut self) -> impl Iterator<Item = Violation> {
        std::mem::take(&mut self.violations).into_iter().map(|what| Violation {
            invariant: Invariant::Watch,
            what,
            operations: Vec::new(),
        })
    }

    /// All replicas tell the same of an entry, and tell it once it is committed.
    fn judge(&mut self, id: u64, shard: ShardId, watched: &Watched, committed_index: u64) {
        let before = match (watched.begins_after, self.here.get(&(id, shard))) {
            (Some(after), _) => after,
            (None, Some(here)) => here.applied_index,
            (None, None) => return self.violations.push(format!("node {id} tells no beginning")),
        };
        let mut entries = watched.entries.iter().peekable();
        for index in before + 1..=watched.applied_index {
            let entry = entries.next_if(|entry| entry.index == index);
            let events = entry.map_or(&[][..], |entry| &entry.events);
            let first = self.told.entry((shard, index)).or_insert_with(|| events.to_vec());
            if first != events {
                let what = format!(
                    "node {id}, shard {shard}, entry {index}: told {events:?}, and elsewhere {first:?}"
                );
                self.violations.push(what);
            }
        }
        if let Some(entry) = entries.next() {
            let index = entry.index;
            self.violations
                .push(format!("node {id}, shard {shard}: entry {index} was not applied"));
        }
        if watched.applied_index > committed_index {
            self.violations.push(format!("node {id}, shard {shard}: told before it is committed"));
        }
    }

    /// Moves the watcher of a shard, or begins it here.
    fn watch(&mut self, id: u64, shard: ShardId, applied_index: u64) {
        let others = self.here.keys().filter(|(node, of)| *of == shard && *node != id).count();
        let watcher = self.watchers.entry(shard).or_default();
        let Some(here) = self.here.get_mut(&(id, shard)) else { return };
        if watcher.at == Some(id) {
            watcher.entries += 1;
            if watcher.entries > MOVES_AFTER && others > 0 {
                here.recent.stop(ME);
                watcher.leave(id);
            }
            return;
        }
        // As nodes do, a replica that is behind the place is not asked.
        let is_ahead = watcher.place.is_none_or(|place| place.index <= applied_index + 1);
        if watcher.at.is_none() && is_ahead && (watcher.was_at != id || others == 0) {
            here.recent.start(ME, Filter::default(), watcher.place);
            (watcher.at, watcher.entries) = (Some(id), 0);
            watcher.turns += 1;
            self.moves += 1;
        }
    }

    /// The watcher takes what there is, and one page if it needs any.
    fn read(&mut self, id: u64, shard: ShardId, table: &LockTable, names: &[String], at: Stamp) {
        let Some(here) = self.here.get_mut(&(id, shard)) else { return };
        let Some(watcher) = self.watchers.get_mut(&shard) else { return };
        let before = here.recent.resyncs();
        while let Some(part) = here.recent.deliver(ME, ROOM) {
            if let Err(what) = watcher.take(shard, part, &self.told) {
                self.violations.push(format!("node {id}, shard {shard}: {what}"));
            }
        }
        if let Some(ask) = here.recent.wants_page(ME) {
            here.recent.page(ME, ask.attempt, page(&ask, table, names, at));
        }
        self.resyncs += here.recent.resyncs() - before;
    }

    /// A watcher that has heard everything knows what is there.
    fn compare(&mut self, id: u64, shard: ShardId, table: &LockTable, names: &[String], at: Stamp) {
        let (Some(here), Some(watcher)) = (self.here.get(&(id, shard)), self.watchers.get(&shard))
        else {
            return;
        };
        if watcher.place != Some(Place { index: here.applied_index + 1, ordinals: 0 }) {
            return;
        }
        let (mut held, mut queued) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            held.extend(table.holders(name, at).into_iter().map(|g| (g.token.0, g.name)));
            let waiters = table.waiters_of(name, usize::MAX, at);
            queued.extend(waiters.into_iter().map(|waiter| (waiter.number, waiter.name)));
        }
        if (&held, &queued) != (&watcher.held, &watcher.queued) {
            let what = format!(
                "node {id}, shard {shard}: its watcher knows {:?} and {:?}, and there are {held:?} and {queued:?}",
                watcher.held, watcher.queued
            );
            self.violations.push(what);
        }
    }
}

impl Watcher {
    fn leave(&mut self, id: u64) {
        (self.at, self.was_at) = (None, id);
    }

    /// Takes a part.
    ///
    /// # Errors
    /// What is wrong with it.
    fn take(
        &mut self,
        shard: ShardId,
        part: Part,
        told: &BTreeMap<(ShardId, u64), Vec<Event>>,
    ) -> Result<(), String> {
        match part {
            Part::State { first, held, queued, place, .. } => {
                if first {
                    self.held.clear();
                    self.queued.clear();
                }
                self.held.extend(held.into_iter().map(|grant| (grant.token.0, grant.name)));
                self.queued.extend(queued.into_iter().map(|w| (w.number, w.name)));
                self.place = place;
                Ok(())
            }
            Part::Events { events, place } => {
                for told in &events {
                    self.change(&told.event);
                }
                let before = std::mem::replace(&mut self.place, place);
                let (Some(from), Some(to)) = (before, place) else { return Ok(()) };
                if to < from {
                    return Err(format!("its watcher went back from {from:?} to {to:?}"));
                }
                let entries = told.range((shard, from.index)..=(shard, to.index));
                let all = entries.flat_map(|((_, index), events)| {
                    (0..).zip(events).map(|(ordinal, event)| ((*index, ordinal), event))
                });
                let span = (from.index, from.ordinals)..(to.index, to.ordinals);
                let due: Vec<_> = all.filter(|(at, _)| span.contains(at)).collect();
                let got: Vec<_> =
                    events.iter().map(|told| ((told.index, told.ordinal), &told.event)).collect();
                if due == got {
                    return Ok(());
                }
                Err(format!(
                    "from {from:?} to {to:?} its watcher was told {got:?} instead of {due:?}"
                ))
            }
        }
    }

    fn change(&mut self, event: &Event) {
        match event {
            Event::Granted { grant, waiter } => {
                if let Some(waiter) = waiter {
                    self.queued.remove(&waiter.number);
                }
                self.held.insert(grant.token.0, grant.name.clone());
            }
            Event::Queued(waiter) => {
                self.queued.insert(waiter.number, waiter.name.clone());
            }
            Event::Ended { tenure, .. } => {
                self.held.remove(&tenure.grant.token.0);
            }
            Event::Cancelled { waiter, .. } => {
                self.queued.remove(&waiter.number);
            }
        }
    }
}

/// A page with one name, so that events come between pages.
fn page(ask: &Ask, table: &LockTable, names: &[String], at: Stamp) -> PicturePage {
    let told = ask.after.as_ref().and_then(|place| place.name.as_deref()).unwrap_or_default();
    let mut untold = names.iter().filter(|name| name.as_str() > told);
    let Some(name) = untold.next() else { return PicturePage::default() };
    let place = || PicturePlace::after(name);
    PicturePage {
        held: table.holders(name, at),
        queued: table.waiters_of(name, usize::MAX, at),
        next: untold.next().map(|_| place()),
    }
}
