//! A lock table whose events go into a [`Recent`], and a watcher's view of what it is told.

use locks::*;
use palisade_watch::*;
use std::collections::BTreeMap;

pub const NAMES: [&str; 4] = ["a", "a/b", "b", "b/c"];
pub const SESSIONS: [&str; 3] = ["", "s", "t"];
pub const OWNERS: [&str; 2] = ["ann", "bob"];
pub const ROOM: Room = Room { events: 3, bytes: 1 << 20 };

/// One command of the table.
#[derive(Clone, Debug)]
pub enum Op {
    Acquire { name: usize, owner: usize, session: usize, shared: bool },
    Release { nth: usize },
    Break { nth: usize },
    Expire { nth: usize },
    Cancel { nth: usize },
    Close { session: usize },
}

/// A shard with all of its events, however old.
#[derive(Default)]
pub struct Shard {
    pub table: LockTable,
    pub index: u64,
    /// By place: the index of the entry and the ordinal.
    pub events: BTreeMap<(u64, u32), Event>,
    request: u128,
    held: Vec<(String, Token)>,
    waiting: Vec<(String, RequestId)>,
}

impl Shard {
    pub fn at(&self) -> Stamp {
        Stamp { wall_ms: 1_000_000 + self.index, shard_ms: self.index }
    }

    /// Applies one entry. Returns its events.
    pub fn apply(&mut self, op: &Op) -> Vec<Event> {
        self.index += 1;
        let mut effects = Effects { watched: true, ..Effects::default() };
        let held = |nth: usize| {
            let none = || ("none".to_owned(), Token(1));
            self.held.get(nth % self.held.len().max(1)).cloned().unwrap_or_else(none)
        };
        let (name, token, request_id);
        let command = match *op {
            Op::Acquire { name, owner, session, shared } => {
                self.request += 1;
                self.waiting.push((NAMES[name].into(), RequestId(self.request)));
                Command::Acquire {
                    request_id: RequestId(self.request),
                    name: NAMES[name],
                    owner: OWNERS[owner],
                    ttl_ms: 1_000_000,
                    mode: if shared { Mode::Shared } else { Mode::Exclusive },
                    wait: true,
                    session: SESSIONS[session],
                    metadata: "",
                    claim_ttl_ms: 0,
                }
            }
            Op::Release { nth } => {
                (name, token) = held(nth);
                Command::Release { name: &name, token, by: Some(LeaseId::NONE) }
            }
            Op::Break { nth } => {
                (name, token) = held(nth);
                Command::Break { name: &name, token, by: "root", reason: "stuck" }
            }
            Op::Expire { nth } => {
                Command::ExpireLease { lease: LeaseId(held(nth).1.0), renewal_seq: 0 }
            }
            Op::Cancel { nth } => {
                let none = || ("none".to_owned(), RequestId(0));
                let nth = nth % self.waiting.len().max(1);
                (name, request_id) = self.waiting.get(nth).cloned().unwrap_or_else(none);
                Command::CancelWait { name: &name, request_id, given_up: true }
            }
            Op::Close { session } => Command::CloseSession { session: SESSIONS[session] },
        };
        self.table.apply(self.at_now(), &command, &mut effects);
        self.held.retain(|(name, token)| {
            let ended = |ended: &Ended| ended.name == *name && ended.token == *token;
            !effects.ended.iter().any(ended)
        });
        for (ordinal, event) in (0..).zip(&effects.events) {
            self.events.insert((self.index, ordinal), event.clone());
            if let Event::Granted { grant, .. } = event {
                self.held.push((grant.name.clone(), grant.token));
            }
        }
        effects.events
    }

    fn at_now(&self) -> Stamp {
        self.at()
    }

    /// A page of few rows.
    pub fn page(&mut self, ask: &Ask) -> PicturePage {
        let at = self.at();
        loop {
            if let Ok(page) = self.table.picture_page(&ask.of, ask.after.as_ref(), 2, at, &mut 100)
            {
                return page;
            }
        }
    }

    /// Grants and waiters that match a filter now, as (token, name) and (number, name).
    pub fn now(&mut self, filter: &Filter) -> View {
        let (mut view, mut after) = (View::default(), None);
        loop {
            let ask = Ask { attempt: 0, of: filter.picture(), after };
            let page = self.page(&ask);
            view.add(&page.held, &page.queued);
            after = page.next;
            if after.is_none() {
                return view;
            }
        }
    }
}

/// What is held and who waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    held: BTreeMap<u64, String>,
    queued: BTreeMap<u64, String>,
}

impl View {
    fn add(&mut self, held: &[Grant], queued: &[Waiter]) {
        for grant in held {
            let before = self.held.insert(grant.token.0, grant.name.clone());
            assert_eq!(before, None, "told twice: {grant:?}");
        }
        for waiter in queued {
            let before = self.queued.insert(waiter.number, waiter.name.clone());
            assert_eq!(before, None, "told twice: {waiter:?}");
        }
    }
}

/// One who watches, and checks each part against what it was told before.
#[derive(Default)]
pub struct Watcher {
    pub view: View,
    pub is_complete: bool,
    pub place: Option<Place>,
    pub resyncs: u32,
    /// The places of the events since the state was complete.
    pub events: Vec<(u64, u32)>,
    /// The place of the complete state.
    pub since: Option<Place>,
    /// The view does not follow from the events, because some kinds are left out.
    pub is_partial: bool,
    pub filter: Filter,
}

impl Watcher {
    pub fn take(&mut self, part: Part) {
        match part {
            Part::State { first, last, resync, held, queued, place } => {
                assert_eq!(place.is_some(), last);
                assert!(first || !self.is_complete, "a part after the last");
                if first {
                    self.view = View::default();
                    self.resyncs += u32::from(resync);
                } else {
                    assert!(!resync);
                }
                self.is_complete = last;
                (self.place, self.since) = (place, place);
                self.events.clear();
                if self.is_partial {
                    return;
                }
                self.view.add(&held, &queued);
            }
            Part::Events { events, place } => {
                assert_eq!(place.is_some(), self.is_complete);
                assert!(place >= self.place, "it went back");
                self.place = place;
                for told in &events {
                    self.events.push((told.index, told.ordinal));
                    self.change(&told.event);
                }
            }
        }
    }

    fn change(&mut self, event: &Event) {
        if self.is_partial {
            return;
        }
        let (view, complete, filter) = (&mut self.view, self.is_complete, &self.filter);
        match event {
            Event::Granted { grant, waiter } => {
                if let Some(waiter) = waiter.as_ref().filter(|waiter| filter.counts(&waiter.owner))
                {
                    let was = view.queued.remove(&waiter.number);
                    assert!(was.is_some() || !complete, "an unknown waiter: {event:?}");
                }
                if filter.counts(&grant.owner) {
                    view.add(std::slice::from_ref(grant), &[]);
                }
            }
            Event::Queued(waiter) => view.add(&[], std::slice::from_ref(waiter)),
            Event::Ended { tenure, .. } => {
                let was = view.held.remove(&tenure.grant.token.0);
                assert!(was.is_some(), "an unknown grant: {event:?}");
            }
            Event::Cancelled { waiter, .. } => {
                let was = view.queued.remove(&waiter.number);
                assert!(was.is_some(), "an unknown waiter: {event:?}");
            }
        }
    }
}
