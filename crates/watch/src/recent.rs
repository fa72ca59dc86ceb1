//! The watchers of one shard, and the next part for each.
//!
//! A watch begins with a picture, a page at a time. Events come between its pages. Only the events
//! of grants and waiters that are told already count: the rest is on a later page as it is then.
//!
//! How it goes wrong if all events are told from the beginning:
//!
//! 1. The first page has the names up to "m". A lock "z" is held.
//! 2. "z" is released, and its watcher is told so, of a lock that it has never heard of.
//! 3. "z" is acquired anew, and the watcher is told so. Then comes the last page, with "z" again.

use crate::filter::Filter;
use crate::finder::Finder;
use crate::place::{Limits, Place, Room, WatcherId};
use crate::ring::{Ring, Told};
use locks::{Event, Grant, PictureOf, PicturePage, PicturePlace, Waiter};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A watcher of which nothing is told hears of its place once this part of a ring has passed, so
/// that it can go on elsewhere.
const QUIET_PARTS: usize = 8;

/// Events that one delivery looks at. The search goes on with the next one.
const LOOKED_AT_MAX: usize = 1_024;

/// A page of a picture that a watcher needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// To be given back with the page: see [`Recent::page`].
    pub attempt: u64,
    /// The rows.
    pub of: PictureOf,
    /// Where the page begins. `None`: the first page of a picture.
    pub after: Option<PicturePlace>,
}

/// The next part for a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A part of the present state.
    State {
        /// Everything told before is void.
        first: bool,
        /// The state is complete.
        last: bool,
        /// With the first part: events were lost.
        resync: bool,
        /// The grants of this part.
        held: Vec<Grant>,
        /// The waiters of this part.
        queued: Vec<Waiter>,
        /// All until here was told. `None` while the state is incomplete.
        place: Option<Place>,
    },
    /// The changes of locks.
    Events {
        /// In their order. There may be none, if only the place is told.
        events: Vec<Arc<Told>>,
        /// All until here was told. `None` while the state is incomplete.
        place: Option<Place>,
    },
}

/// A page that was not delivered yet, with the number and the place that it was taken at.
#[derive(Debug)]
struct Page {
    number: u64,
    place: Place,
    page: PicturePage,
}

/// A picture that is not told completely.
#[derive(Debug)]
struct Picture {
    told: Option<PicturePlace>,
    first: bool,
    resync: bool,
    is_asked: bool,
    page: Option<Page>,
}

#[derive(Debug)]
enum Stage {
    Picture(Box<Picture>),
    Live,
}

/// One watcher.
///
/// - `next` is the number of the first event that it may still have to be told, if there is any.
#[derive(Debug)]
struct Watcher {
    filter: Filter,
    stage: Stage,
    next: Option<u64>,
    /// Counts its pictures.
    attempt: u64,
    /// The number up to which its place was told, and the index.
    told: u64,
    told_index: u64,
    /// Its place is to be told, although nothing else is.
    is_quiet: bool,
}

/// The recent events of one shard, and its watchers. The crate's page has an example.
///
/// - Each event that matches a watcher's filter, and belongs to the told part of its picture, is
///   delivered once and in order. Otherwise the watcher is told a new picture.
#[derive(Debug)]
pub struct Recent {
    ring: Ring,
    finder: Finder,
    watchers: BTreeMap<WatcherId, Watcher>,
    quiet_events: u64,
    /// The number at which quiet watchers are looked for next.
    quiet_at: u64,
    resyncs: u64,
}

impl Stage {
    fn picture(resync: bool) -> Stage {
        let picture = Picture { told: None, first: true, resync, is_asked: false, page: None };
        Stage::Picture(Box::new(picture))
    }
}

