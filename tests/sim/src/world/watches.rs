//! The watchers of a run, and what every replica has told them.
//!
//! Nothing here draws a random number or sends a message, so a run does not depend on it.

use crate::checker::watch::{self as judge, Change, Effect, Follower, Picture};
use crate::checker::{Invariant, Violation};
use locks::{Event, Grant, LockTable, PicturePage, PicturePlace, Stamp, Waiter};
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
    knows: Follower,
}

impl Change for Event {
    fn name(&self) -> &str {
        self.name()
    }

    fn effect(&self) -> Effect {
        match self {
            Event::Granted { grant, waiter } => Effect::Granted {
                token: grant.token.0,
                waiter: waiter.as_ref().map(|waiter| waiter.number),
            },
            Event::Queued(waiter) => Effect::Queued { waiter: waiter.number },
            Event::Ended { tenure, .. } => Effect::Ended { token: tenure.grant.token.0 },
            Event::Cancelled { waiter, .. } => Effect::Cancelled { waiter: waiter.number },
        }
    }
}

/// A place as the judge has it.
fn judged(place: Place) -> judge::Place {
    (place.index, place.ordinals)
}

/// Grants and waiters as the judge has them.
fn pictured(held: Vec<Grant>, queued: Vec<Waiter>) -> Picture {
    Picture {
        held: held.into_iter().map(|grant| (grant.token.0, grant.name)).collect(),
        queued: queued.into_iter().map(|waiter| (waiter.number, waiter.name)).collect(),
    }
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

    /// The replica of a shard on this node is gone.
    pub(crate) fn forget_shard(&mut self, id: u64, shard: ShardId) {
        self.here.remove(&(id, shard));
        if let Some(watcher) = self.watchers.get_mut(&shard).filter(|it| it.at == Some(id)) {
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
        let after = watcher.knows.place().map(|(index, ordinals)| Place { index, ordinals });
        let is_ahead = after.is_none_or(|place| place.index <= applied_index + 1);
        if watcher.at.is_none() && is_ahead && (watcher.was_at != id || others == 0) {
            here.recent.start(ME, Filter::default(), after);
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
        if watcher.knows.place() != Some((here.applied_index + 1, 0)) {
            return;
        }
        let mut there = Picture::default();
        for name in names {
            let waiters = table.waiters_of(name, usize::MAX, at);
            let of_name = pictured(table.holders(name, at), waiters);
            there.held.extend(of_name.held);
            there.queued.extend(of_name.queued);
        }
        if &there != watcher.knows.picture() {
            let what = format!(
                "node {id}, shard {shard}: its watcher knows {:?}, and there is {there:?}",
                watcher.knows.picture()
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
                self.knows.state(first, pictured(held, queued), place.map(judged));
                Ok(())
            }
            Part::Events { events, place } => {
                let got: Vec<_> =
                    events.iter().map(|told| ((told.index, told.ordinal), &told.event)).collect();
                self.knows.events(&got, place.map(judged), |from, to| {
                    let entries = told.range((shard, from.0)..=(shard, to.0));
                    let all = entries.flat_map(|((_, index), events)| {
                        (0..).zip(events).map(|(ordinal, event)| ((*index, ordinal), event))
                    });
                    all.filter(|(at, _)| (from..to).contains(at)).collect()
                })
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