impl Picture {
    /// Whether the picture had told the grant or waiter of an event when the event came.
    fn covers(&self, number: u64, event: &Event) -> bool {
        let page = self.page.as_ref().filter(|page| number >= page.number);
        match page.map(|page| &page.page.next) {
            Some(None) => true,
            Some(Some(next)) => covers(next, event),
            None => self.told.as_ref().is_some_and(|told| covers(told, event)),
        }
    }
}

/// Whether the grant or waiter of an event is told at this place. A grant out of the queue counts
/// by its grant: where its waiter is told, all grants of the name are.
fn covers(place: &PicturePlace, event: &Event) -> bool {
    match (event.grant(), event.waiter()) {
        (Some(grant), _) => place.covers_grant(&grant.name, grant.token),
        (None, Some(waiter)) => place.covers_waiter(&waiter.name, waiter.number),
        (None, None) => false,
    }
}

impl Watcher {
    fn wants(&self, number: u64, event: &Event) -> bool {
        let is_covered = match &self.stage {
            Stage::Live => true,
            Stage::Picture(picture) => picture.covers(number, event),
        };
        is_covered && self.filter.matches(event)
    }

    /// Begins a new picture.
    fn restart(&mut self, resync: bool) {
        self.stage = Stage::picture(resync);
        (self.next, self.is_quiet) = (None, false);
        self.attempt += 1;
    }

    fn page(&self) -> Option<&Page> {
        match &self.stage {
            Stage::Picture(picture) => picture.page.as_ref(),
            Stage::Live => None,
        }
    }

    /// Whether it was told anything, or is about to be. Otherwise a page that it has asked for
    /// comes after all that is known now, so that the page counts.
    fn has_begun(&self) -> bool {
        match &self.stage {
            Stage::Picture(picture) => !picture.first || picture.page.is_some(),
            Stage::Live => true,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live)
    }

    fn is_due(&self) -> bool {
        self.next.is_some() || self.is_quiet || self.page().is_some()
    }

    /// Takes the events from `next` to `stop`, as far as there is room and few are looked at.
    fn take_events(&mut self, stop: u64, room: Room, ring: &Ring) -> Vec<Arc<Told>> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        let (mut number, mut looked_at) = (self.next.unwrap_or(stop), 0);
        loop {
            if let Some(name) = &self.filter.name {
                number = ring.next_of(name, number).min(stop);
            }
            let Some(told) = ring.get(number).filter(|_| number < stop) else { break };
            if looked_at == LOOKED_AT_MAX {
                break;
            }
            looked_at += 1;
            if self.wants(number, &told.event) {
                bytes += told.event.bytes();
                if events.len() >= room.events || bytes > room.bytes && !events.is_empty() {
                    break;
                }
                events.push(told.clone());
            }
            number += 1;
        }
        self.next = (number < ring.end()).then_some(number);
        events
    }

    /// The page that waits, as a part.
    fn take_page(&mut self) -> Option<Part> {
        let Stage::Picture(picture) = &mut self.stage else { return None };
        let Page { number, place, page } = picture.page.take()?;
        let PicturePage { held, queued, next } = page;
        let (first, last) = (std::mem::take(&mut picture.first), next.is_none());
        let resync = first && picture.resync;
        (picture.told, picture.is_asked) = (next, false);
        if last {
            (self.stage, self.told, self.told_index) = (Stage::Live, number, place.index);
        }
        Some(Part::State { first, last, resync, held, queued, place: last.then_some(place) })
    }
}

impl Recent {
    /// Without events and watchers. It must be told where it [begins](Self::begin).
    pub fn new(limits: Limits) -> Recent {
        let quiet_events = (limits.events / QUIET_PARTS).max(1) as u64;
        Recent {
            ring: Ring::new(limits),
            finder: Finder::default(),
            watchers: BTreeMap::new(),
            quiet_events,
            quiet_at: quiet_events,
            resyncs: 0,
        }
    }

    /// The events up to this entry are unknown: those that come follow it. Returns the watchers
    /// that need a picture, which are all. A page that is given from now on must be taken after it.
    pub fn begin(&mut self, after_index: u64) -> Vec<WatcherId> {
        self.ring.begin(after_index);
        for watcher in self.watchers.values_mut() {
            let resync = match &watcher.stage {
                Stage::Live => true,
                Stage::Picture(picture) => picture.resync || !picture.first,
            };
            if watcher.has_begun() {
                self.resyncs += u64::from(resync);
                watcher.restart(resync);
            }
        }
        self.watchers.keys().copied().collect()
    }

    /// Takes the events of the next entry that has any. Returns the watchers for which something is
    /// [due](Self::is_due) now.
    pub fn push(&mut self, index: u64, wall_ms: u64, events: Vec<Event>) -> Vec<WatcherId> {
        let mut woken = Vec::new();
        for (ordinal, event) in (0..).zip(events) {
            let number = self.ring.end();
            let told = Arc::new(Told { index, ordinal, wall_ms, event });
            self.ring.push(told.clone());
            for id in self.finder.find(&told.event) {
                if let Some(watcher) = self.watchers.get_mut(&id)
                    && watcher.next.is_none()
                    && watcher.wants(number, &told.event)
                {
                    watcher.next = Some(number);
                    woken.push(id);
                }
            }
        }
        self.ring.applied(index);
        self.wake_quiet(&mut woken);
        woken
    }

    /// All entries up to this index are applied, and their events were pushed.
    pub fn applied(&mut self, index: u64) {
        self.ring.applied(index);
    }

    /// A watcher begins: with a picture, or after a place. If events after that place are lost
    /// here, it gets a picture too.
    ///
    /// The place must have been reached: see [`applied`](Self::applied).
    pub fn start(&mut self, id: WatcherId, filter: Filter, after: Option<Place>) {
        let number = after.and_then(|place| self.ring.number_at(place));
        let resync = after.is_some() && number.is_none();
        self.resyncs += u64::from(resync);
        let stage = if number.is_some() { Stage::Live } else { Stage::picture(resync) };
        self.finder.add(id, &filter);
        let (told, told_index) = (number.unwrap_or_default(), after.map_or(0, |place| place.index));
        let next = number.filter(|number| *number < self.ring.end());
        let watcher =
            Watcher { filter, stage, next, attempt: 0, told, told_index, is_quiet: false };
        let former = self.watchers.insert(id, watcher);
        assert!(former.is_none(), "{id:?} watches already");
    }

    /// A watcher ends. Does nothing if there is none.
    pub fn stop(&mut self, id: WatcherId) {
        if let Some(watcher) = self.watchers.remove(&id) {
            self.finder.remove(id, &watcher.filter);
        }
    }

    /// Whether a watcher [wants a page](Self::wants_page).
    pub fn needs_page(&self, id: WatcherId) -> bool {
        let stage = self.watchers.get(&id).map(|watcher| &watcher.stage);
        matches!(stage, Some(Stage::Picture(picture)) if !picture.is_asked)
    }

    /// The page that a watcher needs, once: until it was given one, or none could be had.
    pub fn wants_page(&mut self, id: WatcherId) -> Option<Ask> {
        let watcher = self.watchers.get_mut(&id)?;
        let Stage::Picture(picture) = &mut watcher.stage else { return None };
        if picture.is_asked {
            return None;
        }
        picture.is_asked = true;
        let (of, after) = (watcher.filter.picture(), picture.told.clone());
        Some(Ask { attempt: watcher.attempt, of, after })
    }

    /// Gives a watcher the page that it wanted, taken after all events that were pushed. A page of
    /// an earlier attempt is dropped.
    pub fn page(&mut self, id: WatcherId, attempt: u64, page: PicturePage) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        if let Stage::Picture(picture) = &mut watcher.stage
            && picture.is_asked
            && attempt == watcher.attempt
        {
            let (number, place) = (self.ring.end(), self.ring.end_place());
            picture.page = Some(Page { number, place, page });
        }
    }

    /// The page that a watcher wanted could not be had: it wants it again. Does nothing for a page
    /// of an earlier attempt.
    pub fn no_page(&mut self, id: WatcherId, attempt: u64) {
        if let Some(watcher) = self.watchers.get_mut(&id)
            && attempt == watcher.attempt
            && let Stage::Picture(picture) = &mut watcher.stage
            && picture.page.is_none()
        {
            picture.is_asked = false;
        }
    }

    /// Lets the watchers hear of their places that were told nothing for the last applied entries.
    /// Returns the watchers for which something is [due](Self::is_due) now.
    pub fn tell_places(&mut self) -> Vec<WatcherId> {
        let index = self.ring.end_place().index;
        let mut woken = Vec::new();
        for (id, watcher) in &mut self.watchers {
            if watcher.is_live() && !watcher.is_due() && watcher.told_index < index {
                watcher.is_quiet = true;
                woken.push(*id);
            }
        }
        woken
    }

    /// Whether there may be something to [deliver](Self::deliver).
    pub fn is_due(&self, id: WatcherId) -> bool {
        self.watchers.get(&id).is_some_and(Watcher::is_due)
    }

    /// The next part for a watcher, if there is any. Afterwards it may want a page.
    ///
    /// One delivery looks at a bounded number of events. If none of them is for the watcher, it has
    /// none, and more may be due.
    pub fn deliver(&mut self, id: WatcherId, room: Room) -> Option<Part> {
        let watcher = self.watchers.get_mut(&id)?;
        if watcher.next.is_some_and(|next| next < self.ring.first()) {
            self.resyncs += 1;
            watcher.restart(true);
            return None;
        }
        let end = self.ring.end();
        let stop = watcher.page().map_or(end, |page| page.number);
        if watcher.next.is_some_and(|next| next < stop) {
            let events = watcher.take_events(stop, room, &self.ring);
            // The page is next, if the search has come to it.
            let goes_on = watcher.next.is_some_and(|next| next < stop);
            if !events.is_empty() || goes_on || watcher.page().is_none() {
                return Some(self.told(id, events));
            }
        }
        let page = watcher.take_page();
        if page.is_none() && std::mem::take(&mut watcher.is_quiet) {
            return Some(self.told(id, Vec::new()));
        }
        page
    }

    /// Number of watchers.
    pub fn watchers(&self) -> usize {
        self.watchers.len()
    }

    /// About how many bytes the events take that are kept.
    pub fn bytes(&self) -> usize {
        self.ring.bytes()
    }

    /// How often a watcher was told a new picture because events were lost.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    fn told(&mut self, id: WatcherId, events: Vec<Arc<Told>>) -> Part {
        let (end, end_place) = (self.ring.end(), self.ring.end_place());
        let watcher = self.watchers.get_mut(&id).expect("it was just looked at");
        if !watcher.is_live() {
            return Part::Events { events, place: None };
        }
        let place = match watcher.next {
            // All that was looked at counts, whether it matched or not.
            Some(next) => self.ring.get(next.wrapping_sub(1)).map(|told| told.after()),
            None => Some(end_place),
        };
        watcher.told = watcher.next.unwrap_or(end);
        watcher.told_index = place.map_or(watcher.told_index, |place| place.index);
        watcher.is_quiet &= watcher.next.is_some();
        Part::Events { events, place }
    }

    fn wake_quiet(&mut self, woken: &mut Vec<WatcherId>) {
        let end = self.ring.end();
        if end < self.quiet_at {
            return;
        }
        self.quiet_at = end + self.quiet_events;
        for (id, watcher) in &mut self.watchers {
            let is_quiet = watcher.is_live() && watcher.next.is_none() && !watcher.is_quiet;
            if is_quiet && watcher.told + self.quiet_events <= end {
                watcher.is_quiet = true;
                woken.push(*id);
            }
        }
    }
}
